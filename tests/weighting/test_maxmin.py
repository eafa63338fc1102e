from __future__ import annotations

import numpy as np
import pytest
from tabular_bandit import train, two_groups

from pareto_align.errors import ConfigError
from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting import Fixed, MaxMin, Signal, Weighting


class TestMaxMin(WeightingContract):
    def make(self) -> Weighting:
        return MaxMin()


class TestMaxMinHard(WeightingContract):
    def make(self) -> Weighting:
        return MaxMin(rule="hard")


class TestMaxMinRegret(WeightingContract):
    shares_population = True

    def make(self) -> Weighting:
        return MaxMin(regret=True)


def feed(weighting: MaxMin, *values: object, preferences: object = None) -> np.ndarray:
    """Rows [K, m] after the last of the values ([K, m] each)."""
    arrays = [np.atleast_2d(np.asarray(v, dtype=float)) for v in values]
    K, m = arrays[0].shape
    wanted = np.full((K, m), 1 / m) if preferences is None else np.atleast_2d(np.asarray(preferences, dtype=float))
    weighting.setup(K, m)
    for step, array in enumerate(arrays):
        rows = weighting(Signal(step, 10, array, wanted))
    return rows


def test_hard_rule_gold_rows() -> None:
    hard = {"rule": "hard", "smoothing": 0.0}
    np.testing.assert_array_equal(feed(MaxMin(**hard), [0.5, 0.2, 0.9]), [[0, 1, 0]])
    # A tie is shared by preference; an objective of preference 0 is nobody's worst.
    np.testing.assert_allclose(feed(MaxMin(**hard), [0.2, 0.2, 0.9], preferences=[0.6, 0.2, 0.2]), [[0.75, 0.25, 0]])
    np.testing.assert_array_equal(feed(MaxMin(**hard), [0.5, 0.2], preferences=[1, 0]), [[1, 0]])
    # The minimum is over running means: .5 * 1 / .75 = .667 against (.25 * 1 + .5 * .4) / .75 = .6.
    np.testing.assert_array_equal(feed(MaxMin(rule="hard", smoothing=0.5), [0, 1], [1, 0.4]), [[0, 1]])


def test_multiplicative_rule_gold_rows() -> None:
    plain = {"smoothing": 0.0, "eta": 0.5, "gain": 0.0, "averaging": 0.0}
    # The lead of the second is .4, so its odds are exp(-.5 * .4): 1 / (1 + e^-.2) = .549834.
    np.testing.assert_allclose(feed(MaxMin(**plain), [0.2, 0.6])[0, 0], 0.549834, atol=1e-6)
    # Then the other way round: the iterate is even again, and the average of both is .524917.
    np.testing.assert_allclose(feed(MaxMin(**plain), [0.2, 0.6], [0.6, 0.2])[0, 0], 0.524917, atol=1e-6)
    # averaging = 1: the second iterate counts 2 / 3.
    np.testing.assert_allclose(
        feed(MaxMin(**{**plain, "averaging": 1.0}), [0.2, 0.6], [0.6, 0.2])[0, 0], 0.549834 / 3 + 1 / 3, atol=1e-6
    )
    # gain = 1 multiplies the average's odds by exp(-.4): 1 / (1 + e^-.6) = .645656.
    np.testing.assert_allclose(feed(MaxMin(**{**plain, "gain": 1.0}), [0.2, 0.6])[0, 0], 0.645656, atol=1e-6)
    # It starts at the preference: odds 3 * e^.2 = 3.664208.
    row = feed(MaxMin(**plain), [0.2, 0.6], preferences=[0.75, 0.25])
    np.testing.assert_allclose(row[0, 0], 3.664208 / 4.664208, atol=1e-6)


def test_weights_leave_the_preference_no_further_than_reach() -> None:
    weighting = MaxMin(smoothing=0.0, eta=1.0, gain=0.0, averaging=0.0, reach=2.0)
    rows = feed(weighting, *[[0.0, 10.0]] * 50)
    np.testing.assert_allclose(rows[0, 1], 1 / (1 + np.exp(2.0)), rtol=1e-9)


