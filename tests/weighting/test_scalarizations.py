from __future__ import annotations

import math

import numpy as np
import pytest
from tabular_bandit import arc_front, flat_front, share_of_arc, share_of_attainable, train

from pareto_align.errors import ConfigError
from pareto_align.front.indicators import hypervolume
from pareto_align.testing.weighting import WeightingContract, random_signals
from pareto_align.weighting import (
    PSA,
    STCH,
    AugmentedTchebycheff,
    Chebyshev,
    Fixed,
    HypervolumeScalarization,
    Signal,
    SoftMin,
    Tchebycheff,
    Weighting,
)
from pareto_align.weighting.scalarizations import soft_min, soft_min_gradient


class TestTchebycheff(WeightingContract):
    shares_population = True

    def make(self) -> Weighting:
        return Tchebycheff()


class TestAugmentedTchebycheff(WeightingContract):
    shares_population = True

    def make(self) -> Weighting:
        return AugmentedTchebycheff()


class TestSTCH(WeightingContract):
    shares_population = True

    def make(self) -> Weighting:
        return STCH()


class TestSoftMin(WeightingContract):
    def make(self) -> Weighting:
        return SoftMin(k_end=2.0)


class TestHypervolumeScalarization(WeightingContract):
    """Every slot has rays of its own, in fixed axes: the checks of order are made with the rays reordered as well."""

    shares_population = True
    symmetric = False

    def make(self) -> Weighting:
        return HypervolumeScalarization(redraw=3)

    def test_permuting_policies_permutes_rows(self) -> None:
        self._check_order(np.roll(np.arange(self.K), 1), np.arange(self.m))

    def test_permuting_objectives_permutes_weights(self) -> None:
        self._check_order(np.arange(self.K), np.roll(np.arange(self.m), 1))

    def _check_order(self, rows: np.ndarray, columns: np.ndarray) -> None:
        plain, other = HypervolumeScalarization(), HypervolumeScalarization()
        plain.setup(self.K, self.m)
        other.setup(self.K, self.m)
        other.directions = plain.directions[np.ix_(rows, columns)]
        for signal in self.signals(2, 8):
            moved = Signal(
                signal.step,
                signal.steps,
                signal.values[np.ix_(rows, columns)],
                signal.preferences[np.ix_(rows, columns)],
            )
            np.testing.assert_allclose(other(moved), plain(signal)[np.ix_(rows, columns)])


class TestPSA(WeightingContract):
    shares_population = True

    def make(self) -> Weighting:
        return PSA()


class TestPSAOfTchebycheff(WeightingContract):
    shares_population = True

    def make(self) -> Weighting:
        return PSA(scalarization={"name": "chebyshev", "mu": 0.1})


def weigh(weighting: Weighting, values: object, preferences: object, measured: object = None) -> np.ndarray:
    values, preferences = np.asarray(values, dtype=float), np.asarray(preferences, dtype=float)
    weighting.setup(*values.shape)
    return weighting(Signal(0, 10, values, preferences, None if measured is None else np.asarray(measured)))


# Tchebycheff: hard, augmented, smooth.


def test_tchebycheff_gold_rows() -> None:
    # Two policies at the corners span ideal (1, 1), nadir (0, 0): shortfalls (0, 1) and (1, 0).
    np.testing.assert_array_equal(weigh(Tchebycheff(), np.eye(2), [[0.5, 0.5]] * 2), [[0, 1], [1, 0]])
    # .8 * .2 = .16 against .2 * .7 = .14: the first is behind its ray, though its shortfall is smaller.
    frame = {"ideal": [1.0, 1.0], "nadir": [0.0, 0.0], "floor": 0.0}
    np.testing.assert_array_equal(weigh(Tchebycheff(**frame), [[0.8, 0.3]], [[0.8, 0.2]]), [[1, 0]])
    # On the ray itself both count, by their preference.
    np.testing.assert_allclose(weigh(Tchebycheff(**frame), [[0.75, 0.25]], [[0.75, 0.25]]), [[0.75, 0.25]])
    # tau = .5 moves the ideal to (1.5, 1.5): .8 * .5 = .4 against .2 * 1.5 = .3, where without it 0 stands against .2.
    rows = weigh(Tchebycheff(tau=0.5), np.eye(2), [[0.8, 0.2], [0.2, 0.8]])
    np.testing.assert_array_equal(rows, [[1, 0], [0, 1]])
    rows = weigh(Tchebycheff(), np.eye(2), [[0.8, 0.2], [0.2, 0.8]])
    np.testing.assert_array_equal(rows, [[0, 1], [1, 0]])


