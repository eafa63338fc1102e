"""The front as a table: for terminals, Markdown and notebooks."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.printable import one_line
from pareto_align.report.fallen import fallen_entries
from pareto_align.report.units import (
    INTERVAL,
    Measured,
    axes_of,
    bound_text,
    decimals,
    interval_texts,
    measured,
    number,
    optimized,
    preferences_of,
    reference_measured,
    shown_record,
)

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = ["FrontTable", "escape_markdown", "front_table", "html_table", "markdown_table", "policy_rows", "text_table"]


@dataclass(frozen=True)
class FrontTable:
    """The cells of a front's table, as text.

    Attributes:
        header: Column names, without directions.
        notes: One short remark a column, such as "↑" or "↓ audit"; "" where there is none.
        rows: One a member, in the front's order, then the untrained model if it was measured.
        reference_row: Whether the last row is the untrained model.
        remarks: Sentences that belong under the table: which intervals are not to be trusted, and why.
    """

    header: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    reference_row: bool
    remarks: tuple[str, ...] = ()


DOUBTFUL = "†"
DOUBTS = {
    "few": "with so few prompts nothing shows whether the rewards are near normal",
    "rare": "almost all rewards are the same, and what is rare may not be among them",
    "skewed": "the rewards are skewed, and a few of them make the mean",
}


LABELS_TOLD = (
    "Measured on labels, not on answers: how much of the held-out comparisons is explained, 0 by the untrained model "
    "and 1 by certainty about every label."
)


def doubts_told(name: str, reasons: Collection[str]) -> str:
    """Why the intervals of an objective are not to be trusted, and what would help."""
    told = "; ".join(f"{reason}: {DOUBTS[reason]}" for reason in DOUBTS if reason in reasons)
    help_ = "Declared `bounds` that hold, or more prompts, help."
    return f"{name}: do not trust the intervals marked {DOUBTFUL} ({told}). {help_}"


def front_table(record: FrontRecord) -> FrontTable:
    """Member, preference, and each objective as mean and 95 % interval in the user's units."""
    record = shown_record(record)
    axes = axes_of(record)
    members = measured(record)
    reference = reference_measured(record)
    spanning = [axes[i].name for i in optimized(record)]
    preferences = preferences_of(record)
    show_preference = len(spanning) > 1 and bool(np.isfinite(preferences).any())

    header, notes = ["member"], [""]
    columns = [list(members.ids)]
    if show_preference:
        header.append("preference")
        notes.append(" / ".join(spanning))
        columns.append([_preference_text(row) for row in preferences])
    for j, axis in enumerate(axes):
        header.append(axis.name)
        limit = bound_text(record.objectives[j]) or "constraint"
        role = "" if axis.role == "optimize" else " audit" if axis.role == "audit" else f" {limit}"
        notes.append(("↑" if axis.maximize else "↓") + role)
        columns.append(_column(members, reference, j))
    if reference is not None:
        columns[0].append("untrained")
        if show_preference:
            columns[1].append("-")
    rows = tuple(zip(*columns, strict=True))
    marked = [*members.doubts, *(() if reference is None else reference.doubts)]
    remarks = [LABELS_TOLD] if record.config.get("measured") == "labels" else []
    for j, axis in enumerate(axes):
        if reasons := {doubts[j] for doubts in marked} - {""}:
            remarks.append(doubts_told(axis.name, reasons))
    return FrontTable(tuple(header), tuple(notes), rows, reference is not None, tuple(remarks))


def _preference_text(weights: np.ndarray) -> str:
    return "-" if np.isnan(weights).any() else " / ".join(number(w, 2) for w in weights)


def _column(members: Measured, reference: Measured | None, j: int) -> list[str]:
    digits = decimals(members.halfwidth[:, j], members.values[:, j])
    rows = [members] if reference is None else [members, reference]
    values, low, high = (np.concatenate([getattr(r, name)[:, j] for r in rows]) for name in ("values", "low", "high"))
    doubts = [row[j] for r in rows for row in r.doubts]
    texts = interval_texts(values, low, high, digits)
    return [f"{text} {DOUBTFUL}" if doubted else text for text, doubted in zip(texts, doubts, strict=True)]


