"""What the inner products of the objectives' gradients tell: the base of weightings that read them, and two solvers.

Every method here needs the gradients g_1..g_m of a policy only through C = G G^T [m, m], C_ij = <g_i, g_j>: an update
sum_i w_i g_i is its weights w [m], C w are the first-order gains of the objectives, w.C w is its squared length. All
gradients are ascent directions of maximised objectives. Problems are a few numbers wide, so they are solved exactly.

References:
    Lawson and Hanson, "Solving Least Squares Problems", 1974 (non-negative least squares).
    Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232 (weights from a Gramian; the
        dual cone).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, Weighting, normalize_rows

__all__ = [
    "Gradients",
    "GramianWeighting",
    "best_on_simplex",
    "min_norm_point",
    "project_on_dual_cone",
    "require_gramians",
]

NEGLIGIBLE = 1e-6
"""A gradient shorter than this share of the longest one counts as zero: its objective is saturated in this batch."""
RIDGE = 1e-12
"""Added to the diagonal of a Gramian with entries up to 1, so that a minimiser is unique."""
CONE_RIDGE = 1e-8
"""The same for the projection on the dual cone, whose weights it also bounds (to 1e4 for nearly coplanar gradients)."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of one policy, as far as their inner products show them.

    Attributes:
        gramian: [m, m] symmetric, divided by its largest diagonal entry.
        norms: [m] lengths of the gradients, the longest is 1; exactly 0 where negligible.
        active: [m] True where the gradient is not negligible.
        cosines: [a, a] inner products of the active gradients at unit length.
    """

    gramian: FloatArray
    norms: FloatArray
    active: np.ndarray
    cosines: FloatArray

    @classmethod
    def of(cls, gramian: ArrayLike) -> Gradients | None:
        """Read a Gramian [m, m]; None where there is nothing to read: no gradient at all, or one that is not finite."""
        found = np.asarray(gramian, dtype=np.float64)
        largest = float(np.diagonal(found).max())
        if not np.isfinite(found).all() or largest <= 0:
            return None
        found = found / largest
        found = (found + found.T) / 2
        norms = np.sqrt(np.maximum(np.diagonal(found), 0.0))
        active = norms > NEGLIGIBLE
        lengths = norms[active]
        cosines = np.clip(found[np.ix_(active, active)] / np.outer(lengths, lengths), -1.0, 1.0)
        np.fill_diagonal(cosines, 1.0)
        return cls(found, np.where(active, norms, 0.0), active, cosines)

    def spread(self, units: FloatArray, rest: ArrayLike = 0.0) -> FloatArray:
        """Weights [m] of the gradients from weights [a] of the active ones at unit length; `rest` for the others."""
        weights = np.broadcast_to(np.asarray(rest, dtype=np.float64), self.norms.shape).copy()
        weights[self.active] = units / self.norms[self.active]
        return weights


class GramianWeighting(Weighting):
    """A weighting whose rows depend on one policy's own Gramian and preference; a subclass implements `_weigh`.

    Where a policy has no gradient at all (every objective saturated) or one that is not finite, its row is its
    preference.
    """

    requires = frozenset({"gramians"})
    per_policy = True

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], the coefficients of the gradients in the update.

        Raises:
            ConfigError: The signal has no Gramians.
        """
        self._check(signal)
        gramians = require_gramians(self, signal)
        rows = normalize_rows(signal.preferences)
        for k, preference in enumerate(rows):
            gradients = Gradients.of(gramians[k])
            if gradients is not None:
                rows[k] = self._weigh(k, gradients, preference.copy())
        return rows

    @abstractmethod
    def _weigh(self, slot: int, gradients: Gradients, preference: FloatArray) -> FloatArray:
        """The row [m] of policy `slot`, whose preference [m] is a point of the simplex."""


def require_gramians(weighting: Weighting, signal: Signal) -> FloatArray:
    """The Gramians [K, m, m] of the signal.

    Raises:
        ConfigError: There are none.
    """
    if signal.gramians is None:
        raise ConfigError(
            f"Weighting '{weighting.name}' needs the objectives' gradients: Signal.gramians [K, m, m]. Found None."
        )
    return signal.gramians


def min_norm_point(gramian: ArrayLike) -> FloatArray:
    """Weights [n] of the shortest vector in the convex hull of n vectors with this Gramian [n, n].

    Exact, by one non-negative least squares: with a = t b, b on the simplex, |G^T a|^2 + (sum a - 1)^2 is smallest
    over t at q / (1 + q) with q = |G^T b|^2, which grows with q, so the best b is the min-norm point. Where it is not
    unique the most even of the solutions is taken, so that the order of the vectors does not matter.
    """
    found = np.asarray(gramian, dtype=np.float64)
    n = len(found)
    largest = float(np.diagonal(found).max())
    if largest <= 0:
        return np.full(n, 1 / n)
    rows = np.vstack([_root(found / largest, RIDGE), np.ones(n)])
    target = np.zeros(n + 1)
    target[-1] = 1.0
    point = _nnls(rows, target)
    return np.asarray(point / point.sum())


def best_on_simplex(gains: FloatArray, rows: FloatArray, bounds: FloatArray) -> FloatArray | None:
    """argmax of gains.b over the simplex with rows b >= bounds; None where nothing satisfies them."""
    from scipy.optimize import linprog

    asked = np.isfinite(bounds)
    largest = max(float(np.abs(gains).max()), 1e-300)
    found = linprog(
        -gains / largest,
        A_ub=-rows[asked] if asked.any() else None,
        b_ub=-bounds[asked] if asked.any() else None,
        A_eq=np.ones((1, len(gains))),
        b_eq=[1.0],
        bounds=(0, None),
        method="highs-ds",
    )
    if found.status != 0:
        return None
    point = np.maximum(np.asarray(found.x, dtype=np.float64), 0.0)
    return np.asarray(point / point.sum())


def project_on_dual_cone(gramian: ArrayLike, weights: ArrayLike) -> FloatArray:
    """Weights [n] of the projection of sum_i weights_i g_i onto the dual cone {d : <g_i, d> >= 0 for all i}.

    The nearest update that conflicts with no objective. It is the smallest v.C v over v >= weights (arXiv 2406.16232,
    proposition 1), solved by non-negative least squares in v - weights. The result never falls below `weights`.

    Args:
        gramian: [n, n], of gradients of comparable length.
        weights: [n] of the update to project.
    """
    start = np.asarray(weights, dtype=np.float64)
    root = _root(np.asarray(gramian, dtype=np.float64), CONE_RIDGE)
    return np.asarray(start + _nnls(root, -root @ start))


def _root(gramian: FloatArray, ridge: float) -> FloatArray:
    """R [n, n] with R^T R = C + ridge; rounding may have left C with eigenvalues a little below 0."""
    values, vectors = np.linalg.eigh(gramian)
    return np.asarray(np.sqrt(np.maximum(values, 0.0) + ridge)[:, None] * vectors.T)


def _nnls(a: FloatArray, b: FloatArray) -> FloatArray:
    # At use: scipy.optimize would take a good part of this package's import time.
    from scipy.optimize import nnls

    return np.asarray(nnls(a, b, maxiter=100 * a.shape[1])[0])
