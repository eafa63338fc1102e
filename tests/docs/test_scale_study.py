"""The study of scale: its page is what its results say, the bounds hold, and its command runs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[2] / "studies" / "scale"


@pytest.fixture(scope="module")
def results():
    return json.loads((STUDY / "results.json").read_text(encoding="utf-8"))


def test_the_page_is_what_the_results_say(results):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        patch.delitem(sys.modules, "run", raising=False)  # another study has a module of that name
        page = importlib.import_module("run").page(results)
        del sys.modules["run"]
    again = "run `python studies/scale/run.py --page`"
    assert (STUDY / "README.md").read_text(encoding="utf-8") == page, again


def test_what_was_measured_is_within_the_bounds_that_the_page_promises(results):
    measured = results["measured"]
    assert measured["overhead"][0]["share"] <= 0.02
    assert measured["driver"][0]["weighting"] == "chebyshev"
    assert measured["driver"][0]["work_ms"] <= 5.0
    assert [(row["kind"], row["seed"]) for row in measured["killed"]] == [
        (kind, seed) for kind in ("independent", "family") for seed in range(10)
    ]
    assert all(row["same"] for row in measured["killed"])
    overlap = measured["overlap"]
    assert overlap[0]["share"] <= 0.6
    assert all(row["same"] == (row["mode"] == "exact") for row in overlap)
    for row in measured.get("pace", []):
        assert row["efficiency"] >= 0.85 or row["load"] >= 2.5, "taken on a machine that was busy"


def test_the_command_runs():
    found = subprocess.run(
        [sys.executable, "run.py", "--smoke", "--only", "overhead", "simulation"],
        cwd=STUDY, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("overhead\n")
    assert "\nsimulation\n" in found.stdout
