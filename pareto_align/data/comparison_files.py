"""Comparisons from files: .jsonl, .json, .csv and compressed .jsonl.gz; Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pareto_align.errors import ComparisonError, ConfigError

__all__ = ["read_rows_of_file"]

Found = tuple[list[Mapping[str, Any]], list[str]]


def read_rows_of_file(path: str | Path) -> Found:
    """The rows of a file, and how the message of an error about each begins.

    Args:
        path: `.jsonl` or `.jsonl.gz`: one JSON object a line; `.json`: a list of them; `.csv`: a header and a row a
            line; `.parquet`, where pyarrow is installed.

    Raises:
        ComparisonError: The file cannot be read, is of another kind, or a line holds no object.
        ConfigError: A Parquet file, and pyarrow is not installed.
    """
    file = Path(os.path.expanduser(path))
    readers: dict[str, Callable[[Path], Found]] = {
        ".jsonl": _json_lines,
        ".jsonl.gz": _json_lines,
        ".json": _json,
        ".csv": _csv,
        ".parquet": _parquet,
    }
    suffix = next((ending for ending in readers if file.name.lower().endswith(ending)), None)
    if suffix is None:
        raise ComparisonError(f"Comparisons come from {', '.join(readers)} files. Found {file}.")
    try:
        rows, wheres = readers[suffix](file)
    except (OSError, EOFError) as error:  # a compressed file that is cut off, too
        raise ComparisonError(
            f"Cannot read the comparisons in {file}: {getattr(error, 'strerror', 0) or error}."
        ) from error
    except UnicodeDecodeError as error:
        raise ComparisonError(f"The comparisons in {file} are not UTF-8 text.") from error
    if not rows:
        raise ComparisonError(f"There are no comparisons in {file}.")
    return rows, wheres


def _json_lines(file: Path) -> Found:
    rows: list[Mapping[str, Any]] = []
    wheres = []
    packed = file.suffix == ".gz"
    with gzip.open(file, "rt", encoding="utf-8-sig") if packed else file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                where = f"{file}, line {number}"
                rows.append(_object(_loads(line, where), where))
                wheres.append(where)
    return rows, wheres


def _json(file: Path) -> Found:
    found = _loads(file.read_text(encoding="utf-8-sig"), str(file))
    if not isinstance(found, list):
        raise ComparisonError(f"{file} must hold a list of comparisons. Found a {type(found).__name__}.")
    wheres = [f"{file}, comparison {number}" for number in range(len(found))]
    return [_object(item, where) for item, where in zip(found, wheres, strict=True)], wheres


def _csv(file: Path) -> Found:
    rows: list[Mapping[str, Any]] = []
    wheres = []
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            columns = list(reader.fieldnames or [])
            if twice := sorted({name for name in columns if columns.count(name) > 1}):
                raise ComparisonError(f"{file} has two columns {twice[0]!r}. Rename or remove one.")
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise ComparisonError(f"{where} does not have {len(columns)} cells.")
                rows.append(dict(row))
                wheres.append(where)
        except csv.Error as error:
            raise ComparisonError(f"{file}, line {reader.line_num}: {error}.") from None
    return rows, wheres


def _parquet(file: Path) -> Found:
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"{file} is a Parquet file, and pyarrow, which reads it, is not installed. Install it.")
    from pyarrow import ArrowException, parquet

    try:
        rows = parquet.read_table(file).to_pylist()
    except ArrowException as error:
        raise ComparisonError(f"Cannot read the comparisons in {file}: {error}.") from error
    return rows, [f"{file}, row {number}" for number in range(len(rows))]


def _loads(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ComparisonError(f"{where} is not valid JSON: {error.msg}.") from None
    except ValueError:  # Python's own limit on digits
        raise ComparisonError(f"{where} holds a whole number with too many digits to be read.") from None
    except RecursionError:
        raise ComparisonError(f"{where}: its values are nested too deeply.") from None


def _object(item: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise ComparisonError(f"{where} must hold an object with columns. Found a {type(item).__name__}.")
    return item
