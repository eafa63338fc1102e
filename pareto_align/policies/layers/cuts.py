"""Which part of a linear layer is here, where several ranks have one each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Cut", "cut_of", "mark"]

ATTRIBUTE = "pareto_align_cut"
EVERY = slice(None)


@dataclass(frozen=True)
class Cut:
    """The sizes of a whole layer, and which of its inputs and outputs this rank has."""

    inputs: int
    outputs: int
    own_inputs: slice
    own_outputs: slice


def mark(linear: nn.Linear, cut: Cut) -> None:
    """Note that a layer is a part of one."""
    setattr(linear, ATTRIBUTE, cut)


def cut_of(linear: nn.Linear) -> Cut:
    """What of a layer is here; by default all of it."""
    cut: Any = getattr(linear, ATTRIBUTE, None)
    return Cut(linear.in_features, linear.out_features, EVERY, EVERY) if cut is None else cut
