from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tabular_bandit import PROXY_POINTS, flat_front, hacked_proxies, objective_against_constraint, train

from pareto_align.errors import ConfigError
from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting import (
    Fixed,
    Lagrangian,
    LagrangianAll,
    LagrangianEquality,
    LagrangianSigmoid,
    SafeRLHF,
    Signal,
    Weighting,
    make,
)

FAMILY = [Lagrangian, LagrangianSigmoid, LagrangianAll, LagrangianEquality, SafeRLHF]


class Constrained(WeightingContract):
    constraints = 2

    def test_magnitudes_sum_to_one(self) -> None:
        weighting = self.ready()
        for signal in self.signals(20, 8):
            np.testing.assert_allclose(np.abs(weighting(signal)).sum(axis=1), 1, rtol=1e-9)


class TestLagrangian(Constrained):
    def make(self) -> Weighting:
        return Lagrangian()


class TestLagrangianOfChebyshev(Constrained):
    shares_population = True

    def make(self) -> Weighting:
        return Lagrangian(objectives={"name": "chebyshev", "mu": 0.1})


class TestLagrangianSigmoid(Constrained):
    def make(self) -> Weighting:
        return LagrangianSigmoid()


class TestLagrangianAll(Constrained):
    signed = True
    row_sum = None

    def make(self) -> Weighting:
        return LagrangianAll()


class TestLagrangianEquality(Constrained):
    signed = True
    row_sum = None

    def make(self) -> Weighting:
        return LagrangianEquality()


class TestSafeRLHF(Constrained):
    def make(self) -> Weighting:
        return SafeRLHF()


def feed(weighting: Weighting, *slacks: object, preferences: object = (0.5, 0.5)) -> np.ndarray:
    """The row [m + c] of one policy after the last of the slacks [c]."""
    wanted = np.atleast_2d(np.asarray(preferences, dtype=float))
    weighting.setup(1, wanted.shape[1])
    for step, slack in enumerate(slacks):
        values = np.zeros_like(wanted)
        row = weighting(Signal(step, 10, values, wanted, slack=np.atleast_2d(np.asarray(slack, dtype=float))))[0]
    return row


# Single steps.


