"""The Tchebycheff family beside the default: hard, augmented, smooth as published, soft minimum, random rays, PSA.

References:
    Felten et al., "Multi-Objective Reinforcement Learning Based on Decomposition: A Taxonomy and Framework",
        arXiv 2311.12495, and its public code, https://github.com/LucasAlegre/morl-baselines (Tchebycheff with a moving
        ideal point; PSA weight adaptation).
    Steuer and Choo, "An interactive weighted Tchebycheff procedure for multiple objective programming", Mathematical
        Programming 26, 1983 (the augmentation term).
    Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", arXiv 2402.19078 (STCH).
    RVPO, arXiv 2605.05750 (the soft minimum).
    Golovin and Zhang, "Random Hypervolume Scalarizations for Provable Multi-Objective Black Box Optimization",
        arXiv 2006.04655.
    Czyzak and Jaszkiewicz, "Pareto simulated annealing: a metaheuristic technique for multiple-objective combinatorial
        optimization", Journal of Multi-Criteria Decision Analysis 7(1), 34-47, 1998 (PSA).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.arguments import NotNegative, Positive, Whole, Within
from pareto_align.errors import ConfigError
from pareto_align.front.dominance import nondominated_mask
from pareto_align.weighting.base import FloatArray, Part, Signal, interior, make, normalize_rows, register, softmax
from pareto_align.weighting.chebyshev import FramedScalarization, smooth_chebyshev_gradient
from pareto_align.weighting.means import SmoothedWeighting
from pareto_align.weighting.nested import NestedWeighting

__all__ = [
    "PSA",
    "STCH",
    "AugmentedTchebycheff",
    "HypervolumeScalarization",
    "SoftMin",
    "Tchebycheff",
    "soft_min",
    "soft_min_gradient",
]


@register("tchebycheff")
class Tchebycheff(FramedScalarization):
    """All weight on the objective that is furthest behind the policy's ray: ascent on -max_i w_i s_i.

    s_i = (z_i - v_i) / d_i is the shortfall as in "chebyshev", whose limit for `mu` to 0 this is. The weights switch
    with the noise of the values; "chebyshev" is the same place with a steadier step.

    Args:
        tau: The moving ideal point lies this share of the range above the best running mean seen in the population.
            The public code has .5 in raw units, which pulls all places towards the middle.
        floor: Smallest preference entry; a weight of exactly 0 would leave that objective to drift.
        smoothing: Memory of each policy's running mean.
        frame_smoothing: Memory of the means that ideal and nadir are read from.
        min_range: Smallest range, in the units of `Signal.values`.
        ideal: [m] fixed ideal point in the units of `Signal.values`, instead of the moving one.
        nadir: [m] fixed nadir point.

    Raises:
        ConfigError: A setting out of range.
    """

    rho: float = 0.0

    def _slope(self, preferences: FloatArray, shortfalls: FloatArray) -> FloatArray:
        return np.asarray(preferences * (_largest(preferences * shortfalls) + self.rho))


@register("augmented-tchebycheff")
class AugmentedTchebycheff(Tchebycheff):
    """Tchebycheff with a linear part, which no weakly dominated point survives: -max_i w_i s_i - rho sum_i w_i s_i.

    Args:
        rho: Strength of the linear part; .01 to .05 are usual.
        tau: The moving ideal point lies this share of the range above the best running mean seen in the population.
        floor: Smallest preference entry.
        smoothing: Memory of each policy's running mean.
        frame_smoothing: Memory of the means that ideal and nadir are read from.
        min_range: Smallest range, in the units of `Signal.values`.
        ideal: [m] fixed ideal point in the units of `Signal.values`, instead of the moving one.
        nadir: [m] fixed nadir point.

    Raises:
        ConfigError: A setting out of range.
    """

    def __init__(
        self,
        *,
        rho: NotNegative = 0.05,
        **framed: Any,
    ) -> None:
        super().__init__(**framed)
        self.rho = float(rho)


@register("stch")
class STCH(FramedScalarization):
    """The smooth Tchebycheff scalarization as published: ascent on -mu log sum_i exp(w_i s_i / mu).

    Differs from "chebyshev" in its temperature (the softmax sees w, not m w, so `mu` grows smoother with m) and in
    having no linear part: it is `Chebyshev(mu=m * mu, rho=0)`. Shortfalls s are in shares of the range that the
    population spans, where the published code takes losses as they are or normalises them by hand.

    Args:
        mu: Temperature of the smooth maximum; .01 is published for Pareto set learning.
        tau: The moving ideal point lies this share of the range above the best running mean seen in the population.
        floor: Smallest preference entry.
        smoothing: Memory of each policy's running mean.
        frame_smoothing: Memory of the means that ideal and nadir are read from.
        min_range: Smallest range, in the units of `Signal.values`.
        ideal: [m] fixed ideal point in the units of `Signal.values`, instead of the moving one.
        nadir: [m] fixed nadir point.

    Raises:
        ConfigError: A setting out of range.
    """

    def __init__(
        self,
        *,
        mu: Positive = 0.01,
        **framed: Any,
    ) -> None:
        super().__init__(**framed)
        self.mu = float(mu)

    def _slope(self, preferences: FloatArray, shortfalls: FloatArray) -> FloatArray:
        return smooth_chebyshev_gradient(-shortfalls, preferences, 0.0, mu=self.mu)


def soft_min(values: ArrayLike, weights: ArrayLike, /, k: float) -> FloatArray:
    """Soft minimum [...] of `values` [..., m]: -(1/k) log sum_i w_i exp(-k v_i), for weights of sum 1.

    `k` to 0 is the weighted mean, `k` to infinity the smallest value of positive weight; near the mean it is mean -
    k/2 variance, both over the objectives.
    """
    v, w = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    low = v.min(axis=-1, keepdims=True)
    return np.asarray(low[..., 0] - np.log((w * np.exp(-k * (v - low))).sum(axis=-1)) / k)


def soft_min_gradient(values: ArrayLike, weights: ArrayLike, /, k: ArrayLike) -> FloatArray:
    """Gradient [..., m] of `soft_min` in `values`, w_i exp(-k v_i) scaled to sum 1; `k` = 0 gives the weights."""
    v, w = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return softmax(np.log(w) - np.asarray(k) * v)


@register("softmin")
class SoftMin(SmoothedWeighting):
    """Between the weighted mean and the worst objective: ascent on -(1/k) log sum_i w_i exp(-k v_i).

    The scalarization of RVPO (arXiv 2605.05750), taken of a policy's expectations on the frozen scale. RVPO takes it of
    each sample's z-scored advantages; a weighting sees expectations only, and what is equalised here is what the policy
    achieves, not what a sample does. The values are compared as they are, without a frame: an objective bounded to
    [0, 1] counts from its lower bound, one without bounds in standard deviations from the reference policy.

    Args:
        k: How much the worst objective counts; 0 is fixed weights. The softmax of the weights has temperature 1/k.
        k_end: `k` moves linearly from `k` to this over the run; None keeps it.
        smoothing: Memory of each policy's running mean.

    Raises:
        ConfigError: A setting out of range.
    """

    per_policy = True

    def __init__(self, *, k: NotNegative = 10.0, k_end: NotNegative | None = None, smoothing: float = 0.5) -> None:
        super().__init__(smoothing=smoothing)
        self.k, self.k_end = float(k), float(k if k_end is None else k_end)

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1. A policy with an objective never yet seen gets its preference."""
        self._check(signal)
        preferences, means = normalize_rows(signal.preferences), self._means(signal.values)
        known = ~np.isnan(means).any(axis=1, keepdims=True)
        k = self.k + signal.progress * (self.k_end - self.k)
        return np.where(known, soft_min_gradient(np.where(known, means, 0.0), preferences, k), preferences)


