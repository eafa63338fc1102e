"""C-MORL: a coarse grid first, then the most isolated policies are extended along every objective under floors.

References:
    Liu et al., "C-MORL: Multi-Objective Reinforcement Learning through Efficient Discovery of Pareto Front",
        arXiv 2410.02236, and its public code, https://github.com/RuohLiuq/C-MORL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from pareto_align.arguments import Count, NotNegative, Share
from pareto_align.discovery.explorers.base import Exploration, Explorer, Task, register_explorer
from pareto_align.discovery.explorers.checks import (
    check_keys,
    require,
)
from pareto_align.errors import ConfigError
from pareto_align.front import Entry
from pareto_align.front import preferences as simplex
from pareto_align.weighting import barrier  # noqa: F401  registers the weighting of that name

__all__ = ["CMORL", "isolation", "thresholds"]


def thresholds(values: np.ndarray, beta: float, span: np.ndarray | None = None) -> np.ndarray:
    """What an extension must keep of its parent's values `[m]`: thr_j = v_j - (1 - beta) s_j, `[m]`.

    The paper has thr_j = beta v_j, which lies *above* a negative v_j: the parent itself would violate it. Here the
    slack is (1 - beta) times a length that is never negative, so that the parent always meets its own thresholds.

    Args:
        values: `[m]` framed.
        beta: Share that is kept, 0 to 1.
        span: `[m]` lengths s, such as the range of the front in each objective; None: |v_j|, which for positive values
            is the paper's threshold.
    """
    return np.asarray(values - (1 - beta) * np.abs(values if span is None else span))


def isolation(points: np.ndarray, visited: np.ndarray, radius: float) -> np.ndarray:
    """How isolated each of the points `[n, m]` is: crowding distance that moves inwards, `[n]`.

    Crowding sums, over the objectives, the gap between the neighbours on both sides, in shares of the range. The ends
    of an objective have one neighbour only; infinity, as in NSGA-II, would choose them always. They count as if there
    were a gap of the same width on the other side. A point near which n policies were chosen before counts as
    1 / (1 + n) of its distance: nearness, since the exact numbers of a policy never come back.

    Args:
        points: `[n, m]` framed.
        visited: `[v, m]` where policies were chosen before.
        radius: In shares of the range; how near counts as the same region, in every objective.
    """
    low, span = points.min(0), np.ptp(points, axis=0)
    unit = (points - low) / np.where(span > 0, span, 1.0)
    distance = np.zeros(len(points))
    for column in unit.T:
        order = np.argsort(column, kind="stable")
        steps = np.diff(column[order])
        below, above = np.concatenate([[np.nan], steps]), np.concatenate([steps, [np.nan]])
        sides = np.stack([np.where(np.isnan(below), above, below), np.where(np.isnan(above), below, above)])
        distance[order] += np.nan_to_num(sides).sum(0)
    seen = (visited - low) / np.where(span > 0, span, 1.0)
    near = (np.abs(unit[:, None] - seen[None]) <= radius).all(-1).sum(1) if len(visited) else np.zeros(len(points))
    return np.asarray(distance / (1 + near))


@register_explorer("cmorl")
class CMORL(Explorer):
    """Two stages: a grid of preferences, then constrained extension of the most isolated members, in rounds.

    In stage 2 a slot takes a pair of a member pi and an objective l, goes on from pi's adapter and

        maximises v_l   subject to   v_j >= thr_j  for j other than l,    thr_j = v_j(pi) - (1 - beta) s_j

    with thresholds frozen from pi when the slot begins. Each chosen member is extended along all m objectives; the K
    slots work through the pairs, and what does not fit into a round waits for the next one.

    Args:
        share: Share of the run for stage 1.
        rounds: Rounds of stage 2, evenly over the steps that are left.
        beta: Share of each other objective that an extension keeps.
        span: What the rest, 1 - beta, is a share of: "range" (of the front in that objective) or "value" (of the
            parent's own framed value, as published).
        extension: Who keeps the thresholds: "lagrangian" (multipliers) or "barrier" (interior point).
        radius: A member nearer than this to one that was chosen before, in shares of the range, is in the same region.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        *,
        share: Share = 0.5,
        rounds: Count = 3,
        beta: Share = 0.9,
        span: Literal["range", "value"] = "range",
        extension: Literal["lagrangian", "barrier"] = "lagrangian",
        radius: NotNegative = 0.1,
    ) -> None:
        self.share = float(share)
        self.rounds = int(rounds)
        self.beta = float(beta)
        self.span = span
        self.floor_weighting = extension
        self.radius = float(radius)
        if self.share >= 1:
            raise ConfigError(f"Explorer 'cmorl': `share` must be below 1, or stage 2 never begins. Found {share!r}.")
        self._begin()

    def _begin(self) -> None:
        self.round = 0
        self.visited: list[list[float]] = []
        self.waiting: list[tuple[str, int]] = []

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        require(self.name, names, population, objectives=2)
        self._begin()
        return simplex.grid(len(names), population)

    def propose(self, state: Exploration) -> Sequence[Task | None]:
        """See `Explorer.propose`."""
        K = len(state.preferences)
        due = int((state.progress - self.share) / (1 - self.share) * self.rounds + 1e-9) + 1
        # members only: what fell since it was chosen is no longer worth extending
        members = {e.id: e for e in state.archive.members() if e.adapter is not None}
        if state.progress < self.share or due <= self.round or due > self.rounds or not members:
            return [None] * K
        self.round = due
        self.waiting = [(name, axis) for name, axis in self.waiting if name in members]
        chosen: set[str] = {name for name, _ in self.waiting}
        tasks: list[Task | None] = []
        points = state.points(list(members.values()))
        while len(tasks) < K:
            if not self.waiting and not self._choose(members, points, chosen):
                break
            name, axis = self.waiting.pop(0)
            tasks.append(self._extend(state, members[name], axis, points))
        return tasks + [None] * (K - len(tasks))

    def _choose(self, members: Mapping[str, Entry], points: np.ndarray, chosen: set[str]) -> bool:
        """Put the most isolated member that is not in this round yet up for extension; whether there was one."""
        names = list(members)
        worth = isolation(points, np.array(self.visited).reshape(-1, points.shape[1]), self.radius)
        open_ones = [i for i, name in enumerate(names) if name not in chosen]
        # without any variation there is no gradient to extend a policy by
        lively = [i for i in open_ones if members[names[i]].origin.can_learn] or open_ones
        if not lively:
            return False
        best = max(lively, key=lambda i: worth[i])
        chosen.add(names[best])
        self.visited.append(points[best].tolist())
        self.waiting += [(names[best], axis) for axis in range(points.shape[1])]
        return True

    def _extend(self, state: Exploration, parent: Entry, axis: int, points: np.ndarray) -> Task:
        span = np.ptp(points, axis=0) if self.span == "range" else None
        floors = thresholds(state.frame(parent.estimate), self.beta, span)
        floors[axis] = np.nan
        preference = np.eye(points.shape[1])[axis]
        reason = f"{parent.id!r} stands alone: extend it in {state.names[axis]!r} and keep the rest."
        return Task(preference, reason, parent.id, floors)

    def state_dict(self) -> dict[str, Any]:
        """See `Explorer.state_dict`."""
        return {
            "round": self.round,
            "visited": [list(point) for point in self.visited],
            "waiting": [[name, axis] for name, axis in self.waiting],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Explorer.load_state_dict`."""
        check_keys(self.name, state, {"round", "visited", "waiting"})
        self.round = int(state["round"])
        self.visited = [[float(value) for value in point] for point in state["visited"]]
        self.waiting = [(str(name), int(axis)) for name, axis in state["waiting"]]
