"""The user's units: names, directions and numbers of a front as its owner wrote them.

Everything below this package is maximised. Here a minimised objective gets its sign back, and numbers get the digits
that their intervals can bear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.printable import one_line, printable

if TYPE_CHECKING:
    from pareto_align.front.estimates import Estimate
    from pareto_align.front.storage import FrontRecord, ObjectiveRecord

__all__ = [
    "INTERVAL",
    "Axis",
    "Measured",
    "axes_of",
    "bound_of",
    "bound_text",
    "bounds_of",
    "decimals",
    "ends_text",
    "fallen_of",
    "floats_of",
    "interval_text",
    "interval_texts",
    "listed",
    "measured",
    "number",
    "optimized",
    "preferences_of",
    "reference_measured",
    "shown_record",
    "signs",
]

INTERVAL = 1.96
"""Standard errors on either side of a mean that make a 95 % interval where the number of prompts is not known."""


@dataclass(frozen=True)
class Axis:
    """One objective as a reader meets it.

    Attributes:
        name: The objective's name.
        maximize: Whether more is better.
        role: "optimize", "constrain" or "audit".
    """

    name: str
    maximize: bool
    role: str = "optimize"

    @property
    def arrow(self) -> str:
        """The direction of better along the number line."""
        return "better →" if self.maximize else "← better"

    @property
    def label(self) -> str:
        """Axis label: the name and which way is better. On a vertical axis the arrow turns with the text."""
        return f"{self.name}   ({self.arrow})"

    @property
    def sign(self) -> float:
        """+1.0 for a maximised objective, -1.0 for a minimised one."""
        return 1.0 if self.maximize else -1.0


@dataclass(frozen=True, eq=False)
class Measured:
    """Means in the user's units with their 95 % intervals, which need not have the mean in the middle.

    Attributes:
        ids: Whose means these are, one name a row.
        values: [n, M], user's units.
        low: [n, M] lower ends; NaN where the spread is not known.
        high: [n, M] upper ends, likewise.
        n: [n], prompts behind each row, or groups of them.
        doubts: [n][M] why an interval is not to be trusted: "few", "rare" or "skewed", see `front.intervals.doubt`.
    """

    ids: tuple[str, ...]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: tuple[int, ...]
    doubts: tuple[tuple[str, ...], ...] = ()

    @property
    def halfwidth(self) -> np.ndarray:
        """[n, M] half the widths of the intervals; NaN where the spread is not known."""
        return np.asarray((self.high - self.low) / 2)


def axes_of(record: FrontRecord) -> tuple[Axis, ...]:
    """All M objectives of a front, in the user's order."""
    return tuple(Axis(o.name, o.maximize, str(o.role)) for o in record.objectives)


def bound_of(objective: ObjectiveRecord) -> float | None:
    """The limit of an objective, or None where it has none."""
    return objective.at_least if objective.at_least is not None else objective.at_most


def bound_text(objective: ObjectiveRecord) -> str:
    """The limit of an objective in words; "" where it has none."""
    if objective.at_least is not None:
        return f"at least {objective.at_least:g}"
    return "" if objective.at_most is None else f"at most {objective.at_most:g}"


def shown_record(record: FrontRecord) -> FrontRecord:
    """The front as it may be shown: its names are other people's text, and anybody may have sent it.

    What is asked by name is answered from the record itself; tables, figures and the card are made from this one.
    """
    base = {key: printable(value) if isinstance(value, str) else value for key, value in record.base.items()}
    return replace(
        record,
        objectives=[replace(objective, name=one_line(objective.name)) for objective in record.objectives],
        members=[replace(member, id=one_line(member.id)) for member in record.members],
        fallen=[{**entry, "id": one_line(str(entry.get("id", "?")))} for entry in record.fallen],
        base=base,
    )


def optimized(record: FrontRecord) -> tuple[int, ...]:
    """Positions, within all objectives, of the m that span the front."""
    return tuple(i for i, o in enumerate(record.objectives) if o.role == "optimize")


def signs(record: FrontRecord) -> np.ndarray:
    """[M]: +1 for a maximised objective, -1 for a minimised one."""
    return np.array([1.0 if o.maximize else -1.0 for o in record.objectives])


def measured(record: FrontRecord) -> Measured:
    """The members' means and intervals over all M objectives, in the user's units."""
    estimates = [member.estimate for member in record.members]
    return _measured(record, [member.id for member in record.members], estimates)


def reference_measured(record: FrontRecord) -> Measured | None:
    """The untrained model's means and intervals, or None if it was not measured."""
    if record.reference_policy is None:
        return None
    return _measured(record, ["untrained"], [record.reference_policy])


