"""What an object is built with: checked against its constructor's annotations, remembered, and given as JSON.

A plug-in annotates each setting with what it may be:

    def __init__(self, *, lr: Positive = 0.1, memory: Memory = 0.9, rounds: Count = 2, rule: Literal["a", "b"] = "a")

Numbers, bools, `Literal`s of text and their unions (with None as well) are checked. A parameter with anything else in
its annotation is not, and the constructor looks at it itself. A default is never checked.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from pareto_align.errors import ConfigError

__all__ = [
    "Count",
    "KeepsArguments",
    "Memory",
    "NotNegative",
    "Positive",
    "Share",
    "Whole",
    "Within",
    "arguments_of",
    "path_of",
    "plain",
]


@dataclass(frozen=True)
class Within:
    """The range of a number: from `least` or above `above`, up to `most` or below `below`."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def holds(self, value: float) -> bool:
        """Whether a number lies in it; NaN does not."""
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        if self.least > -math.inf and self.most < math.inf:
            return f" from {self.least:g} to {self.most:g}"
        low = f" of at least {self.least:g}" if self.least > -math.inf else ""
        low = f" above {self.above:g}" if self.above > -math.inf else low
        high = f" of at most {self.most:g}" if self.most < math.inf else ""
        high = f" below {self.below:g}" if self.below < math.inf else high
        return f"{low} and{high}" if low and high else low + high


Positive = Annotated[float, Within(above=0)]
NotNegative = Annotated[float, Within(least=0)]
Share = Annotated[float, Within(least=0, most=1)]
Memory = Annotated[float, Within(least=0, below=1)]  # the share of an old mean that a step keeps
Whole = Annotated[int, Within(least=0)]
Count = Annotated[int, Within(least=1)]


class KeepsArguments:
    """Base of what users build with settings of their own and hand in: it checks the settings and remembers them.

    Every call of a subclass's constructor goes through here first; the subclass does nothing for it. A constructor that
    hands `**more` on to its base class takes that class's settings, and its signature says so.

    Attributes:
        kind: What it is called in messages.
        name: What the plug-in is registered as.

    Raises:
        ConfigError: A setting is not what its annotation says.
    """

    kind: ClassVar[str]
    name: ClassVar[str]

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__init__" in cls.__dict__:
            init = _keeping(cls.__dict__["__init__"], super(cls, cls).__init__)
            setattr(cls, "__init__", init)  # noqa: B010 - mypy refuses an assignment


def _keeping(init: Callable[..., None], inherited: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def keeping(self: Any, *args: Any, **keywords: Any) -> None:
        _check(init, self, args, keywords)
        if "_built_with" not in self.__dict__:  # a base class's constructor is called within its own
            self.__dict__["_built_with"] = args, keywords
        init(self, *args, **keywords)

    setattr(keeping, "__signature__", _with_inherited(init, inherited))  # noqa: B010
    return keeping


def _with_inherited(init: Callable[..., None], inherited: Callable[..., None]) -> inspect.Signature:
    """A constructor's signature, with its base class's settings in the place of `**more`."""
    own = inspect.signature(init)
    parameters = list(own.parameters.values())
    if parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD or inherited is object.__init__:
        return own
    added = [
        parameter
        for name, parameter in list(inspect.signature(inherited).parameters.items())[1:]
        if name not in own.parameters and parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    ]
    return own.replace(parameters=[*parameters[:-1], *added])


def _check(init: Callable[..., None], thing: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
    try:
        given = inspect.signature(init).bind(thing, *args, **keywords).arguments
    except TypeError:
        return  # the constructor itself says what is missing or too much
    for name, (allowed, default) in _annotated(init).items():
        if name in given and given[name] is not default and not any(_fits(given[name], hint) for hint in allowed):
            value, words = given[name], " or ".join(_words(hint) for hint in allowed if hint is not type(None))
            raise ConfigError(f"{thing.kind} {thing.name!r}: `{name}` must be {words}. Found {value!r}.")


@functools.cache
def _annotated(init: Callable[..., None]) -> dict[str, tuple[tuple[Any, ...], Any]]:
    """By parameter, the parts of its annotation and its default; only of those of which every part can be checked."""
    found = {}
    names = getattr(init, "__globals__", {})
    for parameter in list(inspect.signature(init).parameters.values())[1:]:
        # one by one: a name that cannot be found in one annotation leaves the others to be checked
        alone = types.SimpleNamespace(__annotations__={"hint": parameter.annotation})
        try:
            hint = get_type_hints(alone, names, include_extras=True)["hint"]
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue  # a name that only a type checker imports
        allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        if all(_known(hint) for hint in allowed):
            found[parameter.name] = (allowed, parameter.default)
    return found


def _known(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        number, *more = get_args(hint)
        return number in (int, float) and len(more) == 1 and isinstance(more[0], Within)
    return hint in (int, float, bool, type(None)) or get_origin(hint) is Literal


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is Annotated:
        number, within = get_args(hint)
        return _fits(value, number) and within.holds(float(value))
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    if hint in (int, float):
        is_number = isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max  # neither NaN nor infinite, nor too large a whole number
    return value is None


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is Annotated:
        number, within = get_args(hint)
        if hint == Positive:
            return "a positive number"
        return _words(number) + str(within)
    return {bool: "true or false", int: "a whole number", float: "a number"}[hint]


def path_of(value: Any, argument: str) -> Path:
    """The file or folder that a user named, `~` being their home.

    Raises:
        ConfigError: It is no path.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str) or not os.fspath(value):
        raise ConfigError(f"`{argument}` must be a path, as text or a `Path`. Found {value!r:.80}.")
    return Path(os.path.expanduser(value))


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
