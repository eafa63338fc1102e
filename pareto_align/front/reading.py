"""Reading a front folder, which anybody may have sent: nothing in it is believed before it is checked.

front.json is checked as a whole: its size before it is read, its own SHA-256, then what it says (`parsing`). It loads
exactly as it was written or not at all. Member folders are checked one by one: a member whose files are missing,
altered or too large is left out and named, and the others load. A path that leads out of the folder is no damage that
happens by itself, so it refuses the whole front.

Nothing here runs or imports what it reads, and weights are only ever safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pareto_align.errors import FrontFileError, ParetoAlignWarning
from pareto_align.front.files import stamp_of
from pareto_align.front.parsing import DamagedRecord, check_plain, parse_front, shown
from pareto_align.front.records import SCHEMA_VERSION, FamilyRecord, FrontRecord, MemberRecord

__all__ = [
    "adapter_damage",
    "content_digest",
    "front_folder",
    "member_damage",
    "missing_files",
    "read_front",
    "read_front_json",
    "sha256",
]

MAX_FRONT_BYTES = 1 << 28
"""front.json: 256 MiB, about 1000 members on 1000 prompts each with 5 objectives, twice over where it is text."""
MAX_PARSED_BYTES = 1 << 29
"""What it takes in memory: 512 MiB, a little more than those take. Three characters can take a hundred bytes."""
MAX_CONFIG_BYTES = 1 << 20
"""adapter_config.json: 1 MiB, a thousand times what PEFT writes."""
MAX_HEADER_BYTES = 100_000_000
"""The header of a safetensors file; the library's own limit."""
MAX_ENTRIES = 1000
"""Files and folders in a member's folder."""

LOOKS = 5
"""How often a front is read that a run publishes meanwhile."""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def read_front(path: str | Path, *, verify: bool = True) -> tuple[FrontRecord, list[str]]:
    """Read a front folder.

    Args:
        path: The front folder, a run folder that contains it as `front`, or a front.json.
        verify: Compare the checksums of front.json and of every file; otherwise only look whether they are there.
            False is for a front.json that was changed on purpose.

    Returns:
        The record, in maximised units, without the members whose adapter is missing or altered; and a sentence about
        each of those, which is also given as a `ParetoAlignWarning`.

    Raises:
        FrontFileError: If there is no front, front.json is damaged, altered or of an unknown version, or a path or a
            link leaves the folder.
    """
    root = front_folder(path)
    for _ in range(LOOKS):
        stamp = stamp_of(root / "front.json")
        record, problems = _found(root, verify)
        if not problems or stamp == stamp_of(root / "front.json"):
            break  # else a run published meanwhile, and took away what the old front.json names
    for problem in problems:
        warnings.warn(problem, ParetoAlignWarning, stacklevel=2)
    return record, problems


def _found(root: Path, verify: bool) -> tuple[FrontRecord, list[str]]:
    """What `read_front` returns, without the warnings."""
    record = read_front_json(root, verify=verify)
    problems, members = [], []
    for member in record.members:
        damage = member_damage(root, member, verify=verify)
        if damage:
            problems.append(f"Member {member.id!r} was left out: {damage}")
        else:
            members.append(member)
    family = record.family
    if family is not None and (damage := adapter_damage(root, family, "family", verify=verify)):
        problems.append(f"The family was left out: {damage}")
        family = None
    return replace(record, members=members, family=family), problems


def front_folder(path: str | Path) -> Path:
    """The front folder of a front folder, a run folder or a front.json.

    Raises:
        FrontFileError: If there is none.
    """
    given = Path(path)
    if given.name == "front.json":
        given = given.parent
    for root in (given, given / "front"):
        if os.path.isfile(root / "front.json"):
            return root
    runs = sorted(path.parent for path in given.glob("*/run.json"))
    such = f", such as {runs[0]}" if runs else ""
    raise FrontFileError(
        f"There is no front.json in {given} or {given / 'front'}. Give a run folder or a front folder{such}."
    )


def read_front_json(root: Path, *, verify: bool = True) -> FrontRecord:
    """Read the front.json of a front folder into maximised units.

    Raises:
        FrontFileError: If it is too large, damaged, altered, of an unknown version, or a link.
    """
    path = inside(root, "front.json")
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size  # `read` makes room for as much as it is asked for
            content = stream.read(min(size, MAX_FRONT_BYTES) + 1)
        if len(content) > MAX_FRONT_BYTES:
            raise FrontFileError(f"{path} has more than {MAX_FRONT_BYTES:,} bytes; no front.json is that large.")
        if parsed_size(content) > MAX_PARSED_BYTES:
            raise FrontFileError(
                f"{path} would take more than {MAX_PARSED_BYTES:,} bytes of memory; no front.json does."
            )
        data = json.loads(content.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_distinct_keys)
        check_plain(data)
    except DamagedRecord as error:
        raise _damaged(path, error) from error
    except RecursionError as error:
        raise _damaged(path, "it is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise FrontFileError(f"{path} cannot be read ({error}). Restore it from a copy or move it away.") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION or type(version) is not int:
        raise FrontFileError(
            f"{path} has format version {shown(version)}; this release reads version {SCHEMA_VERSION}. "
            "Use the release of pareto_align that wrote it, or a newer one."
        )
    digest = data.pop("sha256", None)  # the first files had none
    if verify and digest is not None and digest != content_digest(data):
        raise FrontFileError(
            f"{path} is damaged (its content is not what its own SHA-256 says). Restore it from a copy, or pass "
            "verify=False if it was changed on purpose."
        )
    try:
        return parse_front(data)
    except DamagedRecord as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, what: object) -> FrontFileError:
    return FrontFileError(f"{path} is damaged ({what}). Restore it from a copy or move it away.")


