"""Write docs/api.md from the docstrings of everything public: `python docs/build_api.py [--check]`.

The lists of names in docs/configuration.md are written as well, from the registries. With `--check` nothing is written;
the exit status is 1 where a file is not what would be written.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import enum
import importlib
import inspect
import itertools
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "pareto_align"
SUBPACKAGES = (
    "front", "objectives", "objectives.learned", "weighting", "learning", "learning.preferences", "policies", "runs",
    "data", "discovery", "backends", "tuning", "testing",
)  # fmt: skip
TARGET = Path(__file__).with_name("api.md")
CONFIGURATION = Path(__file__).with_name("configuration.md")
REGISTRIES = {
    "weighting": ("weighting.base:weightings",),
    "learner": ("learning.credit:credits", "learning.learner:learners"),
    "explorer": ("discovery.explorers.base:explorers",),
    "family": ("policies.families:families",),
}
"""What a section of a config may name, and where it is registered."""

HEAD = """# API reference

Everything public, from the docstrings. This file is generated: change a docstring and run `python docs/build_api.py`.

Letters: `K` policies, `N` prompts in a batch, `G` completions of each prompt and policy, `B = K*N*G` rows, `m`
optimized objectives, `M` all objectives, `P` parameters of one policy, `T` completion tokens, `r` LoRA rank, `n`
measurements or members. All objectives are maximized inside; `ParetoFront`, `front.json` and the figures
are in the user's units.
"""

SECTIONS = (
    "Args", "Attributes", "Returns", "Yields", "Raises", "Warns", "References", "Example", "Examples", "Note",
)  # fmt: skip
LISTS = ("Args", "Attributes", "Raises", "Warns")


def main() -> int:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    check = parser.parse_args().check
    stale = False
    for path, text in ((TARGET, build()), (CONFIGURATION, with_names(CONFIGURATION.read_text(encoding="utf-8")))):
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(f"docs/{path.name} is stale. Run `python docs/build_api.py`.", file=sys.stderr)
            stale = True
        else:
            path.write_text(text, encoding="utf-8")
    return int(stale)


def with_names(text: str) -> str:
    """The page of the configuration with the names that each registry has now."""
    for section, places in REGISTRIES.items():
        names: list[str] = []
        for place in places:
            module, registry = place.split(":")
            classes = getattr(importlib.import_module(f"{PACKAGE}.{module}"), registry)._classes
            names += [name for name, cls in classes.items() if cls.__module__.startswith(f"{PACKAGE}.")]
        told = ", ".join(f"`{name}`" for name in sorted(names))
        text = re.sub(
            rf"(?m)^(\| `{section}` \|.*Names: ).*( \|)$", lambda row, told=told: row[1] + told + row[2], text
        )
    return text


def build() -> str:
    """The text of docs/api.md."""
    root = importlib.import_module(PACKAGE)
    homes: dict[int, str] = {}  # object -> the name it is documented under
    parts = [HEAD]
    for module in _modules(root):
        names = sorted(module.__all__, key=lambda name: (name.casefold(), name))
        title = module.__name__
        entries, index = [], []
        for name in names:
            thing = getattr(module, name)
            key = f"{title}.{name}"
            known = homes.get(id(thing)) if _has_identity(thing) else None
            index.append(f"- [`{name}`](#{_slug(known or key)}): {_brief(module, name, thing)}")
            if known is None:
                if _has_identity(thing):
                    homes[id(thing)] = key
                entries.append(_entry(module, name, thing))
        summary = _markdown((module.__doc__ or "").strip())
        parts += [f"## `{title}`", summary, "\n".join(index), *entries]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _modules(root: ModuleType) -> Iterable[ModuleType]:
    """The package, its subpackages, and of those without an `__all__` their modules."""
    yield root
    for name in SUBPACKAGES:
        package = importlib.import_module(f"{PACKAGE}.{name}")
        if hasattr(package, "__all__"):
            yield package
        else:
            for found in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
                yield importlib.import_module(f"{package.__name__}.{found}")


def _has_identity(thing: Any) -> bool:
    return inspect.isclass(thing) or inspect.isroutine(thing)


def _entry(module: ModuleType, name: str, thing: Any) -> str:
    """One public name: heading, signature, docstring, members."""
    heading = f"### `{module.__name__}.{name}`"
    if inspect.isclass(thing):
        return "\n\n".join([heading, *_class(name, thing)])
    if inspect.isroutine(thing):
        return "\n\n".join([heading, _code(_call(name, thing)), _markdown(inspect.getdoc(thing))])
    return "\n\n".join([heading, _code(_constant(name, thing)), _markdown(_constant_doc(module, name))])


def _class(name: str, cls: type) -> Iterable[str]:
    doc = _markdown(inspect.getdoc(cls))
    if issubclass(cls, enum.Enum):
        yield doc
        yield "\n".join(f"- `{name}.{member.name}`: `{member.value!r}`" for member in cls)
        return
    if issubclass(cls, Exception):
        yield f"Bases: {', '.join(f'`{base.__name__}`' for base in cls.__bases__)}."
        yield doc
        return
    yield _code(f"class {_call(name, cls)}")
    bases = [base.__name__ for base in cls.__bases__ if base.__module__.startswith(PACKAGE)]
    if bases:
        yield f"Bases: {', '.join(f'`{base}`' for base in bases)}."
    yield doc
    if dataclasses.is_dataclass(cls) and (table := _help_table(cls)):
        yield table
    for attribute, value in vars(cls).items():
        if attribute.startswith("_") and attribute != "__call__":
            continue
        if isinstance(value, property | cached_property):
            function = value.fget if isinstance(value, property) else value.func
            yield f"#### `{name}.{attribute}`"
            yield _code(f"{attribute}{_returned(function).replace(' ->', ':')}  # property")
            yield _markdown(inspect.getdoc(value))
        elif isinstance(value, classmethod | staticmethod) or inspect.isfunction(value):
            function = getattr(value, "__func__", value)
            shown = f"{name}.{attribute}" if attribute != "__call__" else f"{name}(...)"
            kind = f"@{type(value).__name__}\n" if isinstance(value, classmethod | staticmethod) else ""
            yield f"#### `{shown}`"
            yield _code(kind + _call(attribute, function, drop=not isinstance(value, staticmethod)))
            yield _markdown(inspect.getdoc(getattr(cls, attribute)))


def _help_table(cls: type) -> str:
    """Fields that carry their own help text, as a table."""
    rows = [f for f in dataclasses.fields(cls) if "help" in f.metadata]
    if not rows:
        return ""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{f.name}` | `{f.default!r}` | {f.metadata['help']} |" for f in rows])


def _call(name: str, function: Callable[..., Any], *, drop: bool = False) -> str:
    """`name(parameters) -> result`, one parameter a line where it would be long.

    Annotations are strings in this package, so the text does not depend on the Python version.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return f"{name}(...)"
    parameters = list(signature.parameters.values())[1 if drop else 0 :]
    shown: list[str] = []
    star = False
    for position, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        text = prefix + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f"{' = ' if ':' in text else '='}{_default(parameter.default)}"
        shown.append(text)
        following = parameters[position + 1].kind if position + 1 < len(parameters) else None
        if parameter.kind is parameter.POSITIONAL_ONLY and following is not parameter.POSITIONAL_ONLY:
            shown.append("/")
    end = "" if inspect.isclass(function) else _returned(function)
    line = f"{name}({', '.join(shown)}){end}"
    if len(line) <= 100 or not shown:
        return line
    return f"{name}(\n" + "".join(f"    {text},\n" for text in shown) + f"){end}"


