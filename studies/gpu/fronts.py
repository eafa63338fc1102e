"""Stages 7 to 9: a front on the real model, a run that is killed and goes on, and evaluations in one batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from harness import Bench, NotAvailable
from models import Endless, base_of, decode, population_of, prompts_of

import pareto_align.demo as demo
from pareto_align.aligner import ParetoAligner
from pareto_align.errors import ParetoAlignWarning
from pareto_align.testing.problems import get_problem

HERE = Path(__file__).resolve().parent
PROMPTS = ["<0>"] * 16
CPU_RECORD = HERE.parent / "demo" / "results.json"


def real_model(bench: Bench) -> str:
    """The real model, where there is one.

    Raises:
        NotAvailable: There is none.
    """
    if bench.model is None:
        raise NotAvailable("no model: say --model, or bring one (README.md)")
    return bench.model


def front_stage(bench: Bench) -> None:
    """The demo's front on SmolLM2-135M-Instruct, as `pareto-align demo` fits it, loading included."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        folder = Path(scratch) / "run"
        if bench.smoke:
            warnings.simplefilter("ignore", ParetoAlignWarning)  # so small a run says that it is small
            aligner, prompts = tiny_aligner(folder, str(bench.device), deterministic=False), PROMPTS
        else:
            aligner = demo.demo_aligner(real_model(bench), output_dir=folder, device=str(bench.device), progress=False)
            prompts = demo.demo_prompts()
        start = time.monotonic()
        front = aligner.fit(prompts)
        bench.say("minutes", (time.monotonic() - start) / 60, "min")
        value, low, high = front.hypervolume(confidence=0.95)
        bench.say("hypervolume", value)
        bench.say("hypervolume_interval", [low, high])
        bench.say("members", len(front))
        bench.say("of_a_cpu", json.loads(CPU_RECORD.read_text(encoding="utf-8"))["default-0"]["hypervolume"][0])


def tiny_aligner(folder: Path, device: str, *, deterministic: bool) -> ParetoAligner:
    """A run of some seconds on a tiny model, in the deterministic mode where this version has one."""
    from inspect import signature

    problem = get_problem("arc", V=6, hidden_size=16)
    settings: dict[str, Any] = {"population": 3, "steps": 12, "eval_every": 4, "eval_group_size": 8, "seed": 0}
    if deterministic:
        if "deterministic" not in signature(ParetoAligner).parameters:
            raise NotAvailable("this version has no setting `deterministic`")
        settings["deterministic"] = True
    return ParetoAligner(
        problem.model(), problem.objectives(), tokenizer=problem.tokenizer(), output_dir=folder, device=device,
        max_new_tokens=1, prompts_per_step=2, group_size=6, use_chat_template=False, progress=False, **settings,
    )  # fmt: skip


def child(folder: Path, device: str, deterministic: bool, *, resume: bool) -> None:
    """What the killed process does: `run.py --child`."""
    aligner = tiny_aligner(folder, device, deterministic=deterministic)
    if resume:
        aligner.resume(folder)
    else:
        aligner.fit(PROMPTS)


def kill_stage(bench: Bench) -> None:
    """kill -9 in the middle of a run, resume, and compare bytes with a run that nobody killed."""
    # a CPU repeats its bits in any case
    ways = {"same_bytes": False} if bench.device.type == "cpu" else {"same_bytes": True, "same_bytes_default": False}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)  # so small a run says that it is small
        for name, deterministic in ways.items():
            folder = Path(scratch) / name
            bench.try_to(name, lambda n=name, f=folder, d=deterministic: bench.say(n, _killed(bench, f, d)))


def _killed(bench: Bench, scratch: Path, deterministic: bool) -> bool:
    whole, broken = scratch / "whole", scratch / "broken"
    tiny_aligner(whole, str(bench.device), deterministic=deterministic).fit(PROMPTS)
    command = [sys.executable, str(HERE / "run.py"), "--child", str(broken), "--device", str(bench.device)]
    command += ["--deterministic"] * deterministic
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        journal, until = broken / "journal.jsonl", time.monotonic() + bench.pick(bench.left, 60.0)
        while not (journal.exists() and journal.read_text(encoding="utf-8").count('"event": "step"') >= 5):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the run to be killed did not get as far as three steps")
            time.sleep(0.01)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
    bench.say("killed_in_the_middle", process.returncode == -signal.SIGKILL)
    tiny_aligner(broken, str(bench.device), deterministic=deterministic).resume(broken)
    return files_of(whole / "front") == files_of(broken / "front")


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of a front folder's adapters and of its record."""
    wanted = [file for file in folder.rglob("*") if file.suffix == ".safetensors" or file.name == "front.json"]
    if not wanted:
        raise RuntimeError(f"There is no front in {folder}.")
    return {str(file.relative_to(folder)): file.read_bytes() for file in wanted}


def evaluation_stage(bench: Bench) -> None:
    """64 prompts in one batch against four batches of 16; then what `bench` recommends."""
    population = population_of(base_of(bench, "smollm2"), bench.pick(5, 2))
    prompts, length = prompts_of(bench.pick(48, 4), bench.pick(64, 8)), bench.pick(64, 4)
    part = len(prompts) // 4

    def in_parts() -> None:
        for start in range(0, len(prompts), part):
            decode(population, prompts[start : start + part], 1, length)

    found = bench.take_turns({"one": lambda: decode(population, prompts, 1, length), "parts": in_parts})
    ratios = [a / b for a, b in zip(found["parts"], found["one"], strict=True)]
    bench.median("chunks_over_one", ratios, "x the time")
    population.close()
    bench.try_to("bench", lambda: _bench(bench))


def _bench(bench: Bench) -> None:
    """The micro-batch that `pareto-align bench` would record."""
    from dataclasses import asdict

    from pareto_align.bench.throughput import Workload, measure_throughput
    from pareto_align.policies.micro_batch import default_micro_batch

    base = base_of(bench, "smollm2")
    assert isinstance(base, Endless)
    small = {"populations": (1, 2), "prompts": 1, "group_size": 2, "prompt_tokens": 4, "max_new_tokens": 2}
    full = {"populations": (1, 8), "budgets": (4096, 16_384, 32_768)}
    found = measure_throughput(base, Workload(**bench.pick(full, {**small, "budgets": (64,), "repeats": 1})))
    bench.say("default_micro_batch", default_micro_batch(base), "tokens")
    bench.say("recommended_micro_batch", found.recommended_micro_batch, "tokens")
    bench.figures["bench"] = {"value": asdict(found), "unit": ""}