@register("hypervolume-scalarization")
class HypervolumeScalarization(FramedScalarization):
    """Each policy climbs along a random ray from below the nadir: ascent on min_i (max(0, y_i) / u_i)^m.

    y_i = 1 + margin - s_i is a policy's height above the reference point, in shares of the range, and u a direction
    drawn evenly from the positive part of the unit sphere. The expectation over u of the best policy's scalarization is
    the population's hypervolume up to a constant, so a population of many random rays climbs the hypervolume.

    The gradient lies on the objective with the smallest y_i / u_i. Below the reference point, where the scalarization
    is flat, that objective is still the one to raise. The preferences are not used.

    Args:
        seed: Of the directions. Policy k's n-th direction depends on the seed, k and n only.
        redraw: Steps after which a policy gets a new direction; 0 keeps the first. With new directions every step all
            policies climb the same expectation and meet in the middle.
        margin: The reference point lies this share of the range below the nadir, so that the ends of the front count.
        smoothing: Memory of each policy's running mean.
        frame_smoothing: Memory of the means that ideal and nadir are read from.
        min_range: Smallest range, in the units of `Signal.values`.
        ideal: [m] fixed ideal point in the units of `Signal.values`, instead of the moving one.
        nadir: [m] fixed nadir point.

    Raises:
        ConfigError: A setting out of range.
    """

    reading = "rate"  # a random ray is no place that was asked for
    state_names: ClassVar[tuple[str, ...]] = (*FramedScalarization.state_names, "directions", "drawn", "age")

    def __init__(
        self,
        *,
        seed: Whole = 0,
        redraw: Whole = 0,
        margin: NotNegative = 0.1,
        smoothing: float = 0.5,
        frame_smoothing: float = 0.9,
        min_range: float = 0.1,
        ideal: Sequence[float] | None = None,
        nadir: Sequence[float] | None = None,
    ) -> None:
        super().__init__(  # no preference, so none of what shapes one
            tau=0.0,
            floor=0.0,
            smoothing=smoothing,
            frame_smoothing=frame_smoothing,
            min_range=min_range,
            ideal=ideal,
            nadir=nadir,
        )
        self.seed, self.redraw, self.margin = int(seed), int(redraw), float(margin)

    def setup(self, K: int, m: int) -> None:
        """Draw every policy's first direction [K, m]; [K] directions drawn and steps since the last."""
        super().setup(K, m)
        self.directions = np.empty((K, m))
        self.drawn = np.zeros(K, dtype=np.int64)
        self.age = np.zeros(K, dtype=np.int64)
        for slot in range(K):
            self._draw(slot)

    def reset(self, slot: int) -> None:
        """Policy `slot` starts again at its first direction."""
        super().reset(slot)
        self.drawn[slot] = 0
        self._draw(slot)

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1. A policy with an objective never yet seen gets its preference."""
        self._check(signal)
        if self.redraw:
            for slot in np.flatnonzero(self.age == self.redraw):
                self._draw(int(slot))
        self.age = self.age + 1
        return super().__call__(signal)

    def _slope(self, preferences: FloatArray, shortfalls: FloatArray) -> FloatArray:
        heights = 1 + self.margin - shortfalls
        return _largest(-heights / self.directions)

    def _draw(self, slot: int) -> None:
        normal = np.random.default_rng([self.seed, slot, int(self.drawn[slot])]).standard_normal(self.m)
        # The largest entry of m normal numbers is never 0; an entry may be, and nothing is divided by less than this.
        self.directions[slot] = np.maximum(np.abs(normal) / np.linalg.norm(normal), 1e-6)
        self.drawn[slot] += 1
        self.age[slot] = 0


@register("psa")
class PSA(NestedWeighting):
    """Spreads policies by their weights: each is pushed away from the nearest point that was measured.

        c = the nearest archived measurement further than `distance` from the policy's own
        w_j <- w_j * factor where the policy is at least as good as c, w_j / factor elsewhere;  w <- w / sum(w)

    A policy's weights start at its preference and move once a measurement (arXiv 2311.12495, algorithm PSA). They are
    then used as preferences by `scalarization`. The archive is the non-dominated part of everything that the population
    measured.

    The published distance is in raw reward units; here measurements are compared as shares of the range that the
    archive spans. Published weights of exactly 0 stay 0; here preferences are pulled off the border first.

    Args:
        scalarization: What the adapted weights are used by: a weighting's name, a mapping with `name` and its
            settings, or an instance. The published code has the weighted sum ("fixed") and Tchebycheff.
        factor: What a weight is multiplied or divided by in one adaptation.
        distance: Smallest Euclidean distance, in shares of the archive's range, of the point to be pushed away from.
        floor: Smallest preference entry at the start.

    Raises:
        ConfigError: A setting out of range.
    """

    requires = frozenset({"measured"})
    state_names: ClassVar[tuple[str, ...]] = ("drift", "latest", "points")

    def __init__(
        self,
        *,
        scalarization: Part = "fixed",
        factor: Annotated[float, Within(above=1)] = 1.1,
        distance: NotNegative = 0.1,
        floor: NotNegative = 1e-3,
    ) -> None:
        super().__init__([make(scalarization)])
        self.factor, self.distance, self.floor = float(factor), float(distance), float(floor)

    def setup(self, K: int, m: int) -> None:
        """Every policy at its preference. [K, m] drift of log-weights, [K, m] latest measurement, [n, m] archive."""
        super().setup(K, m)
        if self.floor * m >= 1:
            raise ConfigError(f"PSA `floor` must be below 1/m = {1 / m:.3g}. Found {self.floor}.")
        self.drift = np.zeros((K, m))
        self.latest = np.full((K, m), np.nan)
        self.points = np.empty((0, m))

    def reset(self, slot: int) -> None:
        """Policy `slot` starts again at its preference; its points stay in the archive, they were reached."""
        super().reset(slot)
        self.drift[slot] = 0.0
        self.latest[slot] = np.nan

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m] of the scalarization under the adapted preferences."""
        self._check(signal)
        if signal.measured is not None:
            self._learn(signal.measured)
        with np.errstate(divide="ignore"):
            preferences = softmax(np.log(interior(signal.preferences, self.floor)) + self.drift)
        return self.parts[0](dataclasses.replace(signal, preferences=preferences))

    def _learn(self, measured: FloatArray) -> None:
        # A row equal to the last one is the same measurement handed in again.
        new = ~np.isnan(measured).any(axis=1) & (measured != self.latest).any(axis=1)
        if not new.any():
            return
        self.latest[new] = measured[new]
        points = np.vstack([self.points, measured[new]])
        self.points = points[nondominated_mask(points)]
        span = np.ptp(self.points, axis=0)
        span = np.where(span > 0, span, 1.0)
        for k in np.flatnonzero(new):
            apart = np.linalg.norm((self.points - measured[k]) / span, axis=1)
            if (apart > self.distance).any():
                nearest = self.points[np.argmin(np.where(apart > self.distance, apart, np.inf))]
                self.drift[k] += np.where(measured[k] >= nearest, 1.0, -1.0) * np.log(self.factor)
                # Only differences matter; without this a long run would add up to a number without digits left.
                self.drift[k] -= self.drift[k].mean()


def _largest(pull: FloatArray) -> FloatArray:
    """1 at the largest entry of each row [..., m], 0 elsewhere; 1 at each of several equal ones."""
    return np.asarray((pull == pull.max(axis=-1, keepdims=True)).astype(np.float64))
