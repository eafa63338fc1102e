"""How stages are run: each within its seconds, each kept at once, none of them able to stop the others."""

from __future__ import annotations

import json
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from predictions import PREDICTED
from runs import rounded

LEAST_SECONDS = 5  # below this no stage is begun


class NotAvailable(Exception):
    """This machine, or this version of the package, does not have what a figure needs."""


@dataclass
class Bench:
    """Where the stages are run, and what they found.

    Attributes:
        out: The folder of the results.
        device: Where the models are.
        smoke: Tiny models and sizes.
        brought: The folder that `prepare.py` filled, if any.
        model: The real model: a folder, a `.gguf` file or a hub id; None where there is none.
        until: When the current stage should have ended, by `time.monotonic()`.
        figures: Of the current stage, by name.
    """

    out: Path
    device: torch.device
    smoke: bool = False
    brought: Path | None = None
    model: str | None = None
    until: float = float("inf")
    stage: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds that the current stage still has."""
        return self.until - time.monotonic()

    def pick(self, full: Any, smoke: Any) -> Any:
        """The first of two sizes, or in a trial the second."""
        return smoke if self.smoke else full

    def say(self, name: str, value: Any, unit: str = "", *, readings: Sequence[float] = ()) -> None:
        """Keep a figure and print it beside what was predicted.

        Args:
            name: Of the figure, unique within the stage.
            value: A number, a truth value or a text.
            unit: Of the number.
            readings: What `value` is the median of.
        """
        figure: dict[str, Any] = {"value": value, "unit": unit}
        if readings:
            figure |= {"least": min(readings), "greatest": max(readings), "rounds": len(readings)}
        text = f"{value:.5g}" if isinstance(value, float) else str(value)
        known = PREDICTED.get(f"{self.stage}.{name}")
        line = f"  {name}: {text} {unit}".rstrip()
        if known is not None:
            figure["predicted"] = known
            number = isinstance(value, int | float) and not isinstance(value, bool) and isinstance(known, int | float)
            ratio = f" = {value / known:.2f}x" if number and known else ""
            line += f" / {known} predicted{ratio}"
        self.figures[name] = figure
        print(line, flush=True)

    def median(self, name: str, readings: Sequence[float], unit: str) -> float:
        """Keep the median of some readings."""
        value = float(statistics.median(readings))
        self.say(name, value, unit, readings=readings)
        return value

    def try_to(self, what: str, call: Callable[[], Any]) -> Any:
        """A part of a stage; what it lacks or where it fails is kept, and the stage goes on."""
        if self.left < LEAST_SECONDS and not self.smoke:
            self.figures[what] = {"value": "no time left", "unit": ""}
            return None
        try:
            return call()
        except NotAvailable as error:
            self.say(what, f"not available: {error}")
        except Exception as error:
            self.figures[what] = {"value": "failed", "unit": "", "error": traceback.format_exc()[-2000:]}
            print(f"  {what}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        finally:
            self.free()
        return None

    def free(self) -> None:
        """Let go of memory that nobody uses."""
        import gc

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], Any]) -> float:
        """Until the device has done all of a call."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def take_turns(self, variants: dict[str, Callable[[], Any]], rounds: int = 3) -> dict[str, list[float]]:
        """Seconds of variants A B A B ..., after a warm-up of each: what else the machine does falls on all of them."""
        for call in variants.values():
            call()
        found: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(1 if self.smoke else rounds):
            for name, call in variants.items():
                found[name].append(self.seconds(call))
        return found

    def peak_bytes(self, call: Callable[[], Any]) -> int:
        """The most memory that is allocated during a call; 0 where the device does not say."""
        if self.device.type != "cuda":
            call()
            return 0
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self.wait()
        return int(torch.cuda.max_memory_allocated(self.device))


def run_stage(bench: Bench, name: str, seconds: float, stage: Callable[[Bench], None]) -> dict[str, Any]:
    """Run one stage and write its file, whatever happens in it.

    Returns:
        What the file holds.
    """
    print(f"{name} (at most {seconds:.0f} s)", flush=True)
    start = time.monotonic()
    bench.stage, bench.figures, bench.until = name.partition("-")[2], {}, start + seconds
    record: dict[str, Any] = {"stage": name, "status": "done"}
    try:
        stage(bench)
    except NotAvailable as error:
        record |= {"status": "not available", "why": str(error)}
        print(f"  not available: {error}", flush=True)
    except Exception as error:
        record |= {"status": "failed", "error": traceback.format_exc()[-4000:]}
        print(f"  failed: {type(error).__name__}: {str(error)[:300]}", flush=True)
    bench.free()
    record |= {"figures": bench.figures, "seconds": time.monotonic() - start, "machine": machine(bench.device)}
    return keep(bench.out, record)


def skip_stage(out: Path, name: str, why: str) -> dict[str, Any]:
    """Write the file of a stage that is not run."""
    print(f"{name}: skipped, {why}", flush=True)
    return keep(out, {"stage": name, "status": "skipped", "why": why, "figures": {}})


def keep(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write a stage's file."""
    out.mkdir(parents=True, exist_ok=True)
    record = rounded(record)
    (out / f"{record['stage']}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def machine(device: torch.device) -> dict[str, str]:
    """What the figures were taken on."""
    import transformers

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": name, "python": platform.python_version(), **versions}
