"""From the archive to the front folder that the user keeps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.arguments import arguments_of
from pareto_align.evaluation.answers import Measurement
from pareto_align.front import (
    Entry,
    Estimate,
    FamilyRecord,
    FrontRecord,
    MemberRecord,
    ObjectiveRecord,
    ParetoArchive,
    Status,
    bootstrap_hypervolume,
    difference,
    write_front,
)
from pareto_align.front.estimates import student_quantile
from pareto_align.front.parsing import turned
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.families import Family
from pareto_align.policies.parity import parity_of
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.serving import described

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Publisher", "confirm", "shortcoming"]


class Publisher:
    """Writes the front folder: every time the archive changes, and once more with the report split's numbers.

    Args:
        path: The front folder; None: nothing is written.
        population: Knows how to write an adapter as a stock PEFT folder.
        objectives: Names, roles and directions.
        scale: The frozen frame of the objectives.
        config: The run's settings, kept in the record.
        family: What the run trains, where it is a family.
        parity: Compares a policy `[P]` with what stock PEFT makes of its folder, on a prompt; by default on the
            population's own model.
    """

    def __init__(
        self,
        path: Path | None,
        population: PolicyPopulation,
        objectives: ObjectiveSet,
        scale: RewardScale,
        config: Mapping[str, Any],
        family: Family | None = None,
        parity: Callable[[Tensor, Sequence[int]], dict[str, Any]] | None = None,
    ) -> None:
        self.parity = parity or partial(parity_of, population)
        self.family = family
        self.path = path
        self.population = population
        self.objectives = objectives
        self.scale = scale
        self.config = dict(config)

    def hypervolume(
        self, estimates: Sequence[Estimate], rivals: Sequence[Sequence[Estimate]] = ()
    ) -> tuple[float, float, float]:
        """Hypervolume of some policies in the frozen frame, with its 95 % bootstrap interval over prompts.

        Args:
            estimates: Of the policies.
            rivals: For each of them those among which it was chosen on these same measurements.
        """
        if not estimates:
            return 0.0, 0.0, 0.0
        axes = list(self.objectives.axes)
        value, low, high = bootstrap_hypervolume(
            list(estimates),
            axes,
            np.zeros(len(axes)),
            scale_lower=self.scale.lower[axes],
            scale_upper=self.scale.upper[axes],
            rivals=rivals,
            bounds=[self.objectives[axis].maximized_bounds for axis in axes],
        )
        return float(value), float(low), float(high)

    def publish(
        self,
        archive: ParetoArchive,
        *,
        split: str,
        fallen: Sequence[Entry],
        fallen_before: Sequence[Entry] = (),
        reference: Estimate,
        cost: Mapping[str, Any],
        samples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        reference_sample: Sequence[Mapping[str, Any]] = (),
        ceilings: Sequence[np.ndarray] = (),
    ) -> None:
        """Write the members of an archive.

        Args:
            archive: Its members are the front.
            split: "select" or "report": what the estimates were measured on.
            fallen: Entries that are no members, kept as numbers only.
            fallen_before: Further ones, which fell on the select split and were not measured on this one.
            reference: The untrained model, measured on the same split.
            cost: What the run has spent.
            samples: Answers to prompts of the split, by entry; see `samples_of`.
            reference_sample: The untrained model's to the same.
            ceilings: What the labels of the split allow (`Measures.ceilings`).
        """
        self._write(
            archive, archive.members(), split, fallen, fallen_before, reference, cost, samples, reference_sample,
            ceilings=ceilings,
        )  # fmt: skip

    def publish_report(
        self,
        archive: ParetoArchive,
        estimates: Mapping[str, Estimate],
        *,
        reference: Estimate,
        cost: Mapping[str, Any],
        samples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        reference_sample: Sequence[Mapping[str, Any]] = (),
        prompt_ids: Sequence[int] = (),
        ceilings: Sequence[np.ndarray] = (),
    ) -> list[Entry]:
        """Write an archive's members with what they were found to be on the report split; see `confirm`.

        One of them is loaded by stock PEFT first, and compared with what the population ran.

        Args:
            archive: As it stands on the select split.
            estimates: Of its members on the report split.
            reference: The untrained model, measured on the report split.
            cost: What the run has spent.
            samples: Answers to prompts of the report split, by member; see `samples_of`.
            reference_sample: The untrained model's to the same.
            prompt_ids: A prompt as tokens, on which a member is compared; none leaves that out.
            ceilings: What the labels of the report split allow (`Measures.ceilings`).

        Returns:
            What was published as the front. Its hypervolume is free of selection: nothing was chosen on this split.
        """
        kept, fallen = confirm(archive, estimates)
        before = [entry for entry in archive.entries.values() if entry.id not in estimates]
        parity = self._parity(kept[0], prompt_ids) if kept and prompt_ids else {}
        self._write(
            archive, kept, "report", fallen, before, reference, cost, samples or {}, reference_sample, parity, ceilings
        )  # fmt: skip
        return kept

    def _parity(self, member: Entry, prompt_ids: Sequence[int]) -> dict[str, Any]:
        """How far a member that stock PEFT loads is from the policy that was measured."""
        try:
            found = self.parity(member.adapter, prompt_ids)
        except Exception as error:  # a run is not lost for what cannot be checked, but it is said
            found = {"problem": f"{type(error).__name__}: {error}"}
        return {"member": member.id, **found} if found else {}

    def _write(
        self,
        archive: ParetoArchive,
        members: Sequence[Entry],
        split: str,
        fallen: Sequence[Entry],
        fallen_before: Sequence[Entry],
        reference: Estimate,
        cost: Mapping[str, Any],
        samples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        reference_sample: Sequence[Mapping[str, Any]] = (),
        parity: Mapping[str, Any] | None = None,
        ceilings: Sequence[np.ndarray] = (),
    ) -> None:
        if self.path is None:
            return
        entries = {entry.id: entry for entry in members}
        base = self.population.base
        record = FrontRecord(
            objectives=self._objective_records(),
            members=[
                MemberRecord(
                    id=entry.id,
                    estimate=entry.estimate,
                    preference=None if entry.origin.preference is None else list(entry.origin.preference),
                    provenance=entry.origin.to_dict(),
                    adapter=f"members/{entry.id}",
                    sample=[dict(row) for row in (samples or {}).get(entry.id, ())],
                )
                for entry in members
            ],
            base=described(base),
            split=split,
            reference=[0.0] * len(self.objectives.axes),
            reference_policy=reference,
            reference_sample=[dict(row) for row in reference_sample],
            fallen=[
                self._fallen(entry, measured_on)
                for entries, measured_on in ((fallen, split), (fallen_before, "select"))
                for entry in entries
            ],
            cost=dict(cost),
            config=self.config,
            parity=dict(parity or {}),
            family=None if self.family is None else self._family_record(self.family, archive, int(cost["steps"])),
            ceilings=self._drawn(ceilings),
        )

        def write(name: str, folder: Path) -> None:
            entry = entries[name]
            self.population.save_adapter(entry.adapter, folder)
            told = None if self.family is None else self.family.instruction(entry.origin.preference)
            if told is not None:
                told.write(folder)

        write_front(
            self.path,
            record,
            write,
            None if self.family is None else self.family.save,
        )

    def _drawn(self, ceilings: Sequence[np.ndarray]) -> list[list[list[float]]]:
        """Ceilings in the user's units, to six digits."""
        signs = [1.0 if self.objectives[axis].maximize else -1.0 for axis in self.objectives.axes]
        pairs = itertools.combinations(signs, 2)
        return [(curve * pair).round(6).tolist() for curve, pair in zip(ceilings, pairs, strict=False)]

    def samples_of(self, prompts: Sequence[Any], measured: Measurement) -> list[dict[str, Any]]:
        """The first answer of a policy to each of the first prompts, with the rewards of these very answers.

        Args:
            prompts: n prompts that it was measured on, as given.
            measured: What was found.
        """
        kept = int(self.config.get("samples_kept", 8))  # the first runs did not take down how many
        told = []
        for i, (prompt, text) in enumerate(list(zip(prompts, measured.texts, strict=False))[:kept]):
            told.append({"prompt": prompt, "completion": text, "prompt_id": i})
            if measured.of_answers:
                told[-1]["rewards"] = self.objectives.to_user(measured.rewards[i, 0]).tolist()
        return told

    def _family_record(self, family: Family, archive: ParetoArchive, step: int) -> FamilyRecord:
        """The family as it stands, with everything that was measured of it as it stands: nothing chosen."""
        measured = [entry for entry in archive.entries.values() if entry.origin.step == step]
        return FamilyRecord(
            name=family.name,
            settings=arguments_of(family),
            ranks=list(family.ranks),
            step=step,
            preferences=[list(entry.origin.preference or ()) for entry in measured],
            values=[self.objectives.to_user(entry.estimate.mean).tolist() for entry in measured],
            stderr=[entry.estimate.stderr.tolist() for entry in measured],
            n=min((entry.estimate.n for entry in measured), default=0),
        )

    def _fallen(self, entry: Entry, split: str) -> dict[str, Any]:
        values = self.objectives.to_user(entry.estimate.mean).tolist()
        missed: dict[str, Any] = {}
        if entry.column is not None:
            missed["objective"] = self.objectives.names[entry.column]
        if entry.column is not None and entry.bound is not None:
            maximize = self.objectives[entry.column].maximize
            missed |= {"value": values[entry.column], "bound": turned(entry.bound, maximize)}
        return {
            "id": entry.id,
            "values": values,
            "stderr": entry.estimate.stderr.tolist(),
            "status": str(entry.status),
            "reason": entry.reason,
            "rival": entry.rival,
            **missed,
            "split": split,
            "provenance": entry.origin.to_dict(),
        }

    def _objective_records(self) -> list[ObjectiveRecord]:
        return [
            ObjectiveRecord(
                name=objective.name,
                role=objective.role,
                maximize=objective.maximize,
                lower=float(self.scale.lower[index]),
                upper=float(self.scale.upper[index]),
                bounds=objective.bounds,
                at_least=objective.at_least,
                at_most=objective.at_most,
                tolerance=objective.tolerance,
            )
            for index, objective in enumerate(self.objectives)
        ]


