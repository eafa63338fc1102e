"""Credit: from rewards to one advantage a completion, in two steps, so that a vector stays a vector in between.

`vector` compares a completion with its peers, objective by objective: [K, N, G, m] -> [K, N, G, m]. `combine` lets the
weighting collapse the objectives: [K, N, G, m] x [K, m] -> [K, N, G]. Policy k's advantages depend on policy k's
rewards and weights only. Most methods collapse by the weighted sum; "pama" and "rvpo" compare a completion's objectives
with each other.

A row of weights has a direction w / sum(w), the trade, and a sum, the strength of that policy's step. Estimators that
divide by a standard deviation after mixing would cancel the strength, so with `applies_to="advantage"` they are given
the direction and their result is multiplied by the sum; with `applies_to="reward"` the weights act first, as in the
papers that scale the reward, and the strength is lost (up to the estimator's epsilon).

A missing reward is NaN: it is left out of means and deviations and contributes nothing.

References:
    Kool et al., "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019, and Ahmadian et al., "Back to Basics:
        Revisiting REINFORCE Style Optimization", arXiv 2402.14740 (rloo).
    Shao et al., "DeepSeekMath", arXiv 2402.03300 (grpo).
    Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective", arXiv 2503.20783 (dr_grpo).
    Liu et al., "GDPO: Group reward-Decoupled Normalization Policy Optimization for Multi-reward RL Optimization",
        arXiv 2601.05242 (gdpo).
    Hu et al., "REINFORCE++", arXiv 2501.03262 (reinforce).
    He and Maghsudi, "Pareto Multi-Objective Alignment for Language Models", arXiv 2508.07768 (pama). Its authors' code
        was not found; `granularity="batch"` is what https://github.com/yining610/ctwa has under that name.
    Wang et al., "Arithmetic Control of LLMs for Diverse User Preferences: Directional Preference Alignment with
        Multi-Objective Rewards", arXiv 2402.18571, with rejection-sampling fine-tuning as its training (best). There
        the best of all steps so far are fine-tuned on anew; here each step follows its own.
    Montero, Jurczyk and Dhingra, "RVPO: Risk-Sensitive Alignment via Variance Regularization", arXiv 2605.05750 (rvpo).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pareto_align.arguments import KeepsArguments, Positive
from pareto_align.errors import ConfigError
from pareto_align.learning.losses import centre
from pareto_align.objectives import Objective
from pareto_align.registry import Registry

__all__ = [
    "Best",
    "Centred",
    "Credit",
    "DrGrpo",
    "Gdpo",
    "Grpo",
    "Pama",
    "Reinforce",
    "Rloo",
    "Rvpo",
    "available_credits",
    "closest_to_zero",
    "credits",
    "make_credit",
    "register_credit",
]

Granularity = Literal["sample", "batch"]
Saturated = Literal["leave_out", "block"]


class Credit(KeepsArguments, ABC):
    """How a completion is compared with its peers.

    Attributes:
        name: The name it is registered under.
        needs_group: It compares completions of one prompt, so G must be at least 2.
        needs_logprobs: Its collapse goes by how likely a completion is as well.
    """

    kind = "Learner"
    name: ClassVar[str] = ""
    needs_group: ClassVar[bool] = True
    needs_logprobs: ClassVar[bool] = False

    def check(self, objectives: Sequence[Objective]) -> None:
        """See before a run whether these m optimized objectives are what it can work with; by default any are.

        Raises:
            ConfigError: They are not.
        """

    def vector(self, rewards: Tensor) -> Tensor:
        """Vector advantages [K, N, G, m] of `rewards` [K, N, G, m] (on the frozen scale, maximised, NaN = missing).

        Raises:
            ConfigError: Not four dimensions, or a group of one where the method needs peers.
        """
        if rewards.ndim != 4:
            raise ConfigError(f"Rewards must have shape [K, N, G, m]. Found {list(rewards.shape)}.")
        if self.needs_group and rewards.shape[2] < 2:
            raise ConfigError(
                f"Credit '{self.name}' compares completions of one prompt: group_size must be at least 2."
            )
        rewards = rewards if rewards.dtype == torch.float64 else rewards.float()
        return torch.nan_to_num(self._vector(rewards), nan=0.0)

    def combine(
        self, vector: Tensor, weights: Tensor, *, applies_to: str = "advantage", logprobs: Tensor | None = None
    ) -> Tensor:
        """Advantages [K, N, G] of vector advantages [K, N, G, m] under `weights` [K, m].

        They carry `against_peers`, so that a charge on a completion is compared with its peers as its rewards were.

        The strength of a row is the sum of its magnitudes, which for non-negative weights is its sum.

        Args:
            vector: [K, N, G, m] from `vector`.
            weights: [K, m].
            applies_to: Whether weights act on the advantage, or on the reward before it is normalised.
            logprobs: [K, N, G] mean log-probability of a completion's tokens, for a credit that `needs_logprobs`;
                without it all completions count as equally likely.

        Raises:
            ConfigError: The shapes do not belong together, or `applies_to` is unknown.
        """
        if weights.shape != (vector.shape[0], vector.shape[-1]):
            raise ConfigError(
                f"Weights must have shape [K, m] = {[vector.shape[0], vector.shape[-1]]}. Found {list(weights.shape)}."
            )
        if applies_to not in ("advantage", "reward"):
            raise ConfigError(f"`applies_to` must be 'advantage' or 'reward'. Found {applies_to!r}.")
        weights = weights.to(vector)
        strength = weights.abs().sum(dim=1)
        given = {} if logprobs is None or not self.needs_logprobs else {"logprobs": logprobs.to(vector)}
        if applies_to == "reward":
            found = self._normalize(self._collapse(vector, weights, **given))
        else:
            direction = weights / torch.where(strength > 0, strength, torch.ones_like(strength))[:, None]
            found = self._normalize(self._collapse(vector, direction, **given)) * strength[:, None, None]
        found.against_peers = self.against_peers  # type: ignore[attr-defined]
        return found

    def against_peers(self, cost: Tensor) -> Tensor:
        """What a cost of each completion [K, N, G] takes from its advantage, [K, N, G]: the cost less its peers' mean.

        On the scale of `cost`: methods that divide rewards by their spread do not divide the KL.
        """
        return centre(cost)

    @property
    def linear(self) -> bool:
        """Whether the combined advantage is the weighted sum of the vector, with no normalisation after mixing."""
        return type(self)._normalize is Credit._normalize and type(self)._collapse is Credit._collapse

    @abstractmethod
    def _vector(self, rewards: Tensor) -> Tensor:
        """Vector advantages [K, N, G, m]; NaN is allowed where the reward is NaN."""

    def _collapse(self, vector: Tensor, weights: Tensor, **given: Tensor) -> Tensor:
        """One advantage a completion, [K, N, G, m] x [K, m] -> [K, N, G]: for most methods the weighted sum.

        One that `needs_logprobs` is given `logprobs` [K, N, G].
        """
        return (vector * weights[:, None, None, :]).sum(dim=-1)

    def _normalize(self, scalar: Tensor) -> Tensor:
        """Normalisation after mixing [K, N, G] -> [K, N, G]; most methods have none."""
        return scalar


credits: Registry[Credit] = Registry("learner", Credit)  # type: ignore[type-abstract]
register_credit = credits.register
make_credit = credits.make


def available_credits() -> list[str]:
    """Names of all registered credits, sorted."""
    return credits.names()


def _centre(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`x` minus its mean over `dims` without the NaNs, and how many values that mean had (kept dims).

    Where all present values are equal the result is exactly 0: the rounding error of a mean must not become an
    advantage when a method divides it by an equally small deviation.
    """
    present = ~torch.isnan(x)
    count = present.sum(dim=dims, keepdim=True)
    mean = torch.nan_to_num(x).sum(dim=dims, keepdim=True) / count.clamp(min=1)
    low = torch.where(present, x, torch.full_like(x, torch.inf)).amin(dim=dims, keepdim=True)
    high = torch.where(present, x, torch.full_like(x, -torch.inf)).amax(dim=dims, keepdim=True)
    centred = torch.where(high > low, x - mean, torch.zeros_like(x))
    return torch.where(present, centred, torch.full_like(x, torch.nan)), count


