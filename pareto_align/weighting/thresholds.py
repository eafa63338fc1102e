"""Thresholds that move: constrained weightings whose thresholds are looked for within the run, by an audited objective.

A reward model that is held at a threshold is only as good as the threshold: the proxy point past which it stops to say
what is good. Here the thresholds that were given are where the search begins. What it goes by is the mean of the
audited objectives (role "audit"): a trusted score that is measured and never trained on. A threshold that has moved by
an offset lowers the slack of its constraint by that offset, so any constrained weighting can be steered this way.

References:
    Moskovitz et al., "Confronting Reward Model Overoptimization with Constrained RLHF", arXiv 2310.04373 (proxy points;
        Nelder-Mead over the thresholds of a single run), and its public code,
        https://github.com/tedmoskovitz/ConstrainedRL4LMs.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np

from pareto_align.arguments import Count, Memory, NotNegative, Positive, Whole, Within
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Part, Signal, make, register, running_mean
from pareto_align.weighting.nested import NestedWeighting
from pareto_align.weighting.simplex_search import NelderMead

__all__ = ["NelderMeadThresholds", "ProxyPoints"]

SMOOTHING = 0.5
"""Memory of the running mean that tells where a policy stands, as of the multipliers'."""


class _MovingThresholds(NestedWeighting):
    """A constrained weighting with offsets [K, c] on its thresholds; a subclass says how they move.

    Args:
        constraints: The weighting that holds the thresholds (a name, mapping or instance).

    Raises:
        ConfigError: `constraints` holds no thresholds.
    """

    requires = frozenset({"audits"})
    tries_policies = True
    state_names: ClassVar[tuple[str, ...]] = ("offsets",)

    offsets: FloatArray

    def __init__(self, *, constraints: Part) -> None:
        part = make(constraints)
        if "slack" not in part.requires:
            raise ConfigError(f"Weighting '{self.name}': `constraints` '{part.name}' holds no thresholds.")
        super().__init__([part])

    def setup(self, K: int, m: int) -> None:
        """Thresholds as given; how many there are is read off the first signal. [K, c] offsets."""
        super().setup(K, m)
        self._allocate(0)

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m + c] of the constrained weighting, under the moved thresholds.

        Raises:
            ConfigError: The signal has no constraints or no audited objectives.
        """
        self._check(signal)
        if signal.slack is None or signal.slack.shape[1] == 0:
            raise ConfigError(
                f"Weighting '{self.name}' needs constraints: give at least one objective role='constrain' with "
                "`at_least` or `at_most`. Found none."
            )
        if signal.audits is None or signal.audits.shape[1] == 0:
            raise ConfigError(
                f"Weighting '{self.name}' needs a score to go by: give at least one objective role='audit'. Found none."
            )
        c = signal.slack.shape[1]
        if self.offsets.shape[1] == 0:
            self._allocate(c)
        if self.offsets.shape[1] != c:
            raise ConfigError(
                f"Weighting '{self.name}' was started with {self.offsets.shape[1]} constraints. Found {c}."
            )
        self._move(signal.slack, signal.audits.mean(axis=1), signal.progress)
        return self.parts[0](dataclasses.replace(signal, slack=signal.slack - self.offsets))

    def _allocate(self, c: int) -> None:
        """Arrays for `c` constraints, thresholds as given."""
        self.offsets = np.zeros((self.K, c))

    @abstractmethod
    def _move(self, slack: FloatArray, audits: FloatArray, progress: float) -> None:
        """Learn the slack [K, c] to the given thresholds and the audited score [K], and set `offsets`."""


@register("nelder-mead-thresholds")
class NelderMeadThresholds(_MovingThresholds):
    """Looks for the thresholds with the best audited score by Nelder-Mead, while the policy goes on training.

    A vertex of the search is a set of thresholds. To score it the policy is trained until it stands there (its running
    mean is within `near` of every threshold), for `patience` steps at most, and the audited score is averaged over
    `readings` steps. The first vertices are the thresholds as given, and each of them raised by `radius`. For the last
    part of the run the thresholds stay at the best vertex.

    Every policy has a search of its own. c constraints take c + 1 vertices to begin with: below some hundred steps
    little is found, and "proxy-points" finds it sooner. A vertex keeps the score that the policy had when it stood
    there, although the policy has trained on since.

    Args:
        near: Distance from the thresholds, on the frozen scale, at which the policy counts as standing there.
        patience: Steps after which the score counts wherever the policy stands.
        readings: Steps whose scores are averaged.
        radius: Size of the first simplex, on the frozen scale.
        reach: Largest distance from the thresholds as given, in each constraint.
        tolerance: Size of the simplex at which the search ends. Published: .01.
        search: Share of the run after which thresholds stay at the best vertex.
        constraints: The weighting that holds the thresholds. Published: the equality form.

    Raises:
        ConfigError: A setting out of range.
    """

    state_names: ClassVar[tuple[str, ...]] = (
        *_MovingThresholds.state_names,
        "searches",
        "age",
        "total",
        "seen",
        "slow",
        "count",
    )

    def __init__(
        self,
        *,
        near: NotNegative = 0.03,
        patience: Whole = 40,
        readings: Count = 5,
        radius: Positive = 0.1,
        reach: Positive = 0.5,
        tolerance: NotNegative = 0.01,
        search: Annotated[float, Within(above=0, most=1)] = 0.8,
        constraints: Part = "lagrangian-equality",
    ) -> None:
        super().__init__(constraints=constraints)
        if radius > reach:
            raise ConfigError(f"NelderMeadThresholds needs `radius` <= `reach`. Found {radius} and {reach}.")
        self.near, self.patience, self.readings = float(near), int(patience), int(readings)
        self.radius, self.reach = float(radius), float(reach)
        self.tolerance, self.search = float(tolerance), float(search)

    def reset(self, slot: int) -> None:
        """The search of policy `slot` starts again at the thresholds as given."""
        super().reset(slot)
        self._begin(slot)

    def _allocate(self, c: int) -> None:
        super()._allocate(c)
        self.searches = np.zeros((self.K, len(self._fresh(c).pack()) if c else 0))
        self.age, self.seen = np.zeros(self.K, dtype=np.int64), np.zeros(self.K, dtype=np.int64)
        self.total = np.zeros(self.K)
        self.slow, self.count = np.zeros((self.K, c)), np.zeros((self.K, c))
        for slot in range(self.K):
            self._begin(slot)

    def _begin(self, slot: int) -> None:
        self.offsets[slot] = self.age[slot] = self.seen[slot] = self.total[slot] = 0
        self.slow[slot] = self.count[slot] = 0.0
        if c := self.offsets.shape[1]:
            self.searches[slot] = self._fresh(c).pack()

    def _fresh(self, c: int) -> NelderMead:
        return NelderMead(np.vstack([np.zeros(c), self.radius * np.eye(c)]), *self._box(c))

    def _box(self, c: int) -> tuple[FloatArray, FloatArray]:
        return np.full(c, -self.reach), np.full(c, self.reach)

    def _move(self, slack: FloatArray, audits: FloatArray, progress: float) -> None:
        self.slow, self.count, means = running_mean(self.slow, self.count, slack, SMOOTHING)
        # NaN, nothing seen yet, is not near.
        there = np.all(np.abs(means - self.offsets) <= self.near, axis=1)
        for k in range(self.K):
            search = NelderMead.unpack(self.searches[k], *self._box(slack.shape[1]))
            self.age[k] += 1
            if (there[k] or self.age[k] > self.patience) and np.isfinite(audits[k]):
                self.total[k] += audits[k]
                self.seen[k] += 1
            over = progress >= self.search or search.size <= self.tolerance
            if self.seen[k] >= self.readings and not over:
                search.tell(self.total[k] / self.seen[k])
                self.age[k] = self.seen[k] = self.total[k] = 0
                self.searches[k] = search.pack()
            self.offsets[k] = search.best if over else search.point


@register("proxy-points")
class ProxyPoints(_MovingThresholds):
    """Moves each threshold to where the audited score, as a quadratic in the proxies seen so far, is largest.

        gold ~ a + sum_i ( b_i r_i + c_i r_i^2 )          theta_i -> -b_i / (2 c_i)  where c_i < 0, within what was seen

    Least squares over all policies and steps, old ones forgotten: the surface belongs to the rewards, not to a policy.
    A threshold moves only while its curvature is below 0 by `confidence` standard errors. So it waits until the
    policies have passed through enough of the range to show a bend, and stays once they stand still and the data says
    no more.

    Args:
        memory: Share of the weight of what was seen that a step keeps: .98 is about the last 50 steps.
        warmup: Steps before thresholds may move.
        pace: Share of the way to the estimate that a step goes.
        confidence: Standard errors.
        interactions: True: products r_i r_j as well, and all thresholds move together, once the whole surface is
            concave. Proxies that are correlated need it, and c (c - 1) / 2 more coefficients.
        constraints: The weighting that holds the thresholds.

    Raises:
        ConfigError: A setting out of range.
    """

    state_names: ClassVar[tuple[str, ...]] = (
        *_MovingThresholds.state_names,
        "moments",
        "products",
        "energy",
        "low",
        "high",
        "steps",
    )

    def __init__(
        self,
        *,
        memory: Memory = 0.98,
        warmup: Whole = 20,
        pace: Annotated[float, Within(above=0, most=1)] = 0.1,
        confidence: NotNegative = 2.0,
        interactions: bool = False,
        constraints: Part = "lagrangian-equality",
    ) -> None:
        super().__init__(constraints=constraints)
        self.memory = float(memory)
        self.warmup, self.pace, self.confidence = int(warmup), float(pace), float(confidence)
        self.interactions = bool(interactions)

    def _allocate(self, c: int) -> None:
        # Sums of the features' products [p, p], of features times score [p] and of squared scores; range seen [c].
        super()._allocate(c)
        p = len(self._features(np.zeros((1, c)))[0])
        self.moments, self.products, self.energy = np.zeros((p, p)), np.zeros(p), 0.0
        self.low, self.high, self.steps = np.full(c, np.inf), np.full(c, -np.inf), 0

    def _move(self, slack: FloatArray, audits: FloatArray, progress: float) -> None:
        seen = np.isfinite(slack).all(axis=1) & np.isfinite(audits)
        if seen.any():
            features, scores = self._features(slack[seen]), audits[seen]
            self.moments = self.memory * self.moments + features.T @ features
            self.products = self.memory * self.products + scores @ features
            self.energy = self.memory * float(self.energy) + float(scores @ scores)
            self.low = np.minimum(self.low, slack[seen].min(axis=0))
            self.high = np.maximum(self.high, slack[seen].max(axis=0))
        self.steps = int(self.steps) + 1
        if self.steps <= self.warmup or self.moments[0, 0] <= len(self.products):
            return
        target = np.clip(self._peak(), self.low, self.high)
        step = self.pace * (target - self.offsets)
        self.offsets = self.offsets + np.where(np.isnan(step), 0.0, step)

    def _features(self, slack: FloatArray) -> FloatArray:
        """[n, 1 + 2 c], or c (c - 1) / 2 more with interactions."""
        i, j = np.triu_indices(slack.shape[1] if self.interactions else 0, 1)
        return np.column_stack([np.ones(len(slack)), slack, slack**2, slack[:, i] * slack[:, j]])

    def _peak(self) -> FloatArray:
        """Offsets [c] of the largest score; NaN for a threshold about which nothing is known."""
        c = self.offsets.shape[1]
        unknown = np.full(c, np.nan)
        # To unit diagonal: the features are powers of each other.
        scale = np.sqrt(np.diagonal(self.moments))
        if (scale <= 0).any():
            return unknown
        inverse = np.linalg.pinv(self.moments / np.outer(scale, scale), rcond=1e-10, hermitian=True)
        found = inverse @ (self.products / scale)
        count = float(self.moments[0, 0])
        left = max(float(self.energy) - float(found @ (self.products / scale)), 0.0)
        errors = np.sqrt(np.maximum(np.diagonal(inverse), 0.0) * left / (count - len(found)))
        found, errors = found / scale, errors / scale
        slopes, bends = found[1 : c + 1], found[c + 1 : 2 * c + 1]
        bent = bends + self.confidence * errors[c + 1 : 2 * c + 1] < 0
        if not self.interactions:
            return np.where(bent, -slopes / np.where(bent, 2 * bends, 1.0), np.nan)
        i, j = np.triu_indices(c, 1)
        surface = np.diag(2 * bends)
        surface[i, j] = surface[j, i] = found[2 * c + 1 :]
        if not (bent.all() and np.linalg.eigvalsh(surface).max() < 0):
            return unknown
        return np.asarray(-np.linalg.solve(surface, slopes))
