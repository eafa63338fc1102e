"""Weightings on two halves of a batch that share no completion: MoDo and ParetoDA.

A weighting that reads the Gramian of the very batch that it weighs sees that batch's noise: the expected square of a
noisy gradient is larger than the square of the expected one, and the min-norm weights of a sample are not those of the
expectation. The inner products of gradients from two independent halves have the expectation that is wanted.

References:
    Chen et al., "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and Conflict-Avoidance",
        arXiv 2305.20057 (MoDo), and its code in https://github.com/median-research-group/LibMTL.
    Lv et al., "Pareto Domain Adaptation", arXiv 2112.04137 (ParetoDA), and its public code,
        https://github.com/BIT-DA/ParetoDA.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.arguments import NotNegative, Positive
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, Weighting, normalize_rows, project_simplex, register
from pareto_align.weighting.gramians import Gradients, best_on_simplex, min_norm_point, require_gramians

__all__ = ["MoDo", "ParetoDA", "aligned_with"]


@register("modo")
class MoDo(Weighting):
    """MGDA for noisy gradients: weights follow the slope of |sum_i w_i g_i|^2, measured on two independent halves.

        w <- projection on the simplex of  w - gamma ( C w + rho (w - p) )
        C_ij = <g_i on one half, g_j on the other>

    The weights of a step come from the batches before it, so they are independent of the batch that they weigh. Every
    policy starts at its preference p, and rho pulls it back there; published is p = even, whose pull the projection
    cannot tell from that towards 0.

    Args:
        gamma: Step of the weights. The published code has .001 for raw gradients of image networks.
        rho: Strength of the pull back to the preference.
        raw: True: gradients as they are, as published; gamma then depends on the model and the reward's scale. False:
            products divided by the lengths of the whole batch's gradients, objectives with a negligible gradient keep
            their weight.

    Raises:
        ConfigError: A setting out of range.
    """

    requires = frozenset({"gramians", "cross_gramians"})
    state_names = ("weights",)

    def __init__(self, *, gamma: Positive = 0.1, rho: NotNegative = 0.1, raw: bool = False) -> None:
        self.gamma, self.rho, self.raw = float(gamma), float(rho), bool(raw)

    def setup(self, K: int, m: int) -> None:
        """Every policy at its preference, which the first signal tells. [K, m] weights, NaN before it."""
        super().setup(K, m)
        self.weights = np.full((K, m), np.nan)

    def reset(self, slot: int) -> None:
        """Policy `slot` starts again at its preference."""
        super().reset(slot)
        self.weights[slot] = np.nan

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1, before they learn from this signal.

        Raises:
            ConfigError: The signal has no Gramians, or none of two halves.
        """
        self._check(signal)
        gramians, cross = require_gramians(self, signal), require_cross_gramians(self, signal)
        preferences = normalize_rows(signal.preferences)
        rows = np.where(np.isnan(self.weights), preferences, self.weights)
        self.weights = rows.copy()
        for k in range(self.K):
            gradients = Gradients.of(gramians[k])
            if gradients is None or not np.isfinite(cross[k]).all():
                continue
            kept = np.full(self.m, True) if self.raw else gradients.active
            share = rows[k, kept].sum()
            if share <= 0:
                continue
            found = cross[k] if self.raw else _cosines(cross[k], gramians[k], kept)
            now = rows[k, kept] / share
            slope = found @ now + self.rho * (now - normalize_rows(preferences[k, kept]))
            moved = now - self.gamma * slope
            # Projecting is the same after a shift; a huge common part would swallow the sum of 1.
            self.weights[k, kept] = share * project_simplex(moved - moved.max())
        return rows


