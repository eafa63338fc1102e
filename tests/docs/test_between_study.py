"""The study of what lies between adapters: pages say what its results say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "between"


MODULES = ("questions", "pairwise", "figures", "features")


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
    shares = [regret / left[m, kind, "chance"] for (m, kind, by), regret in left.items() if by == "worth"]
    assert max(shares) <= 0.4
    told = f"six leave {min(shares):.2f} to {max(shares):.2f}.".replace("0.", ".")
    assert told in text("studies/between/README.md")


def test_a_gaussian_process_leaves_more(code, results):
    rows, names = results["pairwise"], code.pairwise.ASKERS
    assert [{name: row[name] for name in code.pairwise.ROWS[0]} for row in rows] == code.pairwise.ROWS
    assert {row["users"] for row in rows} == {code.pairwise.USERS}
    ours, other = ([row["regret"][name][0] for row in rows] for name in names)
    assert all(a < b for a, b in zip(ours, other, strict=True))
    told = [", ".join(f"{value:.3f}"[1:] for value in values) for values in (ours, other)]
    assert f"leave {told[0]} where a Gaussian process leaves {told[1]}" in text("docs/eliciting.md")


def test_a_gaussian_process_learns_from_replies(code):
    values = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    users = code.pairwise.PairwiseUsers(values, lower=np.zeros(2), upper=np.ones(2), seed=0)
    askable = np.triu(np.ones((3, 3), dtype=bool), 1)
    first, second = users.ask(askable)
    assert askable[first, second]
    users.answer(0, 2, "first")
    users.answer(1, 2, "first")
    users.answer(0, 1, "first")
    assert users.best == 0
    askable[0] = False
    assert users.ask(askable) == (1, 2)


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
    assert [len(panel.containers) for panel in asked.axes] == [8, 8]
    top = asked.axes[0].get_ylim()[1]
    assert top > max(max(row["regret"]) for row in results["questions"])
    assert [panel.get_title() for panel in missed.axes] == list(results["quality"])
    assert [panel.get_title() for panel in bounds.axes] == list(results["bounds"])
    headroom, told, cells = (code.figures.DRAWN[part][0](results[part]) for part in ("headroom", "told", "cells"))
    assert [panel.get_title() for panel in headroom.axes] == list(results["headroom"])
    assert [len(panel.lines) for panel in told.axes] == [1 + 2 * (3 + 1)] * 2
    assert [len(panel.lines) for panel in cells.axes] == [2 * 3] * 2


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


def text(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def test_headroom_finds_what_there_is_and_nothing_else(code, results):
    alike, apart = results["headroom"].values()
    assert alike["trials"] == code.features.TRIALS
    assert [row["worthwhile"] for row in alike["rows"]] == [0] * len(code.features.PROMPTS)
    assert all(row["naive"][0] > 0.1 for row in alike["rows"]), "one measurement always claims a gain"
    assert f"0 of {sum(alike['trials'] for _ in alike['rows']):,} trials" in text("studies/between/README.md")
    found = {row["prompts"]: row["worthwhile"] for row in apart["rows"]}
    told = f"in {found[32]} of 200 trials with 32 prompts, in {found[64]} with 64 and in all with 128"
    assert told in text("docs/unseen-preferences.md")
    assert found[128] == apart["trials"]


def test_a_model_that_is_told_follows_less_far_than_a_map(results):
    spans = {}
    for name in ("the best there is", "a map, `gates`", "told in the prompt"):
        spans[name] = np.ptp(np.array(results["told"][name]).mean(0), axis=0).mean()
    best, by_map, by_text = spans.values()
    assert by_text / best == pytest.approx(0.7, abs=0.03)
    assert by_map / best == pytest.approx(0.94, abs=0.03)
    at_zero = {name: np.array(results["told"][name]).mean(0)[[0, -1], [0, 1]] for name in spans}
    told, mapped = (" and ".join(f"{x:.2f}"[1:] for x in at_zero[name]) for name in list(spans)[:0:-1])
    assert f"an objective still has {told} where the map leaves {mapped}" in text("docs/choosing-a-family.md")


def test_children_of_elites_fill_all_cells(code, results):
    grid, lit = (results["cells"][name] for name in ("grid", "illuminate"))
    assert [run["filled"][24] for run in lit] == [code.features.CELLS] * 3
    assert sorted(run["filled"][-1] for run in grid) == [6, 7, 8]
    page = text("docs/explorers.md")
    for runs in (lit, grid):
        scores = [run["quality"] for run in runs]
        assert f"{min(scores):.2f} to {max(scores):.2f}" in page


def test_what_fills_a_cell_and_what_is_its_best(code):
    events = [
        {"event": "evaluation", "values": [[0.2, 0.4, 0.25], [0.6, 0.4, 0.3]]},
        {"event": "step"},
        {"event": "mixtures", "values": [[0.5, 0.5, 1.0]]},
        {"event": "evaluation", "values": [[0.1, 0.1, 1.0]]},
    ]
    assert code.features.filled(events) == {"filled": [2, 2], "elites": {"0": 0.5, "7": 0.5}, "quality": 1.0}
