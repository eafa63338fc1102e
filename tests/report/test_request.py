from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from front_records import tone_and_length

from pareto_align.errors import PreferenceError
from pareto_align.report.request import limits_of, rows_within
from pareto_align.report.units import axes_of, measured

AXES = axes_of(tone_and_length())
MEMBERS = measured(tone_and_length())


@pytest.mark.parametrize(
    ("at_least", "at_most", "rows"),
    [
        ({}, {}, [0, 1, 2]),
        ({"tone": 0.6}, {}, [0, 1]),
        ({}, {"length": 30.0}, [1, 2]),
        ({"tone": 0.5}, {"length": 40}, [1]),
        ({}, {"toxicity": 0.02}, [0, 2]),
    ],
)
def test_rows_within_limits(at_least, at_most, rows):
    assert rows_within(MEMBERS, limits_of(AXES, at_least, at_most)) == rows


def test_nobody_within_limits_names_the_nearest():
    # a misses by a fifth of the span on both, b by three fifths on tone
    with pytest.raises(PreferenceError) as caught:
        rows_within(MEMBERS, limits_of(AXES, {"tone": 0.9}, {"length": 50}))
    assert str(caught.value) == (
        "No member keeps tone at least 0.9 and length at most 50. The nearest is a with tone 0.8, length 60."
    )


def test_the_wrong_side_is_named():
    with pytest.raises(PreferenceError, match=r"'length' is minimized, so less is better: limit it with `at_most`"):
        limits_of(AXES, {"length": 10}, {})
    with pytest.raises(PreferenceError, match=r"'tone' is maximized, so more is better: limit it with `at_least`"):
        limits_of(AXES, {}, {"tone": 0.5})


def test_unknown_names_and_numbers():
    with pytest.raises(PreferenceError, match=r"Unknown objective 'tonne' in `at_least`\. Did you mean 'tone'"):
        limits_of(AXES, {"tonne": 1}, {})
    with pytest.raises(PreferenceError, match="must be a finite number"):
        limits_of(AXES, {"tone": float("nan")}, {})
    with pytest.raises(PreferenceError, match="must be a finite number"):
        limits_of(AXES, {"tone": "much"}, {})  # type: ignore[dict-item]


def test_sure_only_beyond_the_noise():
    (limit,) = limits_of(AXES, {}, {"length": 30})
    assert not limit.surely(np.array([0.6, 30.0, 0.0]), np.array([0.0, 2.0, 0.0]))
    assert limit.surely(np.array([0.6, 26.0, 0.0]), np.array([0.0, 2.0, 0.0]))


def test_a_missing_measurement_keeps_no_limit():
    values = MEMBERS.values.copy()
    values[0, 0] = np.nan
    rows = rows_within(replace(MEMBERS, values=values), limits_of(AXES, {"tone": 0.1}, {}))
    assert rows == [1, 2]
