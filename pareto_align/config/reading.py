"""From a YAML file and `key=value` overrides to values whose keys are all known."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from pareto_align.config.keys import OBJECTIVE_KEYS, SECTIONS, TUNING_KEYS, check_keys
from pareto_align.discovery.settings import settings_help
from pareto_align.errors import ConfigError

__all__ = ["DEFAULT_NAMES", "read_config"]

DEFAULT_NAMES = {"weighting": "chebyshev", "learner": "centred", "explorer": "discover"}
"""Sections that are a name with settings, and the name where only settings are given."""

_FILES = (("prompts",), ("eval_prompts",), ("eval_prompts", "path"))
_PLACES = (("model",), ("tokenizer",))


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number, and a key that is given twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    problem = f"the key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return dict(super().construct_mapping(node, deep=deep))


# YAML 1.1, which PyYAML reads, wants a dot in it: learning_rate: 1e-3 would be text
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The values of a config file with overrides applied and every key known.

    Args:
        path: The YAML file.
        overrides: `key=value` each, the key dotted (`lora.r=16`, `objectives.0.bounds=[0,1]`), the value in YAML.

    Raises:
        ConfigError: The file cannot be read, an override does not fit, or a key is unknown.
    """
    file = Path(path)
    try:
        values = _yaml(file.read_text(encoding="utf-8-sig"), str(file))
    except OSError as error:
        raise ConfigError(f"Cannot read the config {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The config {file} is not UTF-8 text.") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"The config {file} must map keys to values. Found a {type(values).__name__}.")
    for override in overrides:
        _apply(values, override)
    check_keys(values, [*SECTIONS, *settings_help()], str(file))
    if isinstance(values.get("eval_prompts"), dict):
        check_keys(values["eval_prompts"], ["path", "count"], "`eval_prompts`")
    if values.get("tuning") is not None:
        check_keys(values["tuning"], TUNING_KEYS, "`tuning`")
    objectives = values.get("objectives")
    if not isinstance(objectives, list | None):
        raise ConfigError(f"`objectives` must be a list of objectives. Found a {type(objectives).__name__}.")
    for number, objective in enumerate(objectives or []):
        check_keys(objective, OBJECTIVE_KEYS, f"`objectives.{number}`")
    return values


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}{line}: this is not valid YAML: {problem}.") from None


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `key=value` in nested mappings and lists."""
    key, equals, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise ConfigError(f"An override is written key=value, such as steps=20 or lora.r=16. Found {override!r}.")
    value = _yaml(text, f"Override {override!r}")
    if isinstance(value, str) and (parts in _FILES or (parts in _PLACES and value.startswith((".", "~")))):
        value = str(Path.cwd() / Path(value).expanduser())  # what is typed is relative to where one is
    at: Any = values
    for depth, part in enumerate(parts[:-1]):
        slot = _slot(at, part, override, parts[:depth])
        below = at[slot] if isinstance(at, list) else at.get(slot)
        at[slot] = _opened(part if depth == 0 else "", below)
        at = at[slot]
    at[_slot(at, parts[-1], override, parts[:-1])] = value


def _slot(at: Any, part: str, override: str, above: tuple[str, ...]) -> Any:
    """The key of a mapping, or the position in a list, that one part of a dotted key means."""
    here = ".".join(above)
    if isinstance(at, list):
        if not part.isdecimal() or int(part) >= len(at):
            count = f"{len(at)} entr{'y' if len(at) == 1 else 'ies'}, counted from 0"
            raise ConfigError(f"Override {override!r}: `{here}` has {count}; there is no {part!r}.")
        return int(part)
    if not isinstance(at, dict):
        raise ConfigError(f"Override {override!r}: `{here}` is {at!r}, which has no {part!r} to set.")
    return part


def _opened(section: str, value: Any) -> Any:
    """A section as a mapping, so that a setting can be put beside its name: `weighting.mu=0.1`."""
    if section in DEFAULT_NAMES and (value is None or isinstance(value, str)):
        return {"name": value or DEFAULT_NAMES[section]}
    if section == "eval_prompts" and isinstance(value, int):
        return {"count": value}
    if section == "eval_prompts" and isinstance(value, str | list):
        return {"path": value}
    return {} if value is None else value
