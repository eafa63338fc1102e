"""From a YAML file and `key=value` overrides to values whose keys are all known."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from pareto_align.config.keys import OBJECTIVE_KEYS, PROMPT_KEYS, SECTIONS, TRUTH_KEYS, TUNING_KEYS, check_keys
from pareto_align.errors import ConfigError
from pareto_align.printable import kind_of
from pareto_align.runs.settings import settings_help

__all__ = ["DEFAULT_NAMES", "read_config"]

DEFAULT_NAMES = {"weighting": "chebyshev", "learner": "centred", "explorer": "discover", "backend": "local"}
"""Sections that are a name with settings, and the name where only settings are given."""

_FILES = (("prompts",), ("eval_prompts",), ("eval_prompts", "path"))
_PLACES = (("model",), ("tokenizer",))


_CORE = "tag:yaml.org,2002:"
_WORD = "tag:pareto-align,2026:word"
_MOST_VALUES = 1_000_000
_FOLDERS = (("output_dir",), ("start_from",))


class _Refused(yaml.constructor.ConstructorError):
    """What is valid YAML, and still not taken; said with its line."""

    def __init__(self, problem: str, node: yaml.Node) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema (yaml.org/spec/1.2.2, section 10.3.2) and `<<`; no other tags.

    PyYAML reads YAML 1.1, where 1e-3 is text, but 010 is 8, 12:30 is 750 and 2024-01-01 a date. A number with a leading
    zero stays text, for it is the name of something.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own declaration
    yaml_constructors = {  # noqa: RUF012
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (f"{_CORE}map", f"{_CORE}seq", f"{_CORE}str", f"{_CORE}null", None)
    }


_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

for _tag, _pattern, _first in (
    (f"{_CORE}null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (f"{_CORE}bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (f"{_CORE}int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        f"{_CORE}float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    (f"{_CORE}merge", r"<<", ["<"]),
    # true or false in YAML 1.1, text in 1.2: what is meant depends on the place, see `_settle`
    (_WORD, r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", list("yYnNoO")),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})$"), _first)


def _scalar(kind: str, read: Callable[[str], Any]) -> None:
    def construct(loader: Any, node: Any) -> Any:
        text = str(loader.construct_scalar(node))
        try:
            return read(text)
        except (ValueError, KeyError, OverflowError):
            raise _Refused(f"{text[:40]!r} cannot be read as {kind}", node) from None

    _Loader.add_constructor(f"{_CORE}{kind}", construct)


_scalar("bool", lambda text: _TRUTH[text.lower()])
_scalar("int", lambda text: int(text, 0))
_scalar("float", lambda text: float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.lower())))


def _settle(node: Any, path: tuple[Any, ...], sizes: dict[int, int | None]) -> int:
    """Check a composed document, and decide what its words mean; the number of values it unfolds to.

    Aliases make small files large: they are counted before anything is made of them.

    Raises:
        _Refused: A key is given twice, a word may mean two things, or there are too many values.
    """
    if id(node) in sizes:
        known = sizes[id(node)]
        if known is None:
            raise _Refused("an alias stands within what it names", node)
        return known
    sizes[id(node)] = None
    size = 1
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _WORD:
            node.tag = _meaning(node, path)
        elif path in _FOLDERS and node.tag != f"{_CORE}null":
            node.tag = f"{_CORE}str"  # 20261128 is a name here, whatever else it may be
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_settle(entry, (*path, number), sizes) for number, entry in enumerate(node.value))
    else:
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.tag == _WORD:
                    key.tag = f"{_CORE}str"
                if key.value in seen and key.tag != f"{_CORE}merge":
                    raise _Refused(f"the key {key.value!r} is given twice", key)
                seen.add(key.value)
            size += 1 + _settle(value, (*path, key.value if isinstance(key, yaml.ScalarNode) else None), sizes)
    if size > _MOST_VALUES:
        raise _Refused(f"its aliases unfold to more than {_MOST_VALUES:,} values", node)
    sizes[id(node)] = size
    return size


def _meaning(node: Any, path: tuple[Any, ...]) -> str:
    """The tag of a word such as no: text among prompts, a truth where one is wanted."""
    if path in _FOLDERS or (len(path) > 1 and path[0] in ("prompts", "eval_prompts")):
        return f"{_CORE}str"
    if path and path[-1] in TRUTH_KEYS:
        return f"{_CORE}bool"
    truth = "true" if _TRUTH[node.value.lower()] else "false"
    raise _Refused(f'{node.value} may be a truth or a word. Write {truth}, or "{node.value}" in quotation marks', node)


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
        raise ConfigError(f"The config {file} must map keys to values. Found {kind_of(values)}.")
    for override in overrides:
        _apply(values, override)
    check_keys(values, [*SECTIONS, *settings_help()], str(file))
    if isinstance(values.get("eval_prompts"), dict):
        check_keys(values["eval_prompts"], [*PROMPT_KEYS, "count"], "`eval_prompts`")
    if isinstance(values.get("prompts"), dict):
        check_keys(values["prompts"], PROMPT_KEYS, "`prompts`")
    if values.get("tuning") is not None:
        check_keys(values["tuning"], TUNING_KEYS, "`tuning`")
    objectives = values.get("objectives")
    if not isinstance(objectives, list | None):
        raise ConfigError(f"`objectives` must be a list of objectives. Found {kind_of(objectives)}.")
    for number, objective in enumerate(objectives or []):
        check_keys(objective, OBJECTIVE_KEYS, f"`objectives.{number}`")
    return values


def _yaml(text: str, where: str, path: tuple[Any, ...] = ()) -> Any:
    """The value of a YAML text that stands at `path` in a config."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _settle(node, path, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        problem = getattr(error, "problem", None) or error
        kind = "" if isinstance(error, _Refused) else "this is not valid YAML: "
        raise ConfigError(f"{where}{line}: {kind}{problem}.") from None
    except RecursionError:
        raise ConfigError(f"{where}: its values are nested too deeply.") from None


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `key=value` in nested mappings and lists."""
    key, equals, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise ConfigError(f"An override is written key=value, such as steps=20 or lora.r=16. Found {override!r}.")
    value = _yaml(text, f"Override {override!r}", parts)
    if isinstance(value, str) and (parts in _FILES or (parts in _PLACES and value.startswith((".", "~")))):
        value = str(Path.cwd() / os.path.expanduser(value))  # what is typed is relative to where one is
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
