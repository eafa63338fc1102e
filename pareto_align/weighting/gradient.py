"""Gradient-based dynamic weights: mirror ascent on the influence of each objective's gradient on all of them.

References:
    Lu et al., "Learning to Optimize Multi-Objective Alignment Through Dynamic Reward Weighting", arXiv 2509.11452,
        and its public code, https://github.com/yining610/dynamic-reward-weighting.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.arguments import Count, Memory, NotNegative, Positive
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, Weighting, interior, register, softmax
from pareto_align.weighting.gramians import Gradients, require_gramians

__all__ = ["GradientInfluence", "influence"]

Lengths = Literal["unit", "clip", "raw"]


def influence(gramian: ArrayLike, lengths: Lengths = "unit") -> FloatArray:
    """First-order gain [m] of the sum of all objectives from a step along each gradient: I_i = sum_k <g_i, g_k>.

    Args:
        gramian: [m, m] inner products of the gradients.
        lengths: "unit" takes every gradient at length 1 (a zero gradient stays zero), "clip" at no more than 1 as
            arXiv 2509.11452 does, "raw" as it is.
    """
    found = np.asarray(gramian, dtype=np.float64)
    if lengths == "raw":
        return np.asarray(found.sum(axis=1))
    gradients = Gradients.of(found)
    if gradients is None:
        return np.zeros(len(found))
    kept = gradients.active.astype(np.float64)
    if lengths == "clip":
        kept *= np.minimum(np.sqrt(np.maximum(np.diagonal(found), 0.0)), 1.0)
    cosines = np.zeros_like(found)
    cosines[np.ix_(gradients.active, gradients.active)] = gradients.cosines
    return np.asarray(kept * (cosines @ kept))


@register("gradient")
class GradientInfluence(Weighting):
    """Moves weight towards objectives whose gradient helps all of them (algorithm B of arXiv 2509.11452).

        w <- softmax( log w + (lr_t / mu) I )         I_i = sum_k <g_i, g_k>

    Entropic mirror ascent on the first-order gain of the sum of the objectives. Every policy starts at its preference;
    orthogonal gradients of equal length leave the weights where they are, and an objective that opposes the others
    loses weight.

    The published rule forgets where it started: on conflicting objectives the weights of every policy end up on
    whatever the majority agrees with. `anchor` above 0 pulls them back to the preference.

    Args:
        lr: Peak of the learning rate in the rule. With `mu` only the ratio matters; the defaults are the paper's for
            MATH-500 (ratio 0.1).
        mu: Strength of the entropic regulariser; the paper has 1e-4 for its other settings (ratio 0.01).
        decay: True: lr_t falls linearly to 0 over the run, like the policies' learning rate; False: constant.
        accumulate: Steps whose influences are averaged before the weights move.
        lengths: "unit" (default): gradients at length 1, so that the pace does not depend on the model or the reward's
            scale. "clip": each gradient's length clipped to 1, as the paper has it. "raw": as they are.
        anchor: Share of the way back to the preference that is gone in every move; 0 as in the paper.
        floor: Smallest preference entry at the start: a multiplicative rule never leaves a weight of exactly 0.

    Raises:
        ConfigError: A setting out of range.
    """

    requires = frozenset({"gramians"})
    state_names = ("drift", "pending", "count")

    def __init__(
        self,
        *,
        lr: NotNegative = 1e-6,
        mu: Positive = 1e-5,
        decay: bool = True,
        accumulate: Count = 1,
        lengths: Lengths = "unit",
        anchor: Memory = 0.0,
        floor: NotNegative = 1e-3,
    ) -> None:
        self.lr, self.mu, self.decay, self.accumulate = float(lr), float(mu), bool(decay), int(accumulate)
        self.lengths: Lengths = lengths
        self.anchor, self.floor = float(anchor), float(floor)

    def setup(self, K: int, m: int) -> None:
        """Every policy at its preference. [K, m] drift of the log-weights from it, [K, m] influences not yet used."""
        super().setup(K, m)
        if self.floor * m >= 1:
            raise ConfigError(f"GradientInfluence `floor` must be below 1/m = {1 / m:.3g}. Found {self.floor}.")
        self.drift = np.zeros((K, m))
        self.pending = np.zeros((K, m))
        self.count = np.zeros(K, dtype=np.int64)

    def reset(self, slot: int) -> None:
        """Policy `slot` starts again at its preference."""
        super().reset(slot)
        self.drift[slot] = 0.0
        self.pending[slot] = 0.0
        self.count[slot] = 0

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1. A policy without a finite gradient keeps the weights it has.

        Raises:
            ConfigError: The signal has no Gramians.
        """
        self._check(signal)
        pace = self.lr / self.mu
        if self.decay:
            pace *= 1 - max(min(signal.step / max(signal.steps, 1), 1.0), signal.spent)
        for k, gramian in enumerate(require_gramians(self, signal)):
            if np.isfinite(gramian).all():
                self._learn(k, influence(gramian, self.lengths), pace)
        # The log-weights are the preference's plus a drift, so a preference that changes on the way is followed.
        start = interior(signal.preferences, self.floor)
        with np.errstate(divide="ignore"):
            return softmax(np.log(start) + self.drift)

    def _learn(self, slot: int, found: FloatArray, pace: float) -> None:
        # Raw products may be as large as floats go; their sum over steps must not be infinite.
        self.pending[slot] += np.clip(found, -1e200, 1e200)
        self.count[slot] += 1
        if self.count[slot] < self.accumulate:
            return
        move = pace * self.pending[slot] / self.count[slot]
        drift = (1 - self.anchor) * self.drift[slot] + move
        # Softmax only sees differences, and exp(-500) is no weight at all.
        self.drift[slot] = np.maximum(drift - drift.max(), -500.0)
        self.pending[slot] = 0.0
        self.count[slot] = 0
