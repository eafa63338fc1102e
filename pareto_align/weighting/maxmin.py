"""MaxMin weighting: the step goes to the objective that a policy serves worst.

References:
    Chakraborty et al., "MaxMin-RLHF: Alignment with Diverse Human Preferences", arXiv 2402.08925 (the worst group's
        expected reward; the hard rule).
    Freund and Schapire, "Adaptive game playing using multiplicative weights", Games and Economic Behavior 29, 1999
        (multiplicative weights; the average of the iterates is near the value of the game).
    Daskalakis and Panageas, "Last-Iterate Convergence: Zero-Sum Games and Constrained Min-Max Optimization",
        arXiv 1807.04252 (the optimistic step).
    Shamir and Zhang, "Stochastic Gradient Descent for Non-smooth Optimization: Convergence Results and Optimal
        Averaging Schemes", arXiv 1212.1824 (the average that forgets its beginning).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from pareto_align.arguments import Memory, NotNegative, Positive
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, normalize_rows, register, running_mean, softmax
from pareto_align.weighting.means import SmoothedWeighting

__all__ = ["MaxMin"]

Rule = Literal["hard", "multiplicative"]


@register("maxmin")
class MaxMin(SmoothedWeighting):
    """Maximises the smallest of the objectives' expectations: max over policies of min_i F_i, F_i = E[r_i].

        "hard"            weight 1 on argmin_i F_i                                     (the paper)
        "multiplicative"  u_i <- u_i exp(-eta F_i); row proportional to (average of the u so far) exp(-gain F_i)

    F_i is the running mean of the policy's own values on the frozen scale, so the minimum is over expectations, never
    over the rewards of a sample: E[min_i r_i] is another and more cautious objective. The objectives play the part of
    the paper's user groups: give each group's reward model as an objective of its own. Groups that want several of the
    objectives, each in its own mixture, are given as `groups`; F_u is then the mixture of group u, the minimum is over
    groups, and an objective's weight is what the groups' weights make of it.

    A preference says who is looked after, not how much: it is where the weights start, and an objective of preference 0
    stays at weight 0. All policies with the same support head for the same point, so one policy is a population. Of
    groups, each starts with the preference of what it wants, and one that wants nothing preferred stays at 0.

    Args:
        rule: "hard" swings between the objectives; "multiplicative" (default) settles on a mixture.
        eta: Pace of the multiplicative weights, per step and unit of value.
        gain: How strongly the row answers to the present F, beside what the average has learnt; the optimistic step of
            arXiv 1807.04252, which has gain = eta. The theory is about the average of all policies on the way; what is
            kept is the last one, which swings into a corner with gain 0.
        averaging: How fast the average of the multiplicative weights forgets: the newest counts (averaging + 1) /
            (t + averaging) in step t. 0 is the plain average of the theory.
        reach: Largest ratio, as a logarithm, by which the multiplicative weights leave the preference. Bounds how long
            the way back is.
        regret: True: min-max regret. F_i - F_i* instead of F_i, where F_i* is the best (slow) running mean seen in the
            population or `ideal`, so that an objective that cannot be served well does not hold up the others for ever.
            The population must then train the corners, or `ideal` be given.
        ideal: [m] best possible values for `regret`, in the units of `Signal.values`; with `groups` one a group.
        groups: [g, m] how much of each objective each of g groups wants, in non-negative numbers, scaled to sum 1 a
            group. None: each objective is a group.
        smoothing: Memory of each policy's running mean.
        frame_smoothing: Memory of the means that F* is read from; a running maximum collects every lucky batch.

    Raises:
        ConfigError: A setting out of range, or `ideal` without `regret`.
    """

    state_names: ClassVar[tuple[str, ...]] = (*SmoothedWeighting.state_names, "slow", "best", "drift", "average", "age")

    def __init__(
        self,
        *,
        rule: Rule = "multiplicative",
        eta: Positive = 0.5,
        gain: NotNegative = 20.0,
        averaging: NotNegative = 3.0,
        reach: Positive = 5.0,
        regret: bool = False,
        ideal: Sequence[float] | None = None,
        groups: Sequence[Sequence[float]] | None = None,
        smoothing: float = 0.5,
        frame_smoothing: Memory = 0.9,
    ) -> None:
        super().__init__(smoothing=smoothing)
        if ideal is not None and not regret:
            raise ConfigError("MaxMin `ideal` is what regret is counted from: set `regret` as well.")
        self.rule: Rule = rule
        self.eta, self.gain, self.averaging, self.reach = float(eta), float(gain), float(averaging), float(reach)
        self.regret = bool(regret)
        self.ideal = None if ideal is None else np.asarray(ideal, dtype=np.float64)
        self.groups = None if groups is None else _mixtures(groups)
        self.frame_smoothing = float(frame_smoothing)

    def setup(self, K: int, m: int) -> None:
        """Forget all values seen; every policy's weights at its preference. [K, g] but best [g] and age [K]."""
        super().setup(K, m)
        if self.groups is not None and self.groups.shape[1] != m:
            raise ConfigError(
                f"MaxMin `groups` must say of {m} objectives how much each group wants. Found rows of "
                f"{self.groups.shape[1]}."
            )
        g = m if self.groups is None else len(self.groups)
        if self.ideal is not None and (self.ideal.shape != (g,) or not np.isfinite(self.ideal).all()):
            raise ConfigError(f"MaxMin `ideal` must be {g} finite numbers. Found {self.ideal.tolist()}.")
        self.best = np.full(g, np.nan)
        self.smoothed, self.count, self.slow, self.drift, self.average = (np.zeros((K, g)) for _ in range(5))
        self.age = np.zeros(K, dtype=np.int64)

    def reset(self, slot: int) -> None:
        """Policy `slot` starts again at its preference; the best values, which somebody did reach, stay."""
        super().reset(slot)
        for array in (self.slow, self.drift, self.average, self.age):
            array[slot] = 0

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1. An objective of a policy that was never seen counts like its worst one."""
        self._check(signal)
        preferences, values = normalize_rows(signal.preferences), signal.values
        if self.groups is None:
            return self._over(values, preferences)
        # NaN where anything that the group wants was not seen.
        served = np.where(self.groups > 0, self.groups * values[:, None, :], 0.0).sum(axis=2)
        return self._over(served, normalize_rows(preferences @ self.groups.T)) @ self.groups

    def _over(self, values: FloatArray, preferences: FloatArray) -> FloatArray:
        """Weights [K, g] of the groups with these values and preferences [K, g]."""
        merits = self._merits(values)
        if self.rule == "hard":
            return _worst(merits, preferences)
        # A common shift of a policy's merits cancels in its weights; taking it out first keeps huge values apart.
        behind = np.fmin.reduce(merits, axis=1, keepdims=True)
        lead = np.where(np.isnan(merits), 0.0, merits - np.where(np.isnan(behind), 0.0, behind))
        self.drift = self.drift - self.eta * lead
        self.drift = np.maximum(self.drift - self.drift.max(axis=1, keepdims=True), -self.reach)
        with np.errstate(divide="ignore"):
            iterates = softmax(np.log(preferences) + self.drift)
        self.age = self.age + 1
        share = ((self.averaging + 1) / (self.age + self.averaging))[:, None]
        self.average = (1 - share) * self.average + share * iterates
        with np.errstate(divide="ignore"):
            return softmax(np.log(self.average) - self.gain * lead)

    def _merits(self, values: FloatArray) -> FloatArray:
        """F_i, or F_i - F_i* with `regret`, of each policy, [K, g]; NaN where nothing was ever seen."""
        seen = self.count
        means = self._means(values)
        if not self.regret:
            return means
        if self.ideal is not None:
            return np.asarray(means - self.ideal)
        self.slow, _, slow = running_mean(self.slow, seen, values, self.frame_smoothing)
        self.best = np.fmax(self.best, np.fmax.reduce(slow, axis=0))
        return np.asarray(means - self.best)


def _mixtures(groups: Sequence[Sequence[float]]) -> FloatArray:
    """The groups' wants as rows [g, m] of the simplex."""
    try:
        found = np.asarray(groups, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 2 or not np.isfinite(found).all() or (found < 0).any() or (found.sum(axis=1) <= 0).any():
        raise ConfigError(
            "MaxMin `groups` must be rows of numbers of at least 0: a row a group, a number an objective, none all 0. "
            f"Found {groups!r}."
        )
    return normalize_rows(found)


def _worst(merits: FloatArray, preferences: FloatArray) -> FloatArray:
    """All weight on the smallest merit among the objectives of a positive preference, shared by preference in a tie."""
    candidates = np.where((preferences > 0) & ~np.isnan(merits), merits, np.inf)
    smallest = candidates.min(axis=1, keepdims=True)
    # Nothing known yet: every candidate is infinite, and the row is the preference.
    return normalize_rows(np.where(candidates == smallest, preferences, 0.0))
