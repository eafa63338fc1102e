"""The study of audited weights supports what is claimed, its pages say what its results say, and its command runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "bilevel"
MODULES = ("run", "runs")


def runs_of(code, results, problem, method):
    return [results["runs"][f"{problem}/{method}/{seed}"] for seed in code.run.SEEDS]


def test_all_runs_of_the_plan_are_there(code, results):
    assert results["setting"] == code.run.SETTING
    assert set(results["runs"]) == {case.key for case in code.run.cases()}


def test_it_reaches_nearly_what_the_best_fixed_weights_do(code, results):
    shares = [code.run.share(run) for run in runs_of(code, results, "misleading", "covariance")]
    assert min(shares) >= 0.95
    even = runs_of(code, results, "misleading", "even")
    for learned, fixed in zip(runs_of(code, results, "misleading", "covariance"), even, strict=True):
        assert learned["wanted"] >= fixed["wanted"] - 0.02


def test_it_never_harms_where_both_proxies_do(code, results):
    for run in runs_of(code, results, "hacked", "box"):
        assert run["wanted"] >= run["reference"] - 0.02 * abs(run["reference"])
    assert np.mean([run["wanted"] for run in runs_of(code, results, "hacked", "even")]) < -0.4


def test_the_pages_have_its_table(code, results):
    table = code.run.table(results)
    assert table in (STUDY / "README.md").read_text(encoding="utf-8")
    assert table in (ROOT / "docs" / "weightings" / "bilevel.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", [("misleading", "paired", 0), ("misleading", "gramian", 0), ("hacked", "box", 0)])
def test_a_run_is_measured(code, case):
    found = code.run.measure(code.run.Case(*case), code.run.SMOKE)
    assert found["single"] <= found["best"] + 1e-9
    assert np.isfinite(found["wanted"])


def test_the_command_keeps_what_it_ran_and_does_not_repeat_it(code, tmp_path, monkeypatch):
    calls = []
    told = {"wanted": 0.5, "reference": 0.1, "best": 0.6}
    monkeypatch.setattr(code.run, "measure", lambda case, setting: calls.append(case) or told)
    arguments = ["--smoke", "--results", str(tmp_path / "r.json"), "--methods", "even", "--seeds", "0"]
    assert code.run.main(arguments) == 0
    assert code.run.main(arguments) == 0
    assert len(calls) == 2
