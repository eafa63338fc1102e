"""The front folder: front.json and one stock PEFT folder a member, checksummed and replaced atomically.

    <front>/front.json            everything but the weights, in the user's units
    <front>/members/<id>/...      one adapter folder a member, as its writer made it

front.json is the only source of truth and its replacement is the only moment at which anything changes for a reader.
Adapters reach their final name complete and synced *before* it, under names that the old front.json does not use, and
what it no longer names is removed *after* it. A process killed anywhere leaves a front that loads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from pareto_align.errors import ConfigError, FrontFileError, ParetoAlignWarning
from pareto_align.front.estimates import Estimate

__all__ = ["SCHEMA_VERSION", "FrontRecord", "MemberRecord", "ObjectiveRecord", "read_front", "write_front"]

SCHEMA_VERSION = 1


@dataclass
class ObjectiveRecord:
    """One objective as the front knows it.

    Attributes:
        name: Its name.
        role: "optimize", "constrain" or "audit".
        maximize: Direction in the user's units.
        lower: Value that normalises to 0, in maximised units.
        upper: Value that normalises to 1, in maximised units.
        bounds: Smallest and largest possible value, in the user's units.
        at_least: Constraint, in the user's units.
        at_most: Constraint, in the user's units.
        description: For readers.
    """

    name: str
    role: str
    maximize: bool
    lower: float
    upper: float
    bounds: tuple[float, float] | None = None
    at_least: float | None = None
    at_most: float | None = None
    description: str = ""


@dataclass
class MemberRecord:
    """One member of the front.

    Attributes:
        id: Its name.
        estimate: Measurement over all objectives, in maximised units.
        preference: Weights over the optimised objectives it was trained for, if any.
        provenance: Where it comes from; plain data.
        adapter: Its folder, relative to the front folder; set by `write_front`.
        files: SHA-256 of each file in that folder, by relative name; set by `write_front`.
        sample: A few {"prompt", "completion"} for readers.
    """

    id: str
    estimate: Estimate
    preference: list[float] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    adapter: str = ""
    files: dict[str, str] = field(default_factory=dict)
    sample: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class FrontRecord:
    """Everything about a front but the weights.

    Attributes:
        objectives: All objectives in the user's order.
        members: The front.
        base: The model the adapters belong to: name, gguf_file, dtype, use_chat_template.
        split: Prompts behind the estimates: "select" or "report".
        reference: Reference point of the hypervolume on the optimised objectives, normalised.
        reference_policy: The untrained model's measurement, in maximised units.
        fallen: Measured policies off the front: id, values (user's units), stderr, status, reason, provenance, split.
        cost: What the run used.
        config: Settings of the run.
        created: Time stamp, ISO 8601.
        schema_version: Version of the file format.
    """

    objectives: list[ObjectiveRecord]
    members: list[MemberRecord]
    base: dict[str, Any] = field(default_factory=dict)
    split: str = "select"
    reference: list[float] = field(default_factory=list)
    reference_policy: Estimate | None = None
    fallen: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    schema_version: int = SCHEMA_VERSION


def write_front(path: str | Path, record: FrontRecord, write_adapter: Callable[[str, Path], None]) -> FrontRecord:
    """Write a front folder, or bring an existing one up to date.

    An adapter that is already there is left alone if it is intact and belongs to the same run (equal base and config)
    and the same provenance; otherwise `write_adapter` is called. One writer at a time.

    Args:
        path: The front folder; made if need be.
        record: What to write; not changed.
        write_adapter: Called with a member's id and an empty folder that it fills with files.

    Returns:
        The record as written, with `adapter` and `files` of every member.

    Raises:
        FrontFileError: If the folder holds a front.json that cannot be read (it is not overwritten), two members share
            an id, an adapter has no files or links, or the disk refuses. What was there before still loads.
    """
    root = Path(path)
    ids = [m.id for m in record.members]
    for id in ids:
        if ids.count(id) > 1:
            raise FrontFileError(f"Two members of the front are called {id!r}; ids must be unique.")
    previous = _parse(root / "front.json") if (root / "front.json").exists() else None
    text = json.dumps(_to_json(record), allow_nan=False)  # fails on unknown types before anything is written
    try:
        folder = root / "members"
        folder.mkdir(parents=True, exist_ok=True)
        reusable = {}
        if previous is not None and (previous.base, previous.config) == tuple(
            json.loads(text)[k] for k in ("base", "config")
        ):
            reusable = {m.id: m for m in previous.members}
        taken = {Path(m.adapter).name.casefold() for m in previous.members} if previous is not None else set()
        members = []
        for member in record.members:
            old = reusable.get(member.id)
            if old is None or old.provenance != _plain(member.provenance) or _damage(root, old, verify=True):
                name = _free_name(member.id, taken)
                taken.add(name.casefold())
                files = _write_member(folder, name, member.id, write_adapter)
                members.append(replace(member, adapter=f"members/{name}", files=files))
            else:
                members.append(replace(member, adapter=old.adapter, files=old.files))
        written = replace(record, members=members, schema_version=SCHEMA_VERSION)
        _replace_file(root / "front.json", json.dumps(_to_json(written), allow_nan=False, indent=1))
        _remove_all_but(folder, {Path(m.adapter).name for m in members})
    except OSError as error:
        raise FrontFileError(
            f"Cannot write the front folder {root}: {error}. What was there before is unchanged."
        ) from error
    return written


def read_front(path: str | Path, *, verify: bool = True) -> tuple[FrontRecord, list[str]]:
    """Read a front folder.

    Args:
        path: The front folder, a run folder that contains it as `front`, or a front.json.
        verify: Compare the checksum of every file; otherwise only look whether it is there.

    Returns:
        The record, in maximised units, without the members whose adapter is missing or altered; and a sentence about
        each of those, which is also given as a `ParetoAlignWarning`.

    Raises:
        FrontFileError: If there is no front, front.json is damaged or of an unknown version, or it names a path that
            leaves the folder.
    """
    root = front_folder(path)
    record = _parse(root / "front.json")
    problems, members = [], []
    for member in record.members:
        damage = _damage(root, member, verify=verify)
        if damage:
            problems.append(f"Member {member.id!r} was left out: {damage}")
        else:
            members.append(member)
    for problem in problems:
        warnings.warn(problem, ParetoAlignWarning, stacklevel=2)
    return replace(record, members=members), problems


def front_folder(path: str | Path) -> Path:
    """The front folder of a front folder, a run folder or a front.json.

    Raises:
        FrontFileError: If there is none.
    """
    given = Path(path)
    if given.name == "front.json":
        given = given.parent
    for root in (given, given / "front"):
        if (root / "front.json").is_file():
            return root
    raise FrontFileError(
        f"There is no front.json in {given} or {given / 'front'}. Give a run folder or a front folder."
    )


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
        files = {p.relative_to(temporary).as_posix(): _sha256(p) for p in paths if p.is_file()}
        if not files:
            raise FrontFileError(f"The adapter of member {id!r} has no files.")
        for p in (*paths, temporary):
            _sync(p)
        _remove(folder / name)  # left behind by a killed process: no front.json names it
        temporary.rename(folder / name)
        _sync(folder)
    except BaseException:
        _remove(temporary)
        raise
    return files


def _free_name(id: str, taken: set[str]) -> str:
    """A folder name like the id that is safe on every file system and, ignoring case, not taken."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", id).strip("._-")[:80].rstrip("._-") or "member"
    name, count = stem, 1
    while name.casefold() in taken:
        count += 1
        name = f"{stem}-{count}"
    return name


