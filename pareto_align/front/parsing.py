"""What front.json may say: every key, type, shape and number is checked before a record is made of it.

A front.json may come from anywhere, so nothing is converted silently: a number in quotes is damage, not a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pareto_align.front.estimates import Estimate
from pareto_align.front.records import FamilyRecord, FrontRecord, MemberRecord, ObjectiveRecord

__all__ = ["DamagedRecord", "check_plain", "parse_front", "shown", "turned"]

MAX_DEPTH = 32
MAX_INTEGER = 1 << 64
MAX_NUMBER = 1e30
"""Products of a few numbers beyond this overflow; no reward means anything long before."""
ROUNDING = 1e-6
"""How far the correlations of a measurement may miss being symmetric and positive semidefinite."""
ROLES = ("optimize", "constrain", "audit")
SPLITS = ("select", "report")
READINGS = ("place", "rate")

Reader = Callable[[Any, str], Any]
Record = TypeVar("Record", FrontRecord, FamilyRecord, MemberRecord, ObjectiveRecord)


class DamagedRecord(ValueError):
    """What is wrong with the content of a front.json; who reads the file says which one it is."""


def check_plain(value: Any, depth: int = 0) -> None:
    """Refuse what JSON allows and nothing here writes: deep nesting, huge numbers, halves of surrogate pairs.

    Raises:
        DamagedRecord: One of these was found.
    """
    if depth > MAX_DEPTH:
        raise DamagedRecord("it is nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            check_plain(key, depth + 1)
            check_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_plain(item, depth + 1)
    elif isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise DamagedRecord(f"the text {shown(value)} is no Unicode")
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise DamagedRecord(f"the number {shown(value)} is too large")
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise DamagedRecord("a number is infinite")


def parse_front(data: Mapping[str, Any]) -> FrontRecord:
    """The record, in maximised units, that the plain content of a front.json stands for.

    Raises:
        DamagedRecord: Something in it has the wrong type, shape or value; the message says what and where.
    """
    objectives = [_objective(v, at) for v, at in _items(data.get("objectives"), "objectives")]
    _distinct((o.name for o in objectives), "objectives are called")
    signs = np.array([1.0 if o.maximize else -1.0 for o in objectives])
    m = sum(o.role == "optimize" for o in objectives)
    if not m:
        raise DamagedRecord("no objective has the role 'optimize'")
    members = [_member(v, at, signs, m) for v, at in _items(data.get("members"), "members")]
    _distinct((member.id for member in members), "members are called")
    _distinct((member.adapter.casefold() for member in members if member.adapter), "members share the folder")
    return _made(
        FrontRecord,
        data,
        "front.json",
        {
            "objectives": lambda v, at: objectives,
            "members": lambda v, at: members,
            "base": _base,
            "split": lambda v, at: _one_of(v, SPLITS, at),
            "reference": lambda v, at: _numbers(v, m, at) if v != [] else [],
            "reference_policy": lambda v, at: None if v is None else _estimate(v, at, signs),
            "reference_sample": lambda v, at: _sample(v, at, len(signs)),
            "fallen": lambda v, at: [_fallen(row, where, len(signs)) for row, where in _items(v, at)],
            "cost": _mapping,
            "config": _config,
            "parity": _parity,
            "family": lambda v, at: None if v is None else _family(v, at, m, len(signs)),
            "ceilings": lambda v, at: _ceilings(v, at, m),
            "created": _text,
        },
    )


def turned(value: float, maximize: bool) -> float:
    """An end of the frame in the user's units from one in maximised units; its own inverse."""
    return value if maximize else 0.0 - value


# ---- its parts -------------------------------------------------------------------------------------------------------


