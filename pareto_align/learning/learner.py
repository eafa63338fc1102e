"""What a learner is: it takes a step's evidence and moves the whole population.

A learner never touches the model. It says how steeply each objective rises in the log-probability of each completion,
and the engine turns those numbers into gradients of all policies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from pareto_align.arguments import KeepsArguments, arguments_of
from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.data.prompts import PromptRow
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.correction import Correction
from pareto_align.policies.engine import Engine
from pareto_align.policies.gradients import ObjectiveGradients
from pareto_align.policies.optimizer import FamilyOptimizer, PopulationAdamW, PopulationOptimizer
from pareto_align.policies.sampling import SamplingParams
from pareto_align.registry import Registry
from pareto_align.weighting.evidence import FROM_GRADIENTS, FROM_REWARDS

__all__ = ["Context", "Experience", "Learner", "StepReport", "Told", "learners", "register_learner"]


@dataclass(frozen=True, eq=False)
class StepReport:
    """What one step did to each policy.

    Attributes:
        grad_norm: `[K]` before clipping; not finite where the policy's update was skipped.
        kl: `[K]` mean estimate of KL(pi || reference) a completion in nats; NaN where it was not measured.
        entropy: `[K]` mean of minus the sampled tokens' log-probabilities, in nats a token; NaN if none were.
        spread: `[K]` how much is left to learn from: the mean within-group standard deviation of the advantages (over
            the batch where G is 1); 0 means nothing can be learnt.
        sound: `[K]` whether the policy's own probabilities are numbers.
        more: `[K]` or `[K, m]` figures of the learner's own, for the journal.
    """

    grad_norm: np.ndarray
    kl: np.ndarray
    entropy: np.ndarray
    spread: np.ndarray
    sound: np.ndarray
    more: Mapping[str, np.ndarray] = field(default_factory=dict)

    def pooled(self) -> StepReport:
        """The report of a family as of one policy: its gradient is finite where that of any preference was."""
        finite = self.grad_norm[np.isfinite(self.grad_norm)]
        norm = np.array([finite.mean() if len(finite) else np.nan])
        kl, entropy, spread = (np.array([part.mean()]) for part in (self.kl, self.entropy, self.spread))
        return replace(self, grad_norm=norm, kl=kl, entropy=entropy, spread=spread, sound=np.array([self.sound.all()]))

    def and_moved(self, moved: np.ndarray | None) -> StepReport:
        """The same with how far the whole step moved each policy, `[K]` nats a completion, where that is known."""
        return self if moved is None else replace(self, more={**self.more, "step_kl": moved})

    @classmethod
    def together(cls, parts: Sequence[StepReport]) -> StepReport:
        """The report on all policies, from reports on some of them each."""

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        columns = {name: joined(name) for name in ("grad_norm", "kl", "entropy", "spread", "sound")}
        more = {name: np.concatenate([part.more[name] for part in parts]) for name in parts[0].more}
        return cls(**columns, more=more)


class Experience(Protocol):
    """What one step learns from: completions and what is known of them."""

    @property
    def rewards(self) -> np.ndarray | None:
        """Scores `[K, N, G, M]` of all objectives, maximised, NaN where missing; None where there are none."""

    @property
    def token_count(self) -> int:
        """Tokens that were sampled, or read."""

    @property
    def count(self) -> int:
        """Completions that were sampled, or read."""

    def values(self) -> np.ndarray:
        """What each policy reached, `[K, M]` of all objectives, maximised; NaN where nothing was seen."""

    def lengths(self) -> np.ndarray:
        """Mean length of the completions, `[K]` in tokens."""


@dataclass(eq=False)
class Told:
    """An experience in numbers: what is told of it where it did not happen.

    Attributes:
        token_count, count, rewards: As of `Experience`.
        found: `[K, M]` its values.
        mean_lengths: `[K]` its lengths, in tokens.
    """

    token_count: int
    count: int
    found: np.ndarray
    mean_lengths: np.ndarray
    rewards: np.ndarray | None = None

    @classmethod
    def of(cls, seen: Experience) -> Told:
        """What there is to tell."""
        return cls(seen.token_count, seen.count, seen.values(), seen.lengths(), seen.rewards)

    @classmethod
    def together(cls, parts: Sequence[Told]) -> Told:
        """Of all policies, from some of them each; all learn from the same comparisons, which count once."""
        found, lengths = ([getattr(part, name) for part in parts] for name in ("found", "mean_lengths"))
        judged = [part.rewards for part in parts if part.rewards is not None]
        rewards = np.concatenate(judged) if len(judged) == len(parts) else None
        return cls(parts[0].token_count, parts[0].count, np.concatenate(found), np.concatenate(lengths), rewards)

    def values(self) -> np.ndarray:
        """What each policy reached, `[K, M]`, maximised; NaN where nothing was seen."""
        return self.found

    def lengths(self) -> np.ndarray:
        """Mean length of the completions, `[K]` in tokens."""
        return self.mean_lengths


@dataclass(frozen=True, eq=False)
class Context:
    """What a learner works with in one run.

    Attributes:
        engine: Runs the policies.
        scale: The frozen scale of all M objectives.
        axes: The objectives that a weighting has weights for, m of the M.
        optimizer: What the policies' gradients `[K, P]` are handed to; by default AdamW on the policies themselves.
        objectives: Score what is sampled; None where somebody else does, or the learner is handed what it learns from.
        prompts: What is trained on: prompts, or comparisons.
        prompts_per_step: N.
        group_size: G.
        params: How completions are sampled.
        seed: Of the run.
        first: Number of the first of the policies among all of the run, which seeds what they sample.
        correction: What a learner that `corrects` does about completions that the sampler drew from a slightly
            different policy.
    """

    engine: Engine
    scale: RewardScale
    axes: Sequence[int]
    optimizer: PopulationOptimizer | FamilyOptimizer | None = None
    objectives: ObjectiveSet | None = None
    prompts: Sequence[PromptRow | ComparisonRow] = ()
    prompts_per_step: int = 8
    group_size: int = 8
    params: SamplingParams = field(default_factory=lambda: SamplingParams(128))
    seed: int = 0
    first: int = 0
    correction: Correction = field(default_factory=Correction)


class Learner(KeepsArguments, ABC):
    """Steps all K policies of a population at once; each one's update equals the one it would get alone.

    Attributes:
        name: What it is chosen by.
        needs: What `fit` has to be given: `"rollouts"` (prompts, and rewards to judge answers by) or `"comparisons"`.
        needs_group: Completions of one prompt are compared, so G must be at least 2.
        provides: The optional fields of a weighting's `Signal` that a run with it can fill in.
        values_with_gradients: What a step saw is only known once its gradients are.
        own_loss: Its loss is not a policy gradient: what is set for one (a price of KL, clipping) has no part in it.
        couples_policies: A policy's update depends on other policies, so all have to be on one device.
        corrects: Its loss can be weighed by how much likelier a token is to the trainer than to the sampler.
        tells_rewards: It teaches what rewards before a prompt mean, to a family that says them; weights have no part.
    """

    kind = "Learner"
    name: ClassVar[str] = ""
    needs: ClassVar[str] = "rollouts"
    needs_group: bool = False
    provides: ClassVar[frozenset[str]] = FROM_REWARDS | FROM_GRADIENTS | {"measured"}
    values_with_gradients: ClassVar[bool] = False
    own_loss: ClassVar[bool] = False
    couples_policies: ClassVar[bool] = False
    corrects: ClassVar[bool] = False
    tells_rewards: ClassVar[bool] = False

    @property
    def needs_own_policies(self) -> bool:
        """Whether it keeps parameters of each policy, which those of a family do not have."""
        return False

    def setup(self, context: Context) -> None:
        """Begin a run; whatever was learnt in an earlier one is forgotten."""
        self.engine, self.context = context.engine, context
        self.population = context.engine.population
        self.axes = list(context.axes)
        self.optimizer = context.optimizer or PopulationAdamW(self.population.parameters)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not set up: what belongs to a run stays with it."""
        of_a_run = ("engine", "context", "population", "optimizer")
        return {name: value for name, value in self.__dict__.items() if name not in of_a_run}

    @property
    def scale(self) -> RewardScale:
        """The scale of the values that a step sees: that of the rewards, or the learner's own."""
        return self.context.scale

    def check(self, objectives: ObjectiveSet) -> None:
        """See, before a model is loaded, whether it can learn from these objectives; by default it can.

        Raises:
            ConfigError: It cannot.
        """

    @abstractmethod
    def collect(self, step: int) -> Experience:
        """What step number `step` learns from. The same step collects the same, whatever happened before it.

        Raises:
            ObjectiveError: A reward function misbehaved.
        """

    @abstractmethod
    def coefficients(self, seen: Any) -> Tensor:
        """How steeply each objective rises in each completion's log-probability: `[K, N, G, m]`.

        Policy k's numbers depend on policy k's completions only.
        """

    @abstractmethod
    def gradients(self, seen: Any, *, halves: bool = False) -> ObjectiveGradients:
        """The gradient of every objective for every policy, from one backward pass.

        Args:
            seen: What was collected, once: after an update the log-probabilities differ.
            halves: Also find `cross_gramians`, from two halves of the batch.

        Raises:
            ConfigError: The batch is too small to be halved.
        """

    @abstractmethod
    def step(
        self,
        seen: Any,
        weights: np.ndarray,
        learning_rate: float,
        *,
        applies_to: str = "advantage",
        gradients: ObjectiveGradients | None = None,
    ) -> StepReport:
        """Update every policy.

        Args:
            seen: What was collected.
            weights: `[K, m]`; a row's direction is the trade, its sum the strength of the step.
            learning_rate: For all policies.
            applies_to: Whether weights act on the advantage or, as some papers have it, on the reward before the
                credit normalises it.
            gradients: What `gradients(seen)` found. Where a weighted sum of them is the update, no second backward pass
                is made.
        """

    def moved(self, seen: Any) -> np.ndarray | None:
        """How far a step has moved each policy since it answered: `[K]` nats of KL divergence a completion.

        Args:
            seen: What the step was made from.

        Returns:
            None where it is not known, as by default, so that a step can have no limit: what is learned from was not
            said by the policies, or where a step began or ended is kept for later ones.
        """
        return None

    def facts(self) -> dict[str, Any]:
        """What it was built with, in JSON's own types: a run that goes on must have the same."""
        return arguments_of(self)

    def reset(self, slot: int) -> None:
        """A slot changes hands: nothing that belonged to its old tenant is kept."""
        self.optimizer.reset(slot)

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that goes on needs beside the step: the optimizer's state, and the learner's own."""
        return {f"optimizer.{name}": value for name, value in self.optimizer.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()`; other keys are left alone."""
        own = {name.removeprefix("optimizer."): x for name, x in state.items() if name.startswith("optimizer.")}
        self.optimizer.load_state_dict(own)


learners: Registry[Learner] = Registry("learner", Learner)  # type: ignore[type-abstract]
"""Learners by name, beside those that a credit makes."""

register_learner = learners.register
