"""From what the user calls prompts to rows of tokens, and the three splits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pareto_align.data.rows import Row, read_rows
from pareto_align.errors import ParetoAlignWarning, PromptError
from pareto_align.policies.base import Base
from pareto_align.policies.base import Prompt as PromptContent
from pareto_align.seeds import seed_for

__all__ = [
    "PromptRow",
    "Splits",
    "check_groups",
    "encode_rows",
    "groups_of",
    "read_prompts",
    "split_prompts",
    "warn_of_few",
    "warn_of_shared",
]

FEW = 8
"""Held-out prompts below which most differences between policies are noise."""


@dataclass(frozen=True, eq=False)
class PromptRow:
    """One prompt of the data set.

    Attributes:
        prompt: Text or chat messages, handed to the rewards as it is.
        ids: Its tokens.
        columns: The row's other columns, forwarded to the rewards by name.
    """

    prompt: PromptContent
    ids: tuple[int, ...]
    columns: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Splits:
    """Prompts to train on, to decide on, and to publish on; the last are read once, at the end.

    Attributes:
        train: Policies learn on these.
        select: The archive decides on these.
        report: Only what is published is measured on these.
    """

    train: list[PromptRow]
    select: list[PromptRow]
    report: list[PromptRow]


def read_prompts(prompts: Any, base: Base, max_new_tokens: int, argument: str = "prompts") -> list[PromptRow]:
    """Prompts as token rows.

    Args:
        prompts: As `read_rows` takes them.
        base: The model whose tokenizer and context length count.
        max_new_tokens: T, which must fit into the context behind the prompt.
        argument: What the prompts were given as.

    Raises:
        PromptError: There are no prompts, one is of the wrong form or too long, or rows differ in their columns.
    """
    return encode_rows(read_rows(prompts, argument), base, max_new_tokens, argument)


def encode_rows(given: Sequence[Row], base: Base, max_new_tokens: int, argument: str = "prompts") -> list[PromptRow]:
    """Rows with their prompts as tokens.

    Raises:
        PromptError: A prompt is too long, or the chat template refuses it.
        ModelError: The model has no row for one of the tokens.

    Warns:
        ParetoAlignWarning: A prompt holds a special token of the chat template as text.
    """
    named = "Prompt" if argument == "prompts" else f"`{argument}`, prompt"
    rows: list[PromptRow] = []
    marked: list[tuple[int, str]] = []
    for number, row in enumerate(given):
        try:
            ids = base.encode(row.prompt, row.columns.get("chat_template_kwargs"))
        except PromptError as error:
            raise PromptError(f"{named} {number}: {error}") from None
        if len(ids) + max_new_tokens > base.context_length:
            raise PromptError(
                f"{named} {number} has {len(ids)} tokens; with max_new_tokens={max_new_tokens} it exceeds the model's "
                f"context of {base.context_length}."
            )
        marked += [(number, token) for token in base.special_tokens_in(row.prompt)[:1]]
        rows.append(PromptRow(row.prompt, tuple(ids), row.columns))
    if marked:
        number, token = marked[0]
        warnings.warn(
            f"{named} {number} holds {token!r}, which the policy reads as the chat template's own token and not as text"
            + (f"; so do {len(marked) - 1} others." if len(marked) > 1 else ".")
            + " Prompts that are rendered already need use_chat_template=False.",
            ParetoAlignWarning,
            stacklevel=3,
        )
    return rows


def check_groups(rows: Sequence[PromptRow | Row], column: str | None) -> None:
    """Refuse a column of groups that the prompts to hold out do not have.

    Raises:
        PromptError: It says which columns there are.
    """
    if column is not None and column not in rows[0].columns:
        found = f"Found the columns {', '.join(map(repr, rows[0].columns))}" if rows[0].columns else "They have none"
        raise PromptError(f"`eval_group` names the column {column!r}, which the held-out prompts lack. {found}.")


def groups_of(rows: Sequence[PromptRow], column: str | None) -> list[int] | None:
    """Which prompts belong together: one number a row, the same for the same value; None where no column is named.

    A prompt without a value (None or NaN) belongs to no other.
    """
    if column is None:
        return None
    numbers: dict[Any, int] = {}
    found = []
    for position, row in enumerate(rows):
        value = row.columns[column]
        # values may be unhashable; equal ones are written alike, and 1 is not the text "1"
        key = ("alone", position) if value is None or value != value else repr(value)
        found.append(numbers.setdefault(key, len(numbers)))
    return found


def warn_of_few(splits: Splits, wanted: int, group: str | None = None) -> None:
    """Say so where far fewer prompts are held out than were asked for, and what is measured is mostly noise.

    Args:
        splits: The prompts.
        wanted: How many were asked for.
        group: Column whose values make prompts one unit.

    Warns:
        ParetoAlignWarning: The select split has fewer than FEW prompts, and fewer than `wanted`, or they are of fewer
            than FEW groups.
    """
    found = len(splits.select)
    groups = len(set(groups_of(splits.select, group) or range(found)))
    if found >= min(FEW, wanted) and groups < FEW and group is not None:
        warnings.warn(
            f"The {found} prompts held out to select on have only {groups} value{'' if groups == 1 else 's'} of "
            f"{group!r}, and each counts as one measurement. Most differences between policies will be noise. Hold out "
            f"prompts of at least {FEW} groups, or leave `eval_group` out.",
            ParetoAlignWarning,
            stacklevel=3,
        )
    if found >= min(FEW, wanted):
        return
    if splits.select == splits.train:
        told = f"There are too few prompts to hold any out: all {found} serve to train, to select and to report on"
    else:
        told = f"Only {found} prompts are held out to select on, and {len(splits.report)} to report on"
    warnings.warn(
        f"{told}. Most differences between policies will be noise. Give at least {4 * FEW} prompts, or `eval_prompts` "
        "of their own.",
        ParetoAlignWarning,
        stacklevel=3,
    )


def warn_of_shared(splits: Splits) -> None:
    """Say so where held-out prompts are not held out at all, or are one prompt several times.

    Warns:
        ParetoAlignWarning: A prompt is in two splits, or twice in a held-out one.
    """
    if splits.select == splits.train:
        return  # said by `warn_of_few`
    # the same words to another group of users, or with another answer, are another prompt
    train, select, report = (
        [(row.ids, repr(row.columns)) for row in part] for part in (splits.train, splits.select, splits.report)
    )
    known = set(train)
    shared = sum(row in known for row in (*select, *report))
    if shared:
        told = f"{shared} of {len(select) + len(report)} held-out prompts are training prompts as well"
    elif twice := len(select) + len(report) - len({*select, *report}):
        told = f"{twice} of {len(select) + len(report)} held-out prompts are there more than once"
    else:
        return
    warnings.warn(
        f"{told}, so the published numbers are not of unseen prompts, and their intervals are too narrow.",
        ParetoAlignWarning,
        stacklevel=3,
    )


def split_prompts(rows: list[PromptRow], held_out: list[PromptRow] | None, count: int, seed: int) -> Splits:
    """Three splits without overlap; fewer than four rows without `held_out` are too few and serve as all three.

    Args:
        rows: The prompts given to train on.
        held_out: Prompts given for evaluation, cut in halves for select and report; None takes them from `rows`.
        count: Prompts of the select split, and as many of the report split. Where `rows` are few, each of the two
            takes a quarter of them at most.
        seed: Decides which prompts are held out.

    Raises:
        PromptError: `held_out` has fewer than two prompts.
    """
    if held_out is not None:
        if len(held_out) < 2:
            raise PromptError(
                f"`eval_prompts` must hold at least 2 prompts, to select on and to report on. Found {len(held_out)}."
            )
        order = np.random.default_rng(seed_for(seed, "splits")).permutation(len(held_out))
        half = min(count, len(held_out) // 2)
        return Splits(rows, [held_out[i] for i in order[:half]], [held_out[i] for i in order[half : 2 * half]])
    each = min(count, len(rows) // 4)
    if each < 1:
        # a handful of prompts (a bandit has one): nothing can be held out, so all three splits are the same prompts
        return Splits(rows, list(rows), list(rows))
    order = np.random.default_rng(seed_for(seed, "splits")).permutation(len(rows))
    parts = order[:each], order[each : 2 * each], order[2 * each :]
    select, report, train = ([rows[i] for i in sorted(part)] for part in parts)
    return Splits(train, select, report)
