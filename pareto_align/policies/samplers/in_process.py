"""The population's own sampler: it decodes with the layers that are trained, so nothing has to be sent anywhere."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pareto_align.policies.drawing import Completions, SamplingParams
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import sample

__all__ = ["InProcess"]


class InProcess:
    """See `sampling.sample`; eagerly or by captured graphs, as `PolicyPopulation.sampler` says.

    Args:
        population: Runs the policies.
    """

    name = "in process"
    exact = True

    def __init__(self, population: PolicyPopulation) -> None:
        self.population = population
        self._rows: Tensor | None = None

    def wake(self) -> None:
        """See `Sampler.wake`: there is nothing to take up."""

    def push(self, rows: Tensor, version: int) -> None:
        """See `Sampler.push`."""
        self._rows = rows

    def draw(
        self,
        prompt_ids: Sequence[Sequence[int]],
        group: int,
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        own: bool = False,
    ) -> Completions:
        """See `Sampler.draw`."""
        return sample(self.population, prompt_ids, group, params, seeds, policies=self._rows, own=own)

    def rest(self) -> None:
        """See `Sampler.rest`."""
        self._rows = None

    def close(self) -> None:
        """See `Sampler.close`: there is nothing to end."""
