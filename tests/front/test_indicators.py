from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pareto_align.errors import ParetoAlignError
from pareto_align.front import (
    contributions,
    crowding_distance,
    expected_utility,
    grid,
    hypervolume,
    hypervolume_subset,
    igd_plus,
    indicators,
    maximum_utility_loss,
    nondominated_mask,
    r2,
    sparsity,
)
from pareto_align.front.indicators import ContributionTable, approximate_hypervolume, exact_up_to, hypervolumes

fronts = st.integers(1, 5).flatmap(
    lambda m: arrays(
        float,
        st.tuples(st.integers(1, 7), st.just(m)),
        elements=st.one_of(st.integers(-1, 4), st.floats(-1, 4, width=16)),
    )
)


def brute_volume(points: np.ndarray, ref: np.ndarray) -> float:
    """Inclusion and exclusion over all subsets."""
    boxes = [p for p in points if (p > ref).all()]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for subset in combinations(boxes, size):
            total -= (-1) ** size * np.prod(np.min(subset, axis=0) - ref)
    return float(total)


@given(fronts)
def test_hypervolume_is_the_measure_of_the_union(points: np.ndarray) -> None:
    before, ref = points.copy(), np.zeros(points.shape[1])
    assert hypervolume(points, ref) == pytest.approx(brute_volume(points, ref), abs=1e-9)
    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(ref, 0)


many_fronts = st.integers(1, 3).flatmap(
    lambda m: arrays(
        float,
        st.tuples(st.integers(0, 4), st.integers(1, 7), st.just(m)),
        elements=st.one_of(st.integers(-1, 4), st.floats(-1, 4, width=16), st.just(np.nan)),
    )
)


@given(many_fronts)
def test_many_sets_at_once_are_each_on_its_own(sets: np.ndarray) -> None:
    before, ref = sets.copy(), np.full(sets.shape[2], 0.25)
    np.testing.assert_allclose(hypervolumes(sets, ref), [hypervolume(points, ref) for points in sets], atol=1e-12)
    np.testing.assert_array_equal(sets, before)


def test_many_sets_are_checked_as_one_is() -> None:
    for ref in ([0.0], [0.0, np.inf]):
        with pytest.raises(ParetoAlignError, match="reference point must be 2 finite numbers"):
            hypervolumes(np.ones((3, 2, 2)), ref)
    with pytest.raises(ParetoAlignError, match="infinite"):
        hypervolumes([[[0.0, 1.0]], [[np.inf, 0.0]]], [0.0, 0.0])


@given(fronts, st.randoms())
def test_order_does_not_matter(points: np.ndarray, random) -> None:
    order = list(range(len(points)))
    random.shuffle(order)
    m = points.shape[1]
    ref = np.full(m, -0.5)
    assert hypervolume(points[order], ref) == pytest.approx(hypervolume(points, ref), abs=1e-9)
    np.testing.assert_allclose(contributions(points[order], ref), contributions(points, ref)[order], atol=1e-9)
    weights = np.eye(m)
    assert expected_utility(points[order], weights) == expected_utility(points, weights)
    assert r2(points[order], weights, np.full(m, 5.0)) == r2(points, weights, np.full(m, 5.0))
    assert sparsity(points[order]) == pytest.approx(sparsity(points))


@given(fronts, st.integers(0, 100))
def test_a_dominated_point_changes_nothing(points: np.ndarray, pick: int) -> None:
    m = points.shape[1]
    more = np.vstack([points, points[pick % len(points)] - 0.25])
    ref, weights, ideal = np.full(m, -2.0), np.full((1, m), 1 / m), np.full(m, 5.0)
    assert hypervolume(more, ref) == pytest.approx(hypervolume(points, ref), abs=1e-9)
    np.testing.assert_allclose(contributions(more, ref), [*contributions(points, ref), 0], atol=1e-9)
    assert expected_utility(more, weights) == pytest.approx(expected_utility(points, weights))
    assert r2(more, weights, ideal) == pytest.approx(r2(points, weights, ideal))
    assert sparsity(more) == pytest.approx(sparsity(points))
    assert igd_plus(more, points) == pytest.approx(0, abs=1e-12)
    assert maximum_utility_loss(points, more, weights) == pytest.approx(0, abs=1e-12)


@given(fronts)
def test_contribution_is_the_volume_lost(points: np.ndarray) -> None:
    ref = np.zeros(points.shape[1])
    front = points[nondominated_mask(points)]
    lost = [brute_volume(front, ref) - brute_volume(np.delete(front, i, axis=0), ref) for i in range(len(front))]
    np.testing.assert_allclose(contributions(front, ref), lost, atol=1e-9)


