"""What comparisons are like, before anything is trained: numbers, and a page that says them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from pareto_align.data.agreement import (
    Agreement,
    LengthBias,
    agreement,
    ceiling,
    ceiling_hypervolume,
    cycle_share,
    disagreement,
    length_bias,
    pooled_pairs,
)
from pareto_align.data.comparisons import Comparisons
from pareto_align.printable import one_line

__all__ = ["Conflict", "DataReport", "ObjectiveReport", "examine", "report_lines"]

LITTLE = 0.02
"""Conflict share below which there is little to trade."""

BIASED = 0.6
"""Share of pairs won by the longer response from which a warning is given."""

PLACES = (0.25, 0.5, 0.75)
"""Weights of the first of two objectives at which the ceiling is shown."""


@dataclass(frozen=True)
class ObjectiveReport:
    """The labels of one objective.

    Attributes:
        name: Its name.
        labelled: Pairs with a label.
        ties: Of these, ties.
        soft: Of these, with a label that is neither certain nor a tie.
        missing: Pairs without a label.
        marks: Responses that are marked one by one.
        length: How often the longer response is preferred.
        best: The most that can be explained: 1 less the entropy of its labels in bits.
        cycles: Triples of responses that are ranked in a circle.
        triples: Of how many.
        disagreement: How often two judges of a pair disagree; NaN where none was judged twice.
    """

    name: str
    labelled: int
    ties: int
    soft: int
    missing: int
    marks: int
    length: LengthBias
    best: float
    cycles: int
    triples: int
    disagreement: float


@dataclass(frozen=True)
class Conflict:
    """Two objectives against each other.

    Attributes:
        first: One objective.
        second: The other.
        agreement: On the pairs that both decide.
        hypervolume: Of the front that the labels allow, above the untrained model; 1 is no conflict at all.
        front: The best that can be explained of both, at the weights `PLACES` of the first.
    """

    first: str
    second: str
    agreement: Agreement
    hypervolume: float
    front: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class DataReport:
    """What comparisons are like.

    Attributes:
        prompts: Comparisons.
        responses: Of all of them.
        pairs: Pairs, each once.
        judgements: Pairs, as often as somebody judged them under his own name.
        left_out: What was left out at reading, by reason.
        objectives: Each objective's labels.
        conflicts: Each two objectives.
        users: How many judged; 0 where nobody is named.
        pairs_a_user: Least, median and most pairs of a user.
        advice: What to know before anything is trained.
    """

    prompts: int
    responses: int
    pairs: int
    judgements: int
    left_out: Mapping[str, int]
    objectives: tuple[ObjectiveReport, ...]
    conflicts: tuple[Conflict, ...]
    users: int
    pairs_a_user: tuple[int, float, int] | None
    advice: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's own types."""
        return asdict(self)


def examine(comparisons: Comparisons) -> DataReport:
    """The report on some comparisons. No model is needed."""
    pooled = pooled_pairs(comparisons)
    values, m = pooled.values, comparisons.m
    cycles = cycle_share(pooled, [row.G for row in comparisons])
    lengths, quarrels = length_bias(pooled), disagreement(pooled)
    marks = sum(
        (np.isfinite(row.marks).sum(0) for row in comparisons if row.marks is not None), np.zeros(m, dtype=np.int64)
    )
    best = np.diagonal(ceiling(pooled, np.eye(m)))
    objectives = []
    for j, name in enumerate(comparisons.names):
        known = values[:, j][np.isfinite(values[:, j])]
        objectives.append(
            ObjectiveReport(
                name,
                len(known),
                int((known == 0.5).sum()),
                int(((known != 0.5) & (known > 0) & (known < 1)).sum()),
                len(values) - len(known),
                int(marks[j]),
                lengths[j],
                float(best[j]) if len(known) else math.nan,
                *cycles[j],
                quarrels[j],
            )
        )
    conflicts = []
    for i, j in itertools.combinations(range(m), 2):
        if not (objectives[i].labelled and objectives[j].labelled):
            continue
        weights = np.zeros((len(PLACES), m))
        weights[:, i], weights[:, j] = PLACES, 1 - np.array(PLACES)
        front = ceiling(pooled, weights)[:, [i, j]]
        conflicts.append(
            Conflict(
                comparisons.names[i],
                comparisons.names[j],
                agreement(pooled, i, j),
                ceiling_hypervolume(pooled, i, j),
                tuple((float(a), float(b)) for a, b in front),
            )
        )
    judged: dict[Any, int] = {}
    for user in comparisons.table().users:
        if user is not None:
            judged[user] = judged.get(user, 0) + 1
    counts = sorted(judged.values())
    return DataReport(
        len(comparisons),
        sum(row.G for row in comparisons),
        len(values),
        comparisons.pair_count,
        {reason: count for reason, count in comparisons.counts.items() if count},
        tuple(objectives),
        tuple(conflicts),
        len(judged),
        (counts[0], float(median(counts)), counts[-1]) if counts else None,
        tuple(_advice(objectives, conflicts)),
    )


