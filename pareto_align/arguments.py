"""What an object was built with: kept by the object itself, and told as plain data."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

__all__ = ["KeepsArguments", "arguments_of", "plain"]


class KeepsArguments:
    """Base of what users build with settings of their own and hand in: it remembers with which.

    A subclass need not do anything for it: what its constructor is called with is taken down.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__init__" in cls.__dict__:
            setattr(cls, "__init__", _keeping(cls.__dict__["__init__"]))  # noqa: B010 - mypy refuses an assignment


def _keeping(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def keeping(self: Any, *args: Any, **keywords: Any) -> None:
        if "_built_with" not in self.__dict__:  # a base class's constructor is called within its own
            self.__dict__["_built_with"] = args, keywords
        init(self, *args, **keywords)

    return keeping


def arguments_of(thing: Any) -> dict[str, Any]:
    """What `thing` was built with, defaults included, in JSON's own types; nothing where it is not known."""
    if is_dataclass(thing) and not isinstance(thing, type):
        return {field.name: plain(getattr(thing, field.name)) for field in fields(thing) if field.init}
    if "_built_with" not in getattr(thing, "__dict__", {}):
        return {}
    args, keywords = thing.__dict__["_built_with"]
    bound = inspect.signature(type(thing)).bind(*args, **keywords)
    bound.apply_defaults()
    return {name: plain(value) for name, value in bound.arguments.items()}


def plain(value: Any) -> Any:
    """A value in JSON's own types. Code is told by its name; what else JSON cannot hold, by that of its type."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(entry) for entry in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if inspect.isroutine(value) or isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    found = arguments_of(value)
    return {"class": name, **found} if found else name
