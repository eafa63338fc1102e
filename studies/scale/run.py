"""What does a population in shards cost, and how far does it scale?

    python studies/scale/run.py                   # all parts; writes results.json and README.md
    python studies/scale/run.py --only overhead   # one again, the others are kept
    python studies/scale/run.py --page            # README.md alone, from results.json
    python studies/scale/run.py --smoke           # whether it runs at all; writes nothing

`pace` needs two free cores and `computing` one: take them alone on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from simulation import ASSUMED, MODES, efficiency

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

HERE = Path(__file__).parent
WORKERS = (1, 2, 4, 8, 16, 64, 256, 1000)
Rows = list[dict[str, Any]]


def overhead(few: bool) -> Rows:
    """Between the loop and the learner, in one process."""
    import measuring

    with tempfile.TemporaryDirectory() as folder:
        return [measuring.overhead(measuring.saved_model(Path(folder)), 4 if few else 60)]


def driver(few: bool) -> Rows:
    """The process of a run on workers."""
    import measuring

    with tempfile.TemporaryDirectory() as folder, measuring.cluster(2):
        return measuring.driver(measuring.saved_model(Path(folder)), 2 if few else 30)


def pace(few: bool) -> Rows:
    """One process, and 1, 2 and 4 workers."""
    import measuring

    few_of = {"population": 4, "shard_size": 1, "max_new_tokens": 8}
    with tempfile.TemporaryDirectory() as folder, measuring.cluster(4):
        model = measuring.saved_model(Path(folder), width=256, layers=4)
        return measuring.pace(model, 2, (2,), **few_of) if few else measuring.pace(model, 20, (1, 2, 4))


def killed(few: bool) -> Rows:
    """Ten seeds of a SIGKILL, for policies of their own and for a family."""
    import measuring

    found = []
    with tempfile.TemporaryDirectory() as folder, measuring.cluster(2):
        model = measuring.saved_model(Path(folder) / "model")
        for kind in measuring.KINDS:
            for seed in range(1 if few else 10):
                found.append(measuring.killed(model, Path(folder), kind, seed))
                print(found[-1], flush=True)
    return found


def simulation(few: bool) -> Rows:
    """Efficiency by mode and number of workers, and the synchronous one without what costs most."""
    steps, seeds = (20, range(1)) if few else (60, range(3))
    found: Rows = []
    for workers in WORKERS[:4] if few else WORKERS:
        row: dict[str, Any] = {"workers": workers}
        for mode in MODES:
            row[mode] = float(np.mean([efficiency(workers, mode, steps=steps, seed=seed) for seed in seeds]))
        for name, constants in WITHOUT.items():
            assumed = dataclasses.replace(ASSUMED, **constants)
            row[name] = float(np.mean([efficiency(workers, "exact", assumed, steps=steps, seed=s) for s in seeds]))
        found.append(row)
    return found


WITHOUT: dict[str, dict[str, float]] = {
    "exact, no slow steps": {"slow": 0.0},
    "exact, no slow steps or jitter": {"slow": 0.0, "jitter": 0.0, "spread": 0.0},
    "exact, ten times the failures": {"hours": ASSUMED.hours / 10},
}


def overlap(few: bool) -> Rows:
    """A judge of a second, with and without work meanwhile."""
    import measuring
    import overlapping

    with tempfile.TemporaryDirectory() as folder:
        model = measuring.saved_model(Path(folder) / "model")
        return overlapping.overlap(model, Path(folder), 6 if few else 10, 0.1 if few else 1.0)


def computing(few: bool) -> Rows:
    """The same where what is done meanwhile keeps a core busy."""
    import measuring
    import overlapping

    with tempfile.TemporaryDirectory() as folder:
        size = {} if few else {"width": 256, "layers": 4}
        model = measuring.saved_model(Path(folder) / "model", **size)
        return overlapping.computing(model, Path(folder), 6 if few else 14, 0.1 if few else 1.0)


MEASURES: dict[str, Callable[[bool], Rows]] = {
    "overhead": overhead,
    "driver": driver,
    "pace": pace,
    "killed": killed,
    "simulation": simulation,
    "overlap": overlap,
    "computing": computing,
}
NEED_FREE_CORES = {"pace", "computing"}


def page(results: dict[str, Any]) -> str:
    """README.md, from the results."""
    told = results["measured"]
    lines = [(HERE / "question.md").read_text(encoding="utf-8").rstrip("\n")]
    (row,) = told["overhead"]
    lines += ["", f"**Overhead.** {row['between_ms']:.2f} ms of a step of {row['step_ms']:.0f} ms: {row['share']:.1%}."]
    lines += ["", "**Driver.** CPU time of the process of the run.", ""]
    lines += ["| weighting | ms a shard-step, the loop's thread | ms a shard-step, Ray's threads included |"]
    lines += ["|---|---|---|"]
    lines += [f"| {row['weighting']} | {row['loop_ms']:.1f} | {row['work_ms']:.1f} |" for row in told["driver"]]
    resting = max(row["resting_ms_a_second"] for row in told["driver"])
    lines += ["", f"Beside that Ray's threads take {resting:.1f} ms a second while nothing is asked of them."]
    lines += ["", *_pace(told.get("pace", []))]
    same = [row["same"] for row in told["killed"]]
    lost = sum(row["lost"] > 0 for row in told["killed"])
    lines += [
        "",
        f"**Killed.** {sum(same)} of {len(same)} runs came to the same bytes; in {lost} of them the kill met the run "
        "before its end.",
        "",
        "| trained | seed | worker | after step | workers lost | same bytes |",
        "|---|---|---|---|---|---|",
    ]
    for row in told["killed"]:
        yes = "yes" if row["same"] else "**no**"
        lines.append(f"| {row['kind']} | {row['seed']} | {row['worker']} | {row['after']} | {row['lost']} | {yes} |")
    lines += ["", *_overlapped(told["overlap"]), "", *_computed(told.get("computing", []))]
    lines += ["", *_simulated(told["simulation"])]
    return "\n".join([*lines, "", f"Machine: {results['machine']}."]) + "\n"


def _pace(rows: Rows) -> list[str]:
    if not rows:
        return ["**Pace.** Not taken yet: it needs two free cores."]
    row = rows[0]
    lines = [
        f"**Pace.** {row['one_s']:.2f} s a step of {row['shards']} shards in one process, on a machine with "
        f"{row['cores']} cores. More workers than cores share them: they are at best as fast as one on each.",
        "",
        "| workers | s a step | efficiency | simulated, s | measured / simulated | load |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        simulated = row["simulated_s"]
        told = "|" if simulated is None else f"{simulated:.2f} | {row['s'] / simulated:.2f}"
        busy = "" if quiet(row) else ", **others used the machine meanwhile**"
        lines.append(
            f"| {row['workers']} | {row['s']:.2f} | {row['efficiency']:.2f} | {told} | {row['load']:.1f}{busy} |"
        )
    return lines


def quiet(row: dict[str, Any]) -> bool:
    """Whether nobody else had the machine when a pace was taken."""
    return bool((row["one_load"] or 0.0) <= 1.5 and row["load"] <= row["workers"] + 0.5)


def _overlapped(rows: Rows) -> list[str]:
    return [
        f"**Overlap.** Seconds a step, means of {rows[0]['steps']} steps. Compute is a step without overlap less its "
        "rewards; share is the step with overlap over the one without.",
        "",
        *_shares(rows),
    ]


def _computed(rows: Rows) -> list[str]:
    if not rows:
        return ["**Overlap on a core that computes.** Not taken yet: it needs a free core."]
    row = rows[0]
    busy = "" if max(row["load"] for row in rows) <= 1.5 else " **Others used the machine meanwhile.**"
    return [
        "**Overlap on a core that computes.** Nothing is filled up by waiting: the model is 256 wide and has four "
        f"layers, a step has {row['prompts']} prompts with four answers of up to {row['tokens']} tokens for each "
        f"policy. Means of {row['steps']} steps.{busy}",
        "",
        *_shares(rows),
    ]


def _shares(rows: Rows) -> list[str]:
    lines = [
        "| weights | judge | shards | overlap | compute | without | with | share | waited | hidden | bytes | load |",
        "|" + "---|" * 12,
    ]
    for row in rows:
        same = "the same" if row["same"] else "another run" if row["mode"] == "bounded" else "**not the same**"
        lines.append(
            f"| {row['weighting']} | {row['judge']} | {row['shards']} | {row['mode']} | {row['compute_s']:.2f} "
            f"| {row['off_s']:.2f} | {row['overlap_s']:.2f} | {row['share']:.2f} | {row['waited_s']:.2f} "
            f"| {row['hidden_s']:.2f} | {same} | {row['load']:.1f} |"
        )
    return lines


def _simulated(rows: Rows) -> list[str]:
    constants = ", ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(ASSUMED).items())
    names = [name for name in rows[0] if name != "workers"]
    lines = [
        "**Simulation.** Discrete events (`simulation.py`), one shard a worker, 60 steps. Every constant is an "
        f"assumption: {constants} (seconds, but for jitter, spread and slow, which are shares, slow_by, a factor, "
        "hours between failures of a worker, policies of a shard, and every, in steps). Efficiency is the time of "
        "workers that never wait, and judge between sampling and training, over the simulated one: hidden judging may "
        "lead beyond 1. In `exact` all shards wait for each other at the weights of a step; the other modes say what "
        "it brings to let a shard be some steps ahead of the slowest, or to hide judging behind other shards' work. "
        "Read the shape and not the digits.",
        "",
        "| workers | " + " | ".join(names) + " |",
        "|" + "---|" * (1 + len(names)),
    ]
    lines += [f"| {row['workers']:,} | " + " | ".join(f"{row[name]:.2f}" for name in names) + " |" for row in rows]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MEASURES, nargs="+", help="measure these alone and keep the rest")
    parser.add_argument("--page", action="store_true", help="write README.md from results.json")
    parser.add_argument("--smoke", action="store_true", help="small numbers; print, and write nothing")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    file = HERE / "results.json"
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"measured": {}}
    for name, measure in MEASURES.items():
        if arguments.page or (arguments.only and name not in arguments.only):
            continue
        found = measure(arguments.smoke)
        print(name, *found, sep="\n  ", flush=True)
        if not arguments.smoke:  # at once: the next part may take an hour
            results["measured"][name] = found
            results["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"
            file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not arguments.smoke and results["measured"].keys() >= MEASURES.keys() - NEED_FREE_CORES:
        (HERE / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
