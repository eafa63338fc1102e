"""Preferences: points on the simplex, and sets of them that cover it.

References:
    Das, Dennis, "Normal-boundary intersection" (1998): the simplex lattice.
    Blank et al., "Generating well-spaced points on a unit simplex for evolutionary many-objective optimization" (2021):
        the Riesz energy directions that pymoo computes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError, PreferenceError

__all__ = ["Preference", "grid", "interior", "lattice", "random", "simplex_plane"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Preference:
    """How much each objective matters: weights [m], not negative, with sum 1."""

    weights: Floats

    def __post_init__(self) -> None:
        w = np.array(self.weights, dtype=float)
        if w.ndim != 1 or not w.size:
            raise PreferenceError(f"A preference is a list of weights, one an objective. Found shape {w.shape}.")
        if not np.isfinite(w).all() or (w < 0).any():
            raise PreferenceError(f"Preference weights must be finite and not negative. Found {w.tolist()}.")
        if not w.any():
            raise PreferenceError("All preference weights are zero; at least one objective must matter.")
        w /= w.max()  # so that the sum of huge weights does not overflow
        w /= w.sum()
        w.flags.writeable = False
        object.__setattr__(self, "weights", w)

    @classmethod
    def of(
        cls, value: Mapping[str, float] | Sequence[float] | ArrayLike | Preference, names: Sequence[str]
    ) -> Preference:
        """Read a user's preference over the named objectives.

        Args:
            value: Weights by name (an objective that is not named has weight 0), or one weight an objective in order.
                Any positive scale: {"helpful": 3, "brief": 1} is the preference (0.75, 0.25).
            names: The m optimised objectives.

        Raises:
            PreferenceError: If a name is unknown (the nearest known one is suggested), a weight is negative, missing
                or no number, all are zero, or their number is wrong.
        """
        if isinstance(value, Preference):
            weights: list[object] = list(value.weights)
        elif isinstance(value, Mapping):
            for name in value:
                if name not in names:
                    near = difflib.get_close_matches(str(name), names, n=1)
                    hint = f"Did you mean {near[0]!r}?" if near else f"The objectives are {', '.join(names)}."
                    raise PreferenceError(f"Unknown objective {name!r} in the preference. {hint}")
            weights = [value.get(name, 0.0) for name in names]
        else:
            if isinstance(value, str) or np.ndim(value) != 1:
                raise PreferenceError(f"A preference is a dict or a list of weights. Found {value!r}.")
            weights = list(np.asarray(value, dtype=object))
        if len(weights) != len(names):
            raise PreferenceError(
                f"Found {len(weights)} preference weights for {len(names)} objectives ({', '.join(names)})."
            )
        for name, weight in zip(names, weights, strict=True):
            number = isinstance(weight, int | float | np.integer | np.floating) and not isinstance(weight, bool)
            if not (number and 0 <= weight < math.inf):  # type: ignore[operator]
                raise PreferenceError(
                    f"The weight of objective {name!r} must be a finite number that is not negative. Found {weight!r}."
                )
        return cls(np.array(weights, dtype=float))


def grid(m: int, count: int, seed: int = 0) -> Floats:
    """Exactly `count` preferences [count, m] that cover the simplex evenly; corners included from count >= m on.

    Two objectives: equally spaced from (1, 0) to (0, 1). More: Riesz energy directions of pymoo, in descending order,
    so that the first row is (1, 0, ...), with the centre in the place of the direction that is nearest to it, from
    count > m on. Fewer rows than objectives: the centre, then corners.
    """
    _at_least_one(m=m, count=count)
    centre = np.full((1, m), 1 / m)
    if m == 1:
        return np.ones((count, 1))
    if count == 1:
        return centre
    if count < m:
        return np.vstack([centre, np.eye(m)[: count - 1]])
    if count == m:
        return np.eye(m)
    if m == 2:
        first = np.linspace(1.0, 0.0, count)
        return np.stack([first, 1 - first], axis=1)
    rows = np.maximum(_energy(m, count, seed), 0.0)  # a copy: what is kept stays as it is
    for corner in range(m):  # the energy keeps a point next to every corner, not always in it
        rows[rows[:, corner].argmax()] = np.eye(m)[corner]
    rows /= rows.sum(axis=1, keepdims=True)
    # few points repel each other onto the faces, and nobody would train a policy for all objectives alike; no corner
    # is nearest: between the corners there is always a point that is nearer
    rows[np.linalg.norm(rows - centre, axis=1).argmin()] = centre
    return np.asarray(rows[np.lexsort(rows.round(9).T[::-1])[::-1]], dtype=float)


@lru_cache(maxsize=32)
def _energy(m: int, count: int, seed: int) -> Floats:
    """Riesz energy directions; found by a search of a second or more, and asked for more than once a run."""
    from pymoo.util.ref_dirs import get_reference_directions

    return np.array(get_reference_directions("energy", m, count, seed=seed), dtype=float)


def lattice(m: int, divisions: int) -> Floats:
    """Every preference whose weights are multiples of 1/divisions, [C(divisions + m - 1, m - 1), m]."""
    _at_least_one(m=m, divisions=divisions)
    bars = list(combinations(range(divisions + m - 1), m - 1))
    edges = np.pad(
        np.array(bars, dtype=int).reshape(len(bars), m - 1),
        ((0, 0), (1, 1)),
        constant_values=((0, 0), (-1, divisions + m - 1)),
    )
    return np.asarray((np.diff(edges, axis=1) - 1)[::-1] / divisions, dtype=float)


def random(m: int, count: int, seed: int = 0) -> Floats:
    """`count` preferences [count, m] drawn uniformly from the simplex."""
    _at_least_one(m=m)
    return np.random.default_rng(seed).dirichlet(np.ones(m), size=count)


def interior(weights: ArrayLike, margin: float) -> Floats:
    """Pull preferences [..., m] away from the faces of the simplex so that no weight is below `margin`."""
    w = np.array(weights, dtype=float)
    m = w.shape[-1]
    if not 0 <= margin * m <= 1:
        raise ConfigError(f"The margin must be between 0 and 1/m = {1 / m:.4g}. Found {margin}.")
    return np.asarray(w * (1 - m * margin) + margin, dtype=float)


def simplex_plane(m: int) -> Floats:
    """An orthonormal basis `[m, m - 1]` of the plane that the simplex lies in.

    `p @ simplex_plane(m)` are m - 1 free coordinates in which distances are those on the simplex, so that no objective
    is treated differently, as dropping the last weight would.
    """
    basis = np.zeros((m, m - 1))
    for j in range(1, m):  # Helmert's contrasts
        basis[:j, j - 1] = 1.0
        basis[j, j - 1] = -float(j)
    return np.asarray(basis / np.linalg.norm(basis, axis=0), dtype=float)


def _at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name} must be at least 1. Found {number}.")
