"""A run in the tracker that a team has already: TensorBoard, MLflow, trackio, Weights & Biases, others.

Trackers are accelerate's, which is imported when a run with one begins. They are told what the journal is told.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pareto_align.errors import ConfigError, FrontFileError, ParetoAlignWarning
from pareto_align.front.files import write_whole
from pareto_align.front.reading import read_front
from pareto_align.spelling import hint

__all__ = ["Trackers", "check_trackers", "tracker_names"]

NOTHING = "none"
PROJECT = "pareto_align"
STATE = "trackers.json"
TOLD = ("step", "evaluation", "report")
"""The events of a journal that hold numbers of a run."""
SHOWN = 4
"""Prompts whose answers are logged."""
CONTINUED = {
    "mlflow": lambda run, known: {"run_name": run, "run_id": known},
    "trackio": lambda run, known: {"name": known or run, "resume": "allow"},
    "wandb": lambda run, known: {"name": run, "id": known, "resume": "allow"},
}
"""How the same run of a tracker is found again by a run that goes on; others begin one of their own."""


def tracker_names(report_to: Any) -> list[Any]:
    """What `report_to=` says as a list: names of trackers, and trackers of accelerate's kind.

    Raises:
        ConfigError: It is something else.
    """
    several = isinstance(report_to, Sequence) and not isinstance(report_to, str)
    found = [one for one in (report_to if several else [report_to]) if one is not None and one != NOTHING]
    for one in found:
        if not isinstance(one, str) and not callable(getattr(one, "log", None)):
            raise ConfigError(
                "`report_to` must be the name of a tracker, such as 'tensorboard', a list of names, or trackers of "
                f"accelerate's kind. Found {one!r:.80}."
            )
    return found


def check_trackers(names: Sequence[Any]) -> None:
    """Whether every tracker is known and installed, before a model is loaded.

    Raises:
        ConfigError: One is not; it says what there is.
    """
    if not names:
        return
    try:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    except ImportError as error:
        raise ConfigError("`report_to` needs accelerate: pip install 'pareto-align[tracking]'.") from error
    known, here = sorted(map(str, LOGGER_TYPE_TO_CLASS)), set(map(str, get_available_trackers()))
    for name in names:
        if not isinstance(name, str):
            continue
        if name not in known:
            told = hint(name, known) or f" Known: {', '.join(known)}."
            raise ConfigError(f"Unknown tracker {name!r} in `report_to`.{told}")
        if name not in here:
            raise ConfigError(f"`report_to`: the package of the tracker {name!r} is not installed.")


class Trackers:
    """Hands a run's events to trackers. One that fails is left out with a warning; the run goes on.

    A run that goes on repeats what was not in its checkpoint, to the same numbers, so what a tracker has is not told it
    again: `trackers.json` in the run folder says how far each has come.

    Args:
        names: From `tracker_names`.
        run: The run folder; TensorBoard's files are in its `tensorboard`.
        objectives: Names of the M objectives.
        optimized: Of the m that are optimized.
        steered: Of those that have multipliers, in the order of a step's.
        settings: What the run was begun with.
    """

    def __init__(
        self,
        names: Sequence[Any],
        run: Path,
        objectives: Sequence[str],
        optimized: Sequence[str],
        steered: Sequence[str],
        settings: Mapping[str, Any],
    ) -> None:
        self.run, self.settings = run, settings
        self.objectives, self.optimized, self.steered = objectives, optimized, steered
        self._state: dict[str, Any] = {"ids": {}, "told": {}}
        with suppress(OSError, ValueError):
            self._state |= json.loads((run / STATE).read_text(encoding="utf-8"))
        self._trackers: dict[str, Any] = {}
        for number, name in enumerate(names):
            kind = name if isinstance(name, str) else str(getattr(name, "name", type(name).__name__))
            kind = kind if kind not in self._trackers else f"{kind} {number}"
            with self._forgiven(kind):
                self._trackers[kind] = self._started(name)

    def _started(self, name: Any) -> Any:
        if not isinstance(name, str):
            if callable(start := getattr(name, "start", None)):
                start()
            return name
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers ask it whether they are in the main process
        kind = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            tracker = kind(name, logging_dir=self.run)
        else:
            more = {"logging_dir": str(self.run)} if kind.requires_logging_directory else {}
            how = CONTINUED.get(name, lambda run, known: {})
            tracker = kind(PROJECT, **more, **how(self._called, self._state["ids"].get(name)))
        tracker.start()
        if name not in self._state["ids"]:
            plain = {k: v for k, v in self.settings.items() if isinstance(v, bool | int | float | str)}
            if name == "tensorboard":  # its hyperparameters are a run beside the run
                tracker.log({"settings": "\n".join(f"    {k}: {v}" for k, v in plain.items())}, step=0)
            else:
                tracker.store_init_configuration(plain)
            self._state["ids"][name] = self._called if name == "trackio" else _id_of(tracker.tracker)
            self._remember()
        return tracker

    @property
    def _called(self) -> str:
        """The run's name, with what tells folders of one name apart."""
        return f"{self.run.name}-{hashlib.sha256(str(self.run.resolve()).encode()).hexdigest()[:6]}"

    def _remember(self) -> None:
        with suppress(OSError):  # a full disk is for the run itself to tell
            write_whole(self.run / STATE, json.dumps(self._state).encode())

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Tell the trackers of one event."""
        kind = event["event"]
        if kind not in TOLD or not self._trackers or event["step"] <= self._state["told"].get(kind, -1):
            return
        step = event["step"]
        for name in list(self._trackers):
            with self._forgiven(name):
                self._trackers[name].log(dict(self._values(event)), step=step)
                if kind != "step" and (table := self._answers()):
                    _log_table(self._trackers[name], table, step)
        self._state["told"][kind] = step
        self._remember()

    def _values(self, event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """Numbers by the names that they have in a tracker."""
        kind = event["event"]
        if kind == "step":
            rows: list[tuple[str, Sequence[str], Any]] = [
                ("", self.objectives, event["values"]),
                ("weight/", self.optimized, event["weights"]),
                ("multiplier/", self.steered, event.get("steering") or []),
                ("preference/", self.optimized, event.get("preferences") or []),
            ]
            for prefix, names, table in rows:
                for policy, row in enumerate(table):
                    yield from _named(f"policy_{policy:02d}/{prefix}", names, row)
            for quantity in ("kl", "entropy", "length", "grad_norm", "step_kl", "mismatch"):
                for policy, value in enumerate(event.get(quantity) or []):
                    yield from _named(f"policy_{policy:02d}/", [quantity], [value])
            yield from _named("run/", ["seconds"], [event["seconds"]])
        else:
            names = ("hypervolume", "hypervolume_low", "hypervolume_high", "members", "open_verdicts")
            yield from _named("front/" if kind == "evaluation" else "report/", names, [event.get(n) for n in names])
            for policy, row in enumerate(event.get("values") or []):
                yield from _named(f"policy_{policy:02d}/measured/", self.objectives, row)

    def _answers(self) -> list[list[str]]:
        """Member, prompt and answer, of the front as it stands on disk; none where it does not load."""
        with suppress(FrontFileError):
            members = read_front(self.run / "front")[0].members
            return [[m.id, str(s["prompt"]), str(s["completion"])] for m in members for s in m.sample[:SHOWN]]
        return []

    def close(self) -> None:
        """End the trackers' runs."""
        for name in list(self._trackers):
            with self._forgiven(name):
                self._trackers[name].finish()

    def _forgiven(self, name: str) -> _Forgiven:
        return _Forgiven(self._trackers, name)


