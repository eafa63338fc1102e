"""What is global in torch and decides what every tensor computes: read before a reward is called, put back after it.

A reward that runs a model of its own may turn gradients off, say, or the default dtype to float64, and leave it so.
What the policies compute next would fail in torch's words, or be another number.

Random numbers are left alone: a reward may draw them from torch's own generator, and would draw the same ones for ever
if that was put back. The policies have generators of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

__all__ = ["State", "put_back", "read"]

State = Mapping[str, Any]
"""Values by the names in `_SETTINGS`; empty where torch was not loaded."""


def read() -> State:
    """What is set now in the calling thread; nothing where torch is not loaded, for then nobody has changed it."""
    torch = sys.modules.get("torch")
    return {} if torch is None else {name: get(torch) for name, (get, _) in _SETTINGS.items()}


def put_back(state: State) -> list[str]:
    """Set what is set otherwise now as it was.

    Returns:
        A text for each setting that was changed.
    """
    if not state:
        return []
    torch = sys.modules["torch"]
    told = []
    for name, (get, put) in _SETTINGS.items():
        before, now = state[name], get(torch)
        if now != before:
            put(torch, before)
            told.append(f"{name} was {before}, is {now}")
    return told


def _put_device(torch: ModuleType, device: Any) -> None:
    torch.set_default_device(None)  # without one, tensors are made faster than with the one that is default anyway
    if torch.get_default_device() != device:
        torch.set_default_device(device)


def _autocast(torch: ModuleType) -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(kind) for kind in _AUTOCAST)


def _put_autocast(torch: ModuleType, enabled: tuple[bool, ...]) -> None:
    for kind, value in zip(_AUTOCAST, enabled, strict=True):
        torch.set_autocast_enabled(kind, value)
    torch.clear_autocast_cache()


def _put_inference_mode(torch: ModuleType, enabled: bool) -> None:
    mode = torch.inference_mode(enabled)
    mode.__enter__()
    _entered.append(mode)  # one that is collected as garbage takes back what it set


def _put_deterministic(torch: ModuleType, modes: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])


def _put_cudnn(torch: ModuleType, values: tuple[bool, bool]) -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = values


def _matmul_precision(torch: ModuleType) -> str | None:
    try:
        precision: str = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch has two ways to set it, and refuses to say where both were used
        return None
    return precision


def _put_matmul_precision(torch: ModuleType, precision: str | None) -> None:
    if precision is not None:
        torch.set_float32_matmul_precision(precision)


_AUTOCAST = ("cpu", "cuda", "mps")
_entered: list[Any] = []

# Inference mode comes before gradients, which it also switches.
_SETTINGS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    "inference mode": (lambda torch: torch.is_inference_mode_enabled(), _put_inference_mode),
    "gradients": (lambda torch: torch.is_grad_enabled(), lambda torch, value: torch.set_grad_enabled(value)),
    "the default dtype": (
        lambda torch: torch.get_default_dtype(),
        lambda torch, value: torch.set_default_dtype(value),
    ),
    "the default device": (lambda torch: torch.get_default_device(), _put_device),
    f"autocast on {', '.join(_AUTOCAST)}": (_autocast, _put_autocast),
    "deterministic algorithms": (
        lambda torch: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _put_deterministic,
    ),
    "deterministic cuDNN": (
        lambda torch: (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        _put_cudnn,
    ),
    "float32 matmul precision": (_matmul_precision, _put_matmul_precision),
    "the number of threads": (
        lambda torch: torch.get_num_threads(),
        lambda torch, value: torch.set_num_threads(value),
    ),
    "anomaly detection": (
        lambda torch: torch.is_anomaly_enabled(),
        lambda torch, value: torch.autograd.set_detect_anomaly(value),
    ),
}
