"""Every objective's gradient for every policy, and how they pull against each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pareto_align.learning.layout import Batch

__all__ = ["ObjectiveGradients"]


@dataclass(frozen=True, eq=False)
class ObjectiveGradients:
    """What `Learner.gradients` found before an update.

    Attributes:
        gradients: `[K, m, M]` float32, the direction of steepest ascent of each objective's surrogate (maximised) in
            each policy's parameters.
        kl: `[K, M]` the direction in which the KL term, priced, would move the policies; None without one.
        reference: `[K, N, G, T]` log-probabilities under the reference policy; None without a KL term.
        logprobs: `[K, N, G, T]` log-probabilities under the policies.
        batch: The completions they were taken on.
        exact: Whether a weighted sum of the gradients is the gradient of the weighted objectives: not where the credit
            normalises the mixed advantages, or the KL term is a loss of its own (`kl="k3"`).
    """

    gradients: Tensor
    kl: Tensor | None
    reference: Tensor | None
    logprobs: Tensor
    batch: Batch
    exact: bool

    @property
    def gramians(self) -> np.ndarray:
        """Inner products `[K, m, m]` of the objectives' gradients, in float64."""
        # one policy at a time: a float64 copy of all would be twice the gradients themselves
        return np.stack([(g.double() @ g.double().T).cpu().numpy() for g in self.gradients])

    def combine(self, weights: Tensor) -> Tensor:
        """The direction of ascent `[K, M]` under `weights` `[K, m]`, the KL term included."""
        found = torch.einsum("km,kmp->kp", weights.to(self.gradients), self.gradients)
        return found if self.kl is None else found + self.kl
