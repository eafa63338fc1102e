"""The study of scale: its page is what its results say, the bounds hold, and its command runs."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from amount import ALL

STUDY = Path(__file__).parents[2] / "studies" / "scale"


@pytest.fixture(scope="module")
def results():
    return json.loads((STUDY / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def study():
    """Its command as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        patch.delitem(sys.modules, "run", raising=False)  # another study has a module of that name
        yield importlib.import_module("run")
        del sys.modules["run"]


def test_the_page_is_what_the_results_say(study, results):
    page = study.page(results)
    again = "run `python studies/scale/run.py --page`"
    assert (STUDY / "README.md").read_text(encoding="utf-8") == page, again


def test_what_was_measured_is_within_the_bounds_that_the_page_promises(study, results):
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
    computing = measured["computing"]
    assert computing[0]["share"] <= 0.6
    assert all(row["same"] for row in computing)
    for row in filter(study.quiet, measured["pace"]):
        assert row["efficiency"] >= 0.85 or row["workers"] > 2
        assert row["simulated_s"] is None or 0.85 <= row["s"] / row["simulated_s"] <= 1.15


@pytest.mark.parametrize(
    ("workers", "cores", "step"),
    [(1, 2, 4 * 4 + 2), (2, 2, 2 * 4 + 2), (4, 4, 4 + 2), (4, 2, 2 * 4 + 2), (4, 3, 4 / 3 * 4 + 2)],
)
def test_without_chance_the_simulated_step_is_the_work_over_the_cores_and_the_drivers_part(study, workers, cores, step):
    """Four shards of four seconds, and half a second of the driver for each."""
    chance = {"jitter": 0.0, "spread": 0.0, "slow": 0.0, "hours": math.inf}
    parts = {"sample": 3.0, "judge": 0.0, "train": 1.0, "measure": 0.0, "message": 0.5, "offer": 0.0}
    simulation = sys.modules["simulation"]
    found = simulation.seconds(workers, simulation.Assumed(**parts, **chance), shards=4, cores=cores, steps=6)
    assert found == pytest.approx(step)


PARTS = [["overhead", "simulation"], ["overlap", "computing"], ["driver", "pace"], ["killed"]]
NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="workers of Ray")


@pytest.mark.parametrize(
    "parts", [*PARTS[:2], *(pytest.param(one, marks=NEEDS_RAY) for one in PARTS[2:])] if ALL else PARTS[:1]
)
def test_the_command_runs(parts):
    """With PARETO_ALIGN_ALL_TESTS each of its parts."""
    found = subprocess.run(
        [sys.executable, "run.py", "--smoke", "--only", *parts],
        cwd=STUDY, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    said = found.stdout.splitlines()
    assert [line for line in said if line in parts] == parts
    assert not any("'same': False" in line and "'mode': 'bounded'" not in line for line in said)