def _returned(function: Any) -> str:
    found = inspect.signature(function).return_annotation
    return "" if found is inspect.Signature.empty else f" -> {_annotation(found)}"


def _annotation(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    return "None" if annotation is None or annotation is type(None) else getattr(annotation, "__name__", "...")


def _default(value: Any) -> str:
    """The source of a default value; `...` where its repr would differ from one process to the next."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    text = repr(value)
    return "..." if re.search(r" at 0x|<", text) else text


def _constant(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{name} = {{{', '.join(repr(key) + ': ...' for key in value)}}}"
    text = repr(value)
    return name if len(text) > 200 or " at 0x" in text else f"{name} = {text}"


def _constant_doc(module: ModuleType, name: str) -> str:
    """The string below an assignment, which is how constants and aliases are documented."""
    body = ast.parse(inspect.getsource(module)).body
    for here, below in itertools.pairwise(body):
        targets = here.targets if isinstance(here, ast.Assign) else [getattr(here, "target", None)]
        named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if named and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            return str(below.value.value)
    return ""


def _brief(module: ModuleType, name: str, thing: Any) -> str:
    """The first sentence of a docstring, on one line."""
    doc = inspect.getdoc(thing) if _has_identity(thing) else _constant_doc(module, name)
    paragraph = " ".join((doc or "").split("\n\n")[0].split())
    return _escaped(paragraph)


def _code(text: str) -> str:
    # not marked as Python: ruff formats Python in Markdown, and this page must be what the script writes
    return f"```text\n{text}\n```"


def _markdown(doc: str | None) -> str:
    """A Google-style docstring as Markdown: sections become bold words, their entries lists."""
    blocks: list[str] = []
    title, lines = "", list[str]()

    def flush() -> None:
        text = textwrap.dedent("\n".join(lines)).strip("\n")
        if text.strip():
            body = _list(text) if title in LISTS else _references(text) if title == "References" else _prose(text)
            blocks.append(f"**{title}**\n\n{body}" if title else body)
        lines.clear()

    for line in (doc or "").splitlines():
        match = re.fullmatch(r"(\w+):", line)
        if match and match[1] in SECTIONS:
            flush()
            title = match[1]
        elif title and line and not line.startswith(" "):
            flush()
            title = ""
            lines.append(line)
        else:
            lines.append(line)
    flush()
    return "\n\n".join(blocks)


def _items(text: str) -> list[str]:
    """Entries of a section: lines that start at its left edge, each with its indented continuation."""
    items: list[str] = []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            items.append(line)
        elif line.strip() and items:
            items[-1] += " " + line.strip()
    return items


def _list(text: str) -> str:
    rows = []
    for item in _items(text):
        name, colon, meaning = item.partition(": ")
        rows.append(f"- `{name.strip('`')}`: {_escaped(meaning)}" if colon else f"- {_escaped(item)}")
    return "\n".join(rows)


def _references(text: str) -> str:
    return "\n".join(f"- {_escaped(item)}" for item in _items(text))


def _prose(text: str) -> str:
    """Paragraphs as they are; indented and fenced lines are code and stay untouched."""
    fenced, out = False, []
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        code = fenced or line.startswith("    ") or line.lstrip().startswith("```")
        out.append(line if code else _escaped(line))
    return "\n".join(out)


def _escaped(text: str) -> str:
    """Angle brackets outside code spans would be taken for HTML, double backticks are reST."""
    text = text.replace("``", "`")
    spans = re.split(r"(`[^`]*`)", text)
    return "".join(s if i % 2 else s.replace("<", "&lt;").replace("](", "] (") for i, s in enumerate(spans))


def _slug(name: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-")


if __name__ == "__main__":
    sys.exit(main())
