"""Which slots still earn their training: those whose newest policy adds something to the front.

The archive keeps every adapter, so a policy that stands still loses nothing when its slot trains something else. This
is the idea of successive halving, resources go from what stopped improving to what may still, without its brackets: a
slot is free once it has added nothing in several measurements in a row.

References:
    Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", arXiv 1603.06560.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pareto_align.discovery.explorers.base import Exploration
from pareto_align.discovery.explorers.checks import check_keys
from pareto_align.discovery.explorers.openings import newest
from pareto_align.errors import ConfigError
from pareto_align.front import contributions, hypervolume

__all__ = ["Allocation", "gains"]

BELOW = 0.1  # the reference lies this far below the worst member, so that the ends of a front add something too


def gains(state: Exploration) -> np.ndarray:
    """`[K]` what each slot's newest policy adds to the hypervolume of the front, as a share of it; NaN if unmeasured.

    A policy that is no member, because another is better or cannot be told from it, adds 0.
    """
    members = state.archive.members()
    points = state.points(members)
    shares = np.zeros(len(members))
    if members:
        reference = np.minimum(points.min(0), 0.0) - BELOW
        shares = contributions(points, reference) / hypervolume(points, reference)
    added = {entry.id: float(share) for entry, share in zip(members, shares, strict=True)}
    return np.array([np.nan if entry is None else added.get(entry.id, 0.0) for entry in newest(state)])


class Allocation:
    """Counts, per slot, the measurements in a row in which it added nothing.

    Args:
        explorer: Name of whom it works for, for error messages.
        settle: Share of the run before any slot is free.
        freeze: Share of the run after which none is: too little is left to train something new.
        patience: Measurements without gain until a slot is free.
        least: Gain, as a share of the hypervolume, that counts as one.
        most: Largest share of the slots that is free at a time.

    Raises:
        ConfigError: `settle` is larger than `freeze`. The ranges are what the explorer's own annotations say.
    """

    def __init__(
        self, explorer: str, *, settle: float, freeze: float, patience: int, least: float, most: float
    ) -> None:
        self.explorer = explorer
        self.settle = float(settle)
        self.freeze = float(freeze)
        if self.settle > self.freeze:
            raise ConfigError(
                f"Explorer {explorer!r}: `settle` must not be larger than `freeze`. Found settle={settle!r}, "
                f"freeze={freeze!r}."
            )
        self.patience = int(patience)
        self.least = float(least)
        self.most = float(most)
        self.idle: list[int] = []

    def begin(self, population: int) -> None:
        """Forget everything; `population` slots begin."""
        self.idle = [0] * population

    def free(self, state: Exploration) -> list[int]:
        """Note a measurement; returns the slots that may be given something else to do, longest idle first."""
        for slot, gain in enumerate(gains(state)):
            if np.isfinite(gain):
                self.idle[slot] = 0 if gain > self.least else self.idle[slot] + 1
        if not self.settle <= state.progress <= self.freeze:
            return []
        order = sorted(range(len(self.idle)), key=lambda slot: (-self.idle[slot], slot))
        waiting = [slot for slot in order if self.idle[slot] >= self.patience]
        return waiting[: max(1, int(self.most * len(self.idle)))]

    def moved(self, slot: int) -> None:
        """A slot was given something else: it starts counting again."""
        self.idle[slot] = 0

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"idle": list(self.idle)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises:
            ConfigError: It is the state of something else.
        """
        check_keys(self.explorer, state, {"idle"})
        if len(state["idle"]) != len(self.idle):
            raise ConfigError(
                f"Explorer {self.explorer!r} has {len(self.idle)} slots. The state was saved with {len(state['idle'])}."
            )
        self.idle = [int(count) for count in state["idle"]]