def _damage(root: Path, member: MemberRecord, *, verify: bool) -> str | None:
    """What is wrong with a member's files, or None.

    Raises:
        FrontFileError: If a path leaves the folder.
    """
    folder = _inside(root, member.adapter)
    if not folder.is_dir():
        return f"its folder {member.adapter} is missing."
    if not member.files:
        return "front.json lists no files for it."
    for name, expected in member.files.items():
        file = _inside(folder, name)
        if not file.is_file():
            return f"{member.adapter}/{name} is missing."
        try:
            if verify and _sha256(file) != expected:
                return f"{member.adapter}/{name} was altered (its SHA-256 is not the one in front.json)."
        except OSError as error:
            return f"{member.adapter}/{name} cannot be read ({error})."
    return None


def _inside(folder: Path, name: str) -> Path:
    """A path named in front.json, which must stay in the folder it is relative to, also after following links."""
    pure = PurePosixPath(name)
    outside = not name or "\\" in name or pure.is_absolute() or PureWindowsPath(name).drive or ".." in pure.parts
    path = folder / name
    if outside or not path.resolve().is_relative_to(folder.resolve()):
        raise FrontFileError(
            f"front.json names {name!r}, which leaves the front folder ({folder}). "
            "Do not use this front unless you know who wrote it; copy the folder with plain files instead of links."
        )
    return path


