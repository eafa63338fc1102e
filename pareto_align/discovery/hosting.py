"""Where the model is: shards of policies on it, and what a run asks of it beside them.

A host is made where a backend wants it, and may be made again there or elsewhere. So everything that it works with
comes in the calls that it gets, and whatever it returns can be sent.
"""

from __future__ import annotations

import copy
import logging
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.data.prompts import PromptRow
from pareto_align.errors import ConfigError, ModelError
from pareto_align.evaluation.answers import Question, Said, answer
from pareto_align.learning.learner import Context, Learner, StepReport, Told
from pareto_align.learning.rollouts import Answers, Rollouts
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.base import Base, load_base
from pareto_align.policies.correction import Correction
from pareto_align.policies.determinism import deterministic
from pareto_align.policies.engine import Engine
from pareto_align.policies.families import Family
from pareto_align.policies.gradients import ObjectiveGradients
from pareto_align.policies.micro_batch import default_micro_batch, recorded_micro_batch
from pareto_align.policies.optimizer import OPTIMIZERS, FamilyOptimizer, PopulationOptimizer, keep_within
from pareto_align.policies.parity import parity_of
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.records import processor
from pareto_align.policies.sampling import SamplingParams
from pareto_align.policies.sharding.loading import load_share
from pareto_align.runs.settings import Settings
from pareto_align.seeds import seed_for
from pareto_align.versions import versions

