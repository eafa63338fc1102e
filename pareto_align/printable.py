"""Text of others as it may be shown: nothing in it drives a terminal or turns the reading direction round."""

from __future__ import annotations

import unicodedata
from typing import Any

__all__ = ["kind_of", "one_line", "printable"]

_JOINERS = "\u200c\u200d"
"""Invisible, harmless, and part of how Persian, Indian scripts and emoji are written."""


def printable(text: str) -> str:
    """The text with control characters, terminal escapes and bidirectional controls as �, on its own lines."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_shown(c) else "�" for c in text)


def one_line(text: str) -> str:
    """The same on one line, each run of spaces and line breaks one space: for names and cells."""
    return printable(" ".join(text.split()))


def kind_of(value: Any) -> str:
    """What kind of thing a value is, as a message says it: "a list", "an int", "None"."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _is_shown(c: str) -> bool:
    return c.isprintable() or c in "\n\t" or c in _JOINERS or unicodedata.category(c) == "Zs"
