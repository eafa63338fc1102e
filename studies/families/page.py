"""README.md: every number in its tables comes from results.json."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from cases import METHODS, PRICED, PROBLEMS, SEEDS, cases
from why import CHANGES, SIDES, VARIANTS
from why import SEEDS as WHY_SEEDS

HERE = Path(__file__).resolve().parent


def numbers(results: dict[str, Any], problem: str, method: str, what: str) -> list[float]:
    """One number a seed that was run."""
    runs = results["runs"]
    return [runs[key][what] for seed in SEEDS if (key := f"{problem}/{method}/{seed}") in runs]


def cell(values: list[float]) -> str:
    """Mean, and least to greatest over the seeds; a dash where nothing was run."""
    if not values:
        return "—"
    mean, low, high = (f"{v:.3f}".replace("0.", ".", 1) for v in (np.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


def table(results: dict[str, Any], what: str, problems: tuple[str, ...] = PROBLEMS) -> str:
    """One number of every method on some problems."""
    lines = [f"| method | {' | '.join(problems)} |", "|---|" + "---|" * len(problems)]
    for method in METHODS:
        lines.append(f"| {method} | {' | '.join(cell(numbers(results, p, method, what)) for p in problems)} |")
    return "\n".join(lines)


def varied(found: dict[str, Any], variant: str, what: str) -> list[float]:
    """One number a seed of a variant of why.py."""
    runs = found["runs"]
    return [runs[key][what] for seed in WHY_SEEDS if (key := f"{variant}/{seed}") in runs]


def changed(found: dict[str, Any]) -> str:
    """Missed shares of both sides, one change a line."""
    heads = [f"{side}, {where}" for side in SIDES for where in ("its own", "unseen")]
    lines = [f"| what differs | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name in CHANGES:
        cells = [cell(varied(found, f"{side}, {name}", what)) for side in SIDES for what in ("own", "unseen")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def taken_apart(found: dict[str, Any]) -> str:
    """Missed shares of the variants that one side only has, after both as they are."""
    single = [name for name in VARIANTS if name.split(", ", 1)[1] not in CHANGES]
    lines = ["| variant | its own | unseen |", "|---|---|---|"]
    for name in (*(f"{side}, as it is" for side in SIDES), *single):
        lines.append(f"| {name} | {' | '.join(cell(varied(found, name, what)) for what in ('own', 'unseen'))} |")
    return "\n".join(lines)


def means(found: dict[str, Any]) -> dict[str, str]:
    """What the page's words say of why.py: by `side_change_what`, the mean over the seeds."""
    told = {}
    for name in VARIANTS:
        for what in ("own", "unseen"):
            values = varied(found, name, what)
            slug = "".join(c if c.isalnum() else "_" for c in name).replace("__", "_")
            told[f"{slug}_{what}"] = cell(values[:1] and [float(np.mean(values))])
    return told


def report(results: dict[str, Any]) -> str:
    """The page."""
    why = json.loads((HERE / "why.json").read_text(encoding="utf-8"))
    text = Template((HERE / "report.md").read_text(encoding="utf-8"))
    done = len(results["runs"])
    planned = len(list(cases()))
    single = tuple(p for p in PROBLEMS if p not in PRICED)
    return text.substitute(
        done=done,
        planned=planned,
        ratio=table(results, "ratio", single),
        front=table(results, "front_ratio", single),
        own=table(results, "own", PRICED),
        unseen=table(results, "unseen", PRICED),
        changed=changed(why),
        apart=taken_apart(why),
        why_done=len(why["runs"]),
        why_planned=len(VARIANTS) * len(WHY_SEEDS),
        **means(why),
    )
