"""The front-discovery loop: train, measure, archive, until the steps are done; then report on untouched prompts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch

from pareto_align.discovery.explorers import Exploration, Explorer, Task
from pareto_align.discovery.extension import FloorKeeper
from pareto_align.discovery.measuring import FrontKeeper
from pareto_align.discovery.mismatch import MismatchGuard
from pareto_align.discovery.shards import Shards
from pareto_align.discovery.slots import Slots
from pareto_align.discovery.stalls import choose_parent
from pareto_align.discovery.stepping import Made, StepMaker
from pareto_align.discovery.weights import AgedWeights, Weights
from pareto_align.errors import FrontFileError
from pareto_align.evaluation.answers import Measures
from pareto_align.front import Origin
from pareto_align.learning.learner import Learner, StepReport, Told
from pareto_align.learning.rollouts import Answers
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.families import Family
from pareto_align.policies.population import PolicyPopulation
from pareto_align.runs.budget import Budget, Spending
from pareto_align.runs.checkpoint import Checkpoint, CheckpointWriter, remove_checkpoint
from pareto_align.runs.journal import Journal, announce
from pareto_align.runs.settings import Settings
from pareto_align.runs.stopping import StopRequest
from pareto_align.seeds import seed_for
from pareto_align.weighting import Weighting
from pareto_align.weighting.evidence import audited

__all__ = ["FrontDiscovery"]


class FrontDiscovery:
    """Trains a population under a dynamic weighting and keeps the archive of what was found.

    Args:
        population: K policies, as they were last brought home.
        shards: The same, where they are sampled and trained.
        objectives: What is optimized, constrained and audited.
        learner: What steps them; the shards have it.
        weighting: Turns the state of the population into weights `[K, m]`, or `[K, m + c]` if it steers constraints.
        explorer: Decides after every measurement what the slots train next.
        preferences: `[K, m]` what each slot pursues at first, and where a family is measured.
        report: Makes what measures on the report split.
        scale: The frozen scale of the objectives.
        keeper: Measures policies, and keeps the archive and the front folder.
        spending: What the run has spent.
        settings: How long, how many, how often.
        journal: Records every event.
        family: What the slots serve, if they have no policies of their own; as it was last brought home.
        apart: Columns of the objectives that judge shard by shard, while other shards work.
        measures_first: Measure before the first step: what the policies begin as may belong on the front.

    Attributes:
        step: Training steps made.
        trained: Whether training has come to its end, and only the report is missing.
        slots: What each slot pursues, and what is known of its policy.
    """

    def __init__(
        self,
        *,
        population: PolicyPopulation,
        shards: Shards,
        objectives: ObjectiveSet,
        learner: Learner,
        weighting: Weighting,
        explorer: Explorer,
        preferences: np.ndarray,
        report: Callable[[], Measures],
        scale: RewardScale,
        keeper: FrontKeeper,
        spending: Spending,
        settings: Settings,
        journal: Journal,
        family: Family | None = None,
        apart: tuple[int, ...] = (),
        measures_first: bool = False,
    ) -> None:
        self.population = population
        self.shards = shards
        self.family = family
        self.objectives = objectives
        self.learner = learner
        self.weighting = weighting
        self.explorer = explorer
        self.grid = np.array(preferences, dtype=float)
        floors = FloorKeeper(population.size, objectives.m, explorer.floor_weighting)
        weights = Weights(weighting, floors)
        if settings.max_age is not None:
            weights = AgedWeights(weighting, floors, shards.slots, settings.max_age)
        self.slots = Slots(shards, weights, self.grid, settings.stall_patience)
        self.report = report
        self.scale = scale
        self.keeper = keeper
        self.spending = spending
        self.settings = settings
        self.budget = Budget(settings)
        self.mismatch = MismatchGuard()
        self.maker = StepMaker(
            shards,
            self.slots,
            objectives=objectives,
            learner=learner,
            weighting=weighting,
            spending=spending,
            settings=settings,
            apart=apart,
        )
        self.journal = journal
        self.measures_first = measures_first
        self.step = 0
        self.trained = False
        self._asked, self._judged = time.monotonic(), 0.0
        self._drawn: np.ndarray | None = None

    def run(self) -> None:
        """Train, measure and publish, from where the state is. Whatever stops it, the front so far is on disk.

        Raises:
            ParetoAlignError: A reward function misbehaved in the middle of the run; the front on disk still loads.
            KeyboardInterrupt: SIGINT came; the step in hand was finished and the run saved.
            SystemExit: SIGTERM came, likewise.
        """
        assert self.journal.path is not None, "a run has a folder; `ask` and `tell` need none"
        folder = self.journal.path.parent
        try:
            with CheckpointWriter(folder) as checkpoints:
                with StopRequest() as stop:
                    if self.step == 0:
                        self.keeper.publish_selected(0)
                        checkpoints.write(self.state())
                        if self._measure_first():
                            checkpoints.write(self.state())
                    while not self.trained:
                        if self.maker.apart:
                            self._make_many(stop)
                        else:
                            self.tell(self.ask())
                        asked = stop.signal is not None  # asked once: what comes now is for the next step to see
                        if self._measured_now() or asked:
                            checkpoints.write(self.state())
                        if asked:
                            checkpoints.finish()
                            stop.leave()
                    if stop.signal is not None:
                        checkpoints.finish()
                    stop.leave()
                announce(self.journal.callbacks, "measuring the front on the report prompts")
                self.keeper.report(self.step, self.report())
        except BaseException as error:
            found = len(self.keeper.archive.members())
            error.add_note(
                f"The front found by step {self.step} is in {self.keeper.publisher.path} "
                f"({found} {'adapter' if found == 1 else 'adapters'}); "
                f"the run can be resumed from {folder}."
            )
            with suppress(Exception):  # a full disk or a callback must not stand in for the error itself
                self.journal.write("stopped", step=self.step, error=f"{type(error).__name__}: {error}")
            raise
        self.journal.write(
            "end",
            step=self.step,
            cost=self.spending.cost(),
            nan_rewards=self.objectives.nan_counts,
            repeated_calls=self.objectives.retry_counts,
            **self.spending.clock(),
        )
        remove_checkpoint(folder)

    def ask(self) -> Answers | Told:
        """What the next step learns from: with an online learner, what the policies say and how it is rewarded.

        Whoever drives the loop by hand may judge otherwise and write into its `rewards` (maximised) before `tell`.

        Raises:
            ObjectiveError: A reward function misbehaved.
        """
        self._measure_first()
        self._asked, before = time.monotonic(), self.objectives.reward_seconds
        self._place(self.step)
        seen = self.shards.collect(self.step)
        self._judged = self.objectives.reward_seconds - before
        return seen

    def tell(self, seen: Answers | Told) -> None:
        """Make the training step that was asked for, and what follows it: measuring, archiving, new tasks.

        Args:
            seen: What `ask` returned.
        """
        self._follow(self.maker.make(self.step, seen, self._judged))

    def _make_many(self, stop: StopRequest) -> None:
        """Make steps that overlap, until the population is measured or somebody asks to stop."""
        self._asked = time.monotonic()

        def goes_on(step: int, tokens: int) -> bool:
            over = self.trained or stop.signal is not None or step % self.settings.eval_every == 0
            return not over and not self.budget.used_up(step, tokens, self.spending.seconds)

        self.maker.make_many(self.step, self._place, goes_on, self._follow)

    def _follow(self, made: Made) -> None:
        """Take a step down, and do what follows it."""
        self._take_down(self.step, made)
        self._asked, report = time.monotonic(), made.report
        self.step += 1
        self.mismatch.note(report)
        self.slots.note(report)
        self.trained = made.last and self._done()
        self._roll_back(report)
        if self._measured_now():
            self._measure()
            self.trained = self._done()  # measuring costs as well: no step is made that nothing is left for
            if self.trained and self.family is not None:
                self._measure_further(self.family)
        if not self.trained:
            if self._measured_now():
                self._explore(self.step)
                self.trained = self._done()
            if self.family is None:
                self._restart_stalled(self.step)

    def _measured_now(self) -> bool:
        """Whether the population is measured after this step."""
        return self.trained or self.step % self.settings.eval_every == 0

    # -- one step ------------------------------------------------------------------------------------------------

    def _place(self, step: int) -> None:
        """Let the slots of a family serve what is drawn for a step."""
        if self.family is not None:
            self._drawn = self.explorer.draw(seed_for(self.settings.seed, "preferences", step))
            self._serve(self.grid if self._drawn is None else self._drawn)

    def _take_down(self, step: int, made: Made) -> None:
        seen, report, m = made.seen, made.report, self.objectives.m
        judged = {"waited": round(made.waited, 3), "hidden": round(made.hidden, 3)}
        self.journal.write(
            "step",
            step=step + 1,
            values=self._told(seen.values()),
            weights=made.weights[:, :m],
            steering=made.weights[:, m:],
            kl=report.kl,
            entropy=report.entropy,
            spread=report.spread,
            grad_norm=report.grad_norm,
            length=seen.lengths(),
            **report.more,
            seconds=round(time.monotonic() - self._asked, 3),
            **({} if seen.rewards is None else {"reward_seconds": judged}),
            **({} if made.age is None else {"age": made.age}),
            **({} if self._drawn is None else {"preferences": self._drawn}),
        )

    def _told(self, values: np.ndarray) -> np.ndarray:
        """What was seen in a step, in the user's units; explained labels are told as they are."""
        return values if self.learner.needs == "comparisons" else self.objectives.to_user(values)

    def _restart_stalled(self, step: int) -> None:
        """A policy in which nothing varies any more goes on from an archived one that serves its preference better."""
        slots, measured = self.slots, self.slots.measured
        for slot in slots.stalls.update(slots.spread):
            parent = None
            if measured is not None and np.isfinite(measured[slot]).all():
                parent = choose_parent(self.keeper.archive, self.keeper.frame, slots.preferences[slot], measured[slot])
            if parent is None:
                reason = "not measured yet" if measured is None else "nothing archived serves it better"
                self.journal.write("stalled", step=step, policy=slot, action=f"left as it is: {reason}")
                continue
            slots.adopt(slot, parent.adapter)
            self.journal.write("stalled", step=step, policy=slot, action="started again", parent=parent.id)

    def _roll_back(self, report: StepReport) -> None:
        """A policy whose numbers went wrong goes back to where it was when last measured; the others go on.

        A family goes back as a whole.
        """
        recovery = self.slots.recovery
        for row in recovery.note(report if self.family is None else report.pooled()):
            self.slots.go_back(row, [row] if self.family is None else list(range(self.population.size)))
            self.journal.write(
                "rolled back", step=self.step, policy=row, reason="its gradient or its probabilities were not finite"
            )
        if self._measured_now():
            self.shards.bring_home()
            recovery.keep(self.shards.trained)

    def _serve(self, preferences: np.ndarray) -> None:
        """Let the slots serve a family at other preferences `[K, m]`."""
        self.slots.preferences = preferences
        self.shards.place(preferences)

    def _explore(self, step: int) -> None:
        """Let the explorer decide what the slots train next, and measure the candidates that need no training."""
        state = self._exploration(step)
        self.keeper.measure_mixtures(step, list(self.explorer.mixtures(state)))
        for slot, task in enumerate(self.explorer.propose(state)):
            if task is not None:
                self._assign(step, slot, task)
        if (reason := self.explorer.satisfied) is not None:
            self.journal.write("satisfied", step=step, reason=reason)

    def _exploration(self, step: int) -> Exploration:
        assert self.slots.measured is not None
        return Exploration(
            step=step,
            steps=self.settings.steps,
            spent=self.budget.spent(self.spending.tokens),
            kl_coef=self.settings.kl_coef,
            audits=[self.objectives.names[i] for i in audited(self.objectives)],
            describe=self.keeper.describe,
            names=[self.objectives.names[i] for i in self.objectives.axes],
            preferences=self.slots.preferences.copy(),
            measured=self.slots.measured.copy(),
            archive=self.keeper.archive,
            frame=self.keeper.frame,
            frame_stderr=self.keeper.frame_stderr,
            seed=seed_for(self.settings.seed, "explorer", step),
        )

    def _assign(self, step: int, slot: int, task: Task) -> None:
        adapter = None if task.parent is None else self.keeper.archive.entries[task.parent].adapter
        floors = None
        # floors are of what is measured; a learner that sees something else in a step cannot keep them
        if task.floors is not None and self.shards.scale.to_dict() == self.scale.to_dict():
            axes = list(self.objectives.axes)
            kept = np.full(self.objectives.M, np.nan)
            kept[axes] = task.floors
            floors = self.scale.normalize(self.scale.unframe(kept))[axes]
        self.slots.assign(slot, task.preference, floors, adapter)
        self.journal.write(
            "task",
            step=step,
            policy=slot,
            preference=task.preference,
            floors=task.floors,
            parent=task.parent,
            reason=task.reason,
        )

    # -- what a run goes on from --------------------------------------------------------------------------------

    def begin_as(self, parameters: torch.Tensor) -> None:
        """Begin as policies `[K, P]`, or as a family `[1, D]`, in the place of the untrained model."""
        for row, one in enumerate(parameters):
            if self.family is None:
                self.slots.adopt(row, one)
            else:
                self.shards.put_back(row, one)
                self.slots.recovery.adopt(row, one)
        self.shards.bring_home()

    def state(self) -> Checkpoint:
        """The run between two steps. Random numbers need no state: each is seeded by name."""
        record = {
            "step": self.step,
            "trained": self.trained,
            "events": self.journal.events,
            **self.spending.state_dict(),
            **self.keeper.state_dict(),
            **self.objectives.counts(),
            **self.shards.engine_state(),
            "scale": self.scale.to_dict(),
            "explorer": self.explorer.state_dict(),
            "rewards": self.objectives.state_dict(),
            "blind": self.slots.recovery.blind,
            **({"measures_first": True} if self.measures_first and self.slots.measured is None else {}),
        }
        arrays = {name: value for name, value in self.slots.state_dict().items() if value is not None}
        tensors = {
            **self.shards.state_dict(),
            **{name: x if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x)) for name, x in arrays.items()},
            **{f"select.{name}": tensor for name, tensor in self.keeper.select.state_dict().items()},
        }
        return Checkpoint(record, tensors, self.keeper.adapters)

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Go on from `state()` of this run.

        Raises:
            FrontFileError: The checkpoint is of a run with other settings.
        """
        record, tensors = checkpoint.record, checkpoint.tensors

        try:
            self.step, self.trained = int(record["step"]), bool(record["trained"])
            self.spending.load_state_dict(record)
            self.keeper.load_state_dict(record, checkpoint.adapters)
            self.objectives.load_counts(record)
            self.objectives.load_state_dict(record["rewards"])
            self.explorer.load_state_dict(record["explorer"])
            self.measures_first = bool(record.get("measures_first", False))
            engine_state = {name: record[name] for name in self.shards.engine_state()}
            self.shards.load_state_dict(tensors, engine_state)
            self.slots.load_state_dict(tensors, int(record.get("blind", 0)))
            of_select = {k.removeprefix("select."): v for k, v in tensors.items() if k.startswith("select.")}
            self.keeper.select.load_state_dict(of_select)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FrontFileError(
                f"The checkpoint of {self.journal.path} does not fit this run: {type(error).__name__}: {error}"
            ) from error

    # -- measuring -----------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        if self.family is not None:
            self._serve(self.grid)
            self.shards.bring_home()
        slots, origins = self.slots, []
        for slot, (preference, floors) in enumerate(zip(slots.preferences, slots.weights.floors.floors, strict=True)):
            kept = tuple(None if np.isnan(v) else float(v) for v in floors) if np.isfinite(floors).any() else None
            origins.append(Origin(self.step, slot, tuple(preference.tolist()), float(slots.spread[slot]), kept))
        slots.measured = self.keeper.measure_population(self.step, origins)

    def _measure_first(self) -> bool:
        """Measure what the policies begin as, if that is still to be done; whether it was."""
        if not (self.measures_first and self.step == 0 and self.slots.measured is None):
            return False
        self._measure()
        self.trained = self._done()  # no step is made that nothing is left for
        if self.trained and self.family is not None:
            self._measure_further(self.family)
        return True

    def _measure_further(self, family: Family) -> None:
        """Measure the trained family at further preferences, which needs no training: twice, the second time between
        what the first found."""
        for _ in range(2):
            asked = self.explorer.further(self._exploration(self.step))
            if len(asked):
                origins = [Origin(self.step, preference=tuple(p.tolist()), between=self.step) for p in asked]
                self.keeper.measure_further(self.step, family.rows(asked), origins)

    def _done(self) -> bool:
        """Whether training ends here: something is used up, or the front stands still."""
        return (
            self.keeper.plateau.reached
            or self.explorer.satisfied is not None
            or self.budget.used_up(self.step, self.spending.tokens, self.spending.seconds)
        )