def _refuse(constant: str) -> float:
    raise DamagedRecord(f"{constant} is no JSON")


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping; which of two values under one key counts would depend on who reads it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DamagedRecord(f"the key {shown(key)} is given twice")
            seen.add(key)
    return found


def parsed_size(content: bytes) -> int:
    """About how many bytes of memory JSON takes once it is parsed, from above; nothing is parsed for it."""
    widest = 1 if content.isascii() else 4  # bytes a character, where one of them is beyond ASCII
    weights = {b"[": 88, b"{": 240, b",": 36, b":": 200, b'"': 28}  # of objects in CPython, and what points to them
    return len(content) * widest + sum(bytes_ * content.count(mark) for mark, bytes_ in weights.items())


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of what a front.json says, whatever the order of its keys and its spaces."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def member_damage(root: Path, member: MemberRecord, *, verify: bool) -> str | None:
    """What is wrong with a member's files, or None; see `adapter_damage`."""
    return adapter_damage(root, member, "members", verify=verify)


def adapter_damage(root: Path, member: MemberRecord | FamilyRecord, room: str, *, verify: bool) -> str | None:
    """What is wrong with the files of a member, or of the family, whose folder lies in the folder `room`; or None.

    Raises:
        FrontFileError: If a path or a link leaves the folder.
    """
    folder = inside(root, member.adapter)
    if PurePosixPath(member.adapter).parts[:-1] != (room,):
        return f"{shown(member.adapter)} is no folder in {room}/."
    for name in member.files:
        inside(folder, name)
    if not os.path.isdir(folder):
        return f"its folder {member.adapter} is missing."
    if unlisted := missing_files(member.files):
        return f"front.json lists no {unlisted} for it; weights of another kind are never read."
    try:
        if _count(folder) > MAX_ENTRIES:
            return f"its folder {member.adapter} has more than {MAX_ENTRIES} entries."
        for name, expected in member.files.items():
            if problem := _file_damage(folder / name, expected if verify else None):
                return f"{member.adapter}/{name} {problem}."
    except OSError as error:
        return f"its folder {member.adapter} cannot be read ({error})."
    return None


def missing_files(names: Mapping[str, str]) -> str | None:
    """The name of a file that every adapter has and this one has not, or None.

    PEFT falls back to a pickle where there are no safetensors, so an adapter without them must not get that far.
    """
    return next((name for name in (CONFIG, WEIGHTS) if name not in names), None)


def _file_damage(file: Path, digest: str | None) -> str | None:
    if not os.path.isfile(file):
        return "is missing"
    if file.name == CONFIG and file.stat().st_size > MAX_CONFIG_BYTES:
        return f"has {file.stat().st_size:,} bytes, where at most {MAX_CONFIG_BYTES:,} make sense"
    with open(file, "rb") as stream:
        header = int.from_bytes(stream.read(8), "little")  # how long it says its header is
    if file.suffix == ".safetensors" and header > MAX_HEADER_BYTES:
        return f"claims a header of {header:,} bytes, where safetensors allows {MAX_HEADER_BYTES:,}"
    if digest is not None and sha256(file) != digest:
        return "was altered (its SHA-256 is not the one in front.json)"
    return None


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _count(folder: Path) -> int:
    """How many files and folders lie below a folder; stops counting past `MAX_ENTRIES`.

    Raises:
        FrontFileError: One is a link. Also one that front.json does not name would be followed when the adapter is
            copied, and what it leads to published.
    """
    count, waiting = 0, [folder]
    while waiting and count <= MAX_ENTRIES:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                count += 1
                if entry.is_symlink():
                    inside(folder, Path(entry.path).relative_to(folder).as_posix())
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
    return count


def inside(folder: Path, name: str) -> Path:
    """A path in a folder, which must stay there, also after following links.

    Raises:
        FrontFileError: It does not.
    """
    pure = PurePosixPath(name)
    outside = not name or "\\" in name or pure.is_absolute() or PureWindowsPath(name).drive or ".." in pure.parts
    path = folder / name
    # "\0" ends a name for the system calls that would follow it
    if outside or "\0" in name or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise FrontFileError(
            f"This front names or holds {shown(name)}, which leaves the front folder ({folder}). "
            "Do not use this front unless you know who wrote it; copy the folder with plain files instead of links."
        )
    return path
