"""All pairs of some comparisons as one table, and what is done to all their labels at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from pareto_align.data.comparison import Comparison, FloatArray, IntArray, Labels, text_length

__all__ = ["PairTable", "marked", "softened", "table_of"]


@dataclass(frozen=True, eq=False)
class PairTable:
    """All pairs of some comparisons, one after the other.

    Attributes:
        rows: `[pairs]` which comparison each is of.
        values: `[pairs, m]` labels, NaN where there is none.
        margins: `[pairs, m]`, NaN where none is known.
        weights: `[pairs, m]` judgements behind each label, 0 where there is none.
        lengths: `[pairs, 2]` characters of both responses.
        users: One for each pair, None where nobody is named.
    """

    rows: IntArray
    values: FloatArray
    margins: FloatArray
    weights: FloatArray
    lengths: IntArray
    users: tuple[Hashable, ...]


def table_of(rows: Sequence[Comparison]) -> PairTable:
    """The pairs of these comparisons."""
    labels = [row.labels for row in rows]
    values = np.concatenate([one.values for one in labels])
    shapes = [one.values.shape for one in labels]
    margins = [
        np.full(shape, math.nan) if one.margins is None else one.margins
        for one, shape in zip(labels, shapes, strict=True)
    ]
    weights = [
        np.ones(shape) if one.weights is None else one.weights for one, shape in zip(labels, shapes, strict=True)
    ]
    lengths = [np.array([text_length(response) for response in row.responses])[row.labels.pairs] for row in rows]
    users = [one.users if one.users is not None else (None,) * len(one) for one in labels]
    return PairTable(
        np.repeat(np.arange(len(rows)), [len(one) for one in labels]),
        values,
        np.concatenate(margins),
        np.where(np.isnan(values), 0.0, np.concatenate(weights)),
        np.concatenate(lengths).astype(np.int64).reshape(-1, 2),
        tuple(user for row in users for user in row),
    )


def softened(rows: Sequence[Comparison], table: PairTable, tau: float | None) -> list[Comparison]:
    """The comparisons with labels sigmoid(margin / tau) for the preferred response, see `Comparisons.soften`."""
    gaps = np.where(table.margins > 0, table.margins * np.sign(table.values - 0.5), math.nan)
    spread = [float(np.nanstd(column)) if np.isfinite(column).any() else 1.0 for column in gaps.T]
    scale = np.array([tau or one or 1.0 for one in spread])
    found = []
    for row in rows:
        old = row.labels
        values = old.values
        if old.margins is not None:
            soft = expit(old.margins * np.sign(values - 0.5) / scale)
            values = np.where(np.isnan(old.margins), values, soft)
        found.append(replace(row, labels=Labels(old.pairs, values, old.margins, old.weights, old.users)))
    return found


def marked(row: Comparison) -> Comparison:
    """The comparison with marks in place of pairs: 1 for a response that is preferred, 0 for one that is not."""
    total, seen = np.zeros((row.G, row.m)), np.zeros((row.G, row.m))
    sides = np.sign(row.labels.values - 0.5)  # 1, 0, -1 or NaN
    decided = np.isfinite(sides) & (sides != 0)
    for (a, b), side, said in zip(row.labels.pairs, sides, decided, strict=True):
        total[a] += np.where(said, (side + 1) / 2, 0)
        total[b] += np.where(said, (1 - side) / 2, 0)
        seen[[a, b]] += said
    with np.errstate(invalid="ignore"):
        marks = total / seen
    if row.marks is not None:
        marks = np.where(np.isnan(row.marks), marks, row.marks)
    nothing = Labels(np.empty((0, 2), dtype=np.int64), np.empty((0, row.m)))
    return replace(row, marks=marks, labels=nothing)
