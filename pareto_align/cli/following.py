"""The commands that follow runs from outside: `runs` lists them, `watch` looks at one until it ends."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pareto_align.cli.output import print_json, say
from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.front.files import stamp_of
from pareto_align.front.reading import read_front_json
from pareto_align.printable import one_line
from pareto_align.report.card import conversation
from pareto_align.runs.folder import run_folder
from pareto_align.runs.journal import JournalReader
from pareto_align.runs.status import RunStatus, run_status, runs_in

__all__ = ["runs", "watch"]

_CLEAR = "\x1b[H\x1b[2J"
_MEMBERS_SHOWN = 8


def runs(arguments: argparse.Namespace) -> None:
    """List the runs in a folder."""
    found = runs_in(arguments.folder)
    if arguments.json:
        print_json([status.to_dict() for status in found])
        return
    for status in found:
        say(status.headline())


def watch(arguments: argparse.Namespace) -> None:
    """Show a run until it ends: a screen that is drawn anew on a terminal, a line for each change in a pipe, or a page.

    Raises:
        ConfigError: Options do not go together, or the page's port is taken.
        FrontFileError: There is no run in the folder.
    """
    arguments.run = run_folder(arguments.run)
    if arguments.page:
        _serve(arguments)
        return
    if arguments.port is not None:
        raise ConfigError("--port says where a page is served: give --page as well.")
    before: list[str] | None = None
    said: list[str] = []
    measured: tuple[int, ...] = ()
    journal = JournalReader(arguments.run / "journal.jsonl")
    while True:
        status = _status(arguments, journal)
        if status is None:
            shown = [f"waiting for a run in {arguments.run}"]
        else:
            screen = sys.stdout.isatty() or arguments.once
            if screen and measured != (now := stamp_of(arguments.run / "front" / "front.json")):
                measured, said = now, _answers(arguments.run)
            shown = [*status.lines(), *said] if screen else _plain(status)
        if arguments.json and status is not None and shown != before:
            print_json(status.to_dict(), indent=None)
        elif not arguments.json and shown != before:
            if sys.stdout.isatty() and not arguments.once:
                print(_CLEAR, end="")
            for text in shown:
                say(text)
        before = shown
        if arguments.once or (status is not None and status.state == "ended"):
            return
        time.sleep(arguments.every)


def _serve(arguments: argparse.Namespace) -> None:
    """Serve the page of a run until somebody ends it; whoever opens it later still finds what the run came to."""
    from pareto_align.report.page.live import LivePage, LiveRun

    if arguments.once:
        raise ConfigError("--page follows a run, and --once looks at it once: give one of them.")
    _status(arguments)  # a folder that holds no run says so before anything is served
    with LivePage(LiveRun(arguments.run, arguments.every), arguments.port or 0) as server:
        if arguments.json:
            print_json({"page": server.address}, indent=None)
        else:
            say(f"{server.address}  (for browsers of this machine; Ctrl-C ends it, and the run goes on)")
        server.serve_forever()


def _status(arguments: argparse.Namespace, journal: JournalReader | None = None) -> RunStatus | None:
    """How the run stands; None where its folder is not there yet."""
    if not arguments.run.exists():
        if arguments.once:
            raise FrontFileError(f"There is no folder {arguments.run}.")
        return None
    return run_status(arguments.run, journal)


def _answers(run: Path) -> list[str]:
    """What the untrained model and the members of the front answer to one prompt; nothing where none is on disk yet."""
    try:
        record = read_front_json(run / "front")
    except FrontFileError:  # not measured yet
        return []
    answered = [("untrained", record.reference_sample), *((member.id, member.sample) for member in record.members)]
    said = [(name, rows[0]) for name, rows in answered if rows][: _MEMBERS_SHOWN + 1]
    if not said:
        return []
    prompt = said[0][1].get("prompt")
    asked = prompt[-1].get("content") if isinstance(prompt, Sequence) and not isinstance(prompt, str) else prompt
    wide, room = shutil.get_terminal_size().columns, max(len(name) for name, _ in said)
    lines = [f"asked: {one_line(conversation(asked))}"]
    lines += [f"{name:<{room}}  {one_line(conversation(row.get('completion')))}" for name, row in said]
    return [line if len(line) <= wide else f"{line[: wide - 1]}…" for line in lines]


def _plain(status: RunStatus) -> list[str]:
    """The headline without what changes at every step, so that a log gets a line a measurement, and why it stopped."""
    step = status.last.get("step", 0) if status.last is not None and status.state == "running" else status.step
    line = replace(status, step=int(step), left=math.nan).headline()
    return [line, *(status.notes[-1:] if status.state == "stopped" else ())]
