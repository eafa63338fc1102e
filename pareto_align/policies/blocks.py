"""Where each layer's A and B lie in a row of parameters, and the copies that the layers compute with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_align.policies.lora import PopulationLinear

__all__ = ["Block", "ComputeBlocks"]


@dataclass(frozen=True)
class Block:
    """Where one layer's A and B lie in a policy's row of M parameters."""

    name: str
    layer: PopulationLinear
    start: int
    r: int

    @property
    def middle(self) -> int:
        """Where A ends and B begins."""
        return self.start + self.r * self.layer.linear.in_features

    @property
    def stop(self) -> int:
        """Where B ends."""
        return self.middle + self.r * self.layer.linear.out_features

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Views `[..., r, in]` and `[..., out, r]` of rows `[..., M]`."""
        linear = self.layer.linear
        return (
            rows[..., self.start : self.middle].unflatten(-1, (self.r, linear.in_features)),
            rows[..., self.middle : self.stop].unflatten(-1, (linear.out_features, self.r)),
        )


class ComputeBlocks:
    """Dense copies `[k, r, in]`, `[k, out, r]` of the policies being served, in the dtype that the layers compute in.

    They are written over, never allocated anew, unless more policies are served than ever before: a captured CUDA graph
    reads the addresses that it was captured with.

    Args:
        blocks: Of all adapted layers.
        dtype: Of a layer whose weight is quantised.

    Attributes:
        fills: How often policies have been copied in; as long as it stays, what is in the blocks does too.
        generation: How often the blocks have been allocated; a graph of another generation reads memory that is gone.
    """

    def __init__(self, blocks: Sequence[Block], dtype: torch.dtype) -> None:
        self.blocks, self.dtype = blocks, dtype
        self.fills = self.generation = self._capacity = 0
        self._copies: list[tuple[Tensor, ...]] = []

    @torch.no_grad()
    def fill(self, rows: Tensor) -> None:
        """Copy policies `[k, M]` in, and let the layers serve them."""
        count = rows.shape[0]
        if count > self._capacity:
            self._allocate(count)
        for block, copies in zip(self.blocks, self._copies, strict=True):
            served = [copy[:count] for copy in copies]
            for copy, part in zip(served, block.split(rows), strict=True):
                copy.copy_(part)
            # autograd only comes by where something wants a gradient, and a block is filled without one
            block.layer.a, block.layer.b = (copy.detach().requires_grad_() for copy in served)
        self.fills += 1

    def _allocate(self, count: int) -> None:
        self._capacity = count
        self.generation += 1
        self._copies = []
        for block in self.blocks:
            linear = block.layer.linear
            dtype = linear.weight.dtype if linear.weight.dtype.is_floating_point else self.dtype
            a, b = (count, block.r, linear.in_features), (count, linear.out_features, block.r)
            self._copies.append(tuple(torch.empty(x, dtype=dtype, device=linear.weight.device) for x in (a, b)))
