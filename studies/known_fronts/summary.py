"""From the runs to what is claimed of them: means with intervals over seeds, and the numbers behind each claim."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from cases import CORE, FEW, METHODS, WIDER

NEAR = 0.03
"""How near to its point an equality constraint should end."""


PAIR = ("scales", "arc")
"""The same front, with and without a factor of 100 between the rewards."""


@dataclass(frozen=True)
class Spread:
    """Mean of one number over seeds, with its bootstrap interval.

    Attributes:
        mean: Over the seeds.
        low, high: 95 % of the means of resampled seeds lie between.
        seeds: How many.
    """

    mean: float
    low: float
    high: float
    seeds: int


def bootstrap(values: list[float]) -> Spread:
    """Mean and percentile interval of 10,000 resamples of the seeds."""
    numbers = np.array(values, dtype=float)
    drawn = np.random.default_rng(0).integers(len(numbers), size=(10_000, len(numbers)))
    low, high = np.quantile(numbers[drawn].mean(1), [0.025, 0.975])
    return Spread(float(numbers.mean()), float(low), float(high), len(numbers))


class Study:
    """The results, asked by problem and method.

    Args:
        results: results.json.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        self.setting: dict[str, Any] = results["setting"]
        self.runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for key, run in results["runs"].items():
            problem, method, seed = key.split("/")
            self.runs[problem, method].append(run | {"seed": int(seed)})

    def spread(self, problem: str, method: str, what: str) -> Spread | None:
        """One number of the runs of a method on a problem; None where none has it."""
        found = [run[what] for run in self.runs.get((problem, method), []) if what in run]
        return bootstrap(found) if found else None

    def ratio(self, problem: str, method: str) -> float:
        """Mean hypervolume ratio; NaN where it was not run."""
        found = self.spread(problem, method, "ratio")
        return float("nan") if found is None else found.mean

    @cached_property
    def methods(self) -> list[str]:
        """The weightings that have run; one that was added since has no row before its first run."""
        return [method for method in METHODS if any((p, method) in self.runs for p in CORE)]

    @cached_property
    def core(self) -> tuple[str, ...]:
        """The problems that all methods have run on."""
        return tuple(p for p in CORE if all((p, method) in self.runs for method in self.methods))

    @cached_property
    def ranking(self) -> list[str]:
        """All methods, by their mean ratio over the core problems."""
        return sorted(self.methods, key=lambda method: -np.mean([self.ratio(p, method) for p in self.core]))

    @cached_property
    def wide(self) -> list[str]:
        """The problems with a front to fill that all of the few have run on."""
        there = [p for p in (*CORE, *WIDER) if all((p, method) in self.runs for method in FEW)]
        return [p for p in there if p != "hacked"]

    def ratios(self, method: str) -> list[float]:
        """Mean ratios of one of the few on those problems."""
        return [self.ratio(problem, method) for problem in self.wide]

    def few(self) -> list[str]:
        """The six, by their mean ratio over those problems."""
        return sorted(FEW, key=lambda method: -np.mean(self.ratios(method)))

    # -- the claims --------------------------------------------------------------------------------------------------

    def from_a_corner(self) -> float:
        """On `flat`, how far the farthest policy with fixed weights stands from a corner."""
        values = np.concatenate([run["values"] for run in self.runs["flat", "fixed"]])
        return float(np.abs(values[:, None] - np.eye(2)).max(-1).min(1).max())

    def fillers(self, share: float = 0.9) -> list[str]:
        """Methods with at least this mean ratio on `flat`, best first."""
        found = [method for method in self.methods if self.ratio("flat", method) >= share]
        return sorted(found, key=lambda method: -self.ratio("flat", method))

    def survival(self) -> dict[str, float]:
        """Ratio on `scales` divided by that on `arc`, by method, over the seeds that ran on both."""
        kept = {}
        for method in self.methods:
            scaled, plain = ({run["seed"]: run["ratio"] for run in self.runs.get((p, method), [])} for p in PAIR)
            if both := scaled.keys() & plain.keys():
                kept[method] = float(np.mean([scaled[s] for s in both]) / np.mean([plain[s] for s in both]))
        return kept

    def proxies(self, method: str) -> dict[str, Any]:
        """On `hacked`: distances of each policy's proxies from their points, and the gold score."""
        from pareto_align.testing.problems import get_problem

        runs = self.runs["hacked", method]
        away = np.abs(np.concatenate([run["values"] for run in runs]) - np.array(get_problem("hacked").targets)).max(1)
        return {
            "policies": len(away),
            "empty": sum(run["members"] == 0 for run in runs),
            "near": int((away <= NEAR).sum()),
            "median": float(np.median(away)),
            "largest": float(away.max()),
            "seeds": bootstrap([float(np.median(part)) for part in np.split(away, len(runs))]),
            "gold": bootstrap([float(np.mean(run["gold"])) for run in runs]),
        }

    def worst_group(self, method: str) -> Spread:
        """On `groups`, with the shares as preference: exact value of the worse served group, mean over the policies."""
        return bootstrap([float(np.min(run["values"], axis=1).mean()) for run in self.runs["groups", method]])

    def reported(self, split: str, method: str | None = None) -> dict[str, Any]:
        """On `noisy`: published values against the truth, in standard errors above it.

        Args:
            split: "report", what is published; "select", what the members were chosen by.
            method: One method, or all.
        """
        z = [
            (np.array(row[split]) - row["truth"]) / np.maximum(row[f"{split}_stderr"], 1e-12)
            for (problem, name), runs in self.runs.items()
            if problem == "noisy" and method in (None, name)
            for run in runs
            for row in run["published"]
        ]
        above = np.concatenate(z)
        # of so many values one is expected beyond the ordinary interval; this one holds for all of them at once
        bound = NormalDist().inv_cdf(1 - 0.025 / len(above))
        return {
            "members": len(z),
            "values": len(above),
            "inside": float((np.abs(above) <= 1.96).mean()),
            "above": int((above > 1.96).sum()),
            "bound": bound,
            "beyond": int((above > bound).sum()),
            "largest": float(above.max()),
            "mean": float(above.mean()),
        }
