"""Prompts from files: text, JSON, CSV and Parquet."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pareto_align.arguments import path_of
from pareto_align.data.rows import read_row
from pareto_align.errors import ConfigError, PromptError
from pareto_align.printable import kind_of

__all__ = ["checked_prompt", "read_prompt_file"]


@dataclass(frozen=True)
class Shape:
    """How a prompt is made of what stands in a file; see `checked_prompt`."""

    column: str = "prompt"
    columns: Sequence[str] | Mapping[str, str] | None = None

    def __call__(self, item: Any, where: str) -> Any:
        """A prompt; the text says where it stands, for an error."""
        return checked_prompt(item, where, self.column, self.columns)


def read_prompt_file(
    path: str | Path, *, column: str = "prompt", columns: Sequence[str] | Mapping[str, str] | None = None
) -> list[Any]:
    """The prompts of a file, as `ParetoAligner.fit` takes them.

    Args:
        path: `.txt`: one prompt a line, empty lines passed over. `.jsonl`: one JSON value a line, `.json`: a list of
            them; each is a text or an object with a prompt. `.csv`: a header and a row a line; `.parquet`, where
            pyarrow is installed. Further keys and columns go to the reward functions by name; those of a CSV file are
            text.
        column: The key or column that holds the prompt.
        columns: Those of the others that go along, or a mapping of new names to theirs; by default all.

    Raises:
        PromptError: The file cannot be read, is of another kind, or a line holds no prompt.
        ConfigError: A Parquet file, and pyarrow is not installed.
    """
    file = path_of(path, "path")
    readers: dict[str, Callable[[Path, Shape], list[Any]]] = {
        ".txt": _text,
        ".jsonl": _json_lines,
        ".json": _json,
        ".csv": _csv,
        ".parquet": _parquet,
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise PromptError(f"Prompts come from {', '.join(readers)} files. Found {file}.")
    try:
        prompts = reader(file, Shape(column, columns))
    except OSError as error:
        raise PromptError(f"Cannot read the prompts in {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"The prompts in {file} are not UTF-8 text.") from error
    if not prompts:
        raise PromptError(f"There are no prompts in {file}.")
    return prompts


def checked_prompt(
    item: Any, where: str, column: str = "prompt", columns: Sequence[str] | Mapping[str, str] | None = None
) -> Any:
    """A prompt as `fit` takes it, of a row whose columns are called otherwise.

    Raises:
        PromptError: A column is not there, or the row holds no prompt.
    """
    if isinstance(item, Mapping) and (column != "prompt" or columns is not None):
        names = {name: name for name in item if name not in (column, "prompt")} if columns is None else (
            dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
        )  # fmt: skip
        for name in (column, *names.values()):
            if name not in item:
                raise PromptError(
                    f"{where} has no column {name!r}. Its columns: {', '.join(map(str, item)) or 'none'}."
                )
        item = {"prompt": item[column], **{new: item[old] for new, old in names.items()}}
    read_row(item, where)
    return item


def _lines(file: Path) -> list[tuple[int, str]]:
    """The lines that hold something, with their numbers."""
    # not splitlines: some of what it takes for the end of a line may stand inside a JSON text
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _text(file: Path, shape: Shape) -> list[Any]:
    return [line for _, line in _lines(file)]


def _parquet(file: Path, shape: Shape) -> list[Any]:
    if find_spec("pyarrow") is None:
        raise ConfigError(f"{file} is a Parquet file, and pyarrow, which reads it, is not installed. Install it.")
    from pyarrow import ArrowException, parquet

    try:
        rows = parquet.read_table(file).to_pylist()
    except ArrowException as error:
        raise PromptError(f"Cannot read the prompts in {file}: {error}.") from error
    return [shape(row, f"{file}, row {number}") for number, row in enumerate(rows)]


def _json_lines(file: Path, shape: Shape) -> list[Any]:
    prompts = []
    for number, line in _lines(file):
        where = f"{file}, line {number}"
        item = _loads(line, where)
        if isinstance(item, list) and any(
            isinstance(entry, str) or (isinstance(entry, dict) and "prompt" in entry) for entry in item
        ):
            raise PromptError(f"{where} holds a list of prompts. Save it as a .json file, or write one prompt a line.")
        prompts.append(shape(item, where))
    return prompts


def _json(file: Path, shape: Shape) -> list[Any]:
    found = _loads(file.read_text(encoding="utf-8-sig"), str(file))
    if not isinstance(found, list):
        raise PromptError(f"{file} must hold a list of prompts. Found {kind_of(found)}.")
    return [shape(item, f"{file}, prompt {number}") for number, item in enumerate(found)]


def _loads(text: str, where: str) -> Any:
    """A JSON value; a key that is given twice is an error, for json would take the last."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := _twice([key for key, _ in pairs]):
            raise PromptError(f"{where}: the key {twice[0]!r} is given twice in one object.")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        place = where if "\n" not in text else f"{where}, line {error.lineno}"
        raise PromptError(f"{place} is not valid JSON: {error.msg}.") from None
    except PromptError:
        raise
    except ValueError:  # Python's own limit on digits
        raise PromptError(f"{where} holds a whole number with too many digits to be read. Write it as text.") from None
    except RecursionError:
        raise PromptError(f"{where}: its values are nested too deeply.") from None


def _csv(file: Path, shape: Shape) -> list[Any]:
    prompts = []
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            columns = list(reader.fieldnames or [])
            if shape.column not in columns:
                raise PromptError(
                    f"{file} has no column `{shape.column}`. Its columns: {', '.join(columns) or 'none'}."
                )
            if twice := _twice(columns):
                raise PromptError(f"{file} has two columns {twice[0]!r}. Rename or remove one.")
            for row in reader:
                if None in row or None in row.values():
                    raise PromptError(f"{file}, line {reader.line_num} does not have {len(columns)} cells.")
                prompts.append(shape(dict(row), f"{file}, line {reader.line_num}"))
        except csv.Error as error:
            raise PromptError(f"{file}, line {reader.line_num}: {error}.") from None
    return prompts


def _twice(names: list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
