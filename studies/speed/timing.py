"""Taking turns at the clock: variants run A B A B ..., a ratio is formed within each round."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("pareto-align", "torch", "transformers", "peft", "trl", "accelerate", "numpy")

Reading = dict[str, float]
"""What one run of one variant gave: `seconds`, and whatever else the variant counted (`tokens`, say)."""

Variant = Callable[[], Reading | None]
"""Runs once; may give its own `seconds`, else the whole call is timed."""


def once(variant: Variant) -> Reading:
    """Run a variant by the clock, with the garbage of the one before it swept out first."""
    gc.collect()
    start = time.perf_counter()
    found = variant() or {}
    seconds = time.perf_counter() - start
    return {"seconds": seconds, **found}


def alternate(
    variants: Mapping[str, Variant], rounds: int, warm_up: Callable[[], object] | None = None
) -> dict[str, list[Reading]]:
    """Readings of every variant, one a round, the variants taking turns.

    The same matrix product can differ by 2 and more between two minutes of one machine; within a round it rarely does.

    Args:
        variants: What to run, in this order within each round.
        rounds: How often.
        warm_up: Runs first, untimed; by default every variant once.
    """
    if warm_up is not None:
        warm_up()
    else:
        for variant in variants.values():
            variant()
    readings: dict[str, list[Reading]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            readings[name].append(once(variant))
    return readings


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def side(
    label: str, readings: Sequence[Reading], unit: str, *, key: str = "seconds", per: float = 1.0
) -> dict[str, Any]:
    """One side of a ratio: the median in its unit, and tokens per second where tokens were counted.

    Args:
        label: What was run.
        readings: Its rounds.
        unit: Of `key` divided by `per`.
        key: Which number of the readings.
        per: Policies (or whatever else) that share it.
    """
    found: dict[str, Any] = {"label": label, "unit": unit, **spread([r[key] / per for r in readings])}
    counted = "tokens" if key == "seconds" else f"{key}_tokens"
    if all(counted in r for r in readings):
        found["tokens_per_second"] = statistics.median(r[counted] / r[key] for r in readings)
    return found


def figure(over: dict[str, Any], under: dict[str, Any], ratios: Sequence[float]) -> dict[str, Any]:
    """A ratio `over / under` with its rounds and both sides."""
    return {"ratio": spread(ratios), "rounds": list(ratios), "over": over, "under": under}


def compare(
    over: tuple[str, Sequence[Reading]],
    under: tuple[str, Sequence[Reading]],
    unit: str,
    *,
    key: str = "seconds",
    per: tuple[float, float] = (1.0, 1.0),
) -> dict[str, Any]:
    """The figure `over / under` of two variants that took turns.

    Args:
        over: Label and readings above the line.
        under: Label and readings below it.
        unit: Of one side's number.
        key: Which number of the readings.
        per: What each side's number is divided by first.
    """
    ratios = [(a[key] / per[0]) / (b[key] / per[1]) for a, b in zip(over[1], under[1], strict=True)]
    return figure(
        side(over[0], over[1], unit, key=key, per=per[0]), side(under[0], under[1], unit, key=key, per=per[1]), ratios
    )


def environment() -> dict[str, Any]:
    """What the figures depend on: the processor, the threads torch took by itself, the versions."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "bfloat16_instructions": sorted({"avx512_bf16", "amx_bf16", "bf16"} & _flags()),
        "memory_gib": round(_memory() / 2**30),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "date": date.today().isoformat(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo(field: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == field), None)


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _flags() -> set[str]:
    return set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def clocked(trainer: Any, between: Callable[[int], object], more: Callable[[], Reading] = dict) -> list[Reading]:
    """The optimizer steps of one of transformers' trainers by the clock.

    Args:
        trainer: About to train.
        between: Called with the step's number while the clock is stopped.
        more: What else is read of a step.
    """
    from transformers import PrinterCallback, TrainerCallback

    readings: list[Reading] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = time.perf_counter() - self.start
            readings.append({"seconds": seconds, **more()})
            between(len(readings) - 1)
            self.start = time.perf_counter()

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    threads = torch.get_num_threads()
    trainer.train()
    if torch.get_num_threads() != threads:
        raise RuntimeError(f"The trainer changed torch's threads from {threads} to {torch.get_num_threads()}.")
    return readings
