"""Hypervolume-guided weighting: a policy whose last measurement grew the front takes larger steps.

References:
    Lu et al., "Learning to Optimize Multi-Objective Alignment Through Dynamic Reward Weighting", arXiv 2509.11452,
        and its public code, https://github.com/yining610/dynamic-reward-weighting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pareto_align.arguments import Positive
from pareto_align.errors import ConfigError
from pareto_align.front.dominance import nondominated_mask
from pareto_align.front.indicators import hypervolume
from pareto_align.weighting.base import FloatArray, Signal, Weighting, register

__all__ = ["Hypervolume", "HypervolumePaper", "meta_factor"]


def meta_factor(growth: FloatArray | float, gain: float = 1.0) -> FloatArray:
    """0.5 + 1.5 tanh(gain * growth), as in arXiv 2509.11452: 0.5 without growth, 2 where it is large."""
    return np.asarray(0.5 + 1.5 * np.tanh(gain * np.maximum(growth, 0.0)))


def _growth(point: FloatArray, front: FloatArray, reference: FloatArray) -> float:
    """Hypervolume that `point` [m] adds to `front` [n, m] above `reference` [m]; never negative."""
    before = float(hypervolume(front, ref=reference)) if len(front) else 0.0
    return max(float(hypervolume(np.vstack([front, point]), ref=reference)) - before, 0.0)


@register("hypervolume")
class Hypervolume(Weighting):
    """Fixed preferences times a step factor in [0.5, 2] earned by growing the measured front.

    weights of policy k = preference_k * (0.5 + 1.5 tanh(gain * dHV_k)), where dHV_k is the hypervolume that its newest
    measurement adds to everything the population had measured before. The factor multiplies the advantage *after*
    normalisation (`applies_to = "advantage"`), because before it a std-normalised advantage cancels it.

    Args:
        gain: Growth, in shares of the unit box, is multiplied by this before tanh.
        share_front: True: a policy must add to what the whole population has; False: to its own past only.

    Raises:
        ConfigError: `gain` is not positive.
    """

    requires = frozenset({"measured"})
    state_names = ("factor", "latest", "points", "owner")

    def __init__(self, *, gain: Positive = 20.0, share_front: bool = True) -> None:
        self.gain, self.share_front = float(gain), bool(share_front)

    def setup(self, K: int, m: int) -> None:
        """Forget all measurements: factors 1, no points."""
        super().setup(K, m)
        self.factor = np.ones(K)
        self.latest = np.full((K, m), np.nan)
        self.points = np.empty((0, m))
        self.owner = np.empty(0, dtype=np.int64)

    def reset(self, slot: int) -> None:
        """Policy `slot` starts again at factor 1; in a shared front its points stay, they were reached."""
        super().reset(slot)
        self.factor[slot] = 1.0
        self.latest[slot] = np.nan
        if not self.share_front:
            keep = self.owner != slot
            self.points, self.owner = self.points[keep], self.owner[keep]

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m] with row sums in [0.5, 2]; a factor stays as it is until that policy is measured again."""
        self._check(signal)
        if signal.measured is not None:
            self._learn(signal.measured)
        return np.asarray(signal.preferences * self.factor[:, None])

    def _learn(self, measured: FloatArray) -> None:
        # A row equal to the last one is the same measurement handed in again, not a new one without growth.
        new = np.flatnonzero(~np.isnan(measured).any(axis=1) & (measured != self.latest).any(axis=1))
        before, owner = self.points, self.owner
        for k in new:
            mine = before if self.share_front else before[owner == k]
            if np.isnan(self.latest[k]).all():
                continue  # the first measurement says where a policy started, not what a step of it achieved
            self.factor[k] = meta_factor(_growth(measured[k], mine, np.zeros(self.m)), self.gain)
        self.latest[new] = measured[new]
        self.points = np.vstack([before, measured[new]])
        self.owner = np.concatenate([owner, new])
        self._prune()

    def _prune(self) -> None:
        keep = np.zeros(len(self.points), dtype=bool)
        groups = (
            [np.arange(len(self.points))]
            if self.share_front
            else [np.flatnonzero(self.owner == k) for k in range(self.K)]
        )
        for rows in groups:
            if len(rows):
                keep[rows[nondominated_mask(self.points[rows])]] = True
        self.points, self.owner = self.points[keep], self.owner[keep]


@register("hypervolume-paper")
class HypervolumePaper(Weighting):
    """The published algorithm as its code has it, for comparison: the factor multiplies the *reward*.

    Every policy is its own run of the paper: its first measurement p0 is the reference point, every measurement that
    grew the hypervolume above p0 is kept for ever, and the next rewards are multiplied by 0.5 + 1.5 tanh(growth).

    Args:
        span: [m] size of the frame of `Signal.measured` in raw units. The paper takes hypervolume in raw units
            (for example tokens); a shift of the origin does not change it, so the spans are all that is needed to have
            them back. Default: the frozen frame itself.
    """

    requires = frozenset({"measured"})
    applies_to = "reward"
    state_names = ("factor", "latest", "reference", "points", "owner")

    def __init__(self, *, span: Sequence[float] | None = None) -> None:
        self.span = None if span is None else np.asarray(span, dtype=np.float64)

    def setup(self, K: int, m: int) -> None:
        """Forget all measurements: factors 1, empty buffers."""
        super().setup(K, m)
        if self.span is not None and (self.span.shape != (m,) or not (np.isfinite(self.span) & (self.span > 0)).all()):
            raise ConfigError(f"HypervolumePaper `span` must be {m} positive numbers. Found {self.span.tolist()}.")
        self.factor = np.ones(K)
        self.latest = np.full((K, m), np.nan)
        self.reference = np.full((K, m), np.nan)
        self.points = np.empty((0, m))
        self.owner = np.empty(0, dtype=np.int64)

    def reset(self, slot: int) -> None:
        """Policy `slot` starts a run of its own: factor 1, no reference point, empty buffer."""
        super().reset(slot)
        self.factor[slot] = 1.0
        self.latest[slot] = self.reference[slot] = np.nan
        keep = self.owner != slot
        self.points, self.owner = self.points[keep], self.owner[keep]

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m] with row sums in [0.5, 2], to be applied to rewards."""
        self._check(signal)
        if signal.measured is not None:
            raw = signal.measured if self.span is None else signal.measured * self.span
            new = ~np.isnan(raw).any(axis=1) & (raw != self.latest).any(axis=1)
            for k in np.flatnonzero(new):
                self._learn(int(k), raw[k])
            self.latest[new] = raw[new]
        return np.asarray(signal.preferences * self.factor[:, None])

    def _learn(self, slot: int, point: FloatArray) -> None:
        if np.isnan(self.reference[slot]).any():
            self.reference[slot] = point
            return
        growth = _growth(point, self.points[self.owner == slot], self.reference[slot])
        self.factor[slot] = float(meta_factor(growth))
        if growth > 0:
            self.points = np.vstack([self.points, point])
            self.owner = np.append(self.owner, slot)
