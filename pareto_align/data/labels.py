"""What a label says about two responses: which of them is better, or how likely the first is.

Inside, a label is one number for a pair (a, b): 1 where a is better, 0 where b is, 0.5 for a tie, anything between for
a probability, NaN where nobody said. People write it in many ways; a column is of one kind, and what could mean two
things is refused rather than guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from pareto_align.errors import ComparisonError, ConfigError

__all__ = ["KINDS", "Kind", "Label", "check_kind", "is_missing", "kind_of", "number", "read_label"]

Kind = Literal["which", "probability", "signed", "scores"]
"""How a column of labels is read: "which" response is better, the "probability" that the first is, "signed" strengths
(negative: the first is better, as HelpSteer has them), or a pair of "scores", more being better."""

KINDS: tuple[str, ...] = get_args(Kind)
"""All kinds of label columns."""

_MISSING = frozenset({"", "n/a", "na", "nan", "none", "null", "-"})
_FIRST = frozenset({"0", "a", "first", "response_0", "chosen"})
_SECOND = frozenset({"1", "b", "second", "response_1", "rejected"})
_TIE = frozenset({"tie", "equal", "same", "both"})


@dataclass(frozen=True)
class Label:
    """What one cell says of a pair.

    Attributes:
        value: How strongly the first response is preferred, 0 to 1; NaN where the cell is empty.
        margin: By how much, in the column's own unit, never negative; NaN where it is not said.
        scores: The ratings of the two responses, where the cell holds those.
    """

    value: float
    margin: float = math.nan
    scores: tuple[float, float] | None = None


def is_missing(value: Any) -> bool:
    """Whether a cell says nothing: None, NaN, or a text such as "N/A"."""
    if value is None:
        return True
    if isinstance(value, str):
        return value.strip().lower() in _MISSING
    return bool(isinstance(value, Real) and value != value)


def number(value: Any) -> float | None:
    """A cell as a finite number, also where it is written as text, as in tables and UltraFeedback; else None."""
    if isinstance(value, bool) or not isinstance(value, str | Real):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def check_kind(kind: Any, column: str) -> Kind:
    """The kind, or an error that says which there are.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"The kind of the label column {column!r} must be one of {', '.join(KINDS)}. Found {kind!r}.")
    found: Kind = kind
    return found


def kind_of(values: Iterable[Any], column: str) -> Kind:
    """The kind of a column, by all that is in it.

    Raises:
        ComparisonError: It may be of two: 0.0 and 1.0 as fractions name a response in one column (an integer column
            that a table library made floats of) and are probabilities in another.
    """
    present = [value for value in values if not is_missing(value)]
    if present and all(_is_pair(value) for value in present):
        return "scores"
    numbers = [found for value in present if (found := number(value)) is not None]
    if any(0 < found < 1 for found in numbers):
        return "probability"
    fractions = [value for value in present if isinstance(value, float) or (isinstance(value, str) and "." in value)]
    if any(number(value) in (0.0, 1.0) for value in fractions):
        raise ComparisonError(
            f"The column {column!r} holds {fractions[0]!r}, which may say which response is better or how probable "
            f"it is that the first one is. Say which: kinds={{{column!r}: 'which'}} or "
            f"{{{column!r}: 'probability'}}, or write whole numbers where a response is meant."
        )
    return "which"


def read_label(
    value: Any, kind: Kind, column: str, where: str, words: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> Label:
    """What one cell says.

    Args:
        value: The cell.
        kind: How the column is read.
        column: Its name, for errors.
        where: How the message of an error begins, such as "Comparison 12".
        words: What the first and the second response are called in this source, beside the usual names.

    Raises:
        ComparisonError: It is outside its kind.
    """
    if is_missing(value):
        return Label(math.nan)
    if kind == "scores":
        return _from_scores(value, column, where)
    if kind == "which":
        return Label(_which(value, column, where, words))
    found = number(value)
    if kind == "probability":
        if found is None or not 0 <= found <= 1:
            raise ComparisonError(f"{where}: {column} must be a probability from 0 to 1. Found {value!r}.")
        return Label(found)
    if found is None:
        raise ComparisonError(
            f"{where}: {column} must be a number, negative where the first response is better. Found {value!r}."
        )
    return Label(1.0 if found < 0 else 0.0 if found > 0 else 0.5, abs(found))


def _which(value: Any, column: str, where: str, words: tuple[Sequence[str], Sequence[str]]) -> float:
    if isinstance(value, bool):
        return float(value)
    whole = number(value) if isinstance(value, Real) else None
    text = f"{whole:g}" if whole is not None else str(value).strip().lower()
    # what a source calls its responses comes first: "response_1" is the first of HelpSteer and the second of PKU
    for first, second in (words, (_FIRST, _SECOND)):
        if text in first:
            return 1.0
        if text in second:
            return 0.0
    if text in _TIE:
        return 0.5
    signed = isinstance(value, Integral) and abs(int(value)) <= 10
    more = (
        f" Where negative numbers say that the first is better, give kinds={{{column!r}: 'signed'}}." if signed else ""
    )
    raise ComparisonError(f"{where}: {column} must be 0 or 1, the better response. Found {value!r}.{more}")


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _from_scores(value: Any, column: str, where: str) -> Label:
    scores = [math.nan if is_missing(one) else number(one) for one in value] if _is_pair(value) else [None]
    if any(score is None for score in scores):
        raise ComparisonError(f"{where}: {column} must hold the scores of the two responses. Found {value!r:.80}.")
    first, second = (float(score) for score in scores if score is not None)
    if math.isnan(first) or math.isnan(second):
        return Label(math.nan, math.nan, (first, second))
    better = 1.0 if first > second else 0.0 if first < second else 0.5
    return Label(better, abs(first - second), (first, second))
