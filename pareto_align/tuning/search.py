"""Which settings are tried next: a search sees the trials so far and proposes.

A search holds no state of its own. What it proposes depends on the trials and on a seed only, so a sweep that was
killed goes on with the proposals that it would have had.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from pareto_align.errors import ConfigError
from pareto_align.tuning.space import Space
from pareto_align.tuning.trials import Trial

__all__ = ["ENGINES", "Search", "SobolSearch", "make_search", "resolve_engine"]

ENGINES = ("auto", "optuna", "sobol")


class Search(Protocol):
    """Proposes settings and gives up on trials."""

    def propose(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """The settings of the next trial, after these."""

    def hopeless(self, trials: Sequence[Trial], means: Sequence[float]) -> bool:
        """Whether a trial whose mean hypervolume after each of its fits was `means` need not go on."""


class SobolSearch:
    """Scrambled Sobol points: a random search that leaves no corner out. It never gives up on a trial.

    Args:
        space: What is searched.
        seed: Of the scrambling.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.seed = seed

    def propose(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """The next point; trial 0, which has the settings one began with, took none."""
        from scipy.stats import qmc

        number = max(len(trials) - 1, 0)
        points = qmc.Sobol(len(self.space.dimensions), scramble=True, seed=self.seed)
        return self.space.at(points.random_base2(number.bit_length())[number])

    def hopeless(self, trials: Sequence[Trial], means: Sequence[float]) -> bool:
        """Never."""
        return False


def resolve_engine(engine: str) -> str:
    """The engine that a name means here.

    Raises:
        ConfigError: The name is unknown, or Optuna is asked for and not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"`engine` must be one of {', '.join(ENGINES)}. Found {engine!r}.")
    installed = find_spec("optuna") is not None
    if engine == "optuna" and not installed:
        raise ConfigError("engine='optuna' needs Optuna. Install it with `pip install pareto-align[hpo]`.")
    if engine == "auto":
        return "optuna" if installed else "sobol"
    return engine


def make_search(engine: str, space: Space, seed: int) -> Search:
    """The search of an engine, "optuna" or "sobol"."""
    if engine == "sobol":
        return SobolSearch(space, seed)
    from pareto_align.tuning.optuna_search import OptunaSearch

    return OptunaSearch(space, seed)
