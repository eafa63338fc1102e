"""Preferences among a policy's own answers: they are compared by their rewards, and learned from.

Every objective labels the pairs for itself, so labels that disagree stay apart until a weighting trades them.

References:
    Guo et al., "Direct Language Model Alignment from Online AI Feedback", arXiv 2402.04792 (online DPO).
    Wu et al., "Self-Play Preference Optimization for Language Model Alignment", arXiv 2405.00675 (`loss_type="sppo"`;
        there the reference is the policy of the iteration before, here the untrained model).
    Flet-Berliac et al., "Contrastive Policy Gradient", arXiv 2406.19185 (`loss_type="copg"`).
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from pareto_align.arguments import Positive
from pareto_align.errors import ConfigError
from pareto_align.learning.learner import StepReport, register_learner
from pareto_align.learning.on_policy import OnPolicyLearner
from pareto_align.learning.preferences import PairView, make_losses
from pareto_align.learning.rollouts import Rollouts
from pareto_align.policies.gradients import ObjectiveGradients
from pareto_align.weighting.evidence import FROM_REWARDS, spread_of

__all__ = ["OnlineDpo"]


@register_learner("online-dpo")
class OnlineDpo(OnPolicyLearner):
    """DPO on what the policies say themselves, labelled by the rewards.

    The label of a pair under an objective is whether the first answer has the larger reward, or with `labels="soft"`
    how likely that is under Bradley and Terry with the rewards' difference on the frozen scale as the logit.

    Args:
        loss_type: A loss of pairs by its name in TRL, "sppo", or "copg".
        beta: How strongly the untrained model is held on to; by default the loss's own.
        labels: "hard", a tie counting one half, or "soft".
        pairs: "all" pairs of a prompt's answers, or only the "extremes" of each objective: its best against its worst.
    """

    needs_group = True
    provides = FROM_REWARDS | {"measured", "gramians"}

    def __init__(
        self,
        *,
        loss_type: Any = "sigmoid",
        beta: Positive | None = None,
        labels: Literal["hard", "soft"] = "hard",
        pairs: Literal["all", "extremes"] = "all",
    ) -> None:
        settings: dict[str, Any] = {} if beta is None else {"beta": beta}
        self.loss = make_losses(loss_type, **settings)
        if self.loss.weights_inside or (self.loss.unit != "pair" and self.loss.name != "sppo"):
            raise ConfigError(f"The learner 'online-dpo' compares pairs of answers. Found loss_type={loss_type!r}.")
        self.labels, self.pairs = labels, pairs

    def coefficients(self, seen: Rollouts) -> Tensor:
        """How steeply the likelihood of each objective's labels rises in each answer's log-probability."""
        batch = self._prepared(seen)
        return self._slopes(seen, self._reference(seen, batch))

    def gradients(self, seen: Rollouts, *, halves: bool = False) -> ObjectiveGradients:
        """The gradient of every objective for every policy, from one backward pass.

        Args:
            seen: What the current policies sampled, once.
            halves: Not offered.

        Raises:
            ConfigError: `halves` was asked for.
        """
        if halves:
            raise ConfigError("The learner 'online-dpo' does not halve its batch.")
        batch = self._prepared(seen)
        reference = self._reference(seen, batch)
        slopes = self._slopes(seen, reference)
        found, logprobs = self.engine.ascend(batch, slopes, seen.completions.mask.float())
        return ObjectiveGradients(found[0], None, reference, logprobs, batch, True)

    def _slopes(self, seen: Rollouts, reference: Tensor) -> Tensor:
        """`[K, N, G, m]` of every policy's own answers, compared with each other only."""
        scaled = self.context.scale.normalize(seen.rewards)[..., self.axes]
        logps, before = seen.completions.logprobs.sum(-1), reference.sum(-1)
        found = []
        for k, rewards in enumerate(scaled):
            view = self._view(rewards, seen.completions.lengths[k], logps[k : k + 1], before[k : k + 1])
            found.append(-self.loss.coefficients(view)[1][0])
        return torch.stack(found).float()

    def _view(self, rewards: np.ndarray, lengths: Tensor, logps: Tensor, reference: Tensor) -> PairView:
        """One policy's answers, labelled by their rewards `[N, G, m]`."""
        prompts, group, m = rewards.shape
        of_group = np.array(list(combinations(range(group), 2)))
        first, second = rewards[:, of_group[:, 0]], rewards[:, of_group[:, 1]]  # [N, pairs, m]
        gap = first - second
        said = expit(gap) if self.labels == "soft" else 0.5 + 0.5 * np.sign(gap)
        if self.pairs == "extremes":
            # NaN where a reward is missing is neither the largest nor the smallest
            with np.errstate(invalid="ignore"):
                widest = np.abs(gap) >= np.nanmax(np.abs(np.nan_to_num(gap)), axis=1, keepdims=True)
            said = np.where(widest, said, np.nan)
        numbers = np.repeat(np.arange(prompts), len(of_group))
        pairs = np.column_stack([numbers, np.tile(of_group, (prompts, 1))])
        return PairView(
            logps,
            lengths,
            torch.from_numpy(pairs),
            torch.from_numpy(said.reshape(-1, m)).float(),
            reference=reference,
            scores=torch.from_numpy(np.ascontiguousarray(rewards)).float(),
        )

    def step(
        self,
        seen: Rollouts,
        weights: np.ndarray,
        learning_rate: float,
        *,
        applies_to: str = "advantage",
        gradients: ObjectiveGradients | None = None,
    ) -> StepReport:
        """Update every policy: see `Learner.step`.

        Raises:
            ConfigError: Weights are to act on rewards, which are compared before anything weighs them.
        """
        if applies_to != "advantage":
            raise ConfigError("The learner 'online-dpo' compares rewards before anything weighs them.")
        found = self.gradients(seen) if gradients is None else gradients
        self.population.grad.copy_(-found.combine(torch.from_numpy(weights).float()))
        norms = self.optimizer.step(self.population.grad, learning_rate)
        scaled = self.context.scale.normalize(seen.rewards)[..., self.axes]
        varied = np.nan_to_num(spread_of(scaled.reshape(-1, *scaled.shape[2:]))).reshape(len(scaled), -1).mean(1)
        return self._reported(seen, norms, varied, found.reference)
