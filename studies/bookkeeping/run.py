"""Does the bookkeeping grow gently? An archive of 10,000 offers, a long journal, a wide front, many fits.

    python studies/bookkeeping/run.py                  # all four; writes results.json and README.md
    python studies/bookkeeping/run.py --only archive   # one again, the others are kept
    python studies/bookkeeping/run.py --page           # README.md alone, from results.json
    python studies/bookkeeping/run.py --smoke          # whether it runs at all, in seconds; writes nothing

Times are CPU times of one thread, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pareto_align import ParetoAligner, ParetoAlignWarning, ParetoFront
from pareto_align.front import Estimate, FrontRecord, MemberRecord, ObjectiveRecord, ParetoArchive, write_front
from pareto_align.runs.journal import Journal, scan_journal

HERE = Path(__file__).parent
OFFERS, WINDOW = 10_000, 200
LINES = 100_000
MEMBERS = 500
FITS = 200

Row = dict[str, float]


def seconds(call: Callable[..., Any], *given: Any) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call(*given)
    return time.process_time() - start


def resident() -> float:
    """MiB of memory this process holds now (Linux), else the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def archive(offers: int) -> list[Row]:
    """Offers as a run makes them: policies that come nearer to a sphere, 64 prompts, resolution 2, 64 spares.

    A row says how long the last offers took before so many entries were there, and all together up to then.
    """
    found = []
    for m in (2, 8):
        rng = np.random.default_rng(m)
        frame = {"reference": np.zeros(m), "scale_lower": np.zeros(m), "scale_upper": np.ones(m)}
        made = ParetoArchive(range(m), **frame, resolution=2.0, spares=64)
        took = np.zeros(offers)
        marks = {offers // k for k in (40, 20, 10, 5, 1)} | {2 * offers // 5}
        for i in range(offers):
            direction = np.abs(rng.normal(size=m))
            center = direction / np.linalg.norm(direction) * (0.6 + 0.4 * min(1.0, 2 * i / offers))
            estimate = Estimate.from_samples(center + 0.1 * rng.normal(size=(64, m)), range(64))
            took[i] = seconds(made.offer, f"e{i}", estimate, {}, i)
            if i + 1 in marks:
                last = took[max(0, i + 1 - WINDOW) : i + 1]
                competing = sum(not entry.released for entry in made.entries.values())
                found.append(
                    {"m": m, "entries": i + 1, "competing": competing, "members": len(made),
                     "ms": 1000 * float(last.mean()), "seconds": float(took[: i + 1].sum())}
                )  # fmt: skip
    return found


def journal(lines: int) -> list[Row]:
    """Steps of eight policies and two objectives: writing a further one, and reading them all.

    Each line is synced to the disk, so a few are written by the journal itself, and then repeated.
    """
    found = []
    event = {"values": np.full((8, 2), 0.123456), "weights": np.full((8, 2), 0.5), "entropy": [0.1] * 8}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        kept = Journal(path)
        _write(kept, min(WINDOW, lines // 8), event)
        block = path.read_bytes().splitlines(keepends=True)
        for mark in (lines // 8, lines // 4, lines // 2, lines):
            path.write_bytes(b"".join((block * (mark // len(block) + 1))[:mark]))
            read = seconds(scan_journal, path)
            wrote = seconds(_write, kept, len(block), event)
            found.append({"lines": mark, "write_us": 1e6 * wrote / len(block), "read_s": read})
    return found


def _write(journal: Journal, count: int, event: dict[str, Any]) -> None:
    for i in range(count):
        journal.write("step", step=i, **event)


def front(members: int) -> list[Row]:
    """A front on a quarter of a circle, measured on 64 shared prompts: what a user does with it."""
    found = []
    for n in (members // 8, members // 4, members // 2, members):
        rng = np.random.default_rng(n)
        angle = np.linspace(0, np.pi / 2, n)
        shared = 0.1 * rng.normal(size=(64, 2))
        rows = [
            MemberRecord(
                f"m{k:04d}",
                Estimate.from_samples([np.cos(a), np.sin(a)] + shared + 0.05 * rng.normal(size=(64, 2)), range(64)),
                [float(np.cos(a) ** 2), float(np.sin(a) ** 2)],
            )
            for k, a in enumerate(angle)
        ]
        objectives = [ObjectiveRecord(name, "optimize", True, 0.0, 1.0, (0.0, 1.0)) for name in ("tone", "brevity")]
        record = FrontRecord(objectives, rows, reference=[0.0, 0.0], config={"reading": "place"}, split="report")
        with tempfile.TemporaryDirectory() as folder:
            write_front(folder, record, _adapter)
            row = {"members": n, "load_s": seconds(ParetoFront.load, folder)}
            loaded = ParetoFront.load(folder)
        loaded.summary(), loaded.plot()  # what is imported is not counted
        row["select_s"] = seconds(loaded.select, [0.3, 0.7])
        row["print_s"] = seconds(str, loaded)
        row["plot_s"] = seconds(lambda front: front.plot().savefig(io.BytesIO()), loaded)
        found.append(row)
    return found


def _adapter(name: str, folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(bytes(64))


def fits(count: int) -> list[Row]:
    """Fits of two steps by two policies on a tiny model, one after the other in one process."""
    from peft import LoraConfig

    from pareto_align.testing.problems import get_problem

    problem = get_problem("noisy", V=8, hidden_size=16)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("ignore", ParetoAlignWarning)
        before = 0
        took = 0.0
        for mark in (count // 8, count // 4, count // 2, count):
            took = 0.0
            for i in range(before, mark):
                aligner = ParetoAligner(
                    problem.model(),
                    problem.objectives(),
                    tokenizer=problem.tokenizer(),
                    lora=LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
                    population=2,
                    steps=2,
                    eval_every=2,
                    remeasure_rounds=0,
                    prompts_per_step=1,
                    group_size=2,
                    max_new_tokens=problem.T,
                    output_dir=Path(folder) / str(i),
                    progress=False,
                    device="cpu",
                )
                took += seconds(aligner.fit, list(problem.prompts))
            found.append({"fits": mark, "fit_s": took / max(mark - before, 1), "resident_mib": resident()})
            before = mark
    return found


MEASURES: dict[str, tuple[Callable[[int], list[Row]], int, int]] = {
    "archive": (archive, OFFERS, 400),
    "journal": (journal, LINES, 400),
    "front": (front, MEMBERS, 16),
    "fits": (fits, FITS, 8),
}
"""What is measured: how, how much of it, and how much in a smoke test."""


def exponent(sizes: list[float], costs: list[float]) -> float:
    """The power of the size that the cost grows with, between the first and the last."""
    return float(np.log(costs[-1] / costs[0]) / np.log(sizes[-1] / sizes[0]))


def page(results: dict[str, Any]) -> str:
    """README.md, from the results."""
    told = results["measured"]
    lines = (HERE / "question.md").read_text(encoding="utf-8").rstrip("\n").splitlines()
    for name, columns in COLUMNS.items():
        lines += ["", f"**{name.capitalize()}.**", ""]
        lines += ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_shown(row[key]) for key in columns) + " |" for row in told[name]]
        lines += ["", *_growth(name, told[name])]
    return "\n".join([*lines, "", f"Machine: {results['machine']}."]) + "\n"


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


COLUMNS = {
    "archive": {"m": "m", "entries": "entries", "competing": "of them competing", "members": "members",
                "ms": f"ms an offer, mean of the last {WINDOW}", "seconds": "s in all"},
    "journal": {"lines": "lines", "write_us": "us to write one more", "read_s": "s to read all"},
    "front": {"members": "members", "load_s": "s to load", "select_s": "s to select", "print_s": "s to print",
              "plot_s": "s to plot"},
    "fits": {"fits": "fits so far", "fit_s": "s a fit since the last row", "resident_mib": "MiB held"},
}  # fmt: skip


def _growth(name: str, rows: list[Row]) -> list[str]:
    if name == "archive":
        told = []
        for m in (2, 8):
            own = [row for row in rows if row["m"] == m]
            power = exponent([r["entries"] for r in own], [r["seconds"] for r in own])
            told.append(f"{power:.2f} for m = {m}")
        return [
            f"The time of all offers together grows with the number of offers to the power of {' and '.join(told)}."
        ]
    size, *costs = COLUMNS[name]
    powers = [(COLUMNS[name][cost], exponent([r[size] for r in rows], [r[cost] for r in rows])) for cost in costs]
    return ["Growth, as a power of the number: " + ", ".join(f"{text} {power:.2f}" for text, power in powers) + "."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MEASURES, help="measure this alone and keep the rest")
    parser.add_argument("--page", action="store_true", help="write README.md from results.json")
    parser.add_argument("--smoke", action="store_true", help="small numbers; print, and write nothing")
    arguments = parser.parse_args()
    file = HERE / "results.json"
    measured: dict[str, list[Row]] = {}
    for name, (measure, whole, few) in MEASURES.items():
        if arguments.page or arguments.only not in (None, name):
            continue
        measured[name] = measure(few if arguments.smoke else whole)
        print(name, *measured[name], sep="\n  ", flush=True)
    if arguments.smoke:
        return
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"measured": {}}
    results["measured"] |= measured
    results["machine"] = f"{platform.machine()}, python {platform.python_version()}, one thread"
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if results["measured"].keys() == MEASURES.keys():
        (HERE / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
