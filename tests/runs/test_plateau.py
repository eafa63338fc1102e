"""When a front counts as standing still."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pareto_align import ConfigError
from pareto_align.runs.budget import PlateauMonitor


def ends(monitor, values, half=0.1):
    found = []
    for value in values:
        monitor.note(value, value - half, value + half)
        found.append(monitor.reached)
    return found


def test_a_front_that_wavers_within_its_interval_stands_still():
    assert ends(PlateauMonitor(3), [0.5, 0.55, 0.45, 0.6]) == [False, False, False, True]


def test_slow_growth_leaves_the_interval_in_the_end_and_the_count_starts_again():
    monitor = PlateauMonitor(3)
    assert ends(monitor, [0.5, 0.55, 0.59, 0.62, 0.65, 0.7]) == [False] * 6  # .62 is out of (.4, .6)
    assert monitor.interval == pytest.approx((0.52, 0.72))
    assert ends(monitor, [0.7]) == [True]


def test_a_fall_is_a_move_too():
    assert ends(PlateauMonitor(1), [0.5, 0.3, 0.1]) == [False] * 3


def test_without_patience_it_never_ends():
    assert not any(ends(PlateauMonitor(None), np.full(100, 0.5)))


def test_it_goes_on_from_its_state():
    values = [0.5, 0.55, 0.45]
    monitor = PlateauMonitor(2)
    ends(monitor, values[:2])
    other = PlateauMonitor(2)
    other.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert ends(other, values[2:]) == ends(monitor, values[2:]) == [True]
    with pytest.raises(ConfigError, match="no state"):
        other.load_state_dict({"still": 1})
