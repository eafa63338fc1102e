from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pareto_align.errors import ConfigError
from pareto_align.front import Estimate, bootstrap_hypervolume, difference, hypervolume, paired_difference, pool
from pareto_align.front.estimates import student_quantile

measured = arrays(
    float,
    st.tuples(st.integers(2, 6), st.integers(1, 3), st.integers(1, 3)),
    elements=st.one_of(st.integers(-3, 3).map(float), st.just(np.nan)),
)


def test_mean_and_covariance_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=(40, 8, 3)) + np.random.default_rng(1).normal(size=(40, 1, 3))
    before = values.copy()
    estimate = Estimate.from_samples(values)
    prompts = values.mean(axis=1)
    np.testing.assert_allclose(estimate.mean, prompts.mean(axis=0))
    np.testing.assert_allclose(estimate.covariance, np.cov(prompts.T) / 40)
    np.testing.assert_allclose(estimate.stderr, prompts.std(axis=0, ddof=1) / np.sqrt(40))
    assert estimate.n == 40
    np.testing.assert_array_equal(values, before)


def test_gold_values() -> None:
    estimate = Estimate.from_samples([[1.0, 0.0], [3.0, 4.0]])
    assert estimate.mean.tolist() == [2.0, 2.0]
    np.testing.assert_allclose(estimate.covariance, [[1, 2], [2, 4]])  # sample covariance [[2, 4], [4, 8]] over 2


def test_samples_of_a_prompt_are_not_independent() -> None:
    # 2 prompts, 100 equal samples each: still two measurements
    values = np.repeat([[[0.0]], [[1.0]]], 100, axis=1)
    estimate = Estimate.from_samples(values)
    assert estimate.n == 2
    np.testing.assert_allclose(estimate.stderr, [0.5])


def test_a_single_prompt_is_measured_by_its_samples() -> None:
    values = np.random.default_rng(0).normal(size=(1, 50, 2))
    for ids in (None, [7]):
        estimate = Estimate.from_samples(values, ids)
        assert estimate.n == 50
        np.testing.assert_allclose(estimate.stderr, values[0].std(axis=0, ddof=1) / np.sqrt(50))


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0, 2.0], [3.0, np.nan]], [[1.0, 2.0], [1.5, np.nan]]])
def test_the_noise_of_what_was_measured_once_is_not_known(values: list[list[float]]) -> None:
    estimate = Estimate.from_samples(values, range(len(values)))
    assert estimate.counts.tolist() == [len(values), 1]
    for known in (estimate, estimate.take([0, 1]), estimate.scaled([1, -1]), Estimate.from_dict(estimate.to_dict())):
        assert np.isnan(known.stderr).tolist() == [len(values) == 1, True]
        assert np.isnan(known.halfwidth()).tolist() == [len(values) == 1, True]
    _, stderr = paired_difference(estimate, Estimate.from_samples(np.array(values) + 1, range(len(values))))
    assert np.isnan(stderr).tolist() == [len(values) == 1, True]


def test_one_measurement_has_no_noise_that_could_be_stated() -> None:
    # fronts of 0.1.0 hold zeros there
    old = {"mean": [1.0], "covariance": [[0.0]], "n": 1, "samples": [[1.0]], "prompt_ids": [0]}
    for estimate in (Estimate.from_dict(old), Estimate(np.ones(1), np.zeros((1, 1)), 1)):
        assert np.isnan(estimate.stderr).all()
    measured_again = pool([Estimate.from_samples([[1.0]], [0]), Estimate.from_samples([[3.0]], [0])])
    assert measured_again.stderr == pytest.approx([1.0])


@pytest.mark.parametrize("n", [2, 5, 64])
def test_intervals_are_students(n: int) -> None:
    from scipy import stats

    values = np.random.default_rng(n).normal(size=(n, 2))
    estimate = Estimate.from_samples(values, range(n))
    for confidence in (0.9, 0.95):
        low, high = stats.t.interval(confidence, n - 1, loc=values.mean(axis=0), scale=stats.sem(values))
        np.testing.assert_allclose(estimate.halfwidth(confidence), (high - low) / 2)
    assert np.isnan(Estimate.from_samples(values[:1]).halfwidth()).all()


