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
Limit = Callable[[int, int], float]

_MARGIN = 1.25  # pairs are looked at a little farther out than needed, since what is needed grows with every offer
_NOBODY = -1
_BY_NUMBER = (
    "points", "spread", "units", "looks", "alive", "above", "member", "twin", "equal", "rival", "margin", "error",
    "share", "_hub",
)  # fmt: skip


class Competition:
    """Entries by number, in the order in which they came; those that left keep theirs until there are too many.

    Attributes:
        entries: By number.
        number: Of an id.
        points: [m, n] means on the axes; an axis is contiguous, and passed over as a whole.
        spread: [m, n] standard errors.
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
        self.points: Floats = np.zeros((m, room))
        self.spread: Floats = np.zeros((m, room))
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
        self._looked: tuple[int, Integers] | None = None
        self.challenges: list[tuple[int, int, float]] = []

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.entries)

    def add(self, entry: Entry) -> None:
        """An entry joins; the dominated ones among the others are to hear of it (`challenges`)."""
        if self.size > 64 + 2 * np.count_nonzero(self.alive):
            self._renumber()
        k = self.size
        if k == len(self.alive):
            self._grow()
        mean, noise = entry.estimate.mean[self.axes], entry.estimate.stderr[self.axes]
        over, under = self._dominance(mean, k)
        self.entries.append(entry)
        self.number[entry.id] = k
        self.points[:, k], self.spread[:, k] = mean, noise
        self.units[k], self.looks[k] = entry.estimate.counts[self.axes].min(), entry.measured
        self.alive[k], self.above[k] = True, len(over)
        self.twin[k] = self.rival[k] = _NOBODY
        self.above[under] += 1
        hear = under[self.rival[under] != _NOBODY]
        if hear.size:
            margin = self.margins(k, hear)
            self.rival[hear[np.isnan(margin)]] = _NOBODY
            self.challenges += [(k, int(j), float(x)) for j, x in zip(hear, margin, strict=True) if not np.isnan(x)]
        self._unpaired.append(k)

    def remove(self, k: int) -> None:
        """An entry leaves for good."""
        self.alive[k] = self._hub[k] = self.member[k] = False
        _, under = self._dominance(self.points[:, k], self.size)
        self.above[under] -= 1
        self.rival[: self.size][self.rival[: self.size] == k] = _NOBODY
        self._keep_pairs((self._pairs[:, 0] != k) & (self._pairs[:, 1] != k))

    def dominators(self, j: int) -> Integers:
        """Numbers of those that dominate j in the mean."""
        over, _ = self._dominance(self.points[:, j], self.size)
        return over

    def margins(self, above: int | Integers, below: int | Integers) -> Floats:
        """[k] by how many standard errors, summed, each is better than each below it, on the worst axis."""
        one, other = np.atleast_1d(above), np.atleast_1d(below)
        noise = np.maximum(self.spread[:, one] + self.spread[:, other], 1e-300)
        return np.asarray(((self.points[:, one] - self.points[:, other]) / noise).min(axis=0))

    def watch(self, reach: float, rounding: Floats, distance: Distance) -> None:
        """Look at all pairs within `reach` standard errors, summed, and rounding [m], of which one is a hub."""
        self._looked = None
        if not (reach <= self._reach and (rounding <= self._rounding).all()):
            self._reach, self._rounding = _MARGIN * reach, 16 * rounding
            self._hub[: self.size] = False
            self._keep_pairs(np.zeros(len(self._pairs), dtype=bool))
        else:
            for k in self._unpaired:
                if self.alive[k]:
                    self._pair(k, [int(h) for h in self._near(k) if self._hub[h]], distance)
        self._unpaired = []

    def make_hubs(self, kept: Integers, distance: Distance) -> None:
        """Compare those that are kept with all that are near."""
        for k in kept[~self._hub[kept]]:
            self._pair(int(k), [int(i) for i in self._near(int(k)) if not self._hub[i]], distance)
            self._hub[k] = True

    @property
    def watched(self) -> int:
        """How many pairs are looked at."""
        return len(self._pairs)

    def close(self, limit: Limit, reach: float, rounding: Floats, first: int = 0) -> Integers:
        """[p] which of the watched pairs, from `first` on, may count as one policy.

        Args:
            limit: Of units and looks: the paired standard errors within which two are one at most.
            reach: Standard errors, summed, beyond which two cannot be.
            rounding: [m] by how much equal means may differ.
            first: Where to begin.
        """
        found = first + np.flatnonzero(self._apart[first:] <= self._limits(limit)[self._kind[first:]])
        a, b = self._pairs[found].T
        reaches = reach * (self.spread[:, a] + self.spread[:, b]) + rounding[:, None]
        far = np.abs(self.points[:, a] - self.points[:, b]) > reaches
        return np.asarray(found[~far.any(axis=0)])

    def same(self, close: Integers, limit: Limit) -> Integers:
        """[q, 2] those of the close pairs that are within the limit."""
        return self._pairs[close[self._apart[close] <= self._limits(limit)[self._kind[close]]]]

    def _limits(self, limit: Limit) -> Floats:
        return np.array([limit(*kind) for kind in self._kinds])

    def _dominance(self, mean: Floats, n: int) -> tuple[Integers, Integers]:
        """Numbers below n of those that dominate a mean [m], and of those that it dominates."""
        first, alive = self.points[0, :n], self.alive[:n]
        no_worse = np.flatnonzero(alive & (first >= mean[0]))
        no_better = np.flatnonzero(alive & (first <= mean[0]))
        for axis, value in zip(self.points[1:], mean[1:], strict=True):  # ever fewer are left
            no_worse = no_worse[axis[no_worse] >= value]
            no_better = no_better[axis[no_better] <= value]
        return self._unequal(no_worse, mean), self._unequal(no_better, mean)

    def _unequal(self, numbers: Integers, mean: Floats) -> Integers:
        """Those that are not equal to a mean [m]."""
        return np.asarray(numbers[(self.points[:, numbers] != mean[:, None]).any(axis=0)])

    def _near(self, k: int) -> Integers:
        """Numbers of the others that may be within reach of k; also those whose noise is not known."""
        if self._looked is not None and self._looked[0] == k:
            return self._looked[1]  # a newcomer is compared with the hubs, and then as a hub with the others
        n = self.size
        reach = self._reach * (self.spread[0, :n] + self.spread[0, k]) + self._rounding[0]
        may = self.alive[:n] & ~(np.abs(self.points[0, :n] - self.points[0, k]) > reach)
        may[k] = False
        near: Integers = np.flatnonzero(may)
        for axis, noise, rounding in zip(self.points[1:], self.spread[1:], self._rounding[1:], strict=True):
            reach = self._reach * (noise[near] + noise[k]) + rounding
            near = near[~(np.abs(axis[near] - axis[k]) > reach)]
        self._looked = k, near
        return near

    def _pair(self, k: int, others: list[int], distance: Distance) -> None:
        close, apart, kinds = [], [], []
        for i in others:
            far, units = distance(self.entries[i], self.entries[k])
            if far <= self._reach:  # no limit is wider, so the rest need not be looked at again
                looks = max(int(self.looks[i]), int(self.looks[k]))
                close.append(i)
                apart.append(far)
                kinds.append(self._kinds.setdefault((units, looks), len(self._kinds)))
        if not close:
            return
        self._pairs = np.vstack([self._pairs, np.column_stack([close, np.full(len(close), k)])])
        self._apart = np.concatenate([self._apart, apart])
        self._kind = np.concatenate([self._kind, np.array(kinds, dtype=np.intp)])

    def _keep_pairs(self, kept: NDArray[np.bool_]) -> None:
        if not kept.all():
            self._pairs, self._apart, self._kind = self._pairs[kept], self._apart[kept], self._kind[kept]

    def _grow(self) -> None:
        for name in _BY_NUMBER:
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros_like(old)], axis=-1))

    def _renumber(self) -> None:
        """Forget those that left; the others keep their order."""
        stay = np.flatnonzero(self.alive)
        to = np.full(len(self.alive) + 1, _NOBODY)  # the last is for nobody, number -1
        to[stay] = np.arange(len(stay))
        self.entries = [self.entries[k] for k in stay]
        self.number = {entry.id: k for k, entry in enumerate(self.entries)}
        for name in _BY_NUMBER:
            old = getattr(self, name)
            new = np.zeros_like(old)
            new[..., : len(stay)] = old[..., stay]
            setattr(self, name, new)
        self.twin[: len(stay)], self.rival[: len(stay)] = to[self.twin[: len(stay)]], to[self.rival[: len(stay)]]
        self._pairs = to[self._pairs]
        self._unpaired = [int(to[k]) for k in self._unpaired if to[k] != _NOBODY]