def policy_rows(record: FrontRecord, *, fallen: bool = False) -> list[dict[str, Any]]:
    """Everything that was measured at the end, a row for each policy and objective, in the user's units.

    Args:
        record: The front.
        fallen: Whether what did not stay is among it.
    """
    axes, table, reference = axes_of(record), measured(record), reference_measured(record)
    spanning, weights = list(optimized(record)), preferences_of(record)
    stderr = np.array([m.estimate.stderr for m in record.members]).reshape(-1, len(axes))
    rows: list[dict[str, Any]] = []

    def tell(
        who: tuple[str, str, Any, str], values: Any, spread: Any, low: Any, high: Any, preference: Any = None
    ) -> None:
        for i, axis in enumerate(axes):
            wanted = np.nan if preference is None or i not in spanning else preference[spanning.index(i)]
            rows.append(
                {"id": who[0], "status": who[1], "step": who[2], "split": who[3], "objective": axis.name,
                 "role": axis.role, "value": float(values[i]), "stderr": float(spread[i]), "low": float(low[i]),
                 "high": float(high[i]), "preference": float(wanted)}
            )  # fmt: skip

    for k, member in enumerate(record.members):
        who = (member.id, "member", member.provenance.get("step"), record.split)
        tell(who, table.values[k], stderr[k], table.low[k], table.high[k], weights[k])
    if reference is not None and record.reference_policy is not None:
        ends = reference.low[0], reference.high[0]
        tell(("untrained", "untrained", 0, record.split), reference.values[0], record.reference_policy.stderr, *ends)
    for entry in fallen_entries(record) if fallen else ():
        reach = INTERVAL * entry.stderr
        ends = entry.values - reach, entry.values + reach
        tell((entry.id, entry.status, entry.provenance.get("step"), entry.split), entry.values, entry.stderr, *ends)
    return rows


def text_table(table: FrontTable, *, unicode: bool = True) -> str:
    """The table for a terminal: columns aligned, each mean above the next mean, no trailing spaces.

    Args:
        table: What `front_table` made.
        unicode: False writes ±, arrows and rules in ASCII, for terminals that cannot print them.
    """
    marks = {} if unicode else {"±": "+/-", "↑": "^", "↓": "v", "─": "-", DOUBTFUL: "*"}

    def shown(text: str) -> str:
        text = one_line(text)
        for mark, plain in marks.items():
            text = text.replace(mark, plain)
        return text if unicode else text.encode("ascii", "replace").decode()

    cells = [[shown(cell) for cell in row] for row in (table.header, table.notes, *table.rows)]
    signs = (f" {marks.get('±', '±')} ", " (")
    columns = [_aligned(column, signs, left=i == 0) for i, column in enumerate(zip(*cells, strict=True))]
    lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    width = max(map(len, lines))
    rules = [2, len(lines) - 1] if table.reference_row and len(lines) > 3 else [2]
    for at in reversed(rules):
        lines.insert(at, marks.get("─", "─") * width)
    lines += ["", *map(shown, table.remarks)] if table.remarks else []
    return "\n".join(lines)


def _aligned(column: Sequence[str], signs: Sequence[str], *, left: bool) -> list[str]:
    """Pad the cells of one column (header, note, body): names left, numbers so that what follows the means lines up."""
    body = list(column[2:])
    sign = next((sign for sign in signs if not left and any(sign in cell for cell in body)), None)
    if sign is not None:
        parts = [cell.partition(sign) for cell in body]
        before = max(len(p[0]) for p in parts)
        after = max(len(p[2]) for p in parts)
        body = [f"{a:>{before}}{mark or ' ' * len(sign)}{b:>{after}}" for a, mark, b in parts]
    width = max(map(len, (*column[:2], *body)))
    side = "<" if left else ">"
    return [f"{cell:{side}{width}}" for cell in (*column[:2], *body)]


def markdown_table(table: FrontTable) -> str:
    """The table in GitHub's Markdown, every cell escaped."""
    names = [
        escape_markdown(f"{name} ({note})" if note else name)
        for name, note in zip(table.header, table.notes, strict=True)
    ]
    lines = ["| " + " | ".join(names) + " |", "|" + "|".join([":--"] + ["--:"] * (len(names) - 1)) + "|"]
    lines += ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in table.rows]
    lines += ["", "\n".join(f"- {escape_markdown(remark)}" for remark in table.remarks)] if table.remarks else []
    return "\n".join(lines)


def html_table(table: FrontTable, caption: str = "") -> str:
    """The table as an HTML fragment for notebooks, every cell escaped; it brings no style sheet of its own."""
    head = "".join(
        f"<th>{html.escape(name)}{f'<br><small>{html.escape(note)}</small>' if note else ''}</th>"
        for name, note in zip(table.header, table.notes, strict=True)
    )
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    remarks = "".join(f"<p><small>{html.escape(remark)}</small></p>" for remark in table.remarks)
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{remarks}"


def escape_markdown(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line, wherever it is put."""
    text = html.escape(one_line(text), quote=False)
    return re.sub(r"([\\`*_{}\[\]#+!|~$])", r"\\\1", text)
