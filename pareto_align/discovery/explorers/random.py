"""Random preferences, drawn anew at intervals: the plain way to see more of the simplex than K points of it.

References:
    Felten et al., "Multi-Objective Reinforcement Learning Based on Decomposition: A Taxonomy and Framework",
        arXiv 2311.12495 (weights drawn from a Dirichlet distribution).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from pareto_align.arguments import Count, Share, Within
from pareto_align.discovery.explorers.base import Exploration, Explorer, Task, register_explorer
from pareto_align.discovery.explorers.checks import check_keys, require
from pareto_align.discovery.explorers.openings import nearest_parent

__all__ = ["RandomPreferences"]


@register_explorer("random")
class RandomPreferences(Explorer):
    """Preferences from a Dirichlet distribution, a new one for every slot at intervals.

    Args:
        concentration: Of the Dirichlet distribution: 1 is uniform on the simplex, below 1 favours corners, above 1 the
            middle.
        every: Measurements between draws.
        freeze: Share of the run after which nothing is drawn any more.
        warm_start: A slot goes on from the archived policy whose preference is nearest to its new one; False: from its
            own.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        *,
        concentration: Annotated[float, Within(least=1e-3)] = 1.0,
        every: Count = 2,
        freeze: Share = 0.8,
        warm_start: bool = True,
    ) -> None:
        self.concentration = float(concentration)
        self.every = int(every)
        self.freeze = float(freeze)
        self.warm_start = bool(warm_start)
        self.seen = 0

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        require(self.name, names, population, objectives=2)
        self.seen = 0
        return self._draw(len(names), population, seed)

    def propose(self, state: Exploration) -> Sequence[Task | None]:
        """See `Explorer.propose`."""
        self.seen += 1
        K, m = state.preferences.shape
        if self.seen % self.every or state.progress > self.freeze:
            return [None] * K
        tasks = []
        for preference in self._draw(m, K, state.seed):
            parent = nearest_parent(state, preference) if self.warm_start else None
            tasks.append(Task(preference, "A preference drawn at random.", None if parent is None else parent.id))
        return tasks

    def _draw(self, m: int, count: int, seed: int) -> np.ndarray:
        drawn = np.random.default_rng(seed).dirichlet(np.full(m, self.concentration), size=count)
        # with a small concentration a draw can underflow to 0/0
        return np.where(np.isfinite(drawn), drawn, 1 / m)

    def state_dict(self) -> dict[str, Any]:
        """See `Explorer.state_dict`."""
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Explorer.load_state_dict`."""
        check_keys(self.name, state, {"seen"})
        self.seen = int(state["seen"])
