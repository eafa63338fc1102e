"""The study of tuning: its page says what its results say, and its command runs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

STUDY = Path(__file__).parents[2] / "studies" / "tuning"


@pytest.fixture(scope="module")
def code():
    spec = importlib.util.spec_from_file_location("tuning_study", STUDY / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_of_the_results(code, results):
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    for line in (*code.table(results), *code.verdicts(results)):
        assert f"{line}\n" in page


def test_the_results_are_of_the_setting_and_what_was_planned(code, results):
    assert results["setting"] == code.SETTING
    for engine in ("optuna", "sobol"):
        found = results[engine]
        assert found["engine"] == engine
        assert len(found["trials"]) == code.SWEEP["trials"]
        assert found["seeds"] == list(code.SWEEP["seeds"])
        assert found["confirm_seeds"] == list(code.SWEEP["confirm_seeds"])
        assert found["best"]["score"] == max(t["score"] for t in found["trials"] if t["status"] == "finished")
        for trial in found["trials"]:
            assert trial["score"] == pytest.approx(np.mean([run["hypervolume"] for run in trial["runs"]]))
        compared = found["comparison"]
        interval = stats.ttest_rel(compared["tuned"], compared["default"]).confidence_interval(0.95)
        assert [compared["low"], compared["high"]] == pytest.approx(list(interval))


def test_the_command_runs(code, tmp_path, capsys):
    assert code.main(["--smoke", "--results", str(tmp_path / "results.json")]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    out = capsys.readouterr().out
    for line in (*code.table(found), *code.verdicts(found)):
        assert line in out
