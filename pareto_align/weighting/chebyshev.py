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

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, Weighting, interior, normalize_rows, register, softmax

__all__ = ["Chebyshev", "smooth_chebyshev", "smooth_chebyshev_gradient"]


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


def _standing(values: FloatArray, objective: int) -> tuple[float, float]:
    """Sort key of a policy's values [m] for one objective: that value, then the sum of all; NaN is worst."""
    value = values[objective]
    return (-np.inf if np.isnan(value) else float(value)), float(np.nansum(values))


@register("chebyshev")
class Chebyshev(Weighting):
    """Holds every policy at its own place on the front (the default weighting).

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

    state_names = ("smoothed", "slow", "count", "payoff")

    def __init__(
        self,
        *,
        mu: float = 0.05,
        smoothing: float = 0.5,
        frame_smoothing: float = 0.9,
        rho: float = 0.01,
        tau: float = 0.0,
        floor: float = 1e-3,
        min_range: float = 0.1,
        ideal: Sequence[float] | None = None,
        nadir: Sequence[float] | None = None,
    ) -> None:
        for name, value, low in (("mu", mu, 0.0), ("min_range", min_range, 0.0)):
            if not (np.isfinite(value) and value > low):
                raise ConfigError(f"Chebyshev `{name}` must be a positive number. Found {value}.")
        for name, value in (("rho", rho), ("tau", tau), ("floor", floor)):
            if not (np.isfinite(value) and value >= 0):
                raise ConfigError(f"Chebyshev `{name}` must be a number of at least 0. Found {value}.")
        for name, value in (("smoothing", smoothing), ("frame_smoothing", frame_smoothing)):
            if not 0 <= value < 1:
                raise ConfigError(f"Chebyshev `{name}` must be at least 0 and below 1. Found {value}.")
        self.mu, self.rho, self.tau, self.floor = float(mu), float(rho), float(tau), float(floor)
        self.smoothing, self.frame_smoothing = float(smoothing), float(frame_smoothing)
        self.min_range = float(min_range)
        self.ideal = None if ideal is None else np.asarray(ideal, dtype=np.float64)
        self.nadir = None if nadir is None else np.asarray(nadir, dtype=np.float64)

    def setup(self, K: int, m: int) -> None:
        """Forget all values seen. [K, m] running sums and counts, [m, m] payoff table."""
        super().setup(K, m)
        for name, point in (("ideal", self.ideal), ("nadir", self.nadir)):
            if point is not None and (point.shape != (m,) or not np.isfinite(point).all()):
                raise ConfigError(f"Chebyshev `{name}` must be {m} finite numbers. Found {point.tolist()}.")
        if self.floor * m >= 1:
            raise ConfigError(f"Chebyshev `floor` must be below 1/m = {1 / m:.3g}. Found {self.floor}.")
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

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1. A policy with an objective never yet seen gets its preference."""
        self._check(signal)
        preferences = interior(signal.preferences, self.floor)
        self.count = self.count + ~np.isnan(signal.values)
        self.smoothed, values = self._average(self.smoothed, signal.values, self.smoothing)
        self.slow, slow = self._average(self.slow, signal.values, self.frame_smoothing)
        ideal, spread = self._frame(slow)
        known = ~np.isnan(values)
        shortfall = np.where(known, (ideal - values) / spread, 0.0)
        pull = softmax(self.m * preferences * shortfall / self.mu) + self.rho
        weights = normalize_rows(preferences * pull / spread)
        return np.where(known.all(axis=1, keepdims=True), weights, preferences)

    def _average(self, total: FloatArray, values: FloatArray, keep: float) -> tuple[FloatArray, FloatArray]:
        """The decayed sum [K, m] with `values` in it, and the mean [K, m] it stands for (NaN: nothing ever seen)."""
        total = np.where(np.isnan(values), total, keep * total + (1 - keep) * np.nan_to_num(values))
        # Adam's bias correction: the first mean is the first value, not a tenth of it.
        weight = np.where(self.count > 0, 1 - keep**self.count, np.nan)
        return total, np.asarray(total / weight)

    def _frame(self, slow: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Ideal point [m] and range [m] in which shortfalls are expressed, from the slow means [K, m]."""
        for i in range(self.m):
            # A row is replaced as a whole: what objective i's best policy has of the others is the price of the best.
            # Of equally good policies the one that is better at the rest counts, whatever slot it lives in.
            standings = [_standing(values, i) for values in slow]
            if max(standings) > _standing(self.payoff[i], i):
                self.payoff[i] = slow[standings.index(max(standings))]
        best = np.diag(self.payoff)
        top = np.where(np.isnan(best), 0.0, best) if self.ideal is None else self.ideal
        # fmin skips what nobody measured.
        bottom = np.fmin.reduce(self.payoff, axis=0) if self.nadir is None else self.nadir
        spread = np.maximum(np.where(np.isnan(bottom), 0.0, top - bottom), self.min_range)
        return (top + self.tau * spread if self.ideal is None else top), spread
