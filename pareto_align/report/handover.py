"""What goes with the adapter of one member, so that its folder can be mailed: a README and the sampling it was measured
under, as transformers spells it.

Both are made of the front's record alone. They are not among the files that front.json lists: they may be edited, or
written again, and the adapter is the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.distributions import hub_id
from pareto_align.errors import FrontFileError
from pareto_align.messages import INSTRUCTION_FILE, Instruction
from pareto_align.report.card import began_told, fenced, model_card
from pareto_align.report.hub import card_header
from pareto_align.report.table import escape_markdown
from pareto_align.report.units import (
    axes_of,
    decimals,
    interval_texts,
    listed,
    measured,
    number,
    optimized,
    preferences_of,
    reference_measured,
    shown_record,
)

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = [
    "GENERATION_FILE", "MEMBER_FILES", "generation_settings", "member_card", "predicted_card", "write_card",
    "write_member_files", "write_predicted_files",
]  # fmt: skip

README, GENERATION_FILE = "README.md", "generation_config.json"
MEMBER_FILES = (README, GENERATION_FILE)
"""What `write_member_files` writes beside an adapter."""


def generation_settings(record: FrontRecord) -> dict[str, Any]:
    """How the members were sampled when they were measured, under the names of transformers' `GenerationConfig`.

    `top_k` 0 and `top_p` 1 say that nothing is cut off, which is not what every model's own settings say. Tokens that
    end an answer are left to the base model.
    """
    config = record.config
    temperature = config.get("temperature", 1.0)
    found: dict[str, Any] = {"do_sample": bool(temperature)}
    if temperature:
        found |= {
            "temperature": float(temperature),
            "top_k": int(config.get("top_k") or 0),
            "top_p": float(config.get("top_p") or 1.0),
        }
    if config.get("max_new_tokens"):
        found["max_new_tokens"] = int(config["max_new_tokens"])
    return found


def member_card(record: FrontRecord, member: str, *, merged: bool = False, told: Instruction | None = None) -> str:
    """README.md for the folder of one member: what it is, what was measured of it, and how to load it.

    Args:
        record: The front.
        member: The member's id.
        merged: Whether the folder holds a whole model, into which the adapter was merged, and not an adapter.
        told: What stands before every prompt, if anything does.

    Raises:
        KeyError: There is no such member.
    """
    row = next((k for k, found in enumerate(record.members) if found.id == member), None)
    if row is None:
        raise KeyError(member)
    record = shown_record(record)
    parts = [
        card_header(record, merged=merged),
        _introduction(record, row, merged),
        "## Measured\n\n" + "\n".join(_measured_lines(record, row)) + f"\n\n{_prompts(record, row)}",
        *_how(record, told, merged=merged),
    ]
    return "\n\n".join(parts) + "\n"


def predicted_card(
    record: FrontRecord,
    preference: Sequence[float],
    predicted: Sequence[str],
    told: Instruction | None = None,
    *,
    missed: Sequence[str] = (),
) -> str:
    """README.md for the folder of a family's adapter at a preference at which nothing was measured.

    Args:
        record: The front.
        preference: [m] weights over the optimized objectives.
        predicted: [M] what is expected of the objectives, value and interval, in the user's units.
        told: What stands before every prompt, if anything does.
        missed: Limits of the run that it is expected not to keep.
    """
    record = shown_record(record)
    axes = axes_of(record)
    names = [escape_markdown(axes[i].name) for i in optimized(record)]
    weights = ", ".join(f"{name} {number(w, 2)}" for name, w in zip(names, preference, strict=True))
    lines = [
        f"- **{escape_markdown(axis.name)}** ({'more' if axis.maximize else 'less'} is better): {text}"
        for axis, text in zip(axes, predicted, strict=True)
    ]
    parts = [
        card_header(record),
        f"# {weights}\n\nA LoRA adapter{_base_told(record.base)}. A family of adapters that was trained for every "
        f"preference on {', '.join(names)} has this one for the preference {weights}.{began_told(record)}",
        "## Expected\n\n" + "\n".join(lines) + "\n\nRead off between preferences that were measured, with 95 % "
        "intervals. This adapter itself was not measured."
        + (
            f" **It is expected to miss {escape_markdown(listed(missed))}**, to which the run was held."
            if missed
            else ""
        ),
        *_how(record, told),
    ]
    return "\n\n".join(parts) + "\n"


def _how(record: FrontRecord, told: Instruction | None, *, merged: bool = False) -> list[str]:
    """What every card ends with: how the model is loaded and used, and what it does not promise."""
    code = _merged_code(record, told) if merged else _adapter_code(record, told)
    parts = [
        "" if told is None else _told(record, told),
        "## Load it\n\n" + fenced(code, "python"),
        _use(record),
        "A reward is a stand-in for what is wanted, and what was not measured may have got worse. The base model's own "
        "license and limits apply. Made by pareto-align.",
    ]
    return [part for part in parts if part]


def write_predicted_files(
    record: FrontRecord,
    preference: Sequence[float],
    predicted: Sequence[str],
    folder: Path,
    *,
    missed: Sequence[str] = (),
) -> None:
    """Write README and generation_config.json beside a family's adapter, see `predicted_card`.

    Raises:
        FrontFileError: The disk does not take them.
    """
    card = predicted_card(record, preference, predicted, Instruction.read(folder), missed=missed)
    _write(folder / README, card)
    _write(folder / GENERATION_FILE, json.dumps(generation_settings(record), indent=2) + "\n")


def write_member_files(
    record: FrontRecord, member: str, folder: Path, *, merged: bool = False, keep: Collection[str] = ()
) -> None:
    """Write a member's README and, for an adapter, generation_config.json into its folder; those in `keep` stay.

    Raises:
        FrontFileError: The disk does not take them.
    """
    texts = {README: member_card(record, member, merged=merged, told=Instruction.read(folder))}
    if not merged:  # a whole model has the settings of its base in there, too
        texts[GENERATION_FILE] = json.dumps(generation_settings(record), indent=2) + "\n"
    for name, text in texts.items():
        if name not in keep:
            _write(folder / name, text)


def write_card(record: FrontRecord, folder: str | os.PathLike[str]) -> Path:
    """Write the model card of a front folder, and what goes with each member into the member's folder.

    Raises:
        FrontFileError: The disk does not take it.
    """
    for member in record.members:
        if member.adapter and (Path(folder) / member.adapter).is_dir():
            # what front.json lists, because whoever made the adapter wrote it, has a checksum there
            write_member_files(record, member.id, Path(folder) / member.adapter, keep=member.files)
    return _write(Path(folder) / README, model_card(record))


def _write(path: Path, text: str) -> Path:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FrontFileError(f"Cannot write {path}: {error}") from error
    return path


def _introduction(record: FrontRecord, row: int, merged: bool) -> str:
    member, base = record.members[row], record.base
    what = "A language model with a LoRA adapter merged into it" if merged else "A LoRA adapter"
    on = _base_told(base)
    names = [axes_of(record)[i].name for i in optimized(record)]
    weights = preferences_of(record)[row]
    trained = ""
    if len(names) > 1 and not np.isnan(weights).any():
        told = ", ".join(f"{escape_markdown(n)} {number(w, 2)}" for n, w in zip(names, weights, strict=True))
        trained = f" It was trained for the preference {told}."
    others = len(record.members) - 1
    beside = f"It is one of {others + 1} members of a Pareto front" if others else "It is the member of a front"
    listed = ", ".join(map(escape_markdown, names))
    return f"# {escape_markdown(member.id)}\n\n{what}{on}. {beside} on {listed}.{trained}{began_told(record)}"


def _base_told(base: Mapping[str, Any]) -> str:
    """The base model by name where it is one that others can get, with its revision and how its weights were held."""
    name = base.get("name")
    if not name:
        return " for a model that was given in memory"
    # a path would say where things lie on somebody's disk
    shown = hub_id(name) or (name if str(name).startswith("pypi:") else Path(str(name)).name)
    parts = [f" for {escape_markdown(str(shown))}"]
    parts += [f"revision {escape_markdown(str(base['revision']))}"] if base.get("revision") else []
    parts += [f"file {escape_markdown(str(base['gguf_file']))}"] if base.get("gguf_file") else []
    held = base.get("quantization") or base.get("dtype")
    parts += [f"in {escape_markdown(str(held))}"] if held else []
    return ", ".join(parts)


def _measured_lines(record: FrontRecord, row: int) -> list[str]:
    axes, table, reference = axes_of(record), measured(record), reference_measured(record)
    lines = []
    for j, axis in enumerate(axes):
        digits = decimals(table.halfwidth[:, j], table.values[:, j])
        value, low, high = (x[row : row + 1, j] for x in (table.values, table.low, table.high))
        (text,) = interval_texts(value, low, high, digits)
        before = "" if reference is None else f"; untrained {number(reference.values[0, j], digits)}"
        role = "" if axis.role == "optimize" else f", {axis.role}"
        better = "more" if axis.maximize else "less"
        lines.append(f"- **{escape_markdown(axis.name)}** ({better} is better{role}): {text}{before}")
    return lines


def _prompts(record: FrontRecord, row: int) -> str:
    kind = "held-out" if record.split == "report" else "held-out prompts on which members were also chosen, among"
    unit = "groups of prompts" if record.members[row].estimate.groups is not None else "prompts"
    return f"Means with 95 % intervals over {record.members[row].estimate.n} {kind} {unit}."


def _options(record: FrontRecord) -> str:
    base = record.base
    return "".join(f", {key}={json.dumps(base[key])}" for key in ("revision", "gguf_file", "dtype") if base.get(key))


def _base_name(record: FrontRecord) -> str:
    return json.dumps(hub_id(record.base.get("name")) or "path/to/the/base/model")


def _adapter_code(record: FrontRecord, told: Instruction | None) -> str:
    base, options = _base_name(record), _options(record)
    of_tokenizer = options.replace(f", dtype={json.dumps(record.base.get('dtype'))}", "")
    return "\n".join(
        [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
            "",
            'folder = "."  # this one; of a repository on the Hub, its name and subfolder="members/..."',
            f"base = AutoModelForCausalLM.from_pretrained({base}{options})",
            f"tokenizer = AutoTokenizer.from_pretrained({base}{of_tokenizer})",
            "model = PeftModel.from_pretrained(base, folder)",
            "sampling = GenerationConfig.from_pretrained(folder).to_diff_dict()  # as it was measured",
            f"inputs = {_inputs(record, told)}",
            "print(tokenizer.decode(model.generate(**inputs, **sampling)[0], skip_special_tokens=True))",
        ]
    )


def _merged_code(record: FrontRecord, told: Instruction | None) -> str:
    return "\n".join(
        [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained(".", dtype="auto")  # this folder',
            'tokenizer = AutoTokenizer.from_pretrained(".")',
            f"inputs = {_inputs(record, told)}",
            "print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))",
        ]
    )


def _templated(record: FrontRecord) -> bool:
    return bool(record.base.get("use_chat_template", record.base.get("chat_template_used")))


def _told(record: FrontRecord, told: Instruction) -> str:
    """What has to stand before every prompt, and where."""
    where = "on a line of its own before the prompt"
    if _templated(record):
        where = "as the system message" if told.place == "system" else "at the beginning of the first user turn"
    return (
        "## Put this before every prompt\n\nThe members of this front are one adapter, which is told what to prefer. "
        f"What was measured had this text {where} ({INSTRUCTION_FILE} has it as well):\n\n{fenced(told.text, '')}"
    )


def _inputs(record: FrontRecord, told: Instruction | None) -> str:
    asked = "Hello" if told is None else told.before("Hello", templated=_templated(record))
    if isinstance(asked, str) and not _templated(record):
        return f'tokenizer({json.dumps(asked, ensure_ascii=False)}, return_tensors="pt")'
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    # as one mapping: a key of somebody else's front must not be read as code
    kwargs = dict(record.base.get("chat_template_kwargs") or {})
    variables = f", **{kwargs!r}" if kwargs else ""
    return (
        f"tokenizer.apply_chat_template(\n    {json.dumps(messages, ensure_ascii=False)}, add_generation_prompt=True, "
        f'return_dict=True, return_tensors="pt"{variables}\n)'
    )


def _use(record: FrontRecord) -> str:
    asked = "Prompts were sent as user turns of the base model's chat template" if _templated(record) else ""
    plain = "" if asked else "Prompts were sent as they are, without a chat template"
    return f"{asked or plain}; do the same. The tokenizer is the base model's."
