"""The model card: README.md of a front folder, as the Hugging Face Hub reads it.

Names, reasons, prompts and completions are other people's text. Inline they are escaped for Markdown and HTML; samples
stand in code fences longer than any fence inside them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pareto_align.distributions import hub_id
from pareto_align.errors import ParetoAlignError
from pareto_align.messages import INSTRUCTION_FILE
from pareto_align.printable import one_line, printable
from pareto_align.report.attained import front_hypervolume
from pareto_align.report.fallen import PROMPTS, fallen_entries
from pareto_align.report.hub import card_header
from pareto_align.report.table import LABELS_TOLD, escape_markdown, front_table, markdown_table
from pareto_align.report.units import shown_record

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord, ObjectiveRecord

__all__ = ["began_told", "conversation", "fenced", "model_card"]

TOLD = 12
"""Policies off the front that a card tells of; `front.fallen` has all."""


def model_card(record: FrontRecord, *, folder: str = "members", header: str | None = None, repo: str = "") -> str:
    """The text of README.md for a folder of adapters.

    Args:
        record: The front.
        folder: Where the adapters lie relative to the card; "" for beside it.
        header: The YAML header, between its lines of dashes; by default that of `card_header`.
        repo: The repository on the Hub that the card is for, if it is for one: members are then loaded from there.
    """
    record = shown_record(record)
    parts = [
        card_header(record) if header is None else header,
        _introduction(record),
        "## Members\n\n" + markdown_table(front_table(record)) + "\n\n" + _reading(record),
        "## Load one\n\n" + _loading(record, folder, repo),
        "## What was optimized\n\n" + "\n".join(_objective_line(o, _followed(record)) for o in record.objectives),
        _cost(record.cost),
        _samples(record),
        _not_kept(record),
        "## Limits\n\n" + _limits(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(record: FrontRecord) -> str:
    names = [o.name for o in record.objectives if o.role == "optimize"]
    count = len(record.members)
    listed = ", ".join(map(escape_markdown, names[:-1]))
    listed = f"{listed} and {escape_markdown(names[-1])}" if listed else escape_markdown(names[-1])
    base = record.base.get("name")
    on = f" for {_code(str(base))}" if base else ""
    text = (
        f"# A Pareto front on {listed}\n\n"
        f"{count} LoRA adapter{'' if count == 1 else 's'}{on}. Each makes another trade between the objectives, and "
        f"none is beaten by another on all of them. Pick the one whose trade you want.{began_told(record)}"
    )
    try:
        volume = front_hypervolume(record)
    except ParetoAlignError:
        return text
    return f"{text}\n\nHypervolume on the frozen scale of the objectives: {volume}."


def began_told(record: FrontRecord) -> str:
    """A sentence on what training began as, behind a space; nothing where that was the untrained model."""
    start = record.config.get("start_from")
    if not isinstance(start, Mapping):
        return ""
    front = "another front"
    what = {"adapter": "another adapter", "family": f"the family of {front}", "members": f"members of {front}"}
    began = what.get(str(start.get("kind")), "earlier adapters")
    return f" Training began from {began} (digest {_code(str(start.get('digest')))}), not from the untrained model."


def _reading(record: FrontRecord) -> str:
    counts = sorted({int(member.estimate.n) for member in record.members})
    prompts = "no" if not counts else str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    group = record.config.get("eval_group")
    if any(member.estimate.groups is not None for member in record.members) and isinstance(group, str):
        prompts += f" groups ({escape_markdown(group)}) of"
    chosen = (
        "held-out prompts that were read once, at the end; only members confidently dominated there were dropped"
        if record.split == "report"
        else "held-out prompts on which the members were also chosen, so that the best values are a little flattering"
    )
    told = ""
    if record.config.get("measured") == "labels":
        told = f"**{LABELS_TOLD}** That says nothing of what an adapter writes: read the samples.\n\n"
    return (
        f"{told}Means with 95 % intervals over {prompts} {chosen}: for rewards with bounds intervals that hold for any "
        "such rewards, for others Student's t. ↑ more is better, ↓ less is better."
    )


def _loading(record: FrontRecord, folder: str, repo: str) -> str:
    # `adapter` is the folder's real name, which is the id made safe
    first = PurePosixPath(record.members[0].adapter or record.members[0].id).name if record.members else "MEMBER"
    path = f"{folder}/{first}" if folder else first
    where = f"{json.dumps(repo)}, subfolder={json.dumps(path)}" if repo else json.dumps(path)
    base = record.base
    name = hub_id(base.get("name")) or "path/to/the/base/model"
    options = "".join(f", {key}={json.dumps(base[key])}" for key in ("revision", "gguf_file", "dtype") if base.get(key))
    code = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        f"base = AutoModelForCausalLM.from_pretrained({json.dumps(name)}{options})",
        f"model = PeftModel.from_pretrained(base, {where})",
    ]
    after = "The tokenizer is the base model's."
    if base.get("use_chat_template", base.get("chat_template_used")):
        after += " Prompts were sent as user turns of its chat template"
        if variables := base.get("chat_template_kwargs"):
            after += f", with {escape_markdown(json.dumps(variables))} as its variables"
        after += "; do the same."
    if any(INSTRUCTION_FILE in member.files for member in record.members):
        after += (
            f" **The members are one adapter, which is told what to prefer: the text in a member's {INSTRUCTION_FILE} "
            "has to stand before every prompt**, as the member's README shows."
        )
    return fenced("\n".join(code), "python") + "\n\n" + after


def _followed(record: FrontRecord) -> frozenset[str]:
    """Names of the audited objectives that steered the weights of the others."""
    names = record.config.get("followed", ())
    return frozenset(map(str, names if isinstance(names, Sequence) and not isinstance(names, str) else ()))


def _objective_line(objective: ObjectiveRecord, followed: frozenset[str]) -> str:
    direction = "maximized" if objective.maximize else "minimized"
    if objective.role == "audit":
        told = "measured, never optimized"
        if objective.name in followed:
            told = "it steered what the others were weighed by, so it is **no audit** of this run"
        direction = f"audited, {'more' if objective.maximize else 'less'} is better; {told}"
    elif objective.role == "constrain":
        direction = "constrained"
    limits = [f"at least {objective.at_least:g}"] if objective.at_least is not None else []
    limits += [f"at most {objective.at_most:g}"] if objective.at_most is not None else []
    if objective.tolerance:
        limits.append(f"with a tolerance of {objective.tolerance:g}")
    if objective.bounds is not None:
        limits.append(f"between {objective.bounds[0]:g} and {objective.bounds[1]:g}")
    about = f". {escape_markdown(objective.description)}" if objective.description else ""
    return f"- **{escape_markdown(objective.name)}**: {', '.join([direction, *limits])}{about}"


def _cost(cost: Mapping[str, Any]) -> str:
    """Whatever the run counted, under the names it counted it by."""
    rows = [(str(key).replace("_", " "), value) for key, value in cost.items() if isinstance(value, int | float | str)]
    if not rows:
        return ""
    lines = [f"- {_first(escape_markdown(key))}: {escape_markdown(_amount(value))}" for key, value in rows]
    return "## What it cost\n\n" + "\n".join(lines)


def _first(text: str) -> str:
    """Escaped text that may stand at the beginning of a line, where a dash or a number would begin a list."""
    return re.sub(r"^(\d*)([-.)=>])", r"\1\\\2", text)


def _amount(value: float | str) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _samples(record: FrontRecord) -> str:
    """One answer of each member to the same prompt where there is one, else to its own first."""
    blocks = []
    for member in record.members:
        if member.sample:
            pair = member.sample[0]
            asked, said = (fenced(conversation(pair.get(part))) for part in ("prompt", "completion"))
            blocks.append(f"**{escape_markdown(member.id)}**, asked:\n\n{asked}\n\nanswers:\n\n{said}")
    return "## Samples\n\nGenerated text, as it came.\n\n" + "\n\n".join(blocks) if blocks else ""


def _not_kept(record: FrontRecord) -> str:
    """What else was measured, by verdict, and of the last ones why, and on which prompts."""
    entries = fallen_entries(record)
    if not entries:
        return ""
    counts = Counter(entry.status for entry in entries)
    told = ", ".join(f"{count} {escape_markdown(status)}" for status, count in counts.items())
    number = f"{len(entries)} more {'policy was' if len(entries) == 1 else 'policies were'} measured: {told}."
    lines = [
        f"- **{escape_markdown(entry.id)}**, {escape_markdown(entry.status)} on the "
        f"{escape_markdown(PROMPTS.get(entry.split, entry.split))}: {escape_markdown(entry.reason)}"
        for entry in entries[-TOLD:]
    ]
    which = f" The last {TOLD}:" if len(entries) > TOLD else ""
    return f"## Measured and not kept\n\n{number}{which}\n\n" + "\n".join(lines)


def conversation(value: Any) -> str:
    """A prompt or completion as text; chat messages as their turns."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        turns = [turn for turn in value if isinstance(turn, Mapping)]
        return "\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in turns)
    return "" if value is None else str(value)


def _limits(record: FrontRecord) -> str:
    lines = [
        "The values hold for prompts like those of the run, scored by the run's own reward functions; a reward is a "
        "stand-in for what is wanted, and an adapter may have found its weak spots.",
        "What was not measured may have got worse. The base model's own limits, license and intended use apply.",
    ]
    if not any(o.role == "audit" and o.name not in _followed(record) for o in record.objectives):
        lines.append("No objective was kept aside as an audit, so nothing here tells progress from reward hacking.")
    if record.split != "report":
        lines.append("Members were chosen on the very prompts the table is about.")
    return "\n".join(f"- {line}" for line in lines)


def _code(text: str) -> str:
    """Inline code that no backtick or line break in the text can end early."""
    text = one_line(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks inside; control characters are shown as �."""
    text = printable(text.replace("\r\n", "\n"))
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language or 'text'}\n{text}\n{fence}"
