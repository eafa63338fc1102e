"""Adapters as other programs take them: plain PEFT folders, whole models, and a script that starts vLLM with them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pareto_align.distributions import hub_id
from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.report.card import fenced, model_card
from pareto_align.report.handover import MEMBER_FILES, write_member_files

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = [
    "FORMATS",
    "copy_adapter",
    "export_adapters",
    "export_merged",
    "folder_names",
    "front_folder",
    "journal_path",
]

FORMATS = ("peft", "vllm")
SERVE = "serve.sh"
"""The script that starts vLLM."""
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def front_folder(path: Path) -> Path:
    """The folder with front.json: the path itself, or `front` inside a run folder."""
    return path if (path / "front.json").is_file() or not (path / "front").is_dir() else path / "front"


def journal_path(path: Path) -> Path:
    """Where the journal of a front's run is: in the folder itself, or beside a folder called `front`."""
    folder = front_folder(path)
    inside = folder / "journal.jsonl"
    if inside.is_file() or folder.resolve().name != "front":
        return inside
    plain = folder.name == "front" and not folder.is_symlink()  # a relative path is told as it was given
    return (folder if plain else folder.resolve()).parent / "journal.jsonl"


def folder_names(adapters: Mapping[str, Path]) -> dict[str, str]:
    """Member to the name of its exported folder: its id, or where ids are no safe names, the name it is kept under."""
    safe = all(re.fullmatch(r"\w[\w.-]*", member, flags=re.ASCII) for member in adapters)
    if safe and len({member.casefold() for member in adapters}) == len(adapters):
        return {member: member for member in adapters}
    return {member: path.name for member, path in adapters.items()}


def copy_adapter(source: Path, target: Path, *, without: Sequence[str] = ()) -> None:
    """Copy the files of one PEFT folder.

    Args:
        source: The folder.
        target: Where to.
        without: Names of files in it that stay behind.

    Raises:
        FrontFileError: The folder is not there, or cannot be copied.
    """
    if not (source / "adapter_config.json").is_file():
        raise FrontFileError(f"The adapter folder {source} is gone or is no PEFT adapter. Restore it and try again.")
    try:
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=lambda folder, names: set(names) & set(without))
    except (OSError, shutil.Error) as error:
        raise FrontFileError(f"Cannot copy {source} to {target}: {error}") from error


def export_adapters(record: FrontRecord, adapters: Mapping[str, Path], path: Path, format: str) -> Path:
    """Copy adapters into a new folder, one folder a member, with a model card and in each folder a card of its own.

    The folder appears complete or not at all.

    Args:
        record: The front, for the cards.
        adapters: Member to PEFT folder; members of the record that are not among them are left out.
        path: The new folder; it must not exist, or be empty.
        format: "peft" or "vllm".

    Returns:
        The new folder, absolute.

    Raises:
        ConfigError: An unknown format.
        FrontFileError: `path` has something in it, an adapter is missing, or the disk does not take it.
    """
    if format not in FORMATS:
        raise ConfigError(f"Unknown export format {format!r}. Use one of {', '.join(map(repr, FORMATS))}.")

    def fill(member: str, folder: Path) -> None:
        copy_adapter(adapters[member], folder, without=MEMBER_FILES)
        _name_base(record, folder)
        write_member_files(record, member, folder)

    def more(folder: Path, target: Path, names: Mapping[str, str]) -> str:
        if format != "vllm":
            return ""
        modules = vllm_modules(record, list(names.values()), target)
        (folder / "lora_modules.json").write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
        script = folder / SERVE
        script.write_text(vllm_script(record, list(names.values()), _rank_limit(adapters)), encoding="utf-8")
        script.chmod(0o777 & ~_umask())
        return _vllm_section(record)

    return _export(record, adapters, path, fill, more)


def export_merged(
    record: FrontRecord, adapters: Mapping[str, Path], path: Path, merge: Callable[[str, Path], None]
) -> Path:
    """Write whole models into a new folder, one folder a member; see `export_adapters`.

    Args:
        record: The front, for the cards.
        adapters: Member to PEFT folder.
        path: The new folder; it must not exist, or be empty.
        merge: Called with a member's id and an empty folder that it fills with the model.
    """

    def fill(member: str, folder: Path) -> None:
        folder.mkdir()
        merge(member, folder)
        write_member_files(record, member, folder, merged=True)

    return _export(record, adapters, path, fill, None)


