"""Weights from what a batch shows of the rewards themselves: their spread.

References:
    SAW, arXiv 2606.07705, and its public code, https://github.com/Zhaolutuan/SAW.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pareto_align.arguments import Positive
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, normalize_rows, register, running_mean
from pareto_align.weighting.means import SmoothedWeighting

__all__ = ["SAW"]


@register("saw")
class SAW(SmoothedWeighting):
    """Weight follows what still varies: each preference times the coefficient of variation of that objective's rewards.

        cv_i = spread_i / ( |mean_i - lowest_i| + 1e-8 )         weight_i proportional to p_i cv_i

    An objective whose rewards are high and all alike is learnt and hands its weight on; one that is low and uneven gets
    it. The published weights are m cv_i / sum cv, without preferences; here they are scaled to sum 1.

    A coefficient of variation needs a scale that begins at 0, which the published code gets by adding a constant by
    hand (3 to a reward from -3). `lowest` is that constant: an objective with bounds begins at 0 on the frozen scale;
    for one without bounds give the smallest value that can be expected, in the reference policy's standard deviations.

    Args:
        lowest: [m] or one number for all: the value from which a mean is counted, in the units of `Signal.values`.
        largest: Largest coefficient of variation; near a mean of 0 it has no bound.
        smoothing: Memory of the running means of values and spreads; the published code has none.

    Raises:
        ConfigError: A setting out of range.
    """

    requires = frozenset({"spread"})
    state_names = (*SmoothedWeighting.state_names, "scatter", "scattered")

    def __init__(
        self, *, lowest: float | Sequence[float] = 0.0, largest: Positive = 10.0, smoothing: float = 0.0
    ) -> None:
        super().__init__(smoothing=smoothing)
        self.lowest, self.largest = np.asarray(lowest, dtype=np.float64), float(largest)

    def setup(self, K: int, m: int) -> None:
        """Forget all values seen. [K, m] running sums and counts of values and of spreads."""
        super().setup(K, m)
        if self.lowest.shape not in ((), (m,)) or not np.isfinite(self.lowest).all():
            raise ConfigError(f"SAW `lowest` must be one finite number or {m}. Found {self.lowest.tolist()}.")
        self.scatter, self.scattered = np.zeros((K, m)), np.zeros((K, m))

    def reset(self, slot: int) -> None:
        """Forget the running means of policy `slot`."""
        super().reset(slot)
        self.scatter[slot] = self.scattered[slot] = 0.0

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1: the preference where something was never seen or nothing varies.

        Raises:
            ConfigError: The signal has no spread.
        """
        self._check(signal)
        if signal.spread is None:
            raise ConfigError("Weighting 'saw' needs the spread of every objective: Signal.spread [K, m]. Found none.")
        preferences, means = normalize_rows(signal.preferences), self._means(signal.values)
        self.scatter, self.scattered, spread = running_mean(self.scatter, self.scattered, signal.spread, self.smoothing)
        variation = np.minimum(spread / (np.abs(means - self.lowest) + 1e-8), self.largest)
        pull = preferences * np.nan_to_num(variation)
        usable = ~np.isnan(variation).any(axis=1) & (pull > 0).any(axis=1)
        return np.where(usable[:, None], normalize_rows(pull), preferences)
