"""Ensembles of rewards: several judges of one thing as one objective, and how far they agree.

References:
    Coste et al. (2023), Reward Model Ensembles Help Mitigate Overoptimization (arXiv 2310.02743): the rules WCO and
        UWO. Its code takes the unbiased variance when training and the population variance for best-of-n; here it is
        the unbiased one. Its lambda is 0.1 in training and 0.5 for best-of-n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives.calling import RewardCall, RewardFunction
from pareto_align.objectives.composed import ComposedReward, compose, finite, reward_name
from pareto_align.objectives.objective import Objective
from pareto_align.objectives.objective_set import ObjectiveSet
from pareto_align.objectives.sharing import shared

__all__ = ["Ensemble", "ensemble"]

RULES = ("mean", "wco", "uwo", "std")


class Ensemble(ComposedReward):
    """Several rewards as one; made by `ensemble`.

    Attributes:
        members: The k members, each shared (see `shared`).
        rule: "mean", "wco", "uwo" or "std".
        coefficient: The lambda of "uwo".
        standardization: Mean and standard deviation that each member is brought to zero and one with; None uses the
            members' own units.
    """

    def __init__(
        self,
        members: Sequence[RewardFunction],
        name: str,
        rule: str,
        coefficient: float,
        standardization: tuple[tuple[float, float], ...] | None,
    ) -> None:
        super().__init__(members, name)
        self.rule = rule
        self.coefficient = coefficient
        self.standardization = standardization

    def combine(self, answers: Sequence[NDArray[np.float64]], batch: RewardCall) -> NDArray[np.float64]:
        """The rule over the members that answered."""
        rewards = np.stack(answers, axis=1)
        if self.standardization is not None:
            means, stds = np.array(self.standardization).T
            rewards = (rewards - means) / stds
        return _combined(rewards, self.rule, self.coefficient)

    def disagreement(self) -> ComposedReward:
        """The members' standard deviation about one completion, as a reward function: an objective to audit.

        Members disagree where they were not trained to judge, so a disagreement that grows during training means that
        the policy has left what the members know. It judges together with this ensemble: no member is asked twice.
        """
        name = f"disagreement of {self.name}"
        return compose(Ensemble, self.members, name, "std", self.coefficient, self.standardization)

    def agreement(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Sequence[Any],
    ) -> dict[str, float]:
        """How each member ranks completions like the others do, for an audit of the members themselves.

        Args:
            prompts: B prompts.
            completions: B completions.
            completion_ids: B lists of token ids, where a member needs them.
            **columns: Further columns that members read, B entries each.

        Returns:
            For each member (position and name) Spearman's rank correlation of its rewards with the mean of the others'
            standardized ones, over the completions that all judged: 1 is the same order, 0 none, below 0 the opposite.
            NaN where a member never varies.

        Raises:
            ObjectiveError: Fewer than three completions are judged by all members, or a member misbehaved.
        """
        from scipy.stats import rankdata

        rewards = self._member_rewards(prompts, completions, completion_ids, columns)
        rewards = rewards[~np.isnan(rewards).any(axis=1)]
        if len(rewards) < 3:
            raise ObjectiveError(
                f"{self.name}: agreement needs at least 3 completions that all members judge. Found {len(rewards)}."
            )
        std = rewards.std(axis=0)
        scores = (rewards - rewards.mean(axis=0)) / np.where(std > 0, std, 1.0)
        found: dict[str, float] = {}
        for i, member in enumerate(self.members):
            own, others = rankdata(scores[:, i]), rankdata(np.delete(scores, i, axis=1).mean(axis=1))
            varies = np.ptp(own) > 0 and np.ptp(others) > 0
            found[f"{i} {reward_name(member)}"] = float(np.corrcoef(own, others)[0, 1]) if varies else float("nan")
        return found

    def standardized(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Sequence[Any],
    ) -> Ensemble:
        """The same ensemble with its members brought to one scale, measured on these completions and then frozen.

        Args:
            prompts: B prompts.
            completions: B completions of the model before training.
            completion_ids: B lists of token ids, where a member needs them.
            **columns: Further columns that members read, B entries each.

        Raises:
            ObjectiveError: A member judges fewer than two of them, or all the same.
        """
        rewards = self._member_rewards(prompts, completions, completion_ids, columns)
        standardization = []
        for member, column in zip(self.members, rewards.T, strict=True):
            measured = column[~np.isnan(column)]
            if len(measured) < 2 or np.ptp(measured) == 0:
                raise ObjectiveError(
                    f"{self.name}: the member {reward_name(member)} does not vary over these {len(column)} "
                    "completions, so it has no scale; give more completions, or leave it out."
                )
            standardization.append((float(measured.mean()), float(measured.std())))
        return compose(Ensemble, self.members, self.name, self.rule, self.coefficient, tuple(standardization))

    def _member_rewards(
        self, prompts: Sequence[Any], completions: Sequence[Any], ids: Any, columns: dict[str, Sequence[Any]]
    ) -> NDArray[np.float64]:
        """`[B, k]` in the members' own units, NaN where one does not apply. Nothing is learned from it."""
        members = [Objective(f"{i} {reward_name(member)}", member) for i, member in enumerate(self.members)]
        return ObjectiveSet(members).score(prompts, completions, columns, ids, training=False)


