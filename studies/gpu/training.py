"""Stages 4 and 5: training by the size of a pass, growth with K, memory, masks; and whether a 7B model fits."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from decoding import step_ms
from harness import Bench, NotAvailable
from models import Shape, base_of, decode, learner_of, population_of, prompts_of, rollouts_of, shape_of, train

from pareto_align.policies.layers.attention import additive_mask
from pareto_align.policies.layers.packing import PackedAttention

PROMPT, LENGTH, GROUP = 256, 256, 8
GIB = 2**30


def train_stage(bench: Bench) -> None:
    """Tokens a second, memory and masks."""
    bench.try_to("tokens", lambda: _by_tokens(bench, "qwen-0.5b", bench.pick((4096, 16_384, 32_768), (64,))))
    bench.try_to("roofline", lambda: _by_tokens(bench, "qwen-1.5b", bench.pick((16_384,), (64,)), share=True))
    bench.try_to("growth", lambda: _growth(bench))
    bench.try_to("masks", lambda: _masks(bench))
    bench.try_to("kernels", lambda: _attention_kernels(bench))


def _lengths(bench: Bench) -> tuple[int, int, int]:
    return bench.pick((PROMPT, LENGTH, GROUP), (5, 4, 4))


def operations(shape: Shape, policies: int, prompts: int, prompt: int, group: int, length: int) -> float:
    """Floating-point operations of a step's matrix products, forward and backward through frozen weights.

    The head multiplies a third time: its logits are made on the way forward and its gradient formed there as well.
    """
    completions = policies * prompts * group * length
    tokens = policies * prompts * prompt + completions
    attended = policies * prompts * (group * length * (prompt + length / 2) + prompt**2 / 2)
    return (
        4 * tokens * shape.body
        + 4 * completions * shape.head
        + 3.5 * 4 * attended * shape.heads * shape.width * (shape.layers)
    )


def _by_tokens(bench: Bench, name: str, budgets: tuple[int, ...], *, share: bool = False) -> None:
    prompt, length, group = _lengths(bench)
    policies, shape = bench.pick(8, 2), shape_of(bench, name)
    population = population_of(base_of(bench, name), policies)
    prompts = prompts_of(prompt, bench.pick(4 if share else 2, 1))
    rollouts = rollouts_of(policies, prompts, group, length)
    learners = {str(tokens): learner_of(population, micro_batch_tokens=tokens) for tokens in budgets}
    variants = {tokens: lambda learner=learner: train(learner, rollouts) for tokens, learner in learners.items()}
    for tokens, seconds in bench.take_turns(variants).items():
        rates = [policies * len(prompts) * (prompt + group * length) / s for s in seconds]
        bench.median(f"{name}_{tokens}_tokens", rates, "tokens/s")
        if share:
            done = operations(shape, policies, len(prompts), prompt, group, length)
            shares = [done / s / (shape.tflops * 1e12) for s in seconds]
            bench.median(f"{name}_roofline_share", shares, f"of {shape.tflops:g} TFLOP/s")


def _growth(bench: Bench) -> None:
    """Decoding, training and memory for K policies of 8 rows each."""
    prompt, length, group = _lengths(bench)
    base = base_of(bench, "qwen-0.5b")
    steps: dict[int, float] = {}
    for policies in bench.pick((1, 2, 4, 8, 16, 32), (1, 2)):
        population = population_of(base, policies)
        try:
            readings = step_ms(bench, population, policies * 8, length=prompt)
            steps[policies] = bench.median(f"decode_{policies}", readings, "ms a step")
            rollouts, learner = rollouts_of(policies, prompts_of(prompt, 1), group, length), learner_of(population)
            found = bench.take_turns({"train": lambda learner=learner, rollouts=rollouts: train(learner, rollouts)}, 3)
            bench.median(f"train_{policies}", found["train"], "s a step")
            peak = bench.peak_bytes(
                lambda population=population: decode(population, prompts_of(prompt, 1), group, bench.pick(16, 2))
            )
            bench.say(f"peak_decode_{policies}", peak / GIB, "GiB")
        finally:
            population.close()
        bench.free()
    first, last = min(steps), max(steps)
    bench.say(f"decode_{last}_over_{first}", steps[last] / steps[first], "x the time")


@contextmanager
def converted_in_every_layer() -> Iterator[None]:
    """Boolean masks, as attention took them before: torch converts one in every layer and keeps it."""
    kept = PackedAttention.masks
    PackedAttention.masks = lambda self, repeats, dtype: self._seen()  # type: ignore[method-assign]
    try:
        yield
    finally:
        PackedAttention.masks = kept  # type: ignore[method-assign]


def _masks(bench: Bench) -> None:
    """What one mask for all layers saves, in memory and in time."""
    prompt, length, group = _lengths(bench)
    policies = bench.pick(8, 2)
    population = population_of(base_of(bench, "qwen-0.5b"), policies)
    prompts = [ids[: prompt - n] for n, ids in enumerate(prompts_of(prompt, 2))]
    rollouts = rollouts_of(policies, prompts, group, length)
    learner = learner_of(population, micro_batch_tokens=10**9)

    def converted() -> None:
        with converted_in_every_layer():
            train(learner, rollouts)

    once = bench.peak_bytes(lambda: train(learner, rollouts))
    bench.say("masks_saved_gib", (bench.peak_bytes(converted) - once) / GIB, "GiB")
    found = bench.take_turns({"once": lambda: train(learner, rollouts), "converted": converted})
    bench.median("masks_time", [a / b for a, b in zip(found["converted"], found["once"], strict=True)], "x the time")


def _attention_kernels(bench: Bench) -> None:
    """Which of torch's attention kernels take our shapes with a mask, and their times, there and back."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows, heads, repeats, width = bench.pick((64, 2, 7, 64), (2, 2, 2, 8))
    prompt, length, _ = _lengths(bench)
    make = {"device": bench.device, "dtype": bench.pick(torch.bfloat16, torch.float32), "requires_grad": True}
    query = torch.randn(rows, heads, repeats * length, width, **make)
    key, value = (torch.randn(rows, heads, prompt + length, width, **make) for _ in range(2))
    seen = torch.ones(length, prompt + length, dtype=torch.bool, device=bench.device).tril(prompt)[None, None]
    mask = additive_mask(seen, repeats, query.dtype)
    for backend in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH):

        def there_and_back(backend: SDPBackend = backend) -> None:
            with sdpa_kernel(backend):
                torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).sum().backward()

        try:
            found = bench.take_turns({"time": there_and_back})["time"]
        except RuntimeError as error:
            bench.say(f"kernel_{backend.name}", f"not available: {str(error)[:100]}")
        else:
            bench.median(f"kernel_{backend.name}", [1000 * s for s in found], "ms")


def seven_stage(bench: Bench) -> None:
    """One decoding step and one training step of eight policies on a 7B shape."""
    if bench.device.type == "cuda" and torch.cuda.get_device_properties(bench.device).total_memory < 60 * GIB:
        raise NotAvailable("the card has less than 60 GiB")
    prompt, length, group = _lengths(bench)
    policies = bench.pick(8, 2)
    population = population_of(base_of(bench, "qwen-7b"), policies)
    bench.say("decode_step", statistics.median(step_ms(bench, population, policies * 8, rounds=2)), "ms a step")
    rollouts = rollouts_of(policies, prompts_of(prompt, 1), group, length)
    learner = learner_of(population, micro_batch_tokens=32_768)
    peak = bench.peak_bytes(lambda: train(learner, rollouts))
    bench.say("train_step", bench.seconds(lambda: train(learner, rollouts)), "s")
    bench.say("peak_gib", peak / GIB, "GiB")
    bench.say("micro_batch_tokens_kept", learner.engine.rows.micro_batch_tokens, "tokens")
