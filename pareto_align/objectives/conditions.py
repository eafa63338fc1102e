"""Rewards that count only where another one passed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ConfigError
from pareto_align.objectives.calling import RewardCall, RewardFunction
from pareto_align.objectives.composed import ComposedReward, compose, finite, reward_name
from pareto_align.objectives.objective import Objective
from pareto_align.objectives.sharing import shared

__all__ = ["conditioned"]


class Conditioned(ComposedReward):
    """A reward that counts only where another passed; made by `conditioned`."""

    def __init__(
        self, members: Sequence[RewardFunction], name: str, sign: float, threshold: float, otherwise: float
    ) -> None:
        super().__init__(members, name)
        self._sign = sign
        self._threshold = threshold
        self._otherwise = otherwise

    def combine(self, answers: Sequence[NDArray[np.float64]], batch: RewardCall) -> NDArray[np.float64]:
        """The first member's rewards where the second passed."""
        rewards, condition = answers
        passed = self._sign * condition >= self._sign * self._threshold
        return np.where(np.isnan(condition), np.nan, np.where(passed, rewards, self._otherwise))


def conditioned(
    reward: RewardFunction,
    *,
    where: RewardFunction,  # not "on", which YAML reads as true
    at_least: float | None = None,
    at_most: float | None = None,
    otherwise: float | None = 0.0,
    name: str | None = None,
) -> ComposedReward:
    """A reward that counts only where another one passed: brevity where the answer is right, say.

    Weighed against each other, an easy objective wins over a hard one: answers become short before they become
    right. Earned only where the hard one passed, it cannot. All completions are judged by both, so a reward that
    looks at its whole batch sees the whole batch.

    With ``otherwise=0.0`` the mean on held-out prompts is the chance to pass times the mean where passed, and a
    policy cannot raise it by passing less. With ``otherwise=None`` a failed completion is left out of mean and
    baseline: what is compared is quality among those that passed, whose number another objective must look after.

    Args:
        reward: What is earned.
        where: The condition, any reward. It is computed once a batch for all conditioned on it, see `shared`.
        at_least: Passed is what `where` gives at least this.
        at_most: Or, passed is what it gives at most this. One of the two is needed.
        otherwise: The reward where not passed, in the units of `reward`; None leaves the completion out. For a reward
            that is minimized, 0 may well be the best value there is: give the worst.
        name: What to call it; by default ``<reward>_if_<where>``.

    Returns:
        A reward function. It gives None where `where` does, since nothing tells then whether it passed.

    Raises:
        ConfigError: Neither or both of the thresholds are given, or a number is not finite.
        ObjectiveError: `reward` or `where` is no reward function.
    """
    if (at_least is None) == (at_most is None):
        raise ConfigError("conditioned needs one threshold for its condition, at_least or at_most.")
    sign, threshold = (1.0, finite(at_least, "at_least")) if at_most is None else (-1.0, finite(at_most, "at_most"))
    value = math.nan if otherwise is None else finite(otherwise, "otherwise")
    members = [reward, where if isinstance(where, Objective) else shared(where)]
    return compose(
        Conditioned, members, name or f"{reward_name(reward)}_if_{reward_name(where)}", sign, threshold, value
    )
