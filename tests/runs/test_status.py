"""Whoever looks at a run neither changes it nor keeps it from beginning."""

from __future__ import annotations

import json
import math
import threading
import time

import pytest
from aligner_runs import fit
from filelock import FileLock

from pareto_align.errors import FrontFileError
from pareto_align.runs.folder import locked
from pareto_align.runs.status import run_status


def test_an_objective_that_the_untrained_model_has_no_value_for_leaves_the_others_theirs(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal.jsonl").write_text("")
    fit(tmp_path / "real")
    record = (tmp_path / "real" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(record)
    events = [
        {"event": "start", "objectives": ["a", "b"], "reference": [None, 0.25]},
        {"event": "evaluation", "step": 1, "front": [[0.5, 0.75]], "members": 1, "hypervolume": 0.1},
    ]
    events.append({**events[-1], "event": "further", "members": 3, "hypervolume": 0.2})
    (tmp_path / "run" / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    status = run_status(tmp_path / "run")
    assert "hypervolume 0.2" in status.headline(), "a family's further preferences are its last word"
    assert math.isnan(status.untrained[0])
    assert status.untrained[1] == 0.25
    assert "a  0.5 to 0.5" in status.lines()
    assert "b  0.75 to 0.75   untrained 0.25" in status.lines()


def test_a_run_begins_although_somebody_asks_just_then(tmp_path):
    asking = FileLock(tmp_path / ".lock", thread_local=False)
    asking.acquire()
    threading.Timer(0.2, asking.release).start()
    with locked(tmp_path):
        pass
    with FileLock(tmp_path / ".lock"):
        begun = time.monotonic()
        with pytest.raises(FrontFileError, match="Another process is running"), locked(tmp_path):
            pass
        assert time.monotonic() - begun < 10
