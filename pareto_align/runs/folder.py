"""What a run folder says about a run: its record and its prompts. The state is the checkpoint's, the front its own."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from pareto_align.arguments import path_of
from pareto_align.errors import FrontFileError, ParetoAlignWarning
from pareto_align.front.files import write_whole
from pareto_align.objectives import ObjectiveSet
from pareto_align.runs.journal import read_journal
from pareto_align.versions import versions

if TYPE_CHECKING:  # torch is not imported here: a folder that is in use says so at once
    from pareto_align.data.prompts import Splits
    from pareto_align.policies.base import Base

__all__ = [
    "begun",
    "check_prompts_kept",
    "ended",
    "in_use",
    "kept_prompts",
    "locked",
    "new_run_folder",
    "objective_records",
    "read_run_record",
    "read_splits",
    "refuse_taken",
    "run_folder",
    "write_run_record",
    "write_splits",
]

SCHEMA_VERSION = 1
RUNS_FOLDER = "pareto_runs"
RECORD_FILE, PROMPTS_FILE, LOCK_FILE = "run.json", "prompts.jsonl", ".lock"
SPLITS = ("train", "select", "report")
MAX_BYTES = {RECORD_FILE: 1 << 24, PROMPTS_FILE: 1 << 31}


def new_run_folder(output_dir: Any) -> Path:
    """Make the folder of a run that begins.

    Args:
        output_dir: Where; None: the next number under RUNS_FOLDER.

    Raises:
        FrontFileError: It holds a run already, is a file, or cannot be made.
    """
    if output_dir is None:
        root = Path(RUNS_FOLDER)
        number = 1 + max((int(p.name) for p in root.glob("[0-9]*") if p.name.isdigit()), default=0)
        output_dir = root / f"{number:03d}"
    folder = path_of(output_dir, "output_dir")
    refuse_taken(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FrontFileError(f"The run folder {folder} cannot be made: {error}") from error
    return folder


@contextmanager
def begun(output_dir: Any) -> Iterator[Path]:
    """The folder of a run that begins, made and locked.

    Where an error comes before anything is written into it, a folder that was made here is taken away again.

    Args:
        output_dir: As of `new_run_folder`.

    Raises:
        FrontFileError: As `new_run_folder` and `locked`.
    """
    there = output_dir is not None and path_of(output_dir, "output_dir").exists()
    folder = new_run_folder(output_dir)
    try:
        with locked(folder):
            yield folder
    except BaseException:
        with suppress(OSError):
            if not there and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                folder.rmdir()
        raise


def refuse_taken(folder: Path) -> None:
    """Say whether a run cannot begin in a folder, before anything large is imported for it.

    Raises:
        FrontFileError: It holds a run already, another process works in it, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise FrontFileError(f"{folder} is a file; output_dir must be a folder.")
    if in_use(folder):
        raise FrontFileError(f"Another process is running in {folder}.")
    if (folder / RECORD_FILE).exists() or (folder / "front.json").exists():
        there = "load what is there with ParetoFront.load"
        if (folder / RECORD_FILE).exists() and not ended(folder):
            there = f"go on with it by `pareto-align resume {folder}` or ParetoAligner(...).resume, or {there}"
        raise FrontFileError(f"{folder} already holds a run. Choose another output_dir, or {there}.")


def in_use(folder: Path) -> bool:
    """Whether a process works in a run folder now."""
    if not (folder / LOCK_FILE).is_file():
        return False
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # it cannot be told: `locked` says why
        return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that works in a run folder. The lock is the process's: a dead one holds nobody up.

    Raises:
        FrontFileError: Another process works in it, or the lock cannot be made.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=1, poll_interval=0.02)  # `in_use` holds it for a moment, whoever asks
    except Timeout:
        raise FrontFileError(f"Another process is running in {folder}.") from None
    except (OSError, NotImplementedError) as error:  # read-only, full, or a file system without locks
        raise FrontFileError(f"{folder} cannot be locked for this run: {error}") from error
    try:
        yield
    finally:
        lock.release()