def _objective(data: Any, at: str) -> ObjectiveRecord:
    row = dict(_mapping(data, at))
    maximize = _truth(row.get("maximize"), f"{at}.maximize")
    for end, inside in (("worst", "lower"), ("best", "upper")):
        if end not in row or inside in row:
            raise DamagedRecord(f"{at} has no {end}")
        row[inside] = turned(_number(row.pop(end), f"{at}.{end}"), maximize)
    if not row["lower"] < row["upper"]:
        raise DamagedRecord(f"{at}: best is not better than worst")
    readers: dict[str, Reader] = {
        "name": _name,
        "role": lambda v, where: _one_of(v, ROLES, where),
        "bounds": lambda v, where: None if v is None else tuple(_numbers(v, 2, where)),
        "at_least": _number_or_none,
        "at_most": _number_or_none,
        "tolerance": _number,
        "description": _text,
    }
    objective = _made(ObjectiveRecord, row, at, readers)
    if objective.bounds is not None and not objective.bounds[0] < objective.bounds[1]:
        raise DamagedRecord(f"{at}.bounds: the lowest value is not below the highest")
    return objective


def _member(data: Any, at: str, signs: NDArray[np.float64], m: int) -> MemberRecord:
    readers: dict[str, Reader] = {
        "id": _name,
        "estimate": lambda v, where: _estimate(v, where, signs),
        "preference": lambda v, where: None if v is None else _weights(v, m, where),
        "provenance": _mapping,
        "adapter": _text,
        "files": _files,
        "sample": lambda v, where: _sample(v, where, len(signs)),
    }
    return _made(MemberRecord, data, at, readers)


def _sample(data: Any, at: str, count: int) -> list[dict[str, Any]]:
    """A few answers; prompts and completions are whatever they are."""
    rows = [dict(_mapping(row, where)) for row, where in _items(data, at)]
    for i, row in enumerate(rows):
        if row.get("prompt_id") is not None:
            _integer(row["prompt_id"], f"{at}[{i}].prompt_id", -(1 << 63), (1 << 63) - 1)
        if row.get("rewards") is not None:
            _numbers(row["rewards"], count, f"{at}[{i}].rewards", missing=True)
    return rows


