"""Credits for answers that are right or wrong: right ones are told from wrong ones first, and among the right ones the
other objectives decide.

With s_i the mean log-probability of a token of answer i, + the right and - the wrong answers of a prompt:

    DisCO   J = mean_+ s_i                - tau log mean_- exp(s_j / tau)
    DRPO    J = sum_+ om_i s_i            - tau log mean_- exp(s_j / tau)        om_i ~ exp( sum_l w_l r_il / lam )

Right after sampling the gradient of J is sum_i A_i grad s_i with A_i = 1/n_+ or om_i for right answers, and minus the
softmax of s_j / tau for wrong ones: an advantage an answer. It is given times G, as a loss takes the mean over a group.
What the published objective has beside it is a bound on how far an update may go: `PolicyLoss.kl_limit`.

References:
    Li et al., "DisCO: Reinforcing Large Reasoning Models with Discriminative Constrained Optimization", arXiv
        2505.12366, and its public code, https://github.com/Optimization-AI/DisCO.
    Li et al., "DRPO: Efficient Reasoning via Decoupled Reward Policy Optimization", arXiv 2510.04474, and its public
        code, https://github.com/Optimization-AI/DRPO. There the one preference among right answers is their shortness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pareto_align.arguments import Positive
from pareto_align.errors import ConfigError
from pareto_align.learning.credit import Credit, register_credit
from pareto_align.objectives import Objective

__all__ = ["Disco", "Drpo"]

Alone = Literal["drop", "rank"]


@register_credit("disco")
class Disco(Credit):
    """DisCO: every right answer is raised alike, and the wrong ones fall by how likely they are.

    The other objectives have no say and neither has the preference: for one policy, or as a baseline. A prompt whose
    answers are all right or all wrong teaches nothing, and still counts in the mean over prompts. An answer whose
    reward is missing is left out.

    Args:
        primary: Name of the optimized objective that says what is right: above the middle of its bounds. None: the
            first one.
        tau: How much the likeliest wrong answers count before the others, in nats a token; published 10 with the mean
            log-probability as the score. None: all alike ("DisCO-b").

    Raises:
        ConfigError: A setting out of range.
    """

    needs_logprobs: ClassVar[bool] = True

    def __init__(self, *, primary: str | None = None, tau: Positive | None = 10.0) -> None:
        self.primary, self.tau = primary, tau
        self.column = 0

    def check(self, objectives: Sequence[Objective]) -> None:
        """Find the primary objective among the m optimized ones.

        Raises:
            ConfigError: None of them has the name, or it has no bounds.
        """
        names = [objective.name for objective in objectives]
        if self.primary is not None and self.primary not in names:
            raise ConfigError(
                f"Credit '{self.name}': `primary` must be an optimized objective: {', '.join(names)}. "
                f"Found {self.primary!r}."
            )
        self.column = 0 if self.primary is None else names.index(self.primary)
        if objectives[self.column].bounds is None:
            raise ConfigError(
                f"Credit '{self.name}' takes answers above the middle of the bounds of {names[self.column]!r} as "
                "right, and it has none. Give it bounds, such as bounds=(0, 1)."
            )

    def _vector(self, rewards: Tensor) -> Tensor:
        """Column `primary`: 1 for right, 0 for wrong, less the group's mean. The others: among the right answers."""
        primary = rewards[..., self.column : self.column + 1]
        known = ~torch.isnan(primary)
        right = primary > 0.5  # the middle of the bounds, on the frozen scale
        count = known.sum(2, keepdim=True).clamp(min=1)
        # the number of right answers decides whether there is anything to tell apart: a mean would be rounded
        told = right.to(rewards) - right.sum(2, keepdim=True).to(rewards) / count
        told = torch.where(known & _mixed(right, known), told, torch.zeros_like(told))
        among = torch.where(right, rewards, torch.full_like(rewards, torch.nan))
        mean = torch.nan_to_num(among).sum(2, keepdim=True) / (~among.isnan()).sum(2, keepdim=True).clamp(min=1)
        alike = torch.nan_to_num(among, -torch.inf).amax(2, keepdim=True) <= torch.nan_to_num(among, torch.inf).amin(
            2, keepdim=True
        )
        found = torch.where(alike, torch.zeros_like(among), among - mean)
        # all right and one not judged: whether that one is right cannot be told afterwards
        settled = _mixed(right, known) | known.all(2, keepdim=True)
        found = torch.where(settled, torch.nan_to_num(found), torch.zeros_like(found))
        found[..., self.column] = told[..., 0]
        return found

    def _collapse(self, vector: Tensor, weights: Tensor, **given: Tensor) -> Tensor:
        told = vector[..., self.column]
        right, wrong = told > 0, told < 0
        return vector.shape[2] * (self._raised(vector, weights, right) - self._lowered(wrong, given.get("logprobs")))

    def _raised(self, vector: Tensor, weights: Tensor, right: Tensor) -> Tensor:
        """How much each right answer is raised, [K, N, G]; sums to 1 a prompt."""
        return right.to(vector) / right.sum(2, keepdim=True).clamp(min=1)

    def _lowered(self, wrong: Tensor, logprobs: Tensor | None) -> Tensor:
        """How much each wrong answer is lowered, [K, N, G]; sums to 1 a prompt where any is right."""
        if logprobs is None or self.tau is None:
            score = torch.zeros(wrong.shape)
        else:
            score = logprobs / self.tau
        return _softmax_among(score, wrong)


