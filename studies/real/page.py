"""README.md: every number in its tables comes from results.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # for `runs`

from cases import FIRST, METHODS, SEEDS, SETTING, TRADED, cases  # noqa: E402
from figure import area  # noqa: E402
from runs import spread  # noqa: E402
from tasks import TASKS  # noqa: E402

BASELINE = "independent, linear"
SHOWN = ("centred, steady", "centred, linear")
"""Compared with BASELINE, seed by seed."""
EVERYWHERE, LIMITED = "all linear: ", "limited"
"""How the names of methods begin whose adapters are of all linear layers, and whose steps have a limit."""
PAIRED = ("tone", "answers", "sums", "three", "within")
"""Tasks of the real model on which both were run with every seed."""
MEASURES = {
    "hypervolume": lambda run: run["hypervolume"][0],
    "linear": lambda run: run["linear"],
    "chebyshev": lambda run: run["chebyshev"],
}
AREA = {"area": lambda run: area(run, SETTING["max_tokens"])}


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """`.123`, with a sign if asked for."""
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("0.", ".", 1)


def numbers(results: dict[str, Any], task: str, method: str, what: str) -> dict[int, float]:
    """By seed, where it was run."""
    runs = results["runs"]
    keys = {seed: f"{task}/{method}/{seed}" for seed in SEEDS}
    return {seed: (MEASURES | AREA)[what](runs[key]) for seed, key in keys.items() if key in runs}


def cell(values: dict[int, float]) -> str:
    """Mean, and least to greatest over the seeds; a dash where nothing was run."""
    if not values:
        return "—"
    found = list(values.values())
    if len(found) == 1:
        return f"{number(found[0])} (one seed)"
    return f"{number(float(np.mean(found)))} ({number(min(found))} to {number(max(found))})"


def baseline(method: str) -> str:
    """What a method is compared with: the plainest one with the same adapters, or itself without a limit."""
    if method.startswith(LIMITED):
        return method.split(": ", 1)[1]
    return f"{EVERYWHERE}{BASELINE}" if method.startswith(EVERYWHERE) else BASELINE


def difference(results: dict[str, Any], task: str, method: str, what: str) -> str:
    """Mean over the seeds that both have of what a method has more than its baseline, with Student's 95 % interval."""
    ours, theirs = (numbers(results, task, name, what) for name in (method, baseline(method)))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return "—"
    found = spread([ours[seed] - theirs[seed] for seed in seeds])
    if len(seeds) == 1:
        return f"{number(found.mean, sign=True)} (one seed)"
    low, high = found.mean - found.wide, found.mean + found.wide
    return f"{number(found.mean, sign=True)} ({number(low, sign=True)} to {number(high, sign=True)})"