__all__ = ["Host", "Shard", "Work", "correction_of", "load_host", "sampling_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Work:
    """What the shards of a run do.

    Attributes:
        settings: Of the run.
        learner: Every one of several shards has a copy.
        family: What the policies are of; every one of several shards has a copy.
        m: Objectives that a preference weighs.
        preferences: `[K, m]` what the policies serve at first, where they are of a family.
        scale: The frozen scale of all objectives.
        axes: Those that a weighting has weights for.
        train: What is trained on.
        objectives: Judge what is said; None where that is not done on hosts.
    """

    settings: Settings
    learner: Learner
    family: Family | None
    m: int
    preferences: np.ndarray
    scale: RewardScale
    axes: Sequence[int]
    train: Sequence[PromptRow | ComparisonRow]
    objectives: ObjectiveSet | None


class Host:
    """A model, and the shards that are on it.

    Args:
        base: The model.
        population: On it, with room for all policies of the run; by default `move_in` makes one, and every shard has
            room of its own.
    """

    def __init__(self, base: Base, population: PolicyPopulation | None = None) -> None:
        self.base = base
        self.whole = self._population = population
        self.shards: dict[int, Shard] = {}

    @property
    def population(self) -> PolicyPopulation:
        """What serves policies on the model."""
        assert self._population is not None, "`move_in` comes first"
        return self._population

    # -- what every host is told, in this order --------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What is known of the model, and of what decides the last bits of what is computed."""
        base = self.base
        accelerator = torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else None
        return {
            "base": {"dtype": str(base.dtype).removeprefix("torch."), "device": base.device.type},
            "machine": {
                "processor": processor(),
                "accelerator": accelerator,
                "threads": torch.get_num_threads(),
                "ranks": 1 if base.sharding is None else base.sharding.summands,
            },
            "versions": versions(),
            "device": str(base.device),
            "name": platform.node(),
        }

    def move_in(self, lora: Any, settings: Settings, notes: int = 0) -> None:
        """Make a population, with a slot for what is asked beside the shards.

        Raises:
            ModelError: The model cannot carry one.
        """
        self._population = PolicyPopulation(self.base, 1, lora=lora, notes=notes)
        self._population.sampler, self._population.deterministic = settings.decoding, settings.deterministic
        if self.base.sharding is not None:
            self._population.sampler = "eager"  # what ranks send each other is in no graph that was tried

    def micro_batch_tokens(self, settings: Settings) -> int:
        """Tokens of one forward and backward pass: as set, as recorded for this model and machine, or the default."""
        if settings.micro_batch_tokens is not None:
            return settings.micro_batch_tokens
        recorded = recorded_micro_batch(self.base)
        if recorded is None:
            return default_micro_batch(self.base)
        logger.info("micro_batch_tokens=%d, as `pareto-align bench` recorded for this model and machine.", recorded)
        return recorded

    def read_with(self, settings: Settings, temperature: float, micro_batch_tokens: int) -> None:
        """Make the engine that reads for all shards."""
        self.engine = Engine(
            self.population,
            temperature=temperature,
            layout=settings.layout,
            micro_batch_tokens=micro_batch_tokens,
            gradient_checkpointing=settings.gradient_checkpointing,
        )

    def know(self, engine_state: Mapping[str, Any]) -> None:
        """Go on with what a run before found out about the model and the memory."""
        self.engine.load_state_dict(engine_state)

    def begin(self, work: Work) -> None:
        """What shards do that are opened from now on."""
        self.work = work

    # -- what a backend asks for -----------------------------------------------------------------------------------

    def open(self, shard: int) -> None:
        """Put a shard on it, as it is at the beginning of the run."""
        work, settings = self.work, self.work.settings
        slots = settings.shards[shard]
        if self.whole is not None:
            parameters, grad = (x[slots.start : slots.stop] for x in (self.whole.parameters, self.whole.grad))
        else:
            seed = seed_for(settings.seed, "adapters")
            parameters = torch.stack([self.population.fresh(seed + slot) for slot in slots])
            grad = torch.zeros_like(parameters)
        if len(settings.shards) > 1:
            work = replace(work, learner=copy.deepcopy(work.learner), family=copy.deepcopy(work.family))
        self.shards[shard] = Shard(self.engine, work, slots, parameters, grad)

    def drop(self, shard: int) -> None:
        """Take a shard off it."""
        del self.shards[shard]

    def call(self, shard: int, method: str, arguments: Sequence[Any]) -> Any:
        """Call a method of a shard that is on it."""
        return getattr(self.shards[shard], method)(*arguments)

    def attend(self) -> None:
        """Where ranks share the model: help the others until none of them has anything to do."""
        if self.base.sharding is not None:
            self.base.sharding.attend()

    # -- what leaves no trace --------------------------------------------------------------------------------------

    def answer(self, question: Question) -> Said:
        """Let policies answer held-out prompts."""
        return answer(self.population, self.engine, question)

    def parity(self, policy: Tensor, prompt: Sequence[int]) -> dict[str, Any]:
        """How far a policy `[P]` that stock PEFT loads is from the one that is run here."""
        return parity_of(self.population, policy, prompt)


class Shard:
    """Some of a run's policies, which are sampled and trained together.

    Args:
        engine: Runs them, in turn with those of other shards.
        work: What they do; the learner and the family in it are the shard's.
        slots: Their numbers among all policies of the run.
        parameters: `[k, P]`.
        grad: `[k, P]` room for their gradients.
    """

    def __init__(self, engine: Engine, work: Work, slots: range, parameters: Tensor, grad: Tensor) -> None:
        settings, population = work.settings, engine.population
        self.engine, self.population, self.learner, self.family = engine, population, work.learner, work.family
        self.parameters, self.grad, self.slots = parameters, grad, slots
        self.deterministic = settings.deterministic
        self.seen: Any = None
        self.found: ObjectiveGradients | None = None
        self.limit = settings.max_step_kl
        self._start: Tensor | None = None  # where the last step began, if it has a limit
        chosen: dict[str, Any] = {"max_norm": settings.max_grad_norm, "weight_decay": settings.weight_decay}
        optimizer: PopulationOptimizer | FamilyOptimizer
        with self._here():
            if self.family is None:
                optimizer = OPTIMIZERS[settings.optimizer](parameters, **chosen)
            else:
                self.family.setup(population, work.m, seed_for(settings.seed, "adapters"))
                alone = len(slots) == settings.population
                optimizer = FamilyOptimizer(self.family, population, kind=settings.optimizer, alone=alone, **chosen)
                optimizer.place(work.preferences[slots.start : slots.stop])
            context = Context(
                engine,
                work.scale,
                work.axes,
                optimizer,
                work.objectives,
                work.train,
                settings.prompts_per_step,
                settings.group_size,
                sampling_of(settings),
                settings.seed,
                slots.start,
                correction_of(settings, self.learner),
            )
            self.learner.setup(context)

    def _here(self) -> AbstractContextManager[None]:
        """The population's slots hold this shard's policies."""
        return self.population.holding(self.parameters, self.grad)

    # -- a step ----------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Answers | Told:
        """What step number `step` learns from, as far as it can be told elsewhere."""
        with self._here():
            self._start, self.seen = None, self.learner.collect(step)
        return self.seen.answers() if isinstance(self.seen, Rollouts) else Told.of(self.seen)

    def gradients(
        self, rewards: np.ndarray | None, halves: bool
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Find every objective's gradient; they stay here.

        Args:
            rewards: `[k, N, G, M]` of what was collected; None where it has them.
            halves: Also from two halves of the batch.

        Returns:
            `[k, m, m]` Gramians, those of the halves, and `[k, M]` what was seen, where that is known only now.
        """
        self._take(rewards)
        with self._here(), deterministic(self.deterministic):
            self.found = self.learner.gradients(self.seen, halves=halves)
        values = self.seen.values() if self.learner.values_with_gradients else None
        return self.found.gramians, self.found.cross_gramians, values

    def step(
        self, rewards: np.ndarray | None, weights: np.ndarray, learning_rate: float, applies_to: str
    ) -> tuple[StepReport, tuple[Tensor, int] | None]:
        """Update the policies; of a family that has others elsewhere, only pull the gradient back.

        Args:
            rewards: As of `gradients`, where that was not asked for.
            weights: `[k, m]`, see `Learner.step`.
            learning_rate: For all policies.
            applies_to: See `Learner.step`.

        Returns:
            The report, and what was pulled back (`FamilyOptimizer.pulled`) where `move` is to follow.
        """
        self._take(rewards)
        found, self.found = self.found, None
        optimizer = self.learner.optimizer
        self._start = None if self.limit is None else optimizer.parameters.clone()
        with self._here(), deterministic(self.deterministic):
            report = self.learner.step(self.seen, weights, learning_rate, applies_to=applies_to, gradients=found)
        if self.limit is None:
            self.seen = None
        if isinstance(optimizer, FamilyOptimizer) and not optimizer.alone:
            return report, None if optimizer.pulled is None else (optimizer.pulled[0].cpu(), optimizer.pulled[1])
        moved = self._moved()
        if moved is not None and self.limit is not None:
            keep_within(self.limit, moved, self.rescale, together=self.family is not None)
        self.seen = self._start = None
        return report.and_moved(moved), None

    def move(self, gradient: Tensor, learning_rate: float) -> np.ndarray | None:
        """Take a family's step along the gradient `[1, D]` that all shards have found.

        Returns:
            `Learner.moved` of the policies here, where `rescale` may follow.
        """
        with self._here(), deterministic(self.deterministic):
            self._family.move(gradient.to(self.parameters.device), learning_rate)
        return self._moved()

    def rescale(self, factors: list[float], again: bool) -> np.ndarray | None:
        """Make the step that was just made longer or shorter: see `keep_within`.

        Args:
            factors: One a policy here, or one of a family.
            again: Whether it is asked how far the policies are now.

        Returns:
            `Learner.moved`, if it was asked for.
        """
        assert self._start is not None, "a step was made that has a limit"
        with self._here():
            self.learner.optimizer.rescale(self._start, factors)
        return self._moved() if again else None

    def _moved(self) -> np.ndarray | None:
        if self.limit is None:
            return None
        with self._here(), deterministic(self.deterministic):
            return self.learner.moved(self.seen)

    def _take(self, rewards: np.ndarray | None) -> None:
        assert self.seen is not None, "a step learns from what was collected for it"
        if rewards is not None and isinstance(self.seen, Rollouts):
            self.seen.rewards = rewards

    # -- between steps ---------------------------------------------------------------------------------------------

    def place(self, preferences: np.ndarray) -> None:
        """Let the slots serve a family at other preferences `[k, m]`."""
        with self._here():
            self._family.place(preferences)

    @torch.no_grad()
    def adopt(self, slot: int, policy: Tensor) -> None:
        """Another policy `[P]` moves into a slot of the run; nothing of the one before is kept."""
        self.parameters[slot - self.slots.start].copy_(policy)
        self.forget(slot)

    def put_back(self, row: int, parameters: Tensor) -> None:
        """Go back to parameters of before, `[P]` of a slot of the run or `[D]` of a family, with a fresh optimizer."""
        with self._here():
            self.learner.optimizer.put_back(row - (self.slots.start if self.family is None else 0), parameters)

    def forget(self, slot: int) -> None:
        """Nothing that the learner keeps of a slot of the run is of its policy any more."""
        with self._here():
            self.learner.reset(slot - self.slots.start)

    @property
    def _family(self) -> FamilyOptimizer:
        assert isinstance(self.learner.optimizer, FamilyOptimizer)
        return self.learner.optimizer

    # -- what is asked of it ---------------------------------------------------------------------------------------

    def home(self) -> tuple[Tensor, Tensor | None]:
        """The policies `[k, P]`, and a family's parameters `[1, D]`, on the CPU."""
        return self.parameters.detach().cpu(), None if self.family is None else self.family.parameters.detach().cpu()

    def scale(self) -> RewardScale:
        """The scale of what a step sees."""
        return self.learner.scale

    def engine_state(self) -> dict[str, Any]:
        """What was found out about the model and the memory."""
        return self.engine.state_dict()

    def state(self) -> dict[str, Tensor]:
        """All that it goes on from between two steps, on the CPU."""
        learnt = {name: value.cpu() for name, value in self.learner.state_dict().items()}
        return {"parameters": self.parameters.detach().cpu(), **learnt}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state()`; other keys are left alone."""
        self.parameters.copy_(state["parameters"])
        with self._here():
            self.learner.load_state_dict(state)


def sampling_of(settings: Settings) -> SamplingParams:
    """How a run samples, in training and measuring."""
    return SamplingParams(settings.max_new_tokens, settings.temperature, top_k=settings.top_k, top_p=settings.top_p)


def correction_of(settings: Settings, learner: Learner) -> Correction:
    """What a learner does about completions of a slightly different policy; "auto" is nothing for exact samplers."""
    kind = settings.rollout_correction
    if kind == "auto":
        kind = "token_truncate" if settings.engine is not None and learner.corrects else "none"
    return Correction(kind, settings.rollout_cap)


def load_host(loading: Mapping[str, Any], sharding: str | None = None) -> Host:
    """A host where it is to be, with a model that is loaded there.

    Args:
        loading: Arguments of `load_base`.
        sharding: How ranks share the model, of which this process is one; None: it has all of it.

    Raises:
        ConfigError: The model cannot be loaded there.
    """
    try:
        return Host(load_base(**loading) if sharding is None else load_share(loading, sharding))
    except ModelError as error:
        if sharding is not None:
            raise ConfigError(f"The ranks on {platform.node()} cannot share the model: {error}") from error
        raise ConfigError(
            f"A worker on {platform.node()} cannot load the model: {error} Every machine has to find it under the same "
            "name: put the folder where all of them see it, or give a name of the Hugging Face Hub."
        ) from error
