"""A pretended accelerator on a machine without one: real numbers, and an accelerator's rules about what may meet what.

Within `pretended()` the device "meta" is one. A tensor on it computes on the CPU and insists on what CUDA would insist
on: operands on one device, no `numpy()`, no operators of the CPU's own libraries, generators where they belong. What it
cannot show is a GPU's own arithmetic: kernels, rounding, speed. It can count how often the host waits for the device,
which decides whether a loop keeps a GPU busy.

"meta" lends its name because every torch knows it without a driver; its own tensors, without numbers, never arise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE, CPU = torch.device("meta"), torch.device("cpu")
CPU_LIBRARIES = ("mkldnn", "mkldnn_prepacked", "quantized")

aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}
SCALARS = {aten._local_scalar_dense.default, aten.equal.default}
INDEXES = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class PretendedTensor(Tensor):
    """A tensor that says it is on the device and keeps its numbers on the CPU."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendedTensor:
        made: PretendedTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        return made

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("A pretended tensor is used outside `pretended()`.")

    def tolist(self) -> Any:
        """As torch does: by way of the CPU."""
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendedTensor({self.inner})"


class PretendedEvent:
    """A place in the device's queue: everything before it is done at once."""

    def __init__(self, device: Any = None) -> None:
        self.recorded = False

    def record(self) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded


class Pretended(TorchDispatchMode):
    """Runs every operator: checks where its operands are, computes on the CPU, wraps what comes out.

    Attributes:
        waits: How often the host has waited for the device: for a number, a copy to the CPU that is not only queued, or
            the size of a result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors((*args, *kwargs.values()))
        here = any(isinstance(x, PretendedTensor) for x in tensors)
        target = DEVICE if here else CPU
        if kwargs.get("device") is not None:
            target = torch.device(kwargs["device"])
            kwargs = {**kwargs, "device": CPU}
        if not here and target.type == "cpu":
            return func(*args, **kwargs)
        assert target.type in ("cpu", DEVICE.type), f"{func} on {target}"
        if func not in MOVES:
            _refuse(func, args, kwargs, tensors)
        moved = target.type == "cpu" or func in SCALARS or _sizes_depend_on_values(func, args)
        moved = moved and not (func is aten._to_copy.default and kwargs.get("non_blocking"))
        self.waits += here and (moved or (func is aten.copy_.default and not isinstance(args[0], PretendedTensor)))
        found = func(*map(_inner, args), **{name: _inner(value) for name, value in kwargs.items()})
        if func is aten.copy_.default:
            return args[0]
        if target.type == "cpu" or func in SCALARS:
            return found
        found = _wrapped(found)
        return return_and_correct_aliasing(func, args, kwargs, found) if here and _aliases(func) else found


def _tensors(values: Any) -> list[Tensor]:
    """The tensors among an operator's arguments, which are at most lists of them: a pytree takes many times as long."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _inner(value: Any) -> Any:
    if isinstance(value, PretendedTensor):
        return value.inner
    return [_inner(x) for x in value] if isinstance(value, list | tuple) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return PretendedTensor(value)
    if isinstance(value, list):
        return [_wrapped(x) for x in value]
    return tuple(map(_wrapped, value)) if isinstance(value, tuple) else value


@cache
def _aliases(func: Any) -> bool:
    """Whether what comes out may share memory with what went in."""
    return any(x.alias_info is not None for x in (*func._schema.arguments, *func._schema.returns))


def _refuse(func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
    """Raise where CUDA would."""
    if func is aten.cumsum.default and args[0].is_floating_point() and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation.")
    if func.namespace in CPU_LIBRARIES:
        raise RuntimeError(f"{func} is an operator of the CPU's own.")
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: Expected a generator of the tensor's device, found one of the CPU.")
    if func in INDEXES and isinstance(args[0], PretendedTensor):  # an index alone may be on the CPU
        tensors = [x for x in tensors if not any(x is index for index in args[1])]
    stray = [x for x in tensors if x.dim() and not isinstance(x, PretendedTensor)]
    if stray and any(isinstance(x, PretendedTensor) for x in tensors):
        raise RuntimeError(
            f"{func}: Expected all tensors to be on one device, found {tuple(stray[0].shape)} on the CPU."
        )
    if stray and func in INDEXES:
        raise RuntimeError(f"{func}: A tensor on the CPU is indexed by one on a device.")


def _sizes_depend_on_values(func: Any, args: Any) -> bool:
    by_mask = func in INDEXES and any(index is not None and index.dtype == torch.bool for index in args[1])
    return by_mask or func in (aten.nonzero.default, aten.masked_select.default, aten.repeat_interleave.Tensor)


@contextmanager
def pretended() -> Iterator[Pretended]:
    """Within this context the device exists."""

    def by_way_of_the_cpu(make: Any) -> Any:
        def made(data: Any, *, device: Any = None, **options: Any) -> Any:
            found = make(data, **options)
            return found if device is None else found.to(device)

        return made

    kept = torch.tensor, torch.as_tensor  # both fill a tensor before anybody is asked
    torch.tensor, torch.as_tensor = map(by_way_of_the_cpu, kept)
    event, torch.Event = torch.Event, PretendedEvent  # type: ignore[misc]
    try:
        with Pretended() as mode:
            yield mode
    finally:
        torch.tensor, torch.as_tensor = kept
        torch.Event = event  # type: ignore[misc]
