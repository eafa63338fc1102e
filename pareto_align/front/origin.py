"""Where a policy comes from: written once, when it is measured, and read by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pareto_align.errors import ConfigError
from pareto_align.front.certificates import Ceiling
from pareto_align.spelling import hint

__all__ = ["NO_SPREAD", "Origin"]

NO_SPREAD = 1e-4  # of advantages on the frozen scale, where one reward unit is about 1


@dataclass(frozen=True)
class Origin:
    """Where a policy comes from. What does not apply to it is None, or empty.

    Attributes:
        step: Training steps made when it was measured.
        policy: The slot of the population that trained it.
        preference: `[m]` what it was trained for, or stands for.
        spread: How much its last step had to learn from (`StepReport.spread`).
        floors: `[m]` values to keep that it was trained under, None where there is none.
        between: The step at which a family was measured at this further preference.
        parents: The entries that it is a mixture of.
        coefficients: Of each parent in the mixture.
        rank_error: What cutting the mixture to its rank has lost, a Frobenius norm.
        length: Mean length of its answers, in tokens.
        noise: Norm of the random step away from the mixture; its sign is the direction's.
        seed: Of that step.
        report: What the report split holds against it.
        ceiling: What its own answers on the select split say of the best policy for its preference, and of itself;
            known where training has a price of KL.
    """

    step: int | None = None
    policy: int | None = None
    preference: tuple[float, ...] | None = None
    spread: float | None = None
    floors: tuple[float | None, ...] | None = None
    between: int | None = None
    parents: tuple[str, ...] = ()
    coefficients: tuple[float, ...] = ()
    rank_error: float | None = None
    length: float | None = None
    noise: float = 0.0
    seed: int | None = None
    report: str | None = None
    ceiling: Ceiling | None = None

    @property
    def can_learn(self) -> bool:
        """Whether its own answers still varied: without any variation there is no gradient to go on by."""
        return self.spread is None or self.spread >= NO_SPREAD

    @property
    def pursued(self) -> np.ndarray | None:
        """The preference `[m]` that decided where it is; under floors that is not the one it was trained for."""
        return None if self.preference is None or self.floors is not None else np.array(self.preference, dtype=float)

    @property
    def trained(self) -> bool:
        """Whether a slot trained it for a preference, and it is no mixture."""
        return self.policy is not None and self.preference is not None

    @classmethod
    def of(cls, told: Origin | Mapping[str, Any]) -> Origin:
        """An origin as it is, or from plain data.

        Raises:
            ConfigError: There is no field of that name.
        """
        if isinstance(told, Origin):
            return told
        known = [field.name for field in fields(cls)]
        for name in told:
            if name not in known:
                raise ConfigError(f"An origin has no field {name!r}.{hint(str(name), known)}")
        known_of = {name: _frozen(value) for name, value in told.items()}
        if isinstance(ceiling := known_of.get("ceiling"), Mapping):
            known_of["ceiling"] = Ceiling(**{name: _frozen(value) for name, value in ceiling.items()})
        return cls(**known_of)

    def to_dict(self) -> dict[str, Any]:
        """As JSON's own types, without what does not apply."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: _plain(value)
            for name, value in found.items()
            if value is not None and value != () and (name != "noise" or value)
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Ceiling):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple | np.ndarray) else value