def test_regret_is_counted_from_the_best() -> None:
    hard = {"rule": "hard", "smoothing": 0.0, "frame_smoothing": 0.0}
    # Values .5 and .2: the second is lower, but of what can be had (1, .3) the first lacks more.
    np.testing.assert_array_equal(feed(MaxMin(**hard), [0.5, 0.2]), [[0, 1]])
    np.testing.assert_array_equal(feed(MaxMin(**hard, regret=True, ideal=[1.0, 0.3]), [0.5, 0.2]), [[1, 0]])
    # The same from what the other policies have shown.
    np.testing.assert_array_equal(feed(MaxMin(**hard, regret=True), [[0.5, 0.2], [1.0, 0.0], [0.0, 0.3]])[0], [1, 0])


def test_missing_values() -> None:
    weighting = MaxMin(rule="hard", smoothing=0.0)
    weighting.setup(1, 2)
    preferences = np.array([[0.3, 0.7]])
    unknown = weighting(Signal(0, 9, np.full((1, 2), np.nan), preferences))
    np.testing.assert_allclose(unknown, preferences)
    np.testing.assert_array_equal(weighting(Signal(1, 9, np.array([[0.5, np.nan]]), preferences)), [[1, 0]])
    np.testing.assert_array_equal(weighting(Signal(2, 9, np.array([[0.5, 0.9]]), preferences)), [[1, 0]])


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "soft"},
        {"eta": 0},
        {"gain": -1.0},
        {"averaging": -1.0},
        {"reach": 0.0},
        {"ideal": [1.0, 1.0]},
        {"smoothing": 1.0},
        {"frame_smoothing": -0.1},
    ],
)
def test_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        MaxMin(**settings)


def test_an_ideal_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 finite numbers"):
        MaxMin(regret=True, ideal=[1.0]).setup(1, 2)


# What it is for.


@pytest.mark.parametrize("rule", ["hard", "multiplicative"])
@pytest.mark.parametrize("seed", range(3))
def test_the_worst_group_is_served_where_the_average_leaves_it(rule: str, seed: int) -> None:
    ten_to_one = np.array([[10 / 11, 1 / 11]])
    average = train(Fixed(), two_groups(), seed=seed, preferences=ten_to_one)[0][0]
    assert average.min() < 0.05
    served = train(MaxMin(rule=rule), two_groups(), seed=seed, preferences=ten_to_one)[0][0]
    # A mixture of the shared and the minority's token reaches .7 * .909 = .636 for both.
    assert served.min() > 0.55


def test_the_last_policy_holds_the_mixture() -> None:
    # Only a mixture of three tokens serves all, at 1/3 each: a policy that swings ends in a corner.
    rewards = np.concatenate([np.eye(3), 0.4 * np.random.default_rng(0).dirichlet(np.ones(3), 13)])
    start = np.array([[0.8, 0.1, 0.1]])
    worst = [train(MaxMin(), rewards, seed=s, preferences=start)[0].min() for s in range(3)]
    assert min(worst) > 0.28
    without = [train(MaxMin(gain=0.0), rewards, seed=s, preferences=start)[0].min() for s in range(3)]
    assert max(without) < 0.1


def test_regret_does_not_wait_for_what_cannot_be_had() -> None:
    # r2 reaches .3 at most. MaxMin: q = .3 (1 - q), both at .231. Regret: 1 - q = .3 q, at (.769, .069).
    rewards = np.array([[1, 0], [0, 0.3]] + [[0.1, 0.02]] * 6)
    preferences = np.array([[0.5, 0.5], [1, 0], [0, 1]])
    equal = train(MaxMin(), rewards, preferences=preferences)[0][0]
    np.testing.assert_allclose(equal, [0.231, 0.231], atol=0.04)
    shared = train(MaxMin(regret=True), rewards, preferences=preferences)[0][0]
    np.testing.assert_allclose(shared, [0.769, 0.069], atol=0.06)