def _ceilings(data: Any, at: str, m: int) -> list[list[list[float]]]:
    curves = [[_numbers(point, 2, where) for point, where in _items(curve, at)] for curve, at in _items(data, at)]
    if len(curves) not in (0, m * (m - 1) // 2):
        raise DamagedRecord(f"{at} has {len(curves)} curves for {m} objectives")
    return curves


def _family(data: Any, at: str, m: int, count: int) -> FamilyRecord:
    family = _made(
        FamilyRecord,
        data,
        at,
        {
            "name": _name,
            "settings": _mapping,
            "ranks": lambda v, where: [_integer(row, inner, 0, 1 << 20) for row, inner in _items(v, where)],
            "step": lambda v, where: _integer(v, where, 0, 1 << 53),
            "preferences": lambda v, where: [_weights(row, m, inner) for row, inner in _items(v, where)],
            "values": lambda v, where: [_numbers(row, count, inner, missing=True) for row, inner in _items(v, where)],
            "stderr": lambda v, where: [_numbers(row, count, inner, missing=True) for row, inner in _items(v, where)],
            "n": lambda v, where: _integer(v, where, 0, 1 << 53),
            "adapter": _text,
            "files": _files,
        },
    )
    if len(family.ranks) != 2:
        raise DamagedRecord(f"{at}.ranks has {len(family.ranks)} numbers, not 2")
    if not len(family.preferences) == len(family.values) == len(family.stderr):
        raise DamagedRecord(f"{at} has not as many values as preferences")
    return family


def _estimate(data: Any, at: str, signs: NDArray[np.float64]) -> Estimate:
    """A measurement, in maximised units."""
    row = _mapping(data, at)
    for key in ("mean", "covariance", "n"):
        if key not in row:
            raise DamagedRecord(f"{at} has no {key}")
    for key in row:
        if key not in ("mean", "covariance", "n", "samples", "prompt_ids", "groups"):
            raise DamagedRecord(f"{at} has an unknown key {shown(key)}")
    count = len(signs)
    _numbers(row["mean"], count, f"{at}.mean", missing=True)
    covariance = _items(row["covariance"], f"{at}.covariance")
    if len(covariance) != count:
        raise DamagedRecord(f"{at}.covariance has {len(covariance)} rows for {count} objectives")
    matrix = np.array([_numbers(v, count, where, missing=True) for v, where in covariance])
    _check_covariance(matrix, f"{at}.covariance")
    _integer(row["n"], f"{at}.n", 1, 1 << 53)
    samples, ids = row.get("samples"), row.get("prompt_ids")
    rows = 0 if samples is None else len(_items(samples, f"{at}.samples"))
    for v, where in [] if samples is None else _items(samples, f"{at}.samples"):
        _numbers(v, count, where, missing=True)
    if ids is not None:
        found = [_integer(v, where, -(1 << 63), (1 << 63) - 1) for v, where in _items(ids, f"{at}.prompt_ids")]
        if samples is None or len(found) != rows:
            raise DamagedRecord(f"{at} has {len(found)} prompt_ids for {rows} samples")
    if row.get("groups") is not None:
        groups = [_integer(v, where, 0, (1 << 63) - 1) for v, where in _items(row["groups"], f"{at}.groups")]
        if ids is None or len(groups) != rows:
            raise DamagedRecord(f"{at} has {len(groups)} groups for {rows} samples with prompt_ids")
    return Estimate.from_dict(row).scaled(signs)


def _check_covariance(matrix: NDArray[np.float64], at: str) -> None:
    """Symmetric and positive semidefinite up to rounding, seen as correlations, so that units do not matter.

    Where a variance is not known (null), nothing in its row and column is.
    """
    unknown = np.isnan(np.diag(matrix))
    if not (np.isnan(matrix) == (unknown[:, None] | unknown)).all():
        raise DamagedRecord(f"{at} has a variance that cannot be")
    matrix = matrix[np.ix_(~unknown, ~unknown)]
    spread = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    unit = np.where(spread > 0, spread, 1.0)
    correlation = matrix / unit / unit[:, None]
    known = np.outer(spread > 0, spread > 0)
    if (np.diag(matrix) < 0).any() or correlation[~known].any():
        raise DamagedRecord(f"{at} has a variance that cannot be")
    asymmetric = np.abs(correlation - correlation.T).max(initial=0.0) > ROUNDING
    if asymmetric or np.linalg.eigvalsh(correlation).min(initial=0.0) < -ROUNDING:
        raise DamagedRecord(f"{at} is not symmetric and positive semidefinite")


def _fallen(data: Any, at: str, count: int) -> dict[str, Any]:
    row = _mapping(data, at)
    for key in ("values", "stderr"):
        if row.get(key) is not None:
            _numbers(row[key], count, f"{at}.{key}", missing=True)
    for key in ("id", "status", "reason", "split"):
        if key in row:
            _text(row[key], f"{at}.{key}")
    for key in ("rival", "objective"):
        if row.get(key) is not None:
            _text(row[key], f"{at}.{key}")
    for key in ("value", "bound"):
        _number_or_none(row.get(key), f"{at}.{key}")
    if row.get("provenance") is not None:
        _mapping(row["provenance"], f"{at}.provenance")
    return dict(row)


def _base(data: Any, at: str) -> dict[str, Any]:
    row = _mapping(data, at)
    for key in ("name", "gguf_file", "dtype", "revision", "quantization"):
        if row.get(key) is not None:
            _text(row[key], f"{at}.{key}")
    for key in ("use_chat_template", "chat_template_used"):
        if row.get(key) is not None:
            _truth(row[key], f"{at}.{key}")
    if row.get("chat_template_kwargs") is not None:
        _mapping(row["chat_template_kwargs"], f"{at}.chat_template_kwargs")
    return dict(row)


def _config(data: Any, at: str) -> dict[str, Any]:
    row = _mapping(data, at)
    # the settings that answering with a member reads
    for name, least in (("max_new_tokens", 1), ("top_k", 0)):
        if row.get(name) is not None:
            _integer(row[name], f"{at}.{name}", least, 1 << 31)
    for name, most in (("temperature", math.inf), ("top_p", 1.0)):
        if row.get(name) is not None and not 0 <= _number(row[name], f"{at}.{name}") <= most:
            raise DamagedRecord(f"{at}.{name}: {shown(row[name])} is no {name.replace('_', '-')}")
    if row.get("reading") is not None:  # and the one that choosing does
        _one_of(row["reading"], READINGS, f"{at}.reading")
    return dict(row)


def _parity(data: Any, at: str) -> dict[str, Any]:
    row = _mapping(data, at)
    for name in ("member", "problem"):
        if name in row:
            _text(row[name], f"{at}.{name}")
    for name in ("largest_difference", "allowed"):
        if name in row:
            _number_or_none(row[name], f"{at}.{name}")
    return dict(row)


def _files(data: Any, at: str) -> dict[str, str]:
    row = _mapping(data, at)
    for name, digest in row.items():
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise DamagedRecord(f"{at}: {shown(digest)} is no SHA-256 of {shown(name)}")
    return dict(row)


# ---- plain values ----------------------------------------------------------------------------------------------------


def _made(kind: type[Record], data: Any, at: str, readers: Mapping[str, Reader]) -> Record:
    """A record of a mapping, each value read by its reader: nothing missing that has no default, nothing unknown."""
    row = _mapping(data, at)
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    for name in row:
        if name not in known:
            raise DamagedRecord(f"{at} has an unknown key {shown(name)}")
    for name, needed in known.items():
        if needed and name not in row:
            raise DamagedRecord(f"{at} has no {name}")
    read = {name: readers[name](v, f"{at}.{name}") if name in readers else v for name, v in row.items()}
    return kind(**read)


def _mapping(value: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DamagedRecord(f"{at} is {shown(value)}, not a mapping")
    return value


def _items(value: Any, at: str) -> list[tuple[Any, str]]:
    """The items of a list, each with where it stands."""
    if not isinstance(value, list):
        raise DamagedRecord(f"{at} is {shown(value)}, not a list")
    return [(item, f"{at}[{i}]") for i, item in enumerate(value)]


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise DamagedRecord(f"{at} is {shown(value)}, not a text")
    return value


def _name(value: Any, at: str) -> str:
    if not _text(value, at).strip():
        raise DamagedRecord(f"{at} is empty")
    return str(value)


def _one_of(value: Any, known: tuple[str, ...], at: str) -> str:
    if _text(value, at) not in known:
        raise DamagedRecord(f"{at} is {shown(value)}, none of {', '.join(known)}")
    return str(value)


def _truth(value: Any, at: str) -> bool:
    if not isinstance(value, bool):
        raise DamagedRecord(f"{at} is {shown(value)}, neither true nor false")
    return value


def _integer(value: Any, at: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise DamagedRecord(f"{at} is {shown(value)}, not a whole number from {low} to {high}")
    return value


def _number(value: Any, at: str) -> float:
    if type(value) not in (int, float) or not abs(value) <= MAX_NUMBER:
        raise DamagedRecord(f"{at} is {shown(value)}, not a number of at most {MAX_NUMBER:g}")
    return float(value)


def _number_or_none(value: Any, at: str) -> float | None:
    return None if value is None else _number(value, at)


def _numbers(value: Any, count: int, at: str, *, missing: bool = False) -> list[float]:
    """`count` numbers; with `missing`, null stands for one that was not measured and becomes NaN."""
    if not isinstance(value, list) or len(value) != count:
        raise DamagedRecord(f"{at} is {shown(value)}, not a list of {count} numbers")
    return [float("nan") if v is None and missing else _number(v, at) for v in value]


def _weights(value: Any, count: int, at: str) -> list[float]:
    weights = _numbers(value, count, at)
    if min(weights) < 0 or not any(weights):
        raise DamagedRecord(f"{at} is {shown(value)}, no preference")
    return weights


def _distinct(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DamagedRecord(f"two {what} {shown(name)}")
        seen.add(name)


def shown(value: Any) -> str:
    """A value from a file that may be hostile, short enough for a message and without control characters."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return f"an integer of {value.bit_length()} bits"
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
