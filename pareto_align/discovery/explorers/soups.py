"""Soups: candidates that need no training, weighted sums of the adapters that the archive already holds.

References:
    Ramé et al., "Rewarded soups: towards Pareto-optimal alignment by interpolating weights fine-tuned on diverse
        rewards", arXiv 2306.04488.
    Xie et al., "Bone Soups: A Seek-and-Soup Model Merging Approach for Controllable Multi-Objective Generation",
        arXiv 2502.10762.
    Scheffé, "Experiments with mixtures", Journal of the Royal Statistical Society B 20, 1958 (polynomials over
        mixtures).
    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Transactions on Evolutionary
        Computation 6, 2002.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from pareto_align.arguments import Count, NotNegative, Share, Within
from pareto_align.discovery.explorers.allocation import BELOW
from pareto_align.discovery.explorers.base import Exploration, Explorer, Mixture, register_explorer
from pareto_align.discovery.explorers.checks import (
    require,
    require_library,
)
from pareto_align.discovery.explorers.openings import CLOSE, find_gaps, preference_of
from pareto_align.errors import ConfigError
from pareto_align.front import Entry, hypervolume, hypervolume_subset, lattice, nondominated_mask
from pareto_align.front import preferences as simplex

__all__ = ["Soups", "backbone_matrix", "bulge", "dispersion"]

KINDS = ("neighbours", "corners", "search")
DIVISIONS = 4  # of the lattice of preferences that corner adapters are mixed for
CRUMB = 0.1  # smaller coefficients of a search are dropped: they cost rank and change little


def backbone_matrix(m: int, beta: float) -> np.ndarray:
    """Bone Soup's matrix `[m, m]`: row i is what backbone i is trained for, beta of objective i and equal parts else.

    For a preference w the backbones are mixed by B^-1 w, which sums to 1 and may be negative; the closer beta is to
    1 / m, the more alike the backbones and the larger these numbers.
    """
    return np.asarray(np.full((m, m), (1 - beta) / (m - 1)) + (beta - (1 - beta) / (m - 1)) * np.eye(m))


def dispersion(coefficients: np.ndarray, values: np.ndarray) -> float:
    """How far apart the ingredients of a soup are: sum_i c_i |v_i|^2 - |sum_i c_i v_i|^2, 0 for one ingredient.

    With coefficients that sum to 1 it is the sum over pairs of c_i c_j |v_i - v_j|^2: Scheffé's second order terms,
    with the squared distance of the values `[n, m]` in the place of a free constant for each pair.
    """
    mean = coefficients @ values
    return float(coefficients @ (values**2).sum(1) - mean @ mean)


def bulge(state: Exploration) -> np.ndarray:
    """`[m]` how much better than the mean of its ingredients a soup is, per unit of `dispersion`.

    Predicted are  sum_i c_i v_i + q dispersion,  with q from the soups that were measured so far: weighted least
    squares with the measured noise, and a standard normal prior, so that without any soup q is 0: linear interpolation.
    """
    weighted, total = np.zeros(len(state.names)), np.ones(len(state.names))
    for entry in state.archive.entries.values():
        recipe = entry.origin
        known = [state.archive.entries.get(name) for name in recipe.parents]
        parents = [parent for parent in known if parent is not None]
        if not parents or len(parents) < len(known) or recipe.noise:
            continue
        values = state.points(parents)
        coefficients = np.array(recipe.coefficients, dtype=float)
        spread = dispersion(coefficients, values)
        excess = state.frame(entry.estimate) - coefficients @ values
        if abs(coefficients.sum() - 1) < 1e-6 and np.isfinite(excess).all():
            errors = sum(
                c**2 * state.frame_stderr(parent.estimate) ** 2 for c, parent in zip(coefficients, parents, strict=True)
            )
            precision = 1 / (state.frame_stderr(entry.estimate) ** 2 + errors + 1e-4)
            weighted += precision * spread * excess
            total += precision * spread**2
    return np.asarray(weighted / total)


@dataclass(frozen=True, eq=False)
class _Recipe:
    """A soup that may be worth measuring."""

    parents: list[Entry]
    coefficients: np.ndarray
    reason: str


@register_explorer("soups")
class Soups(Explorer):
    """A grid that trains, and soups of what the archive holds, measured where they promise hypervolume.

    Candidates are predicted by linear interpolation and the `bulge` that earlier soups had, and the `measure` that add
    most to the predicted front, one after the other, are made and measured.

    Args:
        train: What the slots train: "grid", or "bone": the rows of Bone Soup's matrix first, then a grid.
        kinds: Where candidates come from. "neighbours": halves of neighbouring members. "corners": Rewarded Soups, the
            best member of each objective (with "bone": the backbones) mixed for a lattice of preferences. "search":
            NSGA-II over the coefficients of up to `parents` members.
        measure: Largest number of soups measured at a time.
        after: Share of the run before the first soup.
        beta: Weight of a backbone's own objective in Bone Soup's matrix; published: 0.6 to 0.8.
        extrapolate: Also go beyond every corner adapter, away from its neighbour, by this share of their difference.
        parents: Largest number of members in the search.
        least: Predicted gain, as a share of the hypervolume, below which a soup is not measured.
        resolution: Neighbours count as apart from this many standard errors of their distance on.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        *,
        train: Literal["grid", "bone"] = "grid",
        kinds: Sequence[str] = KINDS,
        measure: Count = 3,
        after: Share = 0.25,
        beta: Share = 0.7,
        extrapolate: NotNegative = 0.0,
        parents: Annotated[int, Within(least=2)] = 6,
        least: Share = 1e-3,
        resolution: NotNegative = 2.0,
    ) -> None:
        self.train = train
        if isinstance(kinds, str) or not isinstance(kinds, Iterable) or not all(kind in KINDS for kind in kinds):
            raise ConfigError(f"Explorer 'soups': `kinds` must be a list of {', '.join(KINDS)}. Found {kinds!r}.")
        self.kinds = tuple(kinds)
        self.measure = int(measure)
        self.after = float(after)
        self.beta = float(beta)
        self.extrapolate = float(extrapolate)
        self.parents = int(parents)
        self.least = float(least)
        self.resolution = float(resolution)

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        m = len(names)
        require(self.name, names, population, objectives=2, policies=m if self.train == "bone" else 2)
        if "search" in self.kinds:
            require_library(self.name, "pymoo")
        if self.train == "grid":
            return simplex.grid(m, population)
        if not self.beta > 1 / m + 0.01:
            raise ConfigError(
                f"Explorer {self.name!r}: with {m} objectives `beta` must be larger than {1 / m:.3g}, or all backbones "
                f"are alike. Found beta={self.beta}."
            )
        rest = [simplex.grid(m, population - m)] if population > m else []
        return np.vstack([backbone_matrix(m, self.beta), *rest])

    def mixtures(self, state: Exploration) -> Sequence[Mixture]:
        """See `Explorer.mixtures`."""
        members = [e for e in state.archive.members() if e.adapter is not None]
        if state.progress < self.after or len(members) < 2:
            return ()
        points = state.points(members)
        recipes = []
        if "neighbours" in self.kinds:
            for gap in find_gaps(state, resolution=self.resolution):
                recipes.append(_Recipe(list(gap.ends), np.array([0.5, 0.5]), f"Fills a gap of {gap.width:.3f}."))
        if "corners" in self.kinds:
            recipes += self._corners(state, members, points)
        rise = bulge(state)
        if "search" in self.kinds:
            recipes += self._search(state, members, points, rise)
        if self.extrapolate:
            recipes += self._beyond(members, points)
        return self._promising(state, recipes, points, rise)

    def _corners(self, state: Exploration, members: list[Entry], points: np.ndarray) -> list[_Recipe]:
        m = points.shape[1]
        targets = [w for w in lattice(m, DIVISIONS) if (w < 1).all()]
        if self.train == "bone":
            matrix = backbone_matrix(m, self.beta)
            backbones = [_youngest(state, row) for row in matrix]
            if any(entry is None for entry in backbones):
                return []
            solve = np.linalg.inv(matrix)
            corners, mixed = [entry for entry in backbones if entry is not None], [solve @ w for w in targets]
        else:
            corners, mixed = [members[i] for i in points.argmax(0)], targets
        recipes = []
        for target, coefficients in zip(targets, mixed, strict=True):
            told = ", ".join(f"{name} {w:.2f}" for name, w in zip(state.names, target, strict=True))
            recipes.append(_Recipe(corners, coefficients, f"Mixed for the preference {told}."))
        return recipes

    def _beyond(self, members: list[Entry], points: np.ndarray) -> list[_Recipe]:
        recipes = []
        for best in sorted({int(i) for i in points.argmax(0)}):
            distance = np.linalg.norm(points - points[best], axis=1)
            distance[distance == 0] = np.inf
            if np.isfinite(distance).any():
                other = members[int(distance.argmin())]
                away = np.array([1 + self.extrapolate, -self.extrapolate])
                recipes.append(_Recipe([members[best], other], away, f"Beyond the corner, away from {other.id!r}."))
        return recipes

    def _search(self, state: Exploration, members: list[Entry], points: np.ndarray, rise: np.ndarray) -> list[_Recipe]:
        """NSGA-II over the coefficients: the predicted front of the soups of a few members."""
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.optimize import minimize

        used = hypervolume_subset(points, np.minimum(points.min(0), 0.0) - BELOW, self.parents)
        values = points[used]

        class Coefficients(Problem):  # type: ignore[misc]
            def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray], *args: object, **kwargs: object) -> None:
                out["F"] = -_predicted(_normalized(x), values, rise)

        problem = Coefficients(n_var=len(used), n_obj=points.shape[1], xl=0.0, xu=1.0)
        found = minimize(problem, NSGA2(pop_size=32), ("n_gen", 15), seed=state.seed % 2**31, verbose=False)
        rows = _normalized(np.atleast_2d(found.X))
        rows = _normalized(np.where(rows < CRUMB, 0.0, rows))
        parents = [members[i] for i in used]
        return [_Recipe(parents, row, "A search over coefficients predicts it on the front.") for row in rows]

    def _promising(
        self, state: Exploration, recipes: list[_Recipe], points: np.ndarray, rise: np.ndarray
    ) -> list[Mixture]:
        """The soups that add most to the predicted front, one after the other."""
        made = {
            _key(e.origin.parents, e.origin.coefficients) for e in state.archive.entries.values() if e.origin.parents
        }
        recipes = [r for r in recipes if _key([p.id for p in r.parents], r.coefficients) not in made]
        predicted = [_predicted(r.coefficients[None], state.points(r.parents), rise)[0] for r in recipes]
        reference = np.minimum(points.min(0), 0.0) - BELOW
        front, whole = points, hypervolume(points, reference)
        chosen: list[Mixture] = []
        while recipes and len(chosen) < self.measure:
            gain = np.array([_gain(value, front, reference) for value in predicted])
            best = int(gain.argmax())
            if gain[best] <= self.least * whole:
                break
            recipe, value = recipes.pop(best), predicted.pop(best)
            front = np.vstack([front, value])
            chosen.append(self._mixture(state, recipe, points))
        return chosen

    def _mixture(self, state: Exploration, recipe: _Recipe, points: np.ndarray) -> Mixture:
        used = [i for i, c in enumerate(recipe.coefficients) if abs(c) > 1e-9]
        parents = [recipe.parents[i] for i in used]
        asked = np.stack([preference_of(state, parent, points) for parent in parents])
        mean = np.maximum(recipe.coefficients[used] @ asked, 0.0)
        return Mixture(
            [parent.id for parent in parents],
            [float(recipe.coefficients[i]) for i in used],
            recipe.reason,
            mean / mean.sum(),
        )


