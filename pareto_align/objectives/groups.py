"""Rewards that count for one group of users only, by a column of the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives.calling import RewardCall, RewardFunction
from pareto_align.objectives.composed import ComposedReward, compose, reward_name
from pareto_align.objectives.objective import Objective
from pareto_align.objectives.sharing import shared

__all__ = ["of_group"]


class OfGroup(ComposedReward):
    """A reward for the prompts of one group; made by `of_group`."""

    def __init__(self, members: Sequence[RewardFunction], name: str, column: str, group: Any) -> None:
        super().__init__(members, name)
        self._column = column
        self._group = group

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns it reads itself."""
        return (self._column,)

    def combine(self, answers: Sequence[NDArray[np.float64]], batch: RewardCall) -> NDArray[np.float64]:
        """The member's rewards in the rows of the group."""
        if self._column not in batch.columns:
            have = ", ".join(repr(column) for column in batch.columns) or "no further columns"
            raise ObjectiveError(
                f"{self.name} reads the group from the column {self._column!r}, which the prompts do not have "
                f"(they have: {have})."
            )
        mine = [bool(value == self._group) for value in batch.columns[self._column]]
        return np.where(mine, answers[0], np.nan)


def of_group(reward: RewardFunction, *, column: str, group: Any, name: str | None = None) -> ComposedReward:
    """A reward for the prompts of one group of users, None for those of others.

    One objective a group, of the same reward: then a front trades the groups, and `weighting="maxmin"` leaves none of
    them behind, as in "MaxMin-RLHF: Alignment with Diverse Human Preferences" (arXiv 2402.08925), where each group has
    a reward model of its own. The expectation of a group is over its own prompts, however few they are.

    Args:
        reward: Any reward. It is computed once a batch for all groups, see `shared`.
        column: The column of the prompts that says which group a prompt is of.
        group: The group's value there.
        name: What to call it; by default ``<reward>_of_<group>``.

    Raises:
        ConfigError: `column` is no name.
        ObjectiveError: `reward` is no reward function; when it is called, the prompts do not have the column.
    """
    if not isinstance(column, str) or not column:
        raise ConfigError(f"of_group needs the name of a column. Found {column!r}.")
    member = reward if isinstance(reward, Objective) else shared(reward)
    return compose(OfGroup, [member], name or f"{reward_name(reward)}_of_{group}", column, group)