def write_run_record(
    folder: Path,
    config: Mapping[str, Any],
    model: str | None,
    objectives: ObjectiveSet,
    prompts: str | None,
    facts: Mapping[str, Any],
    not_kept: str | None = None,
) -> None:
    """Write `run.json`: the settings, the versions that matter, how the command line began the run, and which prompts.

    Args:
        folder: The run folder.
        config: Names of weighting, learner and explorer, and all settings as used.
        model: The model's name.
        objectives: All objectives.
        prompts, not_kept: What `write_splits` returned.
        facts: What else tells this run from another, see `identity`, and its `origin`, see `ParetoAligner.origin`.
    """
    record = {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "objectives": objective_records(objectives),
        "config": dict(config),
        **facts,
        "origin": _plain_or_none(facts.get("origin")),
        "prompts": prompts,
        **({} if not_kept is None else {"prompts_not_kept": not_kept}),
        "versions": versions(),
    }
    _put(folder / RECORD_FILE, json.dumps(record, indent=1))


def run_folder(path: Path) -> Path:
    """The run folder of a run folder or of the front folder in it; what is neither is given back as it is."""
    inside = not (path / RECORD_FILE).is_file() and (path.resolve().parent / RECORD_FILE).is_file()
    return path.resolve().parent if inside and path.resolve().name == "front" else path


def read_run_record(folder: Path) -> dict[str, Any]:
    """The record of a run.

    Raises:
        FrontFileError: There is none, or it is damaged or of another version.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        raise FrontFileError(f"{folder} holds no run: there is no {RECORD_FILE} in it.")
    try:
        _check_size(path)
        record = json.loads(path.read_text(encoding="utf-8"))
        version, wanted = record["schema_version"], {"model", "objectives", "config"}
        if version == SCHEMA_VERSION and not (wanted <= record.keys() and isinstance(record["config"], dict)):
            raise KeyError(*sorted(wanted - record.keys()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FrontFileError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if version != SCHEMA_VERSION:
        raise FrontFileError(f"{path} has version {version!r}; this release reads {SCHEMA_VERSION}.")
    return dict(record)


def objective_records(objectives: ObjectiveSet) -> list[dict[str, Any]]:
    """What the record says about each objective, in JSON's own types."""
    return [
        {
            "name": o.name,
            "role": o.role,
            "maximize": o.maximize,
            "bounds": None if o.bounds is None else [float(bound) for bound in o.bounds],
            "at_least": o.at_least,
            "at_most": o.at_most,
            "tolerance": o.tolerance,
        }
        for o in objectives
    ]


def write_splits(folder: Path, splits: Splits) -> tuple[str | None, str | None]:
    """Write `prompts.jsonl`: every prompt with its tokens and columns, so that a run can be resumed without being told.

    Returns:
        The file's SHA-256; None where it was not written, and then why not.

    Warns:
        ParetoAlignWarning: A column is nothing that JSON can hold; the run then cannot be resumed.
    """
    from pareto_align.data.comparison_rows import ComparisonRow

    lines = []
    for split in SPLITS:
        for row in getattr(splits, split):
            fields = {"split": split, "prompt": row.prompt, "ids": list(row.ids), "columns": dict(row.columns)}
            if isinstance(row, ComparisonRow):
                fields |= row.to_fields()
            try:
                lines.append(json.dumps(fields) + "\n")
                kept = _same(fields, json.loads(lines[-1]))
            except (TypeError, ValueError, RecursionError):
                kept = False
            if not kept:
                why = (
                    "their columns must be text, numbers, lists, or mappings with text as keys. "
                    f"Found {dict(row.columns)!r:.200}."
                )
                warnings.warn(
                    f"The prompts cannot be kept with the run, so it cannot be resumed: {why}",
                    ParetoAlignWarning,
                    stacklevel=2,
                )
                return None, why
    text = "".join(lines)
    _put(folder / PROMPTS_FILE, text)
    return hashlib.sha256(text.encode()).hexdigest(), None


