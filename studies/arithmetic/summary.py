"""From the runs to what is claimed of them: fronts of final policies, their worth, and paired differences to fixed."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import METHODS, SEEDS
from runs import Spread, spread

BASE = "fixed"
REFERENCE = (-0.1, -0.1, -0.1)
"""Of the hypervolume: a tenth of each range below the least, so that a policy that gives one objective up counts."""

DIVISIONS = 12
"""Of the simplex lattice of users in the expected utility: 91 of them."""

OBJECTIVES = ("accuracy", "conciseness", "clarity")


def hypervolume(values: Any) -> float:
    """Of policies [n, 3] above the reference point, as a share of the box up to (1, 1, 1)."""
    from pareto_align.front import hypervolume as volume

    return float(volume(np.asarray(values), ref=REFERENCE) / np.prod(1 - np.array(REFERENCE)))


def utility(values: Any) -> float:
    """What a user with linear utility gets on average from the best of the policies [n, 3], users spread evenly."""
    from pareto_align.front import expected_utility, lattice

    return float(expected_utility(np.asarray(values), lattice(3, DIVISIONS)))


def worst_off(values: Any) -> float:
    """Largest `min` over the objectives that any of the policies [n, 3] has: the best even compromise."""
    return float(np.asarray(values).min(1).max())


INDICATORS = {"hypervolume": hypervolume, "utility": utility, "compromise": worst_off}


class Study:
    """The results, asked by method.

    Args:
        results: results.json.

    Attributes:
        methods: Those that have run on all seeds, in the order of the plan; the others are left out.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        self.setting: dict[str, Any] = results["setting"]
        self.untrained: dict[str, Any] = results.get("untrained", {})
        self.runs = results["runs"]
        self.methods = tuple(name for name in METHODS if all(f"{name}/{seed}" in self.runs for seed in SEEDS))

    def column(self, method: str, what: str) -> np.ndarray:
        """Something of every run of a method, `[5, ...]`."""
        return np.array([self.runs[f"{method}/{seed}"][what] for seed in SEEDS], dtype=float)

    def worth(self, method: str, indicator: str) -> list[float]:
        """An indicator of the final policies of every run."""
        return [INDICATORS[indicator](values) for values in self.column(method, "values")]

    def mean(self, method: str, indicator: str) -> Spread:
        """Its mean over the seeds."""
        return spread(self.worth(method, indicator))

    def gain(self, method: str, indicator: str, base: str = BASE) -> Spread:
        """Its difference to fixed weights on the same grid and seed."""
        pairs = zip(self.worth(method, indicator), self.worth(base, indicator), strict=True)
        return spread([own - other for own, other in pairs])

    def policy(self, method: str, slot: int, what: str, *place: int) -> Spread:
        """One number of one policy, over the seeds."""
        return spread(self.column(method, what)[(slice(None), slot, *place)].tolist())

    def groups(self, method: str) -> list[tuple[tuple[float, ...], list[int]]]:
        """The preferences of a method, each with the policies that have it."""
        preferences = METHODS[method][1]
        return [(p, [k for k, own in enumerate(preferences) if own == p]) for p in dict.fromkeys(preferences)]
