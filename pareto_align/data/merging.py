"""Rows of one prompt put together: a prompt is one unit, its responses are there once, its judgements are counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from pareto_align.data.comparison import Comparison, FloatArray, Labels
from pareto_align.data.ratings import choose_pairs, labels_of
from pareto_align.data.source_rows import Response, SourceRow, key_of
from pareto_align.errors import ComparisonError

__all__ = ["merged", "names_of"]

SAME = "pairs of two equal responses"


def names_of(rows: Sequence[SourceRow]) -> tuple[str, ...]:
    """All objectives that any row says something about, in the order in which they are met."""
    return tuple(dict.fromkeys(name for row in rows for part in (row.labels, row.scores, row.marks) for name in part))


def merged(
    rows: Sequence[SourceRow], names: Sequence[str], *, pairs: str = "auto", seed: int = 0
) -> tuple[list[Comparison], Counter[str]]:
    """One comparison a prompt, in the order in which prompts are met, and what was left out.

    Several judgements of one pair become their mean with their number as weight, unless users are named: then those of
    each user stay by themselves. Pairs are made of ratings where the source has no pairs of its own.

    Args:
        rows: As their format reads them.
        names: The m objectives.
        pairs: See `ratings.PairRule`.
        seed: For `pairs="random"`.

    Raises:
        ComparisonError: A row has one response, and nothing is said about it.
    """
    groups: dict[tuple[str, str], list[SourceRow]] = {}
    for row in rows:
        key = key_of(row.prompt), repr(row.columns.get("chat_template_kwargs"))
        groups.setdefault(key, []).append(row)
    counts: Counter[str] = Counter()
    rng = np.random.default_rng([seed, 0x9A1])
    found = []
    for group in groups.values():
        if (comparison := _of_prompt(group, names, pairs, rng, counts)) is not None:
            found.append(comparison)
    return found, counts


def _of_prompt(
    group: Sequence[SourceRow], names: Sequence[str], rule: str, rng: np.random.Generator, counts: Counter[str]
) -> Comparison | None:
    places: dict[str, int] = {}
    responses: list[Response] = []
    judged = _Judgements(len(names))
    scores, marks = _Ratings(names), _Ratings(names)
    gold: int | None = None
    reference: dict[int, float] = {}
    for row in group:
        here = []
        for response in row.responses:
            key = key_of(response)
            if key not in places:
                places[key] = len(responses)
                responses.append(response)
            here.append(places[key])
        if len(row.responses) == 1 and not row.scores and not row.marks:
            raise ComparisonError(f"{row.where} has one response and no `label`. Give at least two, or a mark.")
        for position, (a, b) in enumerate(row.pairs):
            if here[a] == here[b]:
                counts[SAME] += 1
                continue
            judged.add(
                (here[a], here[b]),
                row.user,
                [row.labels[name][position] if name in row.labels else math.nan for name in names],
                [row.margins[name][position] if name in row.margins else math.nan for name in names],
                1.0 if row.weight is None else row.weight,
            )
        scores.add(here, row.scores, row.user)
        marks.add(here, row.marks, None)
        if row.gold is not None:
            gold = here[row.gold]
        if row.reference is not None:
            reference |= dict(zip(here, row.reference, strict=True))
    labels = judged.labels()
    if not any(row.pairs for row in group):
        made = [_of_ratings(own, user, rule, rng) for user, own in scores.by_user(len(responses))]
        labels = _one_after_the_other(made) if made else labels
    rated = scores.mean(len(responses))
    marked = marks.mean(len(responses))
    if not len(labels) and rated is None and marked is None:
        return None  # all that was said of it was left out, and counted
    known = None if not reference else np.array([reference.get(i, math.nan) for i in range(len(responses))])
    return Comparison(group[0].prompt, tuple(responses), labels, rated, marked, gold, known, dict(group[0].columns))


def _of_ratings(own: FloatArray, user: Hashable, rule: str, rng: np.random.Generator) -> Labels:
    """The pairs that one user's ratings make."""
    chosen = choose_pairs(own, rule, rng)
    return Labels(chosen, *labels_of(own, chosen), None, None if user is None else (user,) * len(chosen))