def confirm(archive: ParetoArchive, estimates: Mapping[str, Estimate]) -> tuple[list[Entry], list[Entry]]:
    """Read the report split once: the select split says who is on the front, the report split how good they are.

    Choosing the members again by what they score here would bring back the luck that the second split is there to take
    out. A member therefore stays unless the report split refutes it with the archive's confidence: it misses a
    constraint, or another member is better on every axis. Those that go are worse than one that stays, so the
    hypervolume of the means is the same with them and without. A member that stays although it is worse in the mean,
    or misses a constraint in the mean, says so in `origin.report`.

    Args:
        archive: As it stands on the select split.
        estimates: Of its members on the report split, by id.

    Returns:
        The members that stay, from the best to the worst on the first axis, and those that fell. Both are new entries
        with the estimates of the report split.
    """
    judge = ParetoArchive(
        archive.axes,
        reference=archive.reference,
        scale_lower=archive.scale_lower,
        scale_upper=archive.scale_upper,
        confidence=archive.confidence,
    )
    refuted: list[Entry] = []
    doubts: dict[str, str] = {}
    for entry in archive.members():
        estimate = estimates[entry.id]
        for column, bound in archive.constraints:
            mean, noise = float(estimate.mean[column]), float(estimate.stderr[column])
            if mean >= bound:
                continue
            if np.isnan(mean):
                reason = f"Objective {column} has no finite mean."
                refuted.append(Entry(entry.id, estimate, entry.origin, Status.INVALID, reason, column=column))
                break
            doubts[entry.id] = f"Objective {column} has mean {mean:.4g}, below its bound {bound:.4g}."
            if bound - mean > student_quantile(1 - archive.confidence, int(estimate.counts[column])) * noise:
                refuted.append(
                    Entry(
                        entry.id,
                        estimate,
                        entry.origin,
                        Status.INFEASIBLE,
                        doubts[entry.id],
                        column=column,
                        bound=bound,
                    )
                )
                break
        else:
            # no payload: the judge's verdicts give no adapter up
            judge.offer(entry.id, estimate, entry.origin)
    kept: list[Entry] = []
    for verdict in judge.entries.values():
        if verdict.status in (Status.DOMINATED, Status.INVALID):
            refuted.append(verdict)
            continue
        if verdict.status is not Status.MEMBER:
            doubts[verdict.id] = " ".join([*filter(None, [doubts.get(verdict.id)]), verdict.reason])
        if verdict.id in doubts:
            verdict.origin = replace(verdict.origin, report=doubts[verdict.id])
        verdict.adapter = archive.entries[verdict.id].adapter
        kept.append(verdict)
    return kept, refuted