def test_augmented_tchebycheff_gold_row() -> None:
    # (.5 * .05, .5 * 1.05) / .55
    rows = weigh(AugmentedTchebycheff(), np.eye(2), [[0.5, 0.5]] * 2)
    np.testing.assert_allclose(rows[0], [0.045455, 0.954545], atol=1e-6)


def test_weights_count_per_unit_of_value() -> None:
    # The second objective's range is 4: a unit of it is worth a quarter of its share.
    frame = {"ideal": [1.0, 4.0], "nadir": [0.0, 0.0], "floor": 0.0}
    row = weigh(AugmentedTchebycheff(rho=1.0, **frame), [[0.9, 0.0]], [[0.5, 0.5]])
    np.testing.assert_allclose(row, [[1 / (1 + 2 / 4), (2 / 4) / (1 + 2 / 4)]])


def test_stch_gold_row() -> None:
    # Losses f = (1, 2) from z = 0 in a frame of range 1, w = (.5, .5), mu = 1: softmax(.5, 1) = (.377541, .622459).
    frame = {"ideal": [0.0, 0.0], "nadir": [-1.0, -1.0], "floor": 0.0}
    row = weigh(STCH(mu=1.0, **frame), [[-1.0, -2.0]], [[0.5, 0.5]])
    np.testing.assert_allclose(row, [[0.377541, 0.622459]], atol=1e-6)


