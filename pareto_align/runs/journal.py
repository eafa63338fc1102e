"""The journal of a run: one event a line, appended and synced, never rewritten."""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pareto_align.errors import FrontFileError
from pareto_align.front.parsing import MAX_NUMBER, check_plain

__all__ = ["Callback", "Journal", "JournalReader", "announce", "as_json", "read_journal", "scan_journal"]

Callback = Callable[[Mapping[str, Any]], None]
"""Called with every event of a run: `{"event": "step", "step": 3, ...}`."""

MAX_JOURNAL_BYTES = 1 << 28
MAX_LINE_BYTES = 1 << 24
MAX_ROWS = 1000
"""Policies, or objectives, that one event speaks of."""
_MEASURED = {"values": 2, "stderr": 2, "hypervolume": 0, "hypervolume_low": 0, "hypervolume_high": 0, "members": 0}
READ_NUMBERS: dict[str, dict[str, int]] = {
    "start": {"preferences": 2, "reference": 1, "reference_hypervolume": 1},
    "step": {"values": 2, "weights": 2, "preferences": 2},
    "task": {"preference": 1},
    "evaluation": _MEASURED,
    "further": _MEASURED,
}
"""What figures read, and how deep its lists are."""


_SEAL = re.compile(r', "crc": "([0-9a-f]{8})"\}$')


class Journal:
    """Appends events to `journal.jsonl` and hands them to the callbacks.

    Args:
        path: The file; created if missing. None: nothing is written, the callbacks are told.
        callbacks: Called with each event after it is on disk.

    Attributes:
        events: How many events count so far.
    """

    def __init__(self, path: Path | None, callbacks: Iterable[Callback] = ()) -> None:
        self.path = path
        self.callbacks = list(callbacks)
        self.events = 0

    def resume(self, kept: int, **fields: Any) -> None:
        """Go on after the first `kept` events: what a killed run did after its checkpoint is done again.

        No whole line is taken out of the file; a `resumed` event tells readers that the events after `kept` do not
        count. A last line that a kill tore never was an event and is cut off.
        """
        assert self.path is not None, "only a run with a folder goes on"
        try:
            data = self.path.read_bytes() if self.path.is_file() else b""
            if data and not data.endswith(b"\n"):
                os.truncate(self.path, data.rfind(b"\n") + 1)
        except OSError as error:
            raise FrontFileError(f"{self.path} cannot be written: {error}") from error
        self.events = kept
        self.write("resumed", kept=kept, **fields)

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; arrays become lists and NaN becomes null.

        Raises:
            FrontFileError: The disk is full, or the file cannot be written; half an event is taken back.
        """
        record = {"event": event, "time": round(time.time(), 3), **{k: as_json(v) for k, v in fields.items()}}
        line = _sealed(json.dumps(record, allow_nan=False)) + "\n"
        if self.path is not None:
            self._append(line)
        self.events += 1
        for callback in self.callbacks:
            callback(record)

    def _append(self, line: str) -> None:
        assert self.path is not None
        size = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, size)
            raise FrontFileError(f"{self.path} cannot be written: {error}") from error


def announce(callbacks: Iterable[Callback], stage: str) -> None:
    """Tell callbacks what a run does before there is anything to record; the journal holds what was found, not this."""
    for callback in callbacks:
        callback({"event": "stage", "time": round(time.time(), 3), "stage": stage})


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events of a run; none if there is no such file. See `JournalReader`."""
    return scan_journal(path)[0]