def _same(value: Any, read: Any) -> bool:
    """Whether JSON gave back what it was given; a number that is none (NaN) is the same as itself."""
    if isinstance(value, dict) and isinstance(read, dict):
        return value.keys() == read.keys() and all(_same(value[key], read[key]) for key in value)
    if isinstance(value, list) and isinstance(read, list):
        return len(value) == len(read) and all(map(_same, value, read))
    return bool(value == read or (value != value and read != read))


def check_prompts_kept(folder: Path, record: Mapping[str, Any]) -> None:
    """Say whether a run cannot go on for want of its prompts, before its model is loaded.

    Raises:
        FrontFileError: They were not kept when it began, or are gone; it says why.
    """
    path = folder / PROMPTS_FILE
    if record.get("prompts") is None:
        why = record.get("prompts_not_kept") or "a column of them was nothing that JSON can hold."
        raise FrontFileError(
            f"The run in {folder} cannot be resumed: its prompts could not be kept with it when it began; {why}"
        )
    if not path.is_file():
        raise FrontFileError(
            f"The run in {folder} cannot be resumed: {PROMPTS_FILE}, in which its prompts and their columns were kept, "
            "is missing. Put it back."
        )


def kept_prompts(folder: Path, split: str) -> list[str] | None:
    """The prompts of one split with their columns, each as one text, in the order in which they are measured.

    None where they were not kept, or cannot be read: whoever asks then does without.
    """
    path = folder / PROMPTS_FILE
    try:
        _check_size(path)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        own = sorted((row for row in rows if row["split"] == split), key=lambda row: len(row["ids"]))
        told = [{key: row.get(key) for key in ("prompt", "columns", "comparison")} for row in own]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, FrontFileError):
        return None
    return [json.dumps(row, sort_keys=True) for row in told]


def read_splits(folder: Path, base: Base, prompts: Any) -> Splits:
    """The prompts of a run.

    Args:
        folder: The run folder.
        base: The model whose tokenizer reads them.
        prompts: The SHA-256 that the run's record has.

    Raises:
        FrontFileError: They are missing, damaged or not the run's own, or the model's tokenizer reads them otherwise.
    """
    from pareto_align.data.comparison_rows import ComparisonRow
    from pareto_align.data.prompts import PromptRow, Splits

    path = folder / PROMPTS_FILE
    rows: dict[str, list[Any]] = {split: [] for split in SPLITS}
    try:
        _check_size(path)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != prompts:
            raise FrontFileError(f"{path} was altered or cut off: its checksum does not hold.")
        for line in data.decode().split("\n")[:-1]:
            fields = json.loads(line)
            row = PromptRow(fields["prompt"], tuple(int(i) for i in fields["ids"]), dict(fields["columns"]))
            compared = "comparison" in fields
            rows[fields["split"]].append(ComparisonRow.from_fields(row, fields) if compared else row)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FrontFileError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not all(rows.values()):
        raise FrontFileError(f"{path} has no prompts for {', '.join(name for name in SPLITS if not rows[name])}.")
    for row in (rows[split][0] for split in SPLITS):
        if tuple(base.encode(row.prompt, row.columns.get("chat_template_kwargs"))) != row.ids:
            raise FrontFileError(f"{path} was made with another tokenizer or chat template than the model has now.")
    return Splits(**rows)


def _check_size(path: Path) -> None:
    if path.stat().st_size > MAX_BYTES[path.name]:
        raise FrontFileError(f"{path} is larger than {MAX_BYTES[path.name]:,} bytes.")


def ended(folder: Path) -> bool:
    """Whether the run came to its end."""
    return any(event.get("event") == "end" for event in read_journal(folder / "journal.jsonl"))


def _put(path: Path, text: str) -> None:
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise FrontFileError(f"{path} cannot be written: {error}") from error


def _plain_or_none(origin: Mapping[str, Any] | None) -> Any:
    """What JSON can hold; a config with a date in it, say, has to be given again."""
    try:
        return json.loads(json.dumps(origin))
    except (TypeError, ValueError):
        return None
