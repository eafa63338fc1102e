"""One row of a source of comparisons as its format reads it, before rows of one prompt are put together."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pareto_align.data.labels import is_missing, number
from pareto_align.errors import ComparisonError, PromptError
from pareto_align.messages import Prompt, read_prompt

__all__ = [
    "Response",
    "SourceRow",
    "check_text",
    "key_of",
    "list_rows",
    "plain_messages",
    "read_rating",
    "read_ratings",
    "read_response",
]

Response = str | list[dict[str, Any]]
"""What was answered: text, or the assistant's messages."""


@dataclass
class SourceRow:
    """One row, read.

    Attributes:
        where: How the message of an error about it begins.
        prompt: Text or chat messages.
        responses: G of them.
        pairs: Which of them were compared: (a, b).
        labels: By objective one value a pair, how strongly a is preferred to b.
        margins: By objective one margin a pair.
        scores: By objective one rating a response; pairs are made of these when the rows of a prompt are together.
        marks: By objective one mark a response: 1 desirable, 0 undesirable.
        gold: Number of the response that is to be imitated, where there is one (TPO).
        reference: Log-probabilities of the responses under a reference model, as the source has them.
        weight: What its labels count; None counts one.
        user: Who judged.
        columns: What else the row has.
    """

    where: str
    prompt: Prompt
    responses: list[Response]
    pairs: list[tuple[int, int]] = field(default_factory=list)
    labels: dict[str, list[float]] = field(default_factory=dict)
    margins: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    marks: dict[str, list[float]] = field(default_factory=dict)
    gold: int | None = None
    reference: list[float] | None = None
    weight: float | None = None
    user: Any = None
    columns: dict[str, Any] = field(default_factory=dict)


def list_rows(given: Any, argument: str = "comparisons") -> list[Mapping[str, Any]]:
    """The rows of a list, a dataset or a table as mappings.

    Raises:
        ComparisonError: It is nothing that has rows in an order, or a row is no mapping.
    """
    found = f"Found a {type(given).__name__}"
    if isinstance(given, str | bytes | os.PathLike):
        raise ComparisonError(f"`{argument}` must be a list of mappings. {found}. A file is read by Comparisons.read.")
    if isinstance(given, Mapping):
        parts = [str(name) for name, part in given.items() if hasattr(part, "column_names")]
        told = f"Choose one of its splits, such as {argument}[{parts[0]!r}]." if parts else "Give a list of mappings."
        raise ComparisonError(f"`{argument}` must be a list of mappings. {found}. {told}")
    if isinstance(given, set | frozenset):
        raise ComparisonError(f"`{argument}` must have an order, or no run could be repeated. {found}.")
    for method, arguments in (("to_pylist", ()), ("to_dicts", ()), ("to_dict", ("records",))):
        # tables: iterating over one gives columns. A datasets.Dataset has to_dict too, and iterates over rows
        if hasattr(type(given), method) and not hasattr(given, "column_names"):
            given = getattr(given, method)(*arguments)
            break
    try:
        rows = list(given)
    except TypeError:
        raise ComparisonError(f"`{argument}` must be a list of mappings. {found}.") from None
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ComparisonError(f"Comparison {position} must be a mapping of columns. Found a {type(row).__name__}.")
    if not rows:
        raise ComparisonError(f"There are no comparisons: `{argument}` is empty.")
    return rows


def key_of(value: Any) -> str:
    """A prompt or a response as a key: equal ones have the same, whatever the order of keys in a message."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)


def check_text(row: SourceRow) -> None:
    """Refuse what no tokenizer can read.

    Raises:
        ComparisonError: The prompt is empty or no prompt, or a text holds half a character.
    """
    try:
        read_prompt(row.prompt)
    except PromptError as error:
        raise ComparisonError(f"{row.where}: {error}") from None
    for response in row.responses:
        try:
            key_of(response).encode()
        except UnicodeEncodeError as error:
            raise ComparisonError(
                f"{row.where}: a response holds half of a surrogate pair at character {error.start}, which is no "
                "character."
            ) from None


def plain_messages(found: Any, where: str) -> list[dict[str, Any]]:
    """A conversation as a list of dicts.

    Raises:
        ComparisonError: It is none.
    """
    try:
        read = read_prompt(found)
    except PromptError as error:
        raise ComparisonError(f"{where}: {error}") from None
    if isinstance(read, str):
        raise ComparisonError(f"{where} mixes text with chat messages. Found {read!r:.80}.")
    return read


def read_response(found: Any, where: str, name: str) -> Response:
    """A response: text, also an empty one, or the assistant's messages.

    Raises:
        ComparisonError: It is neither.
    """
    if isinstance(found, str):
        return found
    if found is None or isinstance(found, float):
        raise ComparisonError(f"{where}: `{name}` is missing. Write an empty text where the answer was empty.")
    if isinstance(found, Mapping) and isinstance(found.get("content"), str):
        found = [found]
    messages = plain_messages(found, f"{where}, `{name}`")
    if messages[-1]["role"] != "assistant":
        raise ComparisonError(
            f"{where}: `{name}` must end with the assistant's message. Found the role {messages[-1]['role']!r}."
        )
    return messages


def read_rating(value: Any, column: str, where: str) -> float:
    """A rating as a number; NaN where it is missing. Text is read as the number it shows, never compared as text.

    Raises:
        ComparisonError: It is no number.
    """
    if is_missing(value):
        return math.nan
    found = float(value) if isinstance(value, bool) else number(value)
    if found is None:
        raise ComparisonError(f"{where}: {column} must be a number. Found {value!r:.80}.")
    return found


def read_ratings(values: Any, count: int, column: str, where: str) -> list[float]:
    """One rating a response.

    Raises:
        ComparisonError: There are more or fewer than responses, or one is no number.
    """
    if isinstance(values, str) or not isinstance(values, Sequence | Iterable):
        raise ComparisonError(f"{where}: {column} must be a list with one number a response. Found {values!r:.80}.")
    listed = list(values)
    if len(listed) != count:
        raise ComparisonError(f"{where}: {column} has {len(listed)} entries for {count} responses.")
    return [read_rating(value, column, where) for value in listed]
