"""README.md and its figure: every number in them comes from results.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # for `runs`

from cases import JUDGE, JUDGES, METHODS, POLICIES, SEEDS, TOKENS  # noqa: E402
from runs import spread  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SINGLE = [method for method, settings in METHODS.items() if "alone" in settings]
FRONTS = [method for method in METHODS if method not in SINGLE]


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """`.123`, with a sign if asked for."""
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("0.", ".", 1)


def volumes(results: dict[str, Any], method: str, judge: str) -> dict[int, list[float]]:
    """By seed, where it was run: hypervolume with the ends of its interval over prompts."""
    keys = {seed: f"{method}/{seed}" for seed in SEEDS}
    return {seed: results["runs"][key][judge] for seed, key in keys.items() if key in results["runs"]}


def best_single(results: dict[str, Any], judge: str) -> dict[int, float]:
    """By seed, where all of them were run: the largest hypervolume of a policy that had the whole budget."""
    found = [volumes(results, method, judge) for method in SINGLE]
    seeds = set.intersection(*(set(one) for one in found))
    return {seed: max(one[seed][0] for one in found) for seed in sorted(seeds)}


def best_member(run: dict[str, Any]) -> list[float]:
    """The largest hypervolume that one member of a run has by itself, by each judge."""
    values = np.array(run["values"])
    return [float(values[:, list(axes)].prod(1).max()) for axes in JUDGES.values()]


def table(results: dict[str, Any]) -> str:
    """Hypervolume of every method by both judges, seed by seed."""
    lines = ["| method | seed | by the head | by the audit | its best member alone |", "|---|---|---|---|---|"]
    for method in METHODS:
        by_judge = {judge: volumes(results, method, judge) for judge in JUDGES}
        for seed in by_judge["head"]:
            cells = []
            for judge in JUDGES:
                value, low, high = by_judge[judge][seed]
                cells.append(f"{number(value)} ({number(low)} to {number(high)})")
            cells.append(" / ".join(number(value) for value in best_member(results["runs"][f"{method}/{seed}"])))
            lines.append(f"| {method} | {seed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(results: dict[str, Any]) -> str:
    """What each front has more than the best single policy of its seed, with Student's 95 % interval over the seeds."""
    lines = ["| front | by the head | by the audit |", "|---|---|---|"]
    for method in FRONTS:
        cells = []
        for judge in JUDGES:
            ours, theirs = volumes(results, method, judge), best_single(results, judge)
            seeds = sorted(ours.keys() & theirs.keys())
            if not seeds:
                cells.append("—")
                continue
            found = spread([ours[seed][0] - theirs[seed] for seed in seeds])
            if len(seeds) == 1:
                cells.append(f"{number(found.mean, sign=True)} (one seed)")
                continue
            low, high = found.mean - found.wide, found.mean + found.wide
            cells.append(f"{number(found.mean, sign=True)} ({number(low, sign=True)} to {number(high, sign=True)})")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def members(results: dict[str, Any], seed: int = 0) -> str:
    """What the members of a seed's runs are worth, and what they say."""
    lines = ["| method | preference for warm | warm | brief | tone | an answer |", "|---|---|---|---|---|---|"]
    for method in METHODS:
        run = results["runs"].get(f"{method}/{seed}")
        if run is None:
            continue
        if method == next(iter(METHODS)) and run["untrained"] is not None:
            cells = " | ".join(number(value, 2) for value in run["untrained"])
            lines.append(f"| untrained | — | {cells} | |")
        for place in np.argsort([-values[0] for values in run["values"]]):
            preference = run["preferences"][place]
            weight = "—" if preference is None else number(preference[0], 2)
            cells = " | ".join(number(value, 2) for value in run["values"][place])
            said = run["samples"][place][0] if run["samples"][place] else ""
            lines.append(f"| {method} | {weight} | {cells} | {said} |".replace("\n", " "))
    return "\n".join(lines)


LOOKS = {
    "modpo": ("tab:blue", "o"),
    "dpo": ("tab:cyan", "s"),
    "dpo, family": ("tab:green", "^"),
    "single, middle": ("tab:gray", "D"),
    "single, warm": ("tab:gray", ">"),
    "single, brief": ("tab:gray", "<"),
    "single, middle, slower": ("black", "D"),
}
"""Colour and mark of each method; what had the whole budget to itself is grey or black."""


def draw(results: dict[str, Any]) -> Figure:
    """Warm against brief, a panel a seed, as the head sees it: the members of a front, and single policies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    panels = figure.subplots(1, len(SEEDS), sharex=True, sharey=True)
    for seed, axes in zip(SEEDS, panels, strict=True):
        known = {method: results["runs"].get(f"{method}/{seed}") for method in METHODS}
        for method, run in known.items():
            if run is None:
                continue
            color, mark = LOOKS[method]
            order = np.argsort(np.array(run["values"])[:, 0])
            (x, y), (wide, high) = (
                np.array(run[name])[order][:, list(JUDGES["head"])].T for name in ("values", "stderr")
            )
            line = "-" if len(x) > 1 else ""
            axes.errorbar(
                x, y, 1.96 * high, 1.96 * wide, fmt=mark + line, color=color, markersize=6, elinewidth=0.6, alpha=0.85,
                label=method,
            )  # fmt: skip
        untrained = next((run["untrained"] for run in known.values() if run and run["untrained"]), None)
        if untrained is not None:
            place = np.array(untrained)[list(JUDGES["head"])]
            axes.plot(*place, "*", mfc="white", mec="black", ms=11, ls="", label="untrained")
        axes.set_title(f"seed {seed}", loc="left")
        axes.set_xlabel("warm, by the head (better →)")
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("brief (better →)")
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), frameon=False, loc="outside lower center", ncols=4)
    return figure


def judge_line() -> str:
    """How good the head is on sentences that it was not fitted to."""
    (report,) = json.loads((JUDGE / "rewards.json").read_text(encoding="utf-8"))["report"]
    return (
        f"accuracy {number(report['accuracy'], 2)}, cross-entropy {number(report['cross_entropy'])} nats (ln 2 knows "
        f"nothing), calibration error {number(report['error'])} on {report['n']} pairs of sentences"
    )


def report(results: dict[str, Any]) -> str:
    """The page."""
    text = Template((HERE / "report.md").read_text(encoding="utf-8"))
    setting = results["setting"]
    spent = [run["seconds"] for run in results["runs"].values()]
    return text.substitute(
        done=len(results["runs"]),
        planned=len(SEEDS) * len(METHODS),
        policies=POLICIES,
        steps=setting["steps"],
        single_steps=setting["steps"] * POLICIES,
        prompts=setting["prompts_per_step"],
        rate=number(setting["learning_rate"]),
        beta=number(setting["beta"], 1),
        measured=setting["eval_prompts"],
        temperature=number(setting["temperature"], 1),
        tokens=TOKENS,
        judge_sentences=f"{setting['judge_rows'] * 4:,}",
        judge=judge_line(),
        seconds=f"{min(spent):.0f} to {max(spent):.0f}" if spent else "—",
        table=table(results),
        differences=differences(results),
        members=members(results),
    )
