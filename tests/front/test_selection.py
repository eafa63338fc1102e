from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pareto_align.errors import ConfigError, PreferenceError
from pareto_align.front import Preference, select

# members 0 and 3 are corners, 1 lies in a dent (below the line between the corners), 2 bulges
FRONT = np.array([[1.0, 0.0], [0.45, 0.5], [0.7, 0.6], [0.0, 1.0]])
UNIT = {"lower": [0.0, 0.0], "upper": [1.0, 1.0]}
EXACT = np.zeros_like(FRONT)


def test_linear_is_the_best_weighted_sum() -> None:
    found = select(FRONT, EXACT, [3, 1], **UNIT)
    assert found.index == 0
    assert found.score == pytest.approx(0.75)
    assert found.runner_up == 2
    assert (found.regret, found.probability_best, found.feasible) == (0, 1, True)
    assert found.reason == "Member 0 has the best linear utility, 0.750; member 2 follows with 0.675."


@given(st.floats(0.0, 1.0), st.floats(0.1, 10), st.floats(-5, 5))
def test_the_unit_of_an_objective_does_not_matter(w: float, factor: float, shift: float) -> None:
    frame = {"lower": [shift, 0.0], "upper": [shift + factor, 1.0]}
    scaled = FRONT * [factor, 1] + [shift, 0]
    plain = select(FRONT, EXACT, [w, 1 - w], **UNIT, draws=1)
    assert select(scaled, EXACT, [w, 1 - w], **frame, draws=1).score == pytest.approx(plain.score, abs=1e-9)


def test_chebyshev_reaches_into_a_dent() -> None:
    dent = FRONT[[0, 1, 3]]
    assert {select(dent, EXACT[:3], [w, 1 - w], **UNIT).index for w in np.linspace(0, 1, 21)} == {0, 2}
    found = select(dent, EXACT[:3], [1, 1], rule="chebyshev", **UNIT)
    assert found.index == 1
    assert found.score == pytest.approx(-0.5 * 0.55)


def test_chebyshev_ideal_is_the_best_of_the_members() -> None:
    # the frame's end (10) is far away and must not decide
    found = select([[2.0, 0.0], [1.0, 1.0]], np.zeros((2, 2)), [1, 1], rule="chebyshev", lower=[0, 0], upper=[10, 10])
    assert found.score == pytest.approx(-0.5 * 0.1)


def test_knee_is_farthest_above_the_line_between_the_corners() -> None:
    stretched = FRONT * [100, 0.01]
    found = select(stretched, EXACT, [1, 1], rule="knee", lower=[-1e3, -1e3], upper=[1e3, 1e3])
    assert found.index == 2
    assert found.score == pytest.approx(1.3)  # the line itself has 1
    assert select(stretched, EXACT, [9, 1], rule="knee", **UNIT).index == 0
    assert select([[3.0, 2.0]], [[0, 0]], [1, 1], rule="knee", **UNIT).score == 0


def test_at_least_then_the_best_of_the_rest() -> None:
    found = select(FRONT, EXACT, [0, 1], at_least={0: 0.4}, **UNIT)
    assert (found.index, found.runner_up) == (2, 1)
    assert select(FRONT, EXACT, [0, 1], at_least={0: 0.7}, **UNIT).index == 2  # the bound itself is allowed
    only = select(FRONT, EXACT, [0, 1], at_least={0: 0.9}, **UNIT)
    assert (only.index, only.runner_up, only.probability_best) == (0, None, 1)


def test_nobody_meets_the_bounds() -> None:
    with pytest.raises(PreferenceError, match=r"nearest is member 2: objective 0 reaches 0\.7 of 0\.8"):
        select(FRONT, EXACT, [1, 1], at_least={0: 0.8, 1: 0.6}, **UNIT)
    with pytest.raises(PreferenceError, match="column 2"):
        select(FRONT, EXACT, [1, 1], at_least={2: 0.8}, **UNIT)


def test_feasible_says_whether_noise_leaves_the_bound_in_doubt() -> None:
    noise = np.full_like(FRONT, 0.1)
    assert select(FRONT, noise, [0, 1], at_least={0: 0.53}, **UNIT).feasible  # 0.7 - 1.645 * 0.1
    doubtful = select(FRONT, noise, [0, 1], at_least={0: 0.54}, **UNIT)
    assert not doubtful.feasible
    assert "not with 95% confidence" in doubtful.reason


