"""Is the winner better than what one began with? Pairs of fits on seeds that nothing was chosen on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pareto_align.front.estimates import student_quantile
from pareto_align.tuning.trials import Run

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """Hypervolumes of the tuned and of the default settings, pair by pair on the same seeds.

    Two fits of a seed share their prompts, their splits and the random numbers of their measurements, so their
    difference is less noisy than either of them.

    Attributes:
        seeds: The k seeds on which both settings came through.
        tuned: [k] hypervolumes with the tuned settings.
        default: [k] hypervolumes with the settings one began with.
        difference: Mean of tuned minus default; None without a pair.
        low: Lower end of its interval, that of the paired t-test; None with fewer than two pairs.
        high: Upper end.
        confidence: Of the interval.
        failed: What failed on which seed, in words.
        verdict: "better", "worse" or "not shown to be better"; tuned settings that failed on a seed are never "better".
    """

    seeds: tuple[int, ...]
    tuned: tuple[float, ...]
    default: tuple[float, ...]
    difference: float | None
    low: float | None
    high: float | None
    confidence: float
    failed: tuple[str, ...]
    verdict: str

    @classmethod
    def of(cls, tuned: Sequence[Run], default: Sequence[Run], confidence: float = 0.95) -> Comparison:
        """Compare fits [k] with tuned settings and fits [k] with default ones, pair by pair."""
        pairs = list(zip(tuned, default, strict=True))
        whole = [(a.seed, a.hypervolume, b.hypervolume) for a, b in pairs if None not in (a.hypervolume, b.hypervolume)]
        seeds, ours, theirs = (tuple(column) for column in zip(*whole, strict=True)) if whole else ((), (), ())
        difference = low = high = None
        if whole:
            gain = np.subtract(ours, theirs)
            difference = float(gain.mean())
            if len(gain) > 1:
                half = (
                    student_quantile((1 - confidence) / 2, len(gain)) * float(gain.std(ddof=1)) / math.sqrt(len(gain))
                )
                low, high = difference - half, difference + half
        failed = tuple(
            f"{name} settings, seed {run.seed}: {run.error}"
            for name, runs in (("tuned", tuned), ("default", default))
            for run in runs
            if run.hypervolume is None
        )
        verdict = "not shown to be better"
        if low is not None and low > 0 and all(run.hypervolume is not None for run in tuned):
            verdict = "better"
        elif high is not None and high < 0:
            verdict = "worse"
        return cls(seeds, ours, theirs, difference, low, high, confidence, failed, verdict)

    @property
    def better(self) -> bool:
        """Whether the tuned settings are better with the interval's confidence."""
        return self.verdict == "better"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        found: Mapping[str, Any] = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.verdict}: no seed on which both settings came through"
        means = (
            f"tuned {np.mean(self.tuned):.4f}, default {np.mean(self.default):.4f}, difference {self.difference:+.4f}"
        )
        if self.low is None or self.high is None:
            return f"{means} on one seed, which says nothing of the noise: {self.verdict}"
        return f"{means} ({100 * self.confidence:g} % interval {self.low:+.4f} to {self.high:+.4f}): {self.verdict}"
