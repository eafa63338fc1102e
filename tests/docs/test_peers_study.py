"""The study of peers says what its results say, and its command measures both sides alike."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "peers"
MODULES = ("run", "runs", "cases", "tasks")


def test_the_page_has_its_table(code, results):
    assert results["setting"] == code.run.SETTING
    assert set(results["runs"]) <= {case.key for case in code.run.cases()}
    assert code.run.table(results) in (STUDY / "README.md").read_text(encoding="utf-8")


def test_a_row_is_written_where_all_its_runs_are_in(code):
    run = {"seconds": 60.0, "rollouts": 10, "values": [[0.5, 0.5]]}
    told = code.run.table({"runs": {"family/0": run, "trl 1/0": run | {"values": [[1.0, 0.1]]}}})
    assert "| one family, `centred, linear` | 0.250 | 60 | 15.00 | 10 | (0.50, 0.50) |" in told
    assert "| five runs of TRL's GRPOTrainer | — (1 of 5 runs are in) |" in told


def test_the_command_keeps_what_it_ran_and_does_not_repeat_it(code, tmp_path, monkeypatch):
    calls = []
    told = {"seconds": 1.0, "rollouts": 2, "values": [[0.5, 0.5]]}
    monkeypatch.setattr(code.run, "measure", lambda case, setting: calls.append(case.key) or told)
    arguments = ["--smoke", "--results", str(tmp_path / "r.json"), "--methods", "trl 0.5", "family"]
    assert code.run.main(arguments) == 0
    assert code.run.main(arguments) == 0
    assert calls == ["family/0", "trl 0.5/0"]


def test_all_sides_had_as_many_rollouts(code, results):
    runs = results["runs"]
    by_trl = [runs[f"trl {weight:g}/0"]["rollouts"] for weight in code.run.WEIGHTS]
    assert sum(by_trl) == runs["family/0"]["rollouts"] == code.run.SETTING["steps"] * 12
