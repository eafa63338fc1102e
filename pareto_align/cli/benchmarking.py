"""How fast populations sample and train on the user's own model and machine, and what to set for a fit."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pareto_align.cli.output import say
from pareto_align.distributions import is_asked_of_hub
from pareto_align.errors import ConfigError

if TYPE_CHECKING:
    from pareto_align.bench.speeds import Throughput

__all__ = ["bench"]


def bench(arguments: argparse.Namespace) -> None:
    """Measure, print the tables and the recommendation, and record the micro-batch for later fits.

    Raises:
        ConfigError: A number is out of range, or the file of `--json` has no folder to lie in.
        ModelError: The model cannot be loaded, cannot carry a population, or does not fit on the device.
    """
    file: Path | None = arguments.json
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise ConfigError(f"Cannot write {file}: --json takes a file in a folder that exists.")

    from pareto_align.bench.speeds import Workload
    from pareto_align.bench.throughput import measure_throughput
    from pareto_align.policies.base import load_base
    from pareto_align.policies.micro_batch import record_micro_batch

    workload = Workload(
        populations=tuple(arguments.population),
        prompts=arguments.prompts,
        group_size=arguments.group_size,
        prompt_tokens=arguments.prompt_tokens,
        max_new_tokens=arguments.max_new_tokens,
        r=arguments.r,
        targets=None if arguments.targets is None else tuple(arguments.targets),
        budgets=tuple(arguments.budgets),
        repeats=arguments.repeats,
    )
    if is_asked_of_hub(arguments.model):
        say(f"Loading {arguments.model}, which the Hugging Face Hub is asked for ...", to=sys.stderr)
    base = load_base(
        arguments.model, device=arguments.device, dtype=arguments.dtype, quantization=arguments.quantization
    )
    person = sys.stderr.isatty()
    try:
        found = measure_throughput(base, workload, progress=_show if person else None)
    finally:
        if person:
            _show("")
    record = record_micro_batch(base, found.recommended_micro_batch)
    if file is not None:
        file.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    for line in _report(found):
        say(line)
    if record is None:
        say("It could not be recorded: set `micro_batch_tokens` yourself.")
    else:
        say(f"Recorded in {record}: a fit of this model on this machine takes it unless `micro_batch_tokens` is set.")


def _show(line: str) -> None:
    """A line that the next one replaces."""
    print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _report(found: Throughput) -> list[str]:
    """The text that a person reads."""
    load = found.workload
    first = found.populations[0]
    against = f"against K={first.population}"
    header = ["K", "sampling tokens/s", against, f"training tokens/s ({found.layout})", against, "memory"]
    rows = [
        [
            str(speed.population),
            _rate(speed.sampling_rate),
            f"{speed.sampling_rate / first.sampling_rate:.2f}x",
            _rate(speed.training_rate),
            f"{speed.training_rate / first.training_rate:.2f}x",
            "?" if speed.memory is None else _bytes(speed.memory),
        ]
        for speed in found.populations
    ]
    budgets = [
        [str(speed.micro_batch_tokens), str(speed.passes), str(speed.pass_tokens), _rate(speed.rate)]
        for speed in found.budgets
    ]
    largest = found.populations[-1].population
    return [
        f"{found.model or 'A model in memory'} on {found.device} ({found.processor}), {found.dtype}, "
        f"{found.threads} thread{'' if found.threads == 1 else 's'}",
        f"LoRA r = {load.r}, {found.parameters:,} parameters a policy. A step: {_some(load.prompts, 'prompt')} of "
        f"{_some(load.prompt_tokens, 'token')}, {_some(load.group_size, 'completion')} of "
        f"{_some(load.max_new_tokens, 'token')} each, a policy. Medians of {_some(load.repeats, 'round')}.",
        "",
        *_table(header, rows),
        "",
        f"Tokens are completion tokens of all K policies together; `{against}` is how many times cheaper that makes "
        "each policy's.",
        f"Memory: {found.memory_meaning}.",
        "",
        f"Training at K = {largest}, by micro-batch budget:",
        *_table(["budget", "passes", "tokens of a pass", "training tokens/s"], budgets),
        "",
        *[f"{variant} did not fit on {found.device}." for variant in found.did_not_fit],
        _about_population(found),
        _about_micro_batch(found),
    ]


def _about_population(found: Throughput) -> str:
    """The recommended population and how it was chosen, in one sentence."""
    first, chosen, another = found.populations[0], found.recommended, found.another_costs
    share = f"{chosen.price / first.price:.2f} of one at K = {first.population}"
    if len(found.populations) == 1:
        return f"population: {chosen.population}, the only one measured."
    if another is None:
        return (
            f"population: {chosen.population} or more, as a policy costs {share} and the price per policy still fell "
            "by over 10 % at the largest K measured; compare larger --population to learn more."
        )
    return (
        f"population: {chosen.population}, the smallest K whose seconds per policy are within 10 % of the least: a "
        f"policy costs {share} there, and each one more costs {another:.2f} of that."
    )


def _about_micro_batch(found: Throughput) -> str:
    """The recommended micro-batch and how it was chosen, in one sentence."""
    budget, tokens = found.recommended_budget.micro_batch_tokens, found.recommended_micro_batch
    text = f"micro_batch_tokens: {tokens}, "
    if len({(speed.passes, speed.pass_tokens) for speed in found.budgets}) == 1:
        return f"{text}as all budgets came to the same passes; compare larger --budgets to learn more."
    if tokens > budget:
        return f"{text}the smallest pass possible, which a budget of {budget} comes to; it is within 5 % of the best."
    return f"{text}the smallest budget within 5 % of the best throughput."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the columns aligned on the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
