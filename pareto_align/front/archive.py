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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError
from pareto_align.front.competition import Competition
from pareto_align.front.entries import Entry, Status, decide
from pareto_align.front.estimates import Estimate, pool
from pareto_align.front.indicators import ContributionTable, hypervolume
from pareto_align.front.judging import Judge
from pareto_align.front.origin import Origin

__all__ = ["Entry", "ParetoArchive", "Status"]

Floats = NDArray[np.float64]


# An entry with one of these verdicts gives its adapter up.
_FINAL = frozenset({Status.DOMINATED, Status.EVICTED, Status.INVALID})


class ParetoArchive(Judge):
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
        self.entries = {}
        self._apart, self._dominance = {}, {}
        self._gains = ContributionTable(self.reference)
        self._competition = Competition(list(self.axes))
        self._arrival: dict[str, int] = {}  # places in the order of the offers
        self._spare: dict[str, Entry] = {}  # entries that keep a payload though they are no members
        self._decided = []
        self._seen, self._counted = -1, None

    def __len__(self) -> int:
        """Number of members."""
        return sum(e.status is Status.MEMBER for e in self.entries.values())

    def offer(self, id: str, estimate: Estimate, origin: Origin | Mapping[str, Any], adapter: Any = None) -> Status:
        """Add a measured policy and judge all entries anew.

        Args:
            id: A name of its own.
            estimate: Its measurement over all objectives.
            origin: Where it comes from; as plain data, the fields of an `Origin` by name.
            adapter: Opaque payload.

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
        self.entries[id] = Entry(id, estimate, Origin.of(origin), adapter=adapter)
        self._judge(self.entries[id])
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

    def merge(self, others: Iterable[ParetoArchive]) -> None:
        """Take over all entries of archives that were kept apart, and judge all anew, once.

        Where a resolution is 0 and no capacity set, the members are those of one archive that had been offered
        everything: what is dominated in the mean among some is dominated among all. Otherwise they are chosen from
        what the archives kept: a duplicate or an evicted entry that gave its adapter up stays where it is. Of equals
        the one stays that comes first, in the order of the archives.

        Args:
            others: In the same frame; they are left as they are.

        Raises:
            ConfigError: An id is taken, or an archive has other axes, another frame or other constraints. Nothing is
                changed then.
        """
        found: dict[str, Entry] = {}
        for other in others:
            if other._frame() != self._frame():
                raise ConfigError(
                    "Archives can be merged that have the same axes, reference, scale and constraints. Found "
                    f"{other._frame()} beside {self._frame()}."
                )
            for id, entry in other.entries.items():
                if id in self.entries or id in found:
                    raise ConfigError(f"Two of the archives that are to be merged have an entry {id!r}.")
                found[id] = replace(entry)
        self.entries |= found
        self._seen = -1
        self._judge()

    def _frame(self) -> tuple[Any, ...]:
        """What archives have to have in common to be merged."""
        frame = (self.reference.tolist(), self.scale_lower.tolist(), self.scale_upper.tolist())
        return self.axes, *frame, self.constraints

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
                    "provenance": e.origin.to_dict(),
                    "status": str(e.status),
                    "reason": e.reason,
                    "measured": e.measured,
                    "rival": e.rival,
                    "column": e.column,
                    "bound": e.bound,
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
                Origin.of(row["provenance"]),
                Status(row["status"]),
                row["reason"],
                # states written before entries were measured again have neither
                measured=int(row.get("measured", 1)),
                rival=row.get("rival"),
                column=row.get("column"),
                bound=row.get("bound"),
                released=bool(row["released"]),
            )
            for row in state["entries"]
        }
        self._apart, self._dominance, self._seen, self._counted = {}, {}, -1, None

    # The verdict: unusable -> dominated in the mean -> duplicate -> evicted.

    def _judge(self, new: Entry | None = None) -> None:
        """Judge all entries, of which `new` came last; None where any may have changed."""
        if new is None or self._seen != len(self.entries) - 1:
            self._begin_anew()
        else:
            self._arrival[new.id] = len(self._arrival)
            self._decided.append(new)
            if not self._unusable(new):
                self._competition.add(new)
        self._seen = len(self.entries)
        if new is not None and self._counted is not None:
            self._counted += new.status is not Status.INVALID
        else:
            self._counted = sum(e.status is not Status.INVALID for e in self.entries.values())
        if self._competition.alive.any():
            self._judge_competition()
        for entry in self._decided:
            self._spare.pop(entry.id, None)
            if entry.adapter is not None and entry.status in _FINAL:
                self._release(entry)
            elif entry.adapter is not None and entry.status is not Status.MEMBER:
                self._spare[entry.id] = entry
        self._decided = []
        if self.spares is not None and len(self._spare) > self.spares:
            oldest = sorted(self._spare.values(), key=lambda entry: self._arrival[entry.id])
            for entry in oldest[: len(oldest) - self.spares]:
                self._release(entry)
                entry.reason += f" Given up: beside its members the archive keeps {self.spares} policies, the youngest."

    def _begin_anew(self) -> None:
        """Everything from the entries alone, as after a new measurement."""
        self._competition = Competition(list(self.axes))
        self._counted = None
        there = {entry.id: entry for entry in self.entries.values() if not entry.released}
        self._arrival = {id: number for number, id in enumerate(self.entries)}
        self._spare, self._decided = {}, list(self.entries.values())
        self._apart = {key: value for key, value in self._apart.items() if there.keys() >= set(key)}
        self._dominance = {key: value for key, value in self._dominance.items() if there.keys() >= set(key)}
        for entry in there.values():
            if not self._unusable(entry):
                self._competition.add(entry)

    def _release(self, entry: Entry) -> None:
        """Give an entry's payload up for good, and the single measurements that only a rematch would need."""
        entry.adapter, entry.released = None, True
        found = entry.estimate
        entry.estimate = Estimate(found.mean, found.covariance, found.n)
        self._spare.pop(entry.id, None)
        if entry.id in self._competition.number:
            self._competition.remove(self._competition.number[entry.id])

    def _unusable(self, entry: Entry) -> bool:
        mean = entry.estimate.mean
        for column in (*self.axes, *(column for column, _ in self.constraints)):
            if not np.isfinite(mean[column]):
                reason = f"Objective {column} has no finite mean ({mean[column]})."
                decide(entry, Status.INVALID, reason, column=column)
                return True
        for column, bound in self.constraints:
            if mean[column] < bound:
                reason = f"Objective {column} has mean {mean[column]:.4g}, below its bound {bound:.4g}."
                decide(entry, Status.INFEASIBLE, reason, column=column, bound=bound)
                return True
        return False

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
