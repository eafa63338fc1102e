from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pareto_align.errors import ParetoAlignError
from pareto_align.front import (
    Estimate,
    dominates,
    nondominated_mask,
    oriented,
    pareto_ranks,
    probability_dominates,
)
from pareto_align.front.dominance import _orthant_probability

# few distinct values, so that ties, duplicates and missing values are common
grids = st.integers(1, 4).flatmap(
    lambda m: arrays(
        float, st.tuples(st.integers(0, 12), st.just(m)), elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.5, np.nan])
    )
)


def brute_mask(points: np.ndarray) -> np.ndarray:
    keep = []
    for i, p in enumerate(points):
        beaten = any((q >= p).all() and (q > p).any() for q in points)
        repeated = any((q == p).all() for q in points[:i])
        keep.append(not (np.isnan(p).any() or beaten or repeated))
    return np.array(keep, dtype=bool)


@given(grids)
def test_mask_is_the_definition(points: np.ndarray) -> None:
    before = points.copy()
    assert nondominated_mask(points).tolist() == brute_mask(points).tolist()
    np.testing.assert_array_equal(points, before)


@given(grids, st.randoms())
def test_mask_keeps_the_same_points_in_any_order(points: np.ndarray, random) -> None:
    order = list(range(len(points)))
    random.shuffle(order)
    kept = {tuple(p) for p in points[nondominated_mask(points)]}
    assert {tuple(p) for p in points[order][nondominated_mask(points[order])]} == kept


@given(grids)
def test_ranks_peel_fronts(points: np.ndarray) -> None:
    ranks = pareto_ranks(points)
    complete = ~np.isnan(points).any(axis=1)
    for level in range(ranks.max(initial=-1) + 1):
        rest = points[complete & (ranks >= level)]
        front = {tuple(p) for p in points[complete & (ranks == level)]}
        assert front == {tuple(p) for p in rest[brute_mask(rest)]}
    if complete.any() and not complete.all():
        assert (ranks[~complete] == ranks[complete].max() + 1).all()


def test_ranks_of_a_chain() -> None:
    assert pareto_ranks([[1, 1], [3, 3], [np.nan, 9], [2, 2], [3, 3], [0, 4]]).tolist() == [2, 0, 3, 1, 0, 0]


def test_infinite_points_are_refused_by_row() -> None:
    with pytest.raises(ParetoAlignError, match="Point 1 is infinite"):
        nondominated_mask([[0, 1], [np.inf, 0]])
    with pytest.raises(ParetoAlignError, match="Point 0 is infinite"):
        pareto_ranks([[0, -np.inf], [1, 0]])


def test_points_must_be_a_matrix() -> None:
    with pytest.raises(ParetoAlignError, match=r"\[n, m\]"):
        nondominated_mask([1.0, 2.0])


def test_dominates() -> None:
    assert dominates([1, 2], [1, 1])
    assert not dominates([1, 1], [1, 1])
    assert not dominates([2, 0], [1, 1])
    assert not dominates([2, np.nan], [1, 1])
    assert not dominates([2, 2], [1, np.nan])


def test_oriented_is_its_own_inverse_and_has_no_negative_zero() -> None:
    points = np.array([[1.0, 0.0], [-2.0, 3.0]])
    flipped = oriented(points, [True, False])
    np.testing.assert_array_equal(flipped, [[1, 0], [-2, -3]])
    assert not np.signbit(flipped[0, 1])
    np.testing.assert_array_equal(oriented(flipped, [True, False]), points)


def noisy(mean: list[float], covariance: np.ndarray) -> Estimate:
    return Estimate(np.array(mean), covariance, n=10)


ZERO2 = noisy([0.0, 0.0], np.zeros((2, 2)))


