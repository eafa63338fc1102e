"""How long a step takes where rewards take a second, with and without work meanwhile; and whether bytes are the same.

Judging waits and does not compute: a second for a call whatever its size (`latency`), as with requests that are sent at
the same time, or a second for the answers of a whole step in proportion to their number (`rate`), one call at a time.
Both only for answers that are trained on. The second objective is quick.

In `overlap` sampling and training are tiny, and filled up to a fixed time by waiting, as for an accelerator: the
figures are of the schedule, and not of how busy others keep this machine's cores. In `computing` they take that time.
"""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measuring import FAMILY, aligner, bytes_of, first, second, texts

from pareto_align import Objective, ParetoAligner
from pareto_align.objectives import ObjectiveSet
from pareto_align.runs.journal import read_journal

CASES: list[tuple[str, str, int, str, dict[str, Any]]] = [
    ("fixed", "latency", 8, "exact", {"weighting": "fixed"}),
    ("fixed", "latency", 4, "exact", {"weighting": "fixed"}),
    ("chebyshev", "latency", 8, "exact", {"weighting": "chebyshev"}),
    ("chebyshev", "latency", 8, "bounded", {"weighting": "chebyshev"}),
    ("chebyshev", "rate", 8, "exact", {"weighting": "chebyshev"}),
    ("family", "rate", 4, "exact", FAMILY),
]
"""What is weighted how, the judge, shards, the mode, settings."""
COMPUTING = [CASES[0], CASES[1], CASES[4]]
"""Those that are tried where shards compute all the time."""
POPULATION, PROMPTS, GROUP = 8, 1, 4
TOKENS = 16
"""Of an answer at most, where shards compute all the time."""
SAMPLING_S, TRAINING_S = 0.8, 0.4
"""Seconds of a step that all shards together take to sample and to train: about the judge's own."""


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


def judged(model: str, judge: Callable[..., Any], shards: int, **settings: Any) -> ParetoAligner:
    """A run with one slow objective."""
    usual = {
        "population": POPULATION, "shard_size": POPULATION // shards, "prompts_per_step": PROMPTS, "group_size": GROUP,
        "max_new_tokens": 4, "eval_every": 1000, "eval_prompts": 5, "remeasure_rounds": 0, "family": "independent",
        "explorer": "grid",
    }  # fmt: skip
    if "family" in settings:
        usual["explorer"] = "everywhere"
    made = aligner(model, **{**usual, **settings})
    rewards = {"first": judge, "second": second}
    made.objectives = ObjectiveSet([Objective(name, one, bounds=(0, 1), rowwise=True) for name, one in rewards.items()])
    return made


def overlap(model: str, folder: Path, steps: int, seconds: float = 1.0) -> list[dict[str, Any]]:
    """By case, seconds a step without and with overlap."""
    found = []
    for case in CASES:
        shards = case[2]
        with _filled_up({"collect": seconds * SAMPLING_S / shards, "step": seconds * TRAINING_S / shards}):
            found.append(_compared(model, folder / f"waiting-{len(found)}", case, steps, seconds, PROMPTS))
    return found


def computing(model: str, folder: Path, steps: int, seconds: float = 1.0) -> list[dict[str, Any]]:
    """The same on a core that computes: a step has as many prompts as it takes."""
    prompts = _prompts(model, seconds * (SAMPLING_S + TRAINING_S))
    return [
        _compared(model, folder / f"computing-{n}", case, steps, seconds, prompts, max_new_tokens=TOKENS)
        | {"prompts": prompts, "tokens": TOKENS}
        for n, case in enumerate(COMPUTING)
    ]


def _prompts(model: str, lasts: float) -> int:
    """Of a step that is to last so many seconds without rewards, from steps of 2 and of 8."""
    chosen = {"weighting": "fixed", "overlap": "off", "steps": 6, "max_new_tokens": TOKENS}
    medians = {}
    for prompts in (2, 8):
        took = []
        with judged(model, first, COMPUTING[0][2], prompts_per_step=prompts, **chosen).by_hand(texts()) as discovery:
            for _ in range(5):
                start = time.monotonic()
                discovery.tell(discovery.ask())
                took.append(time.monotonic() - start)
        medians[prompts] = sorted(took)[2]
    each = (medians[8] - medians[2]) / 6
    found = min(max(round(2 + (lasts - medians[2]) / each), 1), 16) if each > 0 else 8
    return found + (found % 5 == 0)  # answers to a multiple of five prompts are taken for those of a measurement


def _compared(
    model: str,
    folder: Path,
    case: tuple[str, str, int, str, dict[str, Any]],
    steps: int,
    seconds: float,
    prompts: int,
    **more: Any,
) -> dict[str, Any]:
    """A case without and with overlap."""
    name, kind, shards, mode, settings = case
    judge = judges(kind, POPULATION * prompts * GROUP, seconds)
    settings = {**settings, **more, "prompts_per_step": prompts}
    runs = [folder / overlapped for overlapped in ("off", mode)]
    off, on = (
        _run(judged(model, judge, shards, steps=steps, overlap=run.name, output_dir=run, **settings)) for run in runs
    )
    found = {
        "weighting": name, "judge": kind, "shards": shards, "mode": mode, "steps": steps - 4,
        "compute_s": off["s"] - off["waited"], "off_s": off["s"], "overlap_s": on["s"], "share": on["s"] / off["s"],
        "waited_s": on["waited"], "hidden_s": on["hidden"], "same": bytes_of(runs[0]) == bytes_of(runs[1]),
        "load": os.getloadavg()[0],
    }  # fmt: skip
    print(found, flush=True)
    return found


@contextmanager
def _filled_up(lasts: dict[str, float]) -> Iterator[None]:
    """Within this context a shard waits at the end of what it does until that has lasted so many seconds."""
    from pareto_align.discovery.hosting import Shard

    def timed(method: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(shard: Any, *arguments: Any) -> Any:
            until = time.monotonic() + lasts[method]
            found = original(shard, *arguments)
            time.sleep(max(until - time.monotonic(), 0.0))
            return found

        return call

    before = {method: getattr(Shard, method) for method in lasts}
    for method, original in before.items():
        setattr(Shard, method, timed(method, original))
    try:
        yield
    finally:
        for method, original in before.items():
            setattr(Shard, method, original)


def _run(begun: ParetoAligner) -> dict[str, float]:
    """Fit; seconds a step, and those of its rewards: means of all steps but two at each end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begun.fit(texts())
    assert begun.output_dir is not None
    events = read_journal(Path(begun.output_dir) / "journal.jsonl")
    kept = [event for event in events if event["event"] == "step"][2:-2]
    told = [{"s": event["seconds"], **event["reward_seconds"]} for event in kept]
    return {name: sum(one[name] for one in told) / len(told) for name in told[0]}
