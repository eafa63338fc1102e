"""Weights from how rewards vary with the update: covariance-targeted weight adaptation.

References:
    Lu and Jiang, "Uncovering Cross-Objective Interference in Multi-Objective Alignment", arXiv 2602.06869 (CTWA), and
        its public code, https://github.com/yining610/ctwa.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pareto_align.arguments import Memory, Positive
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, Weighting, normalize_rows, register, running_mean, softmax

__all__ = ["CTWA"]

Measure = Literal["correlation", "covariance"]


@register("ctwa")
class CTWA(Weighting):
    """CTWA: an objective gains weight as long as its rewards vary too little along with the update.

        c_j = Cov(r_j, A)       A = sum_l w_l (r_l - mean), at unit deviation, w the weights in force
        log w_j <- log w_j + lr max(target_j - running mean of c_j, 0)              not where value_j >= enough_j

    To first order an objective improves by its covariance with the advantages, so one below 0 is being sacrificed.
    Every policy starts at its preference; an objective of preference 0 stays at weight 0. Weights only ever rise for
    what lags, and rows are scaled to sum 1 (published: not scaled, before advantages that are whitened).

    Covariances are those of a prompt's completions, mean over the prompts, and follow from the rewards' covariance
    matrix and the weights alone. That is exact for a credit that is linear in the rewards; others rescale the
    advantages of each prompt. On-policy no completion is clipped, so the published filter of extreme ones is not
    needed.

    Args:
        target: What c_j is held above: one number or [m].
        measure: "correlation" (default): c_j divided by the deviation of r_j as well, so between -1 and 1 whatever the
            scale and however far an objective is learnt. "covariance": in the units of r_j, as published (targets of
            .05 to .15 for rewards from 0 to 1); an objective with little variance left can then never reach its target.
        lr: Step of the log-weights, per unit of c_j. Published: .05, for runs of a thousand steps.
        enough: Value, in the units of `Signal.values`, from which an objective is not raised any more: one number or
            [m]; None: no such value.
        smoothing: Memory of the running mean of c_j (published: 1 - tau with tau = .1).
        reach: Largest ratio, as a logarithm, between how far two weights have left the preference.

    Raises:
        ConfigError: A setting out of range.
    """

    requires = frozenset({"covariances"})
    state_names = ("total", "count", "drift")

    def __init__(
        self,
        *,
        target: float | Sequence[float] = 0.1,
        measure: Measure = "correlation",
        lr: Positive = 1.0,
        enough: float | Sequence[float] | None = None,
        smoothing: Memory = 0.9,
        reach: Positive = 5.0,
    ) -> None:
        self.target = np.asarray(target, dtype=np.float64)
        self.enough = np.asarray(np.inf if enough is None else enough, dtype=np.float64)
        if not np.isfinite(self.target).all():
            raise ConfigError(f"CTWA `target` must be finite. Found {self.target.tolist()}.")
        if np.isnan(self.enough).any():
            raise ConfigError(f"CTWA `enough` must be numbers. Found {self.enough.tolist()}.")
        self.measure: Measure = measure
        self.lr, self.reach = float(lr), float(reach)
        self.smoothing = float(smoothing)

    def setup(self, K: int, m: int) -> None:
        """Every policy at its preference. [K, m] running sums and counts of c, drifts of the log-weights."""
        super().setup(K, m)
        for name, array in (("target", self.target), ("enough", self.enough)):
            if array.shape not in ((), (m,)):
                raise ConfigError(f"CTWA `{name}` must be one number or {m}. Found {array.tolist()}.")
        self.total, self.count, self.drift = (np.zeros((K, m)) for _ in range(3))

    def reset(self, slot: int) -> None:
        """Policy `slot` starts again at its preference."""
        super().reset(slot)
        self.total[slot] = self.count[slot] = self.drift[slot] = 0.0

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1.

        Raises:
            ConfigError: The signal has no covariances.
        """
        self._check(signal)
        if signal.covariances is None:
            raise ConfigError(
                "Weighting 'ctwa' needs the covariances of the rewards: Signal.covariances [K, m, m]. Found None."
            )
        with np.errstate(divide="ignore"):
            start = np.log(normalize_rows(signal.preferences))
        shown = self._along(signal.covariances, softmax(start + self.drift))
        self.total, self.count, means = running_mean(self.total, self.count, shown, self.smoothing)
        # NaN, nothing seen yet, compares as false.
        behind = np.where(means < self.target, self.target - means, 0.0)
        behind = np.where(signal.values >= self.enough, 0.0, behind)
        drift = self.drift + self.lr * behind
        self.drift = np.maximum(drift - drift.max(axis=1, keepdims=True), -self.reach)
        return softmax(start + self.drift)

    def _along(self, covariances: FloatArray, weights: FloatArray) -> FloatArray:
        """c [K, m] of covariances [K, m, m] under weights [K, m]; NaN where nothing varies or something is missing."""
        # In units of each policy's largest variance: products of huge rewards must stay finite.
        variances = np.diagonal(covariances, axis1=1, axis2=2)
        largest = np.fmax.reduce(variances, axis=1)
        largest = np.where(np.isfinite(largest) & (largest > 0), largest, np.nan)[:, None]
        # An objective that has no say must not make the others' mixture unknown.
        products = np.where(weights[:, None, :] > 0, covariances / largest[:, :, None] * weights[:, None, :], 0.0)
        with_mixture = products.sum(axis=2)
        spread = np.where(weights > 0, weights * with_mixture, 0.0).sum(axis=1, keepdims=True)
        own = variances / largest
        usable = (spread > NEGLIGIBLE) & (own > NEGLIGIBLE)
        scale = np.where(usable, spread, np.nan)
        if self.measure == "correlation":
            return np.asarray(np.clip(with_mixture / np.sqrt(scale * own), -1.0, 1.0))
        return np.asarray(with_mixture / np.sqrt(scale) * np.sqrt(largest))


NEGLIGIBLE = 1e-12
"""A variance below this share of the largest one is rounding."""
