"""What a run must bring for an explorer; settings are checked by their annotations (`pareto_align.arguments`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from pareto_align.errors import ConfigError

__all__ = ["check_keys", "require", "require_library"]


def require(explorer: str, names: Sequence[str], population: int, *, objectives: int = 1, policies: int = 1) -> None:
    """Refuse a run that has too little for an explorer.

    Args:
        explorer: Its name.
        names: The m optimised objectives.
        population: K.
        objectives: Fewest objectives it can work with.
        policies: Fewest policies.

    Raises:
        ConfigError: There are fewer.
    """
    if len(names) < objectives:
        raise ConfigError(
            f"Explorer {explorer!r} needs at least {objectives} optimized objectives. Found {len(names)} "
            f"({', '.join(names)}). Give more of them role='optimize', or use explorer='grid'."
        )
    if population < policies:
        raise ConfigError(
            f"Explorer {explorer!r} needs a population of at least {policies} policies. Found population={population}."
        )


def require_library(explorer: str, library: str) -> None:
    """Refuse a run without a library that an explorer needs, before anything is trained.

    Raises:
        ConfigError: The library is not installed.
    """
    if find_spec(library) is None:
        raise ConfigError(
            f"Explorer {explorer!r} needs {library}, which is not installed. Run `pip install {library}`."
        )


def check_keys(explorer: str, state: Mapping[str, Any], expected: set[str]) -> None:
    """Refuse a state that is not this explorer's.

    Raises:
        ConfigError: An entry is missing or unknown.
    """
    if set(state) != expected:
        raise ConfigError(
            f"This is no state of explorer {explorer!r}: missing {sorted(expected - set(state))}, "
            f"unknown {sorted(set(state) - expected)}."
        )
