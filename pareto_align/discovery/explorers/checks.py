"""Checks of an explorer's settings, and of what a run must bring for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from numbers import Real
from typing import Any

from pareto_align.errors import ConfigError

__all__ = ["check_choice", "check_count", "check_keys", "check_number", "check_share", "require", "require_library"]


def check_number(explorer: str, name: str, value: Any, low: float, high: float = math.inf) -> float:
    """`value` as a float.

    Raises:
        ConfigError: It is no number from `low` to `high`, or infinite.
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and low <= number <= high):
        limit = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise ConfigError(f"Explorer {explorer!r}: `{name}` must be a number {limit}. Found {name}={value!r}.")
    return number


def check_share(explorer: str, name: str, value: Any) -> float:
    """`value` as a share of the run, from 0 to 1.

    Raises:
        ConfigError: It is none.
    """
    return check_number(explorer, name, value, 0.0, 1.0)


def check_count(explorer: str, name: str, value: Any, least: int = 1) -> int:
    """`value` as a whole number of at least `least`.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(
            f"Explorer {explorer!r}: `{name}` must be a whole number of at least {least}. Found {name}={value!r}."
        )
    return value


def check_choice(explorer: str, name: str, value: Any, choices: Sequence[str]) -> str:
    """`value` as one of `choices`.

    Raises:
        ConfigError: It is none of them.
    """
    if value not in choices:
        raise ConfigError(
            f"Explorer {explorer!r}: `{name}` must be one of {', '.join(choices)}. Found {name}={value!r}."
        )
    return str(value)


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