@given(measured)
def test_missing_values_are_left_out_and_the_covariance_stays_one(values: np.ndarray) -> None:
    estimate = Estimate.from_samples(values, range(len(values)))
    for j in range(values.shape[2]):
        prompts = [np.mean(p[~np.isnan(p)]) for p in values[:, :, j] if not np.isnan(p).all()]
        assert estimate.mean[j] == pytest.approx(np.mean(prompts) if prompts else np.nan, nan_ok=True)
        expected = np.std(prompts, ddof=1) / np.sqrt(len(prompts)) if len(prompts) > 1 else np.nan
        assert estimate.stderr[j] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    known = ~np.isnan(estimate.stderr)
    assert np.linalg.eigvalsh(estimate.covariance[np.ix_(known, known)]).min(initial=0.0) >= -1e-9


@given(measured)
def test_the_order_of_prompts_does_not_matter(values: np.ndarray) -> None:
    a = Estimate.from_samples(values, range(len(values)))
    b = Estimate.from_samples(values[::-1], range(len(values))[::-1])
    np.testing.assert_allclose(a.mean, b.mean)
    np.testing.assert_allclose(a.covariance, b.covariance, atol=1e-12)
    mean, stderr = paired_difference(a, b)
    np.testing.assert_allclose(np.nan_to_num(mean), 0, atol=1e-12)
    np.testing.assert_allclose(stderr, np.where(a.counts > 1, 0, np.nan), atol=1e-12)


def test_paired_difference_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 2)) + rng.normal(size=(30, 1)) * 5
    mean, stderr = paired_difference(
        Estimate.from_samples(x, range(30)), Estimate.from_samples(y[::-1], range(30)[::-1])
    )
    np.testing.assert_allclose(mean, (x - y).mean(axis=0))
    np.testing.assert_allclose(stderr, (x - y).std(axis=0, ddof=1) / np.sqrt(30))
    _, covariance = difference(Estimate.from_samples(x, range(30)), Estimate.from_samples(y, range(30)))
    np.testing.assert_allclose(covariance, np.cov((x - y).T) / 30)


def test_without_common_prompts_variances_add_up() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 2))
    apart = [Estimate.from_samples(x, range(30)), Estimate.from_samples(y, range(100, 130))]
    unnamed = [Estimate.from_samples(x), Estimate.from_samples(y)]
    for a, b in (apart, unnamed):
        mean, stderr = paired_difference(a, b)
        np.testing.assert_allclose(mean, a.mean - b.mean)
        np.testing.assert_allclose(stderr**2, a.stderr**2 + b.stderr**2)


def test_partial_overlap_has_the_stated_noise() -> None:
    # 40 prompts each, 20 in common: the stated standard error must be the spread of the difference over repetitions
    rng = np.random.default_rng(0)
    found, stated = [], []
    for _ in range(600):
        difficulty = rng.normal(size=(60, 1))
        a = Estimate.from_samples(difficulty[:40] + 0.3 * rng.normal(size=(40, 1)), range(40))
        b = Estimate.from_samples(difficulty[20:] + 0.3 * rng.normal(size=(40, 1)), range(20, 60))
        mean, stderr = paired_difference(a, b)
        found.append(mean[0])
        stated.append(stderr[0])
    assert np.mean(stated) == pytest.approx(np.std(found), rel=0.08)


def test_pooling_does_not_depend_on_the_order_and_counts_prompts_once() -> None:
    rng = np.random.default_rng(0)
    a, b = (Estimate.from_samples(rng.normal(size=(10, 4, 2)), range(10)) for _ in range(2))
    c = Estimate.from_samples(rng.normal(size=(5, 4, 2)), range(8, 13))
    left, right, flat = pool([pool([a, b]), c]), pool([a, pool([b, c])]), pool([c, b, a])
    assert left.n == right.n == flat.n == 13
    for other in (right, flat):
        np.testing.assert_allclose(left.mean, other.mean)
        np.testing.assert_allclose(left.covariance, other.covariance)
    both = pool([a, b])
    np.testing.assert_allclose(both.mean, (a.mean + b.mean) / 2)
    assert both.n == 10


