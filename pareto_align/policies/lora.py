"""Linear layers that serve K LoRA policies at once over one frozen weight.

Rows of a batch are sorted by policy with equally many rows each ("grouped by policy"), so the LoRA term of all policies
is two batched matrix products: no gather, no index, no kernel of our own, on any device and in any dtype.
LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FrozenLinear", "PopulationLinear", "ServedAdapters", "frozen_linear"]


@dataclass(eq=False)
class ServedAdapters:
    """What every `PopulationLinear` of one model serves at the moment; shared by all of them.

    Attributes:
        count: Number of policies whose adapters are being served; 0 runs the frozen base alone.
        training: Whether gradients flow into the layers' gradient buffers.
    """

    count: int = 0
    training: bool = False


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight.T + bias` folded to two dimensions first.

    On a non-contiguous three-dimensional input with a frozen weight, torch takes a batched product over an *expanded*
    copy of the weight (pytorch issue 186148); folding costs nothing and is 2.5 times faster at the prefill.
    """
    if x.dim() == 2:
        return nn.functional.linear(x, weight, bias)
    folded = nn.functional.linear(x.reshape(-1, x.shape[-1]), weight, bias)
    return folded.view(*x.shape[:-1], weight.shape[0])


class FrozenLinear(nn.Module):
    """A frozen `nn.Linear` that always folds its input to two dimensions."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    @property
    def weight(self) -> Tensor:
        """The frozen weight `[out, in]`."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias `[out]`, if there is one."""
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to `x[..., in]`."""
        return frozen_linear(x, self.linear.weight, self.linear.bias)


class _PopulationLoRA(torch.autograd.Function):
    """`y = x W^T + b + s (x A_k^T) B_k^T` for rows grouped by policy.

    Saves only `x` (which q, k and v share) and recomputes `x A^T`, a fraction r/out of the layer's own cost. Gradients
    of A and B are added straight into float32 buffers: autograd would keep them in the compute dtype, where the sum
    over micro-batches loses precision in bfloat16.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, layer: PopulationLinear
    ) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.layer = layer
        return layer.apply_adapters(x, frozen_linear(x, weight, bias), a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, a, b = ctx.saved_tensors
        layer: PopulationLinear = ctx.layer
        policies, scaling = a.shape[0], layer.scaling
        rows = x.reshape(policies, -1, x.shape[-1])
        grad_rows = grad.reshape(policies, -1, grad.shape[-1])
        down = torch.bmm(rows, a.transpose(1, 2))
        grad_down = torch.bmm(grad_rows, b)
        assert layer.grad_a is not None
        assert layer.grad_b is not None
        layer.grad_a.add_(torch.bmm(grad_down.transpose(1, 2), rows), alpha=scaling)
        layer.grad_b.add_(torch.bmm(grad_rows.transpose(1, 2), down), alpha=scaling)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None
        grad_x = grad.reshape(-1, grad.shape[-1]) @ weight
        grad_x.view(policies, -1, x.shape[-1]).baddbmm_(grad_down, a, alpha=scaling)
        return grad_x.view(x.shape), None, None, None, None, None


class PopulationLinear(nn.Module):
    """A frozen `nn.Linear` plus the stacked LoRA factors of the policies being served.

    Attributes:
        linear: The frozen layer.
        a: `[count, r, in]` down-projections in the compute dtype.
        b: `[count, out, r]` up-projections in the compute dtype.
        grad_a, grad_b: float32 views of the population's gradient buffer, of the shapes of `a` and `b`.
        scaling: The LoRA factor `alpha / r` (or `alpha / sqrt(r)`).
    """

    def __init__(self, linear: nn.Linear, served: ServedAdapters, scaling: float) -> None:
        super().__init__()
        self.linear = linear
        self.served = served
        self.scaling = scaling
        self.a: Tensor | None = None
        self.b: Tensor | None = None
        self.grad_a: Tensor | None = None
        self.grad_b: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The frozen weight `[out, in]`; some model code looks at its dtype."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias `[out]`, if there is one."""
        return self.linear.bias

    def apply_adapters(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Add the LoRA term of `x[rows, ..., in]` to the base output `y[rows, ..., out]` in place."""
        policies = a.shape[0]
        down = torch.bmm(x.reshape(policies, -1, x.shape[-1]), a.transpose(1, 2))
        y.view(policies, -1, y.shape[-1]).baddbmm_(down, b.transpose(1, 2), alpha=self.scaling)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to `x[rows, ..., in]`, rows grouped by policy."""
        linear, served = self.linear, self.served
        if served.count == 0 or self.a is None or self.b is None:
            return frozen_linear(x, linear.weight, linear.bias)
        if x.shape[0] % served.count:
            raise ValueError(f"{x.shape[0]} rows cannot be grouped by {served.count} policies.")
        if served.training and torch.is_grad_enabled():
            y: Tensor = _PopulationLoRA.apply(x, linear.weight, linear.bias, self.a, self.b, self)  # type: ignore[no-untyped-call]
            return y
        return self.apply_adapters(x, frozen_linear(x, linear.weight, linear.bias), self.a, self.b)
