"""Bayesian proposals: a Gaussian process from preference to objectives says which preferences may extend the front.

References:
    Ament et al., "Unexpected Improvements to Expected Improvement for Bayesian Optimization", arXiv 2310.20708.
    Daulton, Balandat and Bakshy, "Parallel Bayesian Optimization of Multiple Noisy Objectives with Expected Hypervolume
        Improvement", arXiv 2105.08195.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from pareto_align.arguments import Count, NotNegative, Share, Within
from pareto_align.discovery.explorers.allocation import BELOW, Allocation
from pareto_align.discovery.explorers.base import Exploration, Explorer, Task, register_explorer
from pareto_align.discovery.explorers.checks import require, require_library
from pareto_align.discovery.explorers.surrogate import PreferenceModel
from pareto_align.front import Entry
from pareto_align.front import preferences as simplex

__all__ = ["Bayesian"]

NEARBY = 0.03  # standard deviation of the draws around the best ones
FEWEST = 4  # observations without which a Gaussian process says nothing


@register_explorer("bayesian")
class Bayesian(Explorer):
    """A grid whose free slots get the preferences that promise most hypervolume under a Gaussian process.

    Every policy that was trained for a preference and measured is an observation, with the variance of its estimate. A
    policy goes on improving, so an old measurement says less about what the preference leads to now: its standard
    deviation grows with age, by `drift` over a whole run. The preference is chosen, among draws from the simplex, by
    qLogNoisyExpectedHypervolumeImprovement; a slot that takes it goes on from the archived policy that is nearest in
    preference and in what it already reaches.

    Args:
        settle: Share of the run before anything moves.
        freeze: Share of the run after which nothing moves.
        patience: Measurements without gain until a slot is free.
        least: Gain, as a share of the hypervolume, that counts as one.
        most: Largest share of the slots that moves at a time.
        drift: Standard deviation, in the frame, that a measurement gains over a whole run.
        observations: Largest number of measurements in the model; the youngest ones.
        candidates: Preferences among which is chosen; half of them are drawn near the best of the others.
        samples: Monte Carlo samples of the acquisition function.

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
        drift: NotNegative = 0.5,
        observations: Annotated[int, Within(least=FEWEST)] = 24,
        candidates: Annotated[int, Within(least=2)] = 128,
        samples: Count = 16,
    ) -> None:
        self.allocation = Allocation(self.name, settle=settle, freeze=freeze, patience=patience, least=least, most=most)
        self.drift = float(drift)
        self.observations = int(observations)
        self.candidates = int(candidates)
        self.samples = int(samples)

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        require(self.name, names, population, objectives=2)
        require_library(self.name, "botorch")
        self.allocation.begin(population)
        return simplex.grid(len(names), population)

    def propose(self, state: Exploration) -> Sequence[Task | None]:
        """See `Explorer.propose`."""
        tasks: list[Task | None] = [None] * len(state.preferences)
        free = self.allocation.free(state)
        seen = self._observations(state)
        if not free or len(seen) < FEWEST:
            return tasks
        preferences = np.array([e.origin.preference for e in seen], dtype=float)
        values = state.points(seen)
        # as a share of the run: a step is as long as those so far were
        age = np.array([state.progress * (1 - (e.origin.step or 0) / max(state.step, 1)) for e in seen])
        variances = np.stack([state.frame_stderr(e.estimate) ** 2 for e in seen]) + (self.drift * age[:, None]) ** 2
        reference = np.minimum(values.min(0), 0.0) - BELOW
        model = PreferenceModel(
            preferences, values, variances, reference=reference, samples=self.samples, seed=state.seed
        )
        chosen = self._search(model, len(free), state.seed)
        expected = model.predict(chosen)
        for slot, preference, value in zip(free, chosen, expected, strict=True):
            parent = _nearest(state, preference, value)
            told = ", ".join(f"{name} {v:.3f}" for name, v in zip(state.names, value, strict=True))
            reason = f"It added nothing; the surrogate expects most from this preference ({told}, framed)."
            tasks[slot] = Task(preference, reason, None if parent is None else parent.id)
            self.allocation.moved(slot)
        return tasks

    def _observations(self, state: Exploration) -> list[Entry]:
        """Policies that were trained for a preference, the youngest last."""
        found = [
            e
            for e in state.archive.entries.values()
            if e.origin.policy is not None
            and e.origin.pursued is not None
            and np.isfinite(state.frame(e.estimate)).all()
        ]
        return sorted(found, key=lambda e: e.origin.step or 0)[-self.observations :]

    def _search(self, model: PreferenceModel, count: int, seed: int) -> np.ndarray:
        """The best `[count, m]` of draws around the best draws from the whole simplex."""
        rng = np.random.default_rng(seed)
        half = max(self.candidates // 2, 2 * count)
        wide = rng.dirichlet(np.ones(model.m), size=half)
        best = wide[np.argsort(-model.gains(wide), kind="stable")[: max(4, half // 4)]]
        near = np.abs(best[rng.integers(len(best), size=half)] + rng.normal(0.0, NEARBY, (half, model.m)))
        narrow = np.vstack([best, near / near.sum(1, keepdims=True)])
        return np.asarray(narrow[model.best(narrow, count)])

    def state_dict(self) -> dict[str, Any]:
        """See `Explorer.state_dict`."""
        return self.allocation.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Explorer.load_state_dict`."""
        self.allocation.load_state_dict(state)


def _nearest(state: Exploration, preference: np.ndarray, value: np.ndarray) -> Entry | None:
    """The archived policy nearest in preference and predicted value, among those that can still learn."""
    alive = [e for e in state.alive() if e.origin.preference is not None]
    alive = [e for e in alive if e.origin.can_learn] or alive
    if not alive:
        return None
    asked = np.array([e.origin.preference for e in alive], dtype=float)
    distance = ((asked - preference) ** 2).sum(1) + ((state.points(alive) - value) ** 2).sum(1)
    return alive[int(distance.argmin())]