def _predicted(coefficients: np.ndarray, values: np.ndarray, rise: np.ndarray) -> np.ndarray:
    """`[k, m]` expected of soups `[k, n]` of ingredients `[n, m]`."""
    spread = np.array([dispersion(row, values) for row in coefficients])
    return np.asarray(coefficients @ values + spread[:, None] * rise)


def _gain(point: np.ndarray, front: np.ndarray, reference: np.ndarray) -> float:
    """Hypervolume that a point `[m]` adds to a front `[n, m]`: its own box less what the others cover of it."""
    if (point <= reference).any():
        return 0.0
    covered = np.minimum(front, point)
    return float(np.prod(point - reference) - hypervolume(covered[nondominated_mask(covered)], reference))


def _normalized(rows: np.ndarray) -> np.ndarray:
    """Rows `[k, n]` that sum to 1; an all-zero row becomes even."""
    total = rows.sum(1, keepdims=True)
    return np.asarray(np.where(total > 0, rows / np.where(total > 0, total, 1.0), 1 / rows.shape[1]))


def _key(parents: Sequence[str], coefficients: Sequence[float] | np.ndarray) -> tuple[tuple[str, float], ...]:
    """A soup as it is recognised again, whatever the order of its parents and the last digits of the coefficients."""
    return tuple(
        sorted((name, round(float(c), 2)) for name, c in zip(parents, coefficients, strict=True) if abs(c) > 1e-9)
    )


def _youngest(state: Exploration, preference: np.ndarray) -> Entry | None:
    """The youngest archived policy that was trained for a preference `[m]`."""
    found = [
        e
        for e in state.alive()
        if e.origin.trained and np.abs(np.asarray(e.origin.preference) - preference).max() < CLOSE
    ]
    return max(found, key=lambda e: e.origin.step or 0, default=None)
