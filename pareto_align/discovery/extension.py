"""Floors: a policy that pursues one objective while it keeps what its parent had in the others.

References:
    Liu et al., "C-MORL: Multi-Objective Reinforcement Learning through Efficient Discovery of Pareto Front",
        arXiv 2410.02236 (the constrained extension of a policy).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from pareto_align.weighting import Signal, make

__all__ = ["FloorKeeper"]


class FloorKeeper:
    """Weights for slots with floors: their own preference plus a multiplier on each objective that is below its floor.

    A floor is a constraint on an objective that is also optimised, so the Lagrangian weighting keeps it: a row is
    (p + lam) / sum, with p the slot's preference and lam the multipliers of the floors.

    Args:
        population: K.
        objectives: m.
        weighting: A weighting that steers constraints; the name of one, or an instance.
    """

    def __init__(self, population: int, objectives: int, weighting: Any = "lagrangian") -> None:
        self.weighting = make(weighting)
        self.weighting.setup(population, objectives)
        self.floors = np.full((population, objectives), np.nan)

    def assign(self, slot: int, floors: np.ndarray | None) -> None:
        """Give a slot floors `[m]` on the frozen scale (NaN: free), or none; its multipliers start again."""
        self.floors[slot] = np.nan if floors is None else floors
        self.weighting.reset(slot)

    def __call__(self, weights: np.ndarray, signal: Signal) -> np.ndarray:
        """The weights `[K, m]`, with the rows of slots that have floors replaced."""
        held = np.isfinite(self.floors)
        if not held.any():
            return weights
        rows = self.weighting(dataclasses.replace(signal, slack=signal.values - self.floors))
        own, lam = np.hsplit(rows, 2)
        kept = own + np.where(held, lam, 0.0)
        return np.where(held.any(1)[:, None], kept / kept.sum(1, keepdims=True), weights)

    def state_dict(self) -> dict[str, Any]:
        """Floors and multipliers, as arrays."""
        return {"floors": self.floors.copy(), **{f"weighting.{k}": v for k, v in self.weighting.state_dict().items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.floors = np.array(state["floors"], dtype=float)
        self.weighting.load_state_dict(
            {k.removeprefix("weighting."): v for k, v in state.items() if k.startswith("weighting.")}
        )