def shortcoming(
    members: Sequence[Entry], entries: Iterable[Entry], reference: Estimate, objectives: ObjectiveSet
) -> str | None:
    """What a user has to know about a front that came to nothing; None where it did not.

    Args:
        members: The front, measured on the report split.
        entries: All that were measured on the select split.
        reference: The untrained model, measured on the same prompts.
        objectives: What was optimized.
    """
    if not members:
        held = ", ".join(repr(o.name) for o in objectives if o.role == "constrain")
        return (
            "The front is empty: no policy that was measured "
            + (f"meets the constraints on {held} beyond doubt" if held else "has finite means in all objectives")
            + f".{_closest(entries, objectives)} `front.fallen` says of each why."
        )
    axes = list(objectives.axes)
    for entry in members:
        gain, covariance = difference(entry.estimate, reference)
        units = np.minimum(entry.estimate.counts, reference.counts)
        noise = student_quantile(0.05, units) * np.sqrt(np.diag(covariance))
        if ((gain > noise) & (gain > 0))[axes].any():
            return None
    unit = "prompt" if reference.groups is None else "group"
    return (
        f"No member of the front is better than the untrained model in any objective, as far as {reference.n} "
        f"{unit}{'' if reference.n == 1 else 's'} can tell. Train longer or with a higher learning rate, or measure on "
        "more prompts (`eval_prompts`)."
    )


def _closest(entries: Iterable[Entry], objectives: ObjectiveSet) -> str:
    """Of the policies that miss a threshold, the one that misses its worst one by least, in a sentence."""

    def worst(entry: Entry) -> tuple[float, int]:
        return max(
            (threshold - float(entry.estimate.mean[column]), column) for column, threshold in objectives.admitted
        )

    missed = [(*worst(entry), entry) for entry in entries if entry.status is Status.INFEASIBLE]
    if not missed:
        return ""
    short, column, entry = min(missed, key=lambda one: one[:2])
    objective, value = objectives[column], objectives.to_user(entry.estimate.mean)[column]
    threshold = objective.at_least if objective.at_most is None else objective.at_most
    side = "at least" if objective.at_most is None else "at most"
    return (
        f" The closest one, {entry.id!r}, has {objective.name!r} at {value:.4g}, which should be {side} {threshold:g}: "
        f"it misses by {short:.4g}."
    )