@register_credit("drpo")
class Drpo(Disco):
    """DRPO: among the right answers those are raised most that serve the policy's preference; none is lowered.

    A sum of rewards can make a right but long answer worse than its group's mean, and push it down. Here only wrong
    answers are pushed down. Published is one preference, shortness; here it is the weighted sum of all objectives but
    `primary`, whose own weight does not count, on the frozen scale: a population is a front of preferences among right
    answers.

    Args:
        lam: How soft the choice among right answers is, in units of the weighted rewards; published .1 with one minus
            the length over the longest possible one as the reward.
        alone: A prompt whose answers are all right: "drop", as published, teaches nothing there, so that nothing gets
            shorter at an accuracy of 100 %. "rank": each by how far its share is above an even one, so that those
            below are lowered, as there is no wrong answer to take from.
        more: `primary` and `tau` of `Disco`.

    Raises:
        ConfigError: A setting out of range.
    """

    def __init__(self, *, lam: Positive = 0.1, alone: Alone = "drop", **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self.lam, self.alone = float(lam), alone

    def _collapse(self, vector: Tensor, weights: Tensor, **given: Tensor) -> Tensor:
        found = super()._collapse(vector, weights, **given)
        if self.alone == "drop":
            return found
        group = vector.shape[2]
        # in an unmixed group only right answers have anything in the other columns
        unmixed = (vector[..., self.column] == 0).all(2, keepdim=True) & (vector != 0).any(-1).any(2, keepdim=True)
        everyone = unmixed.expand(found.shape)
        ranked = group * (self._raised(vector, weights, everyone) - everyone.to(vector) / group)
        return torch.where(unmixed, ranked, found)

    def _raised(self, vector: Tensor, weights: Tensor, right: Tensor) -> Tensor:
        others = weights.clone()
        others[:, self.column] = 0
        return _softmax_among((vector * others[:, None, None, :]).sum(-1) / self.lam, right)


def _mixed(right: Tensor, known: Tensor) -> Tensor:
    """[K, N, 1, 1] whether a prompt has right answers and wrong ones."""
    count = right.sum(2, keepdim=True)
    return (count > 0) & (count < known.sum(2, keepdim=True))


def _softmax_among(score: Tensor, counted: Tensor) -> Tensor:
    """Softmax over the group [K, N, G] of those that count; 0 for the others, and where none does."""
    shown = torch.where(counted, score, torch.full_like(score, -torch.inf))
    shown = torch.where(counted.any(2, keepdim=True), shown, torch.zeros_like(shown))
    return shown.softmax(2) * counted
