"""Running means of what each policy achieves: the base of weightings that look at a policy's own values only."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pareto_align.arguments import Memory
from pareto_align.weighting.base import FloatArray, Weighting, running_mean

__all__ = ["SmoothedWeighting"]


class SmoothedWeighting(Weighting):
    """A weighting that looks at running means of each policy's values; a subclass calls `_means` once a step.

    Args:
        smoothing: Share of the old value that the running mean of a policy's values keeps in a step (0 = no memory).

    Raises:
        ConfigError: `smoothing` is not in [0, 1).
    """

    state_names: ClassVar[tuple[str, ...]] = ("smoothed", "count")

    def __init__(self, *, smoothing: Memory) -> None:
        self.smoothing = float(smoothing)

    def setup(self, K: int, m: int) -> None:
        """Forget all values seen. [K, m] running sums and counts."""
        super().setup(K, m)
        self.smoothed = np.zeros((K, m))
        self.count = np.zeros((K, m))

    def reset(self, slot: int) -> None:
        """Forget the running means of policy `slot`."""
        super().reset(slot)
        self.smoothed[slot] = 0.0
        self.count[slot] = 0.0

    def _means(self, values: FloatArray) -> FloatArray:
        """Learn this step's `values` [K, m]; running means [K, m], NaN where nothing was ever seen."""
        self.smoothed, self.count, means = running_mean(self.smoothed, self.count, values, self.smoothing)
        return means
