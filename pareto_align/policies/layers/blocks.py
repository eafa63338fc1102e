"""Where each layer's A and B lie in a row of parameters, and the copies that the layers compute with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_align.policies.layers.cuts import cut_of
from pareto_align.policies.layers.lora import PopulationLinear
from pareto_align.policies.layers.siblings import Siblings

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
        return self.start + self.r * cut_of(self.layer.linear).inputs

    @property
    def stop(self) -> int:
        """Where B ends."""
        return self.middle + self.r * cut_of(self.layer.linear).outputs

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Views `[..., r, in]` and `[..., out, r]` of rows `[..., P]`."""
        cut = cut_of(self.layer.linear)
        return (
            rows[..., self.start : self.middle].unflatten(-1, (self.r, cut.inputs)),
            rows[..., self.middle : self.stop].unflatten(-1, (cut.outputs, self.r)),
        )

    def own(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of the same, what belongs to the part of the layer that is here: all of it, but where ranks share one."""
        (a, b), cut = self.split(rows), cut_of(self.layer.linear)
        return a[..., cut.own_inputs], b[..., cut.own_outputs, :]


class ComputeBlocks:
    """Dense copies `[k, r, in]`, `[k, out, r]` of the policies being served, in the dtype that the layers compute in.

    Those of siblings stand in one matrix (see `siblings`). They are written over, never allocated anew, unless more
    policies are served than ever before: a captured CUDA graph reads the addresses that it was captured with.

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
        self._shared: list[tuple[Siblings, Tensor, Tensor]] = []

    @torch.no_grad()
    def fill(self, rows: Tensor) -> None:
        """Copy policies `[k, P]` in, and let the layers serve them."""
        count = rows.shape[0]
        if count > self._capacity:
            self._allocate(count)
        for block, copies in zip(self.blocks, self._copies, strict=True):
            served = [copy[:count] for copy in copies]
            for copy, part in zip(served, block.own(rows), strict=True):
                copy.copy_(part)
            # autograd only comes by where something wants a gradient, and a block is filled without one
            block.layer.a, block.layer.b = (copy.detach().requires_grad_() for copy in served)
        for siblings, a, b in self._shared:
            siblings.a, siblings.b = a[:count], b[:count]
        self.fills += 1

    def _allocate(self, count: int) -> None:
        self._capacity = count
        self.generation += 1
        shared: dict[int, tuple[Tensor, ...]] = {}
        self._shared = []
        for block in self.blocks:
            siblings = block.layer.siblings
            if siblings is None or id(block.layer) in shared:
                continue
            adapted = [layer for layer in siblings.layers if isinstance(layer, PopulationLinear)]
            a, b = self._empty(block, count, block.r * len(adapted), sum(siblings.sizes))
            self._shared.append((siblings, a, b.zero_()))
            starts = [sum(siblings.sizes[: layer.number]) for layer in adapted]
            for n, (layer, start) in enumerate(zip(adapted, starts, strict=True)):
                own, stop = slice(n * block.r, (n + 1) * block.r), start + layer.linear.out_features
                shared[id(layer)] = (a[:, own], b[:, start:stop, own])
        self._copies = [
            shared[id(block.layer)]
            if id(block.layer) in shared
            else self._empty(block, count, block.r, block.layer.linear.out_features)
            for block in self.blocks
        ]

    def _empty(self, block: Block, count: int, r: int, outputs: int) -> tuple[Tensor, Tensor]:
        weight, inputs = block.layer.linear.weight, block.layer.linear.in_features
        dtype = weight.dtype if weight.dtype.is_floating_point else self.dtype
        return (
            torch.empty(count, r, inputs, dtype=dtype, device=weight.device),
            torch.empty(count, outputs, r, dtype=dtype, device=weight.device),
        )