def test_projected_ascent_gold_rows() -> None:
    plain = {"lr": 0.5, "gain": 0.0, "init": 0.5, "smoothing": 0.0}
    # lam = (.5 + .5 * .2, .5 - .5 * .4) = (.6, .3); the row is (.5, .5, .6, .3) / 1.9.
    np.testing.assert_allclose(feed(Lagrangian(**plain), [-0.2, 0.4]), np.array([0.5, 0.5, 0.6, 0.3]) / 1.9)
    # Never below 0, never above cap.
    np.testing.assert_allclose(feed(Lagrangian(**plain), [2.0]), [0.5, 0.5, 0])
    np.testing.assert_allclose(feed(Lagrangian(**plain, cap=3.0), [-90.0]), np.array([0.5, 0.5, 3]) / 4)
    # The proportional term comes on top and does not add up: .6 + 2 * .2 = 1, then .6 + 0.
    both = {**plain, "gain": 2.0}
    np.testing.assert_allclose(feed(Lagrangian(**both), [-0.2]), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(feed(Lagrangian(**both), [-0.2], [0.0]), np.array([0.5, 0.5, 0.6]) / 1.6)
    # The mean of -.2 and .4 with memory .5 is (-.05 + .2) / .75 = .2: .6 - .5 * .2.
    smooth = {**plain, "smoothing": 0.5}
    np.testing.assert_allclose(feed(Lagrangian(**smooth), [-0.2], [0.4]), np.array([0.5, 0.5, 0.5]) / 1.5)


def test_sigmoid_gold_row() -> None:
    # u = -lr * .25 * slack = (.1, -.05), lam = (.524979, .487503): rows (1 - mean) p and lam / 2.
    row = feed(LagrangianSigmoid(lr=1.0, gain=0.0, smoothing=0.0), [-0.4, 0.2], preferences=[0.8, 0.2])
    left = 1 - (0.524979 + 0.487503) / 2
    np.testing.assert_allclose(row, [0.8 * left, 0.2 * left, 0.524979 / 2, 0.487503 / 2], atol=1e-6)
    # gain 2 adds .8 and -.4: lam = sigmoid(.9, -.45) = (.710950, .389361).
    row = feed(LagrangianSigmoid(lr=1.0, gain=2.0, smoothing=0.0), [-0.4, 0.2])
    np.testing.assert_allclose(row[2:], [0.710950 / 2, 0.389361 / 2], atol=1e-6)


def test_equality_gold_rows() -> None:
    plain = {"lr": 1.0, "gain": 0.0, "smoothing": 0.0}
    # u = -slack = (.4, -.2): lam = tanh(u) = (.379949, -.197375).
    row = feed(LagrangianEquality(**plain), [-0.4, 0.2], preferences=[1.0])
    np.testing.assert_allclose(row, [1 - (0.379949 + 0.197375) / 2, 0.379949 / 2, -0.197375 / 2], atol=1e-6)
    # As published the objective keeps what is not spent on balance: 1 - (.379949 - .197375) / 2.
    row = feed(LagrangianEquality(**plain, budget="signed"), [-0.4, 0.2], preferences=[1.0])
    np.testing.assert_allclose(row, [1 - (0.379949 - 0.197375) / 2, 0.379949 / 2, -0.197375 / 2], atol=1e-6)
    assert row.sum() == pytest.approx(1)
    # A gradient of length 5 is clipped to .5: u = (.3, -.4).
    row = feed(LagrangianEquality(**plain), [-3.0, 4.0], preferences=[1.0])
    np.testing.assert_allclose(row[1:], np.tanh([0.3, -0.4]) / 2)


def test_all_form_gold_row() -> None:
    # One objective .4 past its point: u = .1, lam = .524979; left = .475021, steer = left - lam = -.049958.
    row = feed(LagrangianAll(lr=1.0, gain=0.0, smoothing=0.0), [0.4], preferences=[1.0])
    np.testing.assert_allclose(row, np.array([0.475021, -0.049958]) / 0.524979, atol=2e-6)
    # Far below the point both are simply maximised.
    np.testing.assert_allclose(feed(LagrangianAll(gain=100.0), [-1.0], preferences=[1.0]), [0.5, 0.5], atol=1e-6)


def test_safe_rlhf_gold_rows() -> None:
    # lam = exp(.1 * 1 * .5) = 1.051271
    plain = {"lr": 0.1, "window": 1}
    np.testing.assert_allclose(feed(SafeRLHF(**plain), [-0.5])[2], 1.051271 / 2.051271, atol=1e-6)
    # The next step is proportional to lam: exp(.05 + .1 * 1.051271 * .5) = 1.108008.
    np.testing.assert_allclose(feed(SafeRLHF(**plain), [-0.5], [-0.5])[2], 1.108008 / 2.108008, atol=1e-6)
    # A window of two sees the mean of -.5 and .5 in the second step.
    np.testing.assert_allclose(feed(SafeRLHF(window=2), [-0.5], [0.5])[2], 1.051271 / 2.051271, atol=1e-6)
    np.testing.assert_allclose(feed(SafeRLHF(delay=1), [-0.5]), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(feed(SafeRLHF(delay=1, window=1), [9.0], [-0.5])[2], 1.051271 / 2.051271, atol=1e-6)
    # One step is at most a factor e, and the ends hold.
    np.testing.assert_allclose(feed(SafeRLHF(), [-1e9])[2], np.e / (1 + np.e))
    np.testing.assert_allclose(feed(SafeRLHF(cap=4.0), *[[-1e9]] * 9)[2], 0.8)
    np.testing.assert_allclose(feed(SafeRLHF(floor=0.25), *[[1e9]] * 9)[2], 0.2)


# What all of them share.


@pytest.mark.parametrize("cls", FAMILY)
def test_without_news_nothing_moves(cls: type[Weighting]) -> None:
    weighting, preferences = cls(), np.full((2, 2), 0.5)
    weighting.setup(2, 2)
    signal = Signal(0, 9, np.zeros((2, 2)), preferences, slack=np.array([[-0.3, 0.1], [0.2, -0.1]]))
    weighting(signal)
    first = weighting(dataclasses.replace(signal, step=1))
    missing = np.array([[np.nan, np.nan], [0.2, -0.1]])
    second = weighting(dataclasses.replace(signal, step=2, slack=missing))
    if cls is not SafeRLHF:  # its window still holds a slack from before
        np.testing.assert_array_equal(second[0], first[0])
    unseen = cls()
    unseen.setup(1, 2)
    nothing = Signal(0, 9, np.zeros((1, 2)), preferences[:1], slack=np.full((1, 2), np.nan))
    np.testing.assert_array_equal(unseen(nothing), unseen(dataclasses.replace(nothing, step=1)))


@pytest.mark.parametrize("cls", FAMILY)
def test_a_violation_pulls_and_room_lets_go(cls: type[Weighting]) -> None:
    if cls is LagrangianAll:  # an upper bound: past it the weight falls
        assert feed(cls(), [0.3])[2] < 0 < feed(cls(), [-0.3])[2]
    else:
        assert feed(cls(), [-0.3])[2] > feed(cls(), [0.3])[2]
    if cls is LagrangianEquality:
        assert feed(cls(), [0.3])[2] < 0 < feed(cls(), [-0.3])[2]


@pytest.mark.parametrize("cls", FAMILY)
def test_objectives_can_be_traded_by_another_weighting(cls: type[Weighting]) -> None:
    values = np.array([[1.0, 0.0], [0.0, 1.0]])
    signal = Signal(0, 9, values, np.full((2, 2), 0.5), slack=np.array([[0.1], [-0.1]]))
    inner, outer = make("chebyshev"), cls(objectives="chebyshev")
    inner.setup(2, 2)
    outer.setup(2, 2)
    trade, rows = inner(signal), outer(signal)
    np.testing.assert_allclose(rows[:, :2] / rows[:, :2].sum(axis=1, keepdims=True), trade)
    asking = cls(objectives="saw")
    assert asking.requires == {"slack", "spread"}


@pytest.mark.parametrize("cls", FAMILY)
def test_what_is_missing_is_named(cls: type[Weighting]) -> None:
    weighting = cls()
    assert weighting.requires == {"slack"}
    weighting.setup(1, 2)
    signal = Signal(0, 9, np.zeros((1, 2)), np.full((1, 2), 0.5))
    with pytest.raises(ConfigError, match=r"role='constrain'.*at_least"):
        weighting(signal)
    weighting(dataclasses.replace(signal, slack=np.zeros((1, 2))))
    with pytest.raises(ConfigError, match=r"started with 2 constraints. Found 1"):
        weighting(dataclasses.replace(signal, slack=np.zeros((1, 1))))
    with pytest.raises(ConfigError, match="steers the constraints"):
        cls(objectives="lagrangian")


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (Lagrangian, {"lr": 0.0}),
        (Lagrangian, {"gain": -1.0}),
        (Lagrangian, {"cap": 0.0}),
        (Lagrangian, {"init": -0.1}),
        (Lagrangian, {"smoothing": 1.0}),
        (LagrangianSigmoid, {"lr": float("nan")}),
        (LagrangianEquality, {"budget": "all"}),
        (SafeRLHF, {"lr": 0.0}),
        (SafeRLHF, {"init": 30.0}),
        (SafeRLHF, {"window": 0}),
        (SafeRLHF, {"delay": -1}),
    ],
)
def test_settings_out_of_range(cls: type[Weighting], settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        cls(**settings)


# What they are for.

ONE = np.array([[1.0]])


def gold(proxies: np.ndarray) -> float:
    return float(-((proxies - PROXY_POINTS) ** 2).sum())


def on_the_line(weighting: Weighting, seed: int = 0, threshold: float = 0.6, **run: float) -> np.ndarray:
    """Final (objective, constrained objective) where one can only be had from the other."""
    problem, at = objective_against_constraint(), np.array([threshold])
    return train(weighting, problem, seed=seed, preferences=ONE, thresholds=at, **run)[0][0]


@pytest.mark.parametrize("weighting", [Lagrangian(), LagrangianSigmoid()])
@pytest.mark.parametrize("seed", range(3))
def test_a_constraint_is_met_and_no_more(weighting: Weighting, seed: int) -> None:
    np.testing.assert_allclose(on_the_line(weighting, seed), [0.4, 0.6], atol=0.02)


def test_the_proportional_term_ends_the_swing() -> None:
    fast = {"steps": 100, "learning_rate": 0.3}
    misses = {
        gain: [abs(on_the_line(Lagrangian(gain=gain), seed, **fast)[1] - 0.6) for seed in range(3)]
        for gain in (0.0, 20.0)
    }
    assert max(misses[0.0]) > 0.15
    assert max(misses[20.0]) < 0.03


def test_safe_rlhf_swings_into_the_neighbourhood() -> None:
    assert all(0.55 < on_the_line(SafeRLHF(), seed)[1] < 0.75 for seed in range(3))
    without = train(Fixed(), objective_against_constraint()[:, :1], preferences=ONE)[0][0, 0]
    assert without > 0.95  # which is .05 of the constrained objective


@pytest.mark.parametrize("seed", range(3))
def test_equality_lands_on_its_points_where_the_sum_overshoots(seed: int) -> None:
    held = train(LagrangianEquality(), hacked_proxies(), seed=seed, preferences=ONE, thresholds=PROXY_POINTS)[0][0]
    np.testing.assert_allclose(held[1:], PROXY_POINTS, atol=0.03)
    summed = train(Fixed(), hacked_proxies(), seed=seed, preferences=np.full((1, 3), 1 / 3))[0][0]
    assert summed[1:].min() > 0.85
    assert gold(held[1:]) > -0.002 > -0.4 > gold(summed[1:])


def test_the_published_budget_loses_to_an_objective_that_pulls_the_same_way() -> None:
    published = LagrangianEquality(budget="signed")
    lost = train(published, hacked_proxies(), preferences=ONE, thresholds=PROXY_POINTS)[0][0]
    assert np.abs(lost[1:] - PROXY_POINTS).max() > 0.3
    against = hacked_proxies()
    against[:, 0] = 1 - against[:, 1:].mean(axis=1)  # like a KL penalty: the objective is best where proxies are low
    held = train(published, against, preferences=ONE, thresholds=PROXY_POINTS)[0][0]
    np.testing.assert_allclose(held[1:], PROXY_POINTS, atol=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_the_all_form_stops_at_the_points(seed: int) -> None:
    found = train(LagrangianAll(), hacked_proxies(), seed=seed, preferences=ONE, thresholds=PROXY_POINTS)[0][0]
    assert (found[1:] < PROXY_POINTS + 0.04).all()
    assert (found[1:] > PROXY_POINTS - 0.15).all()


def test_a_constraint_that_cannot_be_met_is_served_first() -> None:
    weighting = Lagrangian()
    found = on_the_line(weighting, threshold=1.5)
    assert weighting.multipliers[0, 0] == weighting.cap
    assert found[1] > 0.9


def test_a_population_spreads_over_the_front_under_its_constraint() -> None:
    # The two ends of the straight front violate the third objective; one other token is worth 1 in it.
    third = 0.5 * np.random.default_rng(0).random(16)
    third[:3] = (0, 0, 1)
    rewards = np.column_stack([flat_front(), third])
    placed, slid = (
        train(Lagrangian(objectives=inner), rewards, thresholds=np.array([0.3]))[0] for inner in ("chebyshev", "fixed")
    )
    assert placed[:, 2].min() > 0.25
    gaps = [np.abs(np.diff(np.sort(found[:, 0]))).max() for found in (placed, slid)]
    assert gaps[0] < 0.25  # eight places along the front
    assert gaps[1] > 0.5  # two corners
