"""The study of real models: its page says what its results say, its rewards are what they are called, it runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pareto_align.front.estimates import Estimate

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "real"
MODULES = ("cases", "figure", "page", "run", "runs", "tasks")


def test_the_results_are_of_the_one_setting_and_planned(code, results):
    assert results["setting"] == code.cases.SETTING
    assert set(results["runs"]) <= {case.key for case in code.cases.cases()}


def test_the_page_is_written_from_the_results(code, results):
    assert (STUDY / "README.md").read_text(encoding="utf-8") == code.page.report(results)


def test_no_run_spent_more_than_a_step_over_its_tokens(code, results):
    """The step or measurement that passes the limit ends a run; further preferences and the report come after."""
    setting = results["setting"]
    for run in results["runs"].values():
        training = max((tokens for tokens, _ in run["curve"]), default=0)
        assert training <= setting["max_tokens"] * 1.1


def test_copied_is_the_share_of_words_of_the_question(code):
    prompt = [{"role": "user", "content": "What is a glacier?"}]
    said = ["A glacier is ice", "What is a glacier", "Frozen water.", ""]
    assert code.tasks.copied([prompt] * 4, said) == [0.75, 1.0, 0.0, 1.0]


def test_words_are_added_that_are_not_the_question_s(code):
    asked = [[{"role": "user", "content": "What is a volcano?"}]] * 3
    said = ["A volcano can be.", "It spits hot hot lava", ""]
    assert code.tasks.added(asked, said) == [2.0, 4.0, 0.0]


def test_new_words_are_counted_in_answers_of_three_or_more(code):
    asked = [[{"role": "user", "content": "The baker bought a blue bicycle."}]] * 4
    said = ["The baker bought bread.", "A man got one", "Blue.", "Well well"]
    assert code.tasks.new(asked, said) == [0.25, 0.75, 0.0, 0.0]


def test_other_pages_say_what_the_study_has_of_pairs(code, results):
    pairs, gap, interval = code.page.ahead(results)
    for page in ("README.md", "docs/choosing-a-family.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        told = (
            rf"{pairs}[^.;]*, by {re.escape(gap)} of hypervolume in the mean \({re.escape(interval.replace('+', ''))}"
        )
        assert re.search(rf"ahead (of independent linear policies )?in {told}", text)


def test_the_default_is_ahead_on_the_way_where_the_page_says_so(code, results):
    """By Student's interval of the difference of the areas."""
    for task in ("answers", "sums", "adding"):
        ours, theirs = (code.page.numbers(results, task, method, "area") for method in reversed(code.cases.FIRST))
        seeds = ours.keys() & theirs.keys()
        found = code.runs.spread([ours[seed] - theirs[seed] for seed in seeds])
        assert len(seeds) >= 3
        assert found.mean - found.wide > 0


def test_what_the_page_says_of_the_small_model(code, results):
    text = " ".join((STUDY / "README.md").read_text(encoding="utf-8").split())

    def told(method):
        values = code.page.numbers(results, "adding", method, "hypervolume")
        found = [f"{value:.2f}"[1:] for _, value in sorted(values.items())]
        return f"{', '.join(found[:-1])} and {found[-1]}" if len(found) > 1 else found[0]

    assert f"With 8 ranks they have {told('independent, linear, rank 8')}, where" in text
    assert f"of 32 ranks, has {told('centred, steady')} with the same seeds" in text
    assert f"A quarter of a nat has {told('limited, a quarter: centred, steady')} there" in text
    assert f"has {told('a run each, linear, rank 8')} on `adding` (8 ranks, seed 0" in text


def test_what_other_pages_say_of_ranks_on_the_small_model(code, results):
    text = " ".join((ROOT / "docs" / "choosing-a-family.md").read_text(encoding="utf-8").split())

    def told(method):
        values = code.page.numbers(results, "adding", method, "hypervolume")
        one, two, three = (f"{values[seed]:.2f}"[1:] for seed in range(3))
        return f"{one}, {two} and {three}"

    assert f"8 ranks have {told('independent, linear, rank 8')} where the default's 32 have" in text
    assert f"have {told('centred, steady')}, and a limit" in text
    assert f"gives {told('limited, a quarter: centred, steady')}" in text


def test_a_sum_is_worth_half_for_its_number_and_half_for_being_shown(code):
    said = ["7 + 5 = 12", "7+5=13", "It is 12.", "17 + 5 = 12", "", "12 and 30"]
    found = code.tasks.worked([[{"role": "assistant", "content": text}] for text in said], a=[7] * 6, b=[5] * 6)
    assert found == [1.0, 0.5, 0.5, 0.5, 0.0, 0.0]


def test_users_are_worth_what_the_other_half_of_the_prompts_says(code):
    """Two members at (1, 0) and (0, 1): a linear user with weight w gets max(w, 1 - w), a Chebyshev user 1 - min."""
    ends = [
        Estimate.from_samples(np.tile(value, (4, 1, 1)), prompt_ids=[3, 5, 8, 9]) for value in ([1.0, 0.0], [0.0, 1.0])
    ]
    w = np.arange(21) / 20
    found = code.cases.worth(ends, [0, 1])
    assert found["linear"] == pytest.approx(np.maximum(w, 1 - w).mean(), abs=1e-4)
    assert found["chebyshev"] == pytest.approx((1 - np.minimum(w, 1 - w)).mean(), abs=1e-4)
    assert code.cases.worth([], [0, 1]) == {"linear": 0.0, "chebyshev": 0.0}


