"""Linear layers that serve K LoRA policies at once over one frozen weight.

Rows of a batch are sorted by policy with equally many tokens each ("grouped by policy"), so the LoRA term of all
policies is two batched matrix products: no gather, no index, no kernel of our own, on any device and in any dtype.
LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pareto_align.policies.layers.linear import FrozenProduct

__all__ = ["PopulationLinear", "ServedAdapters"]


@dataclass(eq=False)
class ServedAdapters:
    """What every `PopulationLinear` of one model serves at the moment; shared by all of them.

    Attributes:
        count: Number of policies whose adapters are being served; 0 runs the frozen base alone.
        training: Whether gradients flow into the layers' gradient buffers.
        streams: `[K, tokens, S]` factors of every token of the batch in each of S sums of gradients, while the
            gradients of several objectives are taken from one backward pass (`policies.gradients`); else None.
        gradient_scale: Factor of the gradients that arrive, taken out again when they are added to the buffers; 1 but
            in float16.
    """

    count: int = 0
    training: bool = False
    streams: Tensor | None = None
    gradient_scale: float = 1.0


def project(x: Tensor, a: Tensor) -> Tensor:
    """`A_k x` `[K, r, tokens]` of `x[rows, ..., in]`, rows grouped by policy."""
    return torch.bmm(a, x.reshape(a.shape[0], -1, x.shape[-1]).transpose(1, 2))


class _PopulationLoRA(torch.autograd.Function):
    """`y = x W^T + b + s (x A_k^T) B_k^T` for rows grouped by policy.

    Saves `x` (which q, k and v share) and the narrow `x A^T`. Gradients of A and B are added straight into float32
    buffers: autograd would keep them in the compute dtype, where the sum over micro-batches loses precision in
    bfloat16.

    What has r numbers a token lies rank first, `[K, r, tokens]`: on a CPU a product with r columns takes up to four
    times as long as one with r rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, layer: PopulationLinear) -> Tensor:  # type: ignore[override]
        assert layer.product is not None
        down = project(x, a)
        ctx.save_for_backward(x, a, b, down)
        ctx.layer = layer
        return layer.add_adapters(layer.product.forward(x), down, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, a, b, down = ctx.saved_tensors
        layer: PopulationLinear = ctx.layer
        grad_down = layer.accumulate(x, grad, down, b)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        assert layer.product is not None
        grad_x = layer.product.backward(grad.reshape(-1, grad.shape[-1]))
        grad_x.view(a.shape[0], -1, x.shape[-1]).baddbmm_(grad_down.transpose(1, 2), a, alpha=layer.scaling)
        return grad_x.view(x.shape), None, None, None


class _AdapterTerm(torch.autograd.Function):
    """`s (x A_k^T) B_k^T` alone, for a base layer that differentiates itself (a quantised one)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, layer: PopulationLinear) -> Tensor:  # type: ignore[override]
        down = project(x, a)
        ctx.save_for_backward(x, a, b, down)
        ctx.layer = layer
        return layer.add_adapters(x.new_zeros(*x.shape[:-1], b.shape[1]), down, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, a, b, down = ctx.saved_tensors
        grad_down = ctx.layer.accumulate(x, grad, down, b)
        return (torch.bmm(grad_down.transpose(1, 2), a) * ctx.layer.scaling).view(x.shape), None, None, None


class PopulationLinear(nn.Module):
    """A frozen `nn.Linear` plus the stacked LoRA factors of the policies being served.

    Attributes:
        linear: The frozen layer.
        product: Its own product; None for a layer that must be called as it is (a quantised one).
        a: `[count, r, in]` down-projections in the compute dtype.
        b: `[count, out, r]` up-projections in the compute dtype.
        grad_a, grad_b: float32 views of the population's gradient buffer, of the shapes of `a` and `b`; with S streams
            `[count, S, r, in]` and `[count, S, out, r]`.
        scaling: The LoRA factor `alpha / r` (or `alpha / sqrt(r)`).
    """

    def __init__(self, linear: nn.Linear, served: ServedAdapters, scaling: float, *, packed: bool = False) -> None:
        super().__init__()
        self.linear = linear
        self.product = FrozenProduct(linear, packed=packed) if type(linear) is nn.Linear else None
        self.served = served
        self.scaling = scaling
        self.a: Tensor | None = None
        self.b: Tensor | None = None
        self.grad_a: Tensor | None = None
        self.grad_b: Tensor | None = None
        self.siblings: Any = None  # the `Siblings` it is one of, if any
        self.number = 0

    @property
    def weight(self) -> Tensor:
        """The frozen weight `[out, in]`; some model code looks at its dtype."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias `[out]`, if there is one."""
        return self.linear.bias

    def add_adapters(self, y: Tensor, down: Tensor, b: Tensor) -> Tensor:
        """Add the LoRA term to the base output `y[rows, ..., out]` in place, from `project`'s `[K, r, tokens]`."""
        y.view(b.shape[0], -1, y.shape[-1]).baddbmm_(down.transpose(1, 2), b.transpose(1, 2), alpha=self.scaling)
        return y

    def accumulate(self, x: Tensor, grad: Tensor, down: Tensor, b: Tensor) -> Tensor:
        """Add the gradients of A and B to the buffers; returns `(grad B)^T`, `[K, r, tokens]`, for the input's.

        A token's own gradients are `dA = s (g B)^T x` and `dB = s g^T (x A^T)`. With streams, every stream i is the
        sum over tokens with the factors of that stream: the r rows are scaled S times and one product does them all.
        """
        policies = b.shape[0]
        rows, grad_rows = x.reshape(policies, -1, x.shape[-1]), grad.reshape(policies, -1, grad.shape[-1])
        returned = grad_down = torch.bmm(b.transpose(1, 2), grad_rows.transpose(1, 2))
        if x.dtype == torch.float16:  # a sum over tokens soon passes 65504, and a factor of a stream falls below 6e-8
            rows, grad_rows, down, grad_down = (part.float() for part in (rows, grad_rows, down, grad_down))
        alpha = self.scaling / self.served.gradient_scale
        assert self.grad_a is not None
        assert self.grad_b is not None
        if self.served.streams is None:
            self.grad_a.add_(torch.bmm(grad_down, rows), alpha=alpha)
            self.grad_b.add_(torch.bmm(down, grad_rows).transpose(1, 2), alpha=alpha)
            return returned
        factors = self.served.streams.to(rows.dtype).transpose(1, 2).unsqueeze(2)
        split = (factors.shape[1], down.shape[1])
        wide = (grad_down.unsqueeze(1) * factors).flatten(1, 2)
        self.grad_a.add_(torch.bmm(wide, rows).unflatten(1, split), alpha=alpha)
        wide = (down.unsqueeze(1) * factors).flatten(1, 2)
        self.grad_b.add_(torch.bmm(wide, grad_rows).unflatten(1, split).transpose(2, 3), alpha=alpha)
        return returned

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to `x[rows, ..., in]`, rows grouped by policy."""
        served = self.served
        if self.siblings is not None and not torch.is_grad_enabled():
            found: Tensor = self.siblings.part(x, self.number)
            return found
        if served.count == 0 or self.a is None or self.b is None:
            return self._base(x)
        if x.shape[0] % served.count:
            raise ValueError(f"{x.shape[0]} rows cannot be grouped by {served.count} policies.")
        if not (served.training and torch.is_grad_enabled()):
            return self.add_adapters(self._base(x), project(x, self.a), self.b)
        y: Tensor
        if self.product is None:
            y = self._base(x) + _AdapterTerm.apply(x, self.a, self.b, self)  # type: ignore[no-untyped-call]
        else:
            y = _PopulationLoRA.apply(x, self.a, self.b, self)  # type: ignore[no-untyped-call]
        return y

    def _base(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) if self.product is None else self.product(x)
        return y
