"""The study of what lies between adapters: pages say what its results say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "between"


MODULES = ("questions", "figures")


def test_the_table_of_questions_is_the_study_s(code, results):
    questions = code.questions
    known = [{name: row[name] for name in questions.ROWS[0]} for row in results["questions"]]
    assert known == questions.ROWS
    assert {row["users"] for row in results["questions"]} == {questions.USERS}
    assert questions.table(results["questions"]) in (ROOT / "docs" / "eliciting.md").read_text(encoding="utf-8")


def test_six_questions_leave_at_most_two_fifths_of_what_any_six_leave(code, results):
    six = code.questions.SHOWN.index(6)
    left = {(row["m"], row["kind"], row["by"]): row["regret"][six] for row in results["questions"] if not row["slips"]}
    assert len(left) == 8
    for (m, kind, by), regret in left.items():
        assert by == "chance" or regret <= 0.4 * left[m, kind, "chance"]


def test_the_truth_lies_between_the_bounds_as_often_as_they_say(results):
    for front in results["bounds"].values():
        lower, upper, truth = (np.array(front[name]) for name in ("lower", "upper", "truth"))
        assert np.mean(lower <= truth) >= 0.95
        assert np.mean(truth <= upper) >= 0.95
    two, five = (np.subtract(front["upper"], front["lower"]).max() for front in results["bounds"].values())
    assert five < two


def test_the_figures_show_all_that_was_measured(code, results):
    asked, missed, bounds = (
        code.figures.draw_questions(results["questions"]),
        code.figures.draw_missed(results["quality"]),
        code.figures.draw_bounds(results["bounds"]),
    )
    assert [len(panel.containers) for panel in asked.axes] == [4, 4]
    top = asked.axes[0].get_ylim()[1]
    assert top > max(max(row["regret"]) for row in results["questions"])
    assert [panel.get_title() for panel in missed.axes] == list(results["quality"])
    assert [panel.get_title() for panel in bounds.axes] == list(results["bounds"])


def test_the_table_of_fronts_is_the_study_s(results):
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    for front, found in results["quality"].items():
        cells = [f"{x['median']:.3f} ({x['min']:.3f} to {x['max']:.3f})" for x in found["missed"].values()]
        assert f"| {front} | {' | '.join(cells)} |" in page


def test_the_alarm_is_raised_where_a_mixture_is_worse_than_the_nearest_member(results):
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    assert list(results["alarm"]) == list(results["quality"])
    for front, found in results["alarm"].items():
        for by, told in found["ways"].items():
            worse, others = told["worse"], told["others"]
            assert worse["cases"] + others["cases"] == found["seeds"] * found["unseen"]
            assert worse["alarmed"] == worse["cases"] - len(told["unnoticed"])
            cells = [f"{group['alarmed']} of {group['cases']}" for group in (worse, others)]
            off = f"{worse['prediction off']} and {others['prediction off']}"
            unnoticed = f"{max(told['unnoticed'], default=0):.4f}"
            assert f"| {front} | {by} | {' | '.join([*cells, unnoticed, off])} |" in page
    for told in results["alarm"]["strings, m = 3"]["ways"].values():
        assert told["worse"]["alarmed"] >= 0.9 * told["worse"]["cases"] > 0
        assert told["others"]["alarmed"] <= 0.25 * told["others"]["cases"]  # an alarm that is always raised is none
    groups = [
        way[group] for way in results["alarm"]["strings, m = 3"]["ways"].values() for group in ("worse", "others")
    ]
    worse, others = (
        " of ".join(str(sum(group[what] for group in groups[which::2])) for what in ("alarmed", "cases"))
        for which in (0, 1)
    )
    text = " ".join((ROOT / "docs" / "mixtures.md").read_text(encoding="utf-8").split())
    assert f"came for {worse} mixtures that are worse than the nearest member and for {others} others" in text
