"""What is asked of a model whose weights are spread over ranks, whichever way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Sharding"]


class Sharding(ABC):
    """How the weights of a frozen model are spread over the ranks of the process group that this process is one of.

    Policies are not: every rank has whole rows of them, so that what is saved, restored, exported and stepped is the
    same as ever. Embeddings, head and norms are whole on every rank as well.

    Args:
        device: Of this rank.

    Attributes:
        name: What it is chosen by.
        gathers: Whether a layer's weights are here only while it runs, so that nobody may keep or change them.
        rank, size: Which rank this is, of how many.
        summands: Shares that what is computed is a sum of: the last bits depend on it.
    """

    name: ClassVar[str]
    gathers: ClassVar[bool] = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.summands = 1

    @classmethod
    @abstractmethod
    def check(cls, model: Any, ranks: int) -> None:
        """See from the shapes of a model whether so many ranks can have it.

        Raises:
            ModelError: They cannot.
        """

    @abstractmethod
    def take(self, model: Any) -> None:
        """Keep this rank's part of a model that is on the CPU, on the rank's device. Waits for no other rank."""

    @abstractmethod
    def join(self, model: Any) -> None:
        """Every rank has its part: let them run the model together.

        Raises:
            ModelError: Together they do not run it as it is.
        """

    @contextmanager
    def unnoticed(self, model: Any) -> Iterator[None]:
        """Within this context, in which nothing is run, the model looks like one of this process alone.

        PEFT looks for transformers' own ways to share a model wherever there is a process group, and some of its
        releases fail with some of transformers.
        """
        before = dist.is_initialized
        dist.is_initialized = lambda: False
        try:
            yield
        finally:
            dist.is_initialized = before

    @abstractmethod
    def total(self, gradients: Tensor) -> None:
        """Make the gradients of policies whole, in place: each rank has found its share of them."""

    @abstractmethod
    def agree(self, tokens: Tensor) -> None:
        """Let ranks that draw the same tokens go on with those of the first, in place, whatever rounding did."""

    @abstractmethod
    def attend(self) -> None:
        """This rank has nothing to do: help the others until none of them has."""
