from __future__ import annotations

import numpy as np
import pytest
import yaml

from pareto_align.errors import ConfigError
from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting import Chebyshev, Fixed, Schedule, Signal, Weighting, make


class TestScheduleOfWeightings(WeightingContract):
    shares_population = True

    def make(self) -> Weighting:
        return Schedule([(0.0, "fixed"), (0.5, {"name": "chebyshev", "mu": 0.2}), (1.0, "softmin")])


class TestScheduleOfConstraints(WeightingContract):
    """A stage without constraints beside one with them."""

    constraints = 2

    def make(self) -> Weighting:
        return Schedule([(0.0, "fixed"), (1.0, "lagrangian")])


class TestScheduleOfNothingElse(WeightingContract):
    def make(self) -> Weighting:
        return Schedule([(0.3, "fixed")])


def rows(weighting: Weighting, steps: int, preferences: object = ((0.5, 0.5),)) -> np.ndarray:
    """[steps, K, m] weights of a whole run."""
    wanted = np.asarray(preferences, dtype=float)
    weighting.setup(*wanted.shape)
    return np.stack([weighting(Signal(s, steps, np.zeros(wanted.shape), wanted)) for s in range(steps)])


def test_a_table_is_joined_by_lines() -> None:
    found = rows(Schedule([(0.25, [1.0, 0.0]), (0.75, [0.5, 0.5])]), 5)[:, 0]
    # Progress 0, .25, .5, .75, 1: constant outside the table, the middle halfway.
    np.testing.assert_allclose(found, [[1, 0], [1, 0], [0.75, 0.25], [0.5, 0.5], [0.5, 0.5]])


def test_the_share_of_the_tokens_counts_where_it_is_ahead_of_the_steps() -> None:
    weighting = Schedule([(0.0, [1.0, 0.0]), (1.0, [0.0, 1.0])])
    weighting.setup(1, 2)
    half = np.full((1, 2), 0.5)
    found = [weighting(Signal(step, 101, half, half, spent=spent))[0, 1] for step, spent in ((10, 0.0), (10, 0.6))]
    np.testing.assert_allclose([*found, weighting(Signal(80, 101, half, half, spent=0.6))[0, 1]], [0.1, 0.6, 0.8])


def test_a_table_can_be_written_in_yaml() -> None:
    text = "{name: schedule, multiply: true, points: [[0.0, [1, 0]], [1.0, [1, 1]]]}"
    settings = yaml.safe_load(text)
    weighting = make(settings.pop("name"), **settings)
    found = rows(weighting, 3, [[0.8, 0.2], [0.5, 0.5]])
    # Each policy's preference times (1, 0), (1, .5), (1, 1): the sum is the strength of the step.
    np.testing.assert_allclose(found[:, 0], [[0.8, 0], [0.8, 0.1], [0.8, 0.2]])
    np.testing.assert_allclose(found[:, 1], [[0.5, 0], [0.5, 0.25], [0.5, 0.5]])


def test_a_row_for_every_policy() -> None:
    found = rows(Schedule([(0.0, [[1, 0], [0, 1]]), (1.0, [[0, 1], [0, 1]])]), 3, [[0.5, 0.5]] * 2)
    np.testing.assert_allclose(found[1], [[0.5, 0.5], [0, 1]])


def test_weightings_are_blended_and_see_every_step() -> None:
    rng = np.random.default_rng(0)
    schedule, alone = Schedule([(0.0, "fixed"), (1.0, Chebyshev(mu=0.2))]), Chebyshev(mu=0.2)
    preferences = rng.dirichlet(np.ones(2), 3)
    schedule.setup(3, 2)
    alone.setup(3, 2)
    for step in range(5):
        signal = Signal(step, 5, rng.random((3, 2)), preferences)
        share = step / 4
        expected = (1 - share) * preferences + share * alone(signal)
        np.testing.assert_allclose(schedule(signal), expected)


def test_a_function_of_the_step() -> None:
    calls = []

    def halves(step: int, steps: int) -> list[float]:
        calls.append((step, steps))
        return [1.0, 0.0] if 2 * step < steps else [0.0, 1.0]

    np.testing.assert_array_equal(rows(Schedule(function=halves), 4)[:, 0], [[1, 0], [1, 0], [0, 1], [0, 1]])
    assert calls == [(0, 4), (1, 4), (2, 4), (3, 4)]
    scaled = rows(Schedule(function=lambda step, steps: [step, 1.0], multiply=True), 2, [[0.4, 0.6]])
    np.testing.assert_allclose(scaled[:, 0], [[0, 0.6], [0.4, 0.6]])


def test_it_asks_for_what_its_parts_ask_for() -> None:
    assert Schedule([(0, "hypervolume"), (1, "saw")]).requires == {"measured", "spread"}
    assert Schedule([(0, "fixed"), (1, "lagrangian-equality")]).signed
    assert not Schedule([(0, "fixed")]).signed
    assert Schedule([(0, "hypervolume-paper")]).applies_to == "reward"
    with pytest.raises(ConfigError, match="'hypervolume-paper' to the reward"):
        Schedule([(0, "fixed"), (1, "hypervolume-paper")])
    one = Fixed()
    with pytest.raises(ConfigError, match="same instance twice"):
        Schedule([(0, one), (1, one)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": [(0, [1, 0])], "function": lambda step, steps: [1, 0]}, "not both"),
        ({"function": 3}, "callable"),
        ({"points": []}, "empty"),
        ({"points": [0.5]}, "pair"),
        ({"points": [(0.5, [1, 0], 3)]}, "pair"),
        ({"points": [("half", [1, 0])]}, "between 0 and 1"),
        ({"points": [(50, [1, 0])]}, "between 0 and 1"),
        ({"points": [(0.5, [1, 0]), (0.5, [0, 1])]}, "ascend"),
        ({"points": [(0.5, "chebychev")]}, "Did you mean 'chebyshev'"),
        ({"points": [(0.5, [[1, 0], [1]])]}, "no weighting"),
        ({"points": [(0.5, None)]}, "must be 2"),
        ({}, "Found neither"),
        ({"points": [(0.5, [1, 0, 0])]}, r"at 0.5 must be 2 .*\[1.0, 0.0, 0.0\]"),
        ({"points": [(0.5, [1, -1])]}, "at least 0"),
        ({"function": lambda step, steps: [1, float("nan")]}, "in step 0 must be 2 finite"),
        ({"function": lambda step, steps: "even"}, "must be numbers"),
    ],
)
def test_what_is_wrong_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rows(Schedule(**settings), 1)
