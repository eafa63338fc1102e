"""README.md: every number in its tables comes from results.json."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from cases import METHODS, PRICED, PROBLEMS, SEEDS, cases

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


def report(results: dict[str, Any]) -> str:
    """The page."""
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
    )
