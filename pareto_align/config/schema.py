"""What a config may hold, as JSON Schema for editors, and a config with every default written out.

Both are made of the tables that configs are checked by, so they cannot say anything else. No model, prompt or code that
a config names is looked at.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pareto_align.config.building import named_parts
from pareto_align.config.keys import (
    OBJECTIVE_KEYS,
    PROMPT_KEYS,
    SECTIONS,
    TUNING_KEYS,
    checked_value,
    value_types,
)
from pareto_align.config.reading import read_config
from pareto_align.runs.settings import Settings, settings_help

__all__ = ["as_yaml", "config_schema", "resolved_config"]

_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", dict: "object"}
_TEXT, _NUMBER, _TRUTH = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
_ROWS = {"type": "array", "minItems": 1}
_OBJECTIVE: dict[str, Any] = {
    "name": _TEXT, "reward": _TEXT, "args": {"type": "object"}, "role": {"enum": ["optimize", "constrain", "audit"]},
    "bounds": {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}, "maximize": _TRUTH,
    "at_least": _NUMBER, "at_most": _NUMBER, "tolerance": {"type": "number", "minimum": 0},
    "timeout_s": {"type": ["number", "null"], "exclusiveMinimum": 0}, "retries": {"type": "integer", "minimum": 0},
    "prefers": _TEXT, "rowwise": _TRUTH, "thread_safe": _TRUTH,
}  # fmt: skip
_PROMPTS: dict[str, Any] = {
    **dict.fromkeys(PROMPT_KEYS, _TEXT), "limit": {"type": "integer", "minimum": 1},
    "columns": {"anyOf": [{"type": "array", "items": _TEXT}, {"type": "object", "additionalProperties": _TEXT}]},
}  # fmt: skip
_NAMED = ("weighting", "learner", "explorer", "family")


def config_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a config file, with the meaning and the default of every key."""
    settings = {
        name: {**_of_type(value_types()[name]), "description": field.metadata["help"], "default": field.default}
        for name, field in settings_help().items()
    }
    sections = {name: {**_section(name), "description": meaning} for name, meaning in SECTIONS.items()}
    held_out = sections["eval_prompts"]
    held_out["anyOf"] = [{"type": "integer", "minimum": 1}, *held_out["anyOf"]]
    settings.pop("eval_prompts", None)  # a number or prompts: the section says both
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run of pareto-align",
        "type": "object",
        "properties": {**sections, **settings},
        "required": ["model", "objectives"],
        "additionalProperties": False,
    }


def _section(name: str) -> dict[str, Any]:
    if name == "objectives":
        keys = {key: {**_OBJECTIVE[key], "description": meaning} for key, meaning in OBJECTIVE_KEYS.items()}
        one = {"type": "object", "properties": keys, "required": ["name"], "additionalProperties": False}
        return {"type": "array", "minItems": 1, "items": one}
    if name in ("prompts", "eval_prompts"):
        keys = {key: {**_PROMPTS[key], "description": meaning} for key, meaning in PROMPT_KEYS.items()}
        if name == "eval_prompts":
            keys["count"] = {"type": "integer", "minimum": 1, "description": "prompts of each split"}
        return {"anyOf": [_TEXT, _ROWS, {"type": "object", "properties": keys, "additionalProperties": False}]}
    if name in ("comparisons", "eval_comparisons"):
        return {"anyOf": [_TEXT, _ROWS, {"type": "object", "required": ["path"]}]}
    if name in _NAMED:
        own = {"type": "object", "properties": {"name": _TEXT}, "required": ["name"]}
        return {"anyOf": [{"enum": _registered(name)}, {**_TEXT, "pattern": ":"}, own]}
    if name == "tuning":
        keys = {key: {"description": meaning} for key, meaning in TUNING_KEYS.items()}
        return {"type": "object", "properties": keys, "additionalProperties": False}
    if name == "report_to":
        return {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}
    kind = value_types().get(name)
    return {"type": "object"} if kind is None else _of_type(kind)


def _of_type(hint: Any) -> dict[str, Any]:
    kinds = [_KINDS[kind] for kind in typing.get_args(hint) or (hint,)]
    return {"type": kinds[0] if len(kinds) == 1 else kinds}


def _registered(section: str) -> list[str]:
    """The names that a section may say."""
    if section == "weighting":
        from pareto_align.weighting import available

        return sorted(available())
    if section == "explorer":
        from pareto_align.discovery.explorers.base import explorers

        return sorted(explorers._classes)
    if section == "family":
        from pareto_align.policies.families import families

        return sorted({"independent", *families._classes})
    from pareto_align.learning.credit import credits
    from pareto_align.learning.learner import learners

    return sorted({*credits._classes, *learners._classes})


def resolved_config(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """A config with overrides applied and the default of every setting that it leaves out.

    Raises:
        ConfigError: The file cannot be read, a key or a registered name is unknown, or a setting is of the wrong kind
            or out of range.
    """
    values = read_config(path, overrides)
    types = value_types()
    given = {key: checked_value(key, value, types[key]) for key, value in values.items()
             if key in settings_help() and not (key == "eval_prompts" and not isinstance(value, int))}  # fmt: skip
    count = values["eval_prompts"].get("count") if isinstance(values.get("eval_prompts"), Mapping) else None
    own = dataclasses.asdict(Settings(**given, **({} if count is None else {"eval_prompts": count})))
    named_parts(values, Path(path).parent, own_code=False)
    sections = {key: values[key] for key in SECTIONS if key in values}
    if "eval_prompts" in sections:
        own.pop("eval_prompts")
    return {**sections, **own}


def as_yaml(values: Mapping[str, Any]) -> str:
    """Values as a config file."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=100)
