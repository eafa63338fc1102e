"""All policies of a run, in shards on whatever hosts a backend has: what the loop asks of K policies, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pareto_align.backends.protocol import Backend
from pareto_align.learning.learner import StepReport, Told
from pareto_align.learning.rollouts import Answers
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.families import Family
from pareto_align.policies.optimizer import keep_within
from pareto_align.policies.population import PolicyPopulation

__all__ = ["Shards"]


class Shards:
    """Collects, trains and fetches the policies, wherever they are.

    Args:
        backend: Has every shard on a host.
        slots: The policies of each shard, by number.
        population: Where the policies are brought home to. That of a backend in this process has them all the time.
        objectives: Judge what is said, all of it in one call each.
        family: What is trained, where it is a family; its parameters are brought home too.
        max_step_kl: Nats a completion by which a step may move a family; None for any number.

    Attributes:
        scale: The scale of what a step sees.
    """

    def __init__(
        self,
        backend: Backend,
        slots: tuple[range, ...],
        population: PolicyPopulation,
        objectives: ObjectiveSet,
        family: Family | None = None,
        max_step_kl: float | None = None,
    ) -> None:
        self.max_step_kl = max_step_kl
        self.backend, self.slots, self.population = backend, slots, population
        self.objectives, self.family = objectives, family
        self.scale: RewardScale = self._of_one(0, "scale")
        self._judged = self._at_home = False

    # -- a step ----------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Answers | Told:
        """What step number `step` learns from, rewards included.

        Raises:
            ObjectiveError: A reward function misbehaved.
        """
        self.backend.rest()
        parts = self._of_all("collect", step)
        seen: Answers | Told = type(parts[0]).together(parts) if len(parts) > 1 else parts[0]
        if isinstance(seen, Answers) and seen.rewards is None:
            seen.judge(self.objectives)
        self._judged = False
        return seen

    def gradients(self, seen: Answers | Told, *, halves: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Gramians `[K, m, m]` of the objectives' gradients, and those of two halves of the batch where asked for.

        Where it is only known now what was seen, `seen` has it afterwards.
        """
        found = self._of_each("gradients", [(rewards, halves) for rewards in self._rewards(seen)])
        gramians, cross, values = zip(*found, strict=True)
        if isinstance(seen, Told) and values[0] is not None:
            seen.found = np.concatenate(values)
        return np.concatenate(gramians), None if cross[0] is None else np.concatenate(cross)

    def step(self, seen: Answers | Told, weights: np.ndarray, learning_rate: float, applies_to: str) -> StepReport:
        """Update every policy: see `Learner.step`."""
        arguments = [
            (rewards, weights[own.start : own.stop], learning_rate, applies_to)
            for rewards, own in zip(self._rewards(seen), self.slots, strict=True)
        ]
        return self.together(self._of_each("step", arguments), learning_rate)

    def together(self, found: Sequence[tuple[StepReport, Any]], learning_rate: float) -> StepReport:
        """The report on all policies from what `Shard.step` returned for each shard; a family takes its step now."""
        self._at_home = False
        reports, pulled = zip(*found, strict=True)
        report = StepReport.together(reports) if len(reports) > 1 else reports[0]
        if parts := [part for part in pulled if part is not None]:
            # in the order of the shards: a sum depends on it
            count = sum(number for _, number in parts)
            total = sum(gradient * (number / count) for gradient, number in parts)
            report = self._kept(report, self._of_all("move", total, learning_rate))
        return report

    def _kept(self, report: StepReport, moved: list[np.ndarray | None]) -> StepReport:
        """Make a family's step shorter where it went too far; what is told is how far it went at first."""
        nats = _joined(moved)
        if nats is not None and self.max_step_kl is not None:
            keep_within(self.max_step_kl, nats, lambda *how: _joined(self._of_all("rescale", *how)), together=True)
        return report.and_moved(nats)

    def _rewards(self, seen: Answers | Told) -> list[np.ndarray | None]:
        """What each shard is told of the rewards, once."""
        told, self._judged = self._judged, True
        if told or seen.rewards is None:
            return [None] * len(self.slots)
        return [seen.rewards[own.start : own.stop] for own in self.slots]

    # -- between steps ---------------------------------------------------------------------------------------------

    @property
    def trained(self) -> Tensor:
        """What is trained, as it was last brought home: `[K, P]`, or `[1, D]` of a family."""
        return self.population.parameters if self.family is None else self.family.parameters

    def bring_home(self) -> None:
        """Let `population` have the policies as they are now, and the family its parameters."""
        if self._at_home or (self.family is None and not self.backend.remote):
            return
        found = self._of_all("home")
        with torch.no_grad():
            for own, (policies, family) in zip(self.slots, found, strict=True):
                if self.backend.remote:
                    self.population.parameters[own.start : own.stop] = policies
                if self.family is not None:
                    self.family.parameters.copy_(family)
        self._at_home = True

    def adopt(self, slot: int, policy: Tensor) -> None:
        """Let another policy `[P]` move into a slot; nothing that belonged to the one before is kept."""
        self._at_home = False
        self._of_one(self._shard(slot), "adopt", slot, policy)

    def put_back(self, row: int, parameters: Tensor) -> None:
        """Go back to parameters of before: `[P]` of slot `row`, or `[D]` of a family, which is row 0."""
        self._at_home = False
        if self.family is None:
            self._of_one(self._shard(row), "put_back", row, parameters)
        else:
            self._of_all("put_back", row, parameters)

    def forget(self, slot: int) -> None:
        """Nothing that the learner keeps of a slot is of its policy any more."""
        self._of_one(self._shard(slot), "forget", slot)

    def place(self, preferences: np.ndarray) -> None:
        """Let the slots serve a family at other preferences `[K, m]`."""
        self._at_home = False
        self._of_each("place", [(preferences[own.start : own.stop],) for own in self.slots])

    # -- what a run goes on from -----------------------------------------------------------------------------------

    def engine_state(self) -> dict[str, Any]:
        """What was found out about the model and the memory."""
        found: dict[str, Any] = self._of_one(0, "engine_state")
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """All policies with what belongs to them; of several shards, under the number of each."""
        parts = self._of_all("state")
        if len(parts) == 1:
            found: dict[str, Tensor] = parts[0]
            return found
        return {f"shard{n}.{name}": tensor for n, part in enumerate(parts) for name, tensor in part.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], engine_state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()` and `engine_state()`; other keys are left alone."""
        self.backend.everywhere("know", engine_state)
        if len(self.slots) == 1:
            parts = [dict(state)]
        else:
            named = [f"shard{n}." for n in range(len(self.slots))]
            parts = [{k.removeprefix(name): v for k, v in state.items() if k.startswith(name)} for name in named]
        self._of_each("load", [(part,) for part in parts])
        self._at_home = False
        self.bring_home()

    # -- calls -----------------------------------------------------------------------------------------------------

    def _shard(self, slot: int) -> int:
        return next(n for n, own in enumerate(self.slots) if slot in own)

    def _of_one(self, shard: int, method: str, *arguments: Any) -> Any:
        return self.backend.call(method, {shard: arguments})[shard]

    def _of_all(self, method: str, *arguments: Any) -> list[Any]:
        return self._of_each(method, [arguments] * len(self.slots))

    def _of_each(self, method: str, several: list[tuple[Any, ...]]) -> list[Any]:
        found = self.backend.call(method, dict(enumerate(several)))
        return [found[n] for n in range(len(several))]


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """`[K]` of all policies from those of each shard; None where it is not known."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None
