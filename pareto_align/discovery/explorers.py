"""What to train: which preference each slot of the population pursues."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pareto_align.errors import ConfigError
from pareto_align.front import preferences as simplex
from pareto_align.front.preferences import Preference

__all__ = ["Explorer", "Grid", "make_explorer"]


class Explorer(ABC):
    """Decides the preferences that the slots of a population pursue."""

    name: ClassVar[str]

    @abstractmethod
    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """Preferences `[K, m]` on the simplex.

        Args:
            names: The m optimized objectives.
            population: K.
            seed: For explorers that draw.
        """


class Grid(Explorer):
    """Evenly spread preferences (pymoo's reference directions for m > 2), or the ones given.

    Args:
        preferences: K preferences, each a mapping from objective to weight or a sequence of weights.
        margin: Weight every objective keeps; the grid is pulled in from the corners by as much.

    Raises:
        ConfigError: The margin leaves no room, or the number of preferences is not the population's.
    """

    name = "grid"

    def __init__(self, preferences: Sequence[Any] | None = None, *, margin: float = 0.0) -> None:
        if not 0 <= margin < 1:
            raise ConfigError(f"`margin` must lie in [0, 1). Found margin={margin!r}.")
        self.given = None if preferences is None else list(preferences)
        self.margin = margin

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


def make_explorer(explorer: str | Explorer) -> Explorer:
    """An explorer by name, or the instance given.

    Raises:
        ConfigError: The name is unknown.
    """
    if isinstance(explorer, Explorer):
        return explorer
    known = {Grid.name: Grid}
    if explorer not in known:
        near = difflib.get_close_matches(str(explorer), known, n=1)
        raise ConfigError(
            f"Unknown explorer {explorer!r}."
            + (f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}.")
        )
    return known[explorer]()
