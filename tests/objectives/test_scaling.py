"""RewardScale: closed forms, missing scores, degenerate columns, and equivariance."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pareto_align.errors import ConfigError, ObjectiveError, ParetoAlignWarning
from pareto_align.objectives import Objective, ObjectiveSet, RewardScale


def judge(completions, **columns):
    return [0.0] * len(completions)


BOUNDED = Objective("bounded", judge, bounds=(0, 4))
COST = Objective("cost", judge, bounds=(1, 3), maximize=False)
FREE = Objective("free", judge)


def fields(scale):
    return scale.location.tolist(), scale.scale.tolist(), scale.lower.tolist(), scale.upper.tolist()


def test_bounded_objectives_take_their_bounds_whatever_was_measured():
    rewards = [[1.0, -2.0], [1.0, -2.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scale = RewardScale.measure(rewards, ObjectiveSet([BOUNDED, COST]))
    assert fields(scale) == ([0, -3], [4, 2], [0, -3], [4, -1])
    assert scale.normalize([[4.0, -1.0], [0.0, -3.0]]).tolist() == [[1, 1], [0, 0]]


def test_unbounded_objectives_take_mean_and_deviation_of_what_was_measured():
    # 1, 2, 3, 6: mean 3, squared deviations 4 + 1 + 0 + 9 = 14, over n - 1 = 3
    scale = RewardScale.measure([[1.0], [2.0], [3.0], [6.0]], ObjectiveSet([FREE]))
    assert scale.location.tolist() == [3.0]
    assert scale.scale == pytest.approx([np.sqrt(14 / 3)])
    assert (scale.lower.tolist(), scale.upper.tolist()) == ([1.0], [6.0])
    assert scale.frame([[1.0], [3.5], [6.0], [8.5]])[:, 0].tolist() == [0.0, 0.5, 1.0, 1.5]


def test_missing_scores_are_left_out_column_by_column():
    rewards = np.array([[1.0, np.nan], [np.nan, 5.0], [3.0, np.nan], [np.nan, 9.0]])
    two = ObjectiveSet([FREE, Objective("other", judge)])
    scale = RewardScale.measure(rewards, two)
    assert scale.location.tolist() == [2.0, 7.0]
    assert scale.scale == pytest.approx([np.sqrt(2), np.sqrt(8)])
    assert np.isnan(scale.normalize(rewards)).tolist() == np.isnan(rewards).tolist()


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e9])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_an_objective_that_never_varied_gets_unit_scale_and_a_warning(value, count):
    with pytest.warns(ParetoAlignWarning, match=r"'free' was .* no scale of its own"):
        scale = RewardScale.measure(np.full((count, 1), value), ObjectiveSet([FREE]))
    assert fields(scale) == ([pytest.approx(value)], [1.0], [pytest.approx(value - 1)], [pytest.approx(value + 1)])


def test_rounding_is_not_variation():
    with pytest.warns(ParetoAlignWarning, match="no scale of its own"):
        scale = RewardScale.measure([[0.3], [0.1 + 0.2]], ObjectiveSet([FREE]))  # differ by 6e-17
    assert scale.scale.tolist() == [1.0]


def test_small_variation_is_variation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scale = RewardScale.measure([[1e-9], [2e-9]], ObjectiveSet([FREE]))
    assert scale.scale == pytest.approx([1e-9 / np.sqrt(2)])


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ObjectiveError, match=r"'free' applied to none of 2 completions.*give it bounds"):
        RewardScale.measure([[np.nan], [np.nan]], ObjectiveSet([FREE]))
    with pytest.raises(ObjectiveError, match="'free' applied to none of 0"):
        RewardScale.measure(np.empty((0, 1)), ObjectiveSet([FREE]))
    with pytest.raises(ObjectiveError, match="'free' has an infinite reward"):
        RewardScale.measure([[1.0], [np.inf]], ObjectiveSet([FREE]))
    with pytest.raises(ObjectiveError, match=r"must be \[n, 1\]"):
        RewardScale.measure([[1.0, 2.0]], ObjectiveSet([FREE]))
    # Bounds need no measurement at all.
    assert RewardScale.measure([[np.nan]], ObjectiveSet([BOUNDED])).scale.tolist() == [4.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": [1.0, 0.0]}, "scale must be positive"),
        ({"scale": [1.0, -1.0]}, "scale must be positive"),
        ({"upper": [1.0, 0.0]}, "upper must be above lower"),
        ({"location": [0.0, np.nan]}, "location must be one finite number"),
        ({"lower": [0.0]}, "lower must be one finite number"),
        ({"upper": "ab"}, "upper must be numbers"),
    ],
)
def test_an_impossible_scale_is_refused(change, message):
    good = {"location": [0.0, 0.0], "scale": [1.0, 1.0], "lower": [0.0, 0.0], "upper": [1.0, 1.0]}
    RewardScale(**good)
    with pytest.raises(ConfigError, match=message):
        RewardScale(**{**good, **change})


def test_a_scale_is_frozen_and_checks_what_it_is_given():
    location = np.array([0.0])
    scale = RewardScale(location, [2.0], [0.0], [4.0])
    location[0] = 5.0
    assert scale.location.tolist() == [0.0]
    with pytest.raises(ValueError, match="read-only"):
        scale.scale[0] = 3.0
    assert scale.normalize(np.ones((3, 2, 1))).shape == (3, 2, 1)
    with pytest.raises(ConfigError, match="Expected 1 columns"):
        scale.normalize([1.0, 2.0])
    with pytest.raises(ConfigError, match="Expected 1 columns"):
        scale.frame(1.0)


def test_a_scale_survives_json_bit_for_bit():
    scale = RewardScale.measure(np.random.default_rng(0).normal(size=(9, 1)), ObjectiveSet([FREE]))
    again = RewardScale.from_dict(json.loads(json.dumps(scale.to_dict())))
    assert fields(again) == fields(scale)
    with pytest.raises(ConfigError, match="fields location, scale, lower, upper"):
        RewardScale.from_dict({"location": [0.0]})


columns = arrays(np.float64, st.integers(3, 20), elements=st.floats(-10, 10, width=32))


@given(column=columns, factor=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_unbounded_scaling_takes_out_any_affine_change_of_units(column, factor, shift):
    assume(np.ptp(column) > 1e-2)
    free = ObjectiveSet([FREE])
    ours, theirs = column[:, None], factor * column[:, None] + shift
    first, second = RewardScale.measure(ours, free), RewardScale.measure(theirs, free)
    np.testing.assert_allclose(second.normalize(theirs), first.normalize(ours), atol=1e-6)
    np.testing.assert_allclose(second.frame(theirs), first.frame(ours), atol=1e-6)


@given(column=columns)
def test_normalized_rewards_of_the_reference_have_mean_0_and_deviation_1(column):
    assume(np.ptp(column) > 1e-2)
    normalized = RewardScale.measure(column[:, None], ObjectiveSet([FREE])).normalize(column[:, None])
    assert normalized.mean() == pytest.approx(0, abs=1e-9)
    assert normalized.std(ddof=1) == pytest.approx(1)


@given(column=columns)
def test_negating_an_unbounded_objective_mirrors_it(column):
    assume(np.ptp(column) > 1e-2)
    free = ObjectiveSet([FREE])
    up, down = RewardScale.measure(column[:, None], free), RewardScale.measure(-column[:, None], free)
    np.testing.assert_allclose(down.normalize(-column[:, None]), -up.normalize(column[:, None]), atol=1e-9)
    np.testing.assert_allclose(down.frame(-column[:, None]), 1 - up.frame(column[:, None]), atol=1e-9)
