"""Quality indicators of a front: one number for a set of points.

All points are maximised and should be on a frozen, normalised scale: a hypervolume in raw units mixes tokens with
probabilities. Rows with a NaN are left out; an infinite value is an error.

References:
    Zitzler, Thiele, "Multiobjective evolutionary algorithms: a comparative case study" (1999): hypervolume.
    Ishibuchi et al., "Modified distance calculation in generational distance" (2015): IGD+.
    Zintgraf et al., "Quality assessment of MORL algorithms: a utility-based approach" (2015): EUM, MUL.
    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II" (2002): crowding distance.
"""

from __future__ import annotations

import heapq

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError
from pareto_align.front.dominance import as_points, nondominated_mask

__all__ = [
    "contributions",
    "crowding_distance",
    "expected_utility",
    "hypervolume",
    "hypervolume_subset",
    "igd_plus",
    "maximum_utility_loss",
    "r2",
    "sparsity",
]

Floats = NDArray[np.float64]


def hypervolume(points: ArrayLike, /, ref: ArrayLike) -> float:
    """Volume that the points [n, m] dominate above the reference point [m].

    Points that do not exceed the reference in every objective add nothing. An empty set has volume 0.

    Raises:
        ParetoAlignError: If a point is infinite or the reference has the wrong length.
    """
    inside, _, origin = _above(points, ref)
    return _volume(inside, origin)


def contributions(points: ArrayLike, /, ref: ArrayLike) -> Floats:
    """[n] hypervolume that is lost with each of the points [n, m], above the reference point [m].

    Dominated points count as absent: they contribute 0 and take nothing from the others. Exact duplicates have 0.
    """
    inside, rows, origin = _above(points, ref)
    result = np.zeros(len(as_points(points)))
    if len(inside) and 2 <= inside.shape[1] <= 4:
        result[rows] = moocore.hv_contributions(inside, ref=origin, maximise=True)
    elif len(inside):
        # moocore has no case for one objective, and beyond four it recomputes the whole volume without each point.
        # What the others cover of a point's own box is the volume of the others cut down to that box, and few of
        # those stay non-dominated.
        front = np.flatnonzero(moocore.is_nondominated(inside, maximise=True, keep_weakly=True))
        for i in front:
            others = np.minimum(inside[front[front != i]], inside[i])
            result[rows[i]] = max(0.0, float(np.prod(inside[i] - origin)) - _volume(others, origin))
    return result


def hypervolume_subset(points: ArrayLike, /, ref: ArrayLike, size: int) -> NDArray[np.int64]:
    """Indices of `size` of the points [n, m] with a large joint hypervolume, best first.

    Greedy, and therefore within a factor 1 - 1/e of the best subset: hypervolume is submodular, so a gain computed
    earlier bounds the gain now and most points are never evaluated twice. Rows with a NaN are never chosen.
    """
    array = as_points(points)
    origin = _reference(ref, array.shape[1]) if array.size else np.zeros(0)
    usable = np.flatnonzero(~np.isnan(array).any(axis=1))
    chosen: list[int] = []
    volume = 0.0
    # (minus an upper bound of the gain, index, how many were chosen when it was computed)
    queue = [(-hypervolume(array[[i]], origin), int(i), 0) for i in usable]
    heapq.heapify(queue)
    while queue and len(chosen) < size:
        bound, i, age = heapq.heappop(queue)
        if age == len(chosen):
            chosen.append(i)
            volume -= bound
        else:
            gain = hypervolume(array[[*chosen, i]], origin) - volume
            heapq.heappush(queue, (-max(gain, 0.0), i, len(chosen)))
    return np.array(chosen, dtype=np.int64)


