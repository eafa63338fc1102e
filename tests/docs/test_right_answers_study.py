"""The study of right answers says what its results say, and its command runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "right_answers"
MODULES = ("run", "runs", "task")


def test_all_runs_of_the_plan_are_there(code, results):
    assert results["setting"] == code.run.SETTING
    assert set(results["runs"]) == {case.key for case in code.run.cases()}
    assert {run["rollouts"] for run in results["runs"].values()} == {40 * 64}


def test_what_is_claimed_is_in_the_results(code, results):
    drpo, summed = (code.run.of(results, method) for method in ("drpo", "centred"))
    lost = [place for one, other in zip(drpo, summed, strict=True) for place in code.run.beaten(one, other)]
    assert np.mean(lost) > 0.9
    every = [
        min(run["accuracy"])
        for method in code.run.METHODS
        if not code.run.summed(method)
        for run in code.run.of(results, method)
    ]
    assert min(every) > 0.7
    assert np.mean([run["accuracy"][-1] for run in summed]) < 0.35


def test_the_draw_is_in_the_results(code, results):
    """Four policies against four, five seeds."""
    page = " ".join((STUDY / "README.md").read_text(encoding="utf-8").split())

    def beats(one: str, other: str) -> int:
        return sum(
            sum(code.run.beaten(theirs, ours))
            for ours, theirs in zip(code.run.of(results, one), code.run.of(results, other), strict=True)
        )

    found = {}
    for method in ("drpo, by token", "drpo, by token, ranked"):
        found[method] = beats(method, "centred, four"), beats("centred, four", method)
    (won, lost), (ranked_won, ranked_lost) = found.values()
    assert f"it beats {won} of the 20 policies of the four sums (four, five seeds) and {lost} of its own 20" in page
    assert f"ranked as well, {ranked_won} and {ranked_lost}." in page
    runs = zip(code.run.of(results, "centred"), code.run.of(results, "drpo, by token, ranked"), strict=True)
    middle = [code.run.beaten(one, other)[place] for one, other in runs for place in (4, 5)]
    assert sum(middle) == 1


def test_the_page_has_its_table(code, results):
    assert code.run.table(results) in (STUDY / "README.md").read_text(encoding="utf-8")


def test_who_is_beaten(code):
    one = {"accuracy": [0.9, 0.8], "tokens": [10.0, 5.0]}
    assert code.run.beaten(one, {"accuracy": [0.895, 0.9], "tokens": [10.0, 11.0]}) == [True, False]
    assert code.run.beaten(one, {"accuracy": [0.85], "tokens": [4.0]}) == [False, True]


def test_a_run_is_measured_and_not_repeated(code, tmp_path):
    arguments = ["--smoke", "--results", str(tmp_path / "r.json"), "--methods", "drpo", "--seeds", "0"]
    assert code.run.main(arguments) == 0
    kept = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert code.run.main(arguments) == 0
    assert (tmp_path / "r.json").read_text(encoding="utf-8") == kept
    assert '"drpo/0"' in kept
