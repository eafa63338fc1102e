"""What is known of the policies of a run: measured on held-out prompts, archived, raced, published."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pareto_align.discovery.explorers import Mixture
from pareto_align.errors import ParetoAlignWarning
from pareto_align.evaluation.answers import Measurement, Measures
from pareto_align.evaluation.racing import race
from pareto_align.front import Estimate, Origin, ParetoArchive, Status
from pareto_align.front.certificates import Ceiling, ceiling_of
from pareto_align.front.interpolation import controllability
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.mixing import AdapterMixture, mix_all
from pareto_align.policies.population import PolicyPopulation
from pareto_align.runs.budget import PlateauMonitor, Spending
from pareto_align.runs.journal import Journal
from pareto_align.runs.publishing import Publisher, shortcoming
from pareto_align.runs.settings import Settings
from pareto_align.weighting.evidence import audited

__all__ = ["FrontKeeper"]

LOOSE = 0.5  # of a rank correlation: a family that follows its preferences less than that is said to
SPARES = 32  # adapters kept beside the members', at the least: contested, duplicate or infeasible today


class FrontKeeper:
    """Measures policies, offers them to the archive, and keeps the front folder up to date.

    Args:
        population: Runs policies, and knows how to write them.
        objectives: What is measured.
        select: Measures on the select split.
        scale: The frozen scale of the objectives.
        reference: The untrained model's estimate, as `select` measured it.
        untrained: The whole of that measurement; None in a run that goes on, whose state has what is kept of it.
        settings: Capacity and resolution of the archive, and how much is measured again.
        publisher: Writes the front folder.
        journal: Records what was found.
        spending: What the run has spent.

    Attributes:
        archive: Every policy measured so far.
        next_entry: Number of the next one.
        samples: What those whose adapter is archived answered to the first prompts when they were measured, by id.
        reference_sample: What the untrained model answered to the same.
        plateau: Whether the hypervolume still moves.
    """

    def __init__(
        self,
        *,
        population: PolicyPopulation,
        objectives: ObjectiveSet,
        select: Measures,
        scale: RewardScale,
        reference: Estimate,
        settings: Settings,
        publisher: Publisher,
        journal: Journal,
        spending: Spending,
        untrained: Measurement | None = None,
    ) -> None:
        self.population = population
        self.objectives = objectives
        self.select = select
        self.scale = scale
        self.reference = reference
        self.settings = settings
        self.publisher = publisher
        self.journal = journal
        self.spending = spending
        axes = list(objectives.axes)
        self.archive = ParetoArchive(
            axes,
            reference=np.zeros(len(axes)),
            scale_lower=scale.lower[axes],
            scale_upper=scale.upper[axes],
            capacity=settings.archive_capacity,
            spares=max(SPARES, 4 * population.size),
            constraints=objectives.admitted,
            resolution=settings.resolution,
        )
        self.next_entry = 0
        self.samples: dict[str, Sequence[Mapping[str, Any]]] = {}
        self.reference_sample = [] if untrained is None else publisher.samples_of(self._asked(), untrained)
        self.plateau = PlateauMonitor(settings.stop_patience)

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far, as JSON's own types; the archived adapters are kept apart (`adapters`)."""
        return {
            "next_entry": self.next_entry,
            "select_tokens": self.select.tokens,
            "reference": self.reference.to_dict(),
            "archive": self.archive.state_dict(),
            "samples": {name: _without_prompts(rows) for name, rows in self._samples().items()},
            "reference_sample": _without_prompts(self.reference_sample),
            "plateau": self.plateau.state_dict(),
        }

    @property
    def adapters(self) -> dict[str, torch.Tensor]:
        """By entry of the archive, its adapter `[P]`."""
        return {entry.id: entry.adapter for entry in self.archive.entries.values() if entry.adapter is not None}

    def load_state_dict(self, state: Mapping[str, Any], adapters: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state_dict` and `adapters`; what else the mapping holds is passed over."""
        self.next_entry = int(state["next_entry"])
        self.select.tokens = int(state["select_tokens"])
        self.archive.load_state_dict(state["archive"])
        for name, adapter in adapters.items():
            self.archive.entries[name].adapter = adapter
        # the first checkpoints have no samples
        asked = self._asked()
        self.reference_sample = _with_prompts(state.get("reference_sample", ()), asked)
        self.samples = {name: _with_prompts(rows, asked) for name, rows in state.get("samples", {}).items()}
        if "plateau" in state:  # checkpoints of the first runs lack it
            self.plateau.load_state_dict(state["plateau"])

    def measure_population(self, step: int, origins: Sequence[Origin]) -> np.ndarray:
        """Measure the population on the select split, offer every policy to the archive, race the contested ones.

        Args:
            step: Training steps made.
            origins: Of each policy.

        Returns:
            `[K, m]` framed means.
        """
        found, (value, low, high) = self._measure("evaluation", step, self.population.parameters, origins)
        self.plateau.note(value, low, high)
        if self.plateau.reached:
            self.journal.write("settled", step=step, hypervolume=value, interval=self.plateau.interval)
        return np.stack([self.frame(m.estimate) for m in found])

    def measure_further(self, step: int, policies: torch.Tensor, origins: Sequence[Origin]) -> None:
        """Measure policies `[k, P]` of a trained family that no slot holds, in the same way."""
        self._measure("further", step, policies, origins)

    def _measure(
        self, event: str, step: int, policies: torch.Tensor, origins: Sequence[Origin]
    ) -> tuple[Sequence[Measurement], tuple[float, float, float]]:
        """Measure policies `[k, P]`, offer and race them, publish; what was found, and the front's hypervolume."""
        before = self.select.tokens
        found = self.select.measure(policies)
        names = []
        for measurement, origin, row in zip(found, origins, policies, strict=True):
            names.append(self._new_name(measurement))
            ceiling = self._ceiling(measurement, origin.preference)
            told = replace(origin, length=round(measurement.length, 2), ceiling=ceiling)
            self.archive.offer(names[-1], measurement.estimate, told, row.detach().to("cpu", copy=True))
        budget = self.settings.remeasure_tokens
        raced = race(
            self.archive,
            self.select,
            rounds=self.settings.remeasure_rounds,
            budget_tokens=self.select.tokens - before if budget is None else budget,
        )
        self.publish_selected(step)
        value, low, high = self.publisher.hypervolume(
            [entry.estimate for entry in self.archive.members()],
            [[entry.estimate for entry in group] for group in self.archive.rivals()],
        )
        self.journal.write(
            event,
            step=step,
            values=self.objectives.to_user(np.stack([m.estimate.mean for m in found])),
            stderr=np.stack([m.estimate.stderr for m in found]),
            hypervolume=value,
            hypervolume_low=low,
            hypervolume_high=high,
            members=len(self.archive.members()),
            front=[self.objectives.to_user(entry.estimate.mean) for entry in self.archive.members()],
            statuses=[str(self.archive.entries[name].status) for name in names],
            remeasured=raced.batches,
            remeasure_tokens=raced.tokens,
            open_verdicts=raced.open,
            **({} if event == "evaluation" else {"preferences": [origin.preference for origin in origins]}),
        )
        return found, (value, low, high)

    def measure_mixtures(self, step: int, mixtures: Sequence[Mixture]) -> None:
        """Measure mixtures of archived adapters and offer them to the archive."""
        if not mixtures:
            return
        mixed = mix_all(
            self.population,
            [
                AdapterMixture(
                    torch.stack([self.archive.entries[name].adapter for name in mixture.parents]),
                    mixture.coefficients,
                    mixture.noise,
                    mixture.seed,
                )
                for mixture in mixtures
            ],
        )
        policies, errors = zip(*mixed, strict=True)
        found = self.select.measure(torch.stack(policies).to(self.population.base.device))
        names, statuses = [], []
        for mixture, policy, error, measurement in zip(mixtures, policies, errors, found, strict=True):
            asked = mixture.preference
            origin = Origin(
                step,
                preference=None if asked is None else tuple(np.asarray(asked, dtype=float).tolist()),
                parents=tuple(mixture.parents),
                coefficients=tuple(float(c) for c in mixture.coefficients),
                rank_error=error,
                length=round(measurement.length, 2),
                noise=mixture.noise,
                seed=mixture.seed if mixture.noise else None,
            )
            names.append(self._new_name(measurement))
            statuses.append(str(self.archive.offer(names[-1], measurement.estimate, origin, policy.cpu())))
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

    def publish_selected(self, step: int) -> None:
        """Write the front as it stands on the select split, so that a stop at any time leaves a front that loads."""
        self.publisher.publish(
            self.archive,
            split="select",
            fallen=[e for e in self.archive.entries.values() if e.status is not Status.MEMBER],
            reference=self.reference,
            cost=self.spending.cost() | {"steps": step},
            samples=self._samples(),
            reference_sample=self.reference_sample,
            ceilings=self.select.ceilings(self.objectives.axes),
        )

    def _asked(self) -> list[Any]:
        """The prompts of the select split, as given."""
        return [prompt.prompt for prompt in self.select.prompts]

    def _samples(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """`samples`, without those of policies that were given up since."""
        entries = self.archive.entries
        self.samples = {name: rows for name, rows in self.samples.items() if entries[name].adapter is not None}
        return self.samples

    def report(self, step: int, evaluator: Measures) -> None:
        """Measure the members and the untrained model once on the report split, and publish what holds there.

        Warns:
            ParetoAlignWarning: The front is empty, or nothing on it is better than the untrained model; or a family
                hardly follows the preferences that it is told.
        """
        members = self.archive.members()
        reference = evaluator.measure_reference()
        prompts = [prompt.prompt for prompt in evaluator.prompts]
        samples: dict[str, list[dict[str, Any]]] = {}
        estimates: dict[str, Estimate] = {}
        if members:
            policies = torch.stack([entry.adapter for entry in members]).to(self.population.base.device)
            for entry, found in zip(members, evaluator.measure(policies), strict=True):
                estimates[entry.id] = found.estimate
                samples[entry.id] = self.publisher.samples_of(prompts, found)
        self.spending.report_tokens = evaluator.tokens
        kept = self.publisher.publish_report(
            self.archive,
            estimates,
            reference=reference.estimate,
            cost=self.spending.cost() | {"steps": step},
            samples=samples,
            reference_sample=self.publisher.samples_of(prompts, reference),
            prompt_ids=evaluator.prompts[0].ids,
            ceilings=evaluator.ceilings(self.objectives.axes),
        )
        value, low, high = self.publisher.hypervolume([entry.estimate for entry in kept])
        base_value, base_low, base_high = self.publisher.hypervolume([reference.estimate])
        said = shortcoming(kept, self.archive.entries.values(), reference.estimate, self.objectives)
        follows = self._controllability(step)
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
            **({} if follows is None else {"controllability": follows}),
            **({} if said is None else {"warning": said}),
        )
        if said is not None:
            warnings.warn(said, ParetoAlignWarning, stacklevel=5)  # the caller of fit or resume
        if follows is not None and (loose := [name for name, share in follows.items() if share < LOOSE]):
            warnings.warn(
                f"The family hardly does as it is told: more weight on {', '.join(map(repr, loose))} does not reliably "
                f"mean more of it (rank correlation {min(follows[name] for name in loose):.2f} over the preferences "
                "that were measured). Train longer or with a higher learning rate.",
                ParetoAlignWarning,
                stacklevel=5,
            )

    def _controllability(self, step: int) -> dict[str, float] | None:
        """Of each objective how well the trained family follows its weight; None of independent policies."""
        measured = [entry for entry in self.archive.entries.values() if entry.origin.step == step]
        if self.publisher.family is None or not measured:
            return None
        axes = list(self.objectives.axes)
        preferences = [list(entry.origin.preference or ()) for entry in measured]
        found = controllability(preferences, [entry.estimate.mean[axes] for entry in measured])
        return {self.objectives.names[i]: round(float(share), 4) for i, share in zip(axes, found, strict=True)}

    def _ceiling(self, measurement: Measurement, preference: tuple[float, ...] | None) -> Ceiling | None:
        """What a policy's own answers say of the best one for its preference; None where they cannot."""
        if measurement.log_ratios is None or preference is None:
            return None
        rewards = self.scale.normalize(measurement.rewards)[..., list(self.objectives.axes)]
        known = np.isfinite(rewards).all(-1) & np.isfinite(measurement.log_ratios)
        if not known.all():
            return None
        group = rewards.shape[1]
        # the same prompt may be asked several times
        place = {ids: x for x, ids in enumerate(dict.fromkeys(tuple(prompt.ids) for prompt in self.select.prompts))}
        prompts = np.repeat([place[tuple(prompt.ids)] for prompt in self.select.prompts], group)
        flat = rewards.reshape(len(prompts), -1)
        return ceiling_of(flat, measurement.log_ratios.ravel(), prompts, preference, self.settings.kl_coef)

    def frame(self, estimate: Estimate) -> np.ndarray:
        """`[m]` means in the frame in which 0 to 1 spans each optimized objective."""
        framed: np.ndarray = self.scale.frame(estimate.mean)[list(self.objectives.axes)]
        return framed

    def frame_stderr(self, estimate: Estimate) -> np.ndarray:
        """`[m]` standard errors in the same frame."""
        axes = list(self.objectives.axes)
        # an explorer proposes and decides nothing: where the noise is not known it goes by the means
        framed: np.ndarray = np.nan_to_num(estimate.stderr[axes]) / self.scale.span[axes]
        return framed

    def describe(self, estimate: Estimate) -> np.ndarray:
        """`[a]` means of the audited objectives, as shares of their bounds; NaN where there are none."""
        columns = audited(self.objectives)
        low, high = (
            np.array([self.objectives[i].maximized_bounds or (np.nan, np.nan) for i in columns]).reshape(-1, 2).T
        )
        return np.asarray((estimate.mean[list(columns)] - low) / (high - low))

    def _new_name(self, measured: Measurement) -> str:
        """The name of the next entry, under which its answers are kept."""
        name = f"m{self.next_entry:04d}"
        self.next_entry += 1
        self.samples[name] = self.publisher.samples_of(self._asked(), measured)
        return name


def _without_prompts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Samples as a checkpoint keeps them: all policies were asked the same, which the run folder has."""
    return [{key: value for key, value in row.items() if key != "prompt"} for row in rows]


def _with_prompts(rows: Sequence[Mapping[str, Any]], asked: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"prompt": asked[row["prompt_id"]], **row} for row in rows]
