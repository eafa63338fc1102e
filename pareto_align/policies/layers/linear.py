"""Frozen linear layers: always folded to two dimensions, and on a CPU by oneDNN with the weight laid out once.

Two costs are avoided. On a non-contiguous three-dimensional input with a frozen weight, torch takes a batched product
over an *expanded* copy of the weight (pytorch issue 186148); folding costs nothing and makes the prefill 2.5 times
faster. And `F.linear` lays the weight out anew for every call, which at the few rows of a decoding step is a good part
of its time; oneDNN takes a weight that was laid out once. The price is a second copy of the base's linear weights in
host memory, so it is only taken where that fits well.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FrozenLinear", "FrozenProduct", "onednn_works", "room_for_packed"]

SWITCH = "PARETO_ALIGN_ONEDNN"
EVERY = slice(None)
PACKED_SHARE = 0.25  # of the machine's memory that packed copies of the weights may take


class FrozenProduct:
    """`x @ weight.T + bias` of one frozen `nn.Linear`, and the gradient of its input.

    Args:
        linear: The frozen layer.
        packed: Keep a copy of the weight in oneDNN's own layout and multiply with that (`onednn_works` says whether
            this machine can).
    """

    def __init__(self, linear: nn.Linear, *, packed: bool = False) -> None:
        self.linear = linear
        self.packed: Tensor | None = None
        if packed:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`, differentiable in `x`."""
        if self.packed is not None and x.requires_grad and torch.is_grad_enabled():
            y: Tensor = _PackedProduct.apply(x, self)  # type: ignore[no-untyped-call]
            return y
        return self.forward(x)

    def forward(self, x: Tensor, outputs: slice = EVERY) -> Tensor:
        """The product alone, or some of its outputs; differentiable only without a packed weight."""
        folded = x.reshape(-1, x.shape[-1])
        weight = self.linear.weight[outputs]
        bias = None if self.linear.bias is None else self.linear.bias[outputs]
        if self.packed is None:
            y = nn.functional.linear(folded, weight, bias)
        else:
            y = _pointwise(folded.contiguous(), self.packed if outputs == EVERY else weight, bias)
        return y.view(*x.shape[:-1], y.shape[-1])

    def backward(self, grad: Tensor, outputs: slice = EVERY) -> Tensor:
        """Gradient `[n, in]` of the input from the gradient `[n, out]` of the output, or of some outputs."""
        weight = self.linear.weight[outputs]
        # in bfloat16 torch itself goes to oneDNN; in float32 it would go to a library that is slower on some processors
        if self.packed is not None and weight.dtype == torch.float32:
            return _pointwise(grad.contiguous(), weight.t(), None)
        return grad @ weight


class _PackedProduct(torch.autograd.Function):
    """oneDNN's product has no gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, product: FrozenProduct) -> Tensor:  # type: ignore[override]
        ctx.product = product
        return product.forward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        found = ctx.product.backward(grad.reshape(-1, grad.shape[-1]))
        return found.view(*grad.shape[:-1], found.shape[-1]), None


class FrozenLinear(nn.Module):
    """Stands in for a frozen `nn.Linear` that carries no adapter."""

    def __init__(self, linear: nn.Linear, *, packed: bool = False) -> None:
        super().__init__()
        self.linear = linear
        self.product = FrozenProduct(linear, packed=packed)
        self.siblings: Any = None  # the `Siblings` it is one of, if any
        self.number = 0

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
        if self.siblings is not None and not torch.is_grad_enabled():
            found: Tensor = self.siblings.part(x, self.number)
            return found
        return self.product(x)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product that torch's own compiler uses on a CPU; no public function takes a packed weight."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


@functools.cache
def onednn_works(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN's products for a type, and they are right; `PARETO_ALIGN_ONEDNN=0` says no."""
    if os.environ.get(SWITCH, "1").strip().lower() in ("0", "false", "off", "no"):
        return False
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in ((7, 48), (33, 48)))
    bias, expected = weight[:, 0].contiguous(), None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        expected = nn.functional.linear(x, weight, bias)
        found = _pointwise(x, packed, bias)
        gradient = _pointwise(expected, weight.t(), None)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False  # private operators: another torch may spell them differently
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    return all(
        torch.allclose(ours.float(), theirs.float(), rtol=tolerance, atol=tolerance * float(theirs.abs().max()))
        for ours, theirs in ((found, expected), (gradient, expected @ weight))
    )


def room_for_packed(model: nn.Module) -> bool:
    """Whether second copies of all linear weights take no more than a quarter of the machine's memory."""
    need = sum(m.weight.numel() * m.weight.element_size() for m in model.modules() if type(m) is nn.Linear)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return False
    return need <= PACKED_SHARE * memory