def test_probability_on_one_axis_is_students_and_normal_for_many_prompts() -> None:
    a = noisy([1.0, -50.0], np.eye(2) * 0.75)
    b = noisy([0.0, 0.0], np.eye(2) * 0.25)
    # standard error 1, difference 1, ten units: P(T_9 <= 1); negated it is the other tail
    assert probability_dominates(a, b, [0]) == pytest.approx(0.8282818019310431, abs=1e-12)
    assert probability_dominates(b, a, [0]) == pytest.approx(1 - 0.8282818019310431, abs=1e-12)
    many = [Estimate(e.mean, e.covariance, n=10**7) for e in (a, b)]
    assert probability_dominates(*many, [0]) == pytest.approx(0.8413447460685429, abs=1e-6)
    # far below on the second axis: the tail of Student's t at 50 with 9 degrees of freedom
    assert probability_dominates(a, b, [0, 1]) == pytest.approx(0.0, abs=1e-10)


def test_the_fewer_units_decide_how_sure_one_is() -> None:
    few = Estimate(np.array([2.0]), np.eye(1) * 0.5, n=3)
    many = Estimate(np.array([0.0]), np.eye(1) * 0.5, n=1000)
    # P(T_2 <= t) = 1/2 + t / (2 sqrt(2 + t^2))
    assert probability_dominates(few, many, [0]) == pytest.approx(0.5 + 1 / np.sqrt(6), abs=1e-12)


@pytest.mark.parametrize("rho", [-0.9, -0.5, 0.0, 0.5, 0.99])
def test_orthant_probability_of_two_correlated_axes(rho: float) -> None:
    # Sheppard: P(X > 0, Y > 0) = 1/4 + arcsin(rho) / (2 pi)
    covariance = np.array([[4.0, 2 * rho], [2 * rho, 1.0]])
    found = probability_dominates(noisy([0.0, 0.0], covariance), ZERO2, [0, 1])
    assert found == pytest.approx(0.25 + np.arcsin(rho) / (2 * np.pi), abs=1e-3)


@pytest.mark.parametrize("m", [2, 3, 5, 8])
def test_orthant_probability_of_exchangeable_axes(m: int) -> None:
    # with all correlations 1/2 the event is that one of m + 1 equal variables is the smallest
    assert _orthant_probability(np.zeros(m), np.full((m, m), 0.5) + 0.5 * np.eye(m)) == pytest.approx(
        1 / (m + 1), abs=2e-3
    )
    z = np.linspace(-0.5, 1.0, m)
    from scipy.stats import norm

    assert _orthant_probability(z, np.eye(m)) == pytest.approx(norm.cdf(z).prod(), abs=1e-6)


def test_orthant_probability_of_singular_correlation() -> None:
    assert _orthant_probability(np.array([0.5, 0.2, 0.9]), np.ones((3, 3))) == pytest.approx(
        0.5792597094391030, abs=1e-3
    )
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert _orthant_probability(np.array([-0.1, -0.1]), opposite) == 0.0


def test_probability_without_noise_is_dominance() -> None:
    better, same = noisy([1.0, 0.0], np.zeros((2, 2))), noisy([0.0, 0.0], np.zeros((2, 2)))
    assert probability_dominates(better, ZERO2, [0, 1]) == 1.0
    assert probability_dominates(ZERO2, better, [0, 1]) == 0.0
    assert probability_dominates(same, ZERO2, [0, 1]) == 0.0


def test_an_axis_without_noise_decides_alone() -> None:
    covariance = np.diag([1.0, 0.0])
    assert probability_dominates(noisy([0.0, 0.0], covariance), ZERO2, [0, 1]) == pytest.approx(0.5)
    assert probability_dominates(noisy([9.0, -0.1], covariance), ZERO2, [0, 1]) == 0.0


def test_pairing_sees_what_independent_noise_hides() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=(50, 1)) * [3.0, 3.0]
    ids = range(50)
    a = Estimate.from_samples(difficulty + 0.3 + 0.1 * rng.normal(size=(50, 2)), ids)
    b = Estimate.from_samples(difficulty + 0.1 * rng.normal(size=(50, 2)), ids)
    assert probability_dominates(a, b, [0, 1]) > 0.999
    blind = [Estimate.from_samples(e.samples) for e in (a, b)]
    assert probability_dominates(*blind, [0, 1]) < 0.8


def test_a_missing_mean_never_dominates() -> None:
    missing = noisy([np.nan, 1.0], np.diag([0.0, 0.1]))
    assert probability_dominates(missing, ZERO2, [0, 1]) == 0.0
    assert probability_dominates(ZERO2, missing, [0, 1]) == 0.0
