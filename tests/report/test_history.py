from __future__ import annotations

import json

import numpy as np
import pytest
from front_records import tone_and_length
from scipy.stats import t

from pareto_align.errors import FrontFileError
from pareto_align.report.history_plot import dodge, history_info, smoothed
from pareto_align.report.journal import events_of, table_of
from pareto_align.report.weights_plot import weights_info
from pareto_align.runs.journal import read_journal


def journal() -> list[dict]:
    """Two policies, three steps, one evaluation; lengths in words as the user has them."""
    steps = [
        {
            "event": "step",
            "step": s,
            "values": [[0.1 * s, 50.0, 0.0], [0.05 * s, None, 0.0]],
            "weights": [[0.6, 0.2], [0.1, 0.3]],
        }
        for s in (1, 2, 3)
    ]
    start = {
        "event": "start",
        "preferences": [[1.0, 0.0], [0.2, 0.8]],
        "reference": [0.1, 70.0, 0.0],
        "reference_hypervolume": [0.02, 0.01, 0.03],
        "splits": {"train": 40, "select": 9, "report": 9},
    }
    evaluation = {
        "event": "evaluation",
        "step": 3,
        "values": [[0.3, 48.0, 0.0], [0.2, 20.0, 0.0]],
        "stderr": [[0.01, 1.0, 0.0], [0.01, 2.0, 0.0]],
        "hypervolume": 0.3,
        "hypervolume_low": 0.25,
        "hypervolume_high": None,
        "members": 2,
    }
    return [start, *steps, evaluation, {"event": "end", "step": 3}]


def of_a_family() -> list[dict]:
    """`journal()` with preferences drawn anew for each step, and the trained family measured at two more."""
    told = [dict(event) for event in journal()]
    for event in told:
        if event["event"] == "step":
            event["preferences"] = [[0.1 * event["step"], 1 - 0.1 * event["step"]], [0.9, 0.1]]
    further = {"event": "further", "step": 3, "hypervolume": 0.4, "hypervolume_low": 0.35, "members": 4,
               "values": [[0.4, 30.0, 0.0]], "stderr": [[0.01, 1.0, 0.0]]}  # fmt: skip
    return [*told[:-1], {**further, "hypervolume": 0.35}, further, told[-1]]


def test_history_numbers():
    info = history_info(tone_and_length(), journal())
    np.testing.assert_allclose(info.training.values[:, 0, 0], [0.1, 0.2, 0.3])
    assert np.isnan(info.training.values[:, 1, 1]).all()
    np.testing.assert_allclose(info.evaluation.values[0, 1], [0.2, 20.0, 0.0])
    assert info.evaluation.halfwidth is not None
    np.testing.assert_allclose(info.evaluation.halfwidth[0, :, 1], t.ppf(0.975, 8) * np.array([1.0, 2.0]))
    assert info.prompts == 9
    assert info.hypervolume.tolist() == [0.3]
    assert np.isnan(info.hypervolume_high[0])
    for series, rows in ((info.training, 3), (info.evaluation, 1)):
        assert [(s.policy, s.rows) for s in series.stretches] == [(0, slice(0, rows)), (1, slice(0, rows))]
        np.testing.assert_allclose([s.preference for s in series.stretches], [[1.0, 0.0], [0.2, 0.8]])
    assert info.untrained is not None
    np.testing.assert_allclose(info.untrained, [0.1, 70.0, 0.0])
    assert info.untrained_hypervolume == 0.02
    assert (info.first, info.second) == ("tone", "length")


@pytest.mark.parametrize(
    ("splits", "prompts", "reach"),
    [
        (None, None, 1.96),
        ({"select": "many"}, None, 1.96),
        ({"select": 10**400}, None, 1.96),
        ({"select": 2}, 2, t.ppf(0.975, 1)),
        ({"select": 1}, 1, np.nan),
    ],
)
def test_history_intervals_are_as_wide_as_the_prompts_are_few(splits, prompts, reach):
    start, *rest = journal()
    info = history_info(tone_and_length(), [{**start, "splits": splits}, *rest])
    assert info.prompts == prompts
    assert info.evaluation.halfwidth is not None
    np.testing.assert_allclose(info.evaluation.halfwidth[0, :, 1], reach * np.array([1.0, 2.0]))


def test_bars_of_policies_stand_side_by_side_within_reach_of_their_step():
    aside = dodge(np.array([0, 10, 40]), 8)
    assert (np.diff(aside) > 0).all()
    np.testing.assert_allclose(aside, -aside[::-1])
    # the last of one measurement comes before the first of the next
    assert np.ptp(dodge(np.array([0, 1, 400]), 8)) <= 0.5
    np.testing.assert_array_equal(dodge(np.array([3]), 2), [0.0, 0.0])
    np.testing.assert_array_equal(dodge(np.array([3, 6]), 1), [0.0])


def test_weights_are_split_into_direction_and_strength():
    info = weights_info(tone_and_length(), journal())
    np.testing.assert_allclose(info.shares[0], [[0.75, 0.25], [0.25, 0.75]])
    np.testing.assert_allclose(info.strength[0], [0.8, 0.4])
    assert info.varies


