"""The steps of a run: what was seen becomes weights and a learning rate, and those an update of all policies.

Either one step, from what all policies said; or many, in which shards work while the answers of others are judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pareto_align.discovery.judging import Judge
from pareto_align.discovery.pipeline import Evidence, Pipeline
from pareto_align.discovery.shards import Shards
from pareto_align.discovery.slots import Slots
from pareto_align.discovery.weights import AgedWeights, ApartWeights, Found
from pareto_align.learning.learner import Learner, StepReport, Told
from pareto_align.learning.rollouts import Answers
from pareto_align.objectives import ObjectiveSet
from pareto_align.runs.budget import Budget, Spending
from pareto_align.runs.settings import Settings
from pareto_align.weighting import Signal, Weighting
from pareto_align.weighting.evidence import FROM_GRADIENTS, HALVES, make_signal

__all__ = ["Made", "StepMaker"]

LEAD = 2
"""Steps that a shard may be ahead of the slowest where nothing else limits it."""


@dataclass(frozen=True, eq=False)
class Made:
    """A step that was made.

    Attributes:
        seen: What it learned from.
        weights: `[K, s]` of the objectives, and of what else is steered.
        report: What it did to the policies.
        waited: Seconds in which nothing could be done but wait for rewards.
        hidden: Seconds in which rewards were judged while other work went on.
        age: How many steps older the numbers of other shards were; None where they are never older.
        last: Whether no further step has been begun.
    """

    seen: Answers | Told
    weights: np.ndarray
    report: StepReport
    waited: float
    hidden: float = 0.0
    age: int | None = None
    last: bool = True


class StepMaker:
    """Makes the steps of a run.

    Args:
        shards: Have the policies.
        slots: What is known of them.
        objectives: Of the run.
        learner: The shards have it.
        weighting: Is called once a step; of bounded age or apart, copies of it are.
        spending: What was spent on steps that have ended, and on measuring.
        settings: Of the run.
        apart: Columns of the objectives that judge shard by shard, while other shards work; none: nothing overlaps.
    """

    def __init__(
        self,
        shards: Shards,
        slots: Slots,
        *,
        objectives: ObjectiveSet,
        learner: Learner,
        weighting: Weighting,
        spending: Spending,
        settings: Settings,
        apart: tuple[int, ...] = (),
    ) -> None:
        self.shards, self.slots, self.objectives, self.weighting = shards, slots, objectives, weighting
        self.spending, self.settings, self.budget, self.apart = spending, settings, Budget(settings), apart
        self._gradients = learner.values_with_gradients or bool(weighting.requires & FROM_GRADIENTS)
        self._halves = bool(weighting.requires & HALVES)
        self._tokens: dict[int, int] = {}  # by step, what had been sampled before it

    def make(self, step: int, seen: Answers | Told, waited: float) -> Made:
        """Make a step.

        Args:
            step: Its number.
            seen: What all policies said, rewards included.
            waited: Seconds that those took.
        """
        self._tokens[step] = self.spending.tokens
        evidence = Evidence(seen)
        if self._gradients:
            evidence.gramians, evidence.cross_gramians = self.shards.gradients(seen, halves=self._halves)
        weights = self.slots.weights(self._signal(step, slice(None), evidence))
        report = self.shards.step(seen, weights, self.rate(step), self.weighting.applies_to)
        return self._over(step, Made(seen, weights, report, waited))

    def make_many(
        self,
        step: int,
        begins: Callable[[int], None],
        goes_on: Callable[[int, int], bool],
        after: Callable[[Made], None],
    ) -> None:
        """Make this step and those after it while answers are judged.

        Args:
            step: The first one's number.
            begins: Called before a step is begun.
            goes_on: Asked with the number of each step but the first, and the tokens sampled before it: whether it is
                made. Once that is said, it is.
            after: Called with each step that was made, in their order.

        Raises:
            ObjectiveError: A reward function misbehaved.
        """
        judge, weights = Judge(self.objectives, self.apart), self.slots.weights
        alone = None
        if self.weighting.per_policy and not judge.rest and not isinstance(weights, AgedWeights):
            alone = ApartWeights(weights, self.shards.slots)
        lead = 0 if self.shards.family is not None else LEAD
        if isinstance(weights, AgedWeights):
            lead = weights.age if self.shards.family is None else 0
        steps = _Overlapping(self, judge, alone, step, begins, goes_on, after)
        gradients = self._gradients, self._halves
        pipeline = Pipeline(
            self.shards, judge, steps, gradients=gradients, applies_to=self.weighting.applies_to, lead=lead
        )
        try:
            pipeline.run(step)
        finally:
            if alone is not None:
                alone.close()
            judge.close()

    def rate(self, step: int) -> float:
        """The learning rate of a step that has been begun."""
        left = 1 - self.budget.progress(step, self._tokens[step])
        factor = {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}
        return self.settings.rate() * factor[self.settings.lr_schedule]

    def _signal(self, step: int, rows: slice, evidence: Evidence) -> Signal:
        """What the weighting may look at, of some slots in a row."""
        measured = self.slots.measured
        return make_signal(
            self.weighting,
            self.objectives,
            self.shards.scale,
            evidence.seen.values(),
            rewards=evidence.seen.rewards,
            step=step,
            steps=self.settings.steps,
            preferences=self.slots.preferences[rows].copy(),
            spent=self.budget.spent(self._tokens[step]),  # before this step: the first one has all of its budget ahead
            measured=None if measured is None else measured[rows].copy(),
            gramians=evidence.gramians,
            cross_gramians=evidence.cross_gramians,
        )

    def _over(self, step: int, made: Made) -> Made:
        """A step has ended."""
        del self._tokens[step]
        self.spending.train_tokens += made.seen.token_count
        self.spending.rollouts += made.seen.count
        return made


class _Overlapping:
    """What a pipeline is told of a run: see `pipeline.Steps`."""

    def __init__(
        self,
        maker: StepMaker,
        judge: Judge,
        alone: ApartWeights | None,
        first: int,
        begins: Callable[[int], None],
        goes_on: Callable[[int, int], bool],
        after: Callable[[Made], None],
    ) -> None:
        self.maker, self.judge, self.alone, self.first = maker, judge, alone, first
        self.begins, self.goes_on, self.after = begins, goes_on, after
        self.parts: dict[int, dict[int, Evidence]] = {}
        self.clocks = 0.0, 0.0

    def admit(self, step: int, ahead: int | None) -> bool | None:
        maker = self.maker
        if ahead is None and maker.settings.max_tokens is not None:
            return None
        tokens = maker.spending.tokens + (ahead or 0)
        if step > self.first and not self.goes_on(step, tokens):
            return False
        maker._tokens[step] = tokens
        self.begins(step)
        return True

    def enter(self, step: int, shard: int, evidence: Evidence) -> list[Found]:
        maker, slots = self.maker, self.maker.shards.slots
        one_by_one = self.alone or maker.slots.weights
        if isinstance(one_by_one, ApartWeights | AgedWeights):
            own = slice(slots[shard].start, slots[shard].stop)
            return one_by_one.enter(shard, maker._signal(step, own, evidence))
        parts = self.parts.setdefault(step, {})
        parts[shard] = evidence
        if len(parts) < len(slots):
            return []
        whole = Evidence.together([parts[n] for n in range(len(slots))])
        del self.parts[step]
        weights = one_by_one(maker._signal(step, slice(None), whole))
        return [(n, step, weights[own.start : own.stop]) for n, own in enumerate(slots)]

    def rate(self, step: int) -> float:
        return self.maker.rate(step)

    def ended(self, step: int, evidence: Evidence, weights: np.ndarray, report: StepReport, last: bool) -> None:
        maker, judge, known = self.maker, self.judge, self.maker.slots.weights
        if self.alone is not None:
            self.alone.check(maker._signal(step, slice(None), evidence), weights)
        judged, waited = judge.seconds - self.clocks[0], judge.waited - self.clocks[1]
        self.clocks = judge.seconds, judge.waited
        hidden = max(judged - waited, 0.0)
        maker.objectives.reward_seconds += waited + hidden
        maker.objectives.hidden_seconds += hidden
        age = known.age_of(step) if isinstance(known, AgedWeights) else None
        self.after(maker._over(step, Made(evidence.seen, weights, report, waited, hidden, age, last)))
