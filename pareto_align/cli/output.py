"""How results are printed: JSON for programs, text that the terminal can show for people."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from pareto_align.cli.streams import say
from pareto_align.printable import printable
from pareto_align.report.export import journal_path
from pareto_align.report.units import reference_measured
from pareto_align.runs.journal import as_json

if TYPE_CHECKING:
    from pareto_align.result import ParetoFront

__all__ = ["front_json", "print_front", "print_json", "say"]


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document on stdout; numbers that are not finite become null, and what drives a terminal is escaped."""
    text = json.dumps(as_json(value), indent=indent, ensure_ascii=False, allow_nan=False)
    print("".join(c if printable(c) == c else json.dumps(c)[1:-1] for c in text), flush=True)


def print_front(front: ParetoFront) -> None:
    """The table of a front, and where things are."""
    text = front.summary(unicode=_shows_unicode())
    say(text)
    say(f"\nAdapters: {front.folder / 'members'}  (stock PEFT folders)")
    if front.history:
        say(f"Journal:  {journal_path(front.path)}")


def _shows_unicode() -> bool:
    try:
        "±↑↓─".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def front_json(front: ParetoFront, *, fallen: bool = False) -> dict[str, Any]:
    """A front as plain values, in the user's units; with `fallen` also what did not stay."""
    value, low, high = front.hypervolume(confidence=0.95)
    reference, estimate = reference_measured(front.record), front.record.reference_policy
    untrained = None
    if reference is not None and estimate is not None:
        rows = {"values": reference.values[0], "stderr": estimate.stderr}
        untrained = {key: dict(zip(front.names, map(float, row), strict=True)) for key, row in rows.items()}
    more: dict[str, Any] = {}
    if fallen:
        more["fallen"] = [
            {**vars(entry), "values": entry.values.tolist(), "stderr": entry.stderr.tolist()} for entry in front.fallen
        ]
    return {
        "run": str(front.path),
        "front": str(front.folder),
        "base": front.record.base,
        "split": front.record.split,
        "objectives": [
            {"name": o.name, "role": o.role, "maximize": o.maximize, "bounds": o.bounds}
            for o in front.record.objectives
        ],
        "hypervolume": {"value": value, "low": low, "high": high, "confidence": 0.95},
        "members": [member.to_dict() for member in front],
        "untrained": untrained,
        "problems": front.problems,
        "cost": front.record.cost,
        **more,
    }
