"""What a sweep may vary, and within which limits."""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from pareto_align.errors import ConfigError
from pareto_align.runs.settings import Settings

__all__ = ["DEFAULT_SPACE", "TUNABLE", "Dimension", "Space"]

TUNABLE = (
    "learning_rate", "lr_schedule", "weight_decay", "max_grad_norm", "max_step_kl", "kl_coef", "kl", "clip", "kl_limit",
    "updates_per_rollout", "aggregation", "temperature", "top_k", "top_p",
)  # fmt: skip
"""Settings that change how policies learn and sample. What changes the price of a run or how it is measured is not
here: such runs could not be compared."""

DEFAULT_SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 3e-5, "high": 3e-3, "log": True},
    "kl_coef": {"low": 0.0, "high": 0.1},
    "temperature": {"low": 0.6, "high": 1.2},
}
"""The space that is searched where none is given."""


@dataclass(frozen=True)
class Dimension:
    """One setting and the values that it may take.

    Attributes:
        name: A field of `Settings`.
        low: Smallest value; None where there are choices.
        high: Largest value; None where there are choices.
        log: Whether values are spread evenly over their logarithms.
        whole: Whether values are whole numbers.
        choices: The values, where they are no range.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    def at(self, share: float) -> Any:
        """The value at a share of the way, from 0 up to but not including 1."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return int(self.low) + int(share * (int(self.high) - int(self.low) + 1))
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return min(max(value, self.low), self.high)  # rounding may lead out of the range

    def holds(self, value: Any) -> bool:
        """Whether a value is among those that the setting may take."""
        if self.choices:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        return value is not None and bool(self.low <= value <= self.high)

    def at_end(self, value: Any) -> bool:
        """Whether a value of a range is within a hundredth of an end beyond which there is more; 0 is no such end."""
        if self.choices:
            return False
        assert self.low is not None
        share = self.share(value)
        return share >= 0.99 or (self.low > 0 and share <= 0.01)

    def share(self, value: Any) -> float:
        """How far along its range a value is, from 0 to 1."""
        assert self.low is not None
        assert self.high is not None
        low, high, at = (math.log(v) if self.log else float(v) for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    def extremes(self) -> tuple[Any, ...]:
        """Values between which, or among which, all others lie."""
        return self.choices or (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """As it is written in a space."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Space:
    """The settings that a sweep varies.

    Attributes:
        dimensions: One a setting.
    """

    dimensions: tuple[Dimension, ...]

    @classmethod
    def read(cls, space: Mapping[str, Mapping[str, Any]], settings: Settings) -> Space:
        """Check a space as the user writes it.

        Args:
            space: By setting `{"low": ..., "high": ..., "log": ...}` or `{"choices": [...]}`.
            settings: What stays as it is.

        Raises:
            ConfigError: The space is empty, names a setting that cannot be tuned, or has a value out of its range.
        """
        if not isinstance(space, Mapping) or not space:
            raise ConfigError(f"`space` must name at least one setting to tune. Found {space!r}.")
        dimensions = tuple(_dimension(name, limits) for name, limits in space.items())
        for dimension in dimensions:
            for value in dimension.extremes():
                try:
                    replace(settings, **{dimension.name: value})
                except ConfigError as error:
                    raise ConfigError(f"`space`: {error}") from None
        return cls(dimensions)

    def at(self, shares: Sequence[float]) -> dict[str, Any]:
        """The settings at a point of the unit cube, one share a dimension."""
        return {d.name: d.at(float(share)) for d, share in zip(self.dimensions, shares, strict=True)}

    def of(self, settings: Settings) -> dict[str, Any]:
        """What these settings say about the dimensions of the space."""
        return {d.name: getattr(settings, d.name) for d in self.dimensions}

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Whether settings lie in the space; those that one began with need not."""
        return all(d.holds(settings[d.name]) for d in self.dimensions)

    def alike(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether two settings differ by less than a thousandth of every range, the first of them in the space."""
        return all(
            one[d.name] == other[d.name]
            or (not d.choices and d.holds(other[d.name]) and abs(d.share(one[d.name]) - d.share(other[d.name])) < 1e-3)
            for d in self.dimensions
        )

    def at_end(self, settings: Mapping[str, Any]) -> list[str]:
        """Which of the settings lie at an end of their range, so that better ones may lie beyond it."""
        return [d.name for d in self.dimensions if d.holds(settings[d.name]) and d.at_end(settings[d.name])]

    def to_dict(self) -> dict[str, Any]:
        """As the user writes it."""
        return {d.name: d.to_dict() for d in self.dimensions}


def _dimension(name: str, limits: Any) -> Dimension:
    if name not in TUNABLE:
        near = difflib.get_close_matches(str(name), TUNABLE, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"These can: {', '.join(TUNABLE)}."
        raise ConfigError(f"`space`: {name!r} cannot be tuned. {hint}")
    keys = set(limits) if isinstance(limits, Mapping) else set()
    if keys == {"choices"}:
        return Dimension(name, choices=_choices(name, limits["choices"]))
    if not {"low", "high"} <= keys <= {"low", "high", "log"}:
        raise ConfigError(
            f"`space`: {name} is written {{low: ..., high: ..., log: true}} or {{choices: [...]}}. Found {limits!r}."
        )
    low, high, log = limits["low"], limits["high"], limits.get("log", False)
    hint = typing.get_type_hints(Settings)[name]
    kinds = typing.get_args(hint) or (hint,)
    if str in kinds:
        raise ConfigError(f"`space`: {name} is no number, so it takes {{choices: [...]}}. Found {limits!r}.")
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, Real) or not math.isfinite(end):
            raise ConfigError(f"`space`: low and high of {name} must be numbers. Found {limits!r}.")
    if not low < high:
        raise ConfigError(f"`space`: low must be below high. Found {name} from {low!r} to {high!r}.")
    if not isinstance(log, bool) or (log and not low > 0):
        raise ConfigError(f"`space`: log of {name} must be true or false, and with it low above 0. Found {limits!r}.")
    whole = int in kinds
    if whole and not (isinstance(low, int) and isinstance(high, int) and not log):
        raise ConfigError(f"`space`: {name} takes whole numbers, and no log. Found {limits!r}.")
    return Dimension(name, low if whole else float(low), high if whole else float(high), log, whole)


def _choices(name: str, choices: Any) -> tuple[Any, ...]:
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise ConfigError(f"`space`: choices of {name} must be a list. Found {choices!r}.")
    plain = all(value is None or isinstance(value, str | int | float) for value in choices)
    if not plain or len(choices) < 2 or len(set(choices)) < len(choices):
        raise ConfigError(
            f"`space`: choices of {name} must be two or more different numbers or words. Found {choices!r}."
        )
    return tuple(choices)
