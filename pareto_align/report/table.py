"""The front as a table: for terminals, Markdown and notebooks."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pareto_align.report.units import (
    Measured,
    axes_of,
    decimals,
    interval_text,
    measured,
    number,
    optimized,
    preferences_of,
    reference_measured,
)

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = ["FrontTable", "escape_markdown", "front_table", "html_table", "markdown_table", "text_table"]


@dataclass(frozen=True)
class FrontTable:
    """The cells of a front's table, as text.

    Attributes:
        header: Column names, without directions.
        notes: One short remark a column, such as "↑" or "↓ audit"; "" where there is none.
        rows: One a member, in the front's order, then the untrained model if it was measured.
        reference_row: Whether the last row is the untrained model.
    """

    header: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    reference_row: bool


def front_table(record: FrontRecord) -> FrontTable:
    """Member, preference, and each objective as mean and 95 % interval (Student's t) in the user's units."""
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
        role = "" if axis.role == "optimize" else " audit" if axis.role == "audit" else " constraint"
        notes.append(("↑" if axis.maximize else "↓") + role)
        columns.append(_column(members, reference, j))
    if reference is not None:
        columns[0].append("untrained")
        if show_preference:
            columns[1].append("-")
    rows = tuple(zip(*columns, strict=True))
    return FrontTable(tuple(header), tuple(notes), rows, reference is not None)


def _preference_text(weights: np.ndarray) -> str:
    return "-" if np.isnan(weights).any() else " / ".join(number(w, 2) for w in weights)


def _column(members: Measured, reference: Measured | None, j: int) -> list[str]:
    values, spread = list(members.values[:, j]), list(members.halfwidth[:, j])
    digits = decimals(spread, values)
    if reference is not None:
        values.append(reference.values[0, j])
        spread.append(reference.halfwidth[0, j])
    return [interval_text(v, h, digits) for v, h in zip(values, spread, strict=True)]


def text_table(table: FrontTable, *, unicode: bool = True) -> str:
    """The table for a terminal: columns aligned, each mean above the next mean, no trailing spaces.

    Args:
        table: What `front_table` made.
        unicode: False writes ±, arrows and rules in ASCII, for terminals that cannot print them.
    """
    marks = {} if unicode else {"±": "+/-", "↑": "^", "↓": "v", "─": "-"}

    def shown(text: str) -> str:
        text = _printable(text)
        for mark, plain in marks.items():
            text = text.replace(mark, plain)
        return text if unicode else text.encode("ascii", "replace").decode()

    cells = [[shown(cell) for cell in row] for row in (table.header, table.notes, *table.rows)]
    sign = f" {marks.get('±', '±')} "
    columns = [_aligned(column, sign, left=i == 0) for i, column in enumerate(zip(*cells, strict=True))]
    lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    width = max(map(len, lines))
    rules = [2, len(lines) - 1] if table.reference_row and len(lines) > 3 else [2]
    for at in reversed(rules):
        lines.insert(at, marks.get("─", "─") * width)
    return "\n".join(lines)


def _aligned(column: Sequence[str], sign: str, *, left: bool) -> list[str]:
    """Pad the cells of one column (header, note, body): names left, numbers so that their plus-minus signs line up."""
    body = list(column[2:])
    if any(sign in cell for cell in body):
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
    return "\n".join(lines)


def html_table(table: FrontTable, caption: str = "") -> str:
    """The table as an HTML fragment for notebooks, every cell escaped; it brings no style sheet of its own."""
    head = "".join(
        f"<th>{html.escape(name)}{f'<br><small>{html.escape(note)}</small>' if note else ''}</th>"
        for name, note in zip(table.header, table.notes, strict=True)
    )
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _printable(text: str) -> str:
    """One line without control characters: a name must not be able to drive the terminal or break the columns."""
    return "".join(c if c.isprintable() else "�" for c in " ".join(text.split()))


def escape_markdown(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line, wherever it is put."""
    text = html.escape(_printable(text), quote=False)
    return re.sub(r"([\\`*_{}\[\]#+!|~$])", r"\\\1", text)