def test_pooling_without_samples_weighs_by_n() -> None:
    a = Estimate(np.array([1.0, np.nan]), np.diag([0.4, 0.0]), n=30)
    b = Estimate(np.array([5.0, 2.0]), np.diag([1.2, 0.7]), n=10)
    pooled = pool([a, b])
    np.testing.assert_allclose(pooled.mean, [2, 2])
    np.testing.assert_allclose(np.diag(pooled.covariance), [0.75**2 * 0.4 + 0.25**2 * 1.2, 0.7])
    assert pooled.n == 40
    assert pool([a]) is a


def test_take_and_scaled() -> None:
    estimate = Estimate.from_samples(np.random.default_rng(0).normal(size=(9, 3)), range(9))
    part = estimate.take([2, 0])
    np.testing.assert_array_equal(part.mean, estimate.mean[[2, 0]])
    np.testing.assert_array_equal(part.covariance, estimate.covariance[[2, 0]][:, [2, 0]])
    np.testing.assert_array_equal(part.samples, estimate.samples[:, [2, 0]])
    turned = estimate.scaled([1, -1, 1])
    np.testing.assert_array_equal(turned.mean, estimate.mean * [1, -1, 1])
    assert turned.covariance[0, 1] == -estimate.covariance[0, 1]
    np.testing.assert_array_equal(turned.scaled([1, -1, 1]).covariance, estimate.covariance)


@given(measured)
def test_json_round_trip_is_exact(values: np.ndarray) -> None:
    estimate = Estimate.from_samples(values / 3, range(len(values)))
    back = Estimate.from_dict(json.loads(json.dumps(estimate.to_dict(), allow_nan=False)))
    for name in ("mean", "covariance", "samples"):
        np.testing.assert_array_equal(getattr(back, name), getattr(estimate, name))
    assert (back.n, back.prompt_ids) == (estimate.n, estimate.prompt_ids)


def test_round_trip_without_samples() -> None:
    back = Estimate.from_dict(Estimate(np.zeros(2), np.eye(2), 3).to_dict())
    assert back.samples is None
    assert back.prompt_ids is None


def test_estimates_cannot_be_changed() -> None:
    mean = np.zeros(1)
    estimate = Estimate(mean, np.zeros((1, 1)), 1)
    mean[0] = 5
    assert estimate.mean[0] == 0
    with pytest.raises(ValueError):
        estimate.mean[0] = 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Estimate(np.zeros(2), np.zeros((3, 3)), 1), r"Found shapes \(2,\) and \(3, 3\)"),
        (lambda: Estimate(np.zeros(1), np.full((1, 1), np.inf), 1), "must be finite"),
        (lambda: Estimate(np.zeros(1), np.zeros((1, 1)), 1, np.zeros((4, 2))), r"\[rows, 1\]"),
        (lambda: Estimate(np.zeros(1), np.zeros((1, 1)), 1, None, (1,)), "no samples"),
        (lambda: Estimate.from_samples([1.0, 2.0]), r"\[N, G, m\]"),
        (lambda: Estimate.from_samples(np.empty((0, 2))), r"\[N, G, m\]"),
        (lambda: Estimate.from_samples([[np.inf]]), "infinite"),
        (lambda: Estimate.from_samples([[1.0], [2.0]], [1]), "1 prompt ids for 2 prompts"),
        (lambda: Estimate.from_samples([[1.0], [2.0]], [1, 2], [0]), "1 groups for 2 prompts"),
        (lambda: Estimate.from_samples([[1.0], [2.0]], groups=[0, 1]), "need the prompts' ids"),
        (lambda: pool([]), "Nothing to pool"),
        (lambda: pool([Estimate.from_samples([[1.0]]), Estimate.from_samples([[1.0, 2.0]])]), "cannot be pooled"),
    ],
)
def test_errors_say_what_is_wrong(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


FRAME = {"scale_lower": [0.0, 0.0], "scale_upper": [2.0, 2.0]}


def test_bootstrap_of_noiseless_members_is_a_point() -> None:
    members = [Estimate.from_samples(np.tile(p, (8, 1)), range(8)) for p in ([2.0, 0.5, 9], [1.0, 1.0, 9])]
    value = hypervolume([[1.0, 0.25], [0.5, 0.5]], [0, 0])
    assert bootstrap_hypervolume(members, [0, 1], [0, 0], **FRAME) == pytest.approx((value, value, value))
    assert bootstrap_hypervolume([], [0, 1], [0, 0], **FRAME) == (0, 0, 0)


@pytest.mark.parametrize("paired", [True, False])
def test_bootstrap_of_one_objective_is_the_normal_interval(paired: bool) -> None:
    samples = 5 + np.random.default_rng(0).normal(size=(200, 1))
    estimate = Estimate.from_samples(samples, range(200) if paired else None)
    value, low, high = bootstrap_hypervolume([estimate], [0], [0], scale_lower=[0], scale_upper=[1], n_boot=4000)
    assert value == pytest.approx(estimate.mean[0])
    np.testing.assert_allclose([value - low, high - value], 1.96 * estimate.stderr[0], rtol=0.1)


def test_bootstrap_draws_the_same_prompts_for_all() -> None:
    # the two members' errors cancel in the hypervolume of a front with two corners only if they are drawn together
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(100, 1)) * 0.2
    a = Estimate.from_samples(np.hstack([1.5 + noise, np.full((100, 1), 1.0)]), range(100))
    b = Estimate.from_samples(np.hstack([0.5 - noise, np.full((100, 1), 2.0)]), range(100))
    _, low, high = bootstrap_hypervolume([a, b], [0, 1], [0, 0], **FRAME)
    assert high - low < 1e-9  # area = (x_a * 1 + x_b * 1) / 4, and x_a + x_b = 2


