"""The front folder: front.json and one stock PEFT folder a member, checksummed and replaced atomically.

    <front>/front.json            everything but the weights, in the user's units
    <front>/members/<id>/...      one adapter folder a member, as its writer made it
    <front>/family/<digest>/...   the family, where one was trained; named for what is in it

front.json is the only source of truth and its replacement is the only moment at which anything changes for a reader.
Adapters reach their final name complete and synced *before* it, under names that the old front.json does not use, and
what it no longer names is removed *after* it. A process killed anywhere leaves a front that loads.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pareto_align.errors import FrontFileError
from pareto_align.front.files import beside, sync, write_whole
from pareto_align.front.parsing import DamagedRecord, check_plain, parse_front, turned
from pareto_align.front.reading import (
    adapter_damage,
    content_digest,
    front_folder,
    member_damage,
    missing_files,
    read_front,
    read_front_json,
    sha256,
)
from pareto_align.front.records import SCHEMA_VERSION, FamilyRecord, FrontRecord, MemberRecord, ObjectiveRecord

__all__ = [
    "SCHEMA_VERSION",
    "FamilyRecord",
    "FrontRecord",
    "MemberRecord",
    "ObjectiveRecord",
    "front_folder",
    "read_front",
    "write_front",
]


def write_front(
    path: str | Path,
    record: FrontRecord,
    write_adapter: Callable[[str, Path], None],
    write_family: Callable[[Path], None] | None = None,
) -> FrontRecord:
    """Write a front folder, or bring an existing one up to date.

    An adapter that is already there is left alone if it is intact and belongs to the same run (equal base and config)
    and the same provenance; otherwise `write_adapter` is called. One writer at a time.

    Args:
        path: The front folder; made if need be.
        record: What to write; not changed.
        write_adapter: Called with a member's id and an empty folder that it fills with files, adapter_config.json and
            adapter_model.safetensors among them.
        write_family: Called with an empty folder for the family, where the record has one; without it the record is
            written without the family.

    Returns:
        The record as written, with `adapter` and `files` of every member and of the family.

    Raises:
        FrontFileError: If the record is not what `read_front` reads (two members share an id, say), the folder holds a
            front.json that cannot be read (it is not overwritten), an adapter has no weights or links, or the disk
            refuses. What was there before still loads.
    """
    root = Path(path)
    family = None if record.family is None or write_family is None else replace(record.family, adapter="", files={})
    bare = [replace(m, adapter="", files={}) for m in record.members]
    content = _checked(replace(record, members=bare, family=family))
    try:
        previous = read_front_json(root) if (root / "front.json").exists() else None
        folder = root / "members"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(root, error) from error
    before = [] if previous is None else previous.members
    same_run = previous is not None and (previous.base, previous.config) == (content["base"], content["config"])
    reusable = {m.id: m for m in before} if same_run else {}
    taken = {Path(m.adapter).name.casefold() for m in before}
    members, fresh = [], []
    try:
        for member in record.members:
            old = reusable.get(member.id)
            if old is None or old.provenance != _plain(member.provenance) or member_damage(root, old, verify=True):
                name = _free_name(member.id, taken)
                taken.add(name.casefold())
                fresh.append(folder / name)
                files = _write_member(folder, name, member.id, write_adapter)
                members.append(replace(member, adapter=f"members/{name}", files=files))
            else:
                members.append(replace(member, adapter=old.adapter, files=old.files))
        if family is not None and write_family is not None:
            family = _write_family(root / "family", family, write_family)
            if previous is None or previous.family is None or previous.family.adapter != family.adapter:
                fresh.append(root / family.adapter)
        written = replace(record, members=members, family=family, schema_version=SCHEMA_VERSION)
        content = _checked(written)
        text = json.dumps({**content, "sha256": content_digest(content)}, allow_nan=False, indent=1)
        write_whole(root / "front.json", text.encode())
    except BaseException as error:
        # a full disk gets its space back
        _remove_quietly([*fresh, beside(root / "front.json")])
        if isinstance(error, OSError):
            raise _unwritable(root, error) from error
        raise
    try:
        sync(root)
    except OSError as error:
        raise _unwritable(root, error) from error
    names = {Path(m.adapter).name for m in members}
    _remove_quietly(p for p in folder.iterdir() if p.name not in names)  # what stays goes with the next front
    if (room := root / "family").is_dir():
        _remove_quietly(p for p in room.iterdir() if family is None or p.name != Path(family.adapter).name)
    return written


def _checked(record: FrontRecord) -> dict[str, Any]:
    """The content of front.json, which `read_front` will read.

    Raises:
        FrontFileError: It would not.
    """
    content = _to_json(record)
    try:
        check_plain(content)
        parse_front(content)
    except DamagedRecord as error:
        raise FrontFileError(f"This front cannot be written: {error}.") from error
    return content


def _unwritable(root: Path, error: OSError) -> FrontFileError:
    return FrontFileError(f"Cannot write the front folder {root}: {error}. What was there before still loads.")


def _write_member(folder: Path, name: str, id: str, write_adapter: Callable[[str, Path], None]) -> dict[str, str]:
    """Write one adapter under a temporary name, sync it, give it its final name; return the checksums."""
    temporary = folder / f".partial-{name}"
    _remove(temporary)
    temporary.mkdir()
    try:
        write_adapter(id, temporary)
        paths = sorted(temporary.rglob("*"))
        if any(p.is_symlink() for p in paths):
            raise FrontFileError(f"The adapter of member {id!r} contains links; it must be plain files.")
        files = {p.relative_to(temporary).as_posix(): sha256(p) for p in paths if p.is_file()}
        if absent := missing_files(files):
            raise FrontFileError(f"The adapter of member {id!r} has no {absent}.")
        for p in (*paths, temporary):
            sync(p)
        _remove(folder / name)  # left behind by a killed process: no front.json names it
        temporary.rename(folder / name)
        sync(folder)
    except BaseException:
        _remove_quietly([temporary])
        raise
    return files


def _write_family(folder: Path, family: FamilyRecord, write_family: Callable[[Path], None]) -> FamilyRecord:
    """Write the family under a name that says what is in it, so that a run that was resumed gives it the same one."""
    folder.mkdir(parents=True, exist_ok=True)
    files = _write_member(folder, "new", "the family", lambda _, empty: write_family(empty))
    name = content_digest(files)[:16]
    written = replace(family, adapter=f"family/{name}", files=files)
    if (folder / name).is_dir() and adapter_damage(folder.parent, written, "family", verify=True) is None:
        _remove_quietly([folder / "new"])  # the same family as before
        return written
    _remove(folder / name)
    (folder / "new").rename(folder / name)
    sync(folder)
    return written


def _free_name(id: str, taken: set[str]) -> str:
    """A folder name like the id that is safe on every file system and, ignoring case, not taken."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", id).strip("._-")[:80].rstrip("._-") or "member"
    name, count = stem, 1
    while name.casefold() in taken:
        count += 1
        name = f"{stem}-{count}"
    return name


