"""What was measured and did not stay, and why, in the user's words and units."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.front.parsing import turned
from pareto_align.printable import one_line
from pareto_align.report.units import axes_of, decimals, floats_of, number, shown_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pareto_align.front.storage import FrontRecord, ObjectiveRecord

__all__ = ["PROMPTS", "Fallen", "fallen_entries", "fallen_lines", "in_words"]

PROMPTS = {"report": "report prompts", "select": "selection prompts"}
"""What the splits are called."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_COLUMN = re.compile(
    r"Objective (?P<column>\d+) has (?:no finite mean(?: \(\w+\))?"
    rf"|mean (?P<value>{_NUMBER}), below its bound (?P<bound>{_NUMBER}))\."
)
"""How the archive says which threshold was missed: by column, in maximised units."""


@dataclass(frozen=True, eq=False)
class Fallen:
    """A measured policy that is no member of the front.

    Attributes:
        id: Its name.
        values: [M] means, in the user's units; NaN where nothing was measured.
        stderr: [M] standard errors, same units.
        status: "dominated", "contested", "duplicate", "infeasible", "evicted" or "invalid".
        reason: Why it fell, in a sentence.
        rival: The policy that it fell to, or None.
        objective: The objective whose limit it missed, or that has no finite mean; else None.
        value: Its mean there, in the user's units.
        bound: The limit, in the user's units, its tolerance included.
        split: Prompts behind the numbers: "select" or "report".
        provenance: Where it comes from.
    """

    id: str
    values: np.ndarray
    stderr: np.ndarray
    status: str
    reason: str
    rival: str | None = None
    objective: str | None = None
    value: float | None = None
    bound: float | None = None
    split: str = "select"
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return one_line(f"<Fallen {self.id}, {self.status}: {self.reason}>")


def fallen_entries(record: FrontRecord) -> tuple[Fallen, ...]:
    """All of a front's record; of fronts that say why in a sentence alone, what the sentence says."""
    count = len(record.objectives)
    found = []
    for row in record.fallen:
        reason = str(row.get("reason", ""))
        name, value, bound = (row.get(key) for key in ("objective", "value", "bound"))
        told = None if name is not None else _COLUMN.search(reason)
        if told is not None and int(told["column"]) < count:
            objective = record.objectives[int(told["column"])]
            name, (value, bound) = objective.name, _in_units(objective, told)
        found.append(
            Fallen(
                id=str(row.get("id", "?")),
                values=np.array(floats_of(row.get("values"), count)),
                stderr=np.array(floats_of(row.get("stderr"), count)),
                status=str(row.get("status", "")),
                reason=in_words(reason, record.objectives),
                rival=row.get("rival"),
                objective=name,
                value=value,
                bound=bound,
                split=str(row.get("split", record.split)),
                provenance=dict(row.get("provenance") or {}),
            )
        )
    return tuple(found)


def in_words(reason: str, objectives: Sequence[ObjectiveRecord]) -> str:
    """A verdict of the archive, with names, directions and units of the user in the place of columns."""

    def told(match: re.Match[str]) -> str:
        if int(match["column"]) >= len(objectives):
            return match[0]
        objective = objectives[int(match["column"])]
        value, bound = _in_units(objective, match)
        if value is None or bound is None:
            return f"{objective.name!r} has no finite mean."
        side, limit = ("below", "at least") if objective.maximize else ("above", "at most")
        return f"{objective.name!r} has mean {value:.4g}, {side} its limit of {limit} {bound:.4g}."

    return _COLUMN.sub(told, reason)


def fallen_lines(record: FrontRecord) -> list[str]:
    """A heading for the prompts of each split, since their numbers do not compare, and under it one line each: name,
    means, verdict and why."""
    names = [axis.name for axis in axes_of(shown_record(record))]
    by_split: dict[str, list[Fallen]] = {}
    for entry in fallen_entries(shown_record(record)):
        by_split.setdefault(entry.split, []).append(entry)
    lines = []
    for split, entries in by_split.items():
        values = np.array([entry.values for entry in entries])
        digits = [decimals((), values[:, i]) for i in range(len(names))]
        lines.append(one_line(f"Not kept, measured on the {PROMPTS.get(split, split)}:"))
        for entry in entries:
            means = [f"{name} {number(v, d)}" for name, v, d in zip(names, entry.values, digits, strict=True)]
            lines.append("  ".join(map(one_line, (entry.id, ", ".join(means), f"{entry.status}: {entry.reason}"))))
    return lines


def _in_units(objective: ObjectiveRecord, told: re.Match[str]) -> tuple[float | None, float | None]:
    """Value and bound in the user's units."""
    if told["bound"] is None:
        return None, None
    value, bound = (turned(float(told[key]), objective.maximize) for key in ("value", "bound"))
    return value, bound