def test_two_members_have_the_closed_form() -> None:
    values, noise = np.array([[0.6, 0.0], [0.5, 0.0]]), np.array([[0.03, 0.0], [0.04, 0.0]])
    found = select(values, noise, [1, 0], **UNIT, draws=40_000)
    normal, z = NormalDist(), 0.1 / 0.05
    assert found.probability_best == pytest.approx(normal.cdf(z), abs=0.005)
    # E max(0, D) for D ~ N(-0.1, 0.05): the loss of having chosen the first
    assert found.regret == pytest.approx(0.05 * normal.pdf(z) - 0.1 * (1 - normal.cdf(z)), rel=0.1)
    assert select(values, noise, [1, 0], **UNIT, seed=1) == select(values, noise, [1, 0], **UNIT, seed=1)


def test_shared_noise_cancels() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(1, 80, 2))
    samples = shared + np.array([[0.6, 0.0], [0.5, 0.0]])[:, None] + 0.01 * rng.normal(size=(2, 80, 2))
    samples[0, 5, 1] = np.nan
    values, noise = np.nanmean(samples, axis=1), np.nanstd(samples, axis=1, ddof=1) / np.sqrt(80)
    assert select(values, noise, [1, 0], **UNIT).probability_best < 0.8
    assert select(values, noise, [1, 0], **UNIT, samples=samples).probability_best > 0.999


def test_samples_have_the_noise_of_their_means() -> None:
    rng = np.random.default_rng(0)
    samples = np.stack([0.6 + rng.normal(size=(50, 1)) * 0.2, 0.5 + rng.normal(size=(50, 1)) * 0.3])
    values = samples.mean(axis=1)
    best = int(values.argmax())
    d = samples[best, :, 0] - samples[1 - best, :, 0]
    expected = NormalDist().cdf(d.mean() / (d.std(ddof=1) / np.sqrt(50)))
    found = select(values, np.ones((2, 1)), [1], lower=[0], upper=[1], samples=samples, draws=20_000)
    assert found.probability_best == pytest.approx(expected, abs=0.01)


def test_rows_with_nan_are_never_chosen() -> None:
    values = np.array([[np.nan, 5.0], [0.2, 0.2]])
    found = select(values, np.zeros((2, 2)), [1, 1], **UNIT)
    assert (found.index, found.runner_up) == (1, None)
    with pytest.raises(PreferenceError, match="no member"):
        select(values[:1], np.zeros((1, 2)), [1, 1], **UNIT)
    with pytest.raises(PreferenceError, match="no member"):
        select(np.empty((0, 2)), np.empty((0, 2)), [1, 1], **UNIT)


def test_ties_go_to_the_better_rest_then_to_the_first() -> None:
    assert select([[1.0, 0.0], [1.0, 0.5]], np.zeros((2, 2)), [1, 0], **UNIT).index == 1
    assert select([[1.0, 0.5], [1.0, 0.5]], np.zeros((2, 2)), [1, 0], **UNIT).index == 0


def test_inputs_are_not_changed() -> None:
    values, noise, weights = FRONT.copy(), EXACT + 0.1, np.array([2.0, 1.0])
    for rule in ("linear", "chebyshev", "knee"):
        select(values, noise, weights, rule=rule, **UNIT)
    np.testing.assert_array_equal(values, FRONT)
    np.testing.assert_array_equal(weights, [2, 1])
    assert select(FRONT, EXACT, Preference(weights), **UNIT).score == pytest.approx(2 / 3)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Unknown selection rule 'lineer'\. Did you mean 'linear'"):
        select(FRONT, EXACT, [1, 1], rule="lineer", **UNIT)
    with pytest.raises(ConfigError, match="3 preference weights"):
        select(FRONT, EXACT, [1, 1, 1], **UNIT)
    with pytest.raises(ConfigError, match="lower must be below upper"):
        select(FRONT, EXACT, [1, 1], lower=[0, 1], upper=[1, 1])
    with pytest.raises(ConfigError, match=r"\[n, N, m\]"):
        select(FRONT, EXACT, [1, 1], **UNIT, samples=np.zeros((4, 2)))
    with pytest.raises(PreferenceError, match="not negative"):
        select(FRONT, EXACT, [1, -1], **UNIT)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 32])
def test_few_prompts_make_nobody_sure_who_is_best(n: int) -> None:
    # a paired t-test: flat prior, Student's t with n - 1 degrees of freedom
    rng = np.random.default_rng(n)
    samples = rng.normal(size=(1, n, 2)) + 0.1 * rng.normal(size=(2, n, 2)) + np.array([[[0.1, 0.1]], [[0.0, 0.0]]])
    values, noise = samples.mean(axis=1), samples.std(axis=1, ddof=1) / np.sqrt(n)
    found = select(values, noise, [1, 1], **UNIT, samples=samples, draws=20_000)
    utility = samples.mean(axis=2)
    expected = stats.ttest_rel(utility[found.index], utility[1 - found.index], alternative="greater").pvalue
    assert found.probability_best == pytest.approx(1 - expected, abs=0.012)


