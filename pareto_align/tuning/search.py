"""Which settings are tried next: a search sees the trials so far and proposes.

A search holds no state of its own. What it proposes depends on the trials and on a seed only, so a sweep that was
killed goes on with the proposals that it would have had.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from pareto_align.errors import ConfigError
from pareto_align.seeds import seed_for
from pareto_align.tuning.space import Dimension, Space
from pareto_align.tuning.trials import Trial

if TYPE_CHECKING:
    import optuna

__all__ = ["ENGINES", "OptunaSearch", "Search", "SobolSearch", "make_search", "resolve_engine"]

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


class OptunaSearch:
    """`optuna.samplers.GPSampler` after a few Sobol points, and `optuna.pruners.MedianPruner` over the seeds.

    A sweep has ten trials or so, each dear and noisy: a Gaussian process makes more of so few than the estimators that
    Optuna takes by default, which draw at random for the first ten.

    Args:
        space: What is searched.
        seed: Of the proposals.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.seed = seed
        self.startup = len(space.dimensions) + 1  # trial 0 included

    def propose(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """A Sobol point at first, then the point of largest expected improvement."""
        import optuna

        if len(trials) < self.startup:
            return SobolSearch(self.space, self.seed).propose(trials)
        with _quiet():
            seed = seed_for(self.seed, "proposal", len(trials)) % 2**32
            study = self._study(trials, optuna.samplers.GPSampler(seed=seed, n_startup_trials=1))
            proposed = study.ask(self._distributions()).params
        settings = {d.name: proposed[d.name] for d in self.space.dimensions}
        if any(
            self.space.alike(settings, trial.settings) for trial in trials
        ):  # the same seeds once more would say nothing new
            return SobolSearch(self.space, self.seed).propose(trials)
        return settings

    def hopeless(self, trials: Sequence[Trial], means: Sequence[float]) -> bool:
        """Whether the best mean so far is below the median of the other trials after as many fits."""
        import optuna

        with _quiet():
            study = self._study(trials, optuna.samplers.RandomSampler(seed=0))
            trial = study.ask()
            for step, mean in enumerate(means):
                trial.report(mean, step)
            return bool(trial.should_prune())

    def _study(self, trials: Sequence[Trial], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        """A study that knows the trials. One that failed counts as the worst; it must not be proposed once more."""
        import optuna

        pruner = optuna.pruners.MedianPruner(n_startup_trials=self.startup)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        scores = [trial.score for trial in trials if trial.score is not None]
        distributions = self._distributions()
        for trial in trials:
            if scores and self.space.holds(trial.settings):
                study.add_trial(
                    optuna.trial.create_trial(
                        value=min(scores) if trial.score is None else trial.score,
                        params=trial.settings,
                        distributions=distributions,
                        intermediate_values=dict(enumerate(trial.means())),
                    )
                )
        return study

    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        return {d.name: _distribution(d) for d in self.space.dimensions}


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    import optuna

    if dimension.choices:
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.whole:
        return optuna.distributions.IntDistribution(int(dimension.low), int(dimension.high))
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells of every trial and warns of its own experiments; what a sweep finds is told by its result."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


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
    return OptunaSearch(space, seed)
