"""The language-model head of a base model."""

from __future__ import annotations

import torch
from torch import Tensor

from pareto_align.errors import ModelError
from pareto_align.policies.base import Base
from pareto_align.policies.lora import ServedAdapters

__all__ = ["Head"]

CHUNK = 64_000_000  # logits held at once
CPU_CHUNK = 4_000_000  # fresh blocks of more than 32 MB cost a CPU more in page faults than it computes in that time


class Head:
    """The language-model head: hidden states to logits, as the model itself computes them.

    Args:
        base: The model.
        served: What the model's adapters serve, if it has any; a loss tells them by how much its gradient is scaled.

    Raises:
        ModelError: The model computes its logits in a way that this class does not reproduce (checked on one forward).
    """

    def __init__(self, base: Base, served: ServedAdapters | None = None) -> None:
        self.served = ServedAdapters() if served is None else served
        self.module = base.model.get_output_embeddings()
        if not self.module.weight.is_floating_point():
            raise ModelError(
                "The language-model head is quantised, which training does not support. Leave it out: "
                "BitsAndBytesConfig(llm_int8_skip_modules=['lm_head'])."
            )
        config = base.model.config.get_text_config()
        self.softcap = getattr(config, "final_logit_softcapping", None)
        self.factor = float(getattr(config, "logit_scale", None) or 1.0)
        self.factor /= float(getattr(config, "logits_scaling", None) or 1.0)
        self.decoder = base.model.get_decoder()
        probe = torch.arange(1, 5, device=base.device)[None] % self.module.weight.shape[0]
        with torch.no_grad():
            hidden = self.decoder(input_ids=probe, use_cache=False).last_hidden_state
            ours, theirs = self.logits(hidden[0]), base.model(input_ids=probe, use_cache=False).logits[0].float()
        if ours.shape != theirs.shape or not torch.allclose(
            ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max())
        ):
            raise ModelError(
                f"{type(base.model).__name__} computes its logits in a way that training does not support."
            )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[n, V]` in float32 of hidden states `[n, d]`."""
        logits = self.module(hidden).float()
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def backward(self, grad: Tensor) -> Tensor:
        """Gradient `[n, d]` of hidden states from that of the linear layer's output `[n, V]`, in the model's dtype."""
        grad = grad.to(self.module.weight.dtype)
        product = getattr(self.module, "product", None)
        found: Tensor = grad @ self.module.weight if product is None else product.backward(grad)
        return found

    def chunk(self) -> int:
        """Positions whose logits are held at once."""
        weight = self.module.weight
        return max(16, (CPU_CHUNK if weight.device.type == "cpu" else CHUNK) // weight.shape[0])