@pytest.mark.parametrize("m", [2, 3])
def test_one_family(m: int) -> None:
    """The default with another temperature and no linear part is STCH, and without temperature Tchebycheff."""
    pairs = [
        (STCH(mu=0.02), Chebyshev(mu=0.02 * m, rho=0.0)),
        (Tchebycheff(), Chebyshev(mu=1e-9, rho=0.0)),
        (AugmentedTchebycheff(rho=0.03), Chebyshev(mu=1e-9, rho=0.03)),
        (AugmentedTchebycheff(rho=0.0, tau=0.1), Tchebycheff(tau=0.1)),
    ]
    for one, other in pairs:
        one.setup(4, m)
        other.setup(4, m)
        for signal in random_signals(0, 8, 4, m):
            np.testing.assert_allclose(one(signal), other(signal), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weighting", [Tchebycheff(), AugmentedTchebycheff(), STCH()])
def test_holds_its_place_on_a_straight_front(weighting: Weighting) -> None:
    assert share_of_attainable(train(weighting, flat_front())[0]) >= 0.9


# The soft minimum.


def test_soft_min_gold_values() -> None:
    # z = (1, -1), k = 1: -log(.5 (e^-1 + e)) = -.433781. k to 0 is the mean, k to infinity the minimum.
    even = [0.5, 0.5]
    assert soft_min([1, -1], even, k=1.0) == pytest.approx(-0.433781, abs=1e-6)
    assert soft_min([1, -1], even, k=1e-9) == pytest.approx(0.0, abs=1e-6)
    assert soft_min([1, -1], even, k=1e4) == pytest.approx(-1.0, abs=1e-3)
    assert soft_min([1e6, -1e6], even, k=1.0) == pytest.approx(-1e6)
    # mean - k/2 variance to second order: .2 - .005 * .04.
    assert soft_min([0.0, 0.4], even, k=0.01) == pytest.approx(0.2 - 0.0002, abs=1e-6)


def test_soft_min_gradient_is_the_derivative() -> None:
    rng, h = np.random.default_rng(0), 1e-6
    v, w = rng.normal(size=(6, 3)), rng.dirichlet(np.ones(3), 6)
    for i in range(3):
        step = h * np.eye(3)[i]
        slope = (soft_min(v + step, w, k=3.0) - soft_min(v - step, w, k=3.0)) / (2 * h)
        np.testing.assert_allclose(soft_min_gradient(v, w, k=3.0)[:, i], slope, rtol=1e-5, atol=1e-8)


def test_softmin_rows_and_annealing() -> None:
    # softmax(-1, 1) = (.119203, .880797)
    np.testing.assert_allclose(weigh(SoftMin(k=1.0), [[1.0, -1.0]], [[0.5, 0.5]]), [[0.119203, 0.880797]], atol=1e-6)
    np.testing.assert_allclose(weigh(SoftMin(k=0.0), [[1.0, -1.0]], [[0.8, 0.2]]), [[0.8, 0.2]])
    weighting = SoftMin(k=0.0, k_end=2.0, smoothing=0.0)
    weighting.setup(1, 2)
    found = [weighting(Signal(s, 3, np.array([[1.0, -1.0]]), np.full((1, 2), 0.5)))[0, 0] for s in range(3)]
    # k = 0, 1, 2 in three steps.
    np.testing.assert_allclose(found, [0.5, 1 / (1 + math.exp(2)), 1 / (1 + math.exp(4))], rtol=1e-9)


# Random hypervolume scalarization.


def test_hypervolume_scalarization_weighs_what_is_lowest_along_its_ray() -> None:
    weighting = HypervolumeScalarization(margin=0.0, ideal=[1.0, 1.0], nadir=[0.0, 0.0])
    weighting.setup(3, 2)
    weighting.directions = np.array([[0.6, 0.8], [0.6, 0.8], [0.6, 0.8]])
    # Heights are the values: .3/.6 < .8/.8; .6/.6 > .4/.8; below the reference point the lowest one counts.
    rows = weighting(Signal(0, 9, np.array([[0.3, 0.8], [0.6, 0.4], [0.5, -0.2]]), np.full((3, 2), 0.5)))
    np.testing.assert_array_equal(rows, [[1, 0], [0, 1], [0, 1]])


def test_its_directions_measure_hypervolume() -> None:
    """The mean over directions of the best point's scalarization is the hypervolume, up to a constant (2006.04655)."""
    points = np.array([[1.0, 0.5, 0.4], [0.5, 1.0, 0.6], [0.3, 0.3, 1.0]])
    weighting = HypervolumeScalarization()
    weighting.setup(20000, 3)
    assert (weighting.directions > 0).all()
    np.testing.assert_allclose(np.linalg.norm(weighting.directions, axis=1), 1, atol=1e-5)
    best = ((points[None] / weighting.directions[:, None]).min(axis=2) ** 3).max(axis=1)
    constant = math.pi ** (3 / 2) / (2**3 * math.gamma(3 / 2 + 1))
    assert constant * best.mean() == pytest.approx(hypervolume(points, ref=(0.0, 0.0, 0.0)), rel=0.02)


def test_directions_are_kept_redrawn_and_repeatable() -> None:
    first, again, other = (
        HypervolumeScalarization(redraw=2),
        HypervolumeScalarization(),
        HypervolumeScalarization(seed=1),
    )
    for weighting in (first, again, other):
        weighting.setup(3, 2)
    start = first.directions.copy()
    np.testing.assert_array_equal(start, again.directions)
    assert (start != other.directions).any(axis=1).all()
    assert len(np.unique(start, axis=0)) == 3
    for step in range(3):
        kept = (first.directions == start).all()
        assert kept  # two steps with the first ones; the third draws before it weighs
        first(Signal(step, 9, np.zeros((3, 2)), np.full((3, 2), 0.5)))
    assert (first.directions != start).any(axis=1).all()
    first.reset(1)
    np.testing.assert_array_equal(first.directions[1], start[1])


@pytest.mark.parametrize("seed", range(2))
def test_random_rays_cover_a_straight_front(seed: int) -> None:
    kept = HypervolumeScalarization(ideal=[1, 1], nadir=[0, 0])
    assert share_of_attainable(train(kept, flat_front(), seed=seed)[0]) >= 0.8


# Weight adaptation.


def test_psa_pushes_away_from_the_nearest_point() -> None:
    even, measured = [[0.5, 0.5]] * 2, [[0.2, 0.8], [0.6, 0.4]]
    weighting = PSA(floor=0.0)
    rows = weigh(weighting, np.zeros((2, 2)), even, measured)
    # Each is better than the other in one objective: odds 1.1^2 = 1.21.
    np.testing.assert_allclose(rows, [[1 / 2.21, 1.21 / 2.21], [1.21 / 2.21, 1 / 2.21]])
    again = weighting(Signal(1, 10, np.zeros((2, 2)), np.array(even), np.array(measured)))
    np.testing.assert_allclose(again, rows)  # the same measurement is no news
    # Only the first moved, next to its old place: that is within `distance`, so it is still compared with the second.
    moved = weighting(Signal(2, 10, np.zeros((2, 2)), np.array(even), np.array([[0.21, 0.81], [0.6, 0.4]])))
    np.testing.assert_allclose(moved, [[1 / (1 + 1.21**2), 1.21**2 / (1 + 1.21**2)], rows[1]])


def test_psa_hands_the_adapted_weights_to_its_scalarization() -> None:
    measured = [[0.2, 0.8], [0.6, 0.4]]
    values = np.array([[0.2, 0.8], [0.6, 0.4]])
    inner = Chebyshev(mu=0.1)
    found = weigh(PSA(scalarization=Chebyshev(mu=0.1), floor=0.0), values, [[0.5, 0.5]] * 2, measured)
    expected = weigh(inner, values, [[1 / 2.21, 1.21 / 2.21], [1.21 / 2.21, 1 / 2.21]])
    np.testing.assert_allclose(found, expected)


def test_psa_spreads_policies_that_start_together() -> None:
    arc = arc_front()
    near = np.column_stack([np.linspace(0.45, 0.55, 8), np.linspace(0.55, 0.45, 8)])
    together, apart = (train(w, arc, preferences=near)[0] for w in (Fixed(), PSA()))
    assert np.ptp(together, axis=0).max() < 0.3
    assert np.ptp(apart, axis=0).min() > 0.45
    assert share_of_arc(apart, arc) > share_of_arc(together, arc) + 0.08


# Settings.


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (Tchebycheff, {"tau": -0.1}),
        (Tchebycheff, {"floor": -0.1}),
        (Tchebycheff, {"smoothing": 1.0}),
        (AugmentedTchebycheff, {"rho": -1.0}),
        (STCH, {"mu": 0.0}),
        (STCH, {"min_range": 0.0}),
        (SoftMin, {"k": -1.0}),
        (SoftMin, {"k_end": float("nan")}),
        (HypervolumeScalarization, {"seed": -1}),
        (HypervolumeScalarization, {"redraw": 0.5}),
        (HypervolumeScalarization, {"margin": -0.1}),
        (PSA, {"factor": 1.0}),
        (PSA, {"distance": -0.1}),
    ],
)
def test_settings_out_of_range(cls: type[Weighting], settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        cls(**settings)


def test_settings_that_do_not_fit_the_objectives() -> None:
    with pytest.raises(ConfigError, match="floor"):
        PSA(floor=0.5).setup(3, 2)
    with pytest.raises(ConfigError, match="floor"):
        STCH(floor=0.5).setup(3, 2)
    with pytest.raises(ConfigError, match="Unknown weighting"):
        PSA(scalarization="no such")
    with pytest.raises(ConfigError, match="needs `name`"):
        PSA(scalarization={"mu": 0.1})
