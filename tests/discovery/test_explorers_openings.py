"""Where a front is open, and which slots still earn their training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pareto_align.discovery.explorers import Adaptive, Bayesian, Discover
from pareto_align.discovery.explorers.allocation import Allocation, gains
from pareto_align.discovery.explorers.openings import (
    find_gaps,
    nearest_parent,
    neighbours,
    newest,
    place,
    preference_of,
    widest,
)
from pareto_align.errors import ConfigError
from pareto_align.testing.explorer import exploration


def arc(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


@given(st.sets(st.integers(0, 10**6), min_size=2, max_size=12), st.randoms(use_true_random=False))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
def test_with_two_objectives_neighbours_follow_each_other_along_the_front(numbers, random):
    first = sorted(numbers)
    second = sorted((random.randrange(10**6) for _ in first), reverse=True)
    points = np.array(list(zip(first, second, strict=True)), dtype=float)
    if len(set(second)) < len(second):
        return
    order = list(range(len(points)))
    random.shuffle(order)
    found = {tuple(sorted((order[i], order[j]))) for i, j in neighbours(points[order])}
    assert found == {(i, i + 1) for i in range(len(points) - 1)}


def test_with_three_objectives_a_point_between_two_parts_them():
    corners = np.eye(3)
    assert len(neighbours(corners)) == 3
    middle = (corners[0] + corners[1]) / 2
    assert (0, 1) not in neighbours(np.vstack([corners, middle]))


def test_the_widest_gap_comes_first_and_its_middle_is_asked_for_halfway():
    state = exploration(
        arc(0, 10, 20, 70, 80, 90), preferences=[[1, 0], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9], [0, 1]]
    )
    gap = find_gaps(state)[0]
    assert {end.id for end in gap.ends} == {"m0002", "m0003"}
    assert gap.width == pytest.approx(2 * np.sin(np.radians(25)))  # the chord of 50 degrees
    np.testing.assert_allclose(gap.preference, [0.55, 0.45])
    np.testing.assert_allclose(gap.middle, arc(45)[0] * np.cos(np.radians(25)))


def test_a_gap_narrower_than_the_noise_is_none():
    points = arc(0, 10, 90)
    # 0 and 10 degrees are .174 apart; with standard errors .05 on both axes the noise of a distance is .1
    assert len(find_gaps(exploration(points, stderr=0.05, resolution=0.0))) == 1
    assert len(find_gaps(exploration(points, stderr=0.02, resolution=0.0))) == 2


def test_one_request_that_led_to_both_ends_is_not_repeated():
    state = exploration(arc(0, 90), preferences=[[0.9, 0.1], [0.9, 0.1]])
    np.testing.assert_allclose(find_gaps(state)[0].preference, [0.5, 0.5])


def test_free_policies_share_a_wide_gap():
    gaps = find_gaps(exploration(arc(0, 10, 80, 90), preferences=[[1, 0], [0.8, 0.2], [0.2, 0.8], [0, 1]]))
    asked = [gap.preference[0] for gap in widest(gaps, [], 3)]
    assert asked[0] == pytest.approx(0.5)
    assert sorted(asked[1:]) == pytest.approx([0.35, 0.65])
    assert widest([], [], 3) == []


def test_a_region_that_was_tried_in_vain_counts_less_wherever_its_ends_went():
    gaps = find_gaps(exploration(arc(0, 50, 90)))
    wide = widest(gaps, [], 1)[0]
    other = widest(gaps, [arc(24)[0]], 1)[0]  # anywhere in between, not exactly the middle
    assert {end.id for end in wide.ends} == {"m0000", "m0001"}
    assert {end.id for end in other.ends} == {"m0001", "m0002"}


def test_a_place_is_the_chebyshev_preference_of_a_point():
    corners = np.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(place(np.array([0.5, 0.5]), corners), [0.5, 0.5])
    # shortfalls .25 and .75 with .05 of room: 1/.3 against 1/.8
    np.testing.assert_allclose(place(np.array([0.75, 0.25]), corners), np.array([0.8, 0.3]) / 1.1)


def test_what_was_trained_under_floors_is_known_by_its_place():
    state = exploration(arc(0, 45, 90), preferences=[[1, 0], [1, 0], [0, 1]])
    middle = state.archive.entries["m0001"]
    np.testing.assert_allclose(preference_of(state, middle, state.measured), [1, 0])
    middle.origin = dataclasses.replace(middle.origin, floors=(None, 0.7))
    np.testing.assert_allclose(preference_of(state, middle, state.measured), [0.5, 0.5])


def test_the_parent_is_near_and_can_still_learn():
    state = exploration(arc(0, 30, 60, 90), preferences=[[1, 0], [0.7, 0.3], [0.3, 0.7], [0, 1]])
    wanted = np.array([0.6, 0.4])
    assert nearest_parent(state, wanted).id == "m0001"
    still = state.archive.entries["m0001"]
    still.origin = dataclasses.replace(still.origin, spread=0.0)
    assert nearest_parent(state, wanted).id == "m0002"


def test_a_slot_that_changed_hands_has_no_newest_policy():
    state = exploration(arc(0, 45, 90))
    assert [entry.id for entry in newest(state)] == ["m0000", "m0001", "m0002"]
    measured = state.measured.copy()
    measured[1] = np.nan
    assert newest(dataclasses.replace(state, measured=measured))[1] is None


def test_gains_are_shares_of_the_hypervolume_and_the_ends_have_some():
    # reference -.1 below: three points of a staircase, each exclusive box by hand
    state = exploration([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], resolution=0.0)
    whole = 1.1 * 0.1 + 0.6 * 0.5 + 0.1 * 0.5
    np.testing.assert_allclose(gains(state), np.array([0.5 * 0.1, 0.5 * 0.5, 0.1 * 0.5]) / whole)


def test_a_dominated_policy_and_a_duplicate_gain_nothing():
    state = exploration([[1.0, 0.0], [0.6, 0.6], [0.3, 0.3], [0.601, 0.601]], stderr=0.01)
    found = gains(state)
    assert found[2] == 0
    assert sorted(found[[1, 3]])[0] == 0
    assert sorted(found[[1, 3]])[1] > 0


def allocation(**settings):
    made = Allocation("mine", **{"settle": 0.2, "freeze": 0.8, "patience": 2, "least": 1e-3, "most": 1.0, **settings})
    made.begin(3)
    return made


def test_a_slot_is_free_after_its_patience_is_over():
    made = allocation()
    idle = exploration([[1.0, 0.0], [0.0, 1.0], [-0.5, -0.5]])
    assert made.free(idle) == []
    assert made.free(idle) == [2]
    made.moved(2)
    assert made.free(idle) == []


def test_no_slot_is_free_before_it_settles_or_when_little_time_is_left():
    made = allocation(patience=1)
    points = [[1.0, 0.0], [0.0, 1.0], [-0.5, -0.5]]
    assert made.free(exploration(points, step=10)) == []
    assert made.free(exploration(points, step=20)) == [2]
    assert made.free(exploration(points, step=80)) == [2]
    assert made.free(exploration(points, step=81)) == []


def test_the_longest_idle_goes_first_and_not_all_at_once():
    made = allocation(patience=1, most=0.4)
    made.free(exploration([[1.0, 0.0], [0.0, 1.0], [-0.5, -0.5]]))
    assert made.free(exploration([[-0.5, -0.5], [0.0, 1.0], [-0.5, -0.5]], resolution=0.0)) == [2]


@pytest.mark.parametrize(
    "settings",
    [
        {"settle": -0.1}, {"settle": 0.9}, {"freeze": 1.5}, {"patience": 0}, {"patience": 1.5}, {"least": -1},
        {"most": 2.0}, {"settle": float("nan")}, {"settle": "half"}, {"patience": True},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(settings):
    """`settle` and `freeze` are compared with each other, the rest is what the explorers' annotations say."""
    for explorer in (Adaptive, Bayesian, Discover):
        with pytest.raises(ConfigError, match=rf"'{explorer.name}'.*{next(iter(settings))}"):
            explorer(**settings)


def test_a_state_of_another_population_is_refused():
    with pytest.raises(ConfigError, match=r"3 slots.*saved with 2"):
        allocation().load_state_dict({"idle": [0, 1]})
