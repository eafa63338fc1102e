"""From what the user calls prompts to rows: lists, datasets and tables. No model is needed, so this comes first."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pareto_align.errors import ConfigError, PromptError
from pareto_align.messages import read_prompt, template_variables
from pareto_align.objectives.calling import ROLLOUT_NAMES, TRAINER_NAMES
from pareto_align.printable import kind_of

__all__ = ["Row", "list_prompts", "read_row", "read_rows"]

NAME_IT = "Rename the one that holds the prompt, or name it: `prompt_column` of `fit`, `column` in a config file."


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt as the user gave it.

    Attributes:
        prompt: Text or chat messages, checked, and not yet tokens.
        columns: What else the row has.
    """

    prompt: Any
    columns: Mapping[str, Any]


def read_rows(
    prompts: Any, argument: str = "prompts", *, like: Sequence[Row] | None = None, column: str = "prompt"
) -> list[Row]:
    """The rows of a list, a dataset or a table, all of one form.

    Args:
        prompts: Texts, chat messages, or mappings with a `prompt` and any further columns; a `datasets.Dataset`, a
            DataFrame of pandas or polars or a pyarrow Table with a column `prompt`.
        argument: What the prompts were given as.
        like: Rows that these must be like, in form and columns.
        column: The key or column that holds the prompt.

    Raises:
        PromptError: There are no prompts, one is of the wrong form, or rows differ in form or columns.
    """
    rows: list[Row] = []
    named = "Prompt" if argument == "prompts" else f"`{argument}`, prompt"
    for number, item in enumerate(list_prompts(prompts, argument, column)):
        where = f"{named} {number}"
        row = read_row(item, where, column)
        if rows or like:
            first = (rows or like or [row])[0]
            told = "the first one" if rows else "`prompts`"
            if isinstance(row.prompt, str) != isinstance(first.prompt, str):
                forms = ("text", "a conversation") if isinstance(row.prompt, str) else ("a conversation", "text")
                raise PromptError(
                    f"{where} is {forms[0]}, {told} {'is' if rows else 'are'} {forms[1]}. A reward function is given "
                    "answers of one form: give all prompts as texts, or all as lists of messages."
                )
            if row.columns.keys() != first.columns.keys():
                raise PromptError(
                    f"{where} has the columns {sorted(row.columns)}, {told} "
                    f"{'has' if rows else 'have'} {sorted(first.columns)}."
                )
        rows.append(row)
    if not rows:
        raise PromptError(f"There are no prompts: `{argument}` is empty.")
    return rows


def read_row(item: Any, where: str, column: str = "prompt") -> Row:
    """One row, checked.

    Args:
        item: A prompt, or a mapping with a `prompt` and further columns.
        where: How the message of an error begins.
        column: The key that holds the prompt. Where it is another one, what is called `prompt` is left out.

    Raises:
        PromptError: It is none, or has a column that rewards cannot be given.
    """
    columns: dict[str, Any] = {}
    if column != "prompt" and not isinstance(item, Mapping):
        raise PromptError(f"{where} has no column {column!r}: it is {kind_of(item)}.")
    if isinstance(item, Mapping) and not (column not in item and "role" in item):
        if column not in item:
            raise PromptError(
                f"{where} is a mapping without a {column!r}. Its keys: {', '.join(map(str, item)) or 'none'}. {NAME_IT}"
            )
        if strange := [key for key in item if not isinstance(key, str)]:
            raise PromptError(f"{where} has the column {strange[0]!r}; names of columns must be text.")
        columns = {key: value for key, value in item.items() if key not in (column, "prompt")}
        item = item[column]
    if bad := [name for name in (*ROLLOUT_NAMES, *TRAINER_NAMES) if name in columns]:
        raise PromptError(f"{where} has a column {bad[0]!r}, a name that reward functions already use.")
    try:
        read_prompt(item)
        template_variables(columns.get("chat_template_kwargs"))
    except (PromptError, ConfigError) as error:
        raise PromptError(f"{where}: {error}") from None
    return Row(item if isinstance(item, str) else _plain(item), columns)


def _plain(conversation: Any) -> Any:
    """An array of messages as the list that it stands for; JSON and reward functions know no other."""
    return list(conversation) if isinstance(conversation, list) else [dict(turn) for turn in conversation]


def list_prompts(prompts: Any, argument: str = "prompts", column: str = "prompt") -> list[Any]:
    """Prompts as they were given, in a list; the rows of a table as mappings, for iterating over it gives columns.

    Raises:
        PromptError: It is nothing that has rows in an order.
    """
    found = f"Found {kind_of(prompts)}"
    if isinstance(prompts, str | bytes | bytearray | os.PathLike | io.IOBase):
        raise PromptError(
            f"`{argument}` must be a list of prompts. {found}. A file of prompts is read by "
            "`pareto_align.config.read_prompt_file(path)`."
        )
    if isinstance(prompts, Mapping):
        tables = [str(name) for name, part in prompts.items() if hasattr(part, "column_names") or _is_table(part)]
        told = (
            f"Choose one of its splits, such as {argument}[{tables[0]!r}]: it has {', '.join(tables)}."
            if tables
            else 'Give a list with one mapping a prompt: [{"prompt": ...}, ...].'
        )
        raise PromptError(f"`{argument}` must be a list of prompts. {found}. {told}")
    if isinstance(prompts, set | frozenset):
        raise PromptError(
            f"`{argument}` must have an order, or no run could be repeated. {found}: give `sorted({argument})`."
        )
    if _is_table(prompts):
        return _records(prompts, argument, column)
    if hasattr(prompts, "to_pylist"):  # an array of pyarrow, whose entries are no Python values
        return list(prompts.to_pylist())
    try:
        rows = iter(prompts)
    except TypeError:
        raise PromptError(f"`{argument}` must be a list of prompts. {found}.") from None
    return list(rows)


def _is_table(value: Any) -> bool:
    """Whether iterating over it would give columns, or names of columns: frames of any library, Tables of pyarrow."""
    kind = type(value)  # asking a lazy frame itself for its columns may begin to compute them
    return hasattr(kind, "columns") or (hasattr(kind, "to_pylist") and hasattr(kind, "schema"))


def _records(table: Any, argument: str, column: str) -> list[Any]:
    kind = f"{type(table).__module__.partition('.')[0]}'s {type(table).__name__}"
    if hasattr(table, "to_pylist"):  # pyarrow
        names, read = table.schema.names, table.to_pylist
    elif hasattr(table, "to_dicts"):  # polars
        names, read = table.columns, table.to_dicts
    elif hasattr(table, "iterrows") and hasattr(table, "to_dict") and not hasattr(table, "compute"):  # pandas
        names, read = table.columns, functools.partial(table.to_dict, "records")
    else:
        raise PromptError(
            f"`{argument}` must be a list of prompts. Found {kind}, which is not read: turn it into a DataFrame of "
            "pandas or a list of mappings first."
        )
    names = list(names)
    if strange := [name for name in names if not isinstance(name, str)]:
        raise PromptError(f"`{argument}` has the column {strange[0]!r}; names of columns must be text. Found {kind}.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise PromptError(f"`{argument}` has the column {twice[0]!r} twice. Found {kind}.")
    if column not in names:
        raise PromptError(
            f"`{argument}` has no column {column!r}. Found {kind} with the columns {', '.join(names) or 'none'}. "
            f"{NAME_IT}"
        )
    return list(read())
