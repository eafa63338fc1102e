"""The same bits again: torch's deterministic mode, around the engine's own work only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["deterministic"]

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS sums in a fixed order only where its memory is


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Within this context torch adds in fixed orders, or refuses; afterwards its mode is the one that it was.

    A reward, or a model of the user's, is free to do what torch has no deterministic way of: it is not called in here.

    Args:
        wanted: False changes nothing.
    """
    if not wanted:
        yield
        return
    mode = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    variable = os.environ.get(VARIABLE)
    os.environ.setdefault(VARIABLE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    # nothing is read here before it is written, and filling it first takes time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        if variable is None:
            os.environ.pop(VARIABLE, None)
