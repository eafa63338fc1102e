"""README.md: every number in its tables and claims comes from results.json."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

from cases import EXPLORERS, SEEDS, TASKS
from runs import Spread
from summary import BASE, RIVALS, Study

HERE = Path(__file__).resolve().parent


def short(value: float, places: int = 2) -> str:
    """A number without the zero before the point."""
    return f"{value:.{places}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{places}f}"


def cell(found: Spread, places: int = 2) -> str:
    """Mean and interval."""
    return f"{short(found.mean, places)} ({short(found.low, places)} to {short(found.high, places)})"


def signed(found: Spread) -> str:
    """A difference and its interval, bold where the interval leaves 0 out."""
    text = ("+" if found.mean >= 0 else "") + cell(found, 3)
    return f"**{text}**" if found.verdict else text


def ratios(study: Study) -> str:
    """Hypervolume ratio, a row a task."""
    lines = [f"| problem | weighting | {' | '.join(EXPLORERS)} |", "|---|---|" + "---|" * len(EXPLORERS)]
    for task in study.tasks:
        cells = [cell(study.ratio(task, name)) for name in EXPLORERS]
        lines.append(f"| {task[0]} | `{task[1]}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def gains(study: Study) -> str:
    """Paired differences to the grid, a row a task."""
    lines = [f"| problem | weighting | {' | '.join(RIVALS)} |", "|---|---|" + "---|" * len(RIVALS)]
    for task in study.tasks:
        cells = [signed(study.gain(task, name)) for name in RIVALS]
        lines.append(f"| {task[0]} | `{task[1]}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def tally(study: Study) -> str:
    """Wins and losses against the grid, and what the runs did."""
    lines = [
        "| explorer | better / worse, rows | by Student's interval | better / worse, problems | mean ratio | "
        "members | steps made | slots moved | soups measured | tokens with the report, of the budget |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in EXPLORERS:
        counts = ["—"] * 3
        if name != BASE:
            found = (study.tally(name), study.tally(name, strict=True), study.problems(name))
            counts = [f"{better} / {worse}" for better, worse in found]
        means = [f"{study.mean(name, what):.1f}" for what in ("members", "steps", "moves", "soups")]
        means.append(f"{100 * study.spent(name):.1f} %")
        lines.append(
            f"| `{name}` | {' | '.join(counts)} | {short(study.mean(name, 'ratio'), 3)} | {' | '.join(means)} |"
        )
    return "\n".join(lines)


def done(study: Study) -> str:
    """How much of the plan is in the results."""
    missing = [
        f"`{problem}` under `{weighting}`" for problem, weighting in TASKS if (problem, weighting) not in study.tasks
    ]
    if not missing:
        return "All runs of the plan are in."
    return f"Planned and not complete, so left out: {', '.join(missing)}; the same command runs what is missing."


def best(problem_name: str, points: int) -> str:
    """The share of the whole front's hypervolume that some points of it can have."""
    from pareto_align.testing import exact
    from pareto_align.testing.problems import get_problem

    problem = get_problem(problem_name)
    front = exact.convex_front(problem.rewards)
    most = exact.attainable_hypervolume(front, problem.reference, points)
    return short(most / exact.hypervolume(front, problem.reference))


def fields(results: dict[str, Any]) -> dict[str, str]:
    """Everything that report.md names; `flat_fixed_soups` is a ratio, `gain_flat_fixed_soups` the difference."""
    study = Study(results)
    cells = {
        f"{problem}_{weighting}_{name}": cell(study.ratio((problem, weighting), name))
        for problem, weighting in study.tasks
        for name in EXPLORERS
    }
    differences = {
        f"gain_{problem}_{weighting}_{name}": signed(study.gain((problem, weighting), name)).strip("*")
        for problem, weighting in study.tasks
        for name in RIVALS
    }
    counts = {}
    for name in RIVALS:
        counts[f"better_{name}"], counts[f"worse_{name}"] = map(str, study.tally(name))
        counts[f"strictly_better_{name}"], counts[f"strictly_worse_{name}"] = map(str, study.tally(name, strict=True))
        counts[f"problems_better_{name}"], counts[f"problems_worse_{name}"] = map(str, study.problems(name))
    return {
        **cells,
        **differences,
        **counts,
        "table_ratios": ratios(study),
        "table_gains": gains(study),
        "table_tally": tally(study),
        **{f"four_{problem}": best(problem, study.setting["population"]) for problem in ("flat", "arc")},
        "rows": str(len(study.tasks)),
        "problems": str(len({problem for problem, _ in study.tasks})),
        "runs": str(len(study.tasks) * len(EXPLORERS) * len(SEEDS)),
        "done": done(study),
        "setting": _listed({name: v for name, v in study.setting.items() if name != "arithmetic"}),
        "setting_arithmetic": _listed(study.setting["arithmetic"]),
    }


def _listed(setting: dict[str, Any]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in setting.items())


def report(results: dict[str, Any]) -> str:
    """README.md."""
    return Template((HERE / "report.md").read_text(encoding="utf-8")).substitute(fields(results))