@register("pareto-da")
class ParetoDA(Weighting):
    """The mixture of gradients that goes furthest along a surrogate's gradient on the half that was held out.

        maximise  b.a  over the simplex,   a_i = <g_i, s>,  s = sum_j q_j g_j on the other half
        (C b)_j >= 0 for the objective best aligned with s,   (C b)_j >= a_j for those that s lets fall
        nothing is aligned with s:   (C b)_j >= 0 for all

    A surrogate stands for what is wanted and cannot be had on the training batch; in the paper a stand-in for the
    classification of unlabelled images, here a mixture q of the objectives, by default the policy's preference. The
    solution is a corner of a linear program: a single objective wherever all are aligned with the surrogate, a mixture
    where some conflict. No objective falls faster than along the surrogate itself.

    Either half is held out in turn, and both are part of the update: a_i is the mean of the two.

    Args:
        surrogate: [m] the mixture q, of non-negative numbers: what the held-out half is to improve. None: each policy's
            preference.
        raw: True: gradients as they are, as published. The longest ones then win. False: gradients at unit length, the
            negligible ones left out.

    Raises:
        ConfigError: `surrogate` is no mixture.
    """

    requires = frozenset({"gramians", "cross_gramians"})

    def __init__(self, *, surrogate: Sequence[float] | None = None, raw: bool = False) -> None:
        self.surrogate = None if surrogate is None else np.asarray(surrogate, dtype=np.float64)
        if self.surrogate is not None and not (
            np.isfinite(self.surrogate).all() and (self.surrogate >= 0).all() and self.surrogate.sum() > 0
        ):
            raise ConfigError(
                "ParetoDA `surrogate` must be finite numbers of at least 0, not all 0. "
                f"Found {self.surrogate.tolist()}."
            )
        self.raw = bool(raw)

    def setup(self, K: int, m: int) -> None:
        """Check the length of `surrogate`."""
        super().setup(K, m)
        if self.surrogate is not None and self.surrogate.shape != (m,):
            raise ConfigError(f"ParetoDA `surrogate` must be {m} numbers. Found {self.surrogate.tolist()}.")

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], rows of sum 1; the preference for a policy without gradients.

        Raises:
            ConfigError: The signal has no Gramians, or none of two halves.
        """
        self._check(signal)
        gramians, cross = require_gramians(self, signal), require_cross_gramians(self, signal)
        rows = normalize_rows(signal.preferences)
        for k, preference in enumerate(rows):
            gradients = Gradients.of(gramians[k])
            if gradients is None or not np.isfinite(cross[k]).all():
                continue
            mixture = preference if self.surrogate is None else normalize_rows(self.surrogate)
            # In the units of the normalised Gramian, and per length of the surrogate's gradient.
            along = (cross[k] + cross[k].T) @ mixture / 2 / float(np.diagonal(gramians[k]).max())
            along = along / max(np.sqrt(max(float(mixture @ gradients.gramian @ mixture), 0.0)), 1e-12)
            if self.raw:
                rows[k] = aligned_with(gradients.gramian, along)
                continue
            lengths = gradients.norms[gradients.active]
            units = aligned_with(gradients.cosines, along[gradients.active] / lengths)
            rows[k] = normalize_rows(gradients.spread(units))
        return rows


def aligned_with(gramian: ArrayLike, along: ArrayLike) -> FloatArray:
    """Weights [n] of the mixture that goes furthest along a surrogate, under the bounds of ParetoDA (arXiv 2112.04137).

    The bounds are never above 0, so the shortest mixture, whose gains are all at least 0, keeps them: there always is a
    solution.

    Args:
        gramian: [n, n] of the gradients.
        along: [n] inner products of the gradients with that of the surrogate.
    """
    found, gains = np.asarray(gramian, dtype=np.float64), np.asarray(along, dtype=np.float64)
    bounds = np.zeros(len(gains))
    if (gains > 0).any():
        bounds = np.where(gains > 0, -np.inf, gains)
        bounds[int(gains.argmax())] = 0.0
    point = best_on_simplex(gains, found, bounds)
    # Only rounding can deny a solution.
    return min_norm_point(found) if point is None else point


def require_cross_gramians(weighting: Weighting, signal: Signal) -> FloatArray:
    """The inner products [K, m, m] between two halves of the batch.

    Raises:
        ConfigError: There are none.
    """
    if signal.cross_gramians is None:
        raise ConfigError(
            f"Weighting '{weighting.name}' needs the objectives' gradients on two halves of the batch: "
            "Signal.cross_gramians [K, m, m]. Found None."
        )
    return signal.cross_gramians


def _cosines(cross: FloatArray, gramian: FloatArray, kept: np.ndarray) -> FloatArray:
    """Products [a, a] between halves as shares of the lengths of the whole batch's gradients; noise can exceed 1."""
    lengths = np.sqrt(np.diagonal(gramian)[kept])
    return np.asarray(np.clip(cross[np.ix_(kept, kept)] / lengths[:, None] / lengths[None, :], -1.0, 1.0))
