"""A weighting that is built of other weightings: it hands them the signal and keeps their state with its own."""

from __future__ import annotations

from collections.abc import Sequence

from pareto_align.errors import ConfigError
from pareto_align.weighting.base import State, Weighting

__all__ = ["NestedWeighting"]


class NestedWeighting(Weighting):
    """A weighting with parts that are set up, reset, saved and loaded with it.

    Args:
        parts: The weightings it is built of; each is its own instance. What they require, it requires, and it reads a
            preference as the last one does.

    Raises:
        ConfigError: An instance is used twice, or parts disagree on what their weights apply to.
    """

    def __init__(self, parts: Sequence[Weighting]) -> None:
        self.parts = tuple(parts)
        if len({id(part) for part in self.parts}) < len(self.parts):
            raise ConfigError(f"Weighting '{self.name}' was given the same instance twice; it is called once a step.")
        self.requires = self.requires.union(*(part.requires for part in self.parts))
        self.signed = self.signed or any(part.signed for part in self.parts)
        self.needs_kl = self.needs_kl or any(part.needs_kl for part in self.parts)
        for trait in ("compares_slots", "follows_slots", "goes_by_covariance"):
            setattr(self, trait, getattr(self, trait) or any(getattr(part, trait) for part in self.parts))
        self.steers_audits = self.steers_audits or any(part.steers_audits for part in self.parts)
        if self.steers_audits and "slack" in self.requires:
            raise ConfigError(
                f"Weighting '{self.name}' is built of a part with weights for constraints and one with weights for "
                "audited objectives: which column is whose cannot be told."
            )
        if len(applied := {part.applies_to for part in self.parts}) > 1:
            found = ", ".join(f"'{part.name}' to the {part.applies_to}" for part in self.parts)
            raise ConfigError(f"Weighting '{self.name}' is built of parts that must apply to the same. Found {found}.")
        if applied:
            self.applies_to = applied.pop()
            self.reading = self.parts[-1].reading

    def setup(self, K: int, m: int) -> None:
        """Set up the parts as well."""
        super().setup(K, m)
        for part in self.parts:
            part.setup(K, m)

    def reset(self, slot: int) -> None:
        """Reset policy `slot` in the parts as well."""
        super().reset(slot)
        for part in self.parts:
            part.reset(slot)

    def state_dict(self) -> State:
        """Its own state and that of its parts, as "part<i>.<name>"."""
        state = super().state_dict()
        for i, part in enumerate(self.parts):
            state |= {f"part{i}.{name}": value for name, value in part.state_dict().items()}
        return state

    def load_state_dict(self, state: State) -> None:
        """Continue from `state_dict()` of a weighting with the same settings.

        Raises:
            ConfigError: An entry is missing or unknown.
        """
        own = dict(state)
        inner = []
        for i in range(len(self.parts)):
            prefix = f"part{i}."
            inner.append({name.removeprefix(prefix): own.pop(name) for name in state if name.startswith(prefix)})
        super().load_state_dict(own)
        for part, entries in zip(self.parts, inner, strict=True):
            part.load_state_dict(entries)
