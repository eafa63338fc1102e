"""CUDA graphs: a step is captured once for each of its shapes, and replayed with one launch.

A graph reads and writes the addresses that it was captured with. They are kept in a `Workspace`, and a graph is dropped
as soon as one of them has been allocated anew.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from pareto_align.errors import ParetoAlignWarning

__all__ = ["Graphs", "Workspace"]

CAPACITY = 64  # graphs that are kept: widths times spans, for training and for measuring


class Workspace:
    """Memory that stays where it is from one sampling to the next.

    Args:
        fixed: Off where nothing is captured: then memory is allocated as it is asked for, and freed.

    Attributes:
        generation: How often something had to be allocated.
    """

    def __init__(self, *, fixed: bool = True) -> None:
        self.fixed = fixed
        self.generation = 0
        self._held: dict[str, Tensor] = {}

    def zeros(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A block of zeros; one of the same name and shape is always the same memory."""
        if not self.fixed:
            return torch.zeros(shape, dtype=dtype, device=device)
        size, held = math.prod(shape), self._held.get(name)
        if held is None or held.numel() < size or held.dtype != dtype:
            self._held.pop(name, None)
            held = self._held[name] = torch.zeros(size, dtype=dtype, device=device)
            self.generation += 1
        return held[:size].view(shape).zero_()

    def keep(self, name: str, numbers: Tensor, wider: tuple[int, int] | None = None) -> Tensor:
        """The numbers in a block of that name; `wider` is a dimension and the size that it has there, filled up with 0.

        Where nothing is captured they are returned as they are.
        """
        if not self.fixed:
            return numbers
        shape, filled = list(numbers.shape), [slice(None)] * numbers.dim()
        if wider is not None:
            dimension, size = wider
            shape[dimension], filled[dimension] = size, slice(numbers.shape[dimension])
        block = self.zeros(name, tuple(shape), numbers.dtype, numbers.device)
        block[tuple(filled)] = numbers
        return block


class Graphs:
    """Steps of several shapes, each captured at its second run and replayed from then on.

    The first run of a shape is an ordinary one: what libraries set up at first use cannot be captured.

    Args:
        device: Of the steps; only CUDA has graphs.

    Attributes:
        working: Whether steps are captured. A step that cannot be is told about once, and run as it is from then on.
    """

    def __init__(self, device: torch.device) -> None:
        self.working = device.type == "cuda"
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._generation: Hashable = None
        self._pool: Any = None

    def run(self, shape: Hashable, generation: Hashable, step: Callable[[], None]) -> None:
        """Run a step, or replay it.

        Args:
            shape: Two steps of one shape do the same to the same memory.
            generation: Changes when memory that the steps use is allocated anew.
            step: Reads and writes nothing but that memory.
        """
        if not self.working:
            step()
            return
        if generation != self._generation:
            self._graphs.clear()
            self._seen.clear()
            self._generation = generation
        graph = self._graphs.get(shape)
        if graph is None and shape in self._seen:
            graph = self._captured(shape, step)
        self._seen.add(shape)
        if graph is None:
            step()
            return
        self._graphs.move_to_end(shape)
        graph.replay()

    def _captured(self, shape: Hashable, step: Callable[[], None]) -> Any:
        """The graph of a step, which is not run by capturing it; None if it cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()  # no two graphs run at once, so they can share their memory
        try:
            # of this thread only: a reward in another one may allocate in the meantime
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.working = False
            self._graphs.clear()
            warnings.warn(
                f"A decoding step of this model cannot be captured as a CUDA graph ({str(error).splitlines()[0]}); it "
                "is launched kernel by kernel, which is slower.",
                ParetoAlignWarning,
                stacklevel=5,
            )
            return None
        self._graphs[shape] = graph
        if len(self._graphs) > CAPACITY:
            self._graphs.popitem(last=False)
        return graph
