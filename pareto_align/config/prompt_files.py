"""Prompts from files: text, JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pareto_align.errors import PromptError

__all__ = ["read_prompt_file"]


def read_prompt_file(path: str | Path) -> list[Any]:
    """The prompts of a file, as `ParetoAligner.fit` takes them.

    Args:
        path: `.txt`: one prompt a line, empty lines passed over. `.jsonl`: one JSON value a line, `.json`: a list of
            them; each is a text or an object with a `prompt`. `.csv`: a header with a `prompt` column. Further keys
            and columns go to the reward functions by name; those of a CSV file are text.

    Raises:
        PromptError: The file cannot be read, is of another kind, or a line holds no prompt.
    """
    file = Path(path)
    readers: dict[str, Callable[[Path], list[Any]]] = {
        ".txt": _text,
        ".jsonl": _json_lines,
        ".json": _json,
        ".csv": _csv,
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise PromptError(f"Prompts come from {', '.join(readers)} files. Found {file}.")
    try:
        prompts = reader(file)
    except OSError as error:
        raise PromptError(f"Cannot read the prompts in {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"The prompts in {file} are not UTF-8 text.") from error
    if not prompts:
        raise PromptError(f"There are no prompts in {file}.")
    return prompts


def _lines(file: Path) -> list[tuple[int, str]]:
    """The lines that hold something, with their numbers."""
    # not splitlines: some of what it takes for the end of a line may stand inside a JSON text
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _text(file: Path) -> list[Any]:
    return [line for _, line in _lines(file)]


def _json_lines(file: Path) -> list[Any]:
    prompts = []
    for number, line in _lines(file):
        where = f"{file}, line {number}"
        try:
            prompts.append(_prompt(json.loads(line), where))
        except json.JSONDecodeError as error:
            raise PromptError(f"{where} is not valid JSON: {error.msg}.") from None
    return prompts


def _json(file: Path) -> list[Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise PromptError(f"{file}, line {error.lineno} is not valid JSON: {error.msg}.") from None
    if not isinstance(found, list):
        raise PromptError(f"{file} must hold a list of prompts. Found a {type(found).__name__}.")
    return [_prompt(item, f"{file}, prompt {number}") for number, item in enumerate(found)]


def _prompt(item: Any, where: str) -> Any:
    if isinstance(item, dict) and "prompt" not in item:
        raise PromptError(f"{where} has no `prompt`. Its keys: {', '.join(map(str, item)) or 'none'}.")
    if not isinstance(item, str | dict | list):
        raise PromptError(f"{where} is neither a text nor an object with a `prompt`. Found {item!r}.")
    return item


def _csv(file: Path) -> list[Any]:
    prompts = []
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            columns = reader.fieldnames or []
            if "prompt" not in columns:
                raise PromptError(f"{file} has no column `prompt`. Its columns: {', '.join(columns) or 'none'}.")
            for row in reader:
                if None in row or None in row.values():
                    raise PromptError(f"{file}, line {reader.line_num} does not have {len(columns)} cells.")
                prompts.append(dict(row))
        except csv.Error as error:
            raise PromptError(f"{file}, line {reader.line_num}: {error}.") from None
    return prompts