def test_duplicates_contribute_nothing() -> None:
    for m in (1, 2, 3, 5):
        points = np.vstack([np.ones((2, m)), np.full((1, m), 0.5)])
        np.testing.assert_allclose(contributions(points, np.zeros(m)), 0)


@given(fronts, st.integers(1, 4))
def test_subset_is_greedy(points: np.ndarray, size: int) -> None:
    ref = np.zeros(points.shape[1])
    chosen = list(hypervolume_subset(points, ref, size))
    assert len(set(chosen)) == len(chosen) == min(size, len(points))
    for k in range(len(chosen)):
        now = brute_volume(points[chosen[: k + 1]], ref)
        best = max(brute_volume(points[[*chosen[:k], i]], ref) for i in range(len(points)))
        assert now == pytest.approx(best, abs=1e-9)


def test_gold_values() -> None:
    points = [(1, 3), (2, 2), (3, 1)]
    assert hypervolume(points, (0, 0)) == 6.0  # columns of height 3, 2, 1
    assert contributions(points, (0, 0)).tolist() == [1.0, 1.0, 1.0]
    assert hypervolume([(2, 2, 2), (3, 1, 1)], (0, 0, 0)) == 9.0  # 8 + 3 - 2
    assert crowding_distance([(0, 4), (1, 2), (3, 1), (4, 0)]).tolist() == [np.inf, 1.5, 1.25, np.inf]
    assert sparsity([(0, 2), (1, 1), (2, 0)]) == 2.0  # two gaps of 1 in two objectives, over n - 1 = 2
    weights = [(1, 0), (0, 1), (0.5, 0.5)]
    assert expected_utility([(3, 1), (1, 3)], weights) == pytest.approx(8 / 3)
    assert maximum_utility_loss([(1, 3)], [(3, 1), (1, 3)], weights) == 2.0
    assert maximum_utility_loss([(4, 4)], [(3, 1)], weights) == -1.0
    assert r2([(1, 1)], weights, (2, 3)) == pytest.approx(4 / 3)  # distances 1, 2, 1
    assert igd_plus([(0, 2)], [(1, 1)]) == 1.0  # lacks 1 in the first, the excess of the second is free
    assert igd_plus([(0, 0)], [(3, 4), (0, 0)]) == 2.5


def test_igd_plus_orders_dominating_sets_rightly() -> None:
    # Ishibuchi et al. 2015, example 4, turned to maximisation: A dominates B, and IGD gets it wrong
    front = -np.array([[10, 0], [6, 1], [2, 2], [1, 6], [0, 10]])
    a, b = -np.array([[4, 2], [3, 3], [2, 4]]), -np.array([[8, 2], [4, 4], [2, 8]])
    assert igd_plus(a, front) == pytest.approx(1.482842712474619)
    assert igd_plus(b, front) == pytest.approx(2.260112615949154)


def test_a_point_below_the_reference_in_one_objective_adds_nothing() -> None:
    assert hypervolume([(1, 1), (5, -1), (-1, 5), (0, 9)], (0, 0)) == 1.0
    assert contributions([(1, 1), (5, -1)], (0, 0)).tolist() == [1.0, 0.0]
    assert hypervolume([(-1.0,)], (0,)) == 0.0


def test_rows_with_nan_are_left_out() -> None:
    points = [(1, 1), (np.nan, 9)]
    assert hypervolume(points, (0, 0)) == 1.0
    assert contributions(points, (0, 0)).tolist() == [1.0, 0.0]
    assert hypervolume_subset(points, (0, 0), 2).tolist() == [0]
    assert expected_utility(points, [(0, 1)]) == 1.0
    assert crowding_distance(points).tolist() == [np.inf, 0.0]


def test_empty_sets() -> None:
    empty = np.empty((0, 2))
    assert hypervolume(empty, (0, 0)) == 0.0
    assert hypervolume([], (0, 0)) == 0.0
    assert contributions(empty, (0, 0)).shape == (0,)
    assert hypervolume_subset(empty, (0, 0), 3).shape == (0,)
    assert (
        igd_plus(empty, [(1, 1)])
        == r2(empty, [(1, 0)], (1, 1))
        == maximum_utility_loss(empty, [(1, 1)], [(1, 0)])
        == np.inf
    )
    assert expected_utility(empty, [(1, 0)]) == -np.inf
    assert sparsity(empty) == sparsity([(1, 2)]) == 0.0
    with pytest.raises(ParetoAlignError, match="reference front"):
        igd_plus([(1, 1)], empty)


@pytest.mark.parametrize("ref", [(0,), (0, 0, 0), (0, np.nan)])
def test_a_wrong_reference_is_refused(ref: tuple[float, ...]) -> None:
    with pytest.raises(ParetoAlignError, match="reference point must be 2"):
        hypervolume([(1, 1)], ref)
    with pytest.raises(ParetoAlignError, match="infinite"):
        hypervolume([(1, np.inf)], (0, 0))


