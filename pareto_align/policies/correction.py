"""Completions that a policy almost drew itself: by how much, and importance weights for what they teach.

A sampler of its own kernels, in another batch, says a token's log-probability a little otherwise than the trainer. Then
the completions are those of a slightly different policy. The trainer finds its own log-probability in the pass that it
makes anyway, so the weight costs no further pass.

References:
    Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025): truncated importance
        sampling between sampler and trainer.
    Ionides, "Truncated Importance Sampling", Journal of Computational and Graphical Statistics 17 (2008).
    Schulman, "Approximating KL Divergence" (2020): k3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Correction", "mismatch"]

NEAR = 0.1
"""A ratio from 1 - NEAR to 1 + NEAR counts as near."""
MOST_NATS = 20.0
"""Differences beyond it are told as this one: what is told has to be a number."""


@dataclass(frozen=True)
class Correction:
    """Weights of the trainer's policy over the sampler's.

    Attributes:
        kind: `"none"`; `"token_truncate"`: each token is weighed by its own ratio, at most `cap`, which bounds the
            variance and leaves out what the tokens around it contribute to a completion's ratio; `"sequence_mask"`:
            each completion is weighed by its whole ratio, and left out beyond `cap`. Unless something is left out, that
            is unbiased.
        cap: The largest weight.
    """

    kind: str = "none"
    cap: float = 2.0

    @property
    def weighs(self) -> bool:
        """Whether anything is weighed."""
        return self.kind != "none"

    @property
    def by_completion(self) -> bool:
        """Whether all tokens of a completion have one weight."""
        return self.kind == "sequence_mask"

    def weights(self, gap: Tensor) -> Tensor:
        """Weights of tokens, or with `by_completion` of completions.

        Args:
            gap: The trainer's log-probabilities less the sampler's.
        """
        ratio = gap.exp()
        # what is no number stays none: it tells that the policy is lost
        return ratio.masked_fill(ratio > self.cap, 0.0) if self.by_completion else ratio.clamp(max=self.cap)

    def of_completions(self, logprobs: Tensor, sampled: Tensor, mask: Tensor) -> Tensor:
        """Weights `[K, N, G, T]` of tokens, 0 on padding, where both sides are known `[K, N, G, T]`."""
        gap = (logprobs - sampled).masked_fill(~mask, 0.0)
        if self.by_completion:
            return self.weights(gap.sum(-1, keepdim=True)) * mask
        return self.weights(gap) * mask

    def kept(self, logprobs: Tensor, sampled: Tensor, mask: Tensor) -> Tensor:
        """Which completions `[K, N, G]` are not left out."""
        if not self.by_completion:
            return torch.ones(mask.shape[:3], dtype=torch.bool)
        return ~((logprobs - sampled).masked_fill(~mask, 0.0).sum(-1).exp() > self.cap)


def mismatch(logprobs: Tensor, sampled: Tensor, mask: Tensor, correction: Correction) -> dict[str, np.ndarray]:
    """How far the sampler is from the trainer, for a step's report; `[K]` each.

    Args:
        logprobs: `[K, N, G, T]` the trainer's.
        sampled: `[K, N, G, T]` the sampler's.
        mask: `[K, N, G, T]` True for tokens.
        correction: What is done about it.

    Returns:
        `mismatch`, the mean |difference| in nats a token; `mismatch_outside`, the share of tokens whose ratio is
        outside [0.9, 1.1]; `mismatch_kl`, the k3 estimate of KL(sampler || trainer) in nats a token; and
        `mismatch_truncated`, the share of tokens whose weight was cut, or of completions that were left out.
    """
    counts = mask.sum((1, 2, 3)).clamp(min=1)

    def mean(values: Tensor) -> np.ndarray:
        found: np.ndarray = (values.double().masked_fill(~mask, 0.0).sum((1, 2, 3)) / counts).numpy()
        return found

    gap = (logprobs.double() - sampled.double()).clamp(-MOST_NATS, MOST_NATS)
    ratio = gap.exp()
    if correction.by_completion:
        cut = 1.0 - correction.kept(logprobs, sampled, mask).double().mean((1, 2)).numpy()
    else:
        cut = mean(ratio > correction.cap) if correction.weighs else np.zeros(len(mask))
    return {
        "mismatch": mean(gap.abs()),
        "mismatch_outside": mean((ratio < 1 - NEAR) | (ratio > 1 + NEAR)),
        "mismatch_kl": mean(ratio - 1 - gap),
        "mismatch_truncated": cut,
    }
