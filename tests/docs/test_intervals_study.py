"""The study of intervals: its page is made of its results, and the product has what it found best."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[2] / "studies" / "intervals"


@pytest.fixture(scope="module")
def code():
    sys.path.insert(0, str(STUDY))
    try:
        spec = importlib.util.spec_from_file_location("intervals_study", STUDY / "run.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(STUDY))
        sys.modules.pop("methods", None)
    return module


def test_the_page_is_made_of_the_results(code, results):
    assert (STUDY / "README.md").read_text(encoding="utf-8") == code.page(results)


def test_what_was_planned_was_run(code, results):
    assert (results["samples"], tuple(results["sizes"])) == (code.SAMPLES, code.SIZES)
    assert set(results["runs"]) == {f"{name} | {n}" for name in code.REWARDS for n in code.SIZES}


def test_the_products_interval_is_the_narrowest_that_holds_for_bounded_rewards(code, results):
    """Up to three standard errors of a share of 95 % in so many samples."""
    least = 0.95 - 3 * (0.95 * 0.05 / results["samples"]) ** 0.5
    bounded = [results["runs"][f"{name} | {n}"] for name, (_, kind, _) in code.REWARDS.items() if kind
               for n in code.SIZES]  # fmt: skip
    holds = [method for method in code.METHODS if all(row[method][0] >= least for row in bounded)]
    assert "Gaffke" in holds
    for row in bounded:
        assert row["Gaffke"][1] == min(row[method][1] for method in holds)


def test_the_command_runs_and_repeats_itself(code, results, tmp_path):
    assert code.main(["--samples", "20", "--sizes", "3", "8", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["runs"].keys() == {key for key in results["runs"] if key.endswith(("| 3", "| 8"))}
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == code.page(found)
