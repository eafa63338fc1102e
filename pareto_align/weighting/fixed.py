"""Fixed weights: every policy keeps the preference it was given (linear scalarization)."""

from __future__ import annotations

import numpy as np

from pareto_align.weighting.base import FloatArray, Signal, Weighting, register

__all__ = ["Fixed"]


@register("fixed")
class Fixed(Weighting):
    """The weights are the preferences, in every step.

    The plainest method and the baseline of every comparison. It maximises w.v, so it finds points on the convex hull of
    the front only, and on a straight stretch of front it slides to one of the two ends.
    """

    per_policy = True

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m]: a copy of `signal.preferences`."""
        self._check(signal)
        return np.array(signal.preferences)
