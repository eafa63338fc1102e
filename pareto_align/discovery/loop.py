"""The front-discovery loop: train, measure, archive, until the steps are done; then report on untouched prompts."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from pareto_align.discovery.budget import Budget
from pareto_align.discovery.checkpoint import CheckpointWriter, remove_checkpoint
from pareto_align.discovery.evaluation import Evaluator
from pareto_align.discovery.explorers import Exploration, Explorer, Task
from pareto_align.discovery.extension import FloorKeeper
from pareto_align.discovery.journal import Journal
from pareto_align.discovery.prompts import Splits
from pareto_align.discovery.publishing import Publisher
from pareto_align.discovery.racing import race
from pareto_align.discovery.seeds import seed_for
from pareto_align.discovery.settings import Settings
from pareto_align.discovery.signals import make_signal, mean_rewards
from pareto_align.discovery.stalls import StallMonitor, choose_parent
from pareto_align.discovery.state import take_down
from pareto_align.discovery.stopping import StopRequest
from pareto_align.errors import TrainingError
from pareto_align.front import Estimate, ParetoArchive, Status
from pareto_align.learning.learner import Learner, StepReport
from pareto_align.learning.rollouts import PromptRow, roll_out
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.mixing import mix
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import SamplingParams
from pareto_align.weighting import Weighting

__all__ = ["FrontDiscovery"]

UNSOUND_STEPS = 3
SPARES = 32  # adapters kept beside the members', at the least: contested, duplicate or infeasible today


class FrontDiscovery:
    """Trains a population under a dynamic weighting and keeps the archive of what was found.

    Args:
        population: K policies.
        objectives: What is optimized, constrained and audited.
        learner: Steps the population.
        weighting: Turns the state of the population into weights `[K, m]`, or `[K, m + c]` if it steers constraints.
        explorer: Decides after every measurement what the slots train next.
        preferences: `[K, m]` what each slot pursues at first.
        splits: Prompts to train on, to select on, to report on.
        scale: The frozen scale of the objectives.
        evaluator: Measures on the select split.
        reference: The untrained model's estimate, as `evaluator` measured it.
        settings: How long, how many, how often.
        publisher: Writes the front folder.
        journal: Records every event.
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
        evaluator: Evaluator,
        reference: Estimate,
        settings: Settings,
        publisher: Publisher,
        journal: Journal,
    ) -> None:
        self.population = population
        self.objectives = objectives
        self.learner = learner
        self.weighting = weighting
        self.explorer = explorer
        self.preferences = np.array(preferences, dtype=float)
        self.floors = FloorKeeper(population.size, objectives.m, explorer.floor_weighting)
        self.splits = splits
        self.scale = scale
        self.reference = reference
        self.settings = settings
        self.budget = Budget(settings)
        self.publisher = publisher
        self.journal = journal
        self.params = SamplingParams(
            settings.max_new_tokens, settings.temperature, top_k=settings.top_k, top_p=settings.top_p
        )
        self.archive = self._new_archive()
        self.stalls = StallMonitor(population.size, settings.stall_patience)
        self.train_tokens = self.rollouts = self.report_tokens = 0
        self.started = time.monotonic()
        self.measured: np.ndarray | None = None
        self.select = evaluator
        self.folder = journal.path.parent
        self.checkpoints = CheckpointWriter(self.folder)
        self.step = 0
        self.trained = False
        self.spread = np.ones(population.size)
        self.next_entry = 0
        self.good = population.parameters.detach().to("cpu", copy=True)
        self.unsound = np.zeros(population.size, dtype=int)

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
                    self._publish_selected(0)
                    self.checkpoints.write(take_down(self))
                while not self.trained:
                    self._advance()
                    if self._measured_now() or stop.signal is not None:
                        self.checkpoints.write(take_down(self))
                    stop.leave()
            self._report()
        except BaseException as error:
            found = len(self.archive.members())
            error.add_note(
                f"The front found by step {self.step} is in {self.publisher.path} ({found} adapters); "
                f"the run can be resumed from {self.folder}."
            )
            with suppress(Exception):  # a full disk or a callback must not stand in for the error itself
                self.journal.write("stopped", step=self.step, error=f"{type(error).__name__}: {error}")
            raise
        self.journal.write(
            "end",
            step=self.step,
            cost=self._cost(),
            nan_rewards=self.objectives.nan_counts,
            repeated_calls=self.objectives.retry_counts,
            **self._clock(),
        )
        remove_checkpoint(self.folder)

    def _advance(self) -> None:
        """One training step, and what follows it."""
        report = self._train(self.step)
        self.step += 1
        self.spread = report.spread
        self.trained = self._used_up()
        self._roll_back(report)
        if self._measured_now():
            self._measure(self.step, self.spread)
            self.trained = self._used_up()  # measuring costs as well: no step is made that nothing is left for
        if not self.trained:
            if self._measured_now():
                self._explore(self.step)
                self.trained = self._used_up()
            self._restart_stalled(self.step, self.spread)

    def _measured_now(self) -> bool:
        """Whether the population is measured after this step."""
        return self.trained or self.step % self.settings.eval_every == 0

    # -- one step ------------------------------------------------------------------------------------------------

    def _train(self, step: int) -> StepReport:
        started = time.monotonic()
        settings = self.settings
        tokens = self._tokens()  # before this step: the first one has all of its budget ahead
        seeds = [seed_for(settings.seed, "rollout", step, k) for k in range(self.population.size)]
        rollouts = roll_out(
            self.population, self.objectives, self._batch(step), settings.group_size, self.params, seeds
        )
        self.train_tokens += rollouts.token_count
        self.rollouts += len(rollouts.texts)
        gradients = None
        if self.weighting.requires & {"gramians", "cross_gramians"}:
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
        report = self.learner.step(
            rollouts,
            weights,
            self._learning_rate(self.budget.progress(step, tokens)),
            applies_to=self.weighting.applies_to,
            gradients=gradients,
        )
        if not np.isfinite(report.grad_norm).any():
            raise TrainingError(f"At step {step} no policy had a finite gradient. Lower the learning rate.")
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
                parent = choose_parent(self.archive, self._frame, self.preferences[slot], self.measured[slot])
            if parent is None:
                reason = "not measured yet" if self.measured is None else "nothing archived serves it better"
                self.journal.write("stalled", step=step, policy=slot, action=f"left as it is: {reason}")
                continue
            self._adopt(slot, parent.adapter)
            self.journal.write("stalled", step=step, policy=slot, action="started again", parent=parent.id)

    def _roll_back(self, report: StepReport) -> None:
        """A policy whose numbers went wrong goes back to where it was when last measured; the others go on.

        The optimizer passes over a step whose gradient is not finite; UNSOUND_STEPS of them in a row, or a policy
        whose own probabilities are no numbers, will not mend by themselves.
        """
        sound = np.isfinite(report.grad_norm)
        self.unsound = np.where(sound, 0, self.unsound + 1)
        lost = (self.unsound >= UNSOUND_STEPS) | ~np.isfinite(report.entropy)
        for slot in np.flatnonzero(lost).tolist():
            self.population.load(slot, self.good[slot])
            self.learner.optimizer.reset(slot)
            self.weighting.reset(slot)
            self.unsound[slot] = 0
            self.journal.write(
                "rolled back", step=self.step, policy=slot, reason="its gradient or its probabilities were not finite"
            )
        if self._measured_now():
            kept = torch.from_numpy(sound & ~lost)
            now = self.population.parameters.detach().cpu()
            self.good = torch.where(kept[:, None], now, self.good)

    def _adopt(self, slot: int, adapter: torch.Tensor) -> None:
        """A slot goes on from another policy's adapter; nothing that belonged to the old tenant is kept."""
        self.population.load(slot, adapter)
        self.good[slot] = adapter.detach().cpu()
        self.learner.optimizer.reset(slot)
        self.weighting.reset(slot)
        self.floors.weighting.reset(slot)
        self.stalls.reset(slot)
        if self.measured is not None:
            self.measured[slot] = np.nan

    def _explore(self, step: int) -> None:
        """Let the explorer decide what the slots train next, and measure the candidates that need no training."""
        assert self.measured is not None
        state = Exploration(
            step=step,
            steps=self.settings.steps,
            spent=self.budget.spent(self._tokens()),
            names=[self.objectives.names[i] for i in self.objectives.axes],
            preferences=self.preferences.copy(),
            measured=self.measured.copy(),
            archive=self.archive,
            frame=self._frame,
            frame_stderr=self._frame_stderr,
            seed=seed_for(self.settings.seed, "explorer", step),
        )
        self._measure_mixtures(step, state)
        for slot, task in enumerate(self.explorer.propose(state)):
            if task is not None:
                self._assign(step, slot, task)

    def _assign(self, step: int, slot: int, task: Task) -> None:
        adapter = None if task.parent is None else self.archive.entries[task.parent].adapter
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

    # -- measuring -----------------------------------------------------------------------------------------------

    def _measure(self, step: int, spread: np.ndarray) -> None:
        """Measure the population on the select split, offer every policy to the archive, race the contested ones."""
        before = self.select.tokens
        found = self.select.measure(self.population.parameters)
        self.measured = np.stack([self._frame(m.estimate) for m in found])
        names = []
        for slot, measurement in enumerate(found):
            names.append(self._new_name())
            provenance = {
                "step": step,
                "policy": slot,
                "preference": self.preferences[slot].tolist(),
                "spread": float(spread[slot]),
                "length": round(measurement.length, 2),
            }
            if np.isfinite(self.floors.floors[slot]).any():
                provenance["floors"] = [None if np.isnan(v) else float(v) for v in self.floors.floors[slot]]
            self.archive.offer(names[-1], measurement.estimate, provenance, self.population.snapshot(slot))
        budget = self.settings.remeasure_tokens
        raced = race(
            self.archive,
            self.select,
            rounds=self.settings.remeasure_rounds,
            budget_tokens=self.select.tokens - before if budget is None else budget,
        )
        self._publish_selected(step)
        value, low, high = self.publisher.hypervolume(
            [entry.estimate for entry in self.archive.members()],
            [[entry.estimate for entry in group] for group in self.archive.rivals()],
        )
        self.journal.write(
            "evaluation",
            step=step,
            values=self.objectives.to_user(np.stack([m.estimate.mean for m in found])),
            stderr=np.stack([m.estimate.stderr for m in found]),
            hypervolume=value,
            hypervolume_low=low,
            hypervolume_high=high,
            members=len(self.archive.members()),
            statuses=[str(self.archive.entries[name].status) for name in names],
            remeasured=raced.batches,
            remeasure_tokens=raced.tokens,
            open_verdicts=raced.open,
        )

    def _measure_mixtures(self, step: int, state: Exploration) -> None:
        """Measure the explorer's mixtures of archived adapters and offer them to the archive."""
        mixtures = list(self.explorer.mixtures(state))
        if not mixtures:
            return
        rows, errors = [], []
        for mixture in mixtures:
            adapters = torch.stack([self.archive.entries[name].adapter for name in mixture.parents])
            row, error = mix(self.population, adapters, mixture.coefficients, noise=mixture.noise, seed=mixture.seed)
            rows.append(row)
            errors.append(error)
        found = self.select.measure(torch.stack(rows).to(self.population.base.device))
        names, statuses = [], []
        for mixture, row, error, measurement in zip(mixtures, rows, errors, found, strict=True):
            provenance = {
                "step": step,
                "parents": list(mixture.parents),
                "coefficients": [float(c) for c in mixture.coefficients],
                "rank_error": error,
                "length": round(measurement.length, 2),
            }
            if mixture.noise:
                provenance |= {"noise": mixture.noise, "seed": mixture.seed}
            if mixture.preference is not None:
                provenance["preference"] = np.asarray(mixture.preference, float).tolist()
            names.append(self._new_name())
            statuses.append(str(self.archive.offer(names[-1], measurement.estimate, provenance, row.cpu())))
        self.journal.write(
            "mixtures",
            step=step,
            names=names,
            parents=[list(m.parents) for m in mixtures],
            coefficients=[list(m.coefficients) for m in mixtures],
            rank_errors=errors,
            reasons=[m.reason for m in mixtures],
            values=self.objectives.to_user(np.stack([m.estimate.mean for m in found])),
            statuses=statuses,
        )

    def _report(self) -> None:
        """Measure the members and the untrained model once on the report split, and publish what holds there."""
        step = self.step
        members = self.archive.members()
        evaluator = Evaluator(
            self.population,
            self.objectives,
            self.splits.report,
            self.settings.eval_group_size,
            self.params,
            seed_for(self.settings.seed, "report"),
        )
        reference = evaluator.measure_reference()
        texts: dict[str, list[str]] = {}
        estimates: dict[str, Estimate] = {}
        if members:
            rows = torch.stack([entry.adapter for entry in members]).to(self.population.base.device)
            for entry, found in zip(members, evaluator.measure(rows), strict=True):
                estimates[entry.id], texts[entry.id] = found.estimate, found.texts
        self.report_tokens = evaluator.tokens
        kept = self.publisher.publish_report(
            self.archive,
            estimates,
            reference=reference.estimate,
            cost=self._cost() | {"steps": step},
            prompts=[row.prompt for row in evaluator.rows],
            texts=texts,
        )
        value, low, high = self.publisher.hypervolume([entry.estimate for entry in kept])
        base_value, base_low, base_high = self.publisher.hypervolume([reference.estimate])
        self.journal.write(
            "report",
            step=step,
            members=len(kept),
            hypervolume=value,
            hypervolume_low=low,
            hypervolume_high=high,
            reference_hypervolume=base_value,
            reference_hypervolume_low=base_low,
            reference_hypervolume_high=base_high,
        )

    def _publish_selected(self, step: int) -> None:
        """Write the front as it stands on the select split, so that a stop at any time leaves a front that loads."""
        self.publisher.publish(
            self.archive,
            split="select",
            fallen=[e for e in self.archive.entries.values() if e.status is not Status.MEMBER],
            reference=self.reference,
            cost=self._cost() | {"steps": step},
        )

    def _new_name(self) -> str:
        name = f"m{self.next_entry:04d}"
        self.next_entry += 1
        return name

    def _used_up(self) -> bool:
        return self.budget.used_up(self.step, self._tokens(), time.monotonic() - self.started)

    def _tokens(self) -> int:
        """What counts for `max_tokens`: everything sampled so far, in training and measuring."""
        return self.train_tokens + self.select.tokens

    def _cost(self) -> dict[str, Any]:
        """What the run has spent so far."""
        return {
            "train_tokens": self.train_tokens,
            "eval_tokens": self.select.tokens + self.report_tokens,
            "rollouts": self.rollouts,
            "reward_calls": self.objectives.reward_calls,
        }

    def _clock(self) -> dict[str, float]:
        """Wall-clock seconds. They stay out of the front folder, which is the same whenever a run is made."""
        return {
            "reward_seconds": round(self.objectives.reward_seconds, 2),
            "seconds": round(time.monotonic() - self.started, 1),
        }

    def _new_archive(self) -> ParetoArchive:
        axes, scale = list(self.objectives.axes), self.scale
        return ParetoArchive(
            axes,
            reference=np.zeros(len(axes)),
            scale_lower=scale.lower[axes],
            scale_upper=scale.upper[axes],
            capacity=self.settings.archive_capacity,
            spares=max(SPARES, 4 * self.population.size),
            constraints=self.objectives.constraints,
            resolution=self.settings.resolution,
        )

    def _frame(self, estimate: Estimate) -> np.ndarray:
        framed: np.ndarray = self.scale.frame(estimate.mean)[list(self.objectives.axes)]
        return framed

    def _frame_stderr(self, estimate: Estimate) -> np.ndarray:
        axes = list(self.objectives.axes)
        framed: np.ndarray = estimate.stderr[axes] / (self.scale.upper - self.scale.lower)[axes]
        return framed
