"""Smooth Tchebycheff weighting: each policy pushes the objective that is furthest behind its own ray.

References:
    Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", arXiv 2402.19078 (the smooth
        maximum and its gradient).
    Steuer and Choo, "An interactive weighted Tchebycheff procedure for multiple objective programming", Mathematical
        Programming 26, 1983 (the augmentation term).
    Felten et al., "Multi-Objective Reinforcement Learning Based on Decomposition: A Taxonomy and Framework",
        arXiv 2311.12495 (an ideal point that moves with the best values seen).
"""

from __future__ import annotations

from abc import abstractmethod
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.arguments import NotNegative, Positive
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, interior, normalize_rows, register, softmax
from pareto_align.weighting.frame import FramedWeighting

__all__ = ["Chebyshev", "FramedScalarization", "smooth_chebyshev", "smooth_chebyshev_gradient"]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))


def smooth_chebyshev(values: ArrayLike, weights: ArrayLike, ideal: ArrayLike, /, mu: float) -> FloatArray:
    """Smooth Tchebycheff value [...] of maximised `values` [..., m]; larger is better.

    -mu * log sum_i exp(w_i (z_i - v_i) / mu), as in arXiv 2402.19078 with losses f = -v. As `mu` goes to 0 it becomes
    -max_i w_i (z_i - v_i).
    """
    exponents = np.asarray(weights) * (np.asarray(ideal) - np.asarray(values)) / mu
    top = exponents.max(axis=-1, keepdims=True)
    return np.asarray(-mu * (top[..., 0] + np.log(np.exp(exponents - top).sum(axis=-1))))


def smooth_chebyshev_gradient(values: ArrayLike, weights: ArrayLike, ideal: ArrayLike, /, mu: float) -> FloatArray:
    """Gradient [..., m] of `smooth_chebyshev` in `values`: w_i * softmax_i(w (z - v) / mu)."""
    w = np.asarray(weights, dtype=np.float64)
    return np.asarray(w * softmax(w * (np.asarray(ideal) - np.asarray(values)) / mu))


class FramedScalarization(FramedWeighting):
    """Ascent on a scalarization of a policy's shortfalls in the population's frame; a subclass gives its slope.

    A row is the gradient of the scalarization in the values, scaled to sum 1.

    Args:
        tau: The ideal point lies this share of the range above the best (slow) running mean seen in the population.
        floor: Smallest preference entry.
        smoothing: Memory of each policy's running mean.
        frame_smoothing: Memory of the means that ideal and nadir are read from.
        min_range: Smallest range, in the units of `Signal.values`.
        ideal: [m] fixed ideal point in the units of `Signal.values`, instead of the moving one.
        nadir: [m] fixed nadir point.

    Raises:
        ConfigError: A setting out of range.
    """

    reading: Literal["place", "rate"] = "place"

    def __init__(
        self,
        *,
        tau: NotNegative = 0.0,
        floor: NotNegative = 1e-3,
        **framed: Any,
    ) -> None:
        super().__init__(**framed)
        self.tau, self.floor = float(tau), float(floor)
        self.per_policy = self.ideal is not None and self.nadir is not None  # else the frame is the population's

    def setup(self, K: int, m: int) -> None:
        """Forget all values seen. [K, m] running sums and counts, [m, m] payoff table."""
        super().setup(K, m)
        if self.floor * m >= 1:
            raise ConfigError(f"Weighting '{self.name}': `floor` must be below 1/m = {1 / m:.3g}. Found {self.floor}.")

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1. A policy with an objective never yet seen gets its preference."""
        self._check(signal)
        preferences = interior(signal.preferences, self.floor)
        shortfalls, spread = self._shortfalls(signal.values)
        known = ~np.isnan(shortfalls)
        if self.ideal is None:
            shortfalls = shortfalls + self.tau
        # A slope is per share of the range; a reward is counted per unit of value.
        weights = normalize_rows(self._slope(preferences, np.where(known, shortfalls, 0.0)) / spread)
        return np.where(known.all(axis=1, keepdims=True), weights, preferences)

    @abstractmethod
    def _slope(self, preferences: FloatArray, shortfalls: FloatArray) -> FloatArray:
        """What a share of the range is worth in each objective, [K, m], not negative."""


@register("chebyshev")
class Chebyshev(FramedScalarization):
    """Holds every policy at its own place on the front (the default of independent policies).

    With `s_i = (z_i - v_i) / d_i`, the shortfall of a policy from the ideal point z as a share of the range
    `d = z - nadir` that the population spans, the weights are the gradient of the smooth augmented Tchebycheff
    function in the values v, scaled to sum 1:

        weight_i  proportional to  (w_i / d_i) * (softmax_i(m * w * s / mu) + rho)

    Ascent equalises w_i s_i: a preference of (0.8, 0.2) asks for a point whose shortfall on the second objective is
    four times that on the first. Unlike a linear weighting this is a *place*: a policy that overshoots is pulled back.

    Shortfalls are counted in shares of the range because the scale of the rewards is frozen before training and cannot
    know what training can reach: an objective bounded to [0, 1] that only moves from .4 to .6 would never have a
    shortfall worth correcting, and one without bounds may move by many standard deviations. Ideal and nadir are read
    from a payoff table that the population shares (row i: the values of the policy that was best at objective i when it
    was best), since a policy in the middle never sees for itself how far an objective can go. So the population should
    train the corners, or `ideal` and `nadir` should be given.

    Args:
        mu: Temperature of the smooth maximum, as a share of the range, for an average weight (the softmax sees m * w,
            whose mean is 1, so that `mu` means the same for every m). Small: sharp rays, but weights that switch with
            the noise.
        smoothing: Share of the old value that the running mean of a policy's values keeps in a step (0 = no memory). A
            long memory makes the controller late: it overshoots and swings.
        frame_smoothing: The same for the means that ideal and nadir are read from. Slower, since a running maximum
            collects every lucky batch.
        rho: Strength of the augmentation, the linear part that keeps weakly dominated points from being optimal.
        tau: The ideal point lies this share of the range above the best (slow) running mean seen in the population.
        floor: Smallest preference entry; a weight of exactly 0 would leave that objective to drift.
        min_range: Smallest range d_i, in the units of `Signal.values`. Before the population has spread, the observed
            range is mostly noise.
        ideal: [m] fixed ideal point in the units of `Signal.values`, instead of the moving one.
        nadir: [m] fixed nadir point, instead of the smallest entries of the payoff table.

    Raises:
        ConfigError: A setting out of range.
    """

    def __init__(
        self,
        *,
        mu: Positive = 0.05,
        rho: NotNegative = 0.01,
        **framed: Any,
    ) -> None:
        super().__init__(**framed)
        self.mu, self.rho = float(mu), float(rho)

    def _slope(self, preferences: FloatArray, shortfalls: FloatArray) -> FloatArray:
        return np.asarray(preferences * (softmax(self.m * preferences * shortfalls / self.mu) + self.rho))
