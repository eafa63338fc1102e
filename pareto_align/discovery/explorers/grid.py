"""A fixed grid of preferences: the plain explorer, and the baseline of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from pareto_align.arguments import Within
from pareto_align.discovery.explorers.base import Explorer, register_explorer
from pareto_align.errors import ConfigError, PreferenceError
from pareto_align.front import preferences as simplex
from pareto_align.front.preferences import Preference

__all__ = ["Grid"]


@register_explorer("grid")
class Grid(Explorer):
    """Evenly spread preferences (pymoo's reference directions for m > 2), or the ones given.

    Args:
        preferences: K preferences, each a mapping from objective to weight or a sequence of weights.
        margin: Weight every objective keeps; the grid is pulled in from the corners by as much.

    Raises:
        ConfigError: The margin leaves no room, or there are not as many preferences as policies.
        PreferenceError: One of the preferences is none; it says which.
    """

    moves_slots = False

    def __init__(
        self, preferences: Sequence[Any] | None = None, *, margin: Annotated[float, Within(least=0, below=1)] = 0.0
    ) -> None:
        self.margin = float(margin)
        if isinstance(preferences, str | Mapping) or not isinstance(preferences, Iterable | None):
            raise ConfigError(
                "Explorer 'grid': `preferences` must be a list of preferences, one for each policy. Found "
                f"{preferences!r:.80}."
            )
        self.given = None if preferences is None else list(preferences)

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        if self.given is not None:
            if len(self.given) != population:
                raise ConfigError(
                    f"Explorer 'grid': `preferences` must be one for each policy. Found {len(self.given)} for a "
                    f"population of {population}."
                )
            return np.stack([_weights(value, names, number) for number, value in enumerate(self.given)])
        if self.margin * len(names) >= 1:
            raise ConfigError(
                f"Explorer 'grid': `margin` must be below 1/m = {1 / len(names):.3g} for {len(names)} objectives. "
                f"Found {self.margin}."
            )
        return simplex.interior(simplex.grid(len(names), population), self.margin)


def _weights(preference: Any, names: Sequence[str], number: int) -> np.ndarray:
    try:
        return Preference.of(preference, names).weights
    except PreferenceError as error:
        raise PreferenceError(f"Explorer 'grid', preference {number}: {error}") from error
