"""The entries of an archive that compete, as arrays that grow with them.

To judge all entries anew after each offer takes time by the square of their number. What one offer can change is
little, so what the verdicts rest on is kept and brought up to date: how many dominate an entry, which pairs may be
duplicates and how far apart they are, and which dominator settled the matter. The verdicts are those of judging anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pareto_align.front.entries import Entry

__all__ = ["Competition"]

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
Distance = Callable[["Entry", "Entry"], tuple[float, int]]

_MARGIN = 1.25  # pairs are looked at a little farther out than needed, since what is needed grows with every offer
_NOBODY = -1


class Competition:
    """Entries by number, in the order in which they came; those that left keep their numbers.

    Attributes:
        entries: By number.
        number: Of an id.
        points: [n, m] means on the axes.
        spread: [n, m] standard errors.
        units: [n] fewest units behind a mean on any axis.
        looks: [n] how many times each was measured.
        alive: [n] whether it still competes.
        above: [n] by how many that compete it is dominated in the mean.
        member: [n] whether it was a member by the last verdict.
        twin: [n] whose duplicate it was by the last verdict, or -1.
        equal: [n] whether it was exactly equal to that one.
        rival: [n] which dominator the last verdict names, or -1 where it has to be looked for.
        margin: [n] by how many standard errors, summed, that one is better on its worst axis.
        error: [n] probability that it is not better; inf where no dominator is surely better.
        share: [n] share of the allowed error for so many looks at the pair.
    """

    def __init__(self, axes: list[int]) -> None:
        self.axes = axes
        m, room = len(axes), 64
        self.entries: list[Entry] = []
        self.number: dict[str, int] = {}
        self.points: Floats = np.zeros((room, m))
        self.spread: Floats = np.zeros((room, m))
        self.units: Integers = np.zeros(room, dtype=np.intp)
        self.looks: Integers = np.zeros(room, dtype=np.intp)
        self.alive: NDArray[np.bool_] = np.zeros(room, dtype=bool)
        self.above: Integers = np.zeros(room, dtype=np.intp)
        self.member: NDArray[np.bool_] = np.zeros(room, dtype=bool)
        self.twin: Integers = np.zeros(room, dtype=np.intp)
        self.equal: NDArray[np.bool_] = np.zeros(room, dtype=bool)
        self.rival: Integers = np.zeros(room, dtype=np.intp)
        self.margin: Floats = np.zeros(room)
        self.error: Floats = np.zeros(room)
        self.share: Floats = np.zeros(room)
        # pairs of which one was kept, a hub: the others are compared with hubs alone
        self._hub: NDArray[np.bool_] = np.zeros(room, dtype=bool)
        self._pairs: Integers = np.zeros((0, 2), dtype=np.intp)
        self._apart: Floats = np.zeros(0)
        self._kind: Integers = np.zeros(0, dtype=np.intp)
        self._kinds: dict[tuple[int, int], int] = {}
        self._reach, self._rounding = -1.0, np.zeros(m)
        self._unpaired: list[int] = []
        self.challenges: list[tuple[int, int, float]] = []

    @property
    def size(self) -> int:
        """How many ever competed."""
        return len(self.entries)

    def add(self, entry: Entry) -> None:
        """An entry joins; the dominated ones among the others are to hear of it (`challenges`)."""
        k = self.size
        if k == len(self.alive):
            self._grow()
        mean, noise = entry.estimate.mean[self.axes], entry.estimate.stderr[self.axes]
        over, under = self._dominance(mean, k)
        self.entries.append(entry)
        self.number[entry.id] = k
        self.points[k], self.spread[k] = mean, noise
        self.units[k], self.looks[k] = entry.estimate.counts[self.axes].min(), entry.measured
        self.alive[k], self.above[k] = True, np.count_nonzero(over)
        self.twin[k] = self.rival[k] = _NOBODY
        self.above[:k][under] += 1
        hear = np.flatnonzero(under & (self.rival[:k] != _NOBODY))
        if hear.size:
            margin = self.margins(k, hear)
            self.rival[hear[np.isnan(margin)]] = _NOBODY
            self.challenges += [(k, int(j), float(x)) for j, x in zip(hear, margin, strict=True) if not np.isnan(x)]
        self._unpaired.append(k)

    def remove(self, k: int) -> None:
        """An entry leaves for good."""
        self.alive[k] = self._hub[k] = self.member[k] = False
        _, under = self._dominance(self.points[k], self.size)
        self.above[: self.size][under] -= 1
        self.rival[: self.size][self.rival[: self.size] == k] = _NOBODY
        self._keep_pairs(~(self._pairs == k).any(axis=1))

    def dominators(self, j: int) -> Integers:
        """Numbers of those that dominate j in the mean."""
        over, _ = self._dominance(self.points[j], self.size)
        return np.flatnonzero(over)

    def margins(self, above: int | Integers, below: int | Integers) -> Floats:
        """[k] by how many standard errors, summed, each is better than each below it, on the worst axis."""
        noise = np.maximum(self.spread[above] + self.spread[below], 1e-300)
        return np.asarray(((self.points[above] - self.points[below]) / noise).min(axis=1))

    def watch(self, reach: float, rounding: Floats, distance: Distance) -> None:
        """Look at all pairs within `reach` standard errors, summed, and rounding [m], of which one is a hub."""
        if not (reach <= self._reach and (rounding <= self._rounding).all()):
            self._reach, self._rounding = _MARGIN * reach, 16 * rounding
            self._hub[: self.size] = False
            self._keep_pairs(np.zeros(len(self._pairs), dtype=bool))
        else:
            for k in self._unpaired:
                if self.alive[k]:
                    self._pair(k, [int(h) for h in self._near(k) if self._hub[h]], distance)
        self._unpaired = []

    def make_hubs(self, kept: Integers, distance: Distance) -> bool:
        """Compare those that are kept with all that are near; whether that made any new pair."""
        before = len(self._pairs)
        for k in kept[~self._hub[kept]]:
            self._pair(int(k), [int(i) for i in self._near(int(k)) if not self._hub[i]], distance)
            self._hub[k] = True
        return len(self._pairs) > before

    def same(self, limit: Callable[[int, int], float], reach: float, rounding: Floats) -> Integers:
        """[p, 2] watched pairs that count as one policy.

        Args:
            limit: Of units and looks: the paired standard errors within which two are one.
            reach: Standard errors, summed, beyond which two cannot be.
            rounding: [m] by how much equal means may differ.
        """
        if not len(self._pairs):
            return self._pairs
        limits = np.array([limit(*kind) for kind in self._kinds])
        close = self._pairs[self._apart <= limits[self._kind]]
        a, b = close.T
        far = np.abs(self.points[a] - self.points[b]) > reach * (self.spread[a] + self.spread[b]) + rounding
        return np.asarray(close[~far.any(axis=1)])

    def _dominance(self, mean: Floats, n: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """[n] which of the first n dominate a mean [m], and which it dominates."""
        no_worse = (self.points[:n] >= mean).all(axis=1) & self.alive[:n]
        no_better = (self.points[:n] <= mean).all(axis=1) & self.alive[:n]
        return no_worse & ~no_better, no_better & ~no_worse

    def _near(self, k: int) -> Integers:
        """Numbers of the others that may be within reach of k; also those whose noise is not known."""
        n = self.size
        reach = self._reach * (self.spread[:n] + self.spread[k]) + self._rounding
        near = ~(np.abs(self.points[:n] - self.points[k]) > reach).any(axis=1) & self.alive[:n]
        near[k] = False
        return np.flatnonzero(near)

    def _pair(self, k: int, others: list[int], distance: Distance) -> None:
        if not others:
            return
        apart, kinds = [], []
        for i in others:
            far, units = distance(self.entries[i], self.entries[k])
            apart.append(far)
            looks = max(int(self.looks[i]), int(self.looks[k]))
            kinds.append(self._kinds.setdefault((units, looks), len(self._kinds)))
        self._pairs = np.vstack([self._pairs, np.column_stack([others, np.full(len(others), k)])])
        self._apart = np.concatenate([self._apart, apart])
        self._kind = np.concatenate([self._kind, np.array(kinds, dtype=np.intp)])

    def _keep_pairs(self, kept: NDArray[np.bool_]) -> None:
        if not kept.all():
            self._pairs, self._apart, self._kind = self._pairs[kept], self._apart[kept], self._kind[kept]

    def _grow(self) -> None:
        for name, old in vars(self).items():
            if (
                isinstance(old, np.ndarray)
                and len(old) == self.size
                and name not in ("_pairs", "_apart", "_kind", "_rounding")
            ):
                setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