def _export(
    record: FrontRecord,
    adapters: Mapping[str, Path],
    path: Path,
    fill: Callable[[str, Path], None],
    more: Callable[[Path, Path, Mapping[str, str]], str] | None,
) -> Path:
    """A new folder with one a member: `fill` makes each, `more` what lies beside them and is added to the card.

    Where `more` is None the folders are whole models, and what they are says each for itself.
    """
    names = folder_names(adapters)
    kept = [replace(found, adapter=names[found.id]) for found in record.members if found.id in names]
    record = replace(record, members=kept)
    target = path.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FrontFileError(f"{target} exists already. Export into a new or empty folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise FrontFileError(f"Cannot write to {target.parent}: {error}") from error
    try:
        for member in adapters:
            fill(member, partial / names[member])
        if more is not None:
            card = model_card(record, folder="") + more(partial, target, names)
            (partial / "README.md").write_text(card, encoding="utf-8")
        # mkdtemp makes folders private; what is exported is meant to be read
        partial.chmod(0o777 & ~_umask())
        os.replace(partial, target)
    except OSError as error:
        raise FrontFileError(f"Cannot export to {target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _name_base(record: FrontRecord, folder: Path) -> None:
    """Let an adapter name its base as others find it: by its id on the Hub, and not by a path of this machine."""
    base, file = hub_id(record.base.get("name")), folder / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # not ours to mend
    if base is None or not isinstance(config, dict) or config.get("base_model_name_or_path") == base:
        return
    if config.get("base_model_name_or_path"):
        file.write_text(json.dumps({**config, "base_model_name_or_path": base}, indent=2) + "\n", encoding="utf-8")


def vllm_modules(record: FrontRecord, names: Sequence[str], target: Path) -> list[dict[str, str]]:
    """The entries of `--lora-modules`. Paths are absolute: vLLM reads relative ones from its own working directory."""
    base = record.base.get("name")
    return [
        {"name": name, "path": str(target / name), **({"base_model_name": str(base)} if base else {})} for name in names
    ]


def vllm_script(record: FrontRecord, names: Sequence[str], rank: int) -> str:
    """A script of a POSIX shell that starts vLLM with all adapters of its own folder, wherever that was moved to."""
    base = hub_id(record.base.get("name"))
    named = f"BASE=${{BASE:-{base}}}" if base else ': "${BASE:?Set BASE to the folder or the id of the base model.}"'
    revision = record.base.get("revision")
    pinned = f" --revision {shlex.quote(str(revision))}" if base and revision else ""
    modules = " \\\n  ".join(f'{name}="$here/{name}"' for name in names)
    return (
        "#!/bin/sh\n"
        "# Serves every member of this front; a request's `model` is a member's name. Further arguments go to vLLM.\n"
        "set -eu\n"
        'here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)\n'
        f"{named}\n"
        f'exec vllm serve "$BASE"{pinned} --enable-lora --max-lora-rank {rank} "$@" --lora-modules \\\n  {modules}\n'
    )


def _vllm_section(record: FrontRecord) -> str:
    """How to start vLLM with these adapters, and to ask it."""
    before = "" if hub_id(record.base.get("name")) else "BASE=path/to/the/base/model "
    how = fenced(f"{before}sh {SERVE}", "bash")
    ask = fenced("pareto-align chat RUN --server http://localhost:8000", "bash")
    return (
        f"\n## Serve all of them with vLLM\n\n{how}\n\nThe request's `model` is a member's name; with the run folder "
        f"at hand a preference finds it:\n\n{ask}\n"
    )


def _rank_limit(adapters: Mapping[str, Path]) -> int:
    """The smallest limit vLLM accepts that holds every adapter."""
    rank = 1
    for folder in adapters.values():
        try:
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            rank = max(rank, int(config.get("r", 1)), *map(int, (config.get("rank_pattern") or {}).values()))
        except (OSError, ValueError):
            continue
    return next((limit for limit in _VLLM_RANKS if limit >= rank), rank)


def _umask() -> int:
    """The process's file mode mask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
