"""README.md and docs/choosing-a-weighting.md: every number in them comes from results.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from cases import CONSTRAINED, CORE, FEW, LATER, METHODS, PLAN, SEEDS, SHARED, WIDER, cases
from summary import NEAR, Spread, Study

HERE = Path(__file__).resolve().parent


def short(value: float, places: int = 2) -> str:
    """A number without the zero before the point."""
    text = f"{value:.{places}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def cell(found: Spread | None, places: int = 2, seeds: int = len(SEEDS)) -> str:
    """Mean and interval; says so where some seeds are missing."""
    if found is None:
        return "—"
    few = "" if found.seeds == seeds else f"; {found.seeds} seeds"
    return f"{short(found.mean, places)} ({short(found.low, places)} to {short(found.high, places)}{few})"


def grid(study: Study, what: str, places: int = 2, methods: Sequence[str] = METHODS) -> str:
    """One number of all runs, method by problem."""
    problems = [p for p in (*CORE, *WIDER) if any((p, method) in study.runs for method in methods)]
    lines = [f"| method | {' | '.join(problems)} |", "|---|" + "---|" * len(problems)]
    for method in (m for m in study.ranking if m in methods):
        cells = [cell(study.spread(problem, method, what), places) for problem in problems]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def listed(names: list[str]) -> str:
    """Names as code, in a sentence."""
    return ", ".join(f"`{name}`" for name in names)


def hacked(study: Study) -> str:
    """The proxies' distances."""
    lines = [
        f"| method | policies within {short(NEAR)} | median distance | largest | median, by seed | gold score |",
        "|---|---|---|---|---|---|",
    ]
    for method in CONSTRAINED:
        found = study.proxies(method)
        numbers = f"{found['near']} of {found['policies']} | {short(found['median'], 3)} | {short(found['largest'], 3)}"
        lines.append(f"| `{method}` | {numbers} | {cell(found['seeds'], 3)} | {cell(found['gold'], 3)} |")
    return "\n".join(lines)


def groups(study: Study) -> str:
    """The worse served group."""
    lines = ["| preference: the groups' shares, ten to one | the worse served group's value |", "|---|---|"]
    lines += [f"| `{weighting}` | {cell(study.worst_group(label), 3)} |" for label, weighting in SHARED.items()]
    return "\n".join(lines)


def noisy(study: Study) -> str:
    """Published values against the truth."""
    lines = [
        "| measured on | members | values | inside 95 % | above | above the joint interval | mean error |",
        "|---|---|---|---|---|---|---|",
    ]
    for split, label in (("report", "the report split (what is published)"), ("select", "the select split")):
        found = study.reported(split)
        cells = (
            label, found["members"], found["values"], f"{100 * found['inside']:.1f} %", found["above"], found["beyond"],
            f"{found['mean']:+.2f} standard errors",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def scales(study: Study) -> str:
    """How much of its ratio on `arc` each method keeps."""
    kept = study.survival()
    lines = ["| method | arc | scales | kept |", "|---|---|---|---|"]
    for method in sorted(kept, key=lambda name: -kept[name]):
        cells = [cell(study.spread(problem, method, "ratio")) for problem in ("arc", "scales")]
        lines.append(f"| `{method}` | {' | '.join(cells)} | {short(kept[method])} |")
    return "\n".join(lines)


def few(study: Study) -> str:
    """The methods that ran on everything: mean and worst of their ratios."""
    lines = ["| method | mean over the problems | worst problem |", "|---|---|---|"]
    for method in study.few():
        ratios = study.ratios(method)
        lines.append(f"| `{method}` | {short(float(np.mean(ratios)), 3)} | {short(min(ratios), 3)} |")
    return "\n".join(lines)


def done(results: dict[str, Any]) -> str:
    """How much of the plan is in the results."""
    planned = {case.key for case in cases()}
    there = len(planned & set(results["runs"]))
    if there == len(planned):
        return f"All {there} runs of the plan are in."
    return (
        f"Of the plan's {len(planned)} runs {there} are in: a cell with fewer seeds says so, a dash was not run, "
        "and the same command runs what is missing."
    )


def fields(results: dict[str, Any]) -> dict[str, str]:
    """Everything that the two templates name.

    `arc_chebyshev` is the ratio of a method on a problem; dashes in names become underscores.
    """
    study = Study(results)
    cells = {
        f"{problem}_{method}".replace("-", "_"): cell(study.spread(problem, method, "ratio"))
        for problem, method in PLAN
    }
    tables: dict[str, Callable[[Study], str]] = {
        "hacked": hacked, "groups": groups, "noisy": noisy, "scales": scales, "few": few,
    }  # fmt: skip
    kept = study.survival()
    least = min(kept, key=lambda name: kept[name])
    order = study.few()
    second = next(method for method in order if method != "chebyshev")
    report = study.reported("report")
    away = {method: study.proxies(method) for method in CONSTRAINED}
    return {
        **cells,
        **{f"table_{name}": table(study) for name, table in tables.items()},
        "table_ratio": grid(study, "ratio"),
        "table_front": grid(study, "front_ratio", methods=(*FEW, *LATER)),
        "table_missed": grid(study, "missed"),
        "table_members": grid(study, "members", 1, methods=(*FEW, *LATER)),
        "mean_chebyshev": short(float(np.mean(study.ratios("chebyshev"))), 3),
        "mean_second": f"`{second}` with {short(float(np.mean(study.ratios(second))), 3)}",
        "least_chebyshev": short(min(study.ratios("chebyshev")), 3),
        "done": done(results),
        "setting": ", ".join(f"`{name}={value}`" for name, value in study.setting.items()),
        "corner": short(study.from_a_corner(), 4),
        "wide": listed(study.wide),
        "fillers": listed(study.fillers()),
        "filler_count": str(len(study.fillers())),
        "least_kept": f"`{least}`",
        "least_share": short(kept[least]),
        "near": short(NEAR),
        **{f"near_{m}".replace("-", "_"): f"{a['near']} of {a['policies']}" for m, a in away.items()},
        **{f"median_{m}".replace("-", "_"): short(a["median"], 3) for m, a in away.items()},
        **{f"largest_{m}".replace("-", "_"): short(a["largest"], 3) for m, a in away.items()},
        **{f"empty_{m}".replace("-", "_"): f"{a['empty']} of {a['seeds'].seeds}" for m, a in away.items()},
        **{f"worst_{label}".replace("-", "_"): cell(study.worst_group(label)) for label in SHARED},
        "values": str(report["values"]),
        "members": str(report["members"]),
        "inside": f"{100 * report['inside']:.1f} %",
        "above": str(report["above"]),
        "beyond": str(report["beyond"]),
        "bound": f"{report['bound']:.2f}",
        "largest": f"{report['largest']:.2f}",
        "select_mean": f"{study.reported('select')['mean']:+.2f}",
        "report_mean": f"{report['mean']:+.2f}",
    }


def report(results: dict[str, Any]) -> str:
    """README.md."""
    return Template((HERE / "report.md").read_text(encoding="utf-8")).substitute(fields(results))


def choosing(results: dict[str, Any]) -> str:
    """docs/choosing-a-weighting.md."""
    return Template((HERE / "page.md").read_text(encoding="utf-8")).substitute(fields(results))