def igd_plus(points: ArrayLike, front: ArrayLike) -> float:
    """Mean shortfall of the points [n, m] against a reference front [z, m]; 0 is best, inf for no points.

    Only what a point lacks counts, never what it has in excess (IGD+), so a dominated set is never rated better.
    """
    own, target = _complete(points), _complete(front)
    if not len(target):
        raise ConfigError("IGD+ needs a reference front with at least one point.")
    return float(moocore.igd_plus(own, ref=target, maximise=True)) if len(own) else np.inf


def r2(points: ArrayLike, directions: ArrayLike, ideal: ArrayLike) -> float:
    """Mean over directions [v, m] of the smallest Chebyshev distance from the ideal [m] to a point; lower is better."""
    own, w = _complete(points), _complete(directions)
    if not len(own):
        return np.inf
    distance = np.abs(np.asarray(ideal, dtype=float) - own)
    return float((w[:, None, :] * distance[None]).max(axis=2).min(axis=1).mean())


def expected_utility(points: ArrayLike, weights: ArrayLike) -> float:
    """Mean over the weights [w, m] of the best linear utility among the points [n, m]; -inf for no points."""
    own = _complete(points)
    return float((_complete(weights) @ own.T).max(axis=1).mean()) if len(own) else -np.inf


def maximum_utility_loss(points: ArrayLike, reference_front: ArrayLike, weights: ArrayLike) -> float:
    """Largest linear utility that a user with one of the weights [w, m] loses against the reference front [z, m].

    Negative where the points are better than the reference front for every weight.
    """
    own, target, w = _complete(points), _complete(reference_front), _complete(weights)
    if not len(target):
        raise ConfigError("Maximum utility loss needs a reference front with at least one point.")
    return float(((w @ target.T).max(axis=1) - (w @ own.T).max(axis=1)).max()) if len(own) else np.inf


def sparsity(points: ArrayLike) -> float:
    """Mean squared gap between neighbours on the front, summed over objectives; lower is denser, 0 for one point.

    Taken over the non-dominated points (C-MORL, arXiv 2410.02236). A collapsed front has sparsity 0: never report it
    without hypervolume and the number of points.
    """
    array = as_points(points)
    front = np.sort(array[nondominated_mask(array)], axis=0)
    return float((np.diff(front, axis=0) ** 2).sum() / (len(front) - 1)) if len(front) > 1 else 0.0


def crowding_distance(points: ArrayLike) -> Floats:
    """[n] distance of each of the points [n, m] to its neighbours, in shares of each objective's range.

    The ends of every objective have infinity, rows with a NaN have 0.
    """
    array = as_points(points)
    usable = np.flatnonzero(~np.isnan(array).any(axis=1))
    result = np.zeros(len(array))
    for column in array[usable].T:
        order = np.argsort(column, kind="stable")
        span = float(np.ptp(column))
        gaps = np.full(len(column), np.inf)
        gaps[order[1:-1]] = (column[order[2:]] - column[order[:-2]]) / span if span > 0 else 0.0
        result[usable] += gaps
    return result


def _above(points: ArrayLike, ref: ArrayLike) -> tuple[Floats, NDArray[np.int64], Floats]:
    """The points that exceed the reference in every objective, their rows, and the reference."""
    array = as_points(points)
    if not array.size:
        return array, np.zeros(0, dtype=np.int64), np.zeros(array.shape[1])
    origin = _reference(ref, array.shape[1])
    rows = np.flatnonzero((array > origin).all(axis=1))  # a comparison with NaN is false
    return array[rows], rows, origin


def _volume(inside: Floats, origin: Floats) -> float:
    return float(moocore.hypervolume(inside, ref=origin, maximise=True)) if len(inside) else 0.0


def _reference(ref: ArrayLike, m: int) -> Floats:
    origin = np.array(ref, dtype=float)
    if origin.shape != (m,) or not np.isfinite(origin).all():
        raise ConfigError(f"The reference point must be {m} finite numbers. Found {np.asarray(ref).tolist()}.")
    return origin


def _complete(points: ArrayLike) -> Floats:
    array = as_points(points)
    return array[~np.isnan(array).any(axis=1)]
