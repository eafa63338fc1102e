"""Shards that work while the answers of others are judged.

A shard samples; its answers are judged in a thread, and meanwhile other shards sample and train. As soon as its weights
can be told it trains, and goes on to sample for the next step, which comes before whatever else its host could do: the
sooner answers are there, the more of their judging is hidden. A step ends when all shards have made it, and steps end
in their order, so what follows a step finds what it would find without all this.

Nothing is begun that may have to be taken back. A step is admitted once, for all shards. A shard goes on before a step
has ended only if nothing of its own policies can call for being put back or replaced then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pareto_align.discovery.judging import Judge
from pareto_align.discovery.shards import Shards
from pareto_align.discovery.weights import Found
from pareto_align.front.origin import NO_SPREAD
from pareto_align.learning.learner import StepReport
from pareto_align.learning.rollouts import Answers
from pareto_align.objectives.verdicts import Verdict

__all__ = ["Evidence", "Pipeline", "Steps"]

POLL_S = 0.01
"""Seconds between two looks at what was judged while workers elsewhere are busy."""


@dataclass(eq=False)
class Evidence:
    """What a step shows of some policies.

    Attributes:
        seen: What they said, rewards included.
        gramians, cross_gramians: `[k, s, s]` of the objectives' gradients, where a weighting needs them.
    """

    seen: Any
    gramians: np.ndarray | None = None
    cross_gramians: np.ndarray | None = None

    @classmethod
    def together(cls, parts: Sequence[Evidence]) -> Evidence:
        """Of all policies, from some of them each."""
        gramians, cross = (
            np.concatenate(found) if (found := [getattr(part, name) for part in parts])[0] is not None else None
            for name in ("gramians", "cross_gramians")
        )
        return cls(type(parts[0].seen).together([part.seen for part in parts]), gramians, cross)


class Steps(Protocol):
    """What a run says of its steps."""

    def admit(self, step: int, ahead: int | None) -> bool | None:
        """Whether a step is made, in their order; once it is said that it is, it is.

        Args:
            step: Its number.
            ahead: Tokens that were sampled for steps that have not ended; None: that is not known yet.

        Returns:
            None where it cannot be told yet.
        """

    def enter(self, step: int, shard: int, evidence: Evidence) -> list[Found]:
        """A shard's evidence is there; the weights that can be told by now."""

    def rate(self, step: int) -> float:
        """The learning rate of a step."""

    def ended(self, step: int, evidence: Evidence, weights: np.ndarray, report: StepReport, last: bool) -> None:
        """All shards have made a step; whether no other has been admitted."""


@dataclass(eq=False)
class _Step:
    """What is known of a step, by shard."""

    seen: dict[int, Answers] = field(default_factory=dict)
    verdicts: dict[int, dict[int, Verdict]] = field(default_factory=dict)
    others: dict[int, Verdict] | None = None
    evidence: dict[int, Evidence] = field(default_factory=dict)
    weights: dict[int, np.ndarray] = field(default_factory=dict)
    made: dict[int, tuple[StepReport, Any]] = field(default_factory=dict)


