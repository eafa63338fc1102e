"""Quality indicators of a front: one number for a set of points.

All points are maximised and should be on a frozen, normalised scale: a hypervolume in raw units mixes tokens with
probabilities. Rows with a NaN are left out; an infinite value is an error.

The exact hypervolume takes time exponential in m: 200 points are a matter of a millisecond for m = 5 and of ten
seconds for m = 8. Beyond `exact_up_to(m)` points it is estimated from random points, with its standard error, by
`approximate_hypervolume`.

References:
    Zitzler, Thiele, "Multiobjective evolutionary algorithms: a comparative case study" (1999): hypervolume.
    Ishibuchi et al., "Modified distance calculation in generational distance" (2015): IGD+.
    Zintgraf et al., "Quality assessment of MORL algorithms: a utility-based approach" (2015): EUM, MUL.
    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II" (2002): crowding distance.
    Karp, Luby, Madras, "Monte-Carlo approximation algorithms for enumeration problems", J. Algorithms 10 (1989), and
        Bringmann, Friedrich, "Approximating the volume of unions and intersections of high-dimensional geometric
        objects", Comput. Geom. 43 (2010): the estimate of a union of boxes.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError
from pareto_align.front.dominance import as_points, nondominated_mask

__all__ = [
    "ContributionTable",
    "approximate_hypervolume",
    "contributions",
    "crowding_distance",
    "exact_up_to",
    "expected_utility",
    "hypervolume",
    "hypervolume_subset",
    "hypervolumes",
    "igd_plus",
    "maximum_utility_loss",
    "r2",
    "sparsity",
]

Floats = NDArray[np.float64]


_SAMPLES = 65536  # random points of an estimate


def exact_up_to(m: int) -> int | None:
    """Most points of which the hypervolume for m objectives is exact, in about a tenth of a second; None for any."""
    return {6: 200, 7: 100, 8: 50, 9: 30, 10: 20}.get(m, 10) if m > 5 else None


def hypervolume(points: ArrayLike, /, ref: ArrayLike) -> float:
    """Volume that the points [n, m] dominate above the reference point [m].

    Points that do not exceed the reference in every objective add nothing. An empty set has volume 0. Beyond
    `exact_up_to(m)` non-dominated points it is the estimate of `approximate_hypervolume`, the same every time.

    Raises:
        ParetoAlignError: If a point is infinite or the reference has the wrong length.
    """
    inside, _, origin = _above(points, ref)
    if _is_exact(inside):
        return _volume(inside, origin)
    return approximate_hypervolume(inside, origin)[0]


def hypervolumes(sets: ArrayLike, /, ref: ArrayLike) -> Floats:
    """[b] hypervolume of each of b sets of as many points, [b, n, m], as `hypervolume` has it.

    For two objectives all sets are summed at once, which is what a bootstrap of a thousand small fronts needs.

    Raises:
        ParetoAlignError: If a point is infinite or the reference has the wrong length.
    """
    array = np.asarray(sets, dtype=float)
    if array.ndim != 3 or array.shape[2] != 2 or not array.size:
        return np.array([hypervolume(points, ref) for points in array], dtype=float)
    as_points(array.reshape(-1, 2))
    origin = _reference(ref, 2)
    # a point that does not exceed the reference in both is put on it, where it adds nothing; so is one with a NaN
    x, y = np.moveaxis(np.where((array > origin).all(axis=2, keepdims=True), array, origin) - origin, 2, 0)
    order = np.argsort(-x, axis=1)
    x, y = np.take_along_axis(x, order, axis=1), np.take_along_axis(y, order, axis=1)
    widths = x - np.pad(x[:, 1:], ((0, 0), (0, 1)))  # of the strips between neighbours, the last one to the reference
    return np.asarray((widths * np.maximum.accumulate(y, axis=1)).sum(axis=1), dtype=float)


def approximate_hypervolume(points: ArrayLike, /, ref: ArrayLike, *, samples: int = _SAMPLES) -> tuple[float, float]:
    """Estimate of the hypervolume of the points [n, m] above the reference point [m], and its standard error.

    The volume is that of a union of boxes. Random points are drawn from the boxes in proportion to their volumes; a
    point that lies in c boxes counts 1 / c, so the sum of the volumes times the mean count is unbiased. The count lies
    in (0, 1] whatever m is, hence the standard error can be trusted; relative to the volume it is at most
    sqrt(n / samples), by default 5.5 % for n = 200, and on spherical fronts of 50 to 200 points it was 0.3 to 0.7 %.

    Args:
        points: Maximised.
        ref: Lower corner of the volume.
        samples: Number of random points; the same ones every time.

    Raises:
        ParetoAlignError: If a point is infinite or the reference has the wrong length.
    """
    inside, _, origin = _above(points, ref)
    if not len(inside):
        return 0.0, 0.0
    total, _, covers = _sample_boxes(inside - origin, samples)
    counts = 1.0 / covers
    return float(total * counts.mean()), float(total * counts.std(ddof=1) / np.sqrt(samples))


def contributions(points: ArrayLike, /, ref: ArrayLike) -> Floats:
    """[n] hypervolume that is lost with each of the points [n, m], above the reference point [m].

    Dominated points count as absent: they contribute 0 and take nothing from the others. Exact duplicates have 0.
    Beyond `exact_up_to(m)` non-dominated points each is estimated from the random points of `approximate_hypervolume`
    that lie in its box alone; it is unbiased, and 0 where there was none.
    """
    inside, rows, origin = _above(points, ref)
    result = np.zeros(len(as_points(points)))
    if len(inside) and 2 <= inside.shape[1] <= 4:
        result[rows] = moocore.hv_contributions(inside, ref=origin, maximise=True)
    elif len(inside):
        front = np.flatnonzero(moocore.is_nondominated(inside, maximise=True, keep_weakly=True))
        if _is_exact(inside):
            # moocore has no case for one objective, and beyond four it recomputes the whole volume without each point
            result[rows[front]] = [_exclusive(inside[front], i, origin) for i in range(len(front))]
        else:
            total, box, covers = _sample_boxes(inside[front] - origin, _SAMPLES)
            result[rows[front]] = total / _SAMPLES * np.bincount(box[covers == 1], minlength=len(front))
    return result


class ContributionTable:
    """Contributions of a set of mutually non-dominated points of which a few change from one call to the next.

    A point that comes or goes matters to another one only where no third point covers what the two have in common, so
    most contributions stay as they were.

    Args:
        ref: [m] reference point.
    """

    def __init__(self, ref: ArrayLike) -> None:
        self.ref = np.array(ref, dtype=float)
        self._names: list[Hashable] = []
        self._points = np.empty((0, self.ref.size))
        self._gains = np.empty(0)

    def __call__(self, names: Sequence[Hashable], points: ArrayLike) -> Floats:
        """[n] contributions of the points [n, m], which the names tell apart; as `contributions`."""
        array = as_points(points)
        m = self.ref.size
        now = {(name, *row): None for name, row in zip(names, array.tolist(), strict=True)}
        before = [(name, *row) for name, row in zip(self._names, self._points.tolist(), strict=True)]
        gone = [i for i, key in enumerate(before) if key not in now]
        known = set(before)
        new = [i for i, key in enumerate(now) if key not in known]
        limit = exact_up_to(m)
        if m <= 4 or len(gone) + len(new) > len(array) / 8 or (limit is not None and len(array) > limit):
            self._names, self._points, self._gains = list(names), array, contributions(array, self.ref)
            return self._gains.copy()
        for i in reversed(gone):
            left = self._points[i]
            self._names.pop(i)
            self._points, self._gains = np.delete(self._points, i, axis=0), np.delete(self._gains, i)
            self._update(self._concerned(self._points, left))
        for i in new:
            concerned = self._concerned(self._points, array[i])
            self._names.append(names[i])
            self._points, self._gains = np.vstack([self._points, array[i]]), np.append(self._gains, 0.0)
            self._update(np.append(concerned, len(self._names) - 1))
        place = {name: i for i, name in enumerate(self._names)}
        order = [place[name] for name in names]
        self._names, self._points, self._gains = list(names), self._points[order], self._gains[order]
        return self._gains.copy()

    def _concerned(self, points: Floats, other: Floats) -> NDArray[np.intp]:
        """Which of the points share something with another that no third one covers."""
        shared = np.minimum(points, other)
        covered = np.asarray((points[None] >= shared[:, None]).all(axis=2), dtype=bool)
        np.fill_diagonal(covered, False)
        return np.flatnonzero(~covered.any(axis=1) & (shared > self.ref).all(axis=1))

    def _update(self, rows: NDArray[np.intp]) -> None:
        for i in rows:
            above = (self._points[i] > self.ref).all()
            self._gains[i] = _exclusive(self._points, int(i), self.ref) if above else 0.0


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


def _exclusive(front: Floats, i: int, origin: Floats) -> float:
    """Contribution of point i of a front [n, m]: its box without what the others cover of it.

    That is the volume of the others cut down to the box, and few of those stay non-dominated.
    """
    others = np.minimum(np.delete(front, i, axis=0), front[i])
    others = others[(others > origin).all(axis=1)]
    return max(0.0, float(np.prod(front[i] - origin)) - _volume(others, origin))


def _is_exact(inside: Floats) -> bool:
    limit = exact_up_to(inside.shape[1])
    if limit is None or len(inside) <= limit:
        return True
    return int(moocore.is_nondominated(inside, maximise=True).sum()) <= limit


def _sample_boxes(boxes: Floats, samples: int) -> tuple[float, NDArray[np.intp], NDArray[np.intp]]:
    """Sum of the volumes of the boxes [n, m] at the origin; for each random point its box and how many boxes hold it.

    Boxes get points in proportion to their volumes by systematic sampling.
    """
    rng = np.random.default_rng(0)
    volumes = boxes.prod(axis=1)
    shares = np.cumsum(volumes) / volumes.sum()
    box = np.searchsorted(shares, (np.arange(samples) + rng.uniform()) / samples).clip(max=len(boxes) - 1)
    covers = np.empty(samples, dtype=np.intp)
    for start in range(0, samples, 1024):
        part = box[start : start + 1024]
        points = rng.uniform(size=(len(part), boxes.shape[1])) * boxes[part]
        held = points[:, :1] <= boxes[:, 0]
        for j in range(1, boxes.shape[1]):
            held &= points[:, j : j + 1] <= boxes[:, j]
        covers[start : start + 1024] = held.sum(axis=1)
    return float(volumes.sum()), box, covers


def _reference(ref: ArrayLike, m: int) -> Floats:
    origin = np.array(ref, dtype=float)
    if origin.shape != (m,) or not np.isfinite(origin).all():
        raise ConfigError(f"The reference point must be {m} finite numbers. Found {np.asarray(ref).tolist()}.")
    return origin


def _complete(points: ArrayLike) -> Floats:
    array = as_points(points)
    return array[~np.isnan(array).any(axis=1)]