def _to_json(record: FrontRecord) -> dict[str, Any]:
    """The content of front.json: minimised objectives are turned back into the user's units."""
    signs = [1.0 if o.maximize else -1.0 for o in record.objectives]
    objectives = []
    for objective in record.objectives:
        row = asdict(objective)
        row["worst"], row["best"] = (_turned(row.pop(end), objective.maximize) for end in ("lower", "upper"))
        objectives.append(row)
    members = [{**_shallow(m), "estimate": m.estimate.scaled(signs).to_dict()} for m in record.members]
    reference = None if record.reference_policy is None else record.reference_policy.scaled(signs).to_dict()
    content = {**_shallow(record), "objectives": objectives, "members": members, "reference_policy": reference}
    plain: dict[str, Any] = _plain({"schema_version": content.pop("schema_version"), **content})
    return plain


def _parse(path: Path) -> FrontRecord:
    """Read a front.json into maximised units.

    Raises:
        FrontFileError: If it is damaged or of an unknown version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FrontFileError(f"{path} cannot be read ({error}). Restore it from a copy or move it away.") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise FrontFileError(
            f"{path} has format version {version!r}; this release reads version {SCHEMA_VERSION}. "
            "Use the release of pareto_align that wrote it, or a newer one."
        )
    try:
        objectives = []
        for row in data["objectives"]:
            row = dict(row)
            row["lower"], row["upper"] = (_turned(row.pop(end), row["maximize"]) for end in ("worst", "best"))
            row["bounds"] = None if row["bounds"] is None else tuple(row["bounds"])
            objectives.append(ObjectiveRecord(**row))
        signs = [1.0 if o.maximize else -1.0 for o in objectives]
        members = [
            MemberRecord(**{**row, "estimate": Estimate.from_dict(row["estimate"]).scaled(signs)})
            for row in data["members"]
        ]
        for member in members:
            for name in (member.id, member.adapter, *member.files, *member.files.values()):
                if not isinstance(name, str):
                    raise TypeError(f"{name!r} is no string")
        reference = data["reference_policy"]
        if reference is not None:
            reference = Estimate.from_dict(reference).scaled(signs)
        return FrontRecord(**{**data, "objectives": objectives, "members": members, "reference_policy": reference})
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise FrontFileError(f"{path} is damaged ({error!r}). Restore it from a copy or move it away.") from error


def _turned(value: float, maximize: bool) -> float:
    return value if maximize else 0.0 - value


def _shallow(record: FrontRecord | MemberRecord) -> dict[str, Any]:
    """Fields of a record, without descending into them as `asdict` does."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _plain(value: Any) -> Any:
    """Turn arrays, tuples and paths into what JSON has; numbers that are not finite become null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | int):
        return value
    raise FrontFileError(f"front.json cannot hold {value!r} of type {type(value).__name__}; use plain data.")


def _replace_file(path: Path, text: str) -> None:
    """Replace a file in one step: readers see the old content or the new, never a part."""
    temporary = path.with_name(f".partial-{path.name}")
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Force a file or a folder's list of names to disk; where folders cannot be opened (Windows) they need not be."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remove_all_but(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, a link (never what it points to) or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
