"""How long a step takes where rewards take a second, with and without work meanwhile; and whether bytes are the same.

Judging waits and does not compute: a second for a call whatever its size (`latency`), as with requests that are sent at
the same time, or a second for the answers of a whole step in proportion to their number (`rate`), one call at a time.
Both only for answers that are trained on. The second objective is quick.
"""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import FAMILY, aligner, bytes_of, first, second, texts

from pareto_align import Objective, ParetoAligner
from pareto_align.objectives import ObjectiveSet
from pareto_align.runs.journal import read_journal

CASES: list[tuple[str, str, int, str, dict[str, Any]]] = [
    ("fixed", "latency", 4, "exact", {"weighting": "fixed"}),
    ("fixed", "latency", 8, "exact", {"weighting": "fixed"}),
    ("chebyshev", "latency", 8, "exact", {"weighting": "chebyshev"}),
    ("chebyshev", "latency", 8, "bounded", {"weighting": "chebyshev"}),
    ("chebyshev", "rate", 8, "exact", {"weighting": "chebyshev"}),
    ("family", "rate", 4, "exact", FAMILY),
]
"""What is weighted how, the judge, shards, the mode, settings."""
POPULATION, GROUP = 8, 4
COMPUTE_S = 1.2
"""Seconds of sampling and training that a step is to have, about the judge's own."""


def judges(kind: str, whole: int, seconds: float) -> Callable[..., Any]:
    """A reward that takes its time for answers that are trained on: `whole` in a step, or those of a shard."""
    trained = {whole // shards for shards in (1, 2, 4, 8)}

    async def latency(completions: list[str], **_: Any) -> list[float]:
        if len(completions) in trained:
            await asyncio.sleep(seconds)
        return first(completions)

    def rate(completions: list[str], **_: Any) -> list[float]:
        if len(completions) in trained:
            time.sleep(seconds * len(completions) / whole)
        return first(completions)

    return latency if kind == "latency" else rate


def judged(model: str, prompts: int, judge: Callable[..., Any], shards: int, **settings: Any) -> ParetoAligner:
    """A run with one slow objective."""
    usual = {
        "population": POPULATION, "shard_size": POPULATION // shards, "prompts_per_step": prompts, "group_size": GROUP,
        "max_new_tokens": 12, "eval_every": 1000, "eval_prompts": 5, "remeasure_rounds": 0, "family": "independent",
        "explorer": "grid",
    }  # fmt: skip
    if "family" in settings:
        usual["explorer"] = "everywhere"
    made = aligner(model, **{**usual, **settings})
    rewards = {"first": judge, "second": second}
    made.objectives = ObjectiveSet([Objective(name, one, bounds=(0, 1), rowwise=True) for name, one in rewards.items()])
    return made


def overlap(model: str, folder: Path, steps: int, seconds: float = 1.0) -> list[dict[str, Any]]:
    """By case, seconds a step without and with overlap: means of all steps but two at each end."""
    found = []
    for number, (name, kind, shards, mode, settings) in enumerate(CASES):
        prompts = _prompts(model, shards, settings, COMPUTE_S * seconds)
        took, computed, waited, hidden, runs = {}, 0.0, 0.0, 0.0, {}
        for overlapped in ("off", mode):
            run = folder / f"{number}-{overlapped}"
            whole = POPULATION * prompts * GROUP
            begun = judged(model, prompts, judges(kind, whole, seconds), shards, steps=steps, overlap=overlapped,
                           output_dir=run, **settings)  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                begun.fit(texts())
            kept = [event for event in read_journal(run / "journal.jsonl") if event["event"] == "step"][2:-2]
            took[overlapped] = sum(event["seconds"] for event in kept) / len(kept)
            waited = sum(event["reward_seconds"]["waited"] for event in kept) / len(kept)
            hidden = sum(event["reward_seconds"]["hidden"] for event in kept) / len(kept)
            if overlapped == "off":
                computed = took["off"] - waited
            runs[overlapped] = bytes_of(run)
        found.append({
            "weighting": name, "judge": kind, "shards": shards, "mode": mode, "steps": len(kept), "prompts": prompts,
            "compute_s": computed, "off_s": took["off"], "overlap_s": took[mode], "share": took[mode] / took["off"],
            "waited_s": waited, "hidden_s": hidden, "same": runs["off"] == runs[mode], "load": os.getloadavg()[0],
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def _prompts(model: str, shards: int, settings: dict[str, Any], seconds: float) -> int:
    """Prompts of a step with which sampling and training take about so long here."""
    few, took = 4, []
    with judged(model, few, first, shards, overlap="off", **settings).by_hand(texts()) as discovery:
        for _ in range(5):
            start = time.monotonic()
            discovery.tell(discovery.ask())
            took.append(time.monotonic() - start)
    return max(1, round(few * seconds / sorted(took[1:])[2]))
