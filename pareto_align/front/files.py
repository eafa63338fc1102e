"""Files that are there whole or not at all: written beside their place, synced, renamed into it."""

from __future__ import annotations

import os
from pathlib import Path

from pareto_align.errors import FrontFileError

__all__ = ["beside", "check_new", "stamp_of", "sync", "write_synced", "write_whole"]


def check_new(folder: Path) -> None:
    """Refuse a folder that has something in it already.

    Raises:
        FrontFileError: It has, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FrontFileError(f"{folder} exists already and is not empty. Save to a new folder.")


def stamp_of(file: Path) -> tuple[int, ...]:
    """What changes when a file does; empty where there is none."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one step; a reader, or a kill, finds the old one or the new one.

    The new name lasts through a power failure once its folder is synced as well. What a kill left half written is
    called `beside(path)`.
    """
    write_synced(beside(path), data)
    os.replace(beside(path), path)


def beside(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.with_name(f".partial-{path.name}")


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and force it to disk."""
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync(path: Path) -> None:
    """Force a file or a folder's list of names to disk; where folders cannot be opened (Windows) they need not be."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
