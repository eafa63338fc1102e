"""`runs` and `watch`: how runs stand, told from their folders alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from pareto_align.cli import main
from pareto_align.cli.following import _plain
from pareto_align.errors import FrontFileError
from pareto_align.runs.pace import sparkline
from pareto_align.runs.status import run_status, runs_in

FIXTURE = Path(__file__).parents[1] / "fixtures" / "front-v1"


def run_folder(path: Path, *events: dict) -> Path:
    shutil.copytree(FIXTURE, path)
    if events:
        (path / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


START = {"event": "start", "time": 100.0, "objectives": ["a", "b"], "reference": [0.2, 0.3]}
STEPS = [{"event": "step", "step": s, "time": 100.0 + 10 * s} for s in (1, 2, 3)]
FOUND = {
    "event": "evaluation", "step": 3, "time": 131.0, "hypervolume": 0.5, "hypervolume_low": 0.4,
    "hypervolume_high": 0.6, "members": 2, "front": [[0.1, 0.9], [0.8, 0.2]], "open_verdicts": 3,
}  # fmt: skip


def test_each_state_is_told_apart(tmp_path):
    assert run_status(run_folder(tmp_path / "ended")).state == "ended"
    killed = run_folder(tmp_path / "killed", START, *STEPS)
    assert run_status(killed).state == "killed"
    assert f"`pareto-align resume {killed}` goes on" in run_status(killed).headline()
    stopped = run_folder(tmp_path / "stopped", START, *STEPS, {"event": "stopped", "step": 3, "error": "It broke."})
    assert run_status(stopped).state == "stopped"
    assert "It broke." in run_status(stopped).lines()
    assert _plain(run_status(stopped))[1:] == ["It broke."]  # in a log as well
    ctrl_c = {"event": "stopped", "step": 3, "error": "KeyboardInterrupt: "}
    assert run_status(run_folder(tmp_path / "by hand", START, *STEPS, ctrl_c)).notes == ("interrupted",)
    shutil.rmtree(tmp_path / "by hand")
    with FileLock(killed / ".lock"):
        assert run_status(killed).state == "running"
    (tmp_path / "new").mkdir()
    with FileLock(tmp_path / "new" / ".lock"):
        assert run_status(tmp_path / "new").state == "starting"
    with pytest.raises(FrontFileError, match="holds no run"):
        run_status(tmp_path / "new")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    states = {status.folder.name: status.state for status in runs_in(tmp_path)}
    assert states == {"broken": "damaged", "ended": "ended", "killed": "killed", "stopped": "stopped"}


def test_a_screen_says_what_is_known(tmp_path):
    folder = run_folder(
        tmp_path / "run", START, *STEPS, FOUND, {"event": "stalled", "policy": 1, "step": 3, "action": "left"}
    )
    with FileLock(folder / ".lock"):
        status = run_status(folder)
    assert (status.state, status.step, status.steps) == ("running", 3, 6)
    assert status.lines()[1:] == [
        "a  0.1 to 0.8   untrained 0.2", "b  0.2 to 0.9   untrained 0.3",
        "3 verdicts are open: more prompts would settle them",
        "policy 1 stalled at step 3: left",
    ]  # fmt: skip
    again = run_folder(tmp_path / "again", START, *STEPS, FOUND)
    assert run_status(again).left == pytest.approx(31.0)  # 3 of 6 steps took 31 seconds, the measurement included
    assert sparkline([0.0, 0.5, float("nan"), 1.0]) == "▁▅ █"
    assert sparkline([]) == ""


def test_a_screen_ends_with_what_the_front_answers_to_one_prompt(tmp_path, cli, monkeypatch):
    folder = run_folder(tmp_path / "run")
    members = json.loads((folder / "front" / "front.json").read_text())["members"]
    monkeypatch.setenv("COLUMNS", "40")
    asked, *lines = cli("watch", folder, "--once").out.splitlines()[-len(members) - 1 :]
    assert asked == f"asked: {members[0]['sample'][0]['prompt']}"
    assert [line.split()[0] for line in lines] == [member["id"] for member in members]
    for line, member in zip(lines, members, strict=True):
        assert len(line) <= 40
        assert " ".join(member["sample"][0]["completion"].split()).startswith(line.split(maxsplit=1)[1].rstrip("…"))
    shutil.rmtree(folder / "front")
    assert len(cli("watch", folder, "--once").out.splitlines()) == 2, "what was not measured yet has no answers"


def test_runs_are_listed(tmp_path, cli):
    run_folder(tmp_path / "first")
    run_folder(tmp_path / "second", START, *STEPS, FOUND)
    (tmp_path / "other").mkdir()
    lines = cli("runs", tmp_path).out.splitlines()
    assert lines[0].startswith("first: ended, step 6 of 6, hypervolume 0.069 (0.047 to 0.094) on report prompts, 4")
    assert lines[1].startswith(
        "second: killed, step 3 of 6, hypervolume 0.500 (0.400 to 0.600) on select prompts, 2 members, `pareto-align"
    )
    told = cli("runs", tmp_path, "--json").json()
    assert [(run["state"], run["split"]) for run in told] == [("ended", "report"), ("killed", "select")]
    assert cli("runs", tmp_path / "other").code == 2
    assert "There is no folder" in cli("runs", tmp_path / "none").err


def test_what_is_no_run_is_said_with_2(tmp_path, cli):
    (tmp_path / "empty").mkdir()
    found = cli("watch", tmp_path / "empty")
    assert (found.code, "holds no run" in found.err) == (2, True)
    assert cli("watch", tmp_path / "none", "--once").code == 2
    assert cli("watch", tmp_path / "none", "--every", "0").code == 2
    ended = cli("watch", run_folder(tmp_path / "run") / "front")
    assert (ended.code, ended.out.count("\n")) == (0, 1)
    assert ended.out == cli("runs", tmp_path).out.splitlines(keepends=True)[-1]  # both tell of the report
    assert cli("watch", tmp_path / "run", "--json").json()["state"] == "ended"


def test_a_run_is_followed_from_before_it_begins_through_a_kill_to_its_end(tmp_path):
    """The watcher is started first, sees the run killed and go on, and ends with it."""
    folder = tmp_path / "run"
    code = "import sys; from pareto_align.cli import main; sys.exit(main())"
    watcher = subprocess.Popen(
        [sys.executable, "-c", code, "watch", str(folder), "--every", "0.1"], stdout=subprocess.PIPE, text=True
    )
    try:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(watcher.stdout), daemon=True)  # type: ignore[arg-type]
        reader.start()

        def seen(text: str) -> None:
            until = time.monotonic() + 60
            while not any(text in line for line in lines):
                assert time.monotonic() < until, (text, lines)
                time.sleep(0.05)

        seen("waiting for a run")
        shutil.copytree(FIXTURE, tmp_path / "made")
        (tmp_path / "made" / "journal.jsonl").write_text(json.dumps(START) + "\n")
        (tmp_path / "made").rename(folder)
        seen("run: killed, step 0 of 6")
        with FileLock(folder / ".lock"):
            seen("run: running, step 0 of 6")
            with (folder / "journal.jsonl").open("a") as journal:
                journal.write("".join(json.dumps(event) + "\n" for event in (*STEPS, FOUND)))
            seen("run: running, step 3 of 6, hypervolume 0.500")
            with (folder / "journal.jsonl").open("a") as journal:
                journal.write(json.dumps({"event": "end", "step": 6}) + "\n")
        seen("run: ended")
        assert watcher.wait(timeout=30) == 0
    finally:
        watcher.kill()
        watcher.wait()


def test_interrupting_the_watcher_changes_nothing(tmp_path):
    folder = run_folder(tmp_path / "run", START, *STEPS)

    def digests() -> dict[str, str]:
        return {
            p.name: hashlib.sha256(p.read_bytes()).hexdigest()
            for p in folder.iterdir()
            if p.is_file() and p.name != ".lock"
        }

    before = digests()
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert main(["watch", str(folder), "--every", "0.1"]) == 130
    assert digests() == before
