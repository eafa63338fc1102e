"""Linear layers that read the same input, multiplied at once: q, k and v of an attention, gate and up of an MLP.

A decoding step on an accelerator is bound by how many kernels there are, not by how much each has to do. The frozen
weights of siblings stand in one matrix, one under the other, of which each layer's own weight is a part: nothing is
held twice. Their adapters' A stand under each other as well, and their B along the diagonal of one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pareto_align.policies.layers.lora import ServedAdapters, project

__all__ = ["Siblings", "find_siblings"]


class Siblings:
    """Layers that read one input; only without gradients, where each does not need its own numbers.

    Args:
        layers: `FrozenLinear`s and `PopulationLinear`s without a packed weight.
        served: What the adapters serve.
        scaling: The LoRA factor.

    Attributes:
        sizes: Outputs of each.
        a: `[count, n r, in]` of the n layers with adapters, as they are being served.
        b: `[count, out, n r]`, zero outside of each layer's own block.
    """

    def __init__(self, layers: Sequence[Any], served: ServedAdapters, scaling: float) -> None:
        self.layers, self.served, self.scaling = list(layers), served, scaling
        linears = [layer.linear for layer in layers]
        self.sizes = [linear.out_features for linear in linears]
        self.weight = torch.cat([linear.weight.detach() for linear in linears])
        self.bias = None if linears[0].bias is None else torch.cat([linear.bias.detach() for linear in linears])
        self.a: Tensor | None = None
        self.b: Tensor | None = None
        self._input: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}
        for number, (layer, weight) in enumerate(zip(layers, self.weight.split(self.sizes), strict=True)):
            layer.linear.weight.data = weight
            layer.siblings, layer.number = self, number

    def part(self, x: Tensor, number: int) -> Tensor:
        """What the layer of a number makes of `x[rows, ..., in]`; all are worked out when the first is asked for."""
        if self._input is not x or number not in self._outputs:
            self._input, self._outputs = x, dict(enumerate(self._forward(x).split(self.sizes, -1)))
        found = self._outputs.pop(number)
        if not self._outputs:
            self._input = None
        return found

    def _forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x.reshape(-1, x.shape[-1]), self.weight, self.bias)
        if self.served.count and self.a is not None and self.b is not None:
            if x.shape[0] % self.served.count:
                raise ValueError(f"{x.shape[0]} rows cannot be grouped by {self.served.count} policies.")
            down = project(x, self.a).transpose(1, 2)
            y.view(len(self.a), -1, y.shape[-1]).baddbmm_(down, self.b.transpose(1, 2), alpha=self.scaling)
        return y.view(*x.shape[:-1], y.shape[-1])

    def part_company(self) -> None:
        """Give every layer a weight of its own again."""
        for layer in self.layers:
            layer.linear.weight.data = layer.linear.weight.data.clone()
            layer.siblings = None


def find_siblings(decoder: Any, layers: Sequence[Any], device: torch.device) -> list[list[Any]]:
    """Layers that were called one after the other with the same tensor, in one forward pass of the model."""
    calls: list[tuple[Any, Tensor]] = []
    with _noting(layers, calls), torch.no_grad():
        decoder(input_ids=torch.ones(1, 2, dtype=torch.long, device=device), use_cache=False)
    once = {id(layer) for layer in layers if sum(layer is called for called, _ in calls) == 1}
    found: list[list[Any]] = []
    before: Tensor | None = None
    for layer, x in calls:
        if id(layer) not in once:
            continue
        if x is before and _alike(found[-1][0].linear, layer.linear):
            found[-1].append(layer)
        else:
            found.append([layer])
        before = x
    return [group for group in found if len(group) > 1]


@contextmanager
def _noting(layers: Sequence[Any], calls: list[tuple[Any, Tensor]]) -> Iterator[None]:
    hooks = [layer.register_forward_pre_hook(lambda layer, given: calls.append((layer, given[0]))) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _alike(one: nn.Linear, other: nn.Linear) -> bool:
    return (
        one.weight.shape[1] == other.weight.shape[1]
        and one.weight.dtype == other.weight.dtype
        and (one.bias is None) == (other.bias is None)
    )
