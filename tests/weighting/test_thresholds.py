"""Thresholds that move: contract, Nelder-Mead against scipy's, the fitted proxy points, and where policies end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize
from tabular_bandit import PROXY_POINTS, hacked_proxies, train

from pareto_align.errors import ConfigError
from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting import LagrangianEquality, NelderMeadThresholds, ProxyPoints, Signal, Weighting, make
from pareto_align.weighting.simplex_search import NelderMead


class Moving(WeightingContract):
    constraints = 2
    signed = True
    row_sum = None

    def test_magnitudes_sum_to_one(self) -> None:
        weighting = self.ready()
        for signal in self.signals(20, 8):
            np.testing.assert_allclose(np.abs(weighting(signal)).sum(axis=1), 1, rtol=1e-9)


class TestNelderMeadThresholds(Moving):
    def make(self) -> Weighting:
        # Short visits, so that the checks' few signals see several vertices.
        return NelderMeadThresholds(patience=1, readings=1)


class TestNelderMeadThresholdsOfSafeRLHF(Moving):
    signed = False

    def make(self) -> Weighting:
        return NelderMeadThresholds(patience=0, readings=1, constraints={"name": "safe-rlhf", "objectives": "fixed"})


class TestProxyPoints(Moving):
    shares_population = True

    def make(self) -> Weighting:
        return ProxyPoints(warmup=2, confidence=0.0)


class TestProxyPointsWithInteractions(Moving):
    shares_population = True

    def make(self) -> Weighting:
        return ProxyPoints(warmup=2, confidence=0.0, interactions=True)


# Nelder-Mead, step by step.


def valley(x: np.ndarray) -> float:
    """A bent, lopsided valley around (.3, -.2, ...)."""
    z = x - np.linspace(0.3, -0.2, len(x))
    return float(z @ z + 3 * (z[0] + 0.7 * z[-1] ** 2) ** 2 + np.sin(3 * z).sum() ** 2)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("reach", [5.0, 0.25])
@pytest.mark.parametrize("seed", range(3))
def test_the_points_asked_for_are_scipys(n: int, reach: float, seed: int) -> None:
    start = np.random.default_rng(seed).uniform(-0.24, 0.24, (n + 1, n))
    asked: list[np.ndarray] = []

    def watched(x: np.ndarray) -> float:
        asked.append(x.copy())
        return valley(x)

    settings = {"initial_simplex": start, "maxfev": 60, "xatol": 0.0, "fatol": 0.0}
    minimize(watched, start[0], method="Nelder-Mead", bounds=[(-reach, reach)] * n, options=settings)
    box = (np.full(n, -reach), np.full(n, reach))
    search = NelderMead(start, *box)
    for number, expected in enumerate(asked):
        np.testing.assert_allclose(search.point, expected, atol=1e-10, err_msg=f"point {number}")
        search.tell(-valley(search.point))
        # Leaving it and coming back changes nothing.
        search = NelderMead.unpack(search.pack(), *box)


def test_the_first_steps_of_a_search() -> None:
    # Score -|x - (.3, .1)|^2. Vertices (0, 0), (.2, 0), (0, .2) score -.1, -.02, -.1: the worst is the last, which is
    # reflected at (.1, 0) to (.2, -.2), score -.1: no better than the second worst, -.1, nor the worst, so the inner
    # contraction (.05, .1), score -.0625, takes its place.
    def score(x: np.ndarray) -> float:
        return -float(((x - [0.3, 0.1]) ** 2).sum())

    search = NelderMead([[0, 0], [0.2, 0], [0, 0.2]], [-1, -1], [1, 1])
    asked = []
    for _ in range(6):
        asked.append(search.point)
        search.tell(score(search.point))
    expected = [(0, 0), (0.2, 0), (0, 0.2), (0.2, -0.2), (0.05, 0.1), (0.25, 0.1)]
    np.testing.assert_allclose(asked, expected, atol=1e-12)
    # (.25, .1), the mirror image of (0, 0), is the best so far, so the search goes twice as far: (.375, .15).
    np.testing.assert_allclose(search.point, (0.375, 0.15))
    np.testing.assert_allclose(search.best, (0.2, 0.0))


# A population that does what it is told: values move along their weights.

PEAK = np.array([0.5, 0.3])


def concave(values: np.ndarray) -> np.ndarray:
    return -((values - PEAK) ** 2).sum(axis=1)


def follow(
    weighting: Weighting,
    thresholds: object,
    *,
    steps: int = 400,
    K: int = 1,
    seed: int = 0,
    noise: float = 0.01,
    gold: Callable[[np.ndarray], np.ndarray] = concave,
) -> np.ndarray:
    """Where two proxies [K, 2] end that an objective pulls up and the constraints move, each along its own weight."""
    rng = np.random.default_rng(seed)
    values, preferences = np.full((K, 2), 0.2), np.ones((K, 1))
    weighting.setup(K, 1)
    for step in range(steps):
        seen = values + noise * rng.standard_normal((K, 2))
        slack = seen - np.asarray(thresholds)
        signal = Signal(step, steps, np.zeros((K, 1)), preferences, slack=slack, audits=gold(seen)[:, None])
        rows = weighting(signal)
        values = np.clip(values + 0.05 * (rows[:, 1:] + 0.3 * rows[:, :1]), 0, 1)
    return values


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["nelder-mead-thresholds", "proxy-points"])
def test_wrong_thresholds_are_mended_within_the_run(name: str, seed: int) -> None:
    held = follow(make("lagrangian-equality"), [0.35, 0.6], seed=seed)
    assert np.abs(held - PEAK).max() > 0.25
    mended = follow(make(name), [0.35, 0.6], seed=seed)
    assert np.abs(mended - PEAK).max() < 0.05


def test_the_search_ends_at_the_best_vertex_and_stays_in_its_box() -> None:
    weighting = NelderMeadThresholds(reach=0.1, radius=0.1)
    ended = follow(weighting, [0.35, 0.6], noise=0.0)
    np.testing.assert_allclose(weighting.offsets[0], [0.1, -0.1], atol=0.02)
    np.testing.assert_allclose(ended[0], [0.45, 0.5], atol=0.03)
    # A fifth of the run is left after the search: the thresholds no longer move.
    halted = NelderMeadThresholds(search=0.01)
    follow(halted, [0.35, 0.6], steps=100)
    np.testing.assert_array_equal(halted.offsets, 0)


def test_a_vertex_is_scored_where_the_policy_stands() -> None:
    """The score of the first vertex is read once the policy has come within `near` of it, not on the way."""
    weighting = NelderMeadThresholds(near=0.02, patience=10**6, readings=1)
    weighting.setup(1, 1)
    for step, (slack, audit) in enumerate([(-0.4, 9.0), (-0.2, 5.0), (0.3, 7.0), (0.0, 3.0), (0.0, 2.0), (0.0, 1.0)]):
        one = np.array([[slack]])
        weighting(Signal(step, 100, np.zeros((1, 1)), np.ones((1, 1)), slack=one, audits=np.array([[audit]])))
        at_first = np.allclose(weighting.offsets, 0.0)
    # Means of the slack with memory .5: -.4, -.267, .057, .027, .013 (near, score 2), then the second vertex.
    assert not at_first
    search = NelderMead.unpack(weighting.searches[0], np.array([-0.5]), np.array([0.5]))
    assert search.scores[0] == 2.0


# Proxy points.


def shown(weighting: ProxyPoints, slacks: np.ndarray, audits: np.ndarray) -> np.ndarray:
    """Offsets [K, c] after slacks [steps, K, c] and audits [steps, K]."""
    K = slacks.shape[1]
    weighting.setup(K, 1)
    for step, (slack, audit) in enumerate(zip(slacks, audits, strict=True)):
        signal = Signal(
            step, len(slacks), np.zeros((K, 1)), np.ones((K, 1)), slack=slack, audits=np.atleast_2d(audit).T
        )
        weighting(signal)
    return weighting.offsets


def test_the_fitted_peak_of_a_quadratic_is_exact() -> None:
    slacks = np.random.default_rng(0).uniform(-1, 1, (30, 3, 2))
    audits = 2 - 3 * (slacks[..., 0] - 0.4) ** 2 - (slacks[..., 1] + 0.25) ** 2
    found = shown(ProxyPoints(pace=1.0, warmup=5), slacks, audits)
    np.testing.assert_allclose(found, [[0.4, -0.25]] * 3, atol=1e-6)
    # A tilted ridge needs the product: gold = -(x - .3)^2 - (y - .1)^2 - (x - .3)(y - .1).
    x, y = slacks[..., 0] - 0.3, slacks[..., 1] - 0.1
    tilted = shown(ProxyPoints(pace=1.0, warmup=5, interactions=True), slacks, -(x**2) - y**2 - x * y)
    np.testing.assert_allclose(tilted, [[0.3, 0.1]] * 3, atol=1e-6)


def test_a_peak_outside_of_what_was_seen_is_approached_no_further_than_that() -> None:
    slacks = np.random.default_rng(1).uniform(-1, 0.2, (30, 2, 1))
    found = shown(ProxyPoints(pace=1.0, warmup=5), slacks, -((slacks[..., 0] - 0.8) ** 2))
    np.testing.assert_allclose(found, slacks.max(), atol=1e-9)


def test_nothing_moves_without_a_peak_or_before_the_warm_up() -> None:
    slacks = np.random.default_rng(2).uniform(-1, 1, (30, 2, 1))
    convex, noise = (slacks[..., 0] - 0.3) ** 2, np.random.default_rng(3).standard_normal((30, 2))
    np.testing.assert_array_equal(shown(ProxyPoints(warmup=5), slacks, convex), 0)
    np.testing.assert_array_equal(shown(ProxyPoints(warmup=30), slacks, -convex), 0)
    # A surface of noise alone has a bend, but none that is twice its standard error: nearly never.
    moved = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).standard_normal((22, 2))
        moved += bool(np.any(shown(ProxyPoints(warmup=20), slacks[:22], noise)))
    assert moved <= 6
    # A policy that stands still says nothing about a bend; missing scores say nothing at all.
    np.testing.assert_array_equal(shown(ProxyPoints(warmup=5), np.zeros((30, 2, 1)), np.ones((30, 2))), 0)
    np.testing.assert_array_equal(shown(ProxyPoints(warmup=5), slacks, np.full((30, 2), np.nan)), 0)


def test_what_is_old_is_forgotten() -> None:
    slacks = np.random.default_rng(4).uniform(-1, 1, (120, 2, 1))
    peaks = np.where(np.arange(120) < 60, -0.5, 0.5)[:, None]
    audits = -((slacks[..., 0] - peaks) ** 2)
    assert shown(ProxyPoints(memory=0.9), slacks, audits)[0, 0] > 0.48
    assert shown(ProxyPoints(memory=0.999), slacks, audits)[0, 0] < 0.1


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("thresholds", [(0.65, 0.45), (0.4, 0.5)])
def test_hacked_proxies_end_at_their_points_from_wrong_thresholds(thresholds: tuple[float, float], seed: int) -> None:
    def gold(values: np.ndarray) -> np.ndarray:
        return -((values[:, 1:] - PROXY_POINTS) ** 2).sum(axis=1)

    run = {"preferences": np.ones((1, 1)), "thresholds": np.array(thresholds), "seed": seed, "gold": gold}
    held = train(LagrangianEquality(), hacked_proxies(), **run)[0][0, 1:]
    assert np.abs(held - PROXY_POINTS).max() > 0.14
    mended = train(ProxyPoints(), hacked_proxies(), **run)[0][0, 1:]
    assert np.abs(mended - PROXY_POINTS).max() < 0.03


# What is wrong is named.


@pytest.mark.parametrize("make_one", [NelderMeadThresholds, ProxyPoints])
def test_constraints_and_audits_are_asked_for(make_one: type[Weighting]) -> None:
    weighting = make_one()
    assert weighting.requires == {"slack", "audits"}
    weighting.setup(1, 2)
    half = np.full((1, 2), 0.5)
    with pytest.raises(ConfigError, match="role='constrain'"):
        weighting(Signal(0, 1, np.zeros((1, 2)), half, audits=np.zeros((1, 1))))
    with pytest.raises(ConfigError, match="role='audit'"):
        weighting(Signal(0, 1, np.zeros((1, 2)), half, slack=np.zeros((1, 1))))
    weighting(Signal(0, 1, np.zeros((1, 2)), half, slack=np.zeros((1, 1)), audits=np.zeros((1, 1))))
    with pytest.raises(ConfigError, match=r"1 constraints\. Found 2"):
        weighting(Signal(0, 1, np.zeros((1, 2)), half, slack=np.zeros((1, 2)), audits=np.zeros((1, 1))))
    with pytest.raises(ConfigError, match="holds no thresholds"):
        make_one(constraints="chebyshev")


@pytest.mark.parametrize(
    ("make_one", "settings"),
    [
        (NelderMeadThresholds, {"patience": -1}),
        (NelderMeadThresholds, {"readings": 0}),
        (NelderMeadThresholds, {"radius": 0.0}),
        (NelderMeadThresholds, {"reach": np.inf}),
        (NelderMeadThresholds, {"near": -0.1}),
        (NelderMeadThresholds, {"tolerance": np.nan}),
        (NelderMeadThresholds, {"search": 0.0}),
        (ProxyPoints, {"memory": 1.0}),
        (ProxyPoints, {"warmup": 1.5}),
        (ProxyPoints, {"pace": 0.0}),
        (ProxyPoints, {"confidence": -1.0}),
    ],
)
def test_settings_out_of_range(make_one: type[Weighting], settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        make_one(**settings)


def test_audits_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"audits .*\[2, a\]"):
        Signal(0, 1, np.zeros((2, 2)), np.zeros((2, 2)), audits=np.zeros(2))