class _Forgiven:
    """Whatever a tracker raises is a warning, and the tracker is not asked again."""

    def __init__(self, trackers: dict[str, Any], name: str) -> None:
        self.trackers, self.name = trackers, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        self.trackers.pop(self.name, None)
        warnings.warn(
            f"The tracker {self.name!r} failed and is told no more: {type(error).__name__}: {error}. The run goes on; "
            "its journal has everything.",
            ParetoAlignWarning,
            stacklevel=3,
        )
        return True


def _named(prefix: str, names: Sequence[str], row: Sequence[Any]) -> Iterator[tuple[str, float]]:
    for name, value in zip(names, row, strict=True):
        if value is not None:
            yield prefix + name, float(value)


def _log_table(tracker: Any, rows: list[list[str]], step: int) -> None:
    columns = ["member", "prompt", "answer"]
    if callable(getattr(tracker, "log_table", None)):
        tracker.log_table("answers", columns=columns, data=rows, step=step)
    elif getattr(tracker, "name", "") == "tensorboard":
        cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [columns, ["---"] * 3, *rows]]
        tracker.log({"answers": "\n".join("| " + " | ".join(row) + " |" for row in cells)}, step=step)


def _id_of(run: Any) -> str:
    """What the tracker calls its run."""
    info = getattr(run, "info", run)
    return str(getattr(info, "run_id", getattr(info, "id", "")))
