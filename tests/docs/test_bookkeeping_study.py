"""The study of the bookkeeping: its page is what its results say, the bounds hold, and its command runs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[2] / "studies" / "bookkeeping"


@pytest.fixture(scope="module")
def results():
    return json.loads((STUDY / "results.json").read_text(encoding="utf-8"))["measured"]


def test_the_page_is_what_the_results_say():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        patch.delitem(sys.modules, "run", raising=False)  # another study has a module of that name
        run = importlib.import_module("run")
        page = run.page(json.loads((STUDY / "results.json").read_text(encoding="utf-8")))
        del sys.modules["run"]
    again = "run `python studies/bookkeeping/run.py --page`"
    assert (STUDY / "README.md").read_text(encoding="utf-8") == page, again


def test_what_was_measured_is_within_the_bounds_that_the_page_promises(results):
    for m in (2, 8):
        rows = [row for row in results["archive"] if row["m"] == m]
        assert rows[-1]["entries"] == 10_000
        assert next(row for row in rows if row["entries"] == 4000)["ms"] <= 2.0
        assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    widest = results["front"][-1]
    assert widest["members"] == 500
    assert max(widest["select_s"], widest["print_s"]) < 1.0
    assert widest["plot_s"] < 5.0
    assert results["journal"][-1]["lines"] == 100_000
    assert results["fits"][-1]["fits"] == 200
    assert results["fits"][-1]["resident_mib"] < 1.05 * results["fits"][0]["resident_mib"]


@pytest.mark.parametrize("part", ["archive", "journal", "front"])
def test_the_command_runs(part):
    found = subprocess.run(
        [sys.executable, "run.py", "--smoke", "--only", part], cwd=STUDY, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"{part}\n")
