"""Where a policy stands in the range that the population spans: running means, a payoff table, shortfalls.

The scale of the rewards is frozen before training and cannot know what training can reach. Ideal and nadir are
therefore read from a payoff table that the population shares (row i: the values of the policy that was best at
objective i when it was best), and a policy's place is its shortfall from the ideal as a share of that range.

References:
    Miettinen, "Nonlinear Multiobjective Optimization", 1999 (payoff table, ideal and nadir points).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pareto_align.arguments import Memory, Positive
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Weighting, running_mean

__all__ = ["FramedWeighting"]


class FramedWeighting(Weighting):
    """A weighting that looks at shortfalls in the population's frame; a subclass calls `_shortfalls` once a step.

    Args:
        smoothing: Share of the old value that the running mean of a policy's values keeps in a step (0 = no memory).
        frame_smoothing: The same for the slower means that ideal and nadir are read from.
        min_range: Smallest range, in the units of `Signal.values`: before the population has spread, the observed range
            is mostly noise.
        ideal: [m] fixed ideal point in the units of `Signal.values`, instead of the moving one.
        nadir: [m] fixed nadir point, instead of the smallest entries of the payoff table.

    Raises:
        ConfigError: A setting is out of range, or the ideal point does not lie above the nadir point.
    """

    state_names: ClassVar[tuple[str, ...]] = ("smoothed", "slow", "count", "payoff")

    def __init__(
        self,
        *,
        smoothing: Memory = 0.5,
        frame_smoothing: Memory = 0.9,
        min_range: Positive = 0.1,
        ideal: Sequence[float] | None = None,
        nadir: Sequence[float] | None = None,
    ) -> None:
        self.smoothing = float(smoothing)
        self.frame_smoothing = float(frame_smoothing)
        self.min_range = float(min_range)
        self.ideal = None if ideal is None else np.asarray(ideal, dtype=np.float64)
        self.nadir = None if nadir is None else np.asarray(nadir, dtype=np.float64)

    def setup(self, K: int, m: int) -> None:
        """Forget all values seen. [K, m] running sums and counts, [m, m] payoff table."""
        super().setup(K, m)
        for name, point in (("ideal", self.ideal), ("nadir", self.nadir)):
            if point is not None and (point.shape != (m,) or not np.isfinite(point).all()):
                raise ConfigError(
                    f"Weighting '{self.name}': `{name}` must be {m} finite numbers. Found {point.tolist()}."
                )
        if self.ideal is not None and self.nadir is not None and not (self.ideal > self.nadir).all():
            raise ConfigError(
                f"Weighting '{self.name}': `ideal` must lie above `nadir` in every objective. Found "
                f"ideal={self.ideal.tolist()} and nadir={self.nadir.tolist()}."
            )
        self.smoothed = np.zeros((K, m))
        self.slow = np.zeros((K, m))
        self.count = np.zeros((K, m))
        self.payoff = np.full((m, m), np.nan)

    def reset(self, slot: int) -> None:
        """Forget the running means of policy `slot`; the ideal point, which somebody did reach, stays."""
        super().reset(slot)
        self.smoothed[slot] = 0.0
        self.slow[slot] = 0.0
        self.count[slot] = 0.0

    def _shortfalls(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Learn this step's `values` [K, m]; shortfalls [K, m] as shares of the range, and the range [m].

        0 is the ideal, 1 the nadir; NaN where a policy's objective was never seen.
        """
        seen = self.count
        self.smoothed, self.count, means = running_mean(self.smoothed, seen, values, self.smoothing)
        self.slow, _, slow = running_mean(self.slow, seen, values, self.frame_smoothing)
        for i in range(self.m):
            # A row is replaced as a whole: what objective i's best policy has of the others is the price of the best.
            # Of equally good policies the one that is better at the rest counts, whatever slot it lives in.
            standings = [_standing(row, i) for row in slow]
            if max(standings) > _standing(self.payoff[i], i):
                self.payoff[i] = slow[standings.index(max(standings))]
        best = np.diagonal(self.payoff)
        top = np.where(np.isnan(best), 0.0, best) if self.ideal is None else self.ideal
        # fmin skips what nobody measured.
        bottom = np.fmin.reduce(self.payoff, axis=0) if self.nadir is None else self.nadir
        spread = np.maximum(np.where(np.isnan(bottom), 0.0, top - bottom), self.min_range)
        return np.asarray((top - means) / spread), spread


def _standing(values: FloatArray, objective: int) -> tuple[float, float]:
    """Sort key of a policy's values [m] for one objective: that value, then the sum of all; NaN is worst."""
    value = values[objective]
    return (-np.inf if np.isnan(value) else float(value)), float(np.nansum(values))
