"""Credit: from rewards to one advantage a completion, in two steps, so that a vector stays a vector in between.

`vector` compares a completion with its peers, objective by objective: [K, N, G, m] -> [K, N, G, m]. `combine` lets the
weighting collapse the objectives: [K, N, G, m] x [K, m] -> [K, N, G]. Policy k's advantages depend on policy k's
rewards and weights only.

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
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from pareto_align.errors import ConfigError

__all__ = [
    "Centred",
    "Credit",
    "DrGrpo",
    "Gdpo",
    "Grpo",
    "Reinforce",
    "Rloo",
    "available_credits",
    "make_credit",
    "register_credit",
]


class Credit(ABC):
    """How a completion is compared with its peers.

    Attributes:
        name: The name it is registered under.
        needs_group: It compares completions of one prompt, so G must be at least 2.
    """

    name: ClassVar[str] = ""
    needs_group: ClassVar[bool] = True

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

    def combine(self, vector: Tensor, weights: Tensor, *, applies_to: str = "advantage") -> Tensor:
        """Advantages [K, N, G] of vector advantages [K, N, G, m] under `weights` [K, m].

        The strength of a row is the sum of its magnitudes, which for non-negative weights is its sum.

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
        if applies_to == "reward":
            return self._normalize(_mix(vector, weights))
        strength = weights.abs().sum(dim=1)
        direction = weights / torch.where(strength > 0, strength, torch.ones_like(strength))[:, None]
        return self._normalize(_mix(vector, direction)) * strength[:, None, None]

    @property
    def linear(self) -> bool:
        """Whether the combined advantage is the weighted sum of the vector, with no normalisation after mixing."""
        return type(self)._normalize is Credit._normalize

    @abstractmethod
    def _vector(self, rewards: Tensor) -> Tensor:
        """Vector advantages [K, N, G, m]; NaN is allowed where the reward is NaN."""

    def _normalize(self, scalar: Tensor) -> Tensor:
        """Normalisation after mixing [K, N, G] -> [K, N, G]; most methods have none."""
        return scalar


_REGISTRY: dict[str, type[Credit]] = {}
_C = TypeVar("_C", bound=type[Credit])


def register_credit(name: str) -> Callable[[_C], _C]:
    """Class decorator: make a credit available by `name`.

    Raises:
        ConfigError: The name is taken by another class.
    """

    def add(cls: _C) -> _C:
        known = _REGISTRY.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"A credit named '{name}' exists already: {known.__module__}.{known.__qualname__}.")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return add


def make_credit(credit: str | Credit) -> Credit:
    """The credit of that name; an instance is handed back as it is.

    Raises:
        ConfigError: Unknown name (the nearest known one is named).
    """
    if isinstance(credit, Credit):
        return credit
    if not isinstance(credit, str):
        raise ConfigError(f"A credit is a name or an instance of Credit. Found {credit!r}.")
    if credit not in _REGISTRY:
        close = difflib.get_close_matches(credit, _REGISTRY, n=1, cutoff=0.0)
        known = ", ".join(available_credits())
        raise ConfigError(f"Unknown learner '{credit}'. Nearest: '{close[0]}'. Available: {known}.")
    return _REGISTRY[credit]()


def available_credits() -> list[str]:
    """Names of all registered credits, sorted."""
    return sorted(_REGISTRY)


def _mix(vector: Tensor, weights: Tensor) -> Tensor:
    """sum_m w_km a_kngm: [K, N, G, m] x [K, m] -> [K, N, G]."""
    return (vector * weights[:, None, None, :]).sum(dim=-1)


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
    """Minus the group mean, per objective (the default).

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
