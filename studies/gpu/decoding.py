"""Stages 2 and 3: the time of a decoding step by its rows, what the host and the device do in it, and graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from harness import Bench, NotAvailable
from models import base_of, decode, population_of, prompts_of, use

from pareto_align.policies import PolicyPopulation
from pareto_align.policies.layers.attention import no_mask

LONG, SHORT = 40, 8  # new tokens of two calls; what differs is decoding steps alone


def step_ms(bench: Bench, population: PolicyPopulation, rows: int, length: int = 128, rounds: int = 3) -> list[float]:
    """Milliseconds of one decoding step of some rows of each of two prompts a policy, one reading a round."""
    group = max(1, rows // population.size // 2)
    prompts = prompts_of(bench.pick(length, 4), 2 if rows > population.size else 1)
    long, short = bench.pick((LONG, SHORT), (4, 2))
    found = bench.take_turns(
        {
            "long": lambda: decode(population, prompts, group, long),
            "short": lambda: decode(population, prompts, group, short),
        },
        rounds,
    )
    return [1000 * (a - b) / (long - short) for a, b in zip(found["long"], found["short"], strict=True)]


def decode_stage(bench: Bench) -> None:
    """Is a step bound by launching its kernels? Then its time does not depend on its rows."""
    for name in bench.pick(("qwen-0.5b", "smollm2", "qwen-1.5b"), ("smollm2",)):
        bench.try_to(name, lambda name=name: _by_rows(bench, name))


def _by_rows(bench: Bench, name: str) -> None:
    population = population_of(base_of(bench, name), bench.pick(8, 2))
    if hasattr(population, "sampler"):
        population.sampler = "eager"
    for rows in bench.pick((8, 64, 512, 1024), (2, 4)):
        bench.median(f"{name}_{rows}_rows", step_ms(bench, population, rows), "ms a step")
    if name == bench.pick("qwen-0.5b", "smollm2"):
        bench.try_to("waits", lambda: _waits(bench, population))
        bench.try_to("profile", lambda: _profile(bench, population))


def _waits(bench: Bench, population: PolicyPopulation) -> None:
    """How often the host waits for the device in one call of 32 steps."""
    if bench.device.type != "cuda":
        raise NotAvailable("only CUDA tells")
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            decode(population, prompts_of(128, 2), 4, 32)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    bench.say("waits_of_32_steps", sum("synchroniz" in str(w.message) for w in seen), "waits")


def _profile(bench: Bench, population: PolicyPopulation) -> None:
    """Kernels of a step, and the share of the time that the device is busy, at 64 rows."""
    if bench.device.type != "cuda":
        raise NotAvailable("only CUDA has kernels to count")
    from torch.profiler import ProfilerActivity, profile

    counts, busy, seconds = [], [], []
    for length in (SHORT, SHORT + 8):

        def call(length: int = length) -> None:
            decode(population, prompts_of(128, 2), 4, length)

        call()
        seconds.append(bench.seconds(call))
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            call()
            bench.wait()
        kernels = [event for event in trace.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        counts.append(len(kernels))
        busy.append(sum(event.device_time for event in kernels) / 1e6)
    bench.say("kernels_a_step", (counts[1] - counts[0]) / 8, "kernels")
    bench.say("busy_share", (busy[1] - busy[0]) / max(1e-9, seconds[1] - seconds[0]), "of a step's time")


def graphs_stage(bench: Bench) -> None:
    """What capturing a step gives."""
    bench.try_to("probe", lambda: _probe(bench))
    for name, rows in bench.pick(
        (("qwen-0.5b", 64), ("qwen-0.5b", 512), ("smollm2", 64), ("qwen-1.5b", 64)), (("smollm2", 4),)
    ):
        figure = f"{name}_{rows}_rows"
        bench.try_to(figure, lambda name=name, rows=rows, figure=figure: _graphs(bench, name, rows, figure))


def _probe(bench: Bench) -> None:
    """One token of each of 64 rows without a cache, launched kernel by kernel and replayed as one graph."""
    if bench.device.type != "cuda":
        raise NotAvailable("only CUDA has graphs")
    population = population_of(base_of(bench, "qwen-0.5b"), 8)
    ids = torch.zeros(64, 1, dtype=torch.long, device=bench.device)
    places = torch.zeros(64, 1, dtype=torch.long, device=bench.device)
    mask = no_mask(bench.device)  # without one transformers looks at the places, for which no capture can wait

    def forward() -> torch.Tensor:
        found = population.head.decoder(input_ids=ids, position_ids=places, attention_mask=mask, use_cache=False)
        return population.head.logits(found.last_hidden_state[:, -1])

    with population.serving(), torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            forward()
        found = bench.take_turns({"eager": _often(forward), "graph": _often(graph.replay)})
    ratios = [a / b for a, b in zip(found["eager"], found["graph"], strict=True)]
    bench.median("probe", ratios, "x faster")
    bench.say("probe_graph_ms", 1000 * min(found["graph"]) / 10, "ms a step")


def _often(call: Callable[[], object]) -> Callable[[], None]:
    def ten_times() -> None:
        for _ in range(10):
            call()

    return ten_times


def _graphs(bench: Bench, name: str, rows: int, figure: str) -> None:
    """The package's own samplers, one after the other in each round; the tokens in float32 where they are tried."""
    population = population_of(base_of(bench, name), bench.pick(8, 2))
    use(population, sampler="graphs")
    readings: dict[str, list[float]] = {"eager": [], "graphs": []}
    for _ in range(bench.pick(3, 1)):
        for sampler in readings:
            use(population, sampler=sampler)
            readings[sampler] += step_ms(bench, population, rows, rounds=1)
    bench.median(figure, [a / b for a, b in zip(readings["eager"], readings["graphs"], strict=True)], "x faster")
    bench.median(f"{figure}_ms", readings["graphs"], "ms a step")
    population.close()
    if "same_tokens" not in bench.figures:
        exact = population_of(base_of(bench, name, torch.float32), 2)
        tokens = {}
        for sampler in readings:
            use(exact, sampler=sampler)
            tokens[sampler] = decode(exact, prompts_of(bench.pick(32, 4), 2), 4, bench.pick(32, 4)).tokens
        bench.say("same_tokens", bool(torch.equal(tokens["eager"], tokens["graphs"])))