def _advice(objectives: list[ObjectiveReport], conflicts: list[Conflict]) -> list[str]:
    said = []
    for one in objectives:
        if one.length.share >= BIASED and one.length.low > 0.5:
            said.append(
                f"{one.name}: the longer answer is preferred in {one.length.share:.0%} of the pairs. What is "
                "learned may be length; 'sigmoid_norm' or 'simpo' count per token, and an objective of brevity can "
                "hold against it."
            )
        if one.labelled and one.labelled == one.ties:
            said.append(f"{one.name}: all labels are ties, so there is nothing to learn.")
        if one.labelled and one.missing > one.labelled:
            said.append(f"{one.name}: most pairs have no label. Take enough prompts a step that some have one.")
        if one.triples and one.cycles > 0.1 * one.triples:
            said.append(
                f"{one.name}: {one.cycles} of {one.triples} triples are preferred in a circle, which no reward "
                "explains."
            )
    for two in conflicts:
        if two.agreement.pairs and two.agreement.conflict < LITTLE:
            said.append(
                f"{two.first} and {two.second} conflict on {two.agreement.conflict:.1%} of the pairs that both decide: "
                "there is little to trade, and one adapter serves both."
            )
    return said


def report_lines(report: DataReport) -> list[str]:
    """The report as a page of text."""
    users = f", {report.users} users" if report.users else ""
    lines = [f"{report.prompts:,} prompts, {report.responses:,} responses, {report.pairs:,} pairs{users}"]
    if report.pairs_a_user is not None:
        least, middle, most = report.pairs_a_user
        lines.append(f"pairs a user: {least} to {most}, median {middle:g}")
    lines += [f"left out: {count:,} {reason}" for reason, count in report.left_out.items()]
    rows = []
    for one in report.objectives:
        bias = one.length
        told = f"{bias.share:.2f} ({bias.low:.2f} to {bias.high:.2f})" if bias.pairs else "-"
        circles = f"{one.cycles} of {one.triples}" if one.triples else "-"
        quarrel = "-" if math.isnan(one.disagreement) else f"{one.disagreement:.2f}"
        best = "-" if math.isnan(one.best) else f"{one.best:.3f}"
        counts = [f"{count:,}" for count in (one.labelled, one.ties, one.soft, one.missing)]
        rows.append([one_line(one.name), *counts, told, best, quarrel, circles])
    heads = ("objective", "labelled", "ties", "soft", "missing", "longer wins", "best", "judges differ", "circles")
    lines += ["", *_table(heads, rows)]
    if any(one.marks for one in report.objectives):
        marked = [f"{one_line(one.name)} {one.marks:,}" for one in report.objectives if one.marks]
        lines.append(f"marked one by one: {', '.join(marked)} responses")
    if report.conflicts:
        rows = [
            [
                f"{one_line(two.first)} / {one_line(two.second)}",
                f"{two.agreement.pairs:,}",
                *(["-"] * 3 if not two.agreement.pairs else _shares(two.agreement)),
                f"{two.hypervolume:.3f}",
                "  ".join(f"{a:.2f}, {b:.2f}" for a, b in two.front),
            ]
            for two in report.conflicts
        ]
        places = ", ".join(f"{place:g}" for place in PLACES)
        heads2 = ("objectives", "both decide", "agree", "kappa", "conflict", "hypervolume", f"ceiling at {places}")
        lines += ["", *_table(heads2, rows)]
        lines.append(
            "The ceiling is what the labels allow at these weights of the first: 0 is the untrained model, 1 "
            "explains all."
        )
    if report.advice:
        lines += ["", *report.advice]
    return lines


def _shares(found: Agreement) -> list[str]:
    return [f"{found.agree:.3f}", f"{found.kappa:.2f}", f"{found.conflict:.3f}"]


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """Columns side by side: the first to the left, numbers to the right."""
    cells = [list(heads), *rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
