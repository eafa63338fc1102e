"""A comparison: one prompt, several responses, and what was said about them. No model and no learner is in it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.data.source_rows import Response, SourceRow, check_text, read_response
from pareto_align.errors import ComparisonError
from pareto_align.messages import Prompt

__all__ = ["Comparison", "Labels", "text_length"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Labels:
    """What was said about pairs of a prompt's responses, objective by objective.

    Attributes:
        pairs: `[pairs, 2]` numbers of the responses a and b that were compared.
        values: `[pairs, m]` how strongly a is preferred to b, 0 to 1: 0.5 is a tie, NaN is no label.
        margins: `[pairs, m]` by how much, in the source's own unit and never negative; NaN where it is not known, None
            where it is known of no pair.
        weights: `[pairs, m]` how many judgements a label is the mean of; None where each is one.
        users: Who judged, one for each pair; None where nobody is named.

    Raises:
        ComparisonError: The shapes do not belong together, a value is outside [0, 1], a margin or a weight is negative.
    """

    pairs: IntArray
    values: FloatArray
    margins: FloatArray | None = None
    weights: FloatArray | None = None
    users: tuple[Hashable, ...] | None = None

    def __post_init__(self) -> None:
        pairs = np.array(self.pairs, dtype=np.int64).reshape(-1, 2)
        values = np.array(self.values, dtype=np.float64)
        if values.ndim != 2 or len(values) != len(pairs):
            raise ComparisonError(
                f"Labels of {len(pairs)} pairs must have shape [pairs, m]. Found {list(values.shape)}."
            )
        if ((values < 0) | (values > 1)).any():
            raise ComparisonError("A label must be from 0 to 1: how strongly the first response is preferred.")
        if (pairs[:, 0] == pairs[:, 1]).any():
            raise ComparisonError("A pair must be of two responses. Found one compared with itself.")
        for name, array in (("pairs", pairs), ("values", values)):
            object.__setattr__(self, name, _frozen(array))
        for name in ("margins", "weights"):
            given = getattr(self, name)
            if given is None:
                continue
            array = np.array(given, dtype=np.float64)
            if array.shape != values.shape or (array < 0).any():
                raise ComparisonError(f"`{name}` must have the shape of the labels and not be negative.")
            object.__setattr__(self, name, _frozen(array))
        if self.users is not None:
            object.__setattr__(self, "users", tuple(self.users))
            if len(self.users) != len(pairs):
                raise ComparisonError(f"There are {len(self.users)} users for {len(pairs)} pairs.")

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True, eq=False)
class Comparison:
    """One prompt, G responses, and what was said about them.

    Args:
        prompt: Text or chat messages.
        responses: G texts, or lists of the assistant's messages. G is 1 only where responses are rated or marked one by
            one.
        labels: What was said about pairs of them.
        scores: `[G, m]` ratings as they came, more being better; NaN where one is missing.
        marks: `[G, m]` 1 desirable, 0 undesirable, NaN where nobody said.
        gold: Number of the response that is to be imitated, where there is one.
        reference: `[G]` log-probabilities under a reference model, as the source has them.
        columns: Further columns of the source, handed to rewards by name.

    Raises:
        ComparisonError: There is no response, a pair names one that does not exist, or shapes do not belong together.
    """

    prompt: Prompt
    responses: tuple[Response, ...]
    labels: Labels
    scores: FloatArray | None = None
    marks: FloatArray | None = None
    gold: int | None = None
    reference: FloatArray | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "responses", tuple(self.responses))
        group, m = len(self.responses), self.m
        if not group:
            raise ComparisonError("A comparison needs at least one response.")
        if len(self.labels) and not 0 <= self.labels.pairs.min() <= self.labels.pairs.max() < group:
            raise ComparisonError(f"A pair names a response that does not exist: there are {group}.")
        for name, shape in (("scores", (group, m)), ("marks", (group, m)), ("reference", (group,))):
            given = getattr(self, name)
            if given is None:
                continue
            array = np.array(given, dtype=np.float64)
            if array.shape != shape:
                raise ComparisonError(f"`{name}` must have shape {list(shape)}. Found {list(array.shape)}.")
            object.__setattr__(self, name, _frozen(array))
        if self.gold is not None and not 0 <= self.gold < group:
            raise ComparisonError(f"`gold` names the response {self.gold}, and there are {group}.")

    @property
    def m(self) -> int:
        """The number of objectives."""
        return int(self.labels.values.shape[1])

    @property
    def G(self) -> int:
        """The number of responses."""
        return len(self.responses)

    def of_columns(self, columns: Sequence[int | None], turned: ArrayLike) -> Comparison:
        """The same under other objectives.

        Args:
            columns: `[m']` which of the m columns each new objective is; None is one without labels.
            turned: `[m']` whether less is better: labels are turned round.
        """
        flip = np.asarray(turned, dtype=bool)
        old = self.labels
        values = _taken(old.values, columns)
        labels = Labels(
            old.pairs,
            np.where(flip, 1 - values, values),
            None if old.margins is None else _taken(old.margins, columns),
            None if old.weights is None else np.nan_to_num(_taken(old.weights, columns)),
            old.users,
        )
        scores = None if self.scores is None else _taken(self.scores, columns)
        marks = None if self.marks is None else _taken(self.marks, columns)
        return Comparison(
            self.prompt,
            self.responses,
            labels,
            None if scores is None else np.where(flip, -scores, scores),
            None if marks is None else np.where(flip, 1 - marks, marks),
            self.gold,
            self.reference,
            self.columns,
        )

    def of_groups(self, groups: Mapping[Hashable, ArrayLike], count: int) -> Comparison:
        """The one column of labels as one column a group of users.

        Args:
            groups: By user, `[count]` how much he counts in each group; whoever is missing counts nowhere.
            count: Of groups.
        """
        old, nowhere = self.labels, np.zeros(count)
        shares = np.array([groups.get(user, nowhere) for user in old.users or [None] * len(old)], dtype=np.float64)
        shares = shares.reshape(len(old), count)
        weights = shares if old.weights is None else shares * old.weights
        labels = Labels(
            old.pairs,
            np.where(shares > 0, old.values, np.nan),
            None if old.margins is None else np.where(shares > 0, old.margins, np.nan),
            weights,
            old.users,
        )
        return Comparison(self.prompt, self.responses, labels, None, None, self.gold, self.reference, self.columns)

    def to_row(self, names: Sequence[str]) -> dict[str, Any]:
        """The comparison in JSON's own types; `from_row` brings it back. NaN is written as null."""
        labels = self.labels
        row: dict[str, Any] = {
            "prompt": self.prompt,
            "responses": list(self.responses),
            "pairs": labels.pairs.tolist(),
            "labels": _by_name(names, labels.values),
        }
        for name, array in (
            ("margins", labels.margins),
            ("weights", labels.weights),
            ("scores", self.scores),
            ("marks", self.marks),
        ):
            if array is not None:
                row[name] = _by_name(names, array)
        if labels.users is not None:
            row["users"] = list(labels.users)
        if self.gold is not None:
            row["gold"] = self.gold
        if self.reference is not None:
            row["reference"] = _numbers(self.reference)
        if self.columns:
            row["columns"] = dict(self.columns)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any], names: Sequence[str], where: str) -> Comparison:
        """What `to_row` wrote.

        Raises:
            ComparisonError: It is no such row.
        """
        try:
            check_text(
                SourceRow(where, row["prompt"], [read_response(one, where, "responses") for one in row["responses"]])
            )
            count, group = len(row["pairs"]), len(row["responses"])
            labels = Labels(
                np.array(row["pairs"], dtype=np.int64).reshape(-1, 2),
                _table(row["labels"], names, count),
                _table(row["margins"], names, count) if "margins" in row else None,
                np.nan_to_num(_table(row["weights"], names, count)) if "weights" in row else None,
                tuple(row["users"]) if "users" in row else None,
            )
            return cls(
                row["prompt"],
                tuple(row["responses"]),
                labels,
                _table(row["scores"], names, group) if "scores" in row else None,
                _table(row["marks"], names, group) if "marks" in row else None,
                row.get("gold"),
                np.array(row["reference"], dtype=np.float64) if "reference" in row else None,
                dict(row.get("columns") or {}),
            )
        except ComparisonError as error:
            told = str(error)
            raise ComparisonError(told if told.startswith(where) else f"{where}: {told}") from None
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ComparisonError(f"{where} is no comparison as `Comparisons.to_rows` writes it: {error!r}.") from None


def text_length(response: Response) -> int:
    """Characters of a response."""
    if isinstance(response, str):
        return len(response)
    return sum(len(message.get("content") or "") for message in response)


def _frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


def _taken(array: FloatArray, columns: Sequence[int | None]) -> FloatArray:
    found = np.full((len(array), len(columns)), math.nan)
    for place, column in enumerate(columns):
        if column is not None:
            found[:, place] = array[:, column]
    return found


def _by_name(names: Sequence[str], array: FloatArray) -> dict[str, list[float | None]]:
    return {name: _numbers(column) for name, column in zip(names, array.T, strict=True)}


def _numbers(column: FloatArray) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in column]


def _table(by_name: Mapping[str, Sequence[Any]], names: Sequence[str], count: int) -> FloatArray:
    found = np.full((count, len(names)), math.nan)
    for place, name in enumerate(names):
        if name in by_name:
            found[:, place] = [math.nan if value is None else float(value) for value in by_name[name]]
    return found
