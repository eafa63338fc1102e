"""Stages 0 and 1: what the machine is, and whether the package is right on it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from harness import Bench, NotAvailable
from models import base_of, decode, learner_of, population_of, prompts_of, rollouts_of, train, use

from pareto_align.policies.logprobs import completion_logprobs

ROOT = Path(__file__).resolve().parents[2]


def machine_stage(bench: Bench) -> None:
    """How fast the card copies and multiplies, and whether the engine's own tests pass on it."""
    for part in (_product, _copy, _tests):
        bench.try_to(part.__name__.strip("_"), lambda part=part: part(bench))


def _product(bench: Bench) -> None:
    size, dtype = bench.pick(8192, 64), bench.pick(torch.bfloat16, torch.float32)
    a, b = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))
    found = bench.take_turns({"product": lambda: a @ b}, rounds=5)["product"]
    bench.median("product_8192", [2 * size**3 / s / 1e12 for s in found], "TFLOP/s")


def _copy(bench: Bench) -> None:
    source = torch.zeros(bench.pick(2**31, 2**16), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    found = bench.take_turns({"copy": lambda: target.copy_(source)}, rounds=5)["copy"]
    bench.median("copy_bandwidth", [2 * len(source) / s / 1e12 for s in found], "TB/s read and written")


def _tests(bench: Bench) -> None:
    try:
        import pytest  # noqa: F401
    except ImportError:
        raise NotAvailable("pytest is not installed") from None
    chosen = "cuda" if bench.device.type == "cuda" else "leaks and cpu-float32"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    start = time.monotonic()
    try:
        done = subprocess.run(
            [*command, "tests/policies/test_devices.py"],
            cwd=ROOT, capture_output=True, text=True, timeout=min(60, max(10, bench.left - 5)), check=False,
        )  # fmt: skip
        lines = done.stdout.strip().splitlines() or [done.stderr[-300:]]
        bench.say("tests_of_the_engine", lines[-1])
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        if failed:
            bench.say("tests_that_failed", "; ".join(failed)[:2000])
    except subprocess.TimeoutExpired as error:
        shown = (error.stdout or b"").decode()[-300:]
        bench.say("tests_of_the_engine", f"stopped after {time.monotonic() - start:.0f} s: {shown}")


def correctness_stage(bench: Bench) -> None:
    """The package's promises, on this device."""
    torch.backends.cuda.matmul.allow_tf32 = False
    for part in (_alone, _learning, _sampled, _bfloat16, _repeated):
        bench.try_to(part.__name__.strip("_"), lambda part=part: part(bench))


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _setting(bench: Bench) -> tuple[list[list[int]], int, int, int]:
    """Prompts, K, G and T."""
    return prompts_of(bench.pick(32, 5), 2), bench.pick(8, 3), 4, bench.pick(32, 4)


def _alone(bench: Bench) -> None:
    """A policy among others has the log-probabilities that it has alone."""
    prompts, policies, group, length = _setting(bench)
    population = population_of(base_of(bench, "smollm2", torch.float32), policies)
    done = rollouts_of(policies, prompts, group, length).completions

    def logprobs(which: slice) -> torch.Tensor:
        with population.serving(population.parameters[which]):
            return completion_logprobs(population, prompts, done.tokens[which], done.mask[which], packed=True).cpu()

    together = logprobs(slice(0, policies))
    worst = max(_error(together[k : k + 1], logprobs(slice(k, k + 1))) for k in range(policies))
    bench.say("alone_and_together_float32", worst, "relative error")


def _learning(bench: Bench) -> None:
    """Nothing leaks, both layouts agree, and one pass gives every objective's gradient."""
    prompts, policies, group, length = _setting(bench)
    population = population_of(base_of(bench, "smollm2", torch.float32), policies)
    rollouts = rollouts_of(policies, prompts, group, length)
    gradients = {}
    for layout in ("packed", "dense"):
        train(learner_of(population, layout=layout, max_norm=None), rollouts, 0.0)
        gradients[layout] = population.grad.clone()
    bench.say("packed_and_dense_gradients", _error(gradients["packed"], gradients["dense"]), "relative error")
    learner = learner_of(population, max_norm=None)
    found = learner.gradients(rollouts)
    singles = []
    for i in range(2):
        learner.step(rollouts, np.eye(2)[[i] * policies], 0.0)
        singles.append(-population.grad.clone())
    singles = torch.stack(singles, 1)
    gramians = torch.einsum("kip,kjp->kij", singles.double(), singles.double()).cpu()
    bench.say("gramians_and_single_passes", _error(torch.from_numpy(found.gramians), gramians), "relative error")
    rollouts.rewards[1:] = 0.0
    train(learner, rollouts, 0.0)
    bench.say("leak_between_policies", float(population.grad[1:].abs().max()), "largest entry")


def _sampled(bench: Bench) -> None:
    """Sampled tokens come with the log-probabilities that a plain forward pass gives them."""
    prompts, policies, group, length = _setting(bench)
    population = population_of(base_of(bench, "smollm2", torch.float32), policies)
    done = decode(population, prompts, group, length)
    with population.serving():
        again = completion_logprobs(population, prompts, done.tokens, done.mask, plain=True).cpu()
    gap = (again - done.logprobs)[done.mask].abs()
    bench.say("sampled_and_recomputed", float(gap.mean()), "nats a token")


def _bfloat16(bench: Bench) -> None:
    """bfloat16 against float32, on the same weights."""
    prompts, policies, group, length = _setting(bench)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        population = population_of(base_of(bench, "smollm2", dtype), policies)
        done = rollouts_of(policies, prompts, group, length).completions
        with population.serving():
            found[dtype] = completion_logprobs(population, prompts, done.tokens, done.mask, packed=True).cpu()
        population.close()
    bench.say("bfloat16_and_float32", _error(found[torch.bfloat16], found[torch.float32]), "relative error")


def _repeated(bench: Bench) -> None:
    """The same step twice: the same bits, by default and in the deterministic mode, and what that costs."""
    prompts, policies, group, length = _setting(bench)
    base = base_of(bench, "smollm2")

    def step(deterministic: bool) -> bytes:
        population = population_of(base, policies)
        try:
            if deterministic:
                use(population, deterministic=True)
            done = decode(population, prompts, group, length)
            rollouts = rollouts_of(policies, prompts, group, length)
            rollouts.completions = done
            train(learner_of(population), rollouts, 1e-4)
            return population.parameters.cpu().numpy().tobytes() + done.tokens.numpy().tobytes()
        finally:
            population.close()

    bench.say("same_bits_default", step(False) == step(False))
    bench.say("same_bits_deterministic", step(True) == step(True))
    found = bench.take_turns({"default": lambda: step(False), "deterministic": lambda: step(True)})
    ratios = [d / s for d, s in zip(found["deterministic"], found["default"], strict=True)]
    bench.median("deterministic_cost", ratios, "x the default's time")