def test_what_is_said_to_be_sure_is_wrong_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 4, 16):
        said, wrong = [], []
        for _ in range(500):
            truth = 3 * rng.normal(size=3)
            samples = truth[:, None, None] + rng.normal(size=(3, n, 1)) + rng.normal(size=(1, n, 1))
            noise = samples.std(axis=1, ddof=1) / np.sqrt(n)
            found = select(samples.mean(axis=1), noise, [1], lower=[-9], upper=[9], samples=samples, draws=400)
            if found.probability_best >= 0.95:
                said.append(1 - found.probability_best)
                wrong.append(found.index != truth.argmax())
        assert np.mean(wrong) <= np.mean(said) + 3 * np.sqrt(np.mean(said) / len(said))


def test_members_on_prompts_of_their_own_are_students_as_well() -> None:
    values, noise = np.array([[0.6], [0.5]]), np.array([[0.05], [0.0]])
    for n in (2, 5):
        found = select(values, noise, [1], lower=[0], upper=[1], n=n, draws=40_000)
        assert found.probability_best == pytest.approx(stats.t.cdf(2, n - 1), abs=0.01)


@pytest.mark.parametrize("rule", ["linear", "chebyshev", "knee"])
def test_the_regret_of_few_prompts_is_a_utility(rule: str) -> None:
    # with one degree of freedom a mean error does not exist; the true values lie between the bounds, though
    rng = np.random.default_rng(0)
    for _ in range(20):
        samples = rng.random((4, 2, 2))
        noise = samples.std(axis=1, ddof=1) / np.sqrt(2)
        found = select(samples.mean(axis=1), noise, [1, 1], rule=rule, samples=samples, bounds=[(0, 1)] * 2, **UNIT)
        assert 0 <= found.regret <= (2 if rule == "knee" else 1)


def test_where_the_noise_is_not_known_nothing_is_said_of_it() -> None:
    unknown = np.array([[np.nan, 0.1]] * 4)
    found = select(FRONT, unknown, [1, 1], at_least={0: 0.3}, **UNIT)
    assert np.isnan([found.regret, found.probability_best]).all()
    assert not found.feasible
    alone = select(FRONT, unknown, [0, 1], **UNIT)  # what does not count need not be known
    assert alone.index == 3
    assert 0.5 < alone.probability_best <= 1
    assert select(FRONT[:1], unknown[:1], [1, 1], **UNIT).probability_best == 1


def test_equal_measurements_within_bounds_are_as_sure_as_their_interval() -> None:
    values, still = np.array([[1.0], [0.9]]), np.zeros((2, 1))
    frame = {"lower": [0.0], "upper": [1.0]}
    assert select(values, still, [1], **frame, n=4).probability_best == 1  # a noise that is known to be none
    found = select(values, still, [1], **frame, n=4, bounds=[(0.0, 1.0)], draws=40_000)
    # what was not among four counts Beta(1, 4), and is as good or as bad as can be for each; a worse one is better only
    # where the better one has the bad luck
    d, other = np.random.default_rng(1).beta(1, 4, (2, 40_000))
    worse = np.mean(1 - d < 0.9 + 0.1 * other) + np.mean(1 - d < 0.9 - 0.9 * other)
    assert found.probability_best == pytest.approx(1 - worse / 4, abs=0.01)
    assert 0.01 < found.regret < 0.2
    sure = select(values, still, [1], **frame, n=400, bounds=[(0.0, 1.0)])
    assert sure.probability_best > 0.99
    for n, least in ((4, 0.05**0.25), (400, 0.05 ** (1 / 400))):  # what 1.0 each time may be in 5 % of cases
        for bound, kept in ((least - 0.001, True), (least + 0.001, False)):
            found = select(values, still, [1], **frame, n=n, bounds=[(0.0, 1.0)], at_least={0: bound}, draws=1)
            assert found.feasible == kept


def test_a_limit_reached_up_to_rounding_is_reached() -> None:
    values = np.array([[np.mean([0.7] * 10) - 1e-16, 0.0], [0.0, 1.0]])
    assert values[0, 0] < 0.7
    assert select(values, np.zeros((2, 2)), [0, 1], at_least={0: 0.7}, **UNIT).index == 0