class Pipeline:
    """Makes steps until one is not admitted.

    Args:
        shards: Of the run.
        judge: Of their answers.
        steps: The run.
        gradients: Whether weights need the objectives' gradients, and whether those of two halves.
        applies_to: Of the weighting.
        lead: Steps that a shard may be ahead of the last one.
    """

    def __init__(
        self,
        shards: Shards,
        judge: Judge,
        steps: Steps,
        *,
        gradients: tuple[bool, bool],
        applies_to: str,
        lead: int,
    ) -> None:
        self.shards, self.judge, self.steps = shards, judge, steps
        self.backend, self.objectives, self.count = shards.backend, shards.objectives, len(shards.slots)
        self.gradients, self.halves = gradients
        self.applies_to, self.lead = applies_to, lead

    def run(self, step: int) -> None:
        """Make steps from this one on.

        Raises:
            ObjectiveError: A reward function misbehaved.
            TrainingError: Workers are lost, or policies beyond recovery.
        """
        self.oldest, self.newest = step, step - 1  # the first that has not ended, and the last that was admitted
        self.next = [step] * self.count
        self.free, self.held = set(range(self.count)), set[int]()
        self.busy: dict[int, tuple[str, int]] = {}
        self.made: dict[int, _Step] = {}
        while True:
            self._begin()
            if self.judge.pending and (judged := self.judge.ended(wait=not self.busy)):
                (at, shard), verdicts = judged
                self.made[at].verdicts[shard] = verdicts
                self._rewarded(at, [shard])
            elif self.busy:
                # elsewhere the workers go on by themselves; here the call is made now, and takes as long as it takes
                self._took(self.backend.ended(POLL_S if self.judge.pending and self.backend.remote else None))
            else:
                return

    # -- what a shard does next ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Let shards that wait for nothing go on to their next step."""
        for shard in sorted(self.free):
            step = self.next[shard]
            if step - self.oldest <= self.lead and (step <= self.newest or self._admit(step)):
                self.free.discard(shard)
                self.backend.rest([shard])
                self._call(shard, step, "collect", (step,), first=True)

    def _admit(self, step: int) -> bool:
        known = all(len(self.made[one].seen) == self.count for one in range(self.oldest, step))
        ahead = sum(part.token_count for one in self.made.values() for part in one.seen.values()) if known else None
        if not self.steps.admit(step, ahead):
            return False
        self.newest, self.made[step] = step, _Step()
        return True

    def _call(self, shard: int, step: int, method: str, arguments: tuple[Any, ...], *, first: bool = False) -> None:
        self.busy[shard] = method, step
        self.backend.begin(shard, method, arguments, first=first)

    def _took(self, ended: tuple[int, Any] | None) -> None:
        """What follows a call of a shard."""
        if ended is None:
            return
        shard, found = ended
        method, step = self.busy.pop(shard)
        made = self.made[step]
        if method == "collect":
            made.seen[shard] = found
            self.judge.begin((step, shard), found)
            if self.judge.rest and len(made.seen) == self.count:
                made.others = self.judge.others(Answers.together([made.seen[n] for n in range(self.count)]))
                self._rewarded(step, sorted(made.verdicts))
        elif method == "gradients":
            self._enter(step, shard, Evidence(made.seen[shard], found[0], found[1]))
        else:
            self._stepped(step, shard, found)

    def _rewarded(self, step: int, shards: Sequence[int]) -> None:
        """What was said of some shards' answers is known, as far as it is asked shard by shard."""
        made = self.made[step]
        if self.judge.rest and made.others is None:
            return
        for shard in shards:
            own, seen = self.shards.slots[shard], made.seen[shard]
            each = seen.count // len(own)
            rows = slice(own.start * each, own.stop * each)
            columns = {column: verdict.rewards for column, verdict in made.verdicts[shard].items()}
            columns |= {column: verdict.rewards[rows] for column, verdict in (made.others or {}).items()}
            rewards = self.objectives.to_user(np.stack([columns[n] for n in range(self.objectives.M)], axis=1))
            seen.rewards = seen.shaped(rewards)
            if self.gradients:
                self._call(shard, step, "gradients", (seen.rewards, self.halves))
            else:
                self._enter(step, shard, Evidence(seen))

    def _enter(self, step: int, shard: int, evidence: Evidence) -> None:
        """Weigh a shard, and whoever has waited for it."""
        self.made[step].evidence[shard] = evidence
        for other, at, weights in self.steps.enter(step, shard, evidence):
            made = self.made[at]
            made.weights[other] = weights
            rewards = None if self.gradients else made.seen[other].rewards
            self._call(other, at, "step", (rewards, weights, self.steps.rate(at), self.applies_to))

    def _stepped(self, step: int, shard: int, found: tuple[StepReport, Any]) -> None:
        made = self.made[step]
        made.made[shard] = found
        self.next[shard] = step + 1
        (self.free if _quiet(found[0]) else self.held).add(shard)
        if len(made.made) == self.count:
            self._end(step)

    def _end(self, step: int) -> None:
        """All shards have made a step."""
        made = self.made[step]
        order = range(self.count)
        report = self.shards.together([made.made[n] for n in order], self.steps.rate(step))
        evidence = Evidence.together([made.evidence[n] for n in order])
        found = dict(made.others or {})
        for column in self.judge.columns:
            found[column] = Verdict.together([made.verdicts[n][column] for n in order])
        self.objectives.take(found, evidence.seen.call().completions)
        weights = np.concatenate([made.weights[n] for n in order])
        del self.made[step]
        self.oldest = step + 1
        self.steps.ended(step, evidence, weights, report, step == self.newest)
        over = {shard for shard in self.held if self.next[shard] <= self.oldest}  # another is held by a later step
        self.free |= over
        self.held -= over


def _quiet(report: StepReport) -> bool:
    """Whether no policy of a shard can be put back or started again after this step."""
    return bool((np.isfinite(report.grad_norm) & report.sound & (report.spread >= NO_SPREAD)).all())
