"""Adapters as other programs take them: plain PEFT folders, and the list that vLLM is started with."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pareto_align.distributions import hub_id
from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.report.card import fenced, model_card

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = ["FORMATS", "copy_adapter", "export_adapters", "front_folder", "journal_path"]

FORMATS = ("peft", "vllm")
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def front_folder(path: Path) -> Path:
    """The folder with front.json: the path itself, or `front` inside a run folder."""
    return path if (path / "front.json").is_file() or not (path / "front").is_dir() else path / "front"


def journal_path(path: Path) -> Path:
    """Where the journal of a front's run is: in the folder itself, or beside a folder called `front`."""
    folder = front_folder(path)
    inside = folder / "journal.jsonl"
    return inside if inside.is_file() or folder.resolve().name != "front" else folder.resolve().parent / "journal.jsonl"


def folder_names(adapters: Mapping[str, Path]) -> dict[str, str]:
    """Member to the name of its exported folder: its id, or where ids are no safe names, the name it is kept under."""
    safe = all(re.fullmatch(r"\w[\w.-]*", member, flags=re.ASCII) for member in adapters)
    if safe and len({member.casefold() for member in adapters}) == len(adapters):
        return {member: member for member in adapters}
    return {member: path.name for member, path in adapters.items()}


def copy_adapter(source: Path, target: Path) -> None:
    """Copy the files of one PEFT folder.

    Raises:
        FrontFileError: The folder is not there, or cannot be copied.
    """
    if not (source / "adapter_config.json").is_file():
        raise FrontFileError(f"The adapter folder {source} is gone or is no PEFT adapter. Restore it and try again.")
    try:
        shutil.copytree(source, target, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise FrontFileError(f"Cannot copy {source} to {target}: {error}") from error


def export_adapters(record: FrontRecord, adapters: Mapping[str, Path], path: Path, format: str) -> Path:
    """Copy adapters into a new folder, one folder a member, with a model card.

    The folder appears complete or not at all.

    Args:
        record: The front, for the card.
        adapters: Member to PEFT folder.
        path: The new folder; it must not exist, or be empty.
        format: "peft" or "vllm".

    Returns:
        The new folder, absolute.

    Raises:
        ConfigError: An unknown format.
        FrontFileError: `path` has something in it, an adapter is missing, or the disk does not take it.
    """
    names = folder_names(adapters)
    if format not in FORMATS:
        raise ConfigError(f"Unknown export format {format!r}. Use one of {', '.join(map(repr, FORMATS))}.")
    target = path.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FrontFileError(f"{target} exists already. Export into a new or empty folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise FrontFileError(f"Cannot write to {target.parent}: {error}") from error
    try:
        for member, source in adapters.items():
            copy_adapter(source, partial / names[member])
        card = model_card(record, folder="")
        if format == "vllm":
            modules = vllm_modules(record, list(names.values()), target)
            (partial / "lora_modules.json").write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
            card += _vllm_section(record, adapters)
        (partial / "README.md").write_text(card, encoding="utf-8")
        # mkdtemp makes folders private; what is exported is meant to be read
        partial.chmod(0o777 & ~_umask())
        os.replace(partial, target)
    except OSError as error:
        raise FrontFileError(f"Cannot export to {target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def vllm_modules(record: FrontRecord, names: Sequence[str], target: Path) -> list[dict[str, str]]:
    """The entries of `--lora-modules`. Paths are absolute: vLLM reads relative ones from its own working directory."""
    base = record.base.get("name")
    return [
        {"name": name, "path": str(target / name), **({"base_model_name": str(base)} if base else {})} for name in names
    ]


def _vllm_section(record: FrontRecord, adapters: Mapping[str, Path]) -> str:
    """How to start vLLM with these adapters. Each one is an argument of its own, not one JSON list."""
    base = hub_id(record.base.get("name")) or "path/to/the/base/model"
    command = (
        "jq -c '.[]' lora_modules.json | xargs -d '\\n' \\\n"
        f"  vllm serve {base} --enable-lora --max-lora-rank {_rank_limit(adapters)} --lora-modules"
    )
    how = fenced(command, "bash")
    return f"\n## Serve all of them with vLLM\n\n{how}\n\nThe request's `model` is a member's name.\n"


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
