"""Weightings on Gramians: contract, gold rows, parity with torchjd, and what each method promises."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from pareto_align.errors import ConfigError
from pareto_align.testing.weighting import GramianWeightingContract, gramian_samples
from pareto_align.weighting import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    EPOSearch,
    Fixed,
    GradientInfluence,
    NashMTL,
    ParetoMTL,
    PCGrad,
    Signal,
    UPGrad,
    Weighting,
    make,
)
from pareto_align.weighting.aggregators import conflict_averse, nash_bargain
from pareto_align.weighting.gradient import influence
from pareto_align.weighting.gramians import min_norm_point, project_on_dual_cone
from pareto_align.weighting.rays import anchoring_direction, non_uniformity

# The contract.


class TestGradientInfluence(GramianWeightingContract):
    # With floor = 0.001 the row is the preference only up to that.
    def make(self) -> Weighting:
        return GradientInfluence()


class TestGradientInfluenceAsPublished(GramianWeightingContract):
    scale_free = False  # lengths above 1 are clipped, those below are not

    def make(self) -> Weighting:
        return GradientInfluence(lengths="clip", accumulate=3, anchor=0.1)


class TestGradientInfluenceRaw(GramianWeightingContract):
    scale_free = False

    def make(self) -> Weighting:
        return GradientInfluence(lengths="raw", decay=False)


class TestMGDA(GramianWeightingContract):
    defensive = True

    def make(self) -> Weighting:
        return MGDA()


class TestMGDARaw(GramianWeightingContract):
    defensive = True
    spared = ("mixed lengths", "extreme lengths")  # the shortest gradient is lost in the rounding of the longest

    def make(self) -> Weighting:
        return MGDA(raw=True)


class TestPCGrad(GramianWeightingContract):
    row_sum = None
    symmetric = False  # the orders are random; symmetry in the mean is tested below

    def make(self) -> Weighting:
        return PCGrad(seed=3)


class TestCAGrad(GramianWeightingContract):
    row_sum = None

    def make(self) -> Weighting:
        return CAGrad()


class TestAlignedMTL(GramianWeightingContract):
    row_sum = None
    signed = True

    def make(self) -> Weighting:
        return AlignedMTL()


class TestIMTLG(GramianWeightingContract):
    row_sum = None
    signed = True
    defensive = True
    # Where a gradient mixture vanishes, equal projections are 0 or do not exist and the least squares answer is given.
    spared = ("opposed", "stationary", "nearly stationary", "extreme lengths")

    def make(self) -> Weighting:
        return IMTLG()


class TestUPGrad(GramianWeightingContract):
    row_sum = None
    defensive = True

    def make(self) -> Weighting:
        return UPGrad()


class TestNashMTL(GramianWeightingContract):
    defensive = True

    def make(self) -> Weighting:
        return NashMTL()


class TestEPOSearch(GramianWeightingContract):
    shares_population = True  # ideal and nadir are the population's
    scale_free = True

    def make(self) -> Weighting:
        return EPOSearch()


class TestParetoMTL(GramianWeightingContract):
    row_sum = None
    signed = True
    shares_population = True
    descends = False  # to come back into its part, a policy may let every objective fall

    def make(self) -> Weighting:
        return ParetoMTL()


# One row.


def gram(*rows: Any) -> np.ndarray:
    """Gramian of gradients given as rows."""
    gradients = np.array(rows, dtype=float)
    return gradients @ gradients.T


def row(weighting: Weighting, gramian: Any, preference: Any = None, values: Any = None) -> np.ndarray:
    gramian = np.asarray(gramian, dtype=float)
    m = len(gramian)
    preference = np.full(m, 1 / m) if preference is None else np.asarray(preference, dtype=float)
    values = np.full(m, 0.5) if values is None else np.asarray(values, dtype=float)
    weighting.setup(1, m)
    return weighting(Signal(0, 100, values[None], preference[None], None, gramian[None]))[0]


def random_gradients(seed: int, m: int = 3, d: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, d)) * 10 ** rng.uniform(-1, 1, (m, 1))


AGGREGATORS: list[Callable[[], Weighting]] = [MGDA, PCGrad, CAGrad, AlignedMTL, IMTLG, UPGrad, NashMTL]


@pytest.mark.parametrize("method", AGGREGATORS)
def test_equal_orthogonal_gradients_leave_an_even_preference_alone(method: Callable[[], Weighting]) -> None:
    found = row(method(), 4.0 * np.eye(4))
    # CAGrad adds c |g_0| g_w / |g_w| with g_w = g_0, which is (1 + c) g_0 before the division by 1 + c.
    np.testing.assert_allclose(found, 0.25, rtol=1e-6)


@pytest.mark.parametrize("method", [PCGrad, UPGrad])
def test_without_conflict_the_row_is_the_preference(method: Callable[[], Weighting]) -> None:
    preference = [0.6, 0.3, 0.1]
    np.testing.assert_allclose(row(method(), gram([1, 0, 0], [3, 4, 0], [0, 0.1, 2]), preference), preference)


# Gold rows. g_1 = (1, 0) throughout.


def test_mgda_gold_rows() -> None:
    # Unit gradients at 120 degrees: the shortest point of the segment is its middle, of length cos 60 degrees.
    conflict = gram([1, 0], [-0.5, np.sqrt(0.75)])
    np.testing.assert_allclose(row(MGDA(), conflict), [0.5, 0.5], rtol=1e-9)
    # g_2 = (0, 2): unit weights (.5, .5), divided by the lengths (.5, .25), is 2/3 to 1/3.
    np.testing.assert_allclose(row(MGDA(), gram([1, 0], [0, 2])), [2 / 3, 1 / 3], rtol=1e-9)
    # Raw: minimise a^2 + 4 (1 - a)^2: a = 4/5.
    np.testing.assert_allclose(row(MGDA(raw=True), gram([1, 0], [0, 2])), [0.8, 0.2], rtol=1e-9)
    # g_2 = (2, 1): <g_1, g_2> = 2 > |g_1|^2, so g_1 alone is the shortest.
    np.testing.assert_allclose(row(MGDA(raw=True), gram([1, 0], [2, 1])), [1, 0], atol=1e-9)


def test_pcgrad_gold_row() -> None:
    # g_2 = (-1, 1): <g_1, g_2> = -1. h_1 = g_1 + g_2 / 2, h_2 = g_2 + g_1; preferences (.5, .5) give (1, .75).
    np.testing.assert_allclose(row(PCGrad(), gram([1, 0], [-1, 1])), [1.0, 0.75])
    # preferences (.9, .1): .9 (1, .5) + .1 (1, 1)
    np.testing.assert_allclose(row(PCGrad(), gram([1, 0], [-1, 1]), [0.9, 0.1]), [1.0, 0.55])


def test_cagrad_gold_rows() -> None:
    # g_2 = (0, 1), preference (.5, .5): g_0 = (.5, .5), the worst mixture is g_0 itself: (1 + c) p / (1 + c).
    np.testing.assert_allclose(row(CAGrad(c=0.5), np.eye(2)), [0.5, 0.5], rtol=1e-9)
    # g_2 = -g_1, preference (.7, .3): g_0 = .4 g_1. Every update of the ball points along g_1, which hurts g_2 least
    # where it is shortest: d = (1 - c) g_0. Dual weights (0, 1): p + c .4 / 1 (0, 1) = (.7, .46), over 1.4.
    np.testing.assert_allclose(
        row(CAGrad(c=0.4), gram([1, 0], [-1, 0]), [0.7, 0.3]), np.array([0.7, 0.46]) / 1.4, rtol=1e-9
    )
    np.testing.assert_allclose(row(CAGrad(c=0), gram([1, 0], [-1, 2]), [0.7, 0.3]), [0.7, 0.3])


def test_aligned_gold_rows() -> None:
    # C = diag(1, 4): C^(-1/2) = diag(1, .5), p even: 2/3 to 1/3, which makes both gradients equally long.
    np.testing.assert_allclose(row(AlignedMTL(), np.diag([1.0, 4.0])), [2 / 3, 1 / 3])
    # C = [[1, -.6], [-.6, 1]] has eigenvalues 1.6 on (1, -1) and .4 on (1, 1). p = (1, 0) is half of each:
    # ((1/sqrt .4 + 1/sqrt 1.6), (1/sqrt .4 - 1/sqrt 1.6)) / 2 = (1.185854, .395285): three to one.
    np.testing.assert_allclose(row(AlignedMTL(), [[1, -0.6], [-0.6, 1]], [1, 0]), [0.75, 0.25])
    # The other sign: the difference of nearly equal gradients is blown up, and g_2 is subtracted.
    np.testing.assert_allclose(row(AlignedMTL(), [[1, 0.6], [0.6, 1]], [1, 0]), [0.75, -0.25])


def test_imtlg_gold_rows() -> None:
    # Lengths 1 and 2, orthogonal: unit weights even, divided by the lengths.
    np.testing.assert_allclose(row(IMTLG(), gram([1, 0], [0, 2])), [2 / 3, 1 / 3])
    # Cosines (12, 13, 23) = (.8, .8, .3), all of length 1. u_2 = u_3 = u and u_1 + 1.6 u = 1, .8 u_1 + 1.3 u = 1:
    # u_1 = 1 - 1.6 u, so .8 - 1.28 u + 1.3 u = 1, u = 10, u_1 = -15: (-15, 10, 10) / 35.
    cosines = [[1, 0.8, 0.8], [0.8, 1, 0.3], [0.8, 0.3, 1]]
    np.testing.assert_allclose(row(IMTLG(), cosines), np.array([-15, 10, 10]) / 35, rtol=1e-9)


def test_imtlg_raises_where_the_published_scale_turns_the_update_round() -> None:
    # The cosines above with |g_1| = .1: w is proportional to (-150, 10, 10), of sum -130. Divided by that sum every
    # projection becomes negative.
    lengths = np.array([0.1, 1, 1])
    gramian = np.array([[1, 0.8, 0.8], [0.8, 1, 0.3], [0.8, 0.3, 1]]) * np.outer(lengths, lengths)
    found = row(IMTLG(), gramian)
    projections = gramian @ found / lengths
    np.testing.assert_allclose(projections, projections[0], rtol=1e-9)
    assert found.sum() < 0 < projections[0]


def test_upgrad_gold_rows() -> None:
    # g_2 = (-1, 1): projecting g_1 on {d : <d, g_2> >= 0} adds g_2 / 2, projecting g_2 adds g_1. Halves: (1, .75).
    np.testing.assert_allclose(row(UPGrad(), gram([1, 0], [-1, 1])), [1.0, 0.75], rtol=1e-6)
    # The gradients of torchjd's own example: products (18, 38) and -22, so proj g_1 = g_1 + 22/38 g_2 and
    # proj g_2 = g_2 + 22/18 g_1; halves of (1 + 22/18, 1 + 22/38) = (1.1111, .7895).
    np.testing.assert_allclose(
        row(UPGrad(), gram([-4, 1, 1], [6, 1, 1])), [(1 + 22 / 18) / 2, (1 + 22 / 38) / 2], rtol=1e-6
    )


def test_nash_gold_rows() -> None:
    # Orthogonal, lengths 1 and 2: |g_i|^2 a_i^2 = 1, a = (1, .5): 2/3 to 1/3.
    np.testing.assert_allclose(row(NashMTL(), gram([1, 0], [0, 2])), [2 / 3, 1 / 3], rtol=1e-6)
    # Powers (.8, .2), orthonormal: a_i = sqrt(p_i), which is 2 to 1.
    np.testing.assert_allclose(row(NashMTL(), np.eye(2), [0.8, 0.2]), [2 / 3, 1 / 3], rtol=1e-6)
    # No power, no say.
    np.testing.assert_allclose(row(NashMTL(), gram([1, 0], [-1, 1]), [1.0, 0.0]), [1, 0])


# Solvers.


@pytest.mark.parametrize("seed", range(6))
def test_min_norm_point_is_optimal(seed: int) -> None:
    G = random_gradients(seed, m=4, d=3 + seed)
    w = min_norm_point(G @ G.T)
    d = w @ G
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(1)
    # Optimal where no gradient has a smaller product with d than d itself.
    assert (G @ d).min() >= d @ d - 1e-9 * (G**2).sum()


def test_min_norm_point_of_two_has_a_closed_form() -> None:
    for seed in range(20):
        g, h = random_gradients(seed, m=2)
        a = np.clip((h - g) @ h / ((g - h) @ (g - h)), 0, 1)
        np.testing.assert_allclose(min_norm_point(gram(g, h)), [a, 1 - a], atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_projection_on_the_dual_cone_is_the_nearest_point_of_it(seed: int) -> None:
    G = np.random.default_rng(seed).standard_normal((4, 6))
    start = np.array([1.0, 0, 0, 0])
    v = project_on_dual_cone(G @ G.T, start)
    d, away = v @ G, (v - start) @ G
    # Moreau: d in the cone, the rest in its polar cone, the two at right angles.
    assert (G @ d).min() >= -1e-6
    assert (v >= start).all()
    assert abs(d @ away) <= 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_cagrad_is_optimal_in_the_ball(seed: int) -> None:
    rng = np.random.default_rng(seed)
    G = random_gradients(seed)
    scale = np.sqrt((G**2).sum(axis=1).max())
    G, p, c = G / scale, rng.dirichlet(np.ones(3)), 0.5
    g0, d = p @ G, conflict_averse(G @ G.T, p, c) @ G
    length = np.linalg.norm(g0)
    assert np.linalg.norm(d - g0) <= c * length * (1 + 1e-9)
    best = (G @ d).min()
    # No update of the ball does better for its worst objective: random ones, and a general optimiser from d.
    steps = rng.standard_normal((2000, G.shape[1]))
    others = g0 + c * length * steps / np.linalg.norm(steps, axis=1, keepdims=True)
    assert (others @ G.T).min(axis=1).max() <= best + 1e-9

    def dual(z: np.ndarray) -> float:
        w = np.exp(z - z.max())
        w /= w.sum()
        return float(w @ G @ g0 + c * length * np.linalg.norm(w @ G))

    # Strong duality: the smallest dual value is the largest primal one.
    found = min(minimize(dual, rng.standard_normal(3), method="Nelder-Mead", tol=1e-12).fun for _ in range(3))
    assert best <= found + 1e-9
    assert best == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_nash_bargain_solves_its_equation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((5, 7))
    G /= np.linalg.norm(G, axis=1, keepdims=True)
    p = rng.dirichlet(np.ones(5))
    a = nash_bargain(G @ G.T, p)
    assert (a > 0).all()
    np.testing.assert_allclose(a * (G @ G.T @ a), p, rtol=1e-5)


# Properties.


@pytest.mark.parametrize("method", [IMTLG, NashMTL, MGDA])
def test_the_direction_does_not_depend_on_the_lengths_of_gradients(method: Callable[[], Weighting]) -> None:
    for seed in range(5):
        G = random_gradients(seed)
        lengths = np.array([100.0, 1.0, 0.01])
        plain, scaled = row(method(), G @ G.T) @ G, row(method(), (lengths[:, None] * G) @ (lengths[:, None] * G).T)
        scaled = scaled @ (lengths[:, None] * G)
        np.testing.assert_allclose(scaled / np.linalg.norm(scaled), plain / np.linalg.norm(plain), rtol=1e-6, atol=1e-8)


def test_imtlg_projections_are_equal() -> None:
    for seed in range(5):
        G = random_gradients(seed)
        projections = G @ (row(IMTLG(), G @ G.T) @ G) / np.linalg.norm(G, axis=1)
        np.testing.assert_allclose(projections, projections[0], rtol=1e-9)
        assert projections[0] > 0


def test_mgda_gives_every_objective_at_least_its_squared_length() -> None:
    for seed in range(5):
        G = random_gradients(seed)
        unit = G / np.linalg.norm(G, axis=1, keepdims=True)
        d = row(MGDA(), G @ G.T) @ G
        d *= min_norm_point(unit @ unit.T) @ unit @ d / (d @ d)
        assert (unit @ d).min() >= d @ d * (1 - 1e-6)


def test_aligned_gradients_are_orthogonal_and_their_mixture_is_the_preference() -> None:
    for seed in range(5):
        G = random_gradients(seed)
        C = G @ G.T
        aligned = [row(AlignedMTL(), C, corner) for corner in np.eye(3)]
        directions = np.array(aligned) @ G
        cosines = directions @ directions.T
        np.testing.assert_allclose(cosines - np.diag(np.diag(cosines)), 0, atol=1e-9 * cosines.max())
        # Each corner's row is scaled by itself; undone, an even preference is their plain sum.
        even = sum(a / np.linalg.norm(d) for a, d in zip(aligned, directions, strict=True))
        np.testing.assert_allclose(row(AlignedMTL(), C), even / np.abs(even).sum(), rtol=1e-7)


def test_aligned_does_not_stop_where_two_gradients_nearly_agree() -> None:
    # The published factor is the root of the smallest eigenvalue: here 7e-4, and 1 for identical gradients.
    for angle in (1e-3, 1e-4, 0.0):
        nearly = gram([1, 0], [np.cos(angle), np.sin(angle)])
        np.testing.assert_allclose(row(AlignedMTL(), nearly), [0.5, 0.5], rtol=1e-4)


def test_upgrad_never_falls_below_the_preference() -> None:
    for seed in range(20):
        G, p = random_gradients(seed, m=4), np.random.default_rng(seed).dirichlet(np.ones(4))
        assert (row(UPGrad(), G @ G.T, p) >= p - 1e-12).all()


def test_preferences_move_the_rows_that_use_them_and_no_others() -> None:
    C = gram([1, 0, 0], [-0.5, 1, 0], [0, -0.3, 1])
    for method, used in ((MGDA, False), (IMTLG, False), (PCGrad, True), (CAGrad, True), (AlignedMTL, True),
                         (UPGrad, True), (NashMTL, True)):  # fmt: skip
        rows = [row(method(), C, p) for p in ([0.8, 0.1, 0.1], [0.1, 0.1, 0.8])]
        assert (np.abs(rows[0] - rows[1]).max() > 0.1) == used, method.__name__
        assert not used or rows[0][0] / np.abs(rows[0]).sum() > rows[1][0] / np.abs(rows[1]).sum()


def test_a_saturated_objective_does_not_stop_the_others() -> None:
    saturated = gram([0, 0], [1, 0], [-0.5, 1])
    for method in (*AGGREGATORS, EPOSearch):
        assert row(method(), saturated) @ saturated @ row(method(), saturated) > 1e-2, method
    # As published it does: the zero gradient is the shortest point.
    assert row(MGDA(raw=True), saturated) @ saturated @ row(MGDA(raw=True), saturated) < 1e-9


# PCGrad's random orders.


def test_pcgrad_order_comes_from_the_seed_and_the_step() -> None:
    C = gramian_samples(4, seed=1)["strong conflict"] + 0.1 * gramian_samples(4, seed=2)["random"] / 9
    one, same, other = PCGrad(seed=1), PCGrad(seed=1), PCGrad(seed=2)
    rows = []
    for weighting in (one, same, other):
        weighting.setup(2, 4)
        signals = [Signal(s, 9, np.zeros((2, 4)), np.full((2, 4), 0.25), None, np.stack([C, C])) for s in range(6)]
        rows.append([weighting(signal) for signal in signals])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.allclose(rows[0], rows[2])
    assert len({tuple(np.round(r[0], 12)) for r in rows[0]}) > 1  # a new order every step
    np.testing.assert_array_equal([r[0] for r in rows[0]], [r[1] for r in rows[0]])  # whatever the slot


def test_pcgrad_averages_to_the_mean_over_all_orders() -> None:
    C = gram([1, 0, 0], [-0.8, 0.5, 0], [-0.3, -0.6, 0.4])
    expected = np.zeros(3)
    for i in range(3):
        orders = list(itertools.permutations([j for j in range(3) if j != i]))
        for order in orders:
            h = np.eye(3)[i]
            for j in order:
                h = h - min(C[j] @ h, 0.0) / C[j, j] * np.eye(3)[j]
            expected += h / len(orders) / 3
    weighting = PCGrad()
    weighting.setup(1, 3)
    signal = Signal(0, 1, np.zeros((1, 3)), np.full((1, 3), 1 / 3), None, C[None])
    drawn = np.array([weighting(signal)[0] for _ in range(1500)])
    error = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - expected) <= 4 * error + 1e-12).all()
    assert drawn.std(axis=0).max() > 0.01


# Mirror ascent on influence.


def test_influence_gold_values() -> None:
    # g_3 opposes the sum of the others, which are orthogonal: products with the sum (0, 0) are all 0; with lengths
    # (1, 1, .5): C = [[1, 0, -.5/sqrt2], ...]
    half = -0.5 / np.sqrt(2)
    C = np.array([[1, 0, half], [0, 1, half], [half, half, 0.25]])
    np.testing.assert_allclose(influence(C, "raw"), [1 + half, 1 + half, 0.25 + 2 * half])
    # At unit length the cosines are -1/sqrt2 and the diagonal is 1.
    np.testing.assert_allclose(influence(C, "unit"), [1 - np.sqrt(0.5)] * 2 + [1 - 2 * np.sqrt(0.5)])
    # Clipping touches lengths above 1 only: twice as long gradients have lengths (2, 2, 1), clipped to (1, 1, 1).
    np.testing.assert_allclose(influence(C, "clip"), influence(C, "raw"))
    np.testing.assert_allclose(influence(4 * C, "clip"), influence(C, "unit"))
    # A zero gradient has no influence and no part in that of others.
    np.testing.assert_allclose(influence(gram([0, 0], [3, 4]), "unit"), [0, 1])


def test_one_step_of_mirror_ascent() -> None:
    # Influences (1, 1, 1 - 2) with g_3 = -g_2 ... unit gradients (1, 0), (0, 1), (0, -1): I = (1, 0, 0). The ratio
    # lr / mu is .1, so the odds of the first weight grow by e^.1.
    C = gram([1, 0], [0, 1], [0, -1])
    expected = np.array([0.2 * np.exp(0.1), 0.5, 0.3])
    np.testing.assert_allclose(
        row(GradientInfluence(floor=0), C, [0.2, 0.5, 0.3]), expected / expected.sum(), rtol=1e-12
    )
    slower = np.array([0.2 * np.exp(0.01), 0.5, 0.3])
    np.testing.assert_allclose(
        row(GradientInfluence(floor=0, mu=1e-4), C, [0.2, 0.5, 0.3]), slower / slower.sum(), rtol=1e-12
    )


def run(weighting: GradientInfluence, C: np.ndarray, preference: Any, steps: int) -> np.ndarray:
    weighting.setup(1, len(C))
    rows = []
    for step in range(steps):
        signal = Signal(step, steps, np.zeros((1, len(C))), np.asarray([preference], dtype=float), None, C[None])
        rows.append(weighting(signal)[0])
    return np.array(rows)


def test_mirror_ascent_adds_up_and_decays() -> None:
    C = gram([1, 0], [0, 1], [0, -1])
    for decay, total in ((False, 5 * 0.1), (True, 0.1 * (1 + 0.8 + 0.6 + 0.4 + 0.2))):
        weights = run(GradientInfluence(floor=0, decay=decay), C, [1 / 3] * 3, 5)[-1]
        assert np.log(weights[0] / weights[1]) == pytest.approx(total)


def test_orthogonal_gradients_leave_weights_and_an_opponent_loses_weight() -> None:
    preference = [0.5, 0.3, 0.2]
    rows = run(GradientInfluence(floor=0), np.eye(3), preference, 20)
    np.testing.assert_allclose(rows, [preference] * 20, rtol=1e-12)
    opposed = gram([1, 0, 0], [1, 1, 0], [-1, -1, 0.5])
    rows = run(GradientInfluence(), opposed, preference, 50)
    assert (np.diff(rows[:, 2]) < 0).all()
    assert rows[-1, 2] < 0.05


def test_accumulated_influences_are_averaged() -> None:
    C = gram([1, 0], [0, 1], [0, -1])
    rows = run(GradientInfluence(floor=0, decay=False, accumulate=3), C, [1 / 3] * 3, 7)
    gains = np.log(rows[:, 0] / rows[:, 1])
    np.testing.assert_allclose(gains, [0, 0, 0.1, 0.1, 0.1, 0.2, 0.2], atol=1e-12)


def test_an_anchor_holds_the_weights_near_the_preference() -> None:
    C = gram([1, 0], [0, 1], [0, -1])
    free = run(GradientInfluence(floor=0, decay=False), C, [1 / 3] * 3, 300)[-1]
    held = run(GradientInfluence(floor=0, decay=False, anchor=0.1), C, [1 / 3] * 3, 300)[-1]
    assert free[0] > 0.999  # the published rule forgets the preference
    # The drift settles where 10 % of it is what a step adds: .1 / .1 = 1.
    assert np.log(held[0] / held[1]) == pytest.approx(1.0, abs=1e-6)


# Rays.


def test_anchoring_direction_gold_values() -> None:
    # r = (1, 1), l = (1, 3): lhat = (.25, .75), mu = .25 log .5 + .75 log 1.5, a = (log .5 - mu, log 1.5 - mu).
    assert non_uniformity([1, 3], [1, 1]) == pytest.approx(0.130812, abs=1e-6)
    np.testing.assert_allclose(anchoring_direction([1, 3], [1, 1]), [-0.823959, 0.274653], atol=1e-6)
    assert non_uniformity([0.2, 0.8], [0.8, 0.2]) == pytest.approx(0)


def test_anchoring_direction_is_the_gradient_of_non_uniformity() -> None:
    l, r, h = np.array([0.3, 0.7, 0.5]), np.array([0.5, 0.2, 0.3]), 1e-6
    slope = [(non_uniformity(l + h * e, r) - non_uniformity(l - h * e, r)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(anchoring_direction(l, r) / (r @ l), slope, rtol=1e-6)


def framed(method: Callable[..., Weighting], **settings: Any) -> Weighting:
    return method(ideal=[1.0, 1.0], nadir=[0.0, 0.0], **settings)


def test_epo_gold_rows() -> None:
    # Shortfalls (.2, .6), even ray: the second is behind, orthogonal gradients: C a = a > 0 there only, all weight.
    np.testing.assert_allclose(row(framed(EPOSearch), np.eye(2), values=[0.8, 0.4]), [0, 1], atol=1e-9)
    # On the ray, cosine -.5: sum C b = .5 for every b; with C b >= 0, 1/3 <= b_1 <= 2/3. Lengths 1 and 2:
    # C = [[1, -1], [-1, 4]], sum C b = 3 b_2, C b >= 0: b_1 >= b_2. So b = (.5, .5).
    found = row(framed(EPOSearch), gram([1, 0], [-1, np.sqrt(3)]), values=[0.5, 0.5])
    np.testing.assert_allclose(found, [0.5, 0.5], atol=1e-7)
    # On the ray, agreeing: everything to the longer gradient.
    np.testing.assert_allclose(row(framed(EPOSearch), gram([1, 0], [1, 2]), values=[0.5, 0.5]), [0, 1], atol=1e-9)


def test_epo_balances_towards_its_ray_from_both_sides() -> None:
    for seed in range(10):
        G = random_gradients(seed, m=2)
        for values in ([0.9, 0.3], [0.2, 0.8]):
            d = row(framed(EPOSearch), G @ G.T, values=values) @ G
            losses, behind = 1 - np.array(values), int(np.argmin(values))
            assert G[behind] @ d >= -1e-9  # what is furthest behind never falls
            mu = non_uniformity(losses, [0.5, 0.5])
            # Where no convex combination balances, none may fall instead.
            assert non_uniformity(losses - 1e-6 * G @ d, [0.5, 0.5]) < mu or (G @ d).min() >= -1e-9


def test_rays_ask_for_the_place_of_chebyshev() -> None:
    # p = (.8, .2): shortfalls (.1, .4) are on the ray and not balanced; (.4, .1) are far off it.
    gramian = gram([1, 0], [1, 2])
    on_ray = row(framed(EPOSearch), gramian, [0.8, 0.2], [0.9, 0.6])
    np.testing.assert_allclose(on_ray, [0, 1], atol=1e-9)  # raising everything: the longer gradient
    off_ray = row(framed(EPOSearch), gramian, [0.8, 0.2], [0.6, 0.9])
    np.testing.assert_allclose(off_ray, [1, 0], atol=1e-9)


def pareto_mtl_rows(values: Any, *, step: int = 0, weighting: Weighting | None = None) -> np.ndarray:
    weighting = framed(ParetoMTL, floor=1e-9) if weighting is None else weighting
    preferences = np.array([[0.8, 0.2], [0.5, 0.5], [0.2, 0.8]])
    weighting.setup(3, 2)
    values = np.asarray(values, dtype=float)
    return weighting(Signal(step, 100, values, preferences, None, np.stack([np.eye(2)] * 3)))


def test_pareto_mtl_gold_rows() -> None:
    # Rays along 1/p: (1, 4), (1, 1), (4, 1) over their lengths. All policies at shortfalls (.5, .5): only the middle
    # one is in its part. The first has crossed the border to the second, u_2 - u_1 = (.7071 - .2425, .7071 - .9701)
    # = (.4646, -.2630): that is its update, over the sum of magnitudes .7276: (.6385, -.3615). The border to the third,
    # u_3 - u_1 = (.7276, -.7276), has product 0 with (.5, .5): not crossed.
    rows = pareto_mtl_rows([[0.5, 0.5]] * 3)
    np.testing.assert_allclose(rows[0], [0.6385, -0.3615], atol=1e-4)
    np.testing.assert_allclose(rows[1], [0.5, 0.5], atol=1e-9)  # inside: MGDA of orthonormal gradients
    np.testing.assert_allclose(rows[2], rows[0][::-1], atol=1e-9)


def test_pareto_mtl_keeps_its_part_and_raises_everything_once_it_has_been_there() -> None:
    values = [[0.9, 0.6], [0.5, 0.5], [0.6, 0.9]]
    weighting = framed(ParetoMTL, smoothing=0.0, floor=1e-9)
    np.testing.assert_allclose(pareto_mtl_rows(values, weighting=weighting), 0.5, atol=1e-9)
    # The first policy then drifts over its border. Directions e_1, e_2 and b = (.4646, -.2630) / .5339, which is
    # (.8702, -.4927): the shortest convex combination rises along all three, so both weights stay positive.
    preferences = np.array([[0.8, 0.2], [0.5, 0.5], [0.2, 0.8]])
    drifted = np.array([[0.6, 0.55], [0.5, 0.5], [0.6, 0.9]])
    rows = weighting(Signal(1, 100, drifted, preferences, None, np.stack([np.eye(2)] * 3)))
    # e_2 and b have cosine -.4927, e_1 lies between them: middle of e_2 and b, (.8702, .5073) over 1.3775.
    np.testing.assert_allclose(rows[0], [0.6317, 0.3683], atol=1e-4)
    np.testing.assert_allclose(rows[1:], 0.5, atol=1e-9)


def test_pareto_mtl_gives_up_entering_after_its_warmup() -> None:
    early, late = pareto_mtl_rows([[0.5, 0.5]] * 3, step=19), pareto_mtl_rows([[0.5, 0.5]] * 3, step=20)
    assert early[0].min() < 0 < late[0].min()


def test_pareto_mtl_alone_is_mgda() -> None:
    for seed in range(3):
        G = random_gradients(seed, m=2)
        np.testing.assert_allclose(row(framed(ParetoMTL), G @ G.T), row(MGDA(), G @ G.T), rtol=1e-6)


# What rays are for: Fonseca's concave front, exact gradients, no noise.


def fonseca(weighting: Weighting, preferences: np.ndarray, *, steps: int = 250, rate: float = 0.05) -> np.ndarray:
    """Values [K, 2] of v_i = exp(-|x -+ 1/sqrt n|^2), n = 10, after gradient ascent with unit steps that decay."""
    n, K = 10, len(preferences)
    centres = np.stack([np.full(n, 1 / np.sqrt(n)), np.full(n, -1 / np.sqrt(n))])
    x = np.tile(np.linspace(-0.2, 0.2, n), (K, 1))
    weighting.setup(K, 2)
    for step in range(steps):
        away = centres - x[:, None]
        values = np.exp(-(away**2).sum(axis=2))
        gradients = 2 * values[..., None] * away
        gramians = gradients @ gradients.transpose(0, 2, 1)
        weights = weighting(Signal(step, steps, values, preferences, None, gramians))
        update = (weights[..., None] * gradients).sum(axis=1)
        length = np.linalg.norm(update, axis=1, keepdims=True)
        x = x + rate * (1 - step / steps) * update / np.maximum(length, 0.05)
    return np.exp(-((centres - x[:, None]) ** 2).sum(axis=2))


def distance_to_front(values: np.ndarray) -> np.ndarray:
    """Of each point to the nearest of x = t (1, .., 1) / sqrt n, |t| <= 1: v = exp(-(t -+ 1)^2)."""
    t = np.linspace(-1, 1, 2001)
    front = np.exp(-((t[:, None] - [1, -1]) ** 2))
    return np.linalg.norm(values[:, None] - front, axis=2).min(axis=1)


INSIDE = np.array([[0.8, 0.2], [0.65, 0.35], [0.5, 0.5], [0.35, 0.65], [0.2, 0.8]])
FRAME: dict[str, Any] = {"ideal": [1.0, 1.0], "nadir": [0.0, 0.0], "smoothing": 0.0}


def test_epo_ends_where_its_ray_meets_a_concave_front_and_fixed_weights_in_the_corners() -> None:
    values = fonseca(EPOSearch(**FRAME), INSIDE)
    assert distance_to_front(values).max() < 0.02
    reached = INSIDE * (1 - values)
    np.testing.assert_allclose(reached[:, 0] / reached.sum(axis=1), 0.5, atol=0.03)
    corners = fonseca(Fixed(), INSIDE)
    assert ((corners > 0.5).any(axis=1) & (corners < 0.15).any(axis=1))[[0, 1, 3, 4]].all()


def test_pareto_mtl_ends_on_a_concave_front_in_its_own_part() -> None:
    values = fonseca(ParetoMTL(**FRAME), INSIDE)
    assert distance_to_front(values).max() < 0.02
    rays = 1 / INSIDE / np.linalg.norm(1 / INSIDE, axis=1, keepdims=True)
    products = (1 - values) @ rays.T
    assert (products.max(axis=1) - np.diag(products)).max() < 0.02
    assert len(set(products.argmax(axis=1))) >= 4


@pytest.mark.parametrize("method", [MGDA, UPGrad, NashMTL, IMTLG])
def test_defensive_methods_end_on_the_front(method: Callable[[], Weighting]) -> None:
    assert distance_to_front(fonseca(method(), INSIDE)).max() < 0.02


# Parity with torchjd, which needs no GPL solver for these.


def torchjd_weights(name: str, gramian: np.ndarray, **settings: Any) -> np.ndarray:
    torch = pytest.importorskip("torch")
    aggregation = pytest.importorskip("torchjd.aggregation")
    method = getattr(aggregation, name)(**settings)
    return np.asarray(method(torch.as_tensor(gramian, dtype=torch.float64)))


@pytest.mark.parametrize("seed", range(8))
def test_parity_with_torchjd(seed: int) -> None:
    torch = pytest.importorskip("torch")
    m = 2 + seed % 4
    G = random_gradients(seed, m=m)
    C, p = G @ G.T, np.random.default_rng(seed).dirichlet(np.ones(m))
    # Their Frank-Wolfe loop closes in slowly from above; ours is exact.
    theirs, found = torchjd_weights("MGDAWeighting", C, epsilon=1e-9, max_iters=1000), row(MGDA(raw=True), C)
    np.testing.assert_allclose(found, theirs, atol=2e-2)
    own, other = found @ C @ found, theirs @ C @ theirs
    assert own <= other * (1 + 1e-9)  # where theirs has closed in, rounding decides
    assert other <= own * 1.01
    # Theirs is scaled to sum 1, which turns some updates round.
    theirs = torchjd_weights("IMTLGWeighting", C)
    theirs *= np.sign(C[0] @ theirs) / np.abs(theirs).sum()
    np.testing.assert_allclose(row(IMTLG(), C), theirs, rtol=1e-6, atol=1e-9)
    theirs = torchjd_weights("AlignedMTLWeighting", C, pref_vector=torch.as_tensor(p))
    np.testing.assert_allclose(row(AlignedMTL(), C, p), theirs / np.abs(theirs).sum(), rtol=1e-6, atol=1e-9)


def test_parity_with_torchjd_pcgrad_of_two() -> None:
    # With two objectives there is one order only; theirs is the sum, ours the mean.
    for seed in range(5):
        C = random_gradients(seed, m=2)
        C = C @ C.T
        np.testing.assert_allclose(row(PCGrad(), C), torchjd_weights("PCGradWeighting", C) / 2, rtol=1e-12)


def test_parity_with_torchjd_pcgrad_in_the_mean() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    C = gram([1, 0, 0], [-0.8, 0.5, 0], [-0.3, -0.6, 0.4])
    theirs = np.array([torchjd_weights("PCGradWeighting", C) for _ in range(400)]) / 3
    weighting = PCGrad()
    weighting.setup(1, 3)
    signal = Signal(0, 1, np.zeros((1, 3)), np.full((1, 3), 1 / 3), None, C[None])
    ours = np.array([weighting(signal)[0] for _ in range(400)])
    error = np.hypot(ours.std(axis=0), theirs.std(axis=0)) / np.sqrt(400)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= 4 * error + 1e-12).all()


# Settings.


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gradient", {"lr": -1.0}),
        ("gradient", {"mu": 0.0}),
        ("gradient", {"accumulate": 0}),
        ("gradient", {"lengths": "long"}),
        ("gradient", {"anchor": 1.0}),
        ("gradient", {"floor": -0.1}),
        ("pcgrad", {"seed": -1}),
        ("cagrad", {"c": 1.0}),
        ("cagrad", {"c": float("nan")}),
        ("epo", {"tolerance": -1.0}),
        ("epo", {"floor": 0.0}),
        ("epo", {"smoothing": 1.0}),
        ("pareto-mtl", {"warmup": 1.5}),
        ("pareto-mtl", {"min_range": 0.0}),
    ],
)
def test_settings_out_of_range(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(settings))}`"):
        make(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gradient", {"floor": 0.5}),
        ("epo", {"floor": 0.5}),
        ("epo", {"ideal": [1.0]}),
        ("pareto-mtl", {"nadir": [0.0]}),
    ],
)
def test_settings_that_do_not_fit_the_objectives(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(settings))}`"):
        make(name, **settings).setup(3, 2)


def test_an_objective_never_seen_means_the_preference() -> None:
    for method in (EPOSearch, ParetoMTL):
        weighting = method()
        weighting.setup(1, 2)
        signal = Signal(0, 9, np.array([[0.5, np.nan]]), np.array([[0.7, 0.3]]), None, np.eye(2)[None])
        np.testing.assert_allclose(weighting(signal), [[0.7, 0.3]])


def test_no_torch_is_needed() -> None:
    code = (
        "import sys, numpy as np\n"
        "from pareto_align.weighting import Signal, make\n"
        "for name in ('gradient', 'mgda', 'pcgrad', 'cagrad', 'aligned-mtl', 'imtl-g', 'upgrad', 'nash-mtl', 'epo',"
        " 'pareto-mtl'):\n"
        "    w = make(name); w.setup(2, 3)\n"
        "    w(Signal(0, 1, np.eye(2, 3), np.full((2, 3), 1 / 3), None, np.stack([np.eye(3)] * 2)))\n"
        "assert not {'torch', 'torchjd', 'cvxpy', 'quadprog'} & set(sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
