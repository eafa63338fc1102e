"""The interior point: constraints kept by a barrier that rises as a threshold comes near.

References:
    Liu et al., "C-MORL: Multi-Objective Reinforcement Learning through Efficient Discovery of Pareto Front",
        arXiv 2410.02236, and its public code, https://github.com/RuohLiuq/C-MORL (t = 20).
    Liu, Ding and Liu, "IPO: Interior-point Policy Optimization under Constraints", arXiv 1910.09615.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pareto_align.arguments import Memory, Positive
from pareto_align.weighting.base import FloatArray, Part, register, running_mean
from pareto_align.weighting.lagrangian import ConstraintWeighting

__all__ = ["Barrier"]


@register("barrier")
class Barrier(ConstraintWeighting):
    """Objectives as good as can be, with a logarithmic barrier at value_i = threshold_i.

    The policy ascends  p.v + (1/t) sum_i log(slack_i).  A constraint's weight is the slope of its term:

        lam_i = 1 / (t slack_i)                            slack_i >= margin
        lam_i = (2 margin - slack_i) / (t margin^2)        below: the slope of the quadratic that continues -log there
        row   = ( p, min(lam, cap) ) / ( 1 + sum min(lam, cap) )

    Away from the threshold a constraint weighs little, but never nothing; it has no memory that could swing. The
    logarithm itself ends at slack 0. Its quadratic continuation goes on with the same value, slope and curvature, so a
    policy that starts outside is led back in. The published code clamps the slack at a small positive number, where the
    gradient of a violated constraint is 0.

    Args:
        t: Sharpness: with a larger t the barrier is felt later.
        margin: Slack, on the frozen scale, at which the quadratic takes over from the logarithm.
        cap: Largest weight of a constraint before the row is normalised.
        smoothing: Memory of the running mean of the slack.
        objectives: How the optimised objectives are traded (a weighting's name, mapping or instance).

    Raises:
        ConfigError: A setting out of range.
    """

    state_names: ClassVar[tuple[str, ...]] = (*ConstraintWeighting.state_names, "smoothed", "count")

    def __init__(
        self,
        *,
        t: Positive = 20.0,
        margin: Positive = 0.05,
        cap: Positive = 20.0,
        smoothing: Memory = 0.5,
        objectives: Part = "fixed",
    ) -> None:
        super().__init__(objectives=objectives)
        self.t, self.margin, self.cap = float(t), float(margin), float(cap)
        self.smoothing = float(smoothing)

    def _allocate(self, c: int) -> None:
        self.smoothed, self.count = np.zeros((self.K, c)), np.zeros((self.K, c))
        super()._allocate(c)

    def _begin(self, slots: slice) -> None:
        self.smoothed[slots] = 0.0
        self.count[slots] = 0.0
        self.multipliers[slots] = 0.0

    def _ascend(self, slack: FloatArray) -> None:
        self.smoothed, self.count, means = running_mean(self.smoothed, self.count, slack, self.smoothing)
        near = means < self.margin
        far = np.where(near | np.isnan(means), self.margin, means)
        slope = np.where(near, (2 * self.margin - means) / self.margin**2, 1 / far) / self.t
        # what was never seen has no slack to speak of, and no weight
        self.multipliers = np.where(np.isnan(means), 0.0, np.minimum(slope, self.cap))

    def _shares(self) -> tuple[FloatArray, FloatArray]:
        total = 1 + self.multipliers.sum(axis=1)
        return 1 / total, self.multipliers / total[:, None]
