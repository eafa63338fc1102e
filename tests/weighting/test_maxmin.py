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


class TestMaxMinOverGroups(WeightingContract):
    symmetric = False  # a group's wants are in the order of the objectives

    def make(self) -> Weighting:
        return _Pairs()


class _Pairs(MaxMin):
    """Every objective is wanted by two groups: a group wants one and its neighbour, in parts of 2 and 1."""

    name = "maxmin"

    def setup(self, K: int, m: int) -> None:
        self.groups = (2 * np.eye(m) + np.roll(np.eye(m), 1, axis=1)) / 3
        super().setup(K, m)


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


def test_groups_gold_rows() -> None:
    # Group 1 wants the first two objectives evenly, group 2 the second and third in parts of 1 and 3.
    groups = [[1, 1, 0], [0, 1, 3]]
    hard = {"rule": "hard", "smoothing": 0.0, "groups": groups}
    # F = (.5 * .9 + .5 * .1, .25 * .1 + .75 * .8) = (.5, .625): group 1 is worst, though its second objective alone is.
    np.testing.assert_allclose(feed(MaxMin(**hard), [0.9, 0.1, 0.8]), [[0.5, 0.5, 0]])
    np.testing.assert_allclose(feed(MaxMin(**hard), [0.9, 0.1, 0.4]), [[0, 0.25, 0.75]])
    # Nothing that group 1 wants is preferred: it has no say.
    np.testing.assert_allclose(feed(MaxMin(**hard), [0.1, 0.1, 0.8], preferences=[0, 0, 1]), [[0, 0.25, 0.75]])
    # One unseen want hides the group: the other one is served.
    np.testing.assert_allclose(feed(MaxMin(**hard), [np.nan, 0.1, 0.8]), [[0, 0.25, 0.75]])
    # Multiplicative, start (.5 * .5 + .5 * .25, .25 * .25 + .75 * .25) = (.375, .25), scaled (.6, .4); group 1 leads
    # by .4 (F = (.9, .5)): odds 1.5 exp(-.5 * .4) = 1.228096 for it, .551187 of the weight.
    soft = {"smoothing": 0.0, "eta": 0.5, "gain": 0.0, "averaging": 0.0, "groups": groups}
    row = feed(MaxMin(**soft), [0.9, 0.9, 11 / 30], preferences=[0.5, 0.25, 0.25])[0]
    share = 1.228096 / 2.228096
    np.testing.assert_allclose(row, [share / 2, share / 2 + (1 - share) / 4, 0.75 * (1 - share)], atol=1e-6)
    # Each objective as a group is the plain method, regret and its ideal included.
    plain, grouped = MaxMin(regret=True, ideal=[1.0, 0.3]), MaxMin(regret=True, ideal=[1.0, 0.3], groups=np.eye(2) * 7)
    np.testing.assert_allclose(feed(grouped, [0.5, 0.2], [0.6, 0.1]), feed(plain, [0.5, 0.2], [0.6, 0.1]))


@pytest.mark.parametrize("groups", [[], [[1, -1]], [[0, 0], [1, 0]], [1, 2], [[1, np.nan]], [[1], [1, 2]], "all"])
def test_groups_that_want_nothing_readable_are_refused(groups: object) -> None:
    with pytest.raises(ConfigError, match="`groups`"):
        MaxMin(groups=groups)


def test_groups_of_other_objectives_are_refused() -> None:
    with pytest.raises(ConfigError, match="of 2 objectives"):
        MaxMin(groups=[[1, 0, 0]]).setup(1, 2)


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
