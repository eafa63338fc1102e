"""What objectives say to a batch, before it counts; here, or in another process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ObjectiveError
from pareto_align.objectives.attempts import Asked, Turns, answers
from pareto_align.objectives.calling import RewardCall, checked_rewards
from pareto_align.objectives.objective import Objective

__all__ = ["Elsewhere", "Verdict", "verdicts"]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What an objective said to a batch, before it counts.

    Attributes:
        rewards: [B] in the user's units; NaN where it does not apply.
        not_numbers: How many of them were NaN when they came.
        failures: How often it had to be asked again.
        left: What of torch's state it left changed, in words.
    """

    rewards: NDArray[np.float64]
    not_numbers: int
    failures: int
    left: tuple[str, ...]

    @classmethod
    def together(cls, parts: Sequence[Verdict]) -> Verdict:
        """What it said to several batches, one after the other."""
        left = tuple(text for part in parts for text in part.left)
        rewards = np.concatenate([part.rewards for part in parts])
        return cls(rewards, sum(part.not_numbers for part in parts), sum(part.failures for part in parts), left)


class Elsewhere(Protocol):
    """Other processes that have some of the objectives.

    Attributes:
        columns: Those that they have.
    """

    columns: frozenset[int]

    def begin(
        self, batch: RewardCall, columns: Sequence[int], answered: Collection[str]
    ) -> list[Future[dict[int, Verdict]]]:
        """Have a batch judged by some of these objectives; may be called in a thread.

        Args:
            batch: What is judged.
            columns: The objectives.
            answered: Names of those that have answered in this run.

        Returns:
            Verdicts by column, each column in one of them. Whoever waits no more cancels.
        """


def verdicts(
    objectives: Sequence[Objective], batch: RewardCall, answered: Collection[str], turns: Turns | None = None
) -> list[Verdict]:
    """What objectives say to a batch in this process.

    Args:
        objectives: That are asked.
        batch: What is judged.
        answered: Names of those that have answered in this run.
        turns: Shared by the threads that judge.

    Raises:
        ObjectiveError: As `ObjectiveSet.score`, but for NaN.
    """
    asked = [Asked(o.name, _judge(o), o.timeout_s, o.retries, o.name in answered, o.thread_safe) for o in objectives]
    return [
        Verdict(*checked_rewards(o.name, a.returned, batch.completions, refuse=False), a.failures, a.left)
        for o, a in zip(objectives, answers(asked, batch, turns), strict=True)
    ]


def _judge(objective: Objective) -> Callable[..., Any]:
    if objective.reward is None:
        raise ObjectiveError(
            f"Objective {objective.name!r} has no reward function, so it cannot judge an answer: it is known by its "
            f"labels only (prefers={objective.prefers!r}). Give it a `reward`."
        )
    return objective.reward
