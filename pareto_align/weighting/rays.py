"""Weightings that steer a policy to a place on the front with gradients: EPO search and Pareto MTL.

Losses are shortfalls: l_i = (z_i - v_i) / d_i, the distance of objective i from the ideal z as a share of the range d
that the population spans, so 0 is the best seen and everything is minimised. As for "chebyshev", a preference p asks
for the place where p_i l_i is the same for all objectives: the ray l proportional to 1/p.

References:
    Mahapatra and Rajan, "Exact Pareto Optimal Search for Multi-Task Learning and Multi-Criteria Decision-Making",
        arXiv 2108.00597 (EPO search), and its public code, https://github.com/dbmptr/EPOSearch.
    Lin et al., "Pareto Multi-Task Learning", arXiv 1912.12854, and its public code, https://github.com/Xi-L/ParetoMTL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.arguments import NotNegative, Positive, Share
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, interior, normalize_rows, register
from pareto_align.weighting.frame import FramedWeighting
from pareto_align.weighting.gramians import NEGLIGIBLE, Gradients, best_on_simplex, min_norm_point, require_gramians

__all__ = ["EPOSearch", "ParetoMTL", "anchoring_direction", "non_uniformity"]

SMALLEST_SHORTFALL = 1e-3
"""Shortfalls are taken to be at least this share of the range: at or beyond the ideal a ray has no direction."""


def non_uniformity(losses: ArrayLike, ray: ArrayLike) -> float:
    """KL divergence of r * l, as shares [m], from the even distribution: 0 on the ray r_i l_i = constant."""
    shares = np.asarray(ray) * np.asarray(losses)
    shares = shares / shares.sum()
    return float(shares @ np.log(len(shares) * shares))


def anchoring_direction(losses: ArrayLike, ray: ArrayLike) -> FloatArray:
    """Coefficients [m] a_i = r_i (log(m lhat_i) - mu) whose mixture of loss gradients lowers the non-uniformity mu.

    lhat = r * l / sum(r * l). They are the gradient of mu in the losses l [m], up to a positive factor.
    """
    r = np.asarray(ray, dtype=np.float64)
    shares = r * np.asarray(losses)
    shares = shares / shares.sum()
    return np.asarray(r * (np.log(len(r) * shares) - non_uniformity(losses, ray)))


class _Placed(FramedWeighting):
    """What the two methods share: the frame, the floor of the preferences, losses and gradients in that frame."""

    requires = frozenset({"gramians"})
    reading = "place"

    def __init__(
        self,
        *,
        floor: Positive = 1e-3,
        **framed: Any,
    ) -> None:
        super().__init__(**framed)
        self.floor = float(floor)

    def setup(self, K: int, m: int) -> None:
        """Forget all values seen."""
        super().setup(K, m)
        if self.floor * m >= 1:
            raise ConfigError(f"Weighting '{self.name}': `floor` must be below 1/m = {1 / m:.3g}. Found {self.floor}.")

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m]. A policy with an objective never yet seen, or without a gradient, gets its preference.

        Raises:
            ConfigError: The signal has no Gramians.
        """
        self._check(signal)
        gramians = require_gramians(self, signal)
        preferences = interior(signal.preferences, self.floor)
        shortfalls, spread = self._shortfalls(signal.values)
        rows = normalize_rows(signal.preferences)
        for k in range(self.K):
            gradients = Gradients.of(gramians[k] / np.outer(spread, spread))
            if gradients is not None and not np.isnan(shortfalls[k]).any():
                losses = np.maximum(shortfalls[k], SMALLEST_SHORTFALL)
                # A coefficient of the gradient of v_i / d_i is 1/d_i times that of the gradient of v_i.
                row = self._steer(signal, k, losses, gradients, preferences) / spread
                rows[k] = row / np.abs(row).sum()
        return rows

    def _steer(
        self, signal: Signal, slot: int, losses: FloatArray, gradients: Gradients, preferences: FloatArray
    ) -> FloatArray:
        """Coefficients [m] of the gradients in the frame, not all 0."""
        raise NotImplementedError


