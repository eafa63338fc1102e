"""Every objective's gradient for every policy, and how they pull against each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pareto_align.policies.batches import Batch

__all__ = ["ObjectiveGradients", "halves_of", "inner_products"]


@dataclass(frozen=True, eq=False)
class ObjectiveGradients:
    """What a learner found before an update.

    Attributes:
        gradients: `[K, m, P]` float32, the direction of steepest ascent of each objective's surrogate (maximised) in
            each policy's parameters.
        kl: `[K, P]` the direction in which the KL term, priced, would move the policies; None without one.
        reference: `[K, N, G, T]` log-probabilities under the reference policy; None without a KL term.
        logprobs: `[K, N, G, T]` log-probabilities under the policies.
        batch: The completions they were taken on.
        exact: Whether a weighted sum of the gradients is the gradient of the weighted objectives: not where the credit
            normalises the mixed advantages, or the KL term is a loss of its own (`kl="k3"`), or the halves' baselines
            are not those of the whole batch.
        cross_gramians: `[K, m, m]` inner products of the objectives' gradients on two halves of the batch that share no
            completion, entry i, j: objective i on the first half, j on the second. Each half's gradient is scaled to
            the whole batch, so that for equal halves `gradients` is the mean of the two. Unlike `gramians`, whose
            diagonal holds the noise of a batch as well, they are unbiased. None unless asked for.
    """

    gradients: Tensor
    kl: Tensor | None
    reference: Tensor | None
    logprobs: Tensor
    batch: Batch
    exact: bool
    cross_gramians: np.ndarray | None = None

    @property
    def gramians(self) -> np.ndarray:
        """Inner products `[K, m, m]` of the objectives' gradients, in float64."""
        return inner_products(self.gradients, self.gradients)

    def combine(self, weights: Tensor) -> Tensor:
        """The direction of ascent `[K, P]` under `weights` `[K, m]`, the KL term included."""
        found = torch.einsum("km,kmp->kp", weights.to(self.gradients), self.gradients)
        return found if self.kl is None else found + self.kl


def halves_of(prompts: int, group: int) -> Tensor:
    """Which completions are in which half, `[2, N, G]`, True once each: every second prompt, or of one prompt every
    second completion."""
    first = torch.zeros(prompts, group, dtype=torch.bool)
    if prompts > 1:
        first[::2] = True
    else:
        first[:, ::2] = True
    return torch.stack([first, ~first])


def inner_products(first: Tensor, second: Tensor) -> np.ndarray:
    """`[K, m, m]` in float64, of gradients `[K, m, P]` each."""
    if first.device.type == "mps":  # has no float64
        first, second = first.cpu(), second.cpu()
    # one policy at a time: a float64 copy of all would be twice the gradients themselves
    return np.stack([(a.double() @ b.double().T).cpu().numpy() for a, b in zip(first, second, strict=True)])