def ensemble(
    members: Sequence[RewardFunction],
    rule: str = "mean",
    *,
    coefficient: float = 0.1,
    standardization: Sequence[tuple[float, float]] | None = None,
    name: str | None = None,
) -> Ensemble:
    """Several rewards of one thing as one objective, so that what fools one of them pays less.

    | rule | reward of a completion |
    |---|---|
    | `"mean"` | the members' mean |
    | `"wco"` | worst case: the smallest |
    | `"uwo"` | uncertainty-weighted: mean minus `coefficient` times the unbiased variance |
    | `"std"` | the members' standard deviation: nothing to optimize, but to audit |

    "wco" and "uwo" compare members with each other, so these need one scale: give `standardization`, or measure it
    with `Ensemble.standardized` on answers of the untrained model. Constraints and further objectives stay outside:
    an ensemble is of judges of one thing.

    Args:
        members: k >= 2 reward functions, more being better; sync or async. Each is asked once a batch, see `shared`.
        rule: One of the table.
        coefficient: The lambda of "uwo", at least 0.
        standardization: For each member the mean and the standard deviation to bring to zero and one.
        name: What to call it; by default made of the rule and the names of the members.

    Returns:
        A reward function. A member that returns None has no say about that completion. It gets None where no member
        has one, and, by "uwo" and "std", which need a spread, where only one has.

    Raises:
        ConfigError: Fewer than two members, an unknown rule, a negative coefficient, or a standardization that is not
            one pair (mean, standard deviation above 0) a member.
        ObjectiveError: A member is no reward function.
    """
    if isinstance(members, (str, bytes)) or not isinstance(members, Sequence) or len(members) < 2:
        raise ConfigError(f"An ensemble needs a list of at least two reward functions. Found {members!r}.")
    if rule not in RULES:
        raise ConfigError(f"rule must be one of {', '.join(RULES)}. Found {rule!r}.")
    if finite(coefficient, "coefficient") < 0:
        raise ConfigError(f"coefficient must be at least 0. Found {coefficient:g}.")
    pairs = None if standardization is None else _pairs(standardization, len(members))
    name = name or f"{rule}({', '.join(map(reward_name, members))})"
    asked = [member if isinstance(member, Objective) else shared(member) for member in members]
    return compose(Ensemble, asked, name, rule, float(coefficient), pairs)


def _pairs(standardization: Sequence[tuple[float, float]], count: int) -> tuple[tuple[float, float], ...]:
    pairs = [tuple(pair) if isinstance(pair, Sequence) else () for pair in standardization]
    if len(pairs) != count or any(len(pair) != 2 for pair in pairs):
        raise ConfigError(
            f"standardization must be {count} pairs (mean, standard deviation), one a member. "
            f"Found {standardization!r}."
        )
    found = tuple((finite(mean, "A mean"), finite(std, "A standard deviation")) for mean, std in pairs)
    if any(std <= 0 for _, std in found):
        raise ConfigError(f"A standard deviation must be above 0. Found {standardization!r}.")
    return found


def _combined(rewards: NDArray[np.float64], rule: str, coefficient: float) -> NDArray[np.float64]:
    """`[B]` from members' rewards `[B, k]`, NaN where a member has no say."""
    known = ~np.isnan(rewards)
    number = known.sum(axis=1)
    if rule == "wco":
        return np.where(number > 0, np.where(known, rewards, np.inf).min(axis=1), np.nan)
    mean = np.where(known, rewards, 0.0).sum(axis=1) / np.maximum(number, 1)
    if rule == "mean":
        return np.where(number > 0, mean, np.nan)
    squares = np.where(known, (rewards - mean[:, None]) ** 2, 0.0).sum(axis=1)
    variance = np.where(number > 1, squares / np.maximum(number - 1, 1), np.nan)
    return np.sqrt(variance) if rule == "std" else mean - coefficient * variance
