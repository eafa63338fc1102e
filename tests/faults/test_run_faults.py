"""A run whose disk refuses, whose clock goes backwards, or whose folder another process works in."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
import warnings

import pytest
from aligner_runs import PROBLEM, events, make

from pareto_align import FrontFileError, ParetoAlignWarning, ParetoFront
from pareto_align.runs.journal import scan_journal

TINY = {"steps": 2, "eval_every": 1, "population": 2, "remeasure_rounds": 0}


def contents(run):
    front = run / "front"
    return {path.relative_to(front): path.read_bytes() for path in sorted(front.rglob("*")) if path.is_file()}


def fit(run, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        return make(output_dir=run, **TINY, **more).fit(list(PROBLEM.prompts))


def resume(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        return make(**TINY).resume(run)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    fit(run)
    return contents(run)


class FullDisk:
    """From the k-th call on that makes something last, the disk has no space."""

    CALLS = ("fsync", "replace", "rename")

    def __init__(self, monkeypatch, k):
        self.count, self.k = 0, k
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._limited(getattr(os, name)))

    def _limited(self, original):
        def call(*args, **more):
            self.count += 1
            if self.count > self.k:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **more)

        return call


@pytest.mark.parametrize("first", range(4))
def test_wherever_a_run_fills_the_disk_it_says_so_and_goes_on_with_space(first, undisturbed, tmp_path, monkeypatch):
    """In every place, a quarter of them here: the error is ours, the front loads, and nothing that counted is lost."""
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, 10**9)
        fit(tmp_path / "all")
        places = disk.count
    assert places > 40
    begun = 0
    for k in range(first, places, 4):
        run = tmp_path / str(k)
        with monkeypatch.context() as patch:
            FullDisk(patch, k)
            with pytest.raises(FrontFileError, match="No space left"):
                fit(run)
        assert scan_journal(run / "journal.jsonl")[1] == [], "half an event was taken back"
        if (run / "front" / "front.json").exists():
            ParetoFront.load(run)
        if (run / "run.json").exists():
            begun += 1
            resume(run)
        else:  # nothing had begun: the folder is as good as new
            fit(run)
        assert contents(run) == undisturbed, k
    assert begun > places // 8


def test_a_clock_that_goes_backwards_changes_nothing(undisturbed, tmp_path, monkeypatch):
    now = [2e9]

    def backwards():
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr("pareto_align.runs.journal.time.time", backwards)
    run = tmp_path / "run"

    def stop(event):
        if event["event"] == "step" and event["step"] == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fit(run, callbacks=[stop], max_seconds=1000.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(**TINY, max_seconds=1000.0).resume(run)
    told = events(run)
    assert [e["time"] for e in told] == sorted((e["time"] for e in told), reverse=True)
    assert events(run, "end")[0]["seconds"] >= 0
    found, kept = contents(run), dict(undisturbed)
    for files in (found, kept):  # the settings say that there was a limit
        record = json.loads(files.pop(next(path for path in files if path.name == "front.json")))
        assert record["config"].pop("max_seconds") in (None, 1000.0)
        files["record"] = {name: value for name, value in record.items() if name != "sha256"}
        files.pop(next(path for path in files if str(path) == "README.md"))
    assert found == kept


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_second_process_is_refused_and_a_dead_one_holds_nobody_up(undisturbed, tmp_path):
    run, ready = tmp_path / "run", tmp_path / "ready"

    def hold(event):
        if event["event"] == "step" and event["step"] == 2:
            ready.touch()
            time.sleep(600)

    child = os.fork()
    if child == 0:
        try:
            fit(run, callbacks=[hold])
        finally:
            os._exit(1)
    try:
        while not ready.exists():
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child ended too early"
            time.sleep(0.05)
        before = (run / "journal.jsonl").read_bytes()
        with pytest.raises(FrontFileError, match="Another process is running in"):
            resume(run)
        assert (run / "journal.jsonl").read_bytes() == before
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (run / ".lock").exists()
    resume(run)
    assert contents(run) == undisturbed
