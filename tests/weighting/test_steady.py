from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tabular_bandit import arc_front, flat_front, share_of_arc, share_of_attainable, train

from pareto_align.errors import ConfigError
from pareto_align.testing.problems import get_problem
from pareto_align.weighting import Chebyshev, Signal, SteadyChebyshev
from pareto_align.weighting.steady import front_normal

EVEN = np.array([0.5, 0.5])


def weigh(weighting: SteadyChebyshev, *steps: object, preferences: object) -> np.ndarray:
    """The rows after the last of `steps`, each [K, m] values."""
    preferences = np.asarray(preferences, dtype=float)
    weighting.setup(*preferences.shape)
    for number, values in enumerate(steps):
        rows = weighting(Signal(number, len(steps), np.asarray(values, dtype=float), preferences))
    return rows


# The normal of the front.


def test_the_normal_of_a_straight_front_whatever_the_prior() -> None:
    # 2 x + y = 2: worth the same under (2, 1) / 3.
    places = np.array([[1.0, 0.0], [0.5, 1.0], [0.0, 2.0]])
    for prior in ([0.5, 0.5], [0.9, 0.1]):
        found = front_normal(places, np.ones(3), np.array(prior), ridge=1e-6)
        np.testing.assert_allclose(found, [2 / 3, 1 / 3], atol=1e-4)


def test_the_normal_of_three_objectives() -> None:
    found = front_normal(np.diag([1.0, 0.5, 0.25]), np.ones(3), np.full(3, 1 / 3), ridge=1e-7)
    np.testing.assert_allclose(found, np.array([1, 2, 4]) / 7, atol=1e-3)


def test_where_nothing_is_spread_the_prior_is_the_normal() -> None:
    prior = np.array([0.7, 0.2, 0.1])
    for places in (np.empty((0, 3)), np.full((1, 3), 0.4), np.full((4, 3), 0.4)):
        np.testing.assert_allclose(front_normal(places, np.ones(len(places)), prior, ridge=0.01), prior, rtol=1e-6)


def test_places_that_dominate_each_other_give_no_negative_trade() -> None:
    found = front_normal(np.array([[0.0, 0.0], [1.0, 0.5]]), np.ones(2), EVEN, ridge=1e-6)
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1.0)


def test_near_places_count_more() -> None:
    # Flat between the first two, steep between the last two.
    places = np.array([[0.0, 1.0], [0.5, 0.9], [1.0, 0.0]])
    flat = front_normal(places, np.array([1.0, 1.0, 1e-6]), EVEN, ridge=1e-9)
    steep = front_normal(places, np.array([1e-6, 1.0, 1.0]), EVEN, ridge=1e-9)
    np.testing.assert_allclose(flat, np.array([1, 5]) / 6, atol=1e-3)
    np.testing.assert_allclose(steep, np.array([9, 5]) / 14, atol=1e-3)


# One row.


def test_gold_row() -> None:
    # Alone in a fixed frame: n = w = (.5, .5), nothing travelled, no noise. Values (.8, .2) have shortfalls (.2, .8):
    # e = (.2, .8), and z = softmax(e / .3) has odds e^2: (.119203, .880797). With level .4: .6 z + .4 n.
    weighting = SteadyChebyshev(mu=0.3, level=0.4, noise=0, ideal=[1, 1], nadir=[0, 0], floor=1e-9)
    row = weigh(weighting, [[0.8, 0.2]], [[0.8, 0.2]], preferences=[EVEN])
    np.testing.assert_allclose(row, [[0.271522, 0.728478]], atol=1e-6)


def test_on_its_ray_a_policy_follows_the_slope_of_the_front_and_not_its_preference() -> None:
    # Policies on x + y = 1, each at its place.
    first = np.linspace(0.95, 0.05, 7)
    places = np.stack([first, 1 - first], axis=1)
    rows = weigh(SteadyChebyshev(noise=0, ideal=[1, 1], nadir=[0, 0]), *[places] * 5, preferences=places)
    np.testing.assert_allclose(rows[1:-1], np.full((5, 2), 0.5), atol=0.06)
    kept = weigh(Chebyshev(ideal=[1, 1], nadir=[0, 0]), *[places] * 5, preferences=places)
    assert abs(kept[1, 0] - places[1, 0]) < 0.02


def test_no_row_leaves_the_normal_altogether() -> None:
    off = [[0.9, 0.1]]
    given = {"ideal": [1, 1], "nadir": [0, 0]}
    assert weigh(Chebyshev(**given), off, off, preferences=[EVEN]).min() < 0.01
    row = weigh(SteadyChebyshev(noise=0, **given), off, off, preferences=[EVEN])[0]
    assert row.min() >= 0.15 * 0.5
    assert row[1] > row[0]


def test_a_corner_asks_for_one_objective_and_nothing_else() -> None:
    corners = np.eye(3)
    values = [np.array([[0.9, 0.5, 0.4], [0.3, 0.8, 0.2], [0.1, 0.4, 0.7]])] * 3
    np.testing.assert_array_equal(weigh(SteadyChebyshev(), *values, preferences=corners), corners)
    near = weigh(SteadyChebyshev(), *values, preferences=[[0.98, 0.01, 0.01], *corners[1:]])[0]
    assert (near > 0).all()