@pytest.mark.parametrize("rule", ["linear", "chebyshev", "knee"])
def test_a_tie_up_to_rounding_is_a_tie(rule: str) -> None:
    # the first two are equal, the second by a sum in another order; the first is taken, and the third never
    values = np.array([[0.3, 0.7], [0.1 + 0.2, 0.7 - 1e-16], [0.2, 0.6]])
    found = select(values, np.zeros((3, 2)), [1, 1], rule=rule, **UNIT)
    assert (found.index, found.runner_up) == (0, 1)
    assert found.regret == pytest.approx(0, abs=1e-12)
    assert found.probability_best == 1


@pytest.mark.parametrize("rule", ["chebyshev", "knee"])
def test_a_tie_up_to_rounding_is_a_tie_where_members_span_little(rule: str) -> None:
    # large values, close together: in units of what they span a rounding error is much larger
    a = np.nextafter(1000.1, 2000, dtype=float)
    values = np.array([[1000.1, 1000.1], [a, a], [1000.1 - 1e-4, 1000.1 - 1e-4]])
    found = select(values, np.zeros((3, 2)), [1, 1], rule=rule, lower=[0, 0], upper=[2000, 2000], span=[1e-4, 1e-4])
    assert (found.index, found.runner_up) == (0, 1)
    assert found.regret < 1e-6
    assert found.probability_best == 1


# ---- first things first, and utilities of one's own ------------------------------------------------------------------


def test_lexicographic_is_the_best_on_the_first_within_one_standard_error() -> None:
    values = np.array([[1.0, 0.0], [0.97, 0.4], [0.9, 0.9], [0.0, 1.0]])
    exact = select(values, np.zeros_like(values), [2, 1], rule="lexicographic", **UNIT)
    assert (exact.index, exact.runner_up, exact.regret, exact.probability_best) == (0, 1, 0, 1)
    # the standard error of a difference is sqrt(2) .03 = .042: the second is alike on the first objective
    noisy = select(values, np.full_like(values, 0.03), [2, 1], rule="lexicographic", **UNIT)
    assert (noisy.index, noisy.score) == (1, pytest.approx(0.97))
    assert noisy.runner_up == 0  # of those left the first one is the best by more than an error
    assert 0.02 < noisy.regret < 0.08
    assert 0 < noisy.probability_best < 1
    assert select(values, np.full_like(values, 0.03), [1, 2], rule="lexicographic", **UNIT).index == 3
    only = select(values, np.full_like(values, 9.0), [0, 1], rule="lexicographic", **UNIT)
    assert only.index == 3  # an objective without weight has no say, and the last one no tolerance


def test_lexicographic_tolerance_is_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(200, 2))
    samples = np.stack([shared + [0.05, 0.0], shared + [0.0, 1.0]]) + 0.01 * rng.normal(size=(2, 200, 2))
    means = samples.mean(axis=1)
    stderr = samples.std(axis=1, ddof=1) / np.sqrt(200)
    alone = select(means, stderr, [2, 1], rule="lexicographic", **UNIT)
    paired = select(means, stderr, [2, 1], rule="lexicographic", samples=samples, **UNIT)
    assert (alone.index, paired.index) == (1, 0)
    assert paired.probability_best > 0.99


def test_lexicographic_against_a_plain_loop() -> None:
    from pareto_align.front.lexicographic import first_in_order, tolerances

    rng = np.random.default_rng(1)
    for _ in range(50):
        values, stderr = rng.random((6, 3)), rng.random((6, 3)) * 0.3
        order = [int(i) for i in rng.permutation(3)]
        left = list(range(6))
        for column in order[:-1]:
            best = max(left, key=lambda i: values[i, column])
            left = [i for i in left if values[best, column] - values[i, column] <= np.hypot(*stderr[[best, i], column])]
        assert first_in_order(values, order, tolerances(stderr)) == max(left, key=lambda i: values[i, order[-1]])


def test_a_function_is_a_rule() -> None:
    found = select(FRONT, EXACT, [1, 1], rule=min, **UNIT)
    assert (found.index, found.score, found.runner_up) == (2, pytest.approx(0.6), 1)
    assert "best min utility, 0.600" in found.reason
    noisy = select(FRONT, np.full_like(FRONT, 0.1), [1, 1], rule=min, **UNIT, draws=400)
    assert noisy.regret > 0
    assert noisy.probability_best < 1
    with pytest.raises(ConfigError, match=r"'<lambda>' must return a finite number\. Found nan"):
        select(FRONT, EXACT, [1, 1], rule=lambda v: np.nan, **UNIT)
    with pytest.raises(ConfigError, match=r"'<lambda>' failed on .* IndexError"):
        select(FRONT, EXACT, [1, 1], rule=lambda v: v[2], **UNIT)