def test_a_run_is_measured(code):
    found = code.cases.measure(code.cases.Case("adding", "centred, linear", 0), code.cases.SMOKE)
    low, high = found["hypervolume"][1:]
    assert 0 <= low <= found["hypervolume"][0] <= high <= 1
    assert found["rollouts"] > 0
    assert len(found["values"]) == len(found["samples"]) == len(found["stderr"])
    assert [tokens for tokens, _ in found["curve"]] == sorted(tokens for tokens, _ in found["curve"])


def test_runs_of_their_own_are_taken_together(code):
    found = code.cases.measure(code.cases.Case("adding", "a run each, linear, rank 8", 0), code.cases.SMOKE)
    alone = code.cases.measure(code.cases.Case("adding", "independent, linear, rank 8", 0), code.cases.SMOKE)
    assert found["untrained"] == alone["untrained"], "measured on the same prompts"
    assert len(found["preferences"]) == len(found["values"]) == len(found["samples"]) >= 8
    assert found["tokens"] > 2 * alone["tokens"]
    assert 0 <= found["hypervolume"][1] <= found["hypervolume"][0] <= found["hypervolume"][2] <= 1


def test_the_area_under_a_curve(code):
    """From .1 to .5 in 10 tokens, and there until 20; what was measured later than that does not count."""
    run = {"untrained": [0.1, 0.0, 0.2], "curve": [[5, 0.2], [5, 0.3], [10, 0.5]]}
    assert code.figure.curve(run).tolist() == [[0, 0.1], [5, 0.3], [10, 0.5]]
    assert code.figure.area(run, 10) == pytest.approx(0.3)
    assert code.figure.area(run, 20) == pytest.approx(0.4)
    assert code.figure.area(run, 5) == pytest.approx(0.2)


def test_the_figure_has_a_panel_a_task_and_a_curve_a_run(code, results):
    panels = code.figure.draw(results).axes
    assert [axes.get_title(loc="left") for axes in panels] == list(code.cases.TRADED)
    for axes in panels:
        runs = [
            key
            for key in results["runs"]
            if key.rsplit("/", 1)[0] in {f"{axes.get_title(loc='left')}/{method}" for method in code.cases.FIRST}
        ]
        assert len(axes.lines) == 2 * len(runs), "the curve, and what the report says"


def test_what_is_planned(code):
    """The two methods that the verdict is about with five seeds; every method on `tone`; nothing twice."""
    cases = list(code.cases.cases())
    assert len(cases) == len(set(cases))
    first = [case for case in cases if case.method in code.cases.FIRST and case.task in code.cases.TRADED]
    assert len(first) == 2 * 6 * 5
    assert {case.method for case in cases if case.task == "tone" and case.seed == 0} == set(code.cases.METHODS)
    assert {case.task for case in cases} == set(code.tasks.TASKS)


def test_every_task_but_the_small_one_says_which_model(code):
    for name, task in code.tasks.TASKS.items():
        if name != "adding":
            made = task()
            assert made.model == code.tasks.SMOLLM
            assert len(made.prompts()) > 2 * code.cases.SETTING["eval_prompts"] + 50


def test_the_command_keeps_what_it_ran_and_does_not_repeat_it(code, tmp_path, capsys, monkeypatch):
    calls = []
    run = {"hypervolume": [0.5, 0.4, 0.6], "values": [[0.5, 0.5]]}
    monkeypatch.setattr(code.run, "measure", lambda case, setting: calls.append(case) or run)
    arguments = ["--smoke", "--results", str(tmp_path / "r.json"), "--tasks", "tone", "--seeds", "0"]
    assert code.run.main(arguments) == 0
    assert code.run.main(arguments) == 0
    assert len(calls) == len(code.cases.METHODS)
    assert "tone/blocks, linear/0" in capsys.readouterr().out


def test_two_commands_fill_one_file(code, tmp_path):
    """What the other one keeps meanwhile is not measured again, and not lost."""
    file, cases = tmp_path / "r.json", code.cases.cases([0], ["soups", "discover"], ["tone"])
    first, second = sorted(cases, key=lambda case: case.key)
    results, calls = code.runs.read(file, {}), []

    def measure(case):
        calls.append(case.key)
        other = code.runs.read(file, {})
        other["runs"][second.key] = {"of": "the other"}
        code.runs.write(file, other, [first.key, second.key])
        return {"of": "this one"}

    planned = [first.key, second.key]
    code.runs.fill(results, [first, second], measure, told=str, file=file, planned=planned)
    assert calls == [first.key]
    kept = code.runs.read(file, {})["runs"]
    assert kept == {first.key: {"of": "this one"}, second.key: {"of": "the other"}}
