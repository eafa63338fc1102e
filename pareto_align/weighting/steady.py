"""Tchebycheff places held by steady weights, which follow the slope of the front and correct a place gently.

References:
    Das and Dennis, "Normal-Boundary Intersection: A New Method for Generating the Pareto Surface in Nonlinear
        Multicriteria Optimization Problems", SIAM Journal on Optimization 8(3), 1998 (progress along the normal).
    Zhang and Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", IEEE Transactions on
        Evolutionary Computation 11(6), 2007 (penalty boundary intersection: progress and place as two terms).
    Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", arXiv 2402.19078 (the place, and
        the smooth maximum that corrects it).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pareto_align.arguments import NotNegative, Positive, Share
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, interior, normalize_rows, register, running_mean, softmax
from pareto_align.weighting.frame import FramedWeighting
from pareto_align.weighting.gramians import min_norm_point

__all__ = ["SteadyChebyshev", "front_normal"]

SETTLED = 3
"""Steps until a newcomer's place counts for its neighbours; so long that of the slot's last policy does."""


def front_normal(places: FloatArray, near: FloatArray, prior: FloatArray, ridge: float) -> FloatArray:
    """The trade [m] of sum 1 under which places [n, m] on a front are worth the same, as far as they are spread.

    argmin over the simplex of n.C n + ridge sum_i n_i^2 / prior_i, with the covariance C [m, m] of the places. Where
    they lie together it is the prior.

    Args:
        places: [n, m] maximised; n may be 0.
        near: [n] how much each counts, not all 0.
        prior: [m] positive, of sum 1.
        ridge: Variance of the places up to which the prior decides.
    """
    covariance = np.zeros((len(prior), len(prior)))
    if len(places):
        shares = near / near.sum()
        away = places - shares @ places
        covariance = (away * shares[:, None]).T @ away
    return min_norm_point(covariance + ridge * np.diag(1 / prior))


@register("steady-chebyshev")
class SteadyChebyshev(FramedWeighting):
    """Holds the places of "chebyshev" with weights that trade all the time.

    Every row is a trade that makes progress and a correction of place. With the shortfalls s of "chebyshev" in shares
    of the range d, and a preference w:

        n    = the normal of the front between the policy's neighbours in preference, w before they have spread
        e_i  = m w_i max(0, s_i + lead (s_i - slow s_i))        how far behind its ray the policy will be
        z    proportional to  n exp(e / mu)                     the trade that corrects the place
        weight_i  proportional to  ((1 - level) z_i + level n_i) / d_i

    So z points up the smooth Tchebycheff value -mu log sum_i (n_i / w_i) exp(m w_i s_i / mu), in which n_i / w_i turns
    the gradient on the ray, where e is even, into n: there ascent goes straight to the front. "chebyshev" gets there by
    turning from one objective to the other and back, with almost all weight on one of them most of the time. A weight
    of (0, 1) rewards every answer that is better in the second objective, poor ones too. Where many of those lie beside
    the good answers, a policy fills with them. What else differs:

    - `level` of a row always stays with n, so an answer that is good in one objective only is never all that counts.
    - The correction looks ahead: a running mean less a slower one is what the policy travels in some eight steps,
      about as far as Adam's momentum carries it on after its weights have turned. A policy that runs on into a corner
      finds nothing there that varies, and learns nothing more.
    - At a corner of the simplex there is nothing to trade: the row is the preference. A row that followed the front
      there too would take the ends of the front with it, since it is read off them.
    - The range d is at least `noise` standard deviations of the mean of a batch. Until the population has spread,
      places are noise, and a row stays near n.

    A preference means the same place as under "chebyshev", and the population should train the corners likewise.

    Args:
        mu: Temperature of the correction, as a share of the range, for an average weight.
        level: Share of a row that always follows the front's normal.
        lead: How far ahead the correction looks: 1 is the difference of the two running means, 0 the present.
        noise: Smallest range, in standard deviations of the mean of a policy's batch.
        ridge: Variance of the neighbours' places, in squared shares of the range, up to which the preference decides.
        smoothing: Memory of each policy's running mean.
        frame_smoothing: Memory of the slower means: of ideal and nadir, places and noise.
        floor: Smallest preference entry.
        min_range: Smallest range, in the units of `Signal.values`.
        ideal: [m] fixed ideal point in the units of `Signal.values`, instead of the moving one.
        nadir: [m] fixed nadir point.

    Raises:
        ConfigError: A setting out of range.
    """

    reading = "place"
    state_names: ClassVar[tuple[str, ...]] = (*FramedWeighting.state_names, "surprise", "surprises", "places", "asked")

    def __init__(
        self,
        *,
        mu: Positive = 0.08,
        level: Share = 0.15,
        lead: NotNegative = 0.5,
        noise: NotNegative = 4.0,
        ridge: Positive = 0.003,
        floor: Positive = 1e-3,
        **framed: Any,
    ) -> None:
        super().__init__(**framed)
        self.mu, self.level, self.lead = float(mu), float(level), float(lead)
        self.noise, self.ridge, self.floor = float(noise), float(ridge), float(floor)

    def setup(self, K: int, m: int) -> None:
        """Forget all values seen.

        [K, m] decayed sums of squared surprises and their number; [K, m] each slot's place and what it was asked for.
        """
        super().setup(K, m)
        if self.floor * m >= 1:
            raise ConfigError(f"SteadyChebyshev `floor` must be below 1/m = {1 / m:.3g}. Found {self.floor}.")
        self.surprise = np.zeros((K, m))
        self.surprises = np.zeros((K, m))
        self.places = np.full((K, m), np.nan)
        self.asked = np.full((K, m), np.nan)

    def reset(self, slot: int) -> None:
        """Forget the running means of policy `slot`; its last place, like the ideal point, was reached and stays."""
        super().reset(slot)
        self.surprise[slot] = 0.0
        self.surprises[slot] = 0.0

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1. The row of a policy that was hardly seen yet is the normal alone.

        At a corner of the simplex the row is the preference.
        """
        self._check(signal)
        preferences = interior(signal.preferences, self.floor)
        deviation = self._deviation(signal.values)
        shortfalls, spread = self._shortfalls(signal.values)
        slow = self._mean(self.slow, self.frame_smoothing)
        self._learn_places(slow, preferences)
        known = np.isfinite(shortfalls + deviation).all(axis=1, keepdims=True)
        ranges = np.hypot(spread, self.noise * np.where(known, deviation, 0.0))
        travelled = (self._mean(self.smoothed, self.smoothing) - slow) / ranges
        # At the ideal at most: whoever sets the best values seen is beyond them while it rises, and must not turn back.
        ahead = np.maximum(shortfalls * (spread / ranges) - self.lead * travelled, 0.0)
        behind = self.m * preferences * np.where(known, ahead, 0.0)
        normals = np.array([self._normal(k, preferences[k], ranges[k]) for k in range(self.K)])
        corrections = softmax(np.log(normals) + behind / self.mu)
        rows = normalize_rows(((1 - self.level) * corrections + self.level * normals) / ranges)
        at_corner = signal.preferences.max(axis=1, keepdims=True) >= 1 - self.floor
        return np.where(at_corner, signal.preferences, rows)

    def _learn_places(self, slow: FloatArray, preferences: FloatArray) -> None:
        """Where the front is, from the slow means [K, m] of policies that have settled.

        A policy that falls below its last place tells nothing about the front; one that moves along the front does.
        """
        fell = (slow <= self.places).all(axis=1)
        moved = (self.count.min(axis=1) >= SETTLED) & ~fell
        self.places[moved], self.asked[moved] = slow[moved], preferences[moved]

    def _normal(self, slot: int, preference: FloatArray, ranges: FloatArray) -> FloatArray:
        """The front's normal [m] between the neighbours of policy `slot`, in shares of the range; positive."""
        others = ~np.isnan(self.places).any(axis=1) & (np.arange(self.K) != slot)
        gaps = np.linalg.norm(self.asked[others] - preference, axis=1)
        # The m-th nearest: with two objectives the neighbours on both sides. Equal preferences are all equally near.
        width = np.sort(gaps)[: self.m][-1] if len(gaps) else 0.0
        near = np.exp(-0.5 * (gaps / width) ** 2) if width > 0 else np.ones(len(gaps))
        found = front_normal(self.places[others] / ranges, near, preference, self.ridge)
        return normalize_rows(np.maximum(found, 1e-9))

    def _deviation(self, values: FloatArray) -> FloatArray:
        """Standard deviation [K, m] of the mean of a policy's batch; NaN before an objective was seen twice.

        Read from how far `values` [K, m] lie from the running mean that has not seen them, so what a policy gains in a
        step counts as noise too.
        """
        surprise = (values - self._mean(self.smoothed, self.smoothing)) ** 2
        self.surprise, self.surprises, square = running_mean(
            self.surprise, self.surprises, surprise, self.frame_smoothing
        )
        # A mean with memory a has (1 - a) / (1 + a) of a value's variance, so their difference has 2 / (1 + a) of it.
        return np.asarray(np.sqrt(square * (1 + self.smoothing) / 2))

    def _mean(self, total: FloatArray, keep: float) -> FloatArray:
        """The running mean [K, m] that a decayed sum stands for; NaN where nothing was seen."""
        seen = self.count > 0
        return np.where(seen, total / np.where(seen, 1 - keep**self.count, 1.0), np.nan)
