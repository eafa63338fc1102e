"""A fixed grid of preferences: the plain explorer, and the baseline of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from pareto_align.arguments import Within
from pareto_align.discovery.explorers.base import Explorer, register_explorer
from pareto_align.errors import ConfigError
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
        ConfigError: The margin leaves no room, or the number of preferences is not the population's.
    """

    moves_slots = False

    def __init__(
        self, preferences: Sequence[Any] | None = None, *, margin: Annotated[float, Within(least=0, below=1)] = 0.0
    ) -> None:
        self.margin = float(margin)
        self.given = None if preferences is None else list(preferences)

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`."""
        if self.given is not None:
            if len(self.given) != population:
                raise ConfigError(
                    f"The grid was given {len(self.given)} preferences for a population of {population}. "
                    "Give one a policy."
                )
            return np.stack([Preference.of(value, names).weights for value in self.given])
        if self.margin * len(names) >= 1:
            raise ConfigError(f"A margin of {self.margin} leaves no room for {len(names)} objectives.")
        return simplex.interior(simplex.grid(len(names), population), self.margin)