def test_bootstrap_is_seeded_and_survives_missing_values() -> None:
    rng = np.random.default_rng(0)
    samples = rng.uniform(size=(20, 2))
    samples[3, 0] = np.nan
    members = [Estimate.from_samples(samples, range(20)), Estimate.from_samples(samples[:10, ::-1], range(5, 15))]
    first = bootstrap_hypervolume(members, [0, 1], [0, 0], **FRAME, seed=4)
    assert first == bootstrap_hypervolume(members, [0, 1], [0, 0], **FRAME, seed=4)
    assert 0 < first[1] <= first[0] <= first[2]


def test_bootstrap_with_few_prompts_is_as_wide_as_students_interval() -> None:
    # t with 7 degrees of freedom: 2.365 standard errors, where 1.96 would do for many prompts
    samples = 5 + np.random.default_rng(1).normal(size=(8, 1))
    for ids in (None, range(8)):
        estimate = Estimate.from_samples(samples, ids)
        value, low, high = bootstrap_hypervolume([estimate], [0], [0], scale_lower=[0], scale_upper=[1], n_boot=4000)
        assert (high - low) / 2 == pytest.approx(estimate.halfwidth()[0], rel=0.12)
        assert low < value < high


def test_a_member_chosen_among_equals_counts_without_its_luck() -> None:
    # the larger of two independent N(0, s^2) has mean s / sqrt(pi)
    member, rival = (Estimate(np.array([5.0]), np.eye(1) * 0.09, n=1000) for _ in range(2))
    frame = {"scale_lower": [0.0], "scale_upper": [1.0]}
    value, low, high = bootstrap_hypervolume([member], [0], [0], **frame)
    with_rival = bootstrap_hypervolume([member], [0], [0], **frame, rivals=[[rival]])
    assert (value, high) == (with_rival[0], with_rival[2])
    assert low - with_rival[1] == pytest.approx(0.3 / np.sqrt(np.pi), rel=0.1)


def test_rivals_that_say_the_same_bring_no_luck() -> None:
    # measured on the same prompts with the same scores: whichever was chosen, the mean is the same
    member = Estimate.from_samples(np.random.default_rng(0).uniform(size=(20, 2)), range(20))
    plain = bootstrap_hypervolume([member], [0, 1], [0, 0], **FRAME)
    again = bootstrap_hypervolume([member], [0, 1], [0, 0], **FRAME, rivals=[[member, member]])
    assert again == pytest.approx(plain, abs=0.01)
    with pytest.raises(ConfigError, match="rivals for 2 members, but there are 1"):
        bootstrap_hypervolume([member], [0, 1], [0, 0], **FRAME, rivals=[[], []])


