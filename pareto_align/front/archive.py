"""ParetoArchive: every measured policy, which of them form the front, and why each of the others does not.

The verdicts are recomputed after every offer and every new measurement, so the front changes both ways: a member falls
when a better policy arrives and comes back when that one, measured again, turns out to have been lucky. A policy that
is worse in the mean but not confidently so is *contested*: it keeps its adapter and is worth another measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError
from pareto_align.front.dominance import probability_dominates
from pareto_align.front.estimates import Estimate, paired_difference, pool
from pareto_align.front.indicators import contributions, hypervolume

__all__ = ["Entry", "ParetoArchive", "Status"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Status(StrEnum):
    """Verdict on an entry of the archive."""

    MEMBER = "member"  # on the front
    DOMINATED = "dominated"  # a member is confidently better
    CONTESTED = "contested"  # a member is better in the mean, but not confidently
    DUPLICATE = "duplicate"  # cannot be told from a member on any axis
    INFEASIBLE = "infeasible"  # misses a constraint in the mean
    EVICTED = "evicted"  # on the front, but the archive was full
    INVALID = "invalid"  # an objective has no finite mean


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
        adapter: Opaque payload. None once given up.
        released: True once a payload was given up. Such an entry can never be shipped, so it leaves the competition
            and its verdict is final. An entry that was offered without a payload always stays in.
    """

    id: str
    estimate: Estimate
    provenance: dict[str, Any] = field(default_factory=dict)
    status: Status = Status.MEMBER
    reason: str = ""
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
        confidence: Probability of being dominated from which on an entry has confidently fallen.
        constraints: Pairs of column and smallest allowed mean, in maximised units.
        resolution: An entry within this many paired standard errors of a member on every axis is its duplicate; the
            one that contributes more hypervolume stays. With 0 only equal means are duplicates.
    """

    def __init__(
        self,
        axes: Sequence[int],
        *,
        reference: ArrayLike,
        scale_lower: ArrayLike,
        scale_upper: ArrayLike,
        capacity: int | None = None,
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
        if capacity is not None and capacity < 1:
            raise ConfigError(f"capacity must be at least 1 or None. Found {capacity}.")
        if not 0.5 <= confidence < 1:
            raise ConfigError(f"confidence must be in [0.5, 1). Found {confidence}.")
        if resolution < 0:
            raise ConfigError(f"resolution must not be negative. Found {resolution}.")
        self.capacity = capacity
        self.confidence = confidence
        self.constraints = tuple((int(column), float(bound)) for column, bound in constraints)
        self.resolution = resolution
        self.entries: dict[str, Entry] = {}
        self._verdicts: dict[tuple[str, str, str], bool] = {}  # pairwise tests already made, by kind and ids

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
        if id not in self.entries:
            raise ConfigError(f"There is no archive entry {id!r} to measure again.")
        entry = self.entries[id]
        entry.estimate = pool([entry.estimate, estimate])
        self._verdicts = {key: verdict for key, verdict in self._verdicts.items() if id not in key[1:]}
        self._judge()
        return entry.status

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
                released=bool(row["released"]),
            )
            for row in state["entries"]
        }
        self._verdicts = {}

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
                entry.adapter, entry.released = None, True

    def _unusable(self, entry: Entry) -> bool:
        mean = entry.estimate.mean
        for column in (*self.axes, *(column for column, _ in self.constraints)):
            if not np.isfinite(mean[column]):
                entry.status = Status.INVALID
                entry.reason = f"Objective {column} has no finite mean ({mean[column]})."
                return True
        for column, bound in self.constraints:
            if mean[column] < bound:
                entry.status = Status.INFEASIBLE
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
        reach = self.resolution * (spread[:, None] + spread[None])
        close = np.asarray((np.abs(points[:, None] - points[None]) <= reach).all(axis=2), dtype=bool)

        kept: list[int] = []
        for i in self._by_contribution(entries, np.flatnonzero(~better.any(axis=0)), close):
            twin = next((k for k in np.flatnonzero(close[i]) if k in kept and self._same(entries[i], entries[k])), None)
            if twin is None:
                kept.append(i)
                entries[i].status, entries[i].reason = Status.MEMBER, "No entry is better on every axis."
            else:
                self._duplicate(entries[i], entries[twin])
        kept = self._evict(entries, sorted(kept))

        for j in np.flatnonzero(better.any(axis=0)):
            entry, above = entries[j], np.flatnonzero(better[:, j])
            twin = next((k for k in np.flatnonzero(close[j]) if k in kept and self._same(entry, entries[k])), None)
            if twin is not None:
                self._duplicate(entry, entries[twin])
                continue
            # the clearest dominator first: it usually settles the matter
            margin = ((points[above] - points[j]) / np.maximum(spread[above] + spread[j], 1e-300)).min(axis=1)
            above = above[np.argsort(-margin, kind="stable")]
            beaten = next((i for i in above if self._confident(entries[i], entry)), None)
            if beaten is not None:
                entry.status = Status.DOMINATED
                entry.reason = f"{entries[beaten].id!r} is better on every axis with {self.confidence:.0%} confidence."
            else:
                entry.status = Status.CONTESTED
                rival = entries[above[0]].id
                entry.reason = f"{rival!r} is better in the mean, but with less than {self.confidence:.0%} confidence."

    def _by_contribution(self, entries: list[Entry], front: NDArray[np.intp], close: Flags) -> list[int]:
        """The front in the order in which duplicates are resolved: larger hypervolume contribution, then age."""
        crowded = close[np.ix_(front, front)].sum(axis=1) > 1
        if not crowded.any():
            return [int(i) for i in front]
        gain = contributions(self._normalized([entries[i] for i in front]), self.reference)
        return [int(front[k]) for k in np.lexsort((front, -gain))]

    def _evict(self, entries: list[Entry], kept: list[int]) -> list[int]:
        while self.capacity is not None and len(kept) > self.capacity:
            gain = contributions(self._normalized([entries[i] for i in kept]), self.reference)
            worst = len(kept) - 1 - int(gain[::-1].argmin())  # of equals the youngest
            entry = entries[kept.pop(worst)]
            entry.status = Status.EVICTED
            entry.reason = (
                f"The archive holds {self.capacity} members and this one added least hypervolume ({gain[worst]:.4g})."
            )
        return kept

    def _duplicate(self, entry: Entry, twin: Entry) -> None:
        entry.status = Status.DUPLICATE
        entry.reason = (
            f"Equal to {twin.id!r} on every axis."
            if not self.resolution
            else f"Within {self.resolution:g} standard errors of {twin.id!r} on every axis."
        )

    def _same(self, a: Entry, b: Entry) -> bool:
        key = ("same", min(a.id, b.id), max(a.id, b.id))
        if key not in self._verdicts:
            axes = list(self.axes)
            mean, stderr = paired_difference(a.estimate, b.estimate)
            self._verdicts[key] = bool((np.abs(mean[axes]) <= self.resolution * stderr[axes]).all())
        return self._verdicts[key]

    def _confident(self, a: Entry, b: Entry) -> bool:
        key = ("dominates", a.id, b.id)
        if key not in self._verdicts:
            axes = list(self.axes)
            mean, stderr = paired_difference(a.estimate, b.estimate)
            # better on all axes is never more probable than better on one, which is far cheaper to know
            possible = (mean[axes] >= NormalDist().inv_cdf(self.confidence) * stderr[axes]).all()
            self._verdicts[key] = (
                bool(possible) and probability_dominates(a.estimate, b.estimate, self.axes) >= self.confidence
            )
        return self._verdicts[key]

    def _normalized(self, entries: Sequence[Entry]) -> Floats:
        """[n, m] means on the axes, scaled to the frame."""
        points = np.stack([e.estimate.mean[list(self.axes)] for e in entries])
        return np.asarray((points - self.scale_lower) / (self.scale_upper - self.scale_lower), dtype=float)

    def _rows(self, rows: list[Floats]) -> Floats:
        if rows:
            return np.stack(rows)
        first = next(iter(self.entries.values()), None)
        return np.empty((0, len(self.axes) if first is None else first.estimate.mean.size))


def _vector(name: str, value: ArrayLike, m: int) -> Floats:
    array = np.array(value, dtype=float)
    if array.shape != (m,) or not np.isfinite(array).all():
        raise ConfigError(f"{name} must be {m} finite numbers, one an axis. Found {np.asarray(value).tolist()}.")
    return array
