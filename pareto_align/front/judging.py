"""The verdicts of an archive: dominated in the mean, confidently or not; duplicate; evicted.

See `pareto_align.front.archive` for what they promise. Each verdict rests on what `Competition` keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pareto_align.front.competition import Competition
from pareto_align.front.dominance import probability_dominates
from pareto_align.front.entries import Entry, Status, decide
from pareto_align.front.estimates import common_units, paired_difference, student_quantile
from pareto_align.front.indicators import ContributionTable

__all__ = ["ROUNDING", "Judge", "spent_on"]

Floats = NDArray[np.float64]

ROUNDING = 8 * float(np.finfo(np.float64).eps)


class Judge:
    """What an archive decides by; it sets the attributes.

    Attributes:
        axes: Columns of the estimates that span the front.
        scale_lower, scale_upper: [m] frame of the axes.
        confidence: Probability of being dominated from which on an entry has confidently fallen.
        resolution: Paired standard errors within which two entries count as one, for one comparison on many prompts.
        capacity: Largest number of members, or None.
        entries: All, by id.
    """

    axes: tuple[int, ...]
    scale_lower: Floats
    scale_upper: Floats
    confidence: float
    resolution: float
    capacity: int | None
    entries: dict[str, Entry]
    _gains: ContributionTable
    _competition: Competition
    _seen: int  # how many entries the competition knows of; -1: it has to begin anew
    _counted: int | None  # entries that may be compared; None: not counted yet
    # pairwise tests already made, by ids: how far apart on the clearest axis, how probable that one dominates
    _decided: list[Entry]  # whose verdict is new
    _apart: dict[tuple[str, str], tuple[float, int]]
    _dominance: dict[tuple[str, str], float]

    @property
    def comparisons(self) -> int:
        """How many others an entry is compared with, at least 1."""
        counted = self._counted
        if counted is None or self._seen != len(self.entries):
            counted = sum(e.status is not Status.INVALID for e in self.entries.values())
        return max(1, counted - 1)

    def threshold(self, n: int, *, looks: int = 1, members: int = 1) -> float:
        """Paired standard errors within which two entries count as one.

        `resolution` is meant for one comparison, on one axis, looked at for good, on many prompts. The probability that
        it leaves on either side is shared among comparisons, axes and looks, and the quantile is Student's.

        Args:
            n: Prompts behind the difference.
            looks: How many times the one of the two that was measured more often was measured.
            members: How many members the front has anyway, which may be wrong in proportion.
        """
        if not self.resolution:
            return 0.0
        comparisons = max(1.0, self.comparisons / members) * len(self.axes)
        single = NormalDist().cdf(-self.resolution)
        # Student's factor is that of one comparison: far out in the tail, with a handful of prompts, it has no bounds,
        # and the two ends of a front would count as one policy
        widening = student_quantile(single, n) / self.resolution
        return -NormalDist().inv_cdf(single / comparisons * spent_on(looks)) * widening

    def _decide(self, entry: Entry, status: Status, reason: str, rival: str | None = None) -> None:
        decide(entry, status, reason, rival=rival)
        self._decided.append(entry)

    def _judge_competition(self) -> None:
        c, n = self._competition, self._competition.size
        alive = np.flatnonzero(c.alive[:n])
        fewest, looks = max(2, int(c.units[alive].min())), int(c.looks[alive].max())
        # sd(X - Y) <= sd(X) + sd(Y) whatever the correlation, so this finds every pair that may be duplicates
        reach, rounding = self.threshold(fewest, looks=looks), ROUNDING * np.abs(c.points[:, alive]).max(axis=1)
        c.watch(reach, rounding, self._distance)
        front = c.alive[:n] & (c.above[:n] == 0)
        limits: dict[tuple[int, int, int], float] = {}

        def limit(members: int) -> Callable[[int, int], float]:
            def of(units: int, looks: int) -> float:
                key = units, looks, members
                if key not in limits:
                    limits[key] = self.threshold(units, looks=looks, members=members)
                return limits[key]

            return of

        close, unit = c.close(limit(1), reach, rounding), self._unit(alive)  # one member allows for the widest
        twins: dict[int, int] = {}
        kept, before = front.copy(), np.empty((0, 2), dtype=np.intp)
        size = allowed = 0
        while size > allowed or not allowed:  # a larger front may resolve more, which may make it larger
            allowed = max(size, 1)
            while True:
                same = c.same(close, limit(allowed))
                if not np.array_equal(same, before):
                    twins, before = self._twins(same, front, unit), same
                    kept = front.copy()
                    kept[list(twins)] = False
                first = c.watched
                c.make_hubs(np.flatnonzero(kept), self._distance)
                if c.watched == first:
                    break
                close = np.concatenate([close, c.close(limit(1), reach, rounding, first)])
            size = int(kept.sum())
        for i in np.flatnonzero(kept & ~c.member[:n]).tolist():
            self._decide(c.entries[i], Status.MEMBER, "No entry is better on every axis.")
        for one, other in twins.items():
            self._duplicate(one, other)
        c.member[:n] = kept
        c.twin[np.flatnonzero(kept)] = -1
        if self.capacity is not None:
            kept[:] = False
            kept[self._evict(c.entries, np.flatnonzero(c.member[:n]).tolist())] = True
            c.member[:n] = kept
        self._judge_dominated(c.alive[:n] & (c.above[:n] > 0), kept, same)

    def _twins(self, same: NDArray[np.intp], front: NDArray[np.bool_], unit: Floats) -> dict[int, int]:
        """Of the front, whose duplicate each one is that is not kept; the better of two is kept, then the older."""
        within = same[front[same[:, 0]] & front[same[:, 1]]]
        if not len(within):
            return {}
        among = np.zeros(len(front), dtype=bool)
        among[within] = True
        ranked = self._by_merit(np.flatnonzero(among), unit)
        place = np.empty(len(front), dtype=np.intp)
        place[ranked] = np.arange(len(ranked))
        pairs = np.sort(place[within], axis=1)  # the better one of the two first
        twins: dict[int, int] = {}
        for better, worse in pairs[np.lexsort(pairs.T)].tolist():  # what becomes of the better one is known by then
            if worse not in twins and better not in twins:
                twins[worse] = better
        return {int(ranked[one]): int(ranked[other]) for one, other in twins.items()}

    def _by_merit(self, numbers: NDArray[np.intp], unit: Floats) -> NDArray[np.intp]:
        """Entries in the order in which duplicates are resolved: largest sum of the axes first, then age."""
        points = np.ascontiguousarray(self._competition.points[:, numbers].T)
        return numbers[np.lexsort((numbers, -(points / unit).sum(axis=1)))]

    def _unit(self, alive: NDArray[np.intp]) -> Floats:
        """[m] of the axes where entries are ranked: their noise.

        In units of the noise an axis that is measured badly does not decide alone, and of policies that are equal the
        one that stays is extreme on no axis, so that the others do not look different from it by luck.
        """
        spread = np.ascontiguousarray(self._competition.spread[:, alive].T)
        noise = np.sqrt(np.nan_to_num(spread**2).mean(axis=0))
        return np.where(noise > 0, noise, self.scale_upper - self.scale_lower)

    def _judge_dominated(self, dominated: NDArray[np.bool_], kept: NDArray[np.bool_], same: NDArray[np.intp]) -> None:
        """Verdicts on those that are worse than another in the mean: duplicate, dominated or contested."""
        c = self._competition
        twin = np.full(len(dominated), len(dominated))
        for one, other in ((0, 1), (1, 0)):
            of_kept = same[dominated[same[:, one]] & kept[same[:, other]]]
            np.minimum.at(twin, of_kept[:, one], of_kept[:, other])  # the oldest
        equal = twin < len(dominated)
        for j in np.flatnonzero(equal).tolist():
            self._duplicate(j, int(twin[j]))
        open_ = dominated & ~equal
        was_equal = np.flatnonzero(open_ & (c.twin[: len(open_)] != -1))
        c.twin[was_equal] = c.rival[was_equal] = -1
        for newcomer, below, margin in c.challenges:
            if open_[below] and c.rival[below] != -1 and (np.isinf(c.error[below]) or margin > c.margin[below]):
                self._challenge(newcomer, below, margin)
        c.challenges = []
        allowed = (1 - self.confidence) / self.comparisons * c.share[: len(open_)]
        unsure = (c.error[: len(open_)] > allowed) & ~np.isinf(c.error[: len(open_)])
        for j in np.flatnonzero(open_ & (unsure | (c.rival[: len(open_)] == -1))).tolist():
            self._look_for_rival(j)

    def _challenge(self, e: int, j: int, margin: float) -> None:
        """A new entry dominates j in the mean: it counts where it is surely better, or the clearest where nobody is."""
        c = self._competition
        error, share = self._error(e, j)
        if error <= (1 - self.confidence) / self.comparisons * share:
            self._dominated(j, e, margin, error, share)
        elif np.isinf(c.error[j]) and margin > c.margin[j]:
            self._contested(j, e, margin)

    def _look_for_rival(self, j: int) -> None:
        c = self._competition
        above = c.dominators(j)
        # the clearest dominator first: it usually settles the matter
        margin = c.margins(above, j)
        order = np.argsort(-margin, kind="stable")
        for k in order:
            error, share = self._error(int(above[k]), j)
            if error <= (1 - self.confidence) / self.comparisons * share:
                self._dominated(j, int(above[k]), float(margin[k]), error, share)
                break
        else:
            self._contested(j, int(above[order[0]]), float(margin[order[0]]))
        if np.isnan(c.margin[j]):
            c.rival[j] = -1  # no order to compare a later dominator by

    def _error(self, i: int, j: int) -> tuple[float, float]:
        """Probability that i does not dominate j, and the share of the allowed error for so many looks."""
        a, b = self._competition.entries[i], self._competition.entries[j]
        return 1 - self._dominates(a, b), spent_on(max(a.measured, b.measured))

    def _dominated(self, j: int, rival: int, margin: float, error: float, share: float) -> None:
        c = self._competition
        c.rival[j], c.margin[j], c.error[j], c.share[j] = rival, margin, error, share
        id = c.entries[rival].id
        reason = f"{id!r} is better on every axis with {self.confidence:.0%} confidence."
        self._decide(c.entries[j], Status.DOMINATED, reason, rival=id)

    def _contested(self, j: int, rival: int, margin: float) -> None:
        c = self._competition
        c.rival[j], c.margin[j], c.error[j], c.share[j] = rival, margin, np.inf, 1.0
        id = c.entries[rival].id
        reason = f"{id!r} is better in the mean, but with less than {self.confidence:.0%} confidence."
        self._decide(c.entries[j], Status.CONTESTED, reason, rival=id)

    def _evict(self, entries: list[Entry], kept: list[int]) -> list[int]:
        while self.capacity is not None and len(kept) > self.capacity:
            gain = self._gains([entries[i].id for i in kept], self._normalized([entries[i] for i in kept]))
            # of equals, which rounding must not tell apart, the youngest
            worst = int(np.flatnonzero(gain <= gain.min() + 1e-12)[-1])
            reason = (
                f"The archive holds {self.capacity} members and this one added least hypervolume ({gain[worst]:.4g})."
            )
            self._decide(entries[kept.pop(worst)], Status.EVICTED, reason)
        return kept

    def _duplicate(self, i: int, twin: int) -> None:
        c = self._competition
        entry, other = c.entries[i], c.entries[twin]
        reason = (
            f"Within the noise of {other.id!r} on every axis ({self.resolution:g} standard errors, corrected for "
            f"{self.comparisons} comparisons)."
        )
        if c.twin[i] == twin:
            entry.reason = entry.reason if c.equal[i] else reason  # more comparisons than the last time
            return
        c.twin[i] = twin
        c.equal[i] = (entry.estimate.mean == other.estimate.mean)[list(self.axes)].all()
        reason = f"Equal to {other.id!r} on every axis." if c.equal[i] else reason
        self._decide(entry, Status.DUPLICATE, reason, rival=other.id)

    def _distance(self, a: Entry, b: Entry) -> tuple[float, int]:
        """Paired standard errors between two entries on the axis that tells them apart best, and the units behind.

        NaN where they differ on an axis whose noise is not known: they are neither the same nor surely apart.
        """
        key = (min(a.id, b.id), max(a.id, b.id))
        if key not in self._apart:
            axes = list(self.axes)
            mean, stderr = paired_difference(a.estimate, b.estimate)
            distance, noise = np.abs(mean[axes]), stderr[axes]
            size = np.maximum(np.abs(a.estimate.mean[axes]), np.abs(b.estimate.mean[axes]))
            # equal up to rounding is equal; a noise that is not known leaves NaN, which is within no threshold
            equal = distance <= ROUNDING * size
            ratio = np.divide(distance, noise, out=np.where(noise == 0, np.inf, np.nan), where=noise > 0)
            apart = float(np.where(equal, 0.0, ratio).max())
            self._apart[key] = apart, common_units(a.estimate, b.estimate, axes)
        return self._apart[key]

    def _dominates(self, a: Entry, b: Entry) -> float:
        """Probability that a dominates b; 0 where it cannot reach the archive's confidence."""
        key = (a.id, b.id)
        if key not in self._dominance:
            axes = list(self.axes)
            mean, stderr = paired_difference(a.estimate, b.estimate)
            # better on all axes is never more probable than better on one, which is far cheaper to know
            possible = (mean[axes] >= NormalDist().inv_cdf(self.confidence) * stderr[axes]).all()
            self._dominance[key] = probability_dominates(a.estimate, b.estimate, self.axes) if possible else 0.0
        return self._dominance[key]

    def _normalized(self, entries: Sequence[Entry]) -> Floats:
        """[n, m] means on the axes, scaled to the frame."""
        points = np.stack([e.estimate.mean[list(self.axes)] for e in entries])
        return np.asarray((points - self.scale_lower) / (self.scale_upper - self.scale_lower), dtype=float)


def spent_on(look: int) -> float:
    """Share of an error probability that a look may use; over all looks, 1, 2, ..., the shares add up to 1."""
    return 6 / (math.pi * look) ** 2