def test_the_interval_is_as_good_where_the_hypervolume_is_estimated() -> None:
    rng = np.random.default_rng(0)
    m, n = 8, 30
    frame = {"scale_lower": np.zeros(m), "scale_upper": np.ones(m)}
    means = np.abs(rng.normal(size=(n, m)))
    means = 0.2 + 0.6 * means / np.linalg.norm(means, axis=1, keepdims=True)
    members = [Estimate(mean, np.eye(m) * 0.01**2, n=1000) for mean in means]
    value, low, high = bootstrap_hypervolume(members, range(m), np.zeros(m), **frame)
    assert value == pytest.approx(hypervolume(means, np.zeros(m)))  # 30 points: exact
    # to first order the spread is that of the sum of the partial derivatives times the noise
    steps = [hypervolume(means + 1e-4 * np.outer(i, j), np.zeros(m)) for i in np.eye(n) for j in np.eye(m)]
    spread = 0.01 * np.linalg.norm((np.array(steps) - value) / 1e-4)
    assert low < value < high
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.35)


@pytest.mark.parametrize("values", [[[0.5, 0.5]], [[0.5, 0.5], [0.5, np.nan], [0.5, np.nan]]])
def test_where_a_spread_is_not_known_the_hypervolume_has_no_interval(values: list[list[float]]) -> None:
    alone = Estimate.from_samples(np.array(values))
    value, low, high = bootstrap_hypervolume([alone], [0, 1], [0, 0], scale_lower=[0, 0], scale_upper=[1, 1])
    assert value == pytest.approx(0.25)
    assert np.isnan([low, high]).all()


def test_a_few_units_that_are_all_equal_say_nothing_of_their_noise() -> None:
    rows = np.tile([0.1 + 0.2, 5.0], (4, 1))
    rows[2:, 0] = 0.3  # equal up to rounding
    few = Estimate.from_samples(rows, range(4))
    assert few.alike.all()
    assert few.stderr == pytest.approx([0, 0], abs=1e-15)
    assert np.isnan(few.noise()).all()
    assert np.isnan(few.halfwidth()).all()
    assert np.isnan(few.interval()).all()
    bounds = [(0.0, 1.0), None]
    np.testing.assert_array_equal(few.noise(bounds), [0.0, np.nan])
    low, high = few.interval(bounds=bounds)
    assert low[0] < 0.15 < 0.3 < high[0]
    assert np.isnan([low[1], high[1]]).all()
    many = Estimate.from_samples(np.tile(rows, (2, 1)), range(8))
    np.testing.assert_array_equal(many.noise(), [0.0, 0.0])
    assert not Estimate(np.ones(1), np.zeros((1, 1)), n=4).alike.any()  # a noise that is known to be none
    assert not Estimate.from_samples([[1.0], [np.nan], [2.0]], range(3)).alike.any()


@pytest.mark.parametrize("ids", [None, range(4)])
def test_the_hypervolume_of_a_few_equal_measurements_is_not_sure(ids) -> None:
    rng = np.random.default_rng(0)
    still = Estimate.from_samples(np.full((4, 2), 1.0), ids)
    moving = Estimate.from_samples(np.hstack([np.full((4, 1), 1.0), rng.uniform(0.2, 0.4, (4, 1))]), ids)
    frame = {"scale_lower": [0.0, 0.0], "scale_upper": [1.0, 1.0]}
    for members in ([still], [moving], [still, moving]):
        value, low, high = bootstrap_hypervolume(members, [0, 1], [0, 0], **frame)
        assert value > 0
        assert np.isnan([low, high]).all()
        value, low, high = bootstrap_hypervolume(members, [0, 1], [0, 0], **frame, bounds=[(0.0, 1.0)] * 2)
        # nothing is better than the upper bounds, and what was not among four may well be worse
        assert low < 0.75 * value
        assert value <= high


