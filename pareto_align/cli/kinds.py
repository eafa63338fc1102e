"""What the arguments of commands may be. Nothing heavy is imported here, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

__all__ = [
    "FORMATS", "IMAGES", "KINDS", "LABEL_KINDS", "PAIRS", "REWARDS", "RULES", "SOURCES", "STYLES", "WAYS",
    "Pairs", "count", "is_path", "label_kind", "pair", "path", "port", "seconds", "temperature",
]  # fmt: skip

KINDS = ("front", "history", "weights", "tradeoff", "prices", "audit")
STYLES = ("light", "dark")
IMAGES = ("png", "svg", "pdf")
RULES = ("linear", "chebyshev", "knee", "lexicographic")
WAYS = ("auto", "map", "logits", "soup")
FORMATS = ("peft", "vllm")
SOURCES = (
    "auto", "trl", "hh", "pairs", "strength", "ultrafeedback", "nectar", "responses", "ratings", "unpaired",
    "beavertails", "written",
)  # fmt: skip
PAIRS = ("auto", "all", "adjacent", "best_worst", "best_rest", "random")
REWARDS = ("bt", "regression", "mixture", "pal", "gpm")
LABEL_KINDS = ("which", "probability", "signed", "scores")


class Pairs(argparse.Action):
    """Collects `name=number` arguments in a dict; a name that is given twice is an error."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Take the pairs of one option."""
        found = dict(getattr(namespace, self.dest) or {})
        for name, number in values:
            if name in found:
                parser.error(f"argument {option}: {name!r} is given twice")
            found[name] = number
        setattr(namespace, self.dest, found)


def pair(text: str) -> tuple[str, float]:
    """`name=number`."""
    name, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (equals and name and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=number")
    return name, value


def label_kind(text: str) -> tuple[str, str]:
    """`column=kind`, of LABEL_KINDS."""
    name, equals, kind = text.rpartition("=")
    if not (equals and name and kind in LABEL_KINDS):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form column=kind, with {', '.join(LABEL_KINDS)}")
    return name, kind


def path(text: str) -> Path:
    """A file or a folder, `~` being the user's home."""
    return Path(os.path.expanduser(text))  # shells leave the ~ of --out=~/figures alone


def is_path(action: argparse.Action) -> bool:
    """Whether an argument is a file or a folder."""
    return action.type is path


def count(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def seconds(text: str) -> float:
    """A number of seconds from 0.1 to 3600."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.1 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return number


def port(text: str) -> int:
    """A port from 1 to 65535."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def temperature(text: str) -> float:
    """A number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return number