def _one_after_the_other(parts: Sequence[Labels]) -> Labels:
    if len(parts) == 1:
        return parts[0]
    return Labels(
        np.concatenate([part.pairs for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.margins for part in parts if part.margins is not None]),
        None,
        tuple(user for part in parts for user in (part.users or (None,) * len(part))),
    )


class _Judgements:
    """The judgements of one prompt's pairs: sums of labels, margins and counts."""

    def __init__(self, m: int) -> None:
        self.m = m
        self.found: dict[tuple[int, int, Hashable], FloatArray] = {}

    def add(self, pair: tuple[int, int], user: Any, labels: Any, margins: Any, weight: float) -> None:
        """One more judgement; the pair keeps the order in which it was met first."""
        a, b = pair
        who = user if isinstance(user, Hashable) else repr(user)
        label, margin = np.asarray(labels, dtype=np.float64), np.asarray(margins, dtype=np.float64)
        if (a, b, who) not in self.found and (b, a, who) in self.found:
            a, b, label = b, a, 1 - label
        sums = self.found.setdefault((a, b, who), np.zeros((5, self.m)))
        said, told = ~np.isnan(label), ~np.isnan(margin)
        sums[0] += np.where(said, weight * label, 0)
        sums[1] += weight * said
        sums[2] += np.where(told, margin, 0)
        sums[3] += told
        sums[4] += said

    def labels(self) -> Labels:
        """Their means."""
        if not self.found:
            return Labels(np.empty((0, 2), dtype=np.int64), np.empty((0, self.m)))
        sums = np.stack(list(self.found.values()))  # [pairs, 5, m]
        with np.errstate(invalid="ignore", divide="ignore"):
            values, margins = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
        weights = sums[:, 1]
        plain = bool(np.isin(weights, (0.0, 1.0)).all())
        users = tuple(who for _, _, who in self.found)
        return Labels(
            np.array([(a, b) for a, b, _ in self.found], dtype=np.int64),
            np.clip(values, 0, 1),  # a mean of ones may miss 1 by rounding
            None if np.isnan(margins).all() else margins,
            None if plain else weights,
            None if all(who is None for who in users) else users,
        )


class _Ratings:
    """Ratings, or marks, of one prompt's responses, by user."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.found: dict[Hashable, list[tuple[list[int], list[list[float]]]]] = {}

    def add(self, here: list[int], by_name: dict[str, list[float]], user: Any) -> None:
        """Those of one row."""
        if by_name:
            who = user if isinstance(user, Hashable) else repr(user)
            columns = [by_name.get(name) or [math.nan] * len(here) for name in self.names]
            self.found.setdefault(who, []).append((here, columns))

    def mean(self, count: int) -> FloatArray | None:
        """`[G, m]` means over all users; None without any."""
        if not self.found:
            return None
        return _means([entry for entries in self.found.values() for entry in entries], count, len(self.names))

    def by_user(self, count: int) -> list[tuple[Hashable, FloatArray]]:
        """Each user's own."""
        return [(user, _means(entries, count, len(self.names))) for user, entries in self.found.items()]


def _means(entries: list[tuple[list[int], list[list[float]]]], count: int, m: int) -> FloatArray:
    if len(entries) == 1 and entries[0][0] == list(range(count)):
        return np.array(entries[0][1], dtype=np.float64).T
    total, seen = np.zeros((count, m)), np.zeros((count, m))
    for here, columns in entries:
        values = np.array(columns, dtype=np.float64).T  # [responses of the row, m]
        for place, row in zip(here, values, strict=True):
            known = ~np.isnan(row)
            total[place] += np.where(known, row, 0)
            seen[place] += known
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / seen)
