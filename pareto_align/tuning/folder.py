"""A sweep on disk: plain JSON, each file replaced whole, so that a sweep that was killed goes on.

<sweep>/sweep.json               what is searched, on which seeds, and the frame of all hypervolumes
<sweep>/trials/003/trial.json    a trial; its fits beside it are ordinary run folders, seed_10/ and so on
<sweep>/confirm/003/runs.json    the fits of the best trial, and in 000/ of the default, on the confirm seeds
<sweep>/result.json              what `TuningResult.to_dict` says
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pareto_align.errors import FrontFileError
from pareto_align.tuning.trials import Run, Trial

__all__ = ["SweepFolder"]

SCHEMA_VERSION = 1


class SweepFolder:
    """Reads and writes the files of a sweep.

    Args:
        path: The folder; created if missing.

    Raises:
        FrontFileError: It cannot be made, or holds a single run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if (path / "run.json").exists() or (path / "front.json").exists():
            raise FrontFileError(f"{path} holds a run, no sweep. Choose another output_dir.")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FrontFileError(f"The folder {path} cannot be made: {error}") from error

    def read_plan(self) -> dict[str, Any] | None:
        """What `write_plan` wrote; None where no sweep was begun.

        Raises:
            FrontFileError: It is damaged or of another version.
        """
        file = self.path / "sweep.json"
        plan = self._read(file)
        if plan is not None and plan.pop("schema_version", None) != SCHEMA_VERSION:
            raise FrontFileError(f"{file} is not of version {SCHEMA_VERSION}, which this release reads.")
        return plan

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Keep what is searched, and how."""
        _write(self.path / "sweep.json", {"schema_version": SCHEMA_VERSION, **plan})

    def read_trial(self, number: int) -> Trial | None:
        """A trial as far as it came; None where it was not begun."""
        file = self._trial(number) / "trial.json"
        data = self._read(file)
        try:
            return None if data is None else Trial.from_dict(data)
        except (KeyError, TypeError, ValueError) as error:
            raise FrontFileError(f"{file} is damaged: {type(error).__name__}: {error}") from error

    def write_trial(self, trial: Trial) -> None:
        """Keep a trial as it stands."""
        _write(self._trial(trial.number) / "trial.json", trial.to_dict())

    def read_confirmed(self, number: int) -> list[Run]:
        """The fits of a trial's settings on confirm seeds so far."""
        file = self._confirm(number) / "runs.json"
        data = self._read(file)
        try:
            return [] if data is None else [Run(**run) for run in data["runs"]]
        except (KeyError, TypeError) as error:
            raise FrontFileError(f"{file} is damaged: {type(error).__name__}: {error}") from error

    def write_confirmed(self, number: int, runs: Sequence[Run]) -> None:
        """Keep the fits of a trial's settings on confirm seeds."""
        _write(self._confirm(number) / "runs.json", {"runs": [asdict(run) for run in runs]})

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Keep what the sweep found."""
        _write(self.path / "result.json", result)

    def confirmed_on(self) -> set[int]:
        """Seeds on which anything was confirmed already."""
        return {int(f.name.removeprefix("seed_")) for f in (self.path / "confirm").glob("*/seed_*")}

    def run_of(self, number: int, seed: int, *, confirm: bool) -> Path:
        """The run folder of a fit."""
        return (self._confirm(number) if confirm else self._trial(number)) / f"seed_{seed}"

    def _trial(self, number: int) -> Path:
        return self.path / "trials" / f"{number:03d}"

    def _confirm(self, number: int) -> Path:
        return self.path / "confirm" / f"{number:03d}"

    def _read(self, file: Path) -> dict[str, Any] | None:
        if not file.is_file():
            return None
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise FrontFileError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
        if not isinstance(data, dict):
            raise FrontFileError(f"{file} is damaged: it holds no JSON object.")
        return data


def _write(file: Path, data: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + ".new")
    with new.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(data, indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
