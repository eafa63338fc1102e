"""The journal of a run: one event a line, appended and synced, never rewritten."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Callback", "Journal", "read_journal"]

Callback = Callable[[Mapping[str, Any]], None]
"""Called with every event of a run: `{"event": "step", "step": 3, ...}`."""


class Journal:
    """Appends events to `journal.jsonl` and hands them to the callbacks.

    Args:
        path: The file; created if missing.
        callbacks: Called with each event after it is on disk.
    """

    def __init__(self, path: Path, callbacks: Iterable[Callback] = ()) -> None:
        self.path = path
        self.callbacks = list(callbacks)

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; arrays become lists and NaN becomes null."""
        record = {"event": event, "time": round(time.time(), 3), **{k: _plain(v) for k, v in fields.items()}}
        line = json.dumps(record, allow_nan=False) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        for callback in self.callbacks:
            callback(record)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events of a run; none if there is no such file.

    A line that is no JSON object is passed over: a run that was killed may have left half a line at the end.
    """
    if not path.is_file():
        return []
    events = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                events.append(event)
    return events


def _plain(value: Any) -> Any:
    """JSON's own types; numbers that are not finite become None, for JSON has no word for them."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
