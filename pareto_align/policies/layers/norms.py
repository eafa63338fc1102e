"""Frozen RMS norms: the model's own way forward, and a way back in a third of the passes that autograd makes.

Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FrozenNorm"]

NAMES = ("variance_epsilon", "eps", "epsilon")  # what models call the constant under the root


class FrozenNorm(nn.Module):
    """Stands in for a frozen RMS norm, `x / sqrt(mean(x^2) + eps) * gain`, worked out in float32.

    Args:
        norm: The frozen norm.
        gain: `[d]`.
        eps: The constant under the root.
    """

    def __init__(self, norm: nn.Module, gain: Tensor, eps: float) -> None:
        super().__init__()
        self.gain: Tensor
        self.norm = norm
        self.eps = eps
        self.register_buffer("gain", gain, persistent=False)

    @classmethod
    def of(cls, module: nn.Module) -> FrozenNorm | None:
        """The stand-in for a module; None unless it gives that module's gradients on random states."""
        weight = getattr(module, "weight", None)
        eps = next((getattr(module, name) for name in NAMES if hasattr(module, name)), None)
        if "RMSNorm" not in type(module).__name__ or not isinstance(weight, Tensor) or not isinstance(eps, float):
            return None
        if weight.dim() != 1 or not weight.is_floating_point():
            return None
        if len(inspect.signature(type(module).forward).parameters) != 2:  # a gate beside the states, as in Mamba
            return None
        states = torch.randn(2, 3, len(weight), generator=torch.Generator().manual_seed(0))
        states = (states * torch.tensor([[[0.01]], [[10.0]]])).to(weight.device, weight.dtype)
        try:
            expected = _gradient(module, states)
        except (RuntimeError, TypeError, ValueError):
            return None
        error = (1e-5 if weight.dtype == torch.float32 else 2e-2) * expected.abs().amax(-1, keepdim=True)
        for gain in (weight.detach(), 1 + weight.detach().float()):  # most models', and Gemma's
            found = cls(module, gain, eps)
            if ((_gradient(found, states) - expected).abs() <= error).all():
                return found
        return None

    @property
    def weight(self) -> Any:
        """The frozen weight `[d]`."""
        return self.norm.weight

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x[..., d]`."""
        y: Tensor
        if x.requires_grad and torch.is_grad_enabled():
            y = _Normalised.apply(x, self)  # type: ignore[no-untyped-call]
        else:
            y = self.norm(x)
        return y


def _gradient(norm: nn.Module, states: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = states.clone().requires_grad_()
        (found,) = torch.autograd.grad(norm(leaf), leaf, states.flip(-1))
    return found


class _Normalised(torch.autograd.Function):
    """With f = 1 / sqrt(mean(x^2) + eps) and h = grad * gain: d x = f h - x f^3 (h . x) / d."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: FrozenNorm) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        ctx.norm = norm
        y: Tensor = norm.norm(x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        norm, size = ctx.norm, x.shape[-1]
        wide, found = x.float(), (grad * norm.gain).float()
        factor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(size).add_(norm.eps).rsqrt_()
        along = (found * wide).sum(-1, keepdim=True).mul_(factor.pow(3)).div_(-size)
        return found.mul_(factor).addcmul_(wide, along).to(x.dtype), None
