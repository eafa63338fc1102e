"""Policies whose rewards no longer vary: noticed, and started again from an archived neighbour.

A policy gradient is made of differences between completions. A policy that always says the same (the empty answer, one
fixed phrase) has none, so it never moves again, wherever its preference would have it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pareto_align.front import Entry, Estimate, ParetoArchive
from pareto_align.front.origin import NO_SPREAD

__all__ = ["StallMonitor", "choose_parent"]


class StallMonitor:
    """Counts, per policy, the steps in a row in which nothing varied.

    Args:
        population: K.
        patience: Steps after which a policy counts as stalled.
    """

    def __init__(self, population: int, patience: int) -> None:
        self.patience = patience
        self.still = np.zeros(population, dtype=int)

    def update(self, spread: np.ndarray) -> list[int]:
        """Note one step's advantage spread `[K]`; returns the slots to look at: again every `patience` steps."""
        self.still = np.where(spread < NO_SPREAD, self.still + 1, 0)
        return [int(k) for k in np.flatnonzero((self.still > 0) & (self.still % self.patience == 0))]

    def reset(self, slot: int) -> None:
        """Start counting afresh for a slot that holds a new policy."""
        self.still[slot] = 0


def choose_parent(
    archive: ParetoArchive, frame: Callable[[Estimate], np.ndarray], preference: np.ndarray, values: np.ndarray
) -> Entry | None:
    """The archived policy a stalled one should start again from; None if none serves its preference better.

    Serving is measured by the Chebyshev utility in the archive's frame, whose best value so far is the ideal point: a
    policy that stalled in a corner its preference did not ask for is far from that in some objective.

    Args:
        archive: Candidates are the entries that still hold an adapter and whose own rewards varied.
        frame: Takes an estimate to its `[m]` means in the frame in which 0 to 1 spans each objective.
        preference: `[m]` of the stalled policy.
        values: `[m]` of the stalled policy in the same frame.
    """
    alive = [entry for entry in archive.entries.values() if entry.adapter is not None and entry.origin.can_learn]
    if not alive:
        return None
    framed = np.stack([frame(entry.estimate) for entry in alive])
    ideal = np.vstack([framed, values]).max(0)
    utility = -(np.maximum(preference, 1e-3) * (ideal - framed)).max(1)
    own = -(np.maximum(preference, 1e-3) * (ideal - values)).max()
    best = int(utility.argmax())
    return alive[best] if utility[best] > own + 1e-6 else None