@pytest.mark.parametrize("m", [4, 5, 6])
def test_contributions_agree_with_moocore_on_larger_sets(m: int) -> None:
    import moocore

    points = np.abs(np.random.default_rng(m).normal(size=(30, m)))
    expected = moocore.hv_contributions(points, ref=np.zeros(m), maximise=True)
    np.testing.assert_allclose(contributions(points, np.zeros(m)), expected, atol=1e-7)


def sphere(n: int, m: int, seed: int = 0) -> np.ndarray:
    points = np.abs(np.random.default_rng([seed, n, m]).normal(size=(n, m)))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_the_estimate_errs_as_it_says() -> None:
    scores = []
    for seed in range(30):
        for points in (sphere(30, 6, seed), np.random.default_rng(seed).dirichlet(np.ones(6), size=30)):
            ref = np.zeros(6)
            value, stderr = approximate_hypervolume(points, ref, samples=2048)
            scores.append((value - hypervolume(points, ref)) / stderr)
            assert stderr <= value * np.sqrt(30 / 2048)
    # below 1, since boxes get their points by systematic sampling, which the standard error does not count on
    assert 0.5 < np.sqrt(np.mean(np.square(scores))) < 1.1
    assert abs(np.mean(scores)) < 0.4


@given(fronts)
def test_the_estimate_agrees_with_the_definition(points: np.ndarray) -> None:
    ref = np.zeros(points.shape[1])
    value, stderr = approximate_hypervolume(points, ref, samples=4096)
    # a box with less than its share of a single random point may be missed, and then the standard error is 0 as well
    point = np.prod(points.clip(0), axis=1).sum() / 4096
    assert value == pytest.approx(brute_volume(points, ref), abs=5 * stderr + 5 * point + 1e-9)


def test_hypervolume_is_exact_up_to_a_size_and_estimated_beyond() -> None:
    ref = np.zeros(9)
    limit = exact_up_to(9)
    small, large = sphere(limit, 9), sphere(limit + 10, 9)
    assert hypervolume(small, ref) != approximate_hypervolume(small, ref)[0]
    assert hypervolume(large, ref) == approximate_hypervolume(large, ref)[0]
    # dominated points do not count towards the size
    assert hypervolume(np.vstack([small, small * 0.9]), ref) == pytest.approx(hypervolume(small, ref))
    assert exact_up_to(5) is None
    assert all(exact_up_to(m) >= exact_up_to(m + 1) for m in range(6, 14))


@pytest.mark.parametrize("m", [2, 4, 6])
def test_estimated_contributions_agree_with_exact_ones(m: int, monkeypatch) -> None:
    points = np.vstack([sphere(12, m), 0.5 * sphere(3, m, 1), -sphere(2, m)])
    ref = np.zeros(m)
    exact = contributions(points, ref)
    if m <= 4:  # these have an exact method of their own; go below it
        total, box, covers = indicators._sample_boxes(points[:12], 65536)
        found = total / 65536 * np.bincount(box[covers == 1], minlength=12)
        np.testing.assert_allclose(found, exact[:12], atol=6 * total / np.sqrt(65536) / 4)
        return
    monkeypatch.setattr(indicators, "exact_up_to", lambda m: 0)
    found = contributions(points, ref)
    assert (found[12:] == 0).all()
    np.testing.assert_allclose(found[:12], exact[:12], rtol=0.1)


@pytest.mark.parametrize("m", [2, 5])
def test_a_table_of_contributions_follows_points_that_come_go_and_move(m: int) -> None:
    rng = np.random.default_rng(0)
    points = sphere(90, m)
    points[::7, 0] = -0.1  # adds nothing: below the reference
    points = points[nondominated_mask(points)]
    table, names = ContributionTable(np.zeros(m)), list(range(30))
    held = {name: points[name] for name in names if name < len(points)}
    for step in range(25):
        if step % 5 == 4:  # moves along the sphere, as a member that was measured again
            name = next(iter(held))
            held[name] = sphere(1, m, 100 + step)[0]
        held[1000 + step] = sphere(1, m, step + 1)[0]
        if step % 3 == 0:
            del held[rng.choice(list(held))]
        order = [int(i) for i in rng.permutation(list(held))]
        front = np.array([held[name] for name in order])
        np.testing.assert_allclose(table(order, front), contributions(front, np.zeros(m)), atol=1e-12)


def test_evenly_spaced_points_on_a_straight_front() -> None:
    # n points that include the corners dominate (n - 2) / (n - 1) of the triangle under the front
    for n in (3, 8):
        assert hypervolume(grid(2, n), (0, 0)) == pytest.approx(0.5 * (n - 2) / (n - 1))
