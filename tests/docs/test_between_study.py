"""The study of what lies between adapters: pages say what its results say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "between"


@pytest.fixture(scope="module")
def results():
    return json.loads((STUDY / "results.json").read_text(encoding="utf-8"))


def test_the_table_of_questions_is_the_study_s(results, monkeypatch):
    monkeypatch.syspath_prepend(STUDY)
    monkeypatch.delitem(sys.modules, "questions", raising=False)
    import questions

    known = [{name: row[name] for name in questions.ROWS[0]} for row in results["questions"]]
    assert known == questions.ROWS
    assert {row["users"] for row in results["questions"]} == {questions.USERS}
    assert questions.table(results["questions"]) in (ROOT / "docs" / "eliciting.md").read_text(encoding="utf-8")


def test_the_table_of_fronts_is_the_study_s(results):
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    for front, found in results["quality"].items():
        cells = [f"{x['median']:.3f} ({x['min']:.3f} to {x['max']:.3f})" for x in found["missed"].values()]
        assert f"| {front} | {' | '.join(cells)} |" in page