@register("epo")
class EPOSearch(_Placed):
    """Steers a policy straight to the point where its ray meets the front, and along the front if it is there already.

    While the policy is off its ray (non-uniformity mu above `tolerance`) the update balances: it follows the anchoring
    direction and lets objectives that are ahead of the ray fall, but none faster than balancing asks for. On the ray it
    raises everything as fast as no objective falls. Each is a linear program over the simplex (arXiv 2108.00597):

        a = r (log(m lhat) - mu)          lhat = r l / sum(r l)
        off the ray   maximise b.C a      over  (C b)_j >= 0 for the objective furthest behind,
                                                (C b)_j >= (C a)_j for those that balancing lets fall
        on the ray    maximise sum C b    over  C b >= 0,  b.C a >= min(0, max C a)

    Where the published program has no solution (conflicting gradients can do that; its code then falls back to the
    preference) the bounds are dropped in turn, those on objectives ahead of the ray first.

    Args:
        tolerance: Non-uniformity up to which a policy counts as being on its ray; published: 1e-4, which noise hardly
            ever lets happen.
        restricted: True: on the ray, the update may not leave it faster than it has to. False: without that row.
        floor: Smallest preference entry: a weight of 0 asks for a shortfall without bound.
        smoothing: Memory of each policy's running mean.
        frame_smoothing: Memory of the means that ideal and nadir are read from.
        min_range: Smallest range, in the units of `Signal.values`.
        ideal: [m] fixed ideal point in the units of `Signal.values`, instead of the best seen by the population.
        nadir: [m] fixed nadir point.

    Raises:
        ConfigError: A setting out of range.
    """

    def __init__(
        self,
        *,
        tolerance: NotNegative = 1e-3,
        restricted: bool = True,
        **framed: Any,
    ) -> None:
        super().__init__(**framed)
        self.tolerance, self.restricted = float(tolerance), bool(restricted)

    def _steer(
        self, signal: Signal, slot: int, losses: FloatArray, gradients: Gradients, preferences: FloatArray
    ) -> FloatArray:
        ray: FloatArray = preferences[slot]
        gramian = gradients.gramian
        anchor = anchoring_direction(losses, ray)
        gains = gramian @ anchor
        nothing = np.full(self.m, -np.inf)
        if non_uniformity(losses, ray) > self.tolerance:
            worst = ray * losses >= (ray * losses).max()
            if (gains > 0).any():
                bounds = np.where(worst, 0.0, np.where(gains > 0, -np.inf, gains))
            else:
                bounds = np.zeros(self.m)
            for allowed in (bounds, np.where(worst, 0.0, -np.inf), nothing):
                if (found := best_on_simplex(gains, gramian, allowed)) is not None:
                    return found
        else:
            total, none_falls = gramian.sum(axis=0), np.zeros(self.m)
            least = min(0.0, float(gains.max()))
            for rows, allowed in (
                (np.vstack([gramian, gains]), np.append(none_falls, least if self.restricted else -np.inf)),
                (gramian, none_falls),
            ):
                if (found := best_on_simplex(total, rows, allowed)) is not None:
                    return found
        return ray


@register("pareto-mtl")
class ParetoMTL(_Placed):
    """Splits the space of losses among the policies' rays and keeps every policy in its own part.

    The ray of policy k is the unit vector u_k along 1/p_k. Its part is {l : u_k.l >= u_j.l for all other rays u_j}; a
    policy outside first only moves back in, and from then on takes the shortest convex combination of the objectives'
    gradients and those of the borders that it has crossed, which raises all objectives and keeps the part
    (arXiv 1912.12854). Inside, it ends at any point of the front in its part, not at the ray itself.

    Gradients are taken at unit length (see MGDA). A border's gradient is a difference of objectives, so weights can be
    negative; rows are scaled to sum |w_i| = 1. Policies with equal preferences share a part; one policy alone has the
    whole space, which is MGDA.

    Args:
        warmup: Share of the run after which a policy stops trying to enter its part first: not every part holds
            points that can be reached.
        floor: Smallest preference entry.
        smoothing: Memory of each policy's running mean.
        frame_smoothing: Memory of the means that ideal and nadir are read from.
        min_range: Smallest range, in the units of `Signal.values`.
        ideal: [m] fixed ideal point in the units of `Signal.values`, instead of the best seen by the population.
        nadir: [m] fixed nadir point.

    Raises:
        ConfigError: A setting out of range.
    """

    signed = True
    state_names = (*_Placed.state_names, "entered")

    def __init__(
        self,
        *,
        warmup: Share = 0.2,
        **framed: Any,
    ) -> None:
        super().__init__(**framed)
        self.warmup = float(warmup)

    def setup(self, K: int, m: int) -> None:
        """Forget all values seen; [K] 1 for a policy that has been in its part, nobody yet."""
        super().setup(K, m)
        self.entered = np.zeros(K, dtype=np.int64)

    def reset(self, slot: int) -> None:
        """Policy `slot` has to enter its part first."""
        super().reset(slot)
        self.entered[slot] = 0

    def _steer(
        self, signal: Signal, slot: int, losses: FloatArray, gradients: Gradients, preferences: FloatArray
    ) -> FloatArray:
        mine: FloatArray = preferences[slot]
        rays = 1 / preferences
        rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        borders = rays - rays[slot]
        # Equal preferences differ by rounding only: no border between them.
        crossed = borders[(borders @ losses > 0) & (np.abs(borders).max(axis=1) > 1e-9)]
        if not len(crossed) or max(signal.step / max(signal.steps, 1), signal.spent) >= self.warmup:
            self.entered[slot] = 1
        # The gradients of losses are those of the objectives turned round: lowering a border's (u_j - u_k).l is the
        # update sum_i (u_j - u_k)_i g_i, and lowering a loss is g_i itself.
        directions = crossed if not self.entered[slot] else np.vstack([np.eye(self.m), crossed])
        gramian = directions @ gradients.gramian @ directions.T
        lengths = np.sqrt(np.maximum(np.diagonal(gramian), 0.0))
        kept = lengths > NEGLIGIBLE
        if not kept.any():
            return mine
        directions, lengths = directions[kept], lengths[kept]
        units = min_norm_point(gramian[np.ix_(kept, kept)] / np.outer(lengths, lengths))
        found = (units / lengths) @ directions
        # Two borders can cancel: then there is no way in, and the policy's own mixture is as good as any.
        return np.asarray(found) if np.abs(found).max() > 1e-6 else mine
