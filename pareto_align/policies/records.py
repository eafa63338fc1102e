"""Small answers that are measured once a machine and kept as JSON in the user's cache."""

from __future__ import annotations

import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["cache_folder", "processor", "read_record", "write_record"]

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where converted models and probe results are kept: `$PARETO_ALIGN_CACHE`, else the user's cache folder."""
    if root := os.environ.get("PARETO_ALIGN_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pareto_align"


def processor() -> str:
    """The processor's own name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux; the platform module's answer will do
    return platform.processor() or platform.machine()


def read_record(name: str) -> dict[str, Any]:
    """What is kept under `name`; nothing where there is no such file or it is damaged."""
    try:
        known = json.loads((cache_folder() / name).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_record(name: str, key: str, value: Any) -> Path | None:
    """Keep one answer beside the others under `name`; returns the file, None where it cannot be written."""
    record = cache_folder() / name
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        partial = record.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(read_record(name) | {key: value}, indent=1))
        partial.replace(record)
    except OSError as error:
        logger.debug("%s could not be kept: %s", name, error)
        return None
    return record