def test_a_policy_on_its_way_is_slowed_down_before_it_arrives() -> None:
    given: dict[str, Any] = {"noise": 0, "ideal": [1, 1], "nadir": [0, 0]}
    on_the_way = [[[-0.5 + 0.05 * t, 0.3]] for t in range(17)]  # up in the first objective, at its ray now
    assert weigh(SteadyChebyshev(**given), *on_the_way, preferences=[EVEN])[0, 1] > 0.6
    assert weigh(SteadyChebyshev(lead=0, **given), *on_the_way, preferences=[EVEN])[0, 1] < 0.5


def test_until_the_population_has_spread_noise_is_no_place() -> None:
    rng = np.random.default_rng(0)
    preferences = np.array([[0.8, 0.2], [0.5, 0.5], [0.2, 0.8]])
    noise = [0.2 + 0.05 * rng.standard_normal((3, 2)) for _ in range(30)]

    def swing(weighting: Any) -> float:
        weighting.setup(3, 2)
        rows = [weighting(Signal(t, 30, values, preferences)) for t, values in enumerate(noise)]
        return float(np.std(rows[5:], axis=0).mean())

    assert swing(SteadyChebyshev()) < swing(SteadyChebyshev(noise=0))
    assert swing(SteadyChebyshev(noise=30)) < 0.3 * swing(SteadyChebyshev(noise=0))


def test_units_do_not_matter_once_the_population_has_spread() -> None:
    rng = np.random.default_rng(2)
    values, preferences = rng.random((6, 5, 2)), rng.dirichlet(np.ones(2), 5)
    units = np.array([100.0, 0.01])
    plain = weigh(SteadyChebyshev(min_range=1e-9), *values, preferences=preferences)
    scaled = weigh(SteadyChebyshev(min_range=1e-9), *(values * units + [7.0, -3.0]), preferences=preferences)
    back = scaled * units
    np.testing.assert_allclose(back / back.sum(axis=1, keepdims=True), plain, rtol=1e-6)


def test_a_newcomer_is_no_neighbour_until_it_has_a_place_and_its_slots_last_place_stays() -> None:
    first = np.linspace(1, 0, 4)
    places = np.stack([first, 1 - first], axis=1)
    weighting = SteadyChebyshev()
    weigh(weighting, *[places] * 4, preferences=places)
    weighting.reset(1)
    new = places.copy()
    new[1] = (0.5, 0.2)
    weighting(Signal(4, 9, new, places))
    np.testing.assert_allclose(weighting.places, places)
    for step in range(5, 8):
        weighting(Signal(step, 9, new, places))
    np.testing.assert_allclose(weighting.places, places)  # below the last place: the front is still there
    new[1] = (0.2, 0.9)
    weighting.reset(1)
    for step in range(8, 12):
        weighting(Signal(step, 9, new, places))
    np.testing.assert_allclose(weighting.places, new)


def test_a_missing_value_changes_nothing() -> None:
    weighting, preferences = SteadyChebyshev(), np.array([[0.7, 0.3], [0.4, 0.6]])
    weigh(weighting, *[[[1.0, 0.1], [0.2, 0.9]]] * 3, preferences=preferences)
    before = weighting.state_dict()
    rows = weighting(Signal(3, 9, np.full((2, 2), np.nan), preferences))
    assert np.isfinite(rows).all()
    for name, value in before.items():
        np.testing.assert_array_equal(weighting.state_dict()[name], value)


@pytest.mark.parametrize(
    "settings",
    [
        {"mu": 0},
        {"ridge": 0.0},
        {"floor": 0.0},
        {"lead": -1},
        {"noise": float("nan")},
        {"level": 1.1},
        {"smoothing": 1.0},
        {"min_range": 0},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SteadyChebyshev(**settings)


def test_a_floor_that_does_not_fit_the_objectives() -> None:
    with pytest.raises(ConfigError, match="floor"):
        SteadyChebyshev(floor=0.5).setup(3, 2)


# What it is for: the tabular check.


@pytest.mark.parametrize("seed", range(3))
def test_holds_its_place_on_a_straight_front_and_fills_a_round_one(seed: int) -> None:
    assert share_of_attainable(train(SteadyChebyshev(), flat_front(), seed=seed)[0]) >= 0.90
    arc = arc_front()
    assert share_of_arc(train(SteadyChebyshev(), arc, seed=seed)[0], arc) >= 0.95


def test_with_few_samples_and_large_steps_it_fills_more_of_a_straight_front() -> None:
    run: dict[str, Any] = {"steps": 120, "learning_rate": 0.3, "samples": 12}
    steady, sharp = (
        np.mean([share_of_attainable(train(make(), flat_front(), seed=s, **run)[0]) for s in range(5)])
        for make in (SteadyChebyshev, Chebyshev)
    )
    assert steady > sharp


def test_three_objectives_beside_poor_answers() -> None:
    problem = get_problem("tilt", m=3)
    preferences = np.array([*np.eye(3), [1 / 3] * 3])
    values, _ = train(SteadyChebyshev(), problem.rewards[0], preferences=preferences)
    normal = np.linalg.solve(problem.rewards[0, :3], np.ones(3))
    assert (values @ normal).min() > 0.97  # all on the plane of the front, the one in the middle too
    np.testing.assert_allclose(values[:3], problem.rewards[0, :3], atol=0.03)
