from __future__ import annotations

import math

import numpy as np
import pytest
from front_records import estimate, objective, record, tone_and_length
from scipy.stats import t

from pareto_align.report.units import (
    axes_of,
    decimals,
    fallen_of,
    interval_text,
    interval_texts,
    measured,
    number,
    optimized,
    preferences_of,
    reference_measured,
)


def test_minimised_objectives_come_back_in_the_users_units():
    table = measured(tone_and_length())
    np.testing.assert_allclose(table.values, [[0.8, 60, 0.02], [0.6, 30, 0.05], [0.3, 10, 0.01]])
    np.testing.assert_allclose(table.halfwidth[:, 1], t.ppf(0.975, 63) * np.array([3.0, 2.0, 1.0]))


def test_a_zero_is_never_negative():
    table = measured(record([objective("length", maximize=False)], [estimate([0.0])]))
    assert math.copysign(1.0, table.values[0, 0]) == 1.0
    assert number(-0.0001, 2) == "0.00"


def test_a_single_measurement_has_no_interval():
    table = measured(record([objective("tone")], [estimate([0.5], stderr=0.0, n=1)]))
    assert np.isnan(table.halfwidth[0, 0])


def test_only_optimized_objectives_span_the_front():
    found = tone_and_length()
    assert optimized(found) == (0, 1)
    assert [axis.role for axis in axes_of(found)] == ["optimize", "optimize", "audit"]
    assert preferences_of(found).shape == (3, 2)


def test_labels_say_which_way_is_better():
    tone, length, _ = axes_of(tone_and_length())
    assert tone.label.endswith("(better →)")
    assert length.label.endswith("(← better)")


def test_a_member_without_a_preference_has_nan():
    found = record([objective("a"), objective("b")], [estimate([0.1, 0.2])] * 2, [[0.5, 0.5], None])
    np.testing.assert_array_equal(np.isnan(preferences_of(found)), [[False, False], [True, True]])


def test_fallen_values_are_already_in_the_users_units_and_null_is_nan():
    found = tone_and_length(
        fallen=[
            {"id": "x", "values": [0.1, 70.0, None], "stderr": [0.01, 1.0, None], "reason": "beaten by a"},
            {"id": "y", "values": None},
        ]
    )
    table, reasons = fallen_of(found)
    np.testing.assert_allclose(table.values[0], [0.1, 70.0, np.nan])
    assert np.isnan(table.values[1]).all()
    assert reasons == ("beaten by a", "")


def test_the_untrained_model_is_turned_too():
    assert reference_measured(tone_and_length()) is None
    table = reference_measured(tone_and_length(reference_policy=estimate([0.2, -80.0, -0.1])))
    assert table is not None
    np.testing.assert_allclose(table.values, [[0.2, 80.0, 0.1]])


@pytest.mark.parametrize(
    ("halfwidths", "values", "digits"),
    [([0.018, 0.022], [0.6], 3), ([2.4], [57.0], 1), ([140.0], [9000.0], 0), ([0.0], [0.5], 3), ([], [1234.0], 0)],
)
def test_digits_follow_the_interval(halfwidths, values, digits):
    assert decimals(halfwidths, values) == digits


def test_interval_text():
    assert interval_text(0.623, 0.018, 3) == "0.623 ± 0.018"
    assert interval_text(0.623, math.nan, 3) == "0.623"
    assert interval_text(math.nan, 0.1, 3) == "-"


def test_an_interval_that_is_not_symmetric_is_written_by_its_ends():
    assert interval_texts([0.5, 0.7], [0.4, 0.6], [0.6, 0.8], 2) == ["0.50 ± 0.10", "0.70 ± 0.10"]
    assert interval_texts([0.02, 0.7], [0.0, 0.6], [0.11, 0.8], 2) == ["0.02 (0.00 to 0.11)", "0.70 (0.60 to 0.80)"]
    assert interval_texts([0.5], [math.nan], [math.nan], 2) == ["0.50"]


def test_what_fell_on_other_prompts_is_not_put_beside_the_members():
    record = tone_and_length(
        split="report",
        fallen=[
            {"id": "here", "values": [0.1, 20.0, 0.0], "stderr": [0.1, 1.0, 0.0], "split": "report"},
            {"id": "before", "values": [0.9, 5.0, 0.0], "stderr": [0.1, 1.0, 0.0], "split": "select"},
            {"id": "unsaid", "values": [0.2, 30.0, 0.0], "stderr": [0.1, 1.0, 0.0]},
        ],
    )
    found, reasons = fallen_of(record)
    assert found.ids == ("here", "unsaid")
    assert len(reasons) == 2
