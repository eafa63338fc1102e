"""Preferences that follow what was measured: spread apart where policies crowd, moved to where the front is open.

References:
    Czyzżak and Jaszkiewicz, "Pareto simulated annealing: a metaheuristic technique for multiple-objective combinatorial
        optimization", Journal of Multi-Criteria Decision Analysis 7, 1998 (PSA: the multiplicative step).
    Felten et al., "Multi-Objective Reinforcement Learning Based on Decomposition: A Taxonomy and Framework",
        arXiv 2311.12495 (PSA for policies).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from pareto_align.arguments import Count, NotNegative, Share, Within
from pareto_align.discovery.explorers.allocation import Allocation
from pareto_align.discovery.explorers.base import Exploration, Explorer, Task, register_explorer
from pareto_align.discovery.explorers.checks import check_keys, require
from pareto_align.discovery.explorers.openings import find_gaps, nearest_parent, widest
from pareto_align.front import preferences as simplex
from pareto_align.weighting.base import normalize_rows

__all__ = ["Adaptive", "spread_apart"]


def spread_apart(
    values: np.ndarray, points: np.ndarray, preferences: np.ndarray, *, delta: float, distance: float
) -> np.ndarray:
    """One step of PSA: each policy gets more weight where it is ahead of its nearest rival, so that the two part.

        w_j <- w_j (1 + delta)  if the policy is as good as its rival in objective j,   else  w_j / (1 + delta);  then
        w  <- w / sum w

    Args:
        values: `[K, m]` what the policies reach; a NaN row keeps its preference.
        points: `[n, m]` what was reached before; the rival is the nearest one that is farther away than `distance`.
        preferences: `[K, m]`, all positive: a weight of 0 would stay 0.
        delta: Size of the step.
        distance: In the units of the values.

    Returns:
        New preferences `[K, m]` on the simplex.
    """
    moved = preferences.copy()
    for k, own in enumerate(values):
        apart = np.linalg.norm(points - own, axis=1) if np.isfinite(own).all() else np.zeros(0)
        rivals = np.flatnonzero(apart > distance)
        if len(rivals):
            rival = points[rivals[apart[rivals].argmin()]]
            moved[k] = moved[k] * np.where(own >= rival, 1 + delta, 1 / (1 + delta))
    return np.asarray(normalize_rows(moved))


@register_explorer("adaptive")
class Adaptive(Explorer):
    """A grid whose preferences adapt: PSA pushes policies apart, free slots move to the widest gap of the front.

    A slot is free once its policy added nothing to the front in `patience` measurements in a row. It goes on from the
    archived policy nearest to the gap, for the preference halfway between those of the gap's ends.

    Args:
        rule: "gap" moves free slots, "psa" adapts the preferences of all, "both" does both.
        delta: Step of PSA.
        distance: PSA leaves out rivals nearer than this, in the frame.
        margin: Weight that every objective keeps under PSA, whose steps multiply.
        settle: Share of the run before anything moves.
        freeze: Share of the run after which nothing moves.
        patience: Measurements without gain until a slot is free.
        least: Gain, as a share of the hypervolume, that counts as one.
        most: Largest share of the slots that moves at a time.
        resolution: A gap counts from this many standard errors of its width on.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        *,
        rule: Literal["gap", "psa", "both"] = "gap",
        delta: NotNegative = 0.1,
        distance: NotNegative = 0.05,
        margin: Annotated[float, Within(least=1e-6, most=0.1)] = 0.01,
        settle: Share = 0.3,
        freeze: Share = 0.8,
        patience: Count = 2,
        least: Share = 1e-3,
        most: Share = 0.5,
        resolution: NotNegative = 2.0,
    ) -> None:
        self.rule = rule
        self.delta = float(delta)
        self.distance = float(distance)
        self.margin = float(margin)
        self.resolution = float(resolution)
        self.allocation = Allocation(self.name, settle=settle, freeze=freeze, patience=patience, least=least, most=most)
        self.tried: list[np.ndarray] = []

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        require(self.name, names, population, objectives=2)
        self.allocation.begin(population)
        self.tried = []
        grid = simplex.grid(len(names), population)
        return grid if self.rule == "gap" else simplex.interior(grid, min(self.margin, 0.5 / len(names)))

    def propose(self, state: Exploration) -> Sequence[Task | None]:
        """See `Explorer.propose`."""
        tasks: list[Task | None] = [None] * len(state.preferences)
        free = self.allocation.free(state)
        if self.rule != "gap" and self.allocation.settle <= state.progress <= self.allocation.freeze:
            tasks = self._apart(state)
        if self.rule != "psa":
            gaps = find_gaps(state, resolution=self.resolution)
            for slot, gap in zip(free, widest(gaps, self.tried, len(free)), strict=False):
                parent = nearest_parent(state, gap.preference, gap.ends)
                ends = " and ".join(repr(entry.id) for entry in gap.ends)
                reason = f"It added nothing; the front is open between {ends} (gap {gap.width:.3f})."
                tasks[slot] = Task(gap.preference, reason, None if parent is None else parent.id)
                self.tried.append(gap.middle)
                self.allocation.moved(slot)
        return tasks

    def _apart(self, state: Exploration) -> list[Task | None]:
        points = state.points(state.archive.members())
        before = simplex.interior(state.preferences, min(self.margin, 0.5 / state.preferences.shape[1]))
        after = spread_apart(state.measured, points, before, delta=self.delta, distance=self.distance)
        return [
            Task(new, "PSA: away from the nearest policy on the front.") if np.abs(new - old).max() > 1e-6 else None
            for new, old in zip(after, before, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """See `Explorer.state_dict`."""
        return {**self.allocation.state_dict(), "tried": [point.tolist() for point in self.tried]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Explorer.load_state_dict`."""
        check_keys(self.name, state, {"idle", "tried"})
        self.allocation.load_state_dict({"idle": state["idle"]})
        self.tried = [np.array(point, dtype=float) for point in state["tried"]]