def moved() -> list[dict]:
    """Slot 1 is given another preference after the second of three steps; measured after the first and the third."""
    start, *steps, evaluation, end = journal()
    task = {"event": "task", "step": 2, "policy": 1, "preference": [0.9, 0.1], "parent": "m0001", "reason": "a gap"}
    return [start, steps[0], {**evaluation, "step": 1}, steps[1], task, steps[2], evaluation, end]


def test_a_slot_that_was_moved_is_for_its_own_preference_on_either_side() -> None:
    weights, history = weights_info(tone_and_length(), moved()), history_info(tone_and_length(), moved())
    told = {
        (stretch.policy, stretch.rows.start, stretch.rows.stop): stretch.preference.tolist()
        for stretch in weights.stretches
    }
    assert told == {(0, 0, 3): [1.0, 0.0], (1, 0, 2): [0.2, 0.8], (1, 2, 3): [0.9, 0.1]}
    assert [(s.policy, s.rows, s.preference.tolist()) for s in history.evaluation.stretches] == [
        (0, slice(0, 2), [1.0, 0.0]), (1, slice(0, 1), [0.2, 0.8]), (1, slice(1, 2), [0.9, 0.1]),
    ]  # fmt: skip


def test_another_policy_for_the_same_preference_begins_a_stretch_of_its_own() -> None:
    events = moved()
    events[4] = {**events[4], "preference": [0.2, 0.8]}
    stretches = weights_info(tone_and_length(), events).stretches
    assert [(s.policy, s.rows.stop) for s in stretches] == [(0, 3), (1, 2), (1, 3)]


def test_preferences_drawn_for_a_step_are_that_steps_alone() -> None:
    drawn = [[0.5, 0.5], [0.2, 0.8]]
    events = [{**e, "preferences": drawn} if e.get("step") == 2 and e["event"] == "step" else e for e in journal()]
    stretches = history_info(tone_and_length(), events).training.stretches
    assert [s.preference.tolist() for s in stretches] == [[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [0.2, 0.8]]


@pytest.mark.parametrize("task", [{"policy": 7}, {"policy": None}, {"policy": 1, "preference": None}, {"policy": True}])
def test_a_task_that_says_nothing_names_no_preference(task) -> None:
    start, *rest = journal()
    stretches = weights_info(tone_and_length(), [start, {"event": "task", "step": 1, **task}, *rest]).stretches
    np.testing.assert_allclose(stretches[0].preference, [1.0, 0.0])
    assert len(stretches) == (3 if task["policy"] == 1 and "preference" in task else 2)


def test_weights_with_sum_one_have_no_strength_to_show():
    events = [{"event": "step", "step": 1, "weights": [[0.3, 0.7], [1.0, 0.0]]}]
    assert not weights_info(tone_and_length(), events).varies


def test_all_zero_weights_have_no_direction():
    events = [{"event": "step", "step": 1, "weights": [[0.0, 0.0]]}]
    assert np.isnan(weights_info(tone_and_length(), events).shares).all()


def test_of_a_repeated_step_the_last_counts():
    events = [{"event": "step", "step": 2, "x": 1}, {"event": "step", "step": 1}, {"event": "step", "step": 2, "x": 9}]
    assert [(e["step"], e.get("x")) for e in events_of(events, "step")] == [(1, None), (2, 9)]


def test_rows_of_different_width_line_up():
    table = table_of([{"v": [[1.0]]}, {"v": [[1.0, 2.0], [3.0, 4.0]]}, {}], "v", 2)
    assert table.shape == (3, 2, 2)
    assert np.isnan(table[0, 0, 1])
    assert np.isnan(table[2]).all()


@pytest.mark.parametrize("draw", [history_info, weights_info])
def test_a_front_without_its_run_says_so(draw):
    with pytest.raises(FrontFileError, match=r"journal\.jsonl"):
        draw(tone_and_length(), [])


def test_a_torn_last_line_is_passed_over(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"event": "step", "step": 1}) + "\n[1]\n" + '{"event": "st')
    assert read_journal(path) == [{"event": "step", "step": 1}]
    assert read_journal(tmp_path / "none.jsonl") == []


def test_smoothing_keeps_a_line_and_skips_gaps():
    line = np.linspace(0, 1, 100)
    np.testing.assert_allclose(smoothed(line)[10:-10], line[10:-10])
    line[50] = np.nan
    assert np.isfinite(smoothed(line)).all()
    short = np.array([1.0, 5.0, 2.0])
    np.testing.assert_array_equal(smoothed(short), short)


def test_the_history_of_a_family_ends_where_its_further_preferences_were_measured():
    info = history_info(tone_and_length(), of_a_family())
    assert info.steps.tolist() == [3, 3]
    assert info.hypervolume.tolist() == [0.3, 0.4]
    assert info.members.tolist() == [2, 4]
    assert info.evaluation.values.shape == (1, 2, 3)
    assert info.training.drawn


def test_the_weights_of_a_family_are_told_beside_the_preferences_that_were_drawn():
    info = weights_info(tone_and_length(), of_a_family())
    assert info.drawn is not None
    np.testing.assert_allclose(info.drawn[:, 0, 0], [0.1, 0.2, 0.3])
    assert weights_info(tone_and_length(), journal()).drawn is None