def test_the_interval_of_equal_measurements_is_as_wide_as_that_of_their_mean() -> None:
    still = Estimate.from_samples(np.full((6, 1), 0.5), range(6))
    frame = {"scale_lower": [0.0], "scale_upper": [1.0]}
    _, low, high = bootstrap_hypervolume([still], [0], [0], **frame, bounds=[(0.0, 1.0)], n_boot=20_000)
    exact = still.interval(0.9, bounds=[(0.0, 1.0)])  # each of the two ends is meant half of the time
    np.testing.assert_allclose([low, high], np.ravel(exact), atol=0.01)


def grouped(rng: np.random.Generator, groups: int, each: int, rho: float, m: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rewards [groups * each, m] of variance 1, correlated by rho within a group, and the group of each."""
    shared = np.repeat(rng.normal(size=(groups, m)), each, axis=0)
    rewards = np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.normal(size=(groups * each, m))
    return rewards, np.repeat(np.arange(groups), each)


def test_prompts_of_a_group_are_one_unit() -> None:
    rewards, groups = grouped(np.random.default_rng(0), 6, 5, 0.5, m=2)
    estimate = Estimate.from_samples(rewards, range(30), groups)
    means = rewards.reshape(6, 5, 2).mean(axis=1)
    assert estimate.n == 6
    np.testing.assert_allclose(estimate.mean, rewards.mean(axis=0))
    np.testing.assert_allclose(estimate.covariance, np.cov(means.T) / 6)


def test_groups_of_unequal_size_have_the_cluster_robust_variance() -> None:
    # the sandwich of a regression on a constant: c / (c - 1) sum_g (sum of its residuals)^2 / n^2
    rng = np.random.default_rng(1)
    groups = np.array([0] * 1 + [1] * 2 + [2] * 7 + [3] * 4)
    rewards = rng.normal(size=(14, 1)) + groups[:, None]
    centred = rewards[:, 0] - rewards.mean()
    sums = np.array([centred[groups == g].sum() for g in range(4)])
    order = rng.permutation(14)
    estimate = Estimate.from_samples(rewards[order], range(14), groups[order])
    assert estimate.mean[0] == pytest.approx(rewards.mean())
    assert estimate.covariance[0, 0] == pytest.approx(4 / 3 * (sums**2).sum() / 14**2)
    each = Estimate.from_samples(rewards, range(14), range(14))
    np.testing.assert_allclose(each.covariance, Estimate.from_samples(rewards, range(14)).covariance)


def test_intervals_over_groups_hold_what_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = {"prompts": 0, "groups": 0, "paired": 0}
    for _ in range(1000):
        (a, groups), (b, _) = (grouped(rng, 8, 8, 0.5) for _ in range(2))
        for name, estimate in (
            ("prompts", Estimate.from_samples(a, range(64))),
            ("groups", Estimate.from_samples(a, range(64), groups)),
        ):
            covered[name] += bool(abs(estimate.mean[0]) <= estimate.halfwidth()[0])
        pair = [Estimate.from_samples(x, range(64), groups) for x in (a, b)]
        mean, stderr = paired_difference(*pair)
        covered["paired"] += bool(abs(mean[0]) <= student_quantile(0.025, pair[0].n) * stderr[0])
    assert covered["prompts"] < 700  # 64 prompts in 8 topics are no 64 prompts
    assert 930 <= covered["groups"] <= 970
    assert 930 <= covered["paired"] <= 970


def test_groups_survive_pooling_and_files() -> None:
    rewards, groups = grouped(np.random.default_rng(0), 4, 3, 0.5)
    estimate = Estimate.from_samples(rewards, range(12), groups)
    again = pool([estimate, Estimate.from_samples(rewards + 1, range(12), groups)])
    assert again.n == 4
    np.testing.assert_allclose(again.covariance, estimate.covariance)
    back = Estimate.from_dict(json.loads(json.dumps(estimate.to_dict())))
    assert back.groups == estimate.groups
    _, stderr = paired_difference(back, estimate)
    np.testing.assert_array_equal(stderr, 0)
    assert "groups" not in Estimate.from_samples(rewards, range(12)).to_dict()


def test_one_group_says_nothing_of_its_noise() -> None:
    rewards, groups = grouped(np.random.default_rng(0), 1, 9, 0.5)
    assert np.isnan(Estimate.from_samples(rewards, range(9), groups).stderr).all()