def _deviation(centred: Tensor, count: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sample standard deviation (n - 1) of centred values with NaN where missing, kept dims; 0 for fewer than two."""
    return (torch.nan_to_num(centred).square().sum(dim=dims, keepdim=True) / (count - 1).clamp(min=1)).sqrt()


@register_credit("centred")
class Centred(Credit):
    """Minus the group mean, per objective.

    The rewards are on a frozen scale already, so nothing is divided here: a weight keeps its meaning for every prompt,
    and a group that agrees is not blown up.
    """

    def _vector(self, rewards: Tensor) -> Tensor:
        return _centre(rewards, (2,))[0]


@register_credit("dr_grpo")
class DrGrpo(Centred):
    """Dr.GRPO's advantage, R - mean of the group: the same as "centred"; the paper's other change is in the loss."""


@register_credit("rloo")
class Rloo(Credit):
    """Minus the mean of the *other* completions of the prompt: n / (n - 1) times the centred value."""

    def _vector(self, rewards: Tensor) -> Tensor:
        centred, count = _centre(rewards, (2,))
        return centred * count / (count - 1).clamp(min=1)

    def against_peers(self, cost: Tensor) -> Tensor:
        """Less the mean of the *other* completions, as rewards are."""
        return self._vector(cost[..., None])[..., 0]


@register_credit("grpo")
class Grpo(Credit):
    """Mix, then divide by the standard deviation of the mix within the group; a group without spread gives 0.

    An objective's pull is its weight times its standard deviation in the group, and a common factor on all rewards
    cancels.
    """

    epsilon = 1e-6

    def _vector(self, rewards: Tensor) -> Tensor:
        return _centre(rewards, (2,))[0]

    def _normalize(self, scalar: Tensor) -> Tensor:
        # Already centred: every objective is, over its present values, and the missing ones are 0.
        deviation = scalar.square().sum(dim=2, keepdim=True).div(scalar.shape[2] - 1).sqrt()
        # Objectives that cancel each other leave rounding errors; those are no advantage.
        return torch.where(deviation > self.epsilon, scalar / (deviation + self.epsilon), torch.zeros_like(scalar))


@register_credit("gdpo")
class Gdpo(Credit):
    """z-score each objective within the group, mix, then whiten the mix over the policy's batch."""

    epsilon = 1e-4

    def _vector(self, rewards: Tensor) -> Tensor:
        centred, count = _centre(rewards, (2,))
        return centred / (_deviation(centred, count, (2,)) + self.epsilon)

    def _normalize(self, scalar: Tensor) -> Tensor:
        centred, count = _centre(scalar, (1, 2))
        return centred / (_deviation(centred, count, (1, 2)) + self.epsilon)


@register_credit("reinforce")
class Reinforce(Credit):
    """REINFORCE with the policy's batch mean as baseline, whitened over the batch after mixing (as REINFORCE++ does).

    Works with one completion a prompt. REINFORCE++ whitens over tokens, so long completions count more; here every
    completion counts once.
    """

    needs_group = False
    epsilon = 1e-8

    def _vector(self, rewards: Tensor) -> Tensor:
        return _centre(rewards, (1, 2))[0]

    def _normalize(self, scalar: Tensor) -> Tensor:
        centred, count = _centre(scalar, (1, 2))
        return centred / (_deviation(centred, count, (1, 2)).square() + self.epsilon).sqrt()


@register_credit("best")
class Best(Credit):
    """1 for the completion of a prompt that is best under the weights, 0 for the others: fine-tuning on the best of G.

    Several that are equally good share it; from a group that agrees nothing is learnt. Nothing is ever pushed down, so
    entropy falls faster than with credits that compare.
    """

    epsilon = 1e-6

    def _vector(self, rewards: Tensor) -> Tensor:
        return _centre(rewards, (2,))[0]

    def _normalize(self, scalar: Tensor) -> Tensor:
        top = scalar.amax(dim=2, keepdim=True)
        # objectives that cancel each other leave rounding errors, which make nothing the best
        best = (scalar >= top - self.epsilon) & (top - scalar.amin(dim=2, keepdim=True) > self.epsilon)
        return best.to(scalar) / best.sum(dim=2, keepdim=True).clamp(min=1)


def closest_to_zero(values: Tensor, counted: Tensor) -> Tensor:
    """The convex combination of `values` [..., m] that is closest to 0: 0 projected on [smallest, largest], [...].

    Args:
        values: [..., m].
        counted: [..., m] which of them count; 0 where none does.
    """
    smallest = torch.where(counted, values, torch.full_like(values, torch.inf)).amin(-1)
    largest = torch.where(counted, values, torch.full_like(values, -torch.inf)).amax(-1)
    found = smallest.clamp(min=0) + largest.clamp(max=0)
    return torch.where(counted.any(-1), found, torch.zeros_like(found))


@register_credit("pama")
class Pama(Gdpo):
    """PAMA: a completion is worth what the objective that gains least from it gains.

        a_i = max(z_i, 0)         s = argmin over the convex combinations of the a_i of s^2 = min_i a_i

    z_i are the z-scores within the group. With advantages that are never negative ("Noon") the min-norm problem of MGDA
    has an upper bound in the advantages alone, whose solution is this projection of 0 on [min a_i, max a_i].

    The weights say which objectives have a say (any but 0; a negative one turns its objective round) and, by their sum,
    how strong the step is; the trade between them is not used. So all policies of a population head the same way,
    wherever their preferences point: a method for one policy, or a baseline.

    Only completions above their group's mean in *every* objective are reinforced (a missing reward counts as the mean),
    nothing is ever pushed down, and the advantages have a mean above 0. Entropy falls faster than with other credits.

    Args:
        granularity: "sample": each completion by itself (with one reward a completion, each token too). "batch": the
            objectives' advantages are averaged over the policy's batch first and every completion gets the same s. That
            keeps no credit at all, so on-policy the expected update is 0: for comparison only.
        saturated: What an objective in which a group agrees does to that group. "leave_out" (default): it has no say
            there. "block", as published: it is at 0 for all, so that nothing in the group is reinforced.
        noon: False keeps negative advantages inside the projection: s is then 0 wherever two objectives disagree, and
            otherwise the smaller of the gains or of the losses.

    Raises:
        ConfigError: A setting that does not exist.
    """

    def __init__(
        self, *, granularity: Granularity = "sample", saturated: Saturated = "leave_out", noon: bool = True
    ) -> None:
        self.granularity, self.saturated, self.noon = granularity, saturated, bool(noon)

    def _collapse(self, vector: Tensor, weights: Tensor, **given: Tensor) -> Tensor:
        turned = vector * weights.sign()[:, None, None, :]
        counted = (weights != 0)[:, None, None, :].expand_as(vector)
        if self.saturated == "leave_out":
            counted = counted & (vector != 0).any(dim=2, keepdim=True)
        gains = turned.clamp(min=0) if self.noon else turned
        if self.granularity == "sample":
            return closest_to_zero(gains, counted)
        seen = counted.sum(dim=(1, 2))
        means = torch.where(counted, gains, torch.zeros_like(gains)).sum(dim=(1, 2)) / seen.clamp(min=1)
        return closest_to_zero(means, seen > 0)[:, None, None].expand(vector.shape[:3]).clone()

    def _normalize(self, scalar: Tensor) -> Tensor:
        return scalar


@register_credit("rvpo")
class Rvpo(Gdpo):
    """RVPO: the soft minimum of a completion's z-scores in place of their mean, whitened over the batch as in "gdpo".

        A = -(1/k) log( sum_i w_i exp(-k z_i) )         about  mean - k/2 variance,  both with weights w

    A completion that fails one objective is not made good by the others. k near 0 is "gdpo", a large k counts the worst
    objective only. The published form has even weights. A negative weight counts its objective turned round.

    Args:
        k: How much the worst objective counts, per standard deviation.

    Raises:
        ConfigError: `k` is not a positive number.
    """

    def __init__(self, *, k: Positive = 1.0) -> None:
        self.k = float(k)

    def _collapse(self, vector: Tensor, weights: Tensor, **given: Tensor) -> Tensor:
        turned = vector * weights.sign()[:, None, None, :]
        shares = weights.abs().log()[:, None, None, :]
        found = -torch.logsumexp(shares - self.k * turned, dim=-1) / self.k
        # A row of zeros has no objective to look at.
        return torch.where((weights != 0).any(dim=1)[:, None, None], found, torch.zeros_like(found))
