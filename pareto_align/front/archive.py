"""ParetoArchive: every measured policy, which of them form the front, and why each of the others does not.

The verdicts are recomputed after every offer and every new measurement, so the front changes both ways: a member falls
when a better policy arrives and comes back when that one, measured again, turns out to have been lucky. A policy that
is worse in the mean but not confidently so is *contested*: it keeps its adapter and is worth another measurement.

The more entries there are, the luckier the luckiest of them looks, and so does one that is looked at again and again.
The verdicts ask for more accordingly. The probability of a wrong one is shared among the other entries (Bonferroni),
and look k at a pair spends 6 / (pi k)^2 of its share, which adds up to the share however often one looks and whenever
one stops. What has to stay small is the share of the members that are wrongly told apart: a front of ten may spend ten
times what a front of one may, and policies that are all equal make a front of one. Standard errors come from few
prompts, so quantiles are Student's.

References:
    Benjamini, Hochberg, "Controlling the false discovery rate: a practical and powerful approach to multiple testing",
        J. R. Stat. Soc. B 57 (1995): errors in proportion to what is found.
    Lan, DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70 (1983): spending an error
        probability over repeated looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError
from pareto_align.front.dominance import probability_dominates
from pareto_align.front.estimates import Estimate, common_units, paired_difference, pool, student_quantile
from pareto_align.front.indicators import ContributionTable, hypervolume

__all__ = ["Entry", "ParetoArchive", "Status"]

Floats = NDArray[np.float64]


class Status(StrEnum):
    """Verdict on an entry of the archive."""

    MEMBER = "member"  # on the front
    DOMINATED = "dominated"  # a member is confidently better
    CONTESTED = "contested"  # a member is better in the mean, but not confidently
    DUPLICATE = "duplicate"  # cannot be told from a member on any axis
    INFEASIBLE = "infeasible"  # misses a constraint in the mean
    EVICTED = "evicted"  # on the front, but the archive was full
    INVALID = "invalid"  # an objective has no finite mean


_ROUNDING = 8 * float(np.finfo(np.float64).eps)

# An entry with one of these verdicts gives its adapter up.
_FINAL = frozenset({Status.DOMINATED, Status.EVICTED, Status.INVALID})


@dataclass(eq=False)
class Entry:
    """A measured policy in the archive.

    Attributes:
        id: Name, unique in the archive.
        estimate: Measurement over all objectives, maximised.
        provenance: Where the policy comes from; plain data.
        status: Current verdict.
        reason: The verdict as a sentence, naming the other entry where there is one.
        measured: How many times the policy was measured; their estimates are pooled.
        rival: The entry that the verdict names, None for a member.
        adapter: Opaque payload. None once given up.
        released: True once a payload was given up. Such an entry can never be shipped, so it leaves the competition
            and its verdict is final. An entry that was offered without a payload always stays in.
    """

    id: str
    estimate: Estimate
    provenance: dict[str, Any] = field(default_factory=dict)
    status: Status = Status.MEMBER
    reason: str = ""
    measured: int = 1
    rival: str | None = None
    adapter: Any = None
    released: bool = False


class ParetoArchive:
    """Unbounded or bounded archive of measured policies with confidence in its verdicts.

    Args:
        axes: Columns of the estimates that span the front, m of them.
        reference: [m] reference point of the hypervolume, in normalised units.
        scale_lower: [m] value of each axis that becomes 0.
        scale_upper: [m] value of each axis that becomes 1.
        capacity: Largest number of members; the one that contributes least hypervolume is evicted.
        spares: Largest number of other entries that keep their payload (contested, duplicate, infeasible); the oldest
            gives it up first. None keeps all, so that a long run never stops growing.
        confidence: Probability of being dominated from which on an entry has confidently fallen, for two entries and
            all looks at them; with more entries the error allowed is shared.
        constraints: Pairs of column and smallest allowed mean, in maximised units.
        resolution: An entry within this many paired standard errors of a member on every axis is its duplicate; the
            one with the larger sum of the axes, in units of their noise, stays. The number is for one comparison on
            many prompts; `threshold` says what becomes of it. With 0 only equal means are duplicates.
    """

    def __init__(
        self,
        axes: Sequence[int],
        *,
        reference: ArrayLike,
        scale_lower: ArrayLike,
        scale_upper: ArrayLike,
        capacity: int | None = None,
        spares: int | None = None,
        confidence: float = 0.95,
        constraints: Sequence[tuple[int, float]] = (),
        resolution: float = 0.0,
    ) -> None:
        self.axes = tuple(int(a) for a in axes)
        if not self.axes:
            raise ConfigError("An archive needs at least one axis.")
        self.reference = _vector("reference", reference, len(self.axes))
        self.scale_lower = _vector("scale_lower", scale_lower, len(self.axes))
        self.scale_upper = _vector("scale_upper", scale_upper, len(self.axes))
        if (self.scale_lower >= self.scale_upper).any():
            raise ConfigError(
                "scale_lower must be below scale_upper on every axis. "
                f"Found {self.scale_lower.tolist()} and {self.scale_upper.tolist()}."
            )
        if spares is not None and spares < 0:
            raise ConfigError(f"spares must not be negative. Found {spares}.")
        if capacity is not None and capacity < 1:
            raise ConfigError(f"capacity must be at least 1 or None. Found {capacity}.")
        if not 0.5 <= confidence < 1:
            raise ConfigError(f"confidence must be in [0.5, 1). Found {confidence}.")
        if resolution < 0:
            raise ConfigError(f"resolution must not be negative. Found {resolution}.")
        self.capacity = capacity
        self.spares = spares
        self.confidence = confidence
        self.constraints = tuple((int(column), float(bound)) for column, bound in constraints)
        self.resolution = resolution
        self.entries: dict[str, Entry] = {}
        # pairwise tests already made, by ids: how far apart on the clearest axis, how probable that one dominates
        self._apart: dict[tuple[str, str], tuple[float, int]] = {}
        self._dominance: dict[tuple[str, str], float] = {}
        self._gains = ContributionTable(self.reference)

    def __len__(self) -> int:
        """Number of members."""
        return sum(e.status is Status.MEMBER for e in self.entries.values())

    def offer(self, id: str, estimate: Estimate, provenance: Mapping[str, Any], adapter: Any = None) -> Status:
        """Add a measured policy and judge all entries anew.

        Returns:
            The verdict on the new entry; the reason is in `entries[id].reason`.

        Raises:
            ConfigError: If the id is taken, or the estimate lacks one of the columns.
        """
        if id in self.entries:
            raise ConfigError(f"Archive entry {id!r} exists; use remeasure to add a measurement of the same policy.")
        needed = max([*self.axes, *(column for column, _ in self.constraints)]) + 1
        if estimate.mean.size < needed:
            raise ConfigError(
                f"The estimate of {id!r} has {estimate.mean.size} objectives; at least {needed} are needed."
            )
        self.entries[id] = Entry(id, estimate, dict(provenance), adapter=adapter)
        self._judge()
        return self.entries[id].status

    def remeasure(self, id: str, estimate: Estimate) -> Status:
        """Pool a further measurement with what is known of an entry and judge all entries anew.

        Raises:
            ConfigError: If there is no such entry.
        """
        self.remeasure_all({id: estimate})
        return self.entries[id].status

    def remeasure_all(self, estimates: Mapping[str, Estimate]) -> None:
        """Pool further measurements, by id, and judge once all of them are in.

        Entries that were measured again together are compared on equal terms only when none of them is ahead.

        Raises:
            ConfigError: If there is no such entry; nothing is changed then.
        """
        for id in estimates:
            if id not in self.entries:
                raise ConfigError(f"There is no archive entry {id!r} to measure again.")
        for id, estimate in estimates.items():
            entry = self.entries[id]
            entry.estimate = pool([entry.estimate, estimate])
            entry.measured += 1
        self._apart = {key: value for key, value in self._apart.items() if not estimates.keys() & set(key)}
        self._dominance = {key: value for key, value in self._dominance.items() if not estimates.keys() & set(key)}
        self._judge()

    @property
    def comparisons(self) -> int:
        """How many others an entry is compared with, at least 1."""
        return max(1, sum(e.status is not Status.INVALID for e in self.entries.values()) - 1)

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
        return -NormalDist().inv_cdf(single / comparisons * _spent_on(looks)) * widening

    def rivals(self) -> list[list[Entry]]:
        """For each member, in the order of `members`, the duplicates among which it was chosen and that are kept."""
        groups: dict[str, list[Entry]] = {e.id: [] for e in self.members()}
        for entry in self.entries.values():
            if entry.status is Status.DUPLICATE and entry.rival in groups and not entry.released:
                groups[entry.rival].append(entry)
        return list(groups.values())

    def members(self) -> list[Entry]:
        """The front, from the best to the worst on the first axis."""
        front = [e for e in self.entries.values() if e.status is Status.MEMBER]
        return sorted(front, key=lambda e: (*-e.estimate.mean[list(self.axes)], e.id))

    def values(self) -> Floats:
        """[n, M] means of the members over all objectives, in the order of `members`."""
        return self._rows([e.estimate.mean for e in self.members()])

    def stderr(self) -> Floats:
        """[n, M] standard errors of the members over all objectives, in the order of `members`."""
        return self._rows([e.estimate.stderr for e in self.members()])

    def hypervolume(self) -> float:
        """Hypervolume of the members on the normalised axes; 0 for an empty front."""
        members = self.members()
        return hypervolume(self._normalized(members), self.reference) if members else 0.0

    def state_dict(self) -> dict[str, Any]:
        """All entries as plain data for JSON, without their adapters."""
        return {
            "entries": [
                {
                    "id": e.id,
                    "estimate": e.estimate.to_dict(),
                    "provenance": e.provenance,
                    "status": str(e.status),
                    "reason": e.reason,
                    "measured": e.measured,
                    "rival": e.rival,
                    "released": e.released,
                }
                for e in self.entries.values()
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace all entries by a saved state; adapters are None until they are put back into `entries`."""
        self.entries = {
            row["id"]: Entry(
                row["id"],
                Estimate.from_dict(row["estimate"]),
                dict(row["provenance"]),
                Status(row["status"]),
                row["reason"],
                # states written before entries were measured again have neither
                measured=int(row.get("measured", 1)),
                rival=row.get("rival"),
                released=bool(row["released"]),
            )
            for row in state["entries"]
        }
        self._apart, self._dominance = {}, {}

    # The verdict: unusable -> dominated in the mean -> duplicate -> evicted.

    def _judge(self) -> None:
        candidates = []
        for entry in self.entries.values():
            if not entry.released and not self._unusable(entry):
                candidates.append(entry)
        if candidates:
            self._judge_candidates(candidates)
        for entry in self.entries.values():
            if entry.status in _FINAL and entry.adapter is not None:
                self._release(entry)
        if self.spares is not None:
            spare = [e for e in self.entries.values() if e.adapter is not None and e.status is not Status.MEMBER]
            for entry in spare[: max(0, len(spare) - self.spares)]:
                self._release(entry)
                entry.reason += f" Given up: beside its members the archive keeps {self.spares} policies, the youngest."

    def _release(self, entry: Entry) -> None:
        """Give an entry's payload up for good, and the single measurements that only a rematch would need."""
        entry.adapter, entry.released = None, True
        found = entry.estimate
        entry.estimate = Estimate(found.mean, found.covariance, found.n)

    def _unusable(self, entry: Entry) -> bool:
        mean = entry.estimate.mean
        for column in (*self.axes, *(column for column, _ in self.constraints)):
            if not np.isfinite(mean[column]):
                entry.status, entry.rival = Status.INVALID, None
                entry.reason = f"Objective {column} has no finite mean ({mean[column]})."
                return True
        for column, bound in self.constraints:
            if mean[column] < bound:
                entry.status, entry.rival = Status.INFEASIBLE, None
                entry.reason = f"Objective {column} has mean {mean[column]:.4g}, below its bound {bound:.4g}."
                return True
        return False

    def _judge_candidates(self, entries: list[Entry]) -> None:
        axes = list(self.axes)
        points = np.stack([e.estimate.mean[axes] for e in entries])
        spread = np.stack([e.estimate.stderr[axes] for e in entries])
        as_good = np.asarray((points[:, None] >= points[None]).all(axis=2), dtype=bool)
        better = as_good & ~as_good.T  # [i, j]: i dominates j in the mean
        # sd(X - Y) <= sd(X) + sd(Y) whatever the correlation, so this finds every pair that may be duplicates
        fewest = max(2, min(int(e.estimate.counts[axes].min()) for e in entries))
        widest = self.threshold(fewest, looks=max(e.measured for e in entries))
        reach = widest * (spread[:, None] + spread[None]) + _ROUNDING * np.abs(points).max(axis=0)
        # turned round, so that a pair whose noise is not known is looked at
        close = ~np.asarray((np.abs(points[:, None] - points[None]) > reach).any(axis=2), dtype=bool)
        limits: dict[tuple[int, int, int], float] = {}

        def same(a: Entry, b: Entry, members: int) -> bool:
            apart, n = self._distance(a, b)
            key = n, max(a.measured, b.measured), members
            if key not in limits:
                limits[key] = self.threshold(n, looks=key[1], members=members)
            return apart <= limits[key]

        def twin_of(i: int, kept: Sequence[int], members: int) -> int | None:
            near = set(np.flatnonzero(close[i]).tolist())  # itself included
            return next((k for k in kept if k in near and same(entries[i], entries[k], members)), None)

        def beats(a: Entry, b: Entry) -> bool:
            error = (1 - self.confidence) / self.comparisons * _spent_on(max(a.measured, b.measured))
            return 1 - self._dominates(a, b) <= error

        ranked = self._by_merit(points, spread, np.flatnonzero(~better.any(axis=0)))
        twins: dict[int, int] = {}
        kept: list[int] = []
        size = allowed = 0
        while size > allowed or not allowed:  # a larger front may resolve more, which may make it larger
            allowed, kept, twins = max(size, 1), [], {}
            for i in ranked:
                twin = twin_of(i, kept, allowed)
                if twin is None:
                    kept.append(i)
                else:
                    twins[i] = twin
            size = len(kept)
        for i in kept:
            entries[i].status, entries[i].rival = Status.MEMBER, None
            entries[i].reason = "No entry is better on every axis."
        for i, twin in twins.items():
            self._duplicate(entries[i], entries[twin])
        kept = self._evict(entries, sorted(kept))

        for j in np.flatnonzero(better.any(axis=0)):
            entry, above = entries[j], np.flatnonzero(better[:, j])
            twin = twin_of(int(j), kept, allowed)
            if twin is not None:
                self._duplicate(entry, entries[twin])
                continue
            # the clearest dominator first: it usually settles the matter
            margin = ((points[above] - points[j]) / np.maximum(spread[above] + spread[j], 1e-300)).min(axis=1)
            above = above[np.argsort(-margin, kind="stable")]
            beaten = next((i for i in above if beats(entries[i], entry)), None)
            if beaten is not None:
                entry.status, entry.rival = Status.DOMINATED, entries[beaten].id
                entry.reason = f"{entry.rival!r} is better on every axis with {self.confidence:.0%} confidence."
            else:
                entry.status, entry.rival = Status.CONTESTED, entries[above[0]].id
                entry.reason = (
                    f"{entry.rival!r} is better in the mean, but with less than {self.confidence:.0%} confidence."
                )

    def _by_merit(self, points: Floats, spread: Floats, front: NDArray[np.intp]) -> list[int]:
        """The front in the order in which duplicates are resolved: largest sum of the axes first, then age.

        In units of the noise an axis that is measured badly does not decide alone, and of policies that are equal the
        one that stays is extreme on no axis, so that the others do not look different from it by luck.
        """
        noise = np.sqrt(np.nan_to_num(spread**2).mean(axis=0))
        unit = np.where(noise > 0, noise, self.scale_upper - self.scale_lower)
        return [int(front[k]) for k in np.lexsort((front, -(points[front] / unit).sum(axis=1)))]

    def _evict(self, entries: list[Entry], kept: list[int]) -> list[int]:
        while self.capacity is not None and len(kept) > self.capacity:
            gain = self._gains([entries[i].id for i in kept], self._normalized([entries[i] for i in kept]))
            # of equals, which rounding must not tell apart, the youngest
            worst = int(np.flatnonzero(gain <= gain.min() + 1e-12)[-1])
            entry = entries[kept.pop(worst)]
            entry.status, entry.rival = Status.EVICTED, None
            entry.reason = (
                f"The archive holds {self.capacity} members and this one added least hypervolume ({gain[worst]:.4g})."
            )
        return kept

    def _duplicate(self, entry: Entry, twin: Entry) -> None:
        entry.status, entry.rival = Status.DUPLICATE, twin.id
        entry.reason = (
            f"Equal to {twin.id!r} on every axis."
            if (entry.estimate.mean == twin.estimate.mean)[list(self.axes)].all()
            else f"Within the noise of {twin.id!r} on every axis ({self.resolution:g} standard errors, corrected for "
            f"{self.comparisons} comparisons)."
        )

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
            equal = distance <= _ROUNDING * size
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

    def _rows(self, rows: list[Floats]) -> Floats:
        if rows:
            return np.stack(rows)
        first = next(iter(self.entries.values()), None)
        return np.empty((0, len(self.axes) if first is None else first.estimate.mean.size))


def _spent_on(look: int) -> float:
    """Share of an error probability that a look may use; over all looks, 1, 2, ..., the shares add up to 1."""
    return 6 / (math.pi * look) ** 2


def _vector(name: str, value: ArrayLike, m: int) -> Floats:
    array = np.array(value, dtype=float)
    if array.shape != (m,) or not np.isfinite(array).all():
        raise ConfigError(f"{name} must be {m} finite numbers, one an axis. Found {np.asarray(value).tolist()}.")
    return array
