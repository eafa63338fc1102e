from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tabular_bandit import even_preferences, flat_front, share_of_arc, share_of_attainable, train

from pareto_align.errors import ConfigError
from pareto_align.weighting import Chebyshev, Fixed, Signal, make
from pareto_align.weighting.chebyshev import smooth_chebyshev, smooth_chebyshev_gradient


def weigh(weighting: Chebyshev, values: object, preferences: object) -> np.ndarray:
    values, preferences = np.asarray(values, dtype=float), np.asarray(preferences, dtype=float)
    weighting.setup(*values.shape)
    return weighting(Signal(0, 10, values, preferences))


# The smooth Tchebycheff function.


def test_smooth_chebyshev_gold_values() -> None:
    # Losses f = (1, 2), w = (.5, .5), z = 0, mu = 1: log(e^.5 + e^1) = 1.474077; we maximise v = -f.
    assert smooth_chebyshev([-1, -2], [0.5, 0.5], [0, 0], mu=1.0) == pytest.approx(-1.474077, abs=1e-6)
    # mu to 0 is the maximum itself, .5 * 2, and its gradient is the weight of the worst objective.
    assert smooth_chebyshev([-1, -2], [0.5, 0.5], [0, 0], mu=0.01) == pytest.approx(-1.0, abs=1e-12)
    np.testing.assert_allclose(smooth_chebyshev_gradient([-1, -2], [0.5, 0.5], [0, 0], mu=0.01), [0, 0.5], atol=1e-12)


def test_smooth_chebyshev_gradient_is_the_derivative() -> None:
    rng = np.random.default_rng(0)
    v, w, z, h = rng.random((6, 3)), rng.dirichlet(np.ones(3), 6), np.array([1.0, 1.1, 0.9]), 1e-6
    for i in range(3):
        up, down = v.copy(), v.copy()
        up[:, i] += h
        down[:, i] -= h
        slope = (smooth_chebyshev(up, w, z, mu=0.2) - smooth_chebyshev(down, w, z, mu=0.2)) / (2 * h)
        np.testing.assert_allclose(smooth_chebyshev_gradient(v, w, z, mu=0.2)[:, i], slope, rtol=1e-6)


# One call.


