"""How a run stands, read from its folder alone: whoever looks can neither disturb it nor has to outlive it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pareto_align.errors import FrontFileError
from pareto_align.runs.folder import RECORD_FILE, in_use, read_run_record
from pareto_align.runs.journal import JournalReader
from pareto_align.runs.pace import duration, hypervolume_text, members_text, sparkline

__all__ = ["RunStatus", "run_status", "runs_in"]


@dataclass(frozen=True)
class RunStatus:
    """A run as it stands.

    Attributes:
        folder: The run folder.
        state: "starting" (loading, or measuring the untrained model), "running", "ended", "stopped" by an error, or
            "killed": it can be resumed.
        step: Training steps made.
        steps: Training steps it was given.
        objectives: Names of the M objectives.
        evaluations: The measurements of the front, events of the journal; a trained family's at further preferences,
            too. They are of the prompts that the run chooses by.
        report: The event that measured the front on prompts that nothing was chosen by, where the run has come to it.
        untrained: [M] means of the untrained model, in the user's units, NaN for one that is not known; empty where
            none is.
        left: Seconds of training that are left at the pace so far; NaN where that is not known.
        notes: What else happened: policies that stalled or were rolled back, and why it stopped.
    """

    folder: Path
    state: str
    step: int = 0
    steps: int = 0
    objectives: tuple[str, ...] = ()
    evaluations: tuple[Mapping[str, Any], ...] = ()
    report: Mapping[str, Any] | None = None
    untrained: tuple[float, ...] = ()
    left: float = math.nan
    notes: tuple[str, ...] = field(default=())

    @property
    def last(self) -> Mapping[str, Any] | None:
        """The last measurement of the front, if there is one."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def _split(self) -> str:
        return "report" if self.report is not None else "select"

    def to_dict(self) -> dict[str, Any]:
        """As JSON's own types: folder, state, step, steps, members, hypervolume (value, low, high), split, notes."""
        last = self.report or self.last or {}
        ends = [last.get(f"hypervolume{end}") for end in ("", "_low", "_high")]
        return {
            "folder": str(self.folder),
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "members": last.get("members"),
            "hypervolume": ends,
            "split": None if not last else self._split,
            "notes": list(self.notes),
        }

    def headline(self) -> str:
        """One line: where it is, how far, and what was found."""
        parts = [f"{self.folder.name}: {self.state}"]
        if self.steps:
            parts.append(f"step {self.step} of {self.steps}")
        if self.state == "running" and self.left > 0:
            parts.append(f"about {duration(self.left)} left")
        if (found := self.report or self.last) is not None:
            parts.append(f"{hypervolume_text(found)} on {self._split} prompts")
            parts.append(members_text(int(found.get("members") or 0)))
        if self.state in ("killed", "stopped"):
            # where rewards are code of one's own nothing is imported on the folder's word
            parts.append(f"`pareto-align resume {self.folder}` goes on (with fit's --config and KEY=VALUE if asked)")
        return ", ".join(parts)

    def lines(self) -> list[str]:
        """A screen: the headline, the hypervolume over the run, each objective along the front, and what happened."""
        found = [self.headline()]
        values = [event.get("hypervolume") for event in self.evaluations]
        if len(values) > 1:
            found.append(f"hypervolume  {sparkline([math.nan if v is None else float(v) for v in values])}")
        rows = [] if self.last is None else [row for row in self.last.get("front") or [] if row]
        width = max(map(len, self.objectives), default=0)
        for i, name in enumerate(self.objectives if rows else ()):
            column = [row[i] for row in rows if i < len(row) and row[i] is not None]
            if column:
                known = i < len(self.untrained) and math.isfinite(self.untrained[i])
                before = f"   untrained {self.untrained[i]:.4g}" if known else ""
                found.append(f"{name:<{width}}  {min(column):.4g} to {max(column):.4g}{before}")
        if self.last is not None and self.last.get("open_verdicts"):
            found.append(f"{self.last['open_verdicts']} verdicts are open: more prompts would settle them")
        return [*found, *self.notes]


def run_status(folder: Path, journal: JournalReader | None = None) -> RunStatus:
    """How the run in a folder stands.

    Args:
        folder: The run folder.
        journal: Reads the run's journal; who asks again and again gives the same one, which reads only what is new.

    Raises:
        FrontFileError: The folder holds no run, or its record is damaged.
    """
    busy = in_use(folder)
    if busy and not (folder / RECORD_FILE).is_file():
        return RunStatus(folder, "starting")
    record = read_run_record(folder)
    events, _ = (journal or JournalReader(folder / "journal.jsonl")).read()
    kinds = [event["event"] for event in events]
    state = "ended" if "end" in kinds else "running" if busy else "stopped" if kinds[-1:] == ["stopped"] else "killed"
    start = next((event for event in events if event["event"] == "start"), {})
    steps = record["config"].get("steps")
    told = []
    for event in events:
        if event["event"] == "stalled":
            told.append(f"policy {event.get('policy')} stalled at step {event.get('step')}: {event.get('action')}")
        elif event["event"] == "rolled back":
            told.append(f"policy {event.get('policy')} went back at step {event.get('step')}: {event.get('reason')}")
        elif event["event"] in ("report", "stopped") and (said := event.get("warning", event.get("error"))):
            told.append("interrupted" if str(said).startswith("KeyboardInterrupt") else str(said))
    return RunStatus(
        folder,
        state,
        step=max((int(event["step"]) for event in events if event["event"] == "step"), default=0),
        steps=steps if isinstance(steps, int) else 0,
        objectives=tuple(map(str, start.get("objectives") or ())),
        evaluations=tuple(event for event in events if event["event"] in ("evaluation", "further")),
        report=next((event for event in reversed(events) if event["event"] == "report"), None),
        untrained=tuple(math.nan if v is None else float(v) for v in start.get("reference") or ()),
        left=_left(events, steps if isinstance(steps, int) else 0),
        notes=tuple(told),
    )


def runs_in(folder: Path) -> list[RunStatus]:
    """The runs in the folders of a folder, by name; a damaged one says so in its notes.

    Raises:
        FrontFileError: The folder is not there, or holds no run.
    """
    if not folder.is_dir():
        raise FrontFileError(f"There is no folder {folder}.")
    found = []
    for path in sorted(folder.iterdir()):
        if (path / RECORD_FILE).is_file() or (path.is_dir() and in_use(path)):
            try:
                found.append(run_status(path))
            except FrontFileError as error:
                found.append(RunStatus(path, "damaged", notes=(str(error),)))
    if not found:
        raise FrontFileError(f"No folder in {folder} holds a run.")
    return found


def _left(events: Sequence[Mapping[str, Any]], steps: int) -> float:
    """Seconds that the remaining steps take, measurements included, at the pace since the run began or went on."""
    since = max((i for i, event in enumerate(events) if event["event"] in ("start", "resumed")), default=None)
    made = [] if since is None else [event for event in events[since:] if event["event"] == "step"]
    if since is None or not made:
        return math.nan
    begun, now = events[since].get("time"), events[-1].get("time")
    if not isinstance(begun, int | float) or not isinstance(now, int | float):
        return math.nan
    return (now - begun) / len(made) * max(steps - int(made[-1]["step"]), 0)
