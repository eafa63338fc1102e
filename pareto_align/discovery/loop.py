"""The front-discovery loop: train, measure, archive, until the steps are done; then report on untouched prompts."""

from __future__ import annotations

import math
import time
from contextlib import suppress

import numpy as np
import torch

from pareto_align.data.prompts import PromptRow, Splits
from pareto_align.discovery.evaluation import ROWS_AT_ONCE, Evaluator
from pareto_align.discovery.explorers import Exploration, Explorer, Task
from pareto_align.discovery.extension import FloorKeeper
from pareto_align.discovery.measuring import FrontKeeper
from pareto_align.discovery.recovery import Recovery
from pareto_align.discovery.signals import make_signal, mean_rewards
from pareto_align.discovery.stalls import StallMonitor, choose_parent
from pareto_align.errors import FrontFileError
from pareto_align.learning.learner import Learner, StepReport
from pareto_align.learning.rollouts import roll_out
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.determinism import deterministic
from pareto_align.policies.families import Family
from pareto_align.policies.optimizer import FamilyAdamW
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import SamplingParams
from pareto_align.runs.budget import Budget, Spending
from pareto_align.runs.checkpoint import Checkpoint, CheckpointWriter, remove_checkpoint
from pareto_align.runs.journal import Journal, announce
from pareto_align.runs.settings import Settings
from pareto_align.runs.stopping import StopRequest
from pareto_align.seeds import seed_for
from pareto_align.weighting import Weighting

__all__ = ["FrontDiscovery"]


