"""The only door to Pareto dominance: direction, missing values, ranks and confidence.

Everything is maximised. A row with a NaN (some objective was not measured) neither dominates nor is non-dominated; an
infinite value is an error, because it would dominate everything. moocore does the sorting; the guards are ours, since
it keeps or drops NaN rows silently.

References:
    Genz, "Numerical computation of multivariate normal probabilities", J. Comput. Graph. Stat. 1 (1992).
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ParetoAlignError
from pareto_align.front.estimates import Estimate, common_units, difference

__all__ = ["as_points", "dominates", "nondominated_mask", "oriented", "pareto_ranks", "probability_dominates"]

Floats = NDArray[np.float64]

_LATTICE_SIZE = 2048  # error of an orthant probability about 1e-4
_SINGULAR = 1e-9  # correlation matrices with a smaller pivot count as singular


def as_points(points: ArrayLike) -> Floats:
    """Check a set of points and return it as a float array of its own, [n, m].

    Raises:
        ParetoAlignError: If it is not a matrix, or a value is infinite (the row is named).
    """
    array = np.array(points, dtype=float)
    if array.size == 0:
        return array.reshape(len(array), array.shape[1] if array.ndim == 2 else 0)
    if array.ndim != 2:
        raise ParetoAlignError(f"Points must have shape [n, m]. Found shape {array.shape}.")
    infinite = np.flatnonzero(np.isinf(array).any(axis=1))
    if infinite.size:
        row = int(infinite[0])
        raise ParetoAlignError(
            f"Point {row} is infinite: {array[row].tolist()}. Objective values must be finite or NaN."
        )
    return array


def oriented(points: ArrayLike, maximize: Sequence[bool] | NDArray[np.bool_]) -> Floats:
    """Negate the minimised columns of points [..., m]; applied twice it gives the points back."""
    # adding 0.0 turns -0.0 into 0.0
    return np.asarray(np.asarray(points, dtype=float) * np.where(maximize, 1.0, -1.0) + 0.0, dtype=float)


def dominates(a: ArrayLike, b: ArrayLike) -> bool:
    """Is a [m] at least as good as b [m] everywhere and better somewhere? False if either has a NaN."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return bool((x >= y).all() and (x > y).any())


def nondominated_mask(points: ArrayLike) -> NDArray[np.bool_]:
    """[n] which of the points [n, m] no other point dominates; of exact duplicates the first one is kept.

    O(n log n) for m <= 3, O(n log^(m-2) n) beyond.

    Raises:
        ParetoAlignError: If a point is infinite.
    """
    array = as_points(points)
    complete = ~np.isnan(array).any(axis=1)
    mask = np.zeros(len(array), dtype=bool)
    if complete.any():
        mask[complete] = moocore.is_nondominated(array[complete], maximise=True)
    return mask


def pareto_ranks(points: ArrayLike) -> NDArray[np.int64]:
    """[n] number of fronts to peel off before each point is non-dominated; duplicates share a rank.

    Rows with a NaN come after everything else.

    Raises:
        ParetoAlignError: If a point is infinite.
    """
    array = as_points(points)
    complete = ~np.isnan(array).any(axis=1)
    ranks = np.zeros(len(array), dtype=np.int64)
    if complete.any():
        ranks[complete] = moocore.pareto_rank(array[complete], maximise=True)
        ranks[~complete] = ranks[complete].max() + 1
    return ranks


def probability_dominates(a: Estimate, b: Estimate, axes: Sequence[int]) -> float:
    """Probability that the true mean of a is at least as good as that of b on every axis.

    Flat prior on the difference of the means. Each objective has Student's t with n - 1 degrees of freedom, n being the
    smaller number of units, tied to the others by their correlations (a Gaussian copula: exact for one objective, and
    normal for many prompts). Prompts that both were measured on are compared pairwise. Without any noise it is 1.0 or
    0.0 as `dominates` says; where the noise is not known nothing is claimed: 0.0.
    """
    columns = list(axes)
    mean, covariance = difference(a, b)
    mean, covariance = mean[columns], covariance[np.ix_(columns, columns)]
    stderr = np.sqrt(np.diag(covariance))
    if np.isnan(stderr).any():
        return 0.0
    certain = stderr == 0
    if certain.all():
        return float(dominates(a.mean[columns], b.mean[columns]))
    if np.isnan(mean).any() or (mean[certain] < 0).any():
        return 0.0
    s = stderr[~certain]
    correlation = covariance[np.ix_(~certain, ~certain)] / np.outer(s, s)
    return _orthant_probability(_normal_scores(mean[~certain] / s, common_units(a, b, columns)), correlation)


def _normal_scores(t: Floats, n: int) -> Floats:
    """The normal quantiles that are as probable as t [m] is with n units."""
    from scipy.special import ndtri, stdtr

    # by the lower tail, where a probability is not rounded to 1
    return np.asarray(-np.sign(t) * ndtri(np.maximum(stdtr(max(n - 1, 1), -np.abs(t)), 1e-300)), dtype=float)


def _orthant_probability(z: Floats, correlation: Floats) -> float:
    """P(X >= 0) for X ~ N(z, correlation), [m] and [m, m].

    Genz's separation of variables: factor the correlation, draw the variables one after the other conditional on
    being positive so far, and average the product of the conditional probabilities. The draws are a fixed rank-one
    lattice, so the answer is the same every time.
    """
    from scipy.special import ndtr, ndtri

    m = len(z)
    factor = np.zeros((m, m))
    uniforms = _lattice(m - 1)
    normals = np.zeros((_LATTICE_SIZE, m))
    probability = np.ones(_LATTICE_SIZE)
    for i in range(m):
        for j in range(i):
            if factor[j, j] > 0:
                factor[i, j] = (correlation[i, j] - factor[i, :j] @ factor[j, :j]) / factor[j, j]
        pivot = 1.0 - factor[i, :i] @ factor[i, :i]
        conditional = z[i] + normals[:, :i] @ factor[i, :i]
        if pivot < _SINGULAR:  # the earlier variables decide this one
            probability *= conditional >= -np.sqrt(_SINGULAR)
            continue
        factor[i, i] = np.sqrt(pivot)
        positive = ndtr(conditional / factor[i, i])
        probability *= positive
        if i < m - 1:
            normals[:, i] = -ndtri(np.clip(uniforms[:, i] * positive, 1e-300, 1 - 1e-16))
    return float(probability.mean())


def _lattice(dimensions: int) -> Floats:
    """[_LATTICE_SIZE, dimensions] low-discrepancy points in (0, 1), folded so that their periodic extension is smooth.

    The generator is the generalised golden ratio: powers of the root of x^(d+1) = x + 1.
    """
    ratio = 1.5
    for _ in range(50):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = (np.arange(_LATTICE_SIZE)[:, None] + 0.5) * ratio ** -np.arange(1.0, dimensions + 1)
    return np.asarray(np.abs(2 * (steps % 1.0) - 1), dtype=float)
