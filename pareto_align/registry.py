"""Names to classes, once: how a part of a run is registered, listed and built from what a user wrote.

A part is given by its registered name, by a mapping with `name` and settings, or as an instance.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pareto_align.errors import ConfigError
from pareto_align.spelling import hint

__all__ = ["Registry", "is_named"]

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


class Registry(Generic[T]):
    """The classes of one kind of part.

    Args:
        kind: What a part is called in errors, such as "family".
        base: The class that every part extends.
    """

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: make a class available by `name`, which it then carries.

        Raises:
            ConfigError: Another class has the name. The same class defined again, as a notebook cell that runs twice
                does, is no other.
        """

        def add(cls: C) -> C:
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(
                    f"The {self.kind} {name!r} exists already: {known.__module__}.{known.__qualname__}. "
                    "Register yours under another name."
                )
            cls.name = name
            self._classes[name] = cls
            return cls

        return add

    def get(self, name: str) -> type[T] | None:
        """The class of that name, or None."""
        return self._classes.get(name)

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._classes)

    def make(self, part: str | Mapping[str, Any] | T) -> T:
        """A part by name, by a mapping with `name` and settings, or the instance given.

        Raises:
            ConfigError: The name or a setting is unknown, or a setting is of the wrong kind.
        """
        if isinstance(part, self.base):
            return part
        settings: dict[str, Any] = {}
        name: Any = part
        if isinstance(part, Mapping):
            settings = dict(part)
            if "name" not in settings:
                raise ConfigError(f"`{self.kind}` given as a mapping needs `name`. Found {settings!r:.80}.")
            name = settings.pop("name")
        if not isinstance(name, str):
            raise ConfigError(
                f"`{self.kind}` must be a name, a mapping with `name`, or an instance of {self.base.__name__}. "
                f"Found {name!r}."
            )
        cls = self._classes.get(name)
        if cls is None:
            told = hint(name, self.names()) or f" Known: {', '.join(self.names())}."
            raise ConfigError(f"Unknown {self.kind} {name!r}.{told}")
        known = list(inspect.signature(cls).parameters)
        if unknown := sorted(set(settings) - set(known), key=str):
            told = hint(unknown[0], known) if known else " It takes none."
            raise ConfigError(f"The {self.kind} {name!r} has no setting {unknown[0]!r}.{told}")
        try:
            return cls(**settings)
        except ConfigError:  # the part has said what is wrong
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The {self.kind} {name!r} cannot be made with {settings}: {error}.") from error


def is_named(part: Any, name: str) -> bool:
    """Whether a part is given as this name and nothing else: `name`, or a mapping of it alone."""
    return bool(part == name or part == {"name": name})