def _to_json(record: FrontRecord) -> dict[str, Any]:
    """The content of front.json: minimised objectives are turned back into the user's units."""
    signs = [1.0 if o.maximize else -1.0 for o in record.objectives]
    objectives = []
    for objective in record.objectives:
        row = asdict(objective)
        row["worst"], row["best"] = (turned(row.pop(end), objective.maximize) for end in ("lower", "upper"))
        objectives.append(row)
    members = [{**_shallow(m), "estimate": m.estimate.scaled(signs).to_dict()} for m in record.members]
    family = None if record.family is None else _shallow(record.family)
    reference = None if record.reference_policy is None else record.reference_policy.scaled(signs).to_dict()
    content = {**_shallow(record), "objectives": objectives, "members": members, "reference_policy": reference}
    content["family"] = family
    if family is None:  # fronts of independent policies say nothing of it
        del content["family"]
    if not record.parity:
        del content["parity"]
    if not record.ceilings:
        del content["ceilings"]
    if not record.reference_sample:
        del content["reference_sample"]
    if not record.created:  # the first fronts carried a time stamp; without one, equal runs give equal bytes
        del content["created"]
    plain: dict[str, Any] = _plain({"schema_version": content.pop("schema_version"), **content})
    return plain


def _shallow(record: FrontRecord | MemberRecord | FamilyRecord) -> dict[str, Any]:
    """Fields of a record, without descending into them as `asdict` does."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _plain(value: Any) -> Any:
    """Turn arrays, tuples and paths into what JSON has; numbers that are not finite become null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {_plain(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)  # half a surrogate pair is no text that a file can hold
    if value is None or isinstance(value, int):
        return value
    raise FrontFileError(f"front.json cannot hold {value!r} of type {type(value).__name__}; use plain data.")


def _remove_quietly(paths: Iterable[Path]) -> None:
    """Remove what nothing names any more, as far as the disk allows."""
    for path in paths:
        with suppress(OSError):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, a link (never what it points to) or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
