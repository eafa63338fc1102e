"""Weights for another trainer's raw rewards: scale, direction, missing rewards, constraints, and state."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pareto_align.errors import ConfigError, ObjectiveError, ParetoAlignWarning
from pareto_align.integrations.batch_weights import BatchWeights
from pareto_align.objectives import Objective, ObjectiveSet
from pareto_align.weighting import Lagrangian, Schedule, Weighting, available, make
from pareto_align.weighting.evidence import FROM_REWARDS


def reward(prompts, completions):
    raise AssertionError("the trainer calls its own functions")


def objectives(bounds=((0, 2), None), **more):
    found = [Objective(name, reward, bounds=b) for name, b in zip("ab", bounds, strict=False)]
    found += [Objective(name, reward, **settings) for name, settings in more.items()]
    return ObjectiveSet(found)


def batch_weights(*arguments, group_size=1, **settings):
    return BatchWeights(*arguments, group_size=group_size, **settings)


class Spy(Weighting):
    """The preference, and a record of the signals."""

    requires = frozenset({"spread"})

    def __init__(self):
        self.signals = []

    def __call__(self, signal):
        self.signals.append(signal)
        return np.array(signal.preferences)


EVEN = np.array([0.5, 0.5])
RAW = np.array([[0.0, 10.0], [1.0, 30.0], [2.0, 50.0]])


def test_weights_are_divided_by_bounds_and_by_the_first_batchs_deviation_and_stay_there():
    weights = batch_weights(make("fixed"), objectives(), np.array([0.25, 0.75]))
    # Bounds (0, 2) have width 2; 10, 30, 50 have standard deviation 20 (ddof=1).
    np.testing.assert_allclose(weights(RAW, step=0, steps=9), [0.25 / 2, 0.75 / 20])
    np.testing.assert_allclose(weights(RAW * 100, step=1, steps=9), [0.25 / 2, 0.75 / 20])
    np.testing.assert_allclose(weights.row, [0.25, 0.75])
    np.testing.assert_allclose(weights(RAW, step=2, steps=9, raw=False), [0.25, 0.75])


def test_the_weighting_sees_means_and_spreads_on_the_frozen_scale_and_nothing_of_what_is_missing():
    spy = Spy()
    weights = batch_weights(spy, objectives(bounds=((0, 2), (0, 100))), EVEN)
    weights([[0.0, np.nan], [1.0, 50.0], [2.0, np.nan]], step=3, steps=7)
    weights([[np.nan, 10.0], [np.nan, 30.0]], step=4, steps=7)
    first, second = spy.signals
    assert (first.step, first.steps, second.step) == (3, 7, 4)
    np.testing.assert_allclose(first.values, [[0.5, 0.5]])
    np.testing.assert_allclose(first.spread, [[np.sqrt(2 / 3) / 2, 0.0]])
    np.testing.assert_allclose(second.values, [[np.nan, 0.2]])
    np.testing.assert_allclose(second.spread, [[np.nan, 0.1]])
    np.testing.assert_allclose(first.preferences, [EVEN])


def test_while_the_scale_is_measured_the_preference_stands_and_the_weighting_waits():
    spy = Spy()
    weights = batch_weights(spy, objectives(), EVEN, scale_batches=2)
    np.testing.assert_allclose(weights([[0.0, 1.0], [2.0, 3.0]], step=0, steps=9), [0.25, 0.5 / np.sqrt(2)])
    assert spy.signals == []
    assert weights.scale is None
    # The scale is that of both batches together: 1, 3, 5, 7.
    np.testing.assert_allclose(weights([[0.0, 5.0], [2.0, 7.0]], step=1, steps=9), [0.25, 0.5 / np.sqrt(20 / 3)])
    assert len(spy.signals) == 1
    assert weights.scale.location[1] == 4


def test_a_function_not_seen_while_the_scale_is_measured_counts_as_it_is():
    weights = batch_weights(make("fixed"), objectives(), EVEN, scale_batches=2)
    np.testing.assert_allclose(weights([[0.0, np.nan], [2.0, np.nan]], step=0, steps=9), [0.25, 0.5])
    with pytest.raises(ObjectiveError, match=r"'b' applied to none .* give it bounds"):
        weights([[0.0, np.nan], [2.0, np.nan]], step=1, steps=9)


def test_a_function_that_does_not_vary_is_warned_about_by_name():
    weights = batch_weights(make("fixed"), objectives(), EVEN)
    with pytest.warns(ParetoAlignWarning, match="'b' was 7"):
        np.testing.assert_allclose(weights([[0.0, 7.0], [1.0, 7.0]], step=0, steps=9), [0.25, 0.5])


def test_thresholds_reach_the_multipliers_in_the_functions_units_and_directions():
    # Fixed multipliers: row = (p, lam) / (1 + sum lam) with lam = 0.5 each, since nothing moves at slack 0.
    found = objectives(
        ((0, 1), (0, 1)),
        c={"role": "constrain", "at_least": 5.0, "bounds": (0, 10)},
        d={"role": "constrain", "at_most": 20.0, "bounds": (0, 40)},
    )
    weights = batch_weights(Lagrangian(init=0.5, gain=0.0), found, EVEN)
    at_threshold = weights([[0.3, 0.4, 5.0, 20.0]], step=0, steps=9)
    np.testing.assert_allclose(at_threshold, [0.25, 0.25, 0.25 / 10, -0.25 / 40])
    # c is 0.2 of its range short, d is 0.5 of its range under its limit: lam moves by -lr * slack.
    weights = batch_weights(Lagrangian(init=0.5, gain=0.0, smoothing=0.0), found, EVEN)
    lam = np.array([0.5 + 0.2, max(0.5 - 0.5, 0.0)])
    expected = np.array([0.5, 0.5, *lam]) / (1 + lam.sum()) / [1, 1, 10, -40]
    np.testing.assert_allclose(weights([[0.3, 0.4, 3.0, 0.0]], step=0, steps=9), expected)


def test_covariances_are_those_of_each_prompts_completions_on_the_frozen_scale():
    class Covariances(Spy):
        requires = frozenset({"covariances"})

    spy = Covariances()
    weights = batch_weights(spy, objectives(((0, 2), (0, 10))), EVEN, group_size=2)
    # Prompt 1: (0, 0), (1, 1) on the scale, every covariance 1/4. Prompt 2: (0, 1), (1, 0), off the diagonal -1/4.
    weights([[0.0, 0.0], [2.0, 10.0], [0.0, 10.0], [2.0, 0.0]], step=0, steps=9)
    np.testing.assert_allclose(spy.signals[0].covariances, [[[0.25, 0.0], [0.0, 0.25]]])


def test_an_audited_function_is_seen_on_the_frozen_scale_and_never_weighed():
    class Audited(Spy):
        requires = frozenset({"audits"})

    spy = Audited()
    found = objectives(((0, 1), (0, 1)), gold={"role": "audit", "maximize": False, "bounds": (0, 8)})
    np.testing.assert_array_equal(batch_weights(spy, found, EVEN)([[0.3, 0.4, 6.0]], step=0, steps=9), [0.5, 0.5, 0.0])
    np.testing.assert_allclose(spy.signals[0].audits, [[0.25]])
    np.testing.assert_allclose(spy.signals[0].values, [[0.3, 0.4]])
    with pytest.raises(ConfigError, match="goes by an audited reward function"):
        batch_weights(Audited(), objectives(), EVEN)


@pytest.mark.parametrize("rewards", [[[0.0, 1.0, 2.0]], [0.0, 1.0]])
def test_rewards_of_another_shape_are_refused(rewards):
    weights = batch_weights(make("fixed"), objectives(((0, 1), (0, 1))), EVEN)
    with pytest.raises(ObjectiveError, match=r"\[n, 2\]"):
        weights(rewards, step=0, steps=9)


def test_an_infinite_reward_is_refused_by_name():
    weights = batch_weights(make("fixed"), objectives(), EVEN)
    with pytest.raises(ObjectiveError, match="'b' returned an infinite"):
        weights([[0.0, 1.0], [0.0, np.inf]], step=0, steps=9)


def test_a_row_that_is_none_is_refused_by_name():
    class Broken(Spy):
        name = "broken"

        def __call__(self, signal):
            return np.array([[np.nan, 1.0]])

    with pytest.raises(ConfigError, match=r"'broken' must return 2 finite weights.*step 4"):
        batch_weights(Broken(), objectives(), EVEN)(RAW, step=4, steps=9)


def test_thresholds_and_weightings_must_belong_together():
    with pytest.raises(ConfigError, match="'lagrangian' steers constraints: give a threshold"):
        batch_weights(make("lagrangian"), objectives(), EVEN)
    with pytest.raises(ConfigError, match="'fixed' does not heed the thresholds of c"):
        batch_weights(make("fixed"), objectives(c={"role": "constrain", "at_least": 0.5}), EVEN)


@pytest.mark.parametrize("count", [0, 1.5, True])
def test_scale_batches_must_count(count):
    with pytest.raises(ConfigError, match="scale_batches"):
        batch_weights(make("fixed"), objectives(), EVEN, scale_batches=count)


SETTINGS = {"schedule": lambda: Schedule([(0.0, "maxmin"), (1.0, "chebyshev")])}
SHIPPED = [make(name) for name in available() if type(make(name)).__module__.startswith("pareto_align.")]
DRIVEN = [weighting.name for weighting in SHIPPED if weighting.requires <= FROM_REWARDS]


@pytest.mark.parametrize("name", DRIVEN)
def test_every_weighting_that_can_be_driven_goes_on_from_its_state_as_if_never_stopped(name):
    def fresh():
        weighting = SETTINGS.get(name, lambda: make(name))()
        more = {"c": {"role": "constrain", "at_least": 0.5}} if "slack" in weighting.requires else {}
        more |= {"d": {"role": "audit"}} if "audits" in weighting.requires else {}
        return batch_weights(weighting, objectives((None, (0, 1)), **more), np.array([0.3, 0.7]), group_size=3)

    first, second = fresh(), fresh()
    rng = np.random.default_rng(0)
    batches = rng.uniform(0, 1, (8, 6, first.objectives.M)) * rng.uniform(0, 1, (8, 1, 1))
    batches[3, :, 1] = np.nan
    expected = [first(batch, step=i, steps=8) for i, batch in enumerate(batches)]
    half = [second(batch, step=i, steps=8) for i, batch in enumerate(batches[:5])]
    saved = json.loads(json.dumps(second.state_dict()))
    third = fresh()
    third.load_state_dict(saved)
    np.testing.assert_array_equal(third.row, second.row)
    rest = [third(batch, step=i, steps=8) for i, batch in enumerate(batches[5:], start=5)]
    np.testing.assert_array_equal([*half, *rest], expected)
    assert np.isfinite(expected).all()


def test_a_state_taken_while_the_scale_is_measured_remembers_the_rewards():
    first, second = (batch_weights(make("fixed"), objectives(), EVEN, scale_batches=2) for _ in range(2))
    first(RAW, step=0, steps=9)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    np.testing.assert_array_equal(second(RAW * 2, step=1, steps=9), first(RAW * 2, step=1, steps=9))
    assert second.scale.location[1] == pytest.approx(45.0)


def test_the_state_of_another_weighting_is_refused():
    saved = batch_weights(make("maxmin"), objectives(), EVEN).state_dict()
    with pytest.raises(ConfigError, match=r"weighting 'maxmin' of a, b\. Found 'fixed' of a, b"):
        batch_weights(make("fixed"), objectives(), EVEN).load_state_dict(saved)
