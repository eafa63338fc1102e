"""From the archive to the front folder that the user keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pareto_align.front import (
    Entry,
    Estimate,
    FrontRecord,
    MemberRecord,
    ObjectiveRecord,
    ParetoArchive,
    bootstrap_hypervolume,
    write_front,
)
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.population import PolicyPopulation

__all__ = ["Publisher"]

SAMPLES_KEPT = 8  # completions a member shows in its record


class Publisher:
    """Writes the front folder: every time the archive changes, and once more with the report split's numbers.

    Args:
        path: The front folder.
        population: Knows how to write an adapter as a stock PEFT folder.
        objectives: Names, roles and directions.
        scale: The frozen frame of the objectives.
        config: The run's settings, kept in the record.
    """

    def __init__(
        self,
        path: Path,
        population: PolicyPopulation,
        objectives: ObjectiveSet,
        scale: RewardScale,
        config: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.population = population
        self.objectives = objectives
        self.scale = scale
        self.config = dict(config)
        self.created = datetime.now(UTC).isoformat(timespec="seconds")

    def hypervolume(self, estimates: Sequence[Estimate]) -> tuple[float, float, float]:
        """Hypervolume of some policies in the frozen frame, with its 95 % bootstrap interval over prompts."""
        if not estimates:
            return 0.0, 0.0, 0.0
        axes = list(self.objectives.axes)
        value, low, high = bootstrap_hypervolume(
            list(estimates),
            axes,
            np.zeros(len(axes)),
            scale_lower=self.scale.lower[axes],
            scale_upper=self.scale.upper[axes],
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
        prompts: Sequence[Any] = (),
        texts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Write the members of an archive.

        Args:
            archive: Its members are the front.
            split: "select" or "report": what the estimates were measured on.
            fallen: Entries that are no members, kept as numbers only.
            fallen_before: Further ones, which fell on the select split and were not measured on this one.
            reference: The untrained model, measured on the same split.
            cost: What the run has spent.
            prompts: n prompts of the split.
            texts: One completion of each prompt, by member.
        """
        members = archive.members()
        adapters = {entry.id: entry.adapter for entry in members}
        base = self.population.base
        record = FrontRecord(
            objectives=self._objective_records(),
            members=[
                MemberRecord(
                    id=entry.id,
                    estimate=entry.estimate,
                    preference=entry.provenance.get("preference"),
                    provenance=dict(entry.provenance),
                    adapter=f"members/{entry.id}",
                    sample=[
                        {"prompt": prompt, "completion": text}
                        for prompt, text in list(zip(prompts, (texts or {}).get(entry.id, ()), strict=False))[
                            :SAMPLES_KEPT
                        ]
                    ],
                )
                for entry in members
            ],
            base={
                "name": base.name,
                "gguf_file": base.gguf_file,
                "dtype": str(base.dtype).removeprefix("torch."),
                "use_chat_template": base.use_chat_template,
            },
            split=split,
            reference=[0.0] * len(self.objectives.axes),
            reference_policy=reference,
            fallen=[
                {
                    "id": entry.id,
                    "values": self.objectives.to_user(entry.estimate.mean).tolist(),
                    "stderr": entry.estimate.stderr.tolist(),
                    "status": str(entry.status),
                    "reason": entry.reason,
                    "split": measured_on,
                    "provenance": dict(entry.provenance),
                }
                for entries, measured_on in ((fallen, split), (fallen_before, "select"))
                for entry in entries
            ],
            cost=dict(cost),
            config=self.config,
            created=self.created,
        )
        write_front(self.path, record, lambda name, folder: self.population.save_adapter(adapters[name], folder))

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
            )
            for index, objective in enumerate(self.objectives)
        ]