def bounds_of(record: FrontRecord) -> tuple[tuple[float, float] | None, ...]:
    """For each objective what its rewards cannot leave, in maximised units; None where that is not known.

    That is what was declared, unless a reward was outside of it, or 0 and 1 where no reward was anything else.
    """
    estimates = [*(member.estimate for member in record.members), record.reference_policy]
    seen = [e.samples for e in estimates if e is not None and e.samples is not None]
    rewards = np.concatenate(seen) if seen else np.empty((0, len(record.objectives)))
    found: list[tuple[float, float] | None] = []
    for objective, column, sign in zip(record.objectives, rewards.T, signs(record), strict=True):
        column = column[~np.isnan(column)]
        bounds = objective.bounds
        if bounds is None and column.size and np.isin(column * sign, (0.0, 1.0)).all():
            bounds = (0.0, 1.0)
        if bounds is not None:
            low, high = sorted(sign * end for end in bounds)
            slack = 1e-9 * (high - low)
            bounds = (low, high) if ((low - slack <= column) & (column <= high + slack)).all() else None
        found.append(bounds)
    return tuple(found)


def _measured(record: FrontRecord, ids: Sequence[str], estimates: Sequence[Estimate]) -> Measured:
    count, sign, bounds = len(record.objectives), signs(record), bounds_of(record)
    means = np.array([np.asarray(e.mean, dtype=float) for e in estimates]).reshape(-1, count)
    ends = np.array([e.interval(bounds=bounds) for e in estimates]).reshape(-1, 2, count) * sign
    # 0 * -1 would print as -0
    return Measured(
        ids=tuple(ids),
        values=means * sign + 0.0,
        low=ends.min(axis=1) + 0.0,
        high=ends.max(axis=1) + 0.0,
        n=tuple(int(e.n) for e in estimates),
        doubts=tuple(e.doubts(bounds) for e in estimates),
    )


def fallen_of(record: FrontRecord) -> tuple[Measured, tuple[str, ...]]:
    """What was measured on the members' prompts but did not stay, and why.

    Policies that were only measured on other prompts are left out: beside the members they would be compared unfairly.

    Returns:
        Means and intervals [f, M] in the user's units, and the reasons.
    """
    count = len(record.objectives)
    fallen = [entry for entry in record.fallen if entry.get("split", record.split) == record.split]
    values = np.array([floats_of(entry.get("values"), count) for entry in fallen]).reshape(-1, count)
    spread = np.array([floats_of(entry.get("stderr"), count) for entry in fallen]).reshape(-1, count)
    ids = tuple(str(entry.get("id", "?")) for entry in fallen)
    reasons = tuple(str(entry.get("reason", "")) for entry in fallen)
    reach = INTERVAL * spread
    return Measured(ids, values, values - reach, values + reach, tuple(0 for _ in ids)), reasons


def floats_of(values: Any, count: int) -> list[float]:
    """JSON has no NaN: null, or a list of the wrong length, becomes NaN here."""
    found = [math.nan if v is None else float(v) for v in (values or [])]
    return found if len(found) == count else [math.nan] * count


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence as one writes them: "a, b and c"; nothing of none."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def preferences_of(record: FrontRecord) -> np.ndarray:
    """[n, m]: the preference each member was trained for; a row of NaN where it had none (a mixture, say)."""
    m = len(optimized(record))
    return np.array([floats_of(member.preference, m) for member in record.members]).reshape(-1, m)


def decimals(halfwidths: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray = ()) -> int:
    """Decimals a column of means deserves: two significant digits of its typical interval.

    Without a known spread, three significant digits of the typical value.
    """
    spread = np.asarray(halfwidths, dtype=float)
    spread = spread[np.isfinite(spread) & (spread > 0)]
    if spread.size:
        return int(np.clip(1 - math.floor(math.log10(float(np.median(spread)))), 0, 6))
    size = np.abs(np.asarray(values, dtype=float))
    size = size[np.isfinite(size) & (size > 0)]
    if size.size:
        return int(np.clip(2 - math.floor(math.log10(float(np.median(size)))), 0, 6))
    return 2


def number(value: float, digits: int) -> str:
    """A number with a fixed count of decimals; "-" where there is none, and never a negative zero."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def interval_text(value: float, halfwidth: float, digits: int, plus_minus: str = "±") -> str:
    """A mean with its 95 % half-width, such as "0.62 ± 0.03"; the mean alone where the spread is not known."""
    if not math.isfinite(halfwidth) or not math.isfinite(value):
        return number(value, digits)
    return f"{number(value, digits)} {plus_minus} {number(halfwidth, digits)}"


def ends_text(value: float, low: float, high: float, digits: int) -> str:
    """A mean with its 95 % interval's ends, such as "0.02 (0.00 to 0.11)"; the mean alone where they are not known."""
    if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(value)):
        return number(value, digits)
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def interval_texts(
    values: Sequence[float] | np.ndarray,
    low: Sequence[float] | np.ndarray,
    high: Sequence[float] | np.ndarray,
    digits: int,
) -> list[str]:
    """Means with their 95 % intervals, written in one way for all of them.

    That is `interval_text` where each mean lies in the middle of its interval as far as the digits tell, else
    `ends_text`.
    """
    lopsided = np.abs(np.asarray(low) + np.asarray(high) - 2 * np.asarray(values)) > 10.0**-digits
    rows = zip(values, low, high, strict=True)
    if lopsided.any():
        return [ends_text(v, a, b, digits) for v, a, b in rows]
    return [interval_text(v, (b - a) / 2, digits) for v, a, b in rows]
