"""The study of families: its page says what its results say, and its command runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "families"
MODULES = ("cases", "page", "run", "runs", "why")


def test_the_results_are_of_the_one_setting_and_planned(code, results):
    assert results["setting"] == code.cases.SETTING
    assert set(results["runs"]) <= {case.key for case in code.cases.cases()}
    assert set(results["runs"]) >= {case.key for case in code.cases.cases(seeds=(0,))}, "a whole seed at the least"


def test_the_page_is_written_from_the_results(code, results):
    assert (STUDY / "README.md").read_text(encoding="utf-8") == code.page.report(results)


def test_all_methods_of_a_problem_had_the_same_rollouts(code, results):
    """Tokens may differ where answers end by themselves; here every answer has the same length."""
    for problem in ("flat", "tilt", "bow", "arc"):
        assert len({run["tokens"] for key, run in results["runs"].items() if key.startswith(f"{problem}/")}) == 1


def test_what_the_page_says_in_words(code, results):
    """Linear weights end in the corners of a straight front but miss nothing; unseen preferences need a family."""

    def mean(problem, method, what):
        return float(np.mean(code.page.numbers(results, problem, method, what)))

    assert mean("flat", "centred, linear", "ratio") < 0.3
    assert mean("flat", "centred, linear", "own") < 0.01
    assert mean("flat", "the default", "ratio") > 0.9
    assert min(mean(problem, "the default", "front_ratio") for problem in ("tilt", "bow", "arc")) > 0.93
    for problem in ("contexts-3", "many"):
        nearest = mean(problem, "independent, linear", "unseen")
        assert mean(problem, "blocks, linear", "unseen") < nearest / 2
        assert mean(problem, "centred, linear", "unseen") < nearest / 2
    assert mean("bow", "centred, chebyshev", "ratio") > mean("bow", "blocks, chebyshev", "ratio")


def test_unseen_preferences_over_five_seeds(code, results):
    found = {}
    for problem in code.cases.PRICED:
        for method in ("centred, linear", "independent, linear"):
            values = code.page.numbers(results, problem, method, "unseen")
            assert len(values) == len(code.cases.SEEDS)
            found[problem, method] = f"{np.mean(values):.3f}"[1:]
    two, three, five, strings = code.cases.PRICED
    told = " ".join((STUDY / "README.md").read_text(encoding="utf-8").split())
    ours = [found[problem, "centred, linear"] for problem in (two, three, five)]
    nearest = [found[problem, "independent, linear"] for problem in (two, three, five)]
    assert f"{ours[0]} of the gain with two objectives, {ours[1]} with three and {ours[2]} with five" in told
    assert f"policies misses {nearest[0]}, {nearest[1]} and {nearest[2]};" in told
    assert f"`strings` it is {found[strings, 'centred, linear']} for {found[strings, 'independent, linear']}." in told
    assert float(ours[0]) <= 0.03
    assert all(float(one) <= float(other) / 2 for one, other in zip(ours[1:], nearest[1:], strict=True))


def test_what_the_page_says_of_why_sharing_helps(code):
    why = code.runs.read(STUDY / "why.json", code.cases.SETTING)
    assert set(why["runs"]) <= {case.key for case in code.why.cases()}
    assert set(why["runs"]) >= {case.key for case in code.why.cases(seeds=(0,))}, "a whole seed at the least"

    def mean(variant, what="own"):
        return float(np.mean(code.page.varied(why, variant, what)))

    assert mean("family, answers 8") < mean("independent, answers 8")
    assert mean("family, answers 128") > mean("independent, answers 128")
    assert mean("independent, K 16") > 1.5 * mean("independent, as it is")
    assert mean("family, K 16") < 1.5 * mean("family, as it is")
    for steps in (10, 25, 50):
        assert mean(f"family, steps {steps}") > mean(f"independent, steps {steps}")
    assert mean("family, steps 200") < mean("independent, steps 200")
    assert mean("family, rate 0.006") < mean("family, as it is")
    assert mean("independent, rate 0.006") > mean("independent, as it is")
    assert mean("family, nothing shared") > 5 * mean("family, as it is")
    assert mean("family, preferences that stay", "unseen") > 2 * mean("family, as it is", "unseen")
    for each in ("answers", "steps"):
        assert mean(f"independent, all {each} each") < mean("family, as it is")


def test_a_variant_is_measured(code):
    found = code.why.measure(code.why.Case("family, preferences that stay", 0), code.cases.SMOKE)
    assert np.isfinite([found["own"], found["unseen"]]).all()


@pytest.mark.parametrize("method", ["independent, linear", "centred, chebyshev"])
def test_a_run_is_measured(code, method):
    found = code.cases.measure(code.cases.Case("tilt", method, 0), code.cases.SMOKE)
    assert 0 <= found["ratio"] <= 1.001
    assert np.isfinite([found["own"], found["unseen"], found["worst"]]).all()
    assert found["members"] >= 1


def test_the_command_keeps_what_it_ran_and_does_not_repeat_it(code, tmp_path, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(code.run, "measure", lambda case, setting: calls.append(case) or {"ratio": 0.5, "unseen": 0.1})
    arguments = ["--smoke", "--results", str(tmp_path / "r.json"), "--problems", "flat", "--seeds", "0"]
    assert code.run.main(arguments) == 0
    assert code.run.main(arguments) == 0
    assert len(calls) == len(code.cases.METHODS)
    assert "flat/blocks, linear/0" in capsys.readouterr().out