def scan_journal(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The events of a run that count, and a sentence about what was passed over. See `JournalReader`."""
    return JournalReader(path).read()


class JournalReader:
    """Reads a journal that may still grow, each time only what is new.

    What a run did after its last checkpoint before it was killed does not count: the resumed run did it again.

    A last line without its end is no damage: a run that was killed may leave one. Any other line that is no event, or
    whose numbers are none, is passed over and counted.

    Args:
        path: The journal; without one there are no events.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin(())

    def _begin(self, file: tuple[int, ...]) -> None:
        self._file, self._offset, self._lines = file, 0, 0
        # None stands for a damaged line: `kept` of a resumed run counts it, for it was an event when it was written
        self._found: list[dict[str, Any] | None] = []
        self._damaged: list[int] = []

    def read(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The events of the run that count, and a sentence about each thing that was passed over."""
        path = self.path
        if not os.path.isfile(path):
            return [], []
        if os.path.islink(path):
            return [], [f"The history was left out: {path} is a link. Put the journal itself in its place."]
        last: list[dict[str, Any] | None] = []
        try:
            with path.open("rb") as stream:
                now = os.fstat(stream.fileno())
                if self._file != (now.st_dev, now.st_ino) or now.st_size < self._offset:
                    self._begin((now.st_dev, now.st_ino))  # another run's
                stream.seek(self._offset)
                for line in _lines(stream):
                    event = _event(line)
                    if not line.endswith(b"\n"):  # it may still be in the writing, and is read again
                        last = [] if event is None else [event]
                        break
                    self._lines, self._offset = self._lines + 1, stream.tell()
                    _count(event, self._found)
                    if event is None:
                        self._damaged.append(self._lines)
                whole = not stream.read(1)
        except OSError as error:
            return _whole(self._found), [f"The history is not complete: {path} cannot be read ({error})."]
        problems = []
        if self._damaged:
            problems.append(
                f"The history is not complete: {len(self._damaged)} of the lines in {path} are damaged; the first is "
                f"line {self._damaged[0]}."
            )
        if not whole:
            problems.append(
                f"The history is not complete: only the first {MAX_JOURNAL_BYTES:,} bytes of {path} were read."
            )
        found = [*self._found]
        for event in last:
            _count(event, found)
        return _whole(found), problems


def _count(event: dict[str, Any] | None, found: list[dict[str, Any] | None]) -> None:
    """Add an event; one of a resumed run takes back those that it does again."""
    if event is not None and event["event"] == "resumed" and type(event.get("kept")) is int:
        del found[max(event["kept"], 0) :]
    found.append(event)


def _whole(found: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    return [event for event in found if event is not None]


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a journal; of one that is too long to be an event, its end."""
    while stream.tell() < MAX_JOURNAL_BYTES and (line := stream.readline(MAX_LINE_BYTES)):
        while len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES) or b"\n"
        yield line


def _event(line: bytes) -> dict[str, Any] | None:
    """The event on a line, or None if it is none."""
    try:
        event = json.loads(_unsealed(line.decode("utf-8").rstrip("\n")), parse_constant=_no_number)
        check_plain(event)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    step = event.get("step", 0)
    if type(step) is not int or not 0 <= step < 1 << 53:
        return None
    read = READ_NUMBERS.get(event["event"], {})
    return event if all(_is_numbers(event.get(key), depth) for key, depth in read.items()) else None


def _sealed(text: str) -> str:
    """An event's JSON with a checksum as its last key."""
    return f'{text[:-1]}, "crc": "{zlib.crc32(text.encode()):08x}"}}'


def _unsealed(line: str) -> str:
    """The JSON that `_sealed` was given; a line without a checksum, as of old journals, is as it is.

    Raises:
        ValueError: The checksum does not hold.
    """
    match = _SEAL.search(line)
    if match is None:
        return line
    text = line[: match.start()] + "}"
    if f"{zlib.crc32(text.encode()):08x}" != match[1]:
        raise ValueError("the checksum does not hold")
    return text


def _is_numbers(value: Any, depth: int) -> bool:
    """Whether a value is a number (depth 0), a list of numbers (1) or a list of lists of them (2); null is for NaN."""
    if value is None:
        return True
    if depth == 0:
        return type(value) in (int, float) and abs(value) <= MAX_NUMBER
    if not isinstance(value, list) or len(value) > MAX_ROWS:
        return False
    return all(_is_numbers(item, depth - 1) for item in value)


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def as_json(value: Any) -> Any:
    """JSON's own types; numbers that are not finite become None, for JSON has no word for them."""
    if isinstance(value, np.ndarray | list | tuple):
        return [as_json(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return os.fspath(value) if isinstance(value, os.PathLike) else value
