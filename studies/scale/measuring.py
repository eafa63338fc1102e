"""What a shard-step costs beside its work, how busy workers are, and what is left of a run whose workers die.

Runs of a tiny Llama that is saved in a folder, so that workers can load it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import signal
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from simulation import Assumed, seconds

from pareto_align import Objective, ParetoAligner
from pareto_align.backends.ray import Ray
from pareto_align.runs.journal import read_journal
from pareto_align.testing.tiny import symbol_tokenizer

SYMBOLS, PROMPTS = 24, 8
CLOCK = ("time", "seconds", "reward_seconds")
FAMILY: dict[str, Any] = {"family": {"name": "gates", "shared": 4, "each": 4}}
KINDS: dict[str, dict[str, Any]] = {"independent": {"weighting": "mgda", "kl_coef": 0.05}, "family": FAMILY}


def first(completions: list[str], **_: Any) -> list[float]:
    return [sum(symbol in "abcdefgh" for symbol in text) / 16 for text in completions]


def second(completions: list[str], **_: Any) -> list[float]:
    return [sum(symbol in "ghijklmn" for symbol in text) / 16 for text in completions]


def saved_model(folder: Path, *, width: int = 64, layers: int = 2) -> str:
    """A random model and its tokenizer in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SYMBOLS + 3 + PROMPTS, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1,
        pad_token_id=SYMBOLS, bos_token_id=SYMBOLS + 1, eos_token_id=SYMBOLS + 2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    symbol_tokenizer(SYMBOLS, PROMPTS).save_pretrained(folder)
    return str(folder)


def aligner(model: str, **settings: Any) -> ParetoAligner:
    """Four policies in two shards."""
    from peft import LoraConfig

    usual: dict[str, Any] = {
        "population": 4, "shard_size": 2, "steps": 6, "eval_every": 3, "prompts_per_step": 4, "group_size": 4,
        "max_new_tokens": 16, "eval_prompts": 8, "learning_rate": 1e-2, "device": "cpu", "dtype": "float32",
        "progress": False, "use_chat_template": False,
        "lora": LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    }  # fmt: skip
    objectives = [Objective("first", first, bounds=(0, 1)), Objective("second", second, bounds=(0, 1))]
    return ParetoAligner(model, objectives, **{**usual, **settings})


def texts() -> list[str]:
    return [f"<{n % PROMPTS}>{'abcdefgh'[: n % 7]}{'mn'[: n % 3]}" for n in range(32)]


def bytes_of(run: Path) -> str:
    """SHA-256 of the front folder, and of the journal without its clocks."""
    digest = hashlib.sha256()
    for path in sorted(path for path in (run / "front").rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(run)).encode() + path.read_bytes())
    for event in read_journal(run / "journal.jsonl"):
        digest.update(json.dumps({k: v for k, v in event.items() if k not in CLOCK}).encode())
    return digest.hexdigest()


@contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """A Ray cluster on this machine."""
    import logging

    import ray

    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
             object_store_memory=200 * 2**20)  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def overhead(model: str, steps: int) -> dict[str, float]:
    """What stands between the loop and the learner in one process: its share of a step, by CPU time."""
    from pareto_align.discovery.shards import Shards
    from pareto_align.learning.online import OnlineLearner

    took = {"shards": 0.0, "learner": 0.0}

    def timed(kind: type, name: str, under: str) -> None:
        original = getattr(kind, name)

        def call(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return original(*given, **named)
            finally:
                took[under] += time.process_time() - start

        setattr(kind, name, call)
        restore.append((kind, name, original))

    restore: list[tuple[type, str, Any]] = []
    for name in ("collect", "gradients", "step"):
        timed(Shards, name, "shards")
        timed(OnlineLearner, name, "learner")
    try:
        settings = {"shard_size": None, "steps": steps + 2, "eval_every": 1000, **KINDS["independent"]}
        with aligner(model, **settings).by_hand(texts()) as discovery:
            for step in range(steps + 2):
                if step == 2:  # what is found out at first is not counted
                    took.update(shards=0.0, learner=0.0)
                    begun = time.process_time()
                discovery.tell(discovery.ask())
            whole = time.process_time() - begun
    finally:
        for kind, name, original in restore:
            setattr(kind, name, original)
    between = took["shards"] - took["learner"]
    return {"steps": steps, "step_ms": 1000 * whole / steps, "between_ms": 1000 * between / steps,
            "share": between / whole}  # fmt: skip


def driver(model: str, steps: int) -> list[dict[str, Any]]:
    """CPU time of the process of a run on two workers, a shard-step, without rewards and measuring."""
    settings = {"steps": steps + 4, "eval_every": 1000, "remeasure_rounds": 0, "max_new_tokens": 32, "group_size": 8,
                "prompts_per_step": 8, "population": 8, "shard_size": 4}  # fmt: skip
    found = []
    for weighting in ("chebyshev", "mgda"):
        backend = {"name": "ray", "workers": 2}
        with aligner(model, backend=backend, weighting=weighting, **settings).by_hand(texts()) as discovery:
            judged = _timed_judging(discovery.objectives)
            own = whole = 0.0
            begun = time.monotonic()
            for step in range(steps + 3):
                if step == 3:  # what is found out at first is not counted
                    begun, judged[0] = time.monotonic(), 0.0
                    own, whole = time.thread_time(), time.process_time()
                discovery.tell(discovery.ask())
            own, whole = time.thread_time() - own - judged[0], time.process_time() - whole - judged[0]
            each = 1000 / (steps * len(discovery.shards.slots))
            seconds = time.monotonic() - begun
            shards = len(discovery.shards.slots)
            resting = time.process_time()
            time.sleep(5)
            resting = (time.process_time() - resting) / 5
        found.append({"weighting": weighting, "steps": steps, "step_s": seconds / steps, "loop_ms": own * each,
                      "work_ms": (whole - resting * seconds) * each, "resting_ms_a_second": 1000 * resting,
                      "shards": shards})  # fmt: skip
    return found


def _timed_judging(objectives: Any) -> list[float]:
    """What rewards take from now on: CPU seconds of this thread."""
    took, original = [0.0], objectives.score

    def score(*given: Any, **named: Any) -> Any:
        start = time.thread_time()
        try:
            return original(*given, **named)
        finally:
            took[0] += time.thread_time() - start

    objectives.score = score
    return took


def pace(model: str, steps: int, workers: tuple[int, ...], **settings: Any) -> list[dict[str, Any]]:
    """Seconds a step of four shards in this process, and on workers of one thread each: medians. And what the
    simulation says of them that knows no more than how long the shards took in this process, and how many cores there
    are."""
    usual = {"eval_every": 1000, "group_size": 8, "prompts_per_step": 8, "max_new_tokens": 48, "population": 16,
             "shard_size": 4}  # fmt: skip
    usual.update(steps=steps + 4, **settings)
    shards, cores = usual["population"] // usual["shard_size"], os.cpu_count() or 1
    with _timed_shards() as took:
        one = _paces(aligner(model, **usual), steps, took)
    one_load = os.getloadavg()[0]
    work = np.array([[sum(calls) for calls in step.values()] for step in took[-steps:]])
    driver = max(one - float(np.median(work.sum(1))), 0.0)
    assumed = Assumed(
        sample=float(work.mean()), judge=0.0, train=0.0, measure=0.0, jitter=float(np.log(work).std()), spread=0.0,
        slow=0.0, hours=math.inf, message=driver / shards, offer=0.0,
    )  # fmt: skip
    found = []
    for count in workers:
        median = _paces(aligner(model, backend={"name": "ray", "workers": count}, **usual), steps)
        simulated = np.mean([
            seconds(count, assumed, shards=shards, cores=cores, steps=steps, seed=seed) for seed in range(20)
        ])  # fmt: skip
        found.append({
            "workers": count, "shards": shards, "cores": cores, "steps": steps, "one_s": one, "s": median,
            "efficiency": one / (min(count, cores) * median), "simulated_s": float(simulated),
            "shard_s": assumed.sample, "jitter": assumed.jitter, "driver_s": driver, "one_load": one_load,
            "load": os.getloadavg()[0],
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def _paces(begun: ParetoAligner, steps: int, took: list[Any] | None = None) -> float:
    """Median seconds of a step, without the first three; what shards take is noted by step."""
    found = []
    with begun.by_hand(texts()) as discovery:
        for _ in range(steps + 3):
            if took is not None:
                took.append(defaultdict(list))
            start = time.monotonic()
            discovery.tell(discovery.ask())
            found.append(time.monotonic() - start)
    return float(np.median(found[3:]))


@contextmanager
def _timed_shards() -> Iterator[list[dict[int, list[float]]]]:
    """Within this context seconds of the calls of each shard, in the last of what is in the list."""
    from pareto_align.discovery.hosting import Host

    took: list[dict[int, list[float]]] = []
    original = Host.call

    def call(self: Host, shard: int, method: str, arguments: Any) -> Any:
        start = time.monotonic()
        try:
            return original(self, shard, method, arguments)
        finally:
            if took:
                took[-1][shard].append(time.monotonic() - start)

    Host.call = call  # type: ignore[method-assign]
    try:
        yield took
    finally:
        Host.call = original  # type: ignore[method-assign]


def killed(model: str, folder: Path, kind: str, seed: int) -> dict[str, Any]:
    """A run on two workers, one of which is killed at a random moment of its steps: whether its bytes are the same."""
    settings = KINDS[kind]
    expected = folder / f"{kind}"
    if not expected.exists():
        _fit(aligner(model, output_dir=expected, **settings))
    drawn = random.Random(seed)
    victim, at, share = drawn.randrange(2), drawn.randrange(1, 6), drawn.random()
    run = folder / f"{kind}-{seed}"
    begun = aligner(model, output_dir=run, backend={"name": "ray", "workers": 2}, **settings)
    took: list[float] = []

    def strike() -> None:
        time.sleep(share * took[-1])
        assert isinstance(begun.backend, Ray)
        process = re.search(r"process (\d+)", begun.backend._staff.places[victim].where)
        assert process is not None
        os.kill(int(process[1]), signal.SIGKILL)

    def after(event: Any) -> None:
        if event["event"] == "step":
            took.append(event["seconds"])
            if event["step"] == at:
                threading.Thread(target=strike).start()

    begun.callbacks.append(after)
    told = _fit(begun)
    return {"kind": kind, "seed": seed, "worker": victim, "after": at, "lost": len(told),
            "same": bytes_of(run) == bytes_of(expected)}  # fmt: skip


def _fit(begun: ParetoAligner) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        begun.fit(texts())
    return [str(one.message) for one in told if "Lost worker" in str(one.message)]
