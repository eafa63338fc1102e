"""Intervals that hold for rewards that are rare, few or skewed, and the word where none does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pareto_align.front import Estimate
from pareto_align.front.intervals import all_equal, beyond_alike, bounded_interval, doubt


@pytest.mark.parametrize(("successes", "n"), [(0, 3), (1, 3), (3, 3), (2, 64), (100, 200), (0, 1), (1, 1)])
def test_for_rewards_of_0_and_1_it_is_the_interval_of_clopper_and_pearson(successes: int, n: int) -> None:
    exact = stats.binomtest(successes, n).proportion_ci(0.95, "exact")
    found = bounded_interval([1.0] * successes + [0.0] * (n - successes), 0, 1)
    assert found == pytest.approx((exact.low, exact.high), abs=1e-8)
    exact = stats.binomtest(successes, n).proportion_ci(0.8, "exact")
    found = bounded_interval([5.0] * successes + [-5.0] * (n - successes), -5, 5, confidence=0.8)
    assert found == pytest.approx((10 * exact.low - 5, 10 * exact.high - 5), abs=1e-6)


@pytest.mark.parametrize("n", [2, 8, 60])
def test_its_ends_are_quantiles_of_randomly_weighted_means(n: int) -> None:
    rng = np.random.default_rng(n)
    x, sizes = rng.beta(0.5, 2.0, n), rng.integers(1, 6, n)
    draws = rng.standard_exponential((100_000, n + 1)) * np.append(sizes, sizes.mean())
    draws /= draws.sum(axis=1, keepdims=True)
    low, high = bounded_interval(x, 0, 1, sizes=sizes)
    assert low == pytest.approx(np.quantile(draws @ np.append(x, 0.0), 0.025), abs=0.004)
    assert high == pytest.approx(np.quantile(draws @ np.append(x, 1.0), 0.975), abs=0.004)
    assert low < np.average(x, weights=sizes) < high


def test_it_turns_round_with_the_rewards_and_does_not_depend_on_their_order() -> None:
    x = np.random.default_rng(0).beta(2, 5, 12)
    low, high = bounded_interval(x, 0, 1)
    assert bounded_interval(-x[::-1], -1, 0) == pytest.approx((-high, -low))
    assert bounded_interval(x, 0, 1, sizes=np.full(12, 7)) == (low, high)
    wide = bounded_interval(x, 0, 3)
    assert wide[0] < wide[1]
    assert wide[1] > high
    assert bounded_interval([2.0, 2.0], 2.0, 3.0)[0] == 2.0


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda rng, shape: rng.random(shape) < 0.1, 0.1),
        (lambda rng, shape: rng.beta(0.2, 0.2, shape), 0.5),
        (lambda rng, shape: np.where(rng.random(shape) < 0.02, 0.0, 0.9), 0.882),
    ],
    ids=["rare success", "two heaps", "rare failure"],
)
def test_it_holds_where_students_does_not(draw, mean: float) -> None:
    student = gaffke = 0
    for rows in np.asarray(draw(np.random.default_rng(0), (250, 8, 1)), dtype=float):
        estimate = Estimate.from_samples(rows, range(8))
        for bounds in (None, [(0.0, 1.0)]):
            low, high = estimate.interval(bounds=bounds)
            held = bool(low[0] - 1e-12 <= mean <= high[0] + 1e-12)
            student, gaffke = student + (held and bounds is None), gaffke + (held and bounds is not None)
    assert gaffke / 250 >= 0.95
    assert student / 250 < 0.95


@pytest.mark.parametrize("n", [2, 4, 30])
def test_what_lies_beyond_equal_measurements_is_drawn_from_both_ends_of_their_interval(n: int) -> None:
    drawn = 0.3 + beyond_alike(0.3, n, (0.0, 1.0), 100_000, np.random.default_rng(n))
    low, high = bounded_interval([0.3] * n, 0, 1, confidence=0.9)
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx([low, high], abs=0.01)
    assert 0 <= drawn.min() < drawn.max() <= 1


def test_equal_is_equal_up_to_rounding() -> None:
    assert all_equal([0.1 + 0.2, 0.3, 0.3])
    assert all_equal([0.0, 0.0])
    assert not all_equal([0.3, 0.3 + 1e-12])


def test_an_estimate_takes_the_means_of_prompts_and_of_groups() -> None:
    rng = np.random.default_rng(0)
    rewards = (rng.random((12, 4, 2)) < 0.3).astype(float)
    rewards[:3, :, 1] = np.nan
    estimate = Estimate.from_samples(rewards, range(12))
    low, high = estimate.interval(bounds=[(0.0, 1.0), (0.0, 1.0)])
    prompts = rewards.mean(axis=1)
    assert (low[0], high[0]) == bounded_interval(prompts[:, 0], 0, 1)
    assert (low[1], high[1]) == bounded_interval(prompts[3:, 1], 0, 1)
    groups = [0] * 5 + [1] * 4 + [2] * 3
    together = Estimate.from_samples(rewards, range(12), groups)
    low, high = together.interval(0.9, bounds=[(0.0, 1.0), None])
    means = [prompts[np.equal(groups, g), 0].mean() for g in range(3)]
    assert (low[0], high[0]) == pytest.approx(bounded_interval(means, 0, 1, confidence=0.9, sizes=[5, 4, 3]))
    reach = together.halfwidth(0.9)[1]
    assert (low[1], high[1]) == pytest.approx((together.mean[1] - reach, together.mean[1] + reach))


def test_what_was_measured_once_has_no_interval_and_no_doubt() -> None:
    once = Estimate.from_samples([[0.5]], [0])
    assert np.isnan(once.interval(bounds=[(0.0, 1.0)])).all()
    assert once.doubts() == ("",)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.1, 0.5, 0.2], "few"),
        ([0.3] * 40, "rare"),
        ([0.1 + 0.2] * 20 + [0.3] * 20, "rare"),
        ([0.0] * 63 + [5.0], "rare"),
        (np.exp(1.5 * np.random.default_rng(0).normal(size=64)), "skewed"),
        (np.random.default_rng(0).normal(size=64), ""),
        (np.random.default_rng(0).exponential(size=400), ""),
        ([0.0, 5.0] * 32, ""),
    ],
)
def test_students_interval_is_doubted_where_it_fails(values, said: str) -> None:
    assert doubt(values) == said
    estimate = Estimate.from_samples(np.asarray(values)[:, None], range(len(values)))
    assert estimate.doubts() == (said,)
    assert estimate.doubts([(-100.0, 100.0)]) == ("",)


def test_normal_rewards_are_seldom_doubted_and_lognormal_ones_mostly() -> None:
    rng = np.random.default_rng(0)
    for n, most in ((8, 0.25), (16, 0.1), (64, 0.01)):
        assert np.mean([bool(doubt(x)) for x in rng.normal(size=(400, n))]) <= most
        assert np.mean([bool(doubt(x)) for x in rng.lognormal(0.0, 1.5, (400, n))]) >= 0.6
