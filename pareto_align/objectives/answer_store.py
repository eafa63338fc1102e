"""What a judge has answered, kept in a file: nothing is paid for twice, and a resumed run asks nothing again."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from pareto_align.errors import ObjectiveError

__all__ = ["AnswerStore"]


class AnswerStore:
    """Answers by the digest of what was asked, in an sqlite file; without a file, in memory.

    Neither questions nor keys are in it. Several processes may share one.

    Args:
        path: The file; made when the first answer is kept. None keeps them as long as the process lives.

    Raises:
        ObjectiveError: The file is no such store, or cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._memory: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._open: sqlite3.Connection | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_memory": dict(self._memory)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_lock": threading.Lock(), "_open": None}

    def find(self, digest: str) -> Any:
        """The answer, or None where there is none."""
        if digest in self._memory or self.path is None:
            return self._memory.get(digest)
        with self._lock, _told(self.path):
            row = self._file().execute("SELECT answer FROM answers WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else json.loads(row[0])

    def keep(self, digest: str, answer: Any) -> None:
        """Keep an answer; it is on disk when this returns."""
        if self.path is None:
            self._memory[digest] = answer
            return
        with self._lock, _told(self.path), self._file() as file:
            file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (digest, json.dumps(answer)))

    def _file(self) -> sqlite3.Connection:
        if self._open is None:
            assert self.path is not None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open = sqlite3.connect(self.path, timeout=30, check_same_thread=False)
            with self._open as file:
                file.execute("PRAGMA journal_mode = WAL")
                file.execute("PRAGMA synchronous = NORMAL")
                file.execute("CREATE TABLE IF NOT EXISTS answers (digest TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        return self._open


class _told:
    """What sqlite says of a file, as an error of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, sqlite3.Error | OSError | ValueError):
            raise ObjectiveError(
                f"The judge's cache {self.path} cannot be used: {error}. Move it away, or name another file."
            ) from error
