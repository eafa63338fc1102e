"""The language-model head of a base model: logits, log-probabilities, and the way back through them.

On a CPU the vocabulary is taken in pieces. A product of few rows by the whole vocabulary runs at a fraction of the
processor's rate, and the logits of many rows fall out of the cache and are paid for in page faults. A piece of the
vocabulary by many rows is neither, and what is done to each logit is done while it is in the cache.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pareto_align.errors import ModelError
from pareto_align.policies.base import Base
from pareto_align.policies.layers.linear import EVERY, FrozenLinear, FrozenProduct
from pareto_align.policies.layers.lora import ServedAdapters

__all__ = ["Head", "Softmax"]

CHUNK = 64_000_000  # logits held at once on an accelerator
LARGE_CHUNK, LARGE_CARD = 256_000_000, 40 * 2**30  # and on a card with more than so many bytes
CPU_ROWS = 512  # positions whose logits are held at once on a CPU
CPU_PIECE = 4_000_000  # logits of one product there: blocks of more than 32 MB are paid for in page faults


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
        # renamed in transformers; the old name is deprecated in the new releases
        named = inspect.signature(self.decoder.forward).parameters
        self._cache_argument = "cache" if "cache" in named else "past_key_values"
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

    def read(self, cache: Any, **inputs: Any) -> Tensor:
        """The decoder's last hidden states `[rows, T, d]` of tokens whose keys and values join those in `cache`."""
        read: Tensor = self.decoder(**inputs, **{self._cache_argument: cache}, use_cache=True).last_hidden_state
        return read

    def logits(self, hidden: Tensor, tokens: slice = EVERY) -> Tensor:
        """Logits `[n, V]` in float32 of hidden states `[n, d]`, or those of some tokens."""
        product = None if tokens == EVERY else self._product()
        logits = (self.module(hidden) if product is None else product.forward(hidden, tokens)).float()
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def backward(self, grad: Tensor, tokens: slice = EVERY) -> Tensor:
        """Gradient `[n, d]` of hidden states from that of the linear layer's output `[n, V]`, in the model's dtype."""
        grad = grad.to(self.module.weight.dtype)
        product = self._product()
        return grad @ self.module.weight if product is None else product.backward(grad, tokens)

    def _product(self) -> FrozenProduct | None:
        """The head's product, where it is that of a linear layer and nothing else."""
        if isinstance(self.module, FrozenLinear):
            return self.module.product
        return FrozenProduct(self.module) if type(self.module) is nn.Linear else None

    def chunk(self) -> int:
        """Positions whose logits are held at once."""
        weight = self.module.weight
        if weight.device.type != "cpu":
            large = weight.device.type == "cuda" and _card_memory(weight.device) > LARGE_CARD
            return max(16, (LARGE_CHUNK if large else CHUNK) // weight.shape[0])
        return CPU_ROWS if self._product() is not None else max(16, CPU_PIECE // weight.shape[0])

    def pieces(self) -> list[slice]:
        """The vocabulary, in as many pieces as it is taken in."""
        weight = self.module.weight
        if weight.device.type != "cpu" or self._product() is None:
            return [EVERY]
        size = weight.shape[0]
        width = math.ceil(size / math.ceil(size * self.chunk() / CPU_PIECE))
        return [slice(start, min(start + width, size)) for start in range(0, size, width)]


@cache
def _card_memory(device: torch.device) -> int:
    """Bytes of a CUDA device."""
    return int(torch.cuda.get_device_properties(device).total_memory)


@dataclass(eq=False)
class _Piece:
    """`exp(score - peak)` `[n, v]` of v tokens, where the targets stand in it, and the softcap's slope."""

    tokens: slice
    mass: Tensor
    peak: Tensor
    index: Tensor
    within: Tensor
    slack: Tensor | None


class Softmax:
    """The distributions of the next token after some positions, in pieces; float32.

    Args:
        head: The head.
        hidden: `[n, d]`.
        targets: `[n]` tokens.
        temperature: Divides the logits.
        keep: Keep what `backward` needs.

    Attributes:
        logprobs: `[n]` log-probabilities of the targets.
    """

    def __init__(self, head: Head, hidden: Tensor, targets: Tensor, temperature: float, *, keep: bool = False) -> None:
        self.head = head
        self._pieces: list[_Piece] = []
        peaks, sums = [], []
        chosen = torch.zeros(len(targets), 1, device=hidden.device)
        for tokens in head.pieces():
            scores = head.logits(hidden, tokens)
            # d capped / d logits, from the capped ones
            slack = 1 - (scores / head.softcap).square() if head.softcap and keep else None
            # in place from here on: a fresh block of this size costs more in page faults than the arithmetic does
            if temperature != 1.0:
                scores.div_(temperature)
            index = targets[:, None] - (tokens.start or 0)
            within = (index >= 0) & (index < scores.shape[1])
            index = index.clamp(0, scores.shape[1] - 1)
            chosen += scores.gather(1, index).masked_fill(~within, 0)
            # a piece of nothing but tokens that the model rules out has no peak of its own
            peak = scores.amax(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
            mass = scores.sub_(peak).exp_()
            peaks.append(peak)
            sums.append(mass.sum(1, keepdim=True))
            if keep:
                self._pieces.append(_Piece(tokens, mass, peak, index, within, slack))
        every = torch.cat(peaks, 1)
        self._top = every.amax(1, keepdim=True)
        self._sum = (torch.cat(sums, 1) * (every - self._top).exp()).sum(1, keepdim=True)
        self.logprobs = (chosen - self._top - self._sum.log())[:, 0]

    def backward(self, slope: Tensor) -> Tensor:
        """Gradient `[n, d]` of the hidden states from that of `logprobs`, times what scaled the logits; works once.

        The scale is left to the caller, to whom it is one more factor of the slope.
        """
        slope = slope[:, None]
        found: Tensor | None = None
        while self._pieces:
            piece = self._pieces.pop(0)
            # slope * (onehot - softmax), then back through the softcap
            grad = piece.mass.mul_(-slope * (piece.peak - self._top).exp() / self._sum)
            grad.scatter_add_(1, piece.index, slope.masked_fill(~piece.within, 0))
            if piece.slack is not None:
                grad.mul_(piece.slack)
            part = self.head.backward(grad, piece.tokens)
            found = part if found is None else found.float().add_(part)
        assert found is not None
        return found
