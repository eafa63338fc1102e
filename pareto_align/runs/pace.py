"""How far a run is, in the words that all ways of showing it share."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Pace", "duration", "hypervolume_text", "members_text", "sparkline"]

SPARKS = "▁▂▃▄▅▆▇█"


class Pace:
    """How far a run is, and when it will be done at the pace that it has had since it began or went on.

    Args:
        steps: Training steps of the run.

    Attributes:
        step: Steps made so far.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.step = 0
        self._begun = self._trained = time.monotonic()
        self._first = 0

    def note(self, event: Mapping[str, Any]) -> None:
        """Follow one event."""
        if event["event"] in ("start", "resumed"):
            self.step = self._first = int(event.get("step") or 0)
            self._trained = time.monotonic()
        elif event["event"] == "step":
            self.step = int(event["step"])

    def told(self) -> str:
        """Seconds so far, and the time that is left."""
        now = time.monotonic()
        text = duration(now - self._begun)
        if self._first < self.step < self.steps:
            each = (now - self._trained) / (self.step - self._first)
            text += f", about {duration(each * (self.steps - self.step))} left"
        return text


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def hypervolume_text(event: Mapping[str, Any]) -> str:
    """The hypervolume of an event with its 95 % interval; in a journal, NaN is None."""
    value, low, high = (event.get(f"hypervolume{part}") for part in ("", "_low", "_high"))
    if value is None:
        return "hypervolume not known"
    return f"hypervolume {value:.3f}" + ("" if low is None or high is None else f" ({low:.3f} to {high:.3f})")


def members_text(count: int) -> str:
    """How many members."""
    return f"{count} {'member' if count == 1 else 'members'}"


def sparkline(values: Sequence[float]) -> str:
    """Numbers as bars of eight heights, from the least to the largest of them; a space where one is NaN."""
    known = [v for v in values if math.isfinite(v)]
    low, reach = min(known, default=0.0), (max(known, default=0.0) - min(known, default=0.0)) or 1.0
    return "".join(" " if not math.isfinite(v) else SPARKS[min(int(8 * (v - low) / reach), 7)] for v in values)
