"""Prompts by a mapping: a file or a data set of the Hugging Face Hub, which split, and which columns of it.

datasets is imported when a data set is asked for, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pareto_align.config.keys import PROMPT_KEYS, check_keys
from pareto_align.config.prompt_files import checked_prompt, read_prompt_file
from pareto_align.errors import ConfigError, PromptError

__all__ = ["read_prompt_set"]


def read_prompt_set(spec: Mapping[str, Any], key: str, folder: Path) -> list[Any]:
    """The prompts that a mapping of a config describes.

    Args:
        spec: `PROMPT_KEYS` and their values.
        key: The key of the config, for errors.
        folder: What paths are relative to.

    Raises:
        ConfigError: A key or a value is none, or the package that reads it is not installed.
        PromptError: The prompts cannot be read, or a column is not there.
    """
    check_keys(dict(spec), PROMPT_KEYS, f"`{key}`")
    path, name = spec.get("path"), spec.get("dataset")
    if (path is None) == (name is None):
        raise ConfigError(f"`{key}` needs either `path`, a file, or `dataset`, a data set.")
    column, columns, limit = spec.get("column", "prompt"), spec.get("columns"), spec.get("limit")
    for what, value in (("column", column), ("path", path or "x"), ("dataset", name or "x")):
        if not isinstance(value, str) or not value:
            raise ConfigError(f"`{key}.{what}` must be text. Found {value!r:.80}.")
    listed = isinstance(columns, list) and all(isinstance(one, str) for one in columns)
    named = isinstance(columns, dict) and all(isinstance(x, str) for pair in columns.items() for x in pair)
    if columns is not None and not listed and not named:
        raise ConfigError(
            f"`{key}.columns` must be a list of names, or map new names to theirs. Found {columns!r:.80}."
        )
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ConfigError(f"`{key}.limit` must be a whole number of at least 1. Found {limit!r:.40}.")
    if path is not None:
        if given := [one for one in ("config", "split", "revision") if spec.get(one) is not None]:
            raise ConfigError(f"`{key}.{given[0]}` is for a `dataset`, not for a file.")
        return read_prompt_file(folder / os.path.expanduser(path), column=column, columns=columns)[:limit]
    assert name is not None
    rows = _loaded(name, spec, key, folder)
    if limit is not None:
        rows = rows.select(range(min(limit, len(rows))))
    return [checked_prompt(dict(row), f"{name}, row {number}", column, columns) for number, row in enumerate(rows)]


def _loaded(name: str, spec: Mapping[str, Any], key: str, folder: Path) -> Any:
    """The rows of one split of a data set."""
    if find_spec("datasets") is None:
        raise ConfigError(
            f"`{key}.dataset` needs the package datasets. Install it with `pip install 'pareto-align[datasets]'`."
        )
    import datasets

    source = str((folder / os.path.expanduser(name)).resolve()) if name.startswith((".", "~", "/")) else name
    split = spec.get("split")
    try:
        found = datasets.load_dataset(source, spec.get("config"), split=split, revision=spec.get("revision"))
    except Exception as error:  # what it raises is that of a dozen libraries below it
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PromptError(f"Cannot load the data set {name!r}: {lines[0]}") from error
    if isinstance(found, Mapping):
        raise PromptError(f"The data set {name!r} has the splits {', '.join(found)}: say which one by `{key}.split`.")
    return found
