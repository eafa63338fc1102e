from __future__ import annotations

import numpy as np
import pytest
from front_records import estimate, objective, paired, record, tone_and_length

from pareto_align.errors import ConfigError
from pareto_align.report.attained import attained_boundary, front_hypervolume
from pareto_align.report.units import Axis

UP, DOWN = Axis("up", True), Axis("down", False)


def test_boundary_steps_through_the_worse_of_both():
    corners = attained_boundary(np.array([[3.0, 1.0], [1.0, 3.0], [0.5, 0.5], [2.0, 2.0]]), (UP, UP))
    np.testing.assert_array_equal(corners, [[1, 3], [1, 2], [2, 2], [2, 1], [3, 1]])


def test_boundary_of_a_minimised_axis():
    # better is right and down; (2, 9) is dominated by (2, 4)
    corners = attained_boundary(np.array([[1.0, 2.0], [2.0, 4.0], [2.0, 9.0]]), (UP, DOWN))
    np.testing.assert_array_equal(corners, [[1, 2], [1, 4], [2, 4]])


def test_boundary_of_nothing():
    assert attained_boundary(np.zeros((0, 2)), (UP, UP)).shape == (0, 2)
    assert attained_boundary(np.array([[np.nan, 1.0]]), (UP, UP)).shape == (0, 2)


def test_hypervolume_on_the_frozen_frame():
    # framed points (0.8, 0.4), (0.6, 0.7), (0.3, 0.9) over (0, 0): steps of 0.3 * 0.9 + 0.3 * 0.7 + 0.2 * 0.4
    found = front_hypervolume(tone_and_length())
    assert found.value == pytest.approx(0.27 + 0.21 + 0.08)
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    "reference", [[0.5, 50.0], (0.5, 50), {"tone": 0.5, "length": 50}, {"length": 50, "tone": 0.5}]
)
def test_reference_point_is_read_in_the_users_units(reference):
    # tone at least 0.5, at most 50 words: only (0.6, 30) is inside, (0.6 - 0.5) * (50 - 30) / 100
    found = front_hypervolume(tone_and_length(), reference)
    assert found.value == pytest.approx(0.1 * 0.2)


@pytest.mark.parametrize(
    "reference",
    [
        [0.5], [0.5, np.nan], [0.5, 50.0, 0.0], 0.5, "ab", ["a", 50], [None, 50], [[0.5], 50],
        {"tone": 0.5}, {"tone": 0.5, "words": 50}, {"tone": 0.5, "length": "x"},
        {"tone": 0.5, "length": 50, "words": 1},
    ],
)  # fmt: skip
def test_reference_point_of_the_wrong_form(reference):
    with pytest.raises(ConfigError, match=r"2 finite numbers, one for each of 'tone', 'length'"):
        front_hypervolume(tone_and_length(), reference)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, True, "0.95"])
def test_confidence_out_of_range(confidence):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        front_hypervolume(tone_and_length(), confidence=confidence)


def test_interval_narrows_with_confidence_and_repeats():
    found = record([objective("a"), objective("b")], paired([[0.8, 0.2], [0.2, 0.8]]))
    wide, narrow = front_hypervolume(found, confidence=0.99), front_hypervolume(found, confidence=0.5)
    assert wide.low < narrow.low <= narrow.high < wide.high
    assert front_hypervolume(found, confidence=0.5) == narrow


def test_an_empty_front_attains_nothing():
    assert front_hypervolume(record([objective("a")], [])).value == 0.0
    assert front_hypervolume(record([objective("a")], [estimate([0.4])])).value == pytest.approx(0.4)
