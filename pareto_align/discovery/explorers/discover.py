"""The combination: a grid first, then slots that add nothing go where the front is open, and soups fill in between.

References:
    Liu et al., "C-MORL: Multi-Objective Reinforcement Learning through Efficient Discovery of Pareto Front",
        arXiv 2410.02236 (extension under floors).
    Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", arXiv 1603.06560 (resources go
        from what stopped improving to what may still).
    Ramé et al., "Rewarded soups: towards Pareto-optimal alignment by interpolating weights fine-tuned on diverse
        rewards", arXiv 2306.04488.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pareto_align.arguments import Count, NotNegative, Share, Whole
from pareto_align.discovery.explorers.allocation import Allocation
from pareto_align.discovery.explorers.base import Exploration, Explorer, Mixture, Task, register_explorer
from pareto_align.discovery.explorers.checks import check_keys, require
from pareto_align.discovery.explorers.openings import Gap, find_gaps, nearest_parent, widest
from pareto_align.discovery.explorers.soups import Soups
from pareto_align.front import preferences as simplex

__all__ = ["Discover", "floors_towards"]


def floors_towards(start: np.ndarray, goal: np.ndarray, room: float) -> tuple[int, np.ndarray]:
    """How to get from a point of the front to another one without trusting a preference to lead there.

    The objective in which the goal is furthest ahead is pushed. The others are kept above the goal less `room` of what
    lies between, and never above what the policy has already: it may give up as much as the goal asks for, not more.

    Args:
        start: `[m]` framed, where the policy is.
        goal: `[m]` framed, where it should get to.
        room: Slack below the goal, as a share of the distance in each objective.

    Returns:
        The objective to push, and floors `[m]`, NaN for it.
    """
    lead = goal - start
    axis = int(lead.argmax())
    floors = np.minimum(goal, start) - room * np.abs(lead)
    floors[axis] = np.nan
    return axis, floors


@register_explorer("discover")
class Discover(Explorer):
    """Grid, then reallocation, then soups: the recommended combination.

    Until `settle` it is a grid. From then on a slot whose policy added nothing to the front in `patience` measurements
    in a row is moved to the widest gap, from the end of the gap that can still learn. The first attempt at a gap trains
    for the preference halfway between those of its ends. Where that failed, as it must where a front is flat or dented
    and the weighting is linear, the next attempt pushes one objective and keeps the others above the middle of the gap
    (floors). At every measurement soups of neighbouring members are made and measured where they promise hypervolume.

    With one objective there is no gap and no soup: it is the grid.

    Args:
        settle: Share of the run before anything moves.
        freeze: Share of the run after which nothing moves.
        patience: Measurements without gain until a slot is free.
        least: Gain, as a share of the hypervolume, that counts as one.
        most: Largest share of the slots that moves at a time.
        resolution: A gap counts from this many standard errors of its width on.
        room: Slack of floors below the middle of a gap, as a share of the way there.
        soups: Largest number of soups measured at a time; 0 for none.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        *,
        settle: Share = 0.3,
        freeze: Share = 0.8,
        patience: Count = 2,
        least: Share = 1e-3,
        most: Share = 0.5,
        resolution: NotNegative = 2.0,
        room: Share = 0.1,
        soups: Whole = 2,
    ) -> None:
        self.allocation = Allocation(self.name, settle=settle, freeze=freeze, patience=patience, least=least, most=most)
        self.resolution = float(resolution)
        self.room = float(room)
        count = int(soups)
        self.soups = Soups(kinds=("neighbours",), measure=count, after=settle, resolution=resolution) if count else None
        self.tried: list[np.ndarray] = []

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        require(self.name, names, population)
        self.allocation.begin(population)
        self.tried = []
        return simplex.grid(len(names), population)

    def propose(self, state: Exploration) -> Sequence[Task | None]:
        """See `Explorer.propose`."""
        tasks: list[Task | None] = [None] * len(state.preferences)
        free = self.allocation.free(state)
        gaps = find_gaps(state, resolution=self.resolution) if free else []
        chosen = widest(gaps, self.tried, len(free))
        for slot, gap in zip(free, chosen, strict=False):
            tasks[slot] = self._fill(state, gap)
            self.allocation.moved(slot)
        self.tried += [gap.middle for gap in chosen]
        return tasks

    def _fill(self, state: Exploration, gap: Gap) -> Task:
        parent = nearest_parent(state, gap.preference, gap.ends)
        assert parent is not None  # the ends of a gap hold adapters
        where = f"the front is open between {gap.ends[0].id!r} and {gap.ends[1].id!r} (gap {gap.width:.3f})"
        if not any(gap.spans(point) for point in self.tried):
            return Task(gap.preference, f"It added nothing; {where}.", parent.id)
        axis, floors = floors_towards(state.frame(parent.estimate), gap.middle, self.room)
        preference = np.eye(len(floors))[axis]
        reason = f"It added nothing; {where}, still: push {state.names[axis]!r} and keep the rest."
        return Task(preference, reason, parent.id, floors)

    def mixtures(self, state: Exploration) -> Sequence[Mixture]:
        """See `Explorer.mixtures`."""
        return () if self.soups is None else self.soups.mixtures(state)

    def state_dict(self) -> dict[str, Any]:
        """See `Explorer.state_dict`."""
        return {**self.allocation.state_dict(), "tried": [point.tolist() for point in self.tried]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Explorer.load_state_dict`."""
        check_keys(self.name, state, {"idle", "tried"})
        self.allocation.load_state_dict({"idle": state["idle"]})
        self.tried = [np.array(point, dtype=float) for point in state["tried"]]