def ahead(results: dict[str, Any], tasks: Sequence[str] = PAIRED) -> tuple[str, str, str]:
    """In how many pairs of runs the default has more hypervolume than BASELINE, and by how much in the mean.

    Returns:
        Pairs, mean, and Student's 95 % interval over all pairs.
    """
    gaps = []
    for task in tasks:
        ours, theirs = (numbers(results, task, name, "hypervolume") for name in ("centred, steady", BASELINE))
        gaps += [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    found = spread(gaps)
    low, high = (number(found.mean + side * found.wide, 2, sign=True) for side in (-1, 1))
    return f"{sum(gap > 0 for gap in gaps)} of {len(gaps)} pairs", number(found.mean, 2), f"{low} to {high}"


def table(results: dict[str, Any], what: str) -> str:
    """One number on every task of every method that was run at all."""
    lines = [f"| method | {' | '.join(TASKS)} |", "|---|" + "---|" * len(TASKS)]
    lines += [
        f"| {method} | {' | '.join(cell(numbers(results, task, method, what)) for task in TASKS)} |"
        for method in METHODS
        if method not in unrun(results)
    ]
    return "\n".join(lines)


def areas(results: dict[str, Any]) -> str:
    """The mean height of the curves of the two methods that the verdict is about, over the tokens."""
    lines = [f"| method | {' | '.join(TRADED)} |", "|---|" + "---|" * len(TRADED)]
    for method in FIRST:
        runs = {task: numbers(results, task, method, "area") for task in TRADED}
        lines.append(f"| {method} | {' | '.join(cell(runs[task]) for task in TRADED)} |")
    more = " | ".join(difference(results, task, FIRST[1], "area") for task in TRADED)
    return "\n".join([*lines, f"| the second less the first | {more} |"])


def unrun(results: dict[str, Any]) -> list[str]:
    """Methods of which no run is in."""
    begun = {key.split("/")[1] for key in results["runs"]}
    return [method for method in METHODS if method not in begun]


def differences(results: dict[str, Any], method: str) -> str:
    """What a method has more than its baseline, task by task."""
    lines = [f"| task | {' | '.join(MEASURES)} |", "|---|" + "---|" * len(MEASURES)]
    lines += [
        f"| {task} | {' | '.join(difference(results, task, method, what) for what in MEASURES)} |" for task in TASKS
    ]
    return "\n".join(lines)


def searched(found: dict[str, Any]) -> str:
    """Hypervolume by ranks and rate, of every run of search.json."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for key, run in found["runs"].items():
        task, method, rank, rate, _ = key.split("/")
        rows.setdefault((method, rank, rate), {})[task] = number(run["hypervolume"][0])
    tasks = ("adding", "tone")
    lines = [f"| method | ranks in all | learning rate | {' | '.join(tasks)} |", "|---" * (3 + len(tasks)) + "|"]
    for (method, rank, rate), cells in sorted(rows.items(), reverse=True):
        told = [method, rank, rate.replace("0.", ".", 1), *(cells.get(task, "—") for task in tasks)]
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines)


def cost(results: dict[str, Any]) -> str:
    """Tokens, rollouts and seconds of training, as ranges over all runs."""
    runs = results["runs"].values()

    def span(what: str) -> str:
        found = [run[what] for run in runs]
        return f"{min(found):,.0f} to {max(found):,.0f}" if found else "—"

    spent = f"{span('tokens')} tokens with the report's, {span('rollouts')} rollouts"
    return f"{spent}, {span('seconds')} seconds of training steps"


def said(results: dict[str, Any], task: str, seed: int = 0) -> str:
    """What the ends and the middle of the front say to the first prompts of the report split."""
    lines = []
    for method in (BASELINE, *SHOWN):
        run = results["runs"].get(f"{task}/{method}/{seed}")
        if run is None:
            continue
        order = np.argsort([-values[0] for values in run["values"]])
        for place in dict.fromkeys((0, len(order) // 2, len(order) - 1)):
            member = order[place]
            values = ", ".join(number(value, 2) for value in run["values"][member])
            texts = (
                " / ".join(f'"{text}"' for text in run["samples"][member][:3]).replace("\n", " ").replace("|", "\\|")
            )
            lines.append(f"- {method} ({values}): {texts}")
    return "\n".join(lines)


def report(results: dict[str, Any]) -> str:
    """The page."""
    text = Template((HERE / "report.md").read_text(encoding="utf-8"))
    setting = results["setting"]
    return text.substitute(
        done=len(results["runs"]),
        planned=len(list(cases())),
        tokens=f"{setting['max_tokens']:,}",
        rate=number(setting["learning_rate"]),
        kl=number(setting["kl_coef"]),
        search=searched(json.loads((HERE / "search.json").read_text(encoding="utf-8"))),
        measured=setting["eval_prompts"],
        cost=cost(results),
        hypervolume=table(results, "hypervolume"),
        area=areas(results),
        linear=table(results, "linear"),
        chebyshev=table(results, "chebyshev"),
        linear_differences=differences(results, "centred, linear"),
        steady_differences=differences(results, "centred, steady"),
        everywhere_differences=differences(results, f"{EVERYWHERE}centred, steady"),
        limited_differences=differences(results, f"{LIMITED}: centred, steady"),
        quarter_differences=differences(results, f"{LIMITED}, a quarter: centred, steady"),
        unrun=", ".join(f"`{method}`" for method in unrun(results)) or "none",
        said=said(results, "tone"),
        **dict(zip(("pairs", "gap", "interval"), ahead(results), strict=True)),
    )