def test_gold_rows() -> None:
    # Two policies at the two corners span ideal (1, 1), nadir (0, 0), so the first one's shortfalls are (0, 1).
    values, exact = np.eye(2), {"mu": 0.5, "floor": 0.0}
    # softmax(2 * .5 * (0, 1) / .5) = softmax(0, 2) = (.119203, .880797)
    rows = weigh(Chebyshev(rho=0, **exact), values, [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(rows, [[0.119203, 0.880797], [0.880797, 0.119203]], atol=1e-6)
    # rho = .01 is added to each before the division by the sum: .129203 / 1.02
    rows = weigh(Chebyshev(rho=0.01, **exact), values, [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(rows[0], [0.126670, 0.873330], atol=1e-6)
    # w = (.8, .2): softmax(2 * .2 / .5) has odds e^.8, times .2/.8: the first weight is 1 / (1 + e^.8 / 4) = .642514
    rows = weigh(Chebyshev(rho=0, **exact), values, [[0.8, 0.2], [0.5, 0.5]])
    np.testing.assert_allclose(rows[0], [0.642514, 0.357486], atol=1e-6)


def test_weights_are_the_gradient_of_the_augmented_function_of_the_normalised_values() -> None:
    rng = np.random.default_rng(1)
    m, mu, rho = 3, 0.3, 0.05
    ideal, nadir = np.array([2.0, 1.0, 5.0]), np.array([0.0, 0.5, -5.0])
    v, w, h = rng.random((4, m)), rng.dirichlet(np.ones(m), 4), 1e-6
    span = ideal - nadir

    def utility(values: np.ndarray) -> np.ndarray:
        framed = (values - nadir) / span
        return smooth_chebyshev(framed, m * w, np.ones(m), mu=mu) / m + rho * (w * framed).sum(axis=1)

    slope = np.stack([(utility(v + h * e) - utility(v - h * e)) / (2 * h) for e in np.eye(m)], axis=1)
    weighting = Chebyshev(mu=mu, rho=rho, floor=0, ideal=ideal.tolist(), nadir=nadir.tolist())
    np.testing.assert_allclose(weigh(weighting, v, w), slope / slope.sum(axis=1, keepdims=True), rtol=1e-6)


def test_equal_weighted_shortfalls_give_the_preference() -> None:
    # w_i s_i equal is the ray itself: softmax is even there and the weights are w.
    preference = np.array([0.5, 0.3, 0.2])
    weighting = Chebyshev(floor=0, ideal=[1, 1, 1], nadir=[0, 0, 0])
    row = weigh(weighting, [1 - 0.1 / preference], [preference])
    np.testing.assert_allclose(row, [preference], rtol=1e-9)


def test_the_lagging_objective_gains_weight_on_both_sides_of_the_ray() -> None:
    weighting = Chebyshev(ideal=[1, 1], nadir=[0, 0])
    rows = weigh(weighting, [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], [[0.5, 0.5]] * 3)
    assert rows[0, 1] > 0.99
    assert rows[1, 0] == pytest.approx(0.5)
    assert rows[2, 0] > 0.99


def test_units_do_not_matter_once_the_population_has_spread() -> None:
    rng = np.random.default_rng(2)
    values, preferences = rng.random((5, 2)), rng.dirichlet(np.ones(2), 5)
    plain = weigh(Chebyshev(min_range=1e-9), values, preferences)
    scaled = weigh(Chebyshev(min_range=1e-9), values * [100.0, 0.01] + [7.0, -3.0], preferences)
    # The weights are per unit of value, so those units come back out of them.
    back = scaled * [100.0, 0.01]
    np.testing.assert_allclose(back / back.sum(axis=1, keepdims=True), plain, rtol=1e-6)


def test_a_corner_preference_keeps_a_little_of_the_others() -> None:
    row = weigh(Chebyshev(), [[1.0, 0.0], [0.0, 1.0]], [[1, 0], [0, 1]])[0]
    assert 0 < row[1] < 0.02


# Memory.


def test_the_running_mean_starts_at_the_first_value_and_forgets() -> None:
    weighting = Chebyshev(smoothing=0.5, ideal=[1, 1], nadir=[0, 0])
    weighting.setup(1, 2)
    fresh = Chebyshev(smoothing=0, ideal=[1, 1], nadir=[0, 0])
    fresh.setup(1, 2)
    half = np.full((1, 2), 0.5)
    first = weighting(Signal(0, 9, np.array([[0.2, 0.8]]), half))
    np.testing.assert_allclose(first, fresh(Signal(0, 9, np.array([[0.2, 0.8]]), half)))
    # Bias-corrected mean of .2 then .8 at keep .5: (.25 * .2 + .5 * .8) / .75 = .6; of .8 then .2: .4.
    second = weighting(Signal(1, 9, np.array([[0.8, 0.2]]), half))
    np.testing.assert_allclose(second, fresh(Signal(1, 9, np.array([[0.6, 0.4]]), half)), rtol=1e-9)


def test_the_payoff_table_remembers_policies_that_are_gone() -> None:
    weighting = Chebyshev(frame_smoothing=0.0)
    weighting.setup(2, 2)
    half = np.full((2, 2), 0.5)
    weighting(Signal(0, 9, np.array([[1.0, 0.1], [0.2, 0.9]]), half))
    weighting.reset(0)
    weighting.reset(1)
    weighting(Signal(1, 9, np.array([[0.0, 0.0], [0.3, 0.3]]), half))
    # A newcomer that is bad at everything is no nadir, and the corners stay ideal.
    np.testing.assert_array_equal(weighting.payoff, [[1.0, 0.1], [0.2, 0.9]])


def test_of_two_equally_good_policies_the_payoff_table_takes_the_better_one_whatever_its_slot() -> None:
    values = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0]])
    for order in ([0, 1, 2], [1, 0, 2]):
        weighting = Chebyshev()
        weigh(weighting, values[order], np.full((3, 2), 0.5))
        np.testing.assert_allclose(weighting.payoff, [[1.0, 0.5], [0.0, 1.0]])


def test_a_missing_value_changes_nothing_and_an_unknown_one_means_the_preference() -> None:
    weighting, preferences = Chebyshev(), np.array([[0.7, 0.3], [0.4, 0.6]])
    weighting.setup(2, 2)
    first = weighting(Signal(0, 9, np.array([[1.0, np.nan], [0.2, 0.9]]), preferences))
    np.testing.assert_allclose(first[0], preferences[0], atol=2e-3)
    weighting(Signal(1, 9, np.array([[1.0, 0.1], [0.2, 0.9]]), preferences))
    before = weighting.state_dict()
    weighting(Signal(2, 9, np.full((2, 2), np.nan), preferences))
    for name, value in before.items():
        np.testing.assert_array_equal(weighting.state_dict()[name], value)


# Settings.


@pytest.mark.parametrize(
    "settings",
    [
        {"mu": 0},
        {"mu": float("nan")},
        {"mu": "a"},
        {"rho": None},
        {"tau": "a"},
        {"floor": True},
        {"rho": -1},
        {"tau": -0.1},
        {"smoothing": 1.0},
        {"frame_smoothing": -0.1},
        {"floor": -1e-3},
        {"min_range": 0},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Chebyshev(**settings)


@pytest.mark.parametrize("name", ["chebyshev", "stch", "steady-chebyshev", "epo"])
@pytest.mark.parametrize("ideal", [[0.0, 1.0], [0.5, 1.0]])
def test_an_ideal_that_does_not_lie_above_the_nadir_is_refused(name: str, ideal: list[float]) -> None:
    with pytest.raises(ConfigError, match="`ideal` must lie above `nadir` in every objective"):
        make(name, ideal=ideal, nadir=[0.5, 0.5]).setup(2, 2)


@pytest.mark.parametrize("settings", [{"floor": 0.5}, {"ideal": [1.0]}, {"nadir": [0.0, float("inf")]}])
def test_settings_that_do_not_fit_the_objectives(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Chebyshev(**settings).setup(3, 2)


# What it is for: the tabular check. The figures are in docs/weightings/chebyshev.md.


@pytest.mark.parametrize("seed", range(3))
def test_holds_its_place_on_a_straight_front_where_fixed_weights_collapse(seed: int) -> None:
    rewards, preferences = flat_front(), even_preferences(8)
    values, _ = train(Chebyshev(), rewards, seed=seed)
    assert share_of_attainable(values) >= 0.90
    # The shortfall is proportional to 1/w, so on the line x + y = 1 the place of w is w itself.
    assert np.abs(values - preferences).max() <= 0.10
    values, _ = train(Fixed(), rewards, seed=seed)
    assert share_of_attainable(values) <= 0.6
    assert values.max(axis=1).min() > 0.95  # every policy ended in a corner


@pytest.mark.parametrize("scale", [(1.0, 0.2), (1.0, 8.0)])
def test_holds_its_place_where_one_objective_reaches_much_less_than_the_other(scale: tuple[float, float]) -> None:
    rewards = flat_front(scale=scale)
    assert share_of_attainable(train(Chebyshev(), rewards)[0], scale) >= 0.85
    unframed = train(Chebyshev(ideal=[1, 1], nadir=[0, 0]), rewards)[0]
    assert share_of_attainable(unframed, scale) <= 0.75


def test_holds_its_place_with_noisy_rewards() -> None:
    shares = [share_of_attainable(train(Chebyshev(), flat_front(), noise=0.3, seed=s)[0]) for s in range(3)]
    assert min(shares) >= 0.87


def test_three_objectives() -> None:
    rewards = np.concatenate([np.eye(3), 0.4 * np.random.default_rng(0).dirichlet(np.ones(3), 13)])
    preferences = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5], [1 / 3] * 3]
    )
    values, _ = train(Chebyshev(), rewards, preferences=preferences)
    # On x + y + z = 1 the shortfalls sum to 2, so s = (2/w) / sum(1/w): (.4, .8, .8) for (.5, .25, .25).
    places = np.array([*np.eye(3), [0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6], [1 / 3] * 3])
    assert np.abs(values - places).max() <= 0.10


def test_one_policy_alone_needs_a_frame() -> None:
    weighting = Chebyshev(ideal=[1, 1], nadir=[0, 0])
    values, _ = train(weighting, flat_front(), preferences=np.array([[0.8, 0.2]]))
    np.testing.assert_allclose(values, [[0.8, 0.2]], atol=0.08)


def test_a_curved_front_is_filled() -> None:
    angles = np.linspace(0, np.pi / 2, 32)
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert share_of_arc(train(Chebyshev(), arc)[0], arc) >= 0.97
