"""The versions of what decides the bytes of a run, here and where else parts of it are."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib import metadata

from pareto_align.errors import ConfigError

__all__ = ["PACKAGES", "check_versions", "versions"]

PACKAGES = ("pareto-align", "torch", "transformers", "peft", "numpy")


def versions() -> dict[str, str]:
    """Of Python, and of the packages that decide what a run computes."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def check_versions(there: Iterable[tuple[str, Mapping[str, str]]], here: Mapping[str, str]) -> None:
    """Refuse machines that have other versions than this process.

    Args:
        there: The name of each, and its versions.
        here: The versions in this process.

    Raises:
        ConfigError: It says which machine has which version of what.
    """
    told = [
        f"on {machine} {name} is {found.get(name)!r}, here {now!r}"
        for machine, found in there
        for name, now in here.items()
        if found.get(name) != now
    ]
    if told:
        raise ConfigError(
            f"The workers have other versions than the process that began the run: {'; '.join(dict.fromkeys(told))}. "
            "Install the same on all machines."
        )