class FrontDiscovery:
    """Trains a population under a dynamic weighting and keeps the archive of what was found.

    Args:
        population: K policies.
        objectives: What is optimized, constrained and audited.
        learner: Steps the population.
        weighting: Turns the state of the population into weights `[K, m]`, or `[K, m + c]` if it steers constraints.
        explorer: Decides after every measurement what the slots train next.
        preferences: `[K, m]` what each slot pursues at first, and where a family is measured.
        splits: Prompts to train on, to select on, to report on.
        scale: The frozen scale of the objectives.
        keeper: Measures policies, and keeps the archive and the front folder.
        spending: What the run has spent.
        settings: How long, how many, how often.
        journal: Records every event.
        family: What the slots serve, if they have no policies of their own; the learner's optimizer trains it.

    Attributes:
        step: Training steps made.
        trained: Whether training has come to its end, and only the report is missing.
        measured: `[K, m]` framed means of the population, NaN rows for slots that changed hands since; None at first.
        spread: `[K]` of the advantages in the last step.
    """

    def __init__(
        self,
        *,
        population: PolicyPopulation,
        objectives: ObjectiveSet,
        learner: Learner,
        weighting: Weighting,
        explorer: Explorer,
        preferences: np.ndarray,
        splits: Splits,
        scale: RewardScale,
        keeper: FrontKeeper,
        spending: Spending,
        settings: Settings,
        journal: Journal,
        family: Family | None = None,
    ) -> None:
        self.population = population
        self.family = family
        self.objectives = objectives
        self.learner = learner
        self.weighting = weighting
        self.explorer = explorer
        self.preferences = np.array(preferences, dtype=float)
        self.grid = self.preferences.copy()
        self.floors = FloorKeeper(population.size, objectives.m, explorer.floor_weighting)
        self.splits = splits
        self.scale = scale
        self.keeper = keeper
        self.spending = spending
        self.settings = settings
        self.budget = Budget(settings)
        self.journal = journal
        self.folder = journal.path.parent
        self.checkpoints = CheckpointWriter(self.folder)
        self.params = SamplingParams(
            settings.max_new_tokens, settings.temperature, top_k=settings.top_k, top_p=settings.top_p
        )
        self.stalls = StallMonitor(population.size, settings.stall_patience)
        self.recovery = Recovery(learner.optimizer.parameters)
        self.measured: np.ndarray | None = None
        self.step = 0
        self.trained = False
        self.spread = np.ones(population.size)

    def run(self) -> None:
        """Train, measure and publish, from where the state is. Whatever stops it, the front so far is on disk.

        Raises:
            ParetoAlignError: A reward function misbehaved in the middle of the run; the front on disk still loads.
            KeyboardInterrupt: SIGINT came; the step in hand was finished and the run saved.
            SystemExit: SIGTERM came, likewise.
        """
        try:
            with StopRequest() as stop:
                if self.step == 0:
                    self.keeper.publish_selected(0)
                    self.checkpoints.write(self.state())
                while not self.trained:
                    self._advance()
                    if self._measured_now() or stop.signal is not None:
                        self.checkpoints.write(self.state())
                    stop.leave()
            announce(self.journal.callbacks, "measuring the front on the report prompts")
            self.keeper.report(self.step, self._report_evaluator())
        except BaseException as error:
            found = len(self.keeper.archive.members())
            error.add_note(
                f"The front found by step {self.step} is in {self.keeper.publisher.path} "
                f"({found} {'adapter' if found == 1 else 'adapters'}); "
                f"the run can be resumed from {self.folder}."
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
        remove_checkpoint(self.folder)

    def _advance(self) -> None:
        """One training step, and what follows it."""
        report = self._train(self.step)
        self.step += 1
        self.spread = report.spread
        self.trained = self._done()
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
                self._restart_stalled(self.step, self.spread)

    def _measured_now(self) -> bool:
        """Whether the population is measured after this step."""
        return self.trained or self.step % self.settings.eval_every == 0

    # -- one step ------------------------------------------------------------------------------------------------

    def _train(self, step: int) -> StepReport:
        started = time.monotonic()
        settings = self.settings
        tokens = self.spending.tokens  # before this step: the first one has all of its budget ahead
        drawn = None
        if self.family is not None:
            drawn = self.explorer.draw(seed_for(settings.seed, "preferences", step))
            self._serve(self.grid if drawn is None else drawn)
        seeds = [seed_for(settings.seed, "rollout", step, k) for k in range(self.population.size)]
        rollouts = roll_out(
            self.population, self.objectives, self._batch(step), settings.group_size, self.params, seeds
        )
        self.spending.train_tokens += rollouts.token_count
        self.spending.rollouts += len(rollouts.texts)
        gradients = None
        if self.weighting.requires & {"gramians", "cross_gramians"}:
            with deterministic(settings.deterministic):
                gradients = self.learner.gradients(rollouts, halves="cross_gramians" in self.weighting.requires)
        signal = make_signal(
            self.weighting,
            rollouts,
            self.objectives,
            self.scale,
            step=step,
            steps=settings.steps,
            spent=self.budget.spent(tokens),
            preferences=self.preferences.copy(),
            measured=None if self.measured is None else self.measured.copy(),
            gradients=gradients,
        )
        weights = np.array(self.weighting(signal))
        m = self.objectives.m
        held = np.isfinite(self.floors.floors).any(1, keepdims=True)
        left = np.maximum(1 - np.abs(weights[:, m:]).sum(1, keepdims=True), 0.0)  # what real constraints do not take
        weights[:, :m] = np.where(held, left, 1.0) * self.floors(weights[:, :m], signal)
        with deterministic(settings.deterministic):
            report = self.learner.step(
                rollouts,
                weights,
                self._learning_rate(self.budget.progress(step, tokens)),
                applies_to=self.weighting.applies_to,
                gradients=gradients,
            )
        self.journal.write(
            "step",
            step=step + 1,
            values=self.objectives.to_user(mean_rewards(rollouts)),
            weights=weights[:, :m],
            steering=weights[:, m:],
            kl=report.kl,
            entropy=report.entropy,
            spread=report.spread,
            grad_norm=report.grad_norm,
            length=rollouts.completions.lengths.float().mean((1, 2)).numpy(),
            seconds=round(time.monotonic() - started, 3),
            **({} if drawn is None else {"preferences": drawn}),
        )
        return report

    def _batch(self, step: int) -> list[PromptRow]:
        """The step's N prompts: whole passes over the training prompts, each in an order of its own."""
        rows, size = self.splits.train, self.settings.prompts_per_step
        batch = []
        for position in range(step * size, (step + 1) * size):
            epoch, index = divmod(position, len(rows))
            order = np.random.default_rng(seed_for(self.settings.seed, "order", epoch)).permutation(len(rows))
            batch.append(rows[order[index]])
        return batch

    def _learning_rate(self, progress: float) -> float:
        left = 1 - progress
        factor = {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}
        return self.settings.learning_rate * factor[self.settings.lr_schedule]

    def _restart_stalled(self, step: int, spread: np.ndarray) -> None:
        """A policy in which nothing varies any more goes on from an archived one that serves its preference better."""
        for slot in self.stalls.update(spread):
            parent = None
            if self.measured is not None and np.isfinite(self.measured[slot]).all():
                parent = choose_parent(
                    self.keeper.archive, self.keeper.frame, self.preferences[slot], self.measured[slot]
                )
            if parent is None:
                reason = "not measured yet" if self.measured is None else "nothing archived serves it better"
                self.journal.write("stalled", step=step, policy=slot, action=f"left as it is: {reason}")
                continue
            self._adopt(slot, parent.adapter)
            self.journal.write("stalled", step=step, policy=slot, action="started again", parent=parent.id)

    def _roll_back(self, report: StepReport) -> None:
        """A policy whose numbers went wrong goes back to where it was when last measured; the others go on.

        A family goes back as a whole.
        """
        for row in self.recovery.note(report if self.family is None else report.pooled()):
            self.learner.optimizer.put_back(row, self.recovery.good[row])
            for slot in range(self.population.size) if self.family is not None else [row]:
                self.weighting.reset(slot)
            self.journal.write(
                "rolled back", step=self.step, policy=row, reason="its gradient or its probabilities were not finite"
            )
        if self._measured_now():
            self.recovery.keep(self.learner.optimizer.parameters)

    def _serve(self, preferences: np.ndarray) -> None:
        """Let the slots serve a family at other preferences `[K, m]`."""
        assert isinstance(self.learner.optimizer, FamilyAdamW)
        self.preferences = preferences
        self.learner.optimizer.place(preferences)

    def _adopt(self, slot: int, adapter: torch.Tensor) -> None:
        """A slot goes on from another policy's adapter; nothing that belonged to the old tenant is kept."""
        self.population.load(slot, adapter)
        self.recovery.adopt(slot, adapter)
        self.learner.optimizer.reset(slot)
        self.weighting.reset(slot)
        self.floors.weighting.reset(slot)
        self.stalls.reset(slot)
        if self.measured is not None:
            self.measured[slot] = np.nan

    def _explore(self, step: int) -> None:
        """Let the explorer decide what the slots train next, and measure the candidates that need no training."""
        state = self._exploration(step)
        self.keeper.measure_mixtures(step, list(self.explorer.mixtures(state)))
        for slot, task in enumerate(self.explorer.propose(state)):
            if task is not None:
                self._assign(step, slot, task)

    def _exploration(self, step: int) -> Exploration:
        assert self.measured is not None
        return Exploration(
            step=step,
            steps=self.settings.steps,
            spent=self.budget.spent(self.spending.tokens),
            names=[self.objectives.names[i] for i in self.objectives.axes],
            preferences=self.preferences.copy(),
            measured=self.measured.copy(),
            archive=self.keeper.archive,
            frame=self.keeper.frame,
            frame_stderr=self.keeper.frame_stderr,
            seed=seed_for(self.settings.seed, "explorer", step),
        )

    def _assign(self, step: int, slot: int, task: Task) -> None:
        adapter = None if task.parent is None else self.keeper.archive.entries[task.parent].adapter
        if adapter is not None:
            self._adopt(slot, adapter)
        else:
            self.weighting.reset(slot)
        self.preferences[slot] = task.preference
        floors = None
        if task.floors is not None:
            axes = list(self.objectives.axes)
            lower, upper = self.scale.lower[axes], self.scale.upper[axes]
            floors = (lower + task.floors * (upper - lower) - self.scale.location[axes]) / self.scale.scale[axes]
        self.floors.assign(slot, floors)
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

    def state(self) -> Checkpoint:
        """The run between two steps. Random numbers need no state: each is seeded by name."""
        record = {
            "step": self.step,
            "trained": self.trained,
            "events": self.journal.events,
            **self.spending.state_dict(),
            **self.keeper.state_dict(),
            **self.objectives.counts(),
            "reads_packed_rows": self.learner.layout.reads_packed_rows,
            "drivable": self.population.drivable,
            "micro_batch_tokens": self.learner.layout.micro_batch_tokens,
            "scale": self.scale.to_dict(),
            "explorer": self.explorer.state_dict(),
            "rewards": self.objectives.state_dict(),
            "blind": self.recovery.blind,
        }
        arrays = {
            "preferences": self.preferences,
            "measured": self.measured,
            "spread": self.spread,
            "still": self.stalls.still,
            "unsound": self.recovery.unsound,
            **{f"weighting.{name}": value for name, value in self.weighting.state_dict().items()},
            **{f"floors.{name}": value for name, value in self.floors.state_dict().items()},
        }
        tensors = {
            "parameters": self.population.parameters.detach().cpu(),
            "good": self.recovery.good,
            **{f"optimizer.{name}": value.cpu() for name, value in self.learner.optimizer.state_dict().items()},
            **{name: torch.from_numpy(np.array(value)) for name, value in arrays.items() if value is not None},
        }
        return Checkpoint(record, tensors, self.keeper.adapters)

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Go on from `state()` of this run.

        Raises:
            FrontFileError: The checkpoint is of a run with other settings.
        """
        record, tensors = checkpoint.record, checkpoint.tensors

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        def array(name: str) -> np.ndarray:
            return tensors[name].numpy().copy()

        try:
            self.step, self.trained = int(record["step"]), bool(record["trained"])
            self.spending.load_state_dict(record)
            self.keeper.load_state_dict(record, checkpoint.adapters)
            self.objectives.load_counts(record)
            self.objectives.load_state_dict(record["rewards"])
            self.learner.layout.reads_packed_rows = record["reads_packed_rows"]
            self.population.drivable = record["drivable"]
            self.learner.layout.micro_batch_tokens = int(record["micro_batch_tokens"])
            self.explorer.load_state_dict(record["explorer"])
            with torch.no_grad():
                self.population.parameters.copy_(tensors["parameters"])
            self.learner.optimizer.load_state_dict(part("optimizer."))
            self.weighting.load_state_dict({k: v.numpy() for k, v in part("weighting.").items()})
            self.floors.load_state_dict({k: v.numpy() for k, v in part("floors.").items()})
            self.recovery.good, self.recovery.blind = tensors["good"].clone(), int(record.get("blind", 0))
            self.recovery.unsound, self.stalls.still = array("unsound"), array("still")
            self.preferences, self.spread = array("preferences"), array("spread")
            self.measured = array("measured") if "measured" in tensors else None
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FrontFileError(
                f"The checkpoint in {self.folder} does not fit this run: {type(error).__name__}: {error}"
            ) from error

    # -- measuring -----------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        if self.family is not None:
            self._serve(self.grid)
        provenances = []
        for preference, spread, floors in zip(self.preferences, self.spread, self.floors.floors, strict=True):
            provenances.append({"preference": preference.tolist(), "spread": float(spread)})
            if np.isfinite(floors).any():
                provenances[-1]["floors"] = [None if np.isnan(v) else float(v) for v in floors]
        self.measured = self.keeper.measure_population(self.step, provenances)

    def _measure_further(self, family: Family) -> None:
        """Measure the trained family at further preferences, which needs no training: twice, the second time between
        what the first found."""
        for _ in range(2):
            asked = self.explorer.further(self._exploration(self.step))
            if len(asked):
                origins = [{"preference": p.tolist(), "between": self.step} for p in asked]
                self.keeper.measure_further(self.step, family.rows(asked), origins)

    def _report_evaluator(self) -> Evaluator:
        return Evaluator(
            self.population,
            self.objectives,
            self.splits.report,
            self.settings.eval_group_size,
            self.params,
            seed_for(self.settings.seed, "report"),
            rows_at_once=max(ROWS_AT_ONCE, self.settings.rows_a_step),
            group=self.settings.eval_group,
        )

    def _done(self) -> bool:
        """Whether training ends here: something is used up, or the front stands still."""
        return self.keeper.plateau.reached or self.budget.used_up(
            self.step, self.spending.tokens, self.spending.seconds
        )
