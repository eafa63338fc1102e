"""Multi-task gradient aggregators as weightings: each turns a policy's Gramian into the coefficients of its update.

Written for maximised objectives: gradients are ascent directions and the published "losses" are negated, which leaves
every Gramian and so every formula as it is. The solvers are exact (least squares, Newton, bisection) instead of the
general optimisers of the published code, which need packages under the GPL or stop early.

References:
    Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", arXiv 1810.04650 (MGDA); Désidéri,
        "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", Comptes Rendus 350, 2012.
    Yu et al., "Gradient Surgery for Multi-Task Learning", arXiv 2001.06782 (PCGrad).
    Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", arXiv 2110.14048 (CAGrad).
    Senushkin et al., "Independent Component Alignment for Multi-Task Learning", arXiv 2305.19000 (Aligned-MTL).
    Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021 (IMTL-G).
    Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232 (UPGrad).
    Navon et al., "Multi-Task Learning as a Bargaining Game", arXiv 2202.01017 (Nash-MTL).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.arguments import Memory, Whole
from pareto_align.weighting.base import FloatArray, Signal, normalize_rows, register
from pareto_align.weighting.gramians import (
    CONE_RIDGE,
    Gradients,
    GramianWeighting,
    min_norm_point,
    project_on_dual_cone,
)

__all__ = ["IMTLG", "MGDA", "AlignedMTL", "CAGrad", "NashMTL", "PCGrad", "UPGrad", "conflict_averse", "nash_bargain"]


@register("mgda")
class MGDA(GramianWeighting):
    """The update that raises all objectives at once at the best common rate: the shortest convex combination.

        w = argmin over the simplex of  w.C w

    On unit gradients d (the default) every objective gains the same, <g_i/|g_i|, d> = |d|^2 at least; where d = 0 no
    direction helps all and the policy rests. The preference is not used, so every policy of a population is drawn to
    some point of the front, none to its own: a baseline, not a way to spread a population.

    Args:
        raw: True: gradients as they are, as published. The shortest gradient then takes nearly all the weight, and
            an objective without gradient (saturated) stops the policy. False: gradients at unit length, the negligible
            ones left out.
    """

    def __init__(self, *, raw: bool = False) -> None:
        self.raw = bool(raw)

    def _weigh(self, slot: int, gradients: Gradients, preference: FloatArray) -> FloatArray:
        """Rows of sum 1."""
        if self.raw:
            return min_norm_point(gradients.gramian)
        return normalize_rows(gradients.spread(min_norm_point(gradients.cosines)))


@register("pcgrad")
class PCGrad(GramianWeighting):
    """Gradient surgery: each gradient loses what conflicts with the others, one after the other in random order.

        for each i:  h = g_i;  for j != i in random order: if <h, g_j> < 0:  h <- h - <h, g_j> / |g_j|^2 g_j
        update = sum_i p_i h_i

    The published update is the plain sum; here each repaired gradient counts by its preference p_i, so that rows sum to
    1 and are the preference where nothing conflicts.

    Args:
        seed: Of the orders. They depend on it and on the number of steps a policy has made, not on the slot it is in.

    Raises:
        ConfigError: `seed` is negative or no whole number.
    """

    state_names = ("draws",)

    def __init__(self, *, seed: Whole = 0) -> None:
        self.seed = int(seed)

    def setup(self, K: int, m: int) -> None:
        """Every policy at its first order. [K] orders drawn so far: with the seed they are the generator's state."""
        super().setup(K, m)
        self.draws = np.zeros(K, dtype=np.int64)

    def reset(self, slot: int) -> None:
        """Policy `slot` starts again at its first order."""
        super().reset(slot)
        self.draws[slot] = 0

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], non-negative, rows of sum 1 or, where gradients conflict, more.

        Raises:
            ConfigError: The signal has no Gramians.
        """
        rows = super().__call__(signal)
        self.draws += 1
        return rows

    def _weigh(self, slot: int, gradients: Gradients, preference: FloatArray) -> FloatArray:
        rng = np.random.default_rng([self.seed, int(self.draws[slot])])
        orders = rng.permuted(np.tile(np.arange(self.m), (self.m, 1)), axis=1)
        weights = np.zeros(self.m)
        for i, order in enumerate(orders):
            repaired = np.zeros(self.m)
            repaired[i] = 1.0
            for j in order:
                if j == i or not gradients.active[j]:
                    continue
                conflict = float(gradients.gramian[j] @ repaired)
                if conflict < 0:
                    repaired[j] -= conflict / gradients.gramian[j, j]
            weights += preference[i] * repaired
        return weights


@register("cagrad")
class CAGrad(GramianWeighting):
    """Near the preferred gradient, the update that helps the worst objective most.

        maximise  min_i <g_i, d>   over   |d - g_0| <= c |g_0|          g_0 = sum_i p_i g_i

    The published g_0 is the plain mean; here it is the gradient of the policy's own preference, so with c < 1 the
    policy still ends where that linear mixture is stationary. The row is divided by 1 + c: it is the preference where
    all gradients are the same, and the update is never longer than g_0.

    Args:
        c: Radius of the ball as a share of |g_0|: 0 is fixed weights; 0.4 to 0.5 is usual.

    Raises:
        ConfigError: `c` is not in [0, 1).
    """

    def __init__(self, *, c: Memory = 0.4) -> None:
        self.c = float(c)

    def _weigh(self, slot: int, gradients: Gradients, preference: FloatArray) -> FloatArray:
        # An objective without gradient gains nothing whatever is done: it must not be the one that is looked after.
        active = gradients.active
        kept = gradients.gramian[np.ix_(active, active)]
        weights = preference
        weights[active] = conflict_averse(kept, preference[active], self.c)
        return weights / (1 + self.c)


@register("aligned-mtl")
class AlignedMTL(GramianWeighting):
    """The preferred mixture of gradients that were first made orthogonal and equally long.

        w = C^(-1/2) p          (pseudo-inverse root), scaled to sum |w_i| = 1

    The gradients become the nearest orthogonal system, which has no conflicts and no dominance, and the preference
    mixes that one. In terms of the original gradients a weight can be negative: where two gradients nearly agree, their
    difference is blown up. The published factor, the square root of the smallest eigenvalue, only scales the row: it
    stops training when two gradients nearly agree and jumps when they do, so the row is scaled to 1 instead.
    """

    signed = True

    def _weigh(self, slot: int, gradients: Gradients, preference: FloatArray) -> FloatArray:
        values, vectors = np.linalg.eigh(gradients.gramian)
        kept = values > values[-1] * 1e-10
        aligned = (vectors[:, kept] / np.sqrt(values[kept])) @ (vectors[:, kept].T @ preference)
        return _unit_sum(aligned, preference)


@register("imtl-g")
class IMTLG(GramianWeighting):
    """The update whose projections on all gradients are equal: every objective is pulled by the same step.

        <g_i / |g_i|, sum_j w_j g_j> equal for all i:      w_i = u_i / |g_i|,  C_unit u = 1,  scaled to sum |w_i| = 1

    Weights can be negative. The published scale, sum w_i = 1, turns the update round (every objective falls) where the
    plain sum is negative; dividing by the sum of magnitudes never does. Where gradients cancel exactly the row is that
    of the min-norm point, to which the solution tends. The preference is not used (see MGDA).
    """

    signed = True

    def _weigh(self, slot: int, gradients: Gradients, preference: FloatArray) -> FloatArray:
        ones = np.ones(len(gradients.cosines))
        units = np.linalg.pinv(gradients.cosines, rcond=1e-10, hermitian=True) @ ones
        # With unit gradients u.C u = sum u is the squared length of the update: none left means that they cancel.
        if units.sum() < 1e-9:
            units = min_norm_point(gradients.cosines)
        return _unit_sum(gradients.spread(units), preference)


@register("upgrad")
class UPGrad(GramianWeighting):
    """Each preferred gradient is replaced by the nearest update that conflicts with nobody; then they are added up.

        v_i = argmin { v.C v : v >= p_i e_i }         w = sum_i v_i,      C w >= 0

    No objective falls to first order, and weights never fall below the preference: rows sum to 1 or, where gradients
    conflict, to more. The projection does not depend on the lengths of the gradients and is done at unit length, so an
    objective on a small scale is protected like any other.
    """

    def _weigh(self, slot: int, gradients: Gradients, preference: FloatArray) -> FloatArray:
        total = np.zeros(len(gradients.cosines))
        for i, amount in enumerate((preference * gradients.norms)[gradients.active]):
            start = np.zeros(len(total))
            start[i] = 1.0
            total += amount * project_on_dual_cone(gradients.cosines, start)
        return gradients.spread(total, preference)


@register("nash-mtl")
class NashMTL(GramianWeighting):
    """The Nash bargaining solution: the update that maximises sum_i p_i log <g_i, d> over directions d.

        a > 0  with  (C a)_i = p_i / a_i,  scaled to sum a_i = 1

    The preference is each objective's bargaining power (even powers are the published method), an objective of power 0
    has no say. The direction of the update does not depend on the lengths of the gradients. The published code clips
    the update's length to a constant and reuses weights between steps; here rows sum to 1, so steps shrink as the
    policy nears a stationary point.
    """

    def _weigh(self, slot: int, gradients: Gradients, preference: FloatArray) -> FloatArray:
        powers = preference[gradients.active]
        with_say = powers > 0
        if not with_say.any():
            return preference
        units = np.zeros(len(powers))
        units[with_say] = nash_bargain(gradients.cosines[np.ix_(with_say, with_say)], powers[with_say])
        return normalize_rows(gradients.spread(units))


def conflict_averse(gramian: ArrayLike, mixture: ArrayLike, c: float) -> FloatArray:
    """Weights [n] of the CAGrad update: argmax of min_i <g_i, d> over |d - g_0| <= c |g_0| (arXiv 2110.14048).

    Where a worst mixture of length 0 leaves the best point of the ball undetermined, it is g_0.

    The dual is min over w on the simplex of <g_w, g_0> + c |g_0| |g_w| with g_w = sum_i w_i g_i; the update is
    g_0 + c |g_0| g_w / |g_w|. With |g_w| as the minimum over t > 0 of (|g_w|^2 / t + t) / 2, the best w for a fixed t
    is the min-norm point of the vectors g_i + t / (c |g_0|) g_0, and what is left is convex in t: one root.

    Args:
        gramian: [n, n] of the gradients g_i, entries up to 1.
        mixture: [n] weights of g_0.
        c: Radius of the ball as a share of |g_0|.
    """
    from scipy.optimize import brentq

    found, start = np.asarray(gramian, dtype=np.float64), np.asarray(mixture, dtype=np.float64)
    pull = found @ start
    square = float(start @ pull)
    radius = c * float(np.sqrt(max(square, 0.0)))
    if radius <= 1e-12:
        return start

    def worst(t: float) -> tuple[FloatArray, float]:
        shift = t / radius
        w = min_norm_point(found + shift * (pull[:, None] + pull[None, :]) + shift**2 * square)
        return w, float(np.sqrt(max(float(w @ found @ w), 0.0)))

    def excess(t: float) -> float:
        return worst(t)[1] - t

    # |g_w| - t falls through 0 once, at the latest where t is the longest gradient. Starting a little above 0 keeps
    # clear of the ridge of the min-norm point, which blurs lengths below its root.
    low, high = 1e-5, float(np.sqrt(np.diagonal(found).max()))
    if excess(low) <= 0:
        return start
    w, length = worst(high if excess(high) >= 0 else brentq(excess, low, high, xtol=1e-15, rtol=1e-14))
    return np.asarray(start + radius / length * w)


def nash_bargain(gramian: ArrayLike, powers: ArrayLike) -> FloatArray:
    """Weights a [n] > 0 with (C a)_i = p_i / a_i, the Nash bargaining solution (arXiv 2202.01017 with p = 1).

    They minimise a.C a / 2 - sum_i p_i log a_i, which is convex: damped Newton steps, a handful of them.
    Where the gradients cancel no solution exists; a small ridge then keeps the weights finite and their mixture close
    to 0.

    Args:
        gramian: [n, n] of gradients at unit length.
        powers: [n] bargaining powers p, above 0.
    """
    p = np.asarray(powers, dtype=np.float64)
    found = np.asarray(gramian, dtype=np.float64) + CONE_RIDGE * np.eye(len(p))
    a = np.sqrt(p)
    for _ in range(100):
        step = np.linalg.solve(found + np.diag(p / a**2), found @ a - p / a)
        largest = float(np.abs(step / a).max())
        # This share of a Newton step stays inside a > 0 and lowers the function by half of what its slope promises, as
        # -log(1 - x) <= x + x^2 / (2 (1 - |x|)) shows term by term. Near the solution it is the whole step.
        a = a - step / (1 + largest)
        if largest <= 1e-7:
            break
    return np.asarray(a)


def _unit_sum(weights: FloatArray, otherwise: FloatArray) -> FloatArray:
    """The row [m] with magnitudes of sum 1; `otherwise` where it is zero."""
    total = float(np.abs(weights).sum())
    return weights / total if total > 0 else otherwise
