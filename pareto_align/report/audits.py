"""A front with further audited columns: what its members score on benchmarks that nothing was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.errors import ConfigError
from pareto_align.evaluation.harness import widened
from pareto_align.front.records import FamilyRecord, ObjectiveRecord

if TYPE_CHECKING:
    from pareto_align.evaluation.harness import TaskScore
    from pareto_align.front.storage import FrontRecord

__all__ = ["with_audits"]


def with_audits(
    record: FrontRecord, members: Sequence[Sequence[TaskScore]], untrained: Sequence[TaskScore] | None
) -> FrontRecord:
    """The record with an audited objective for each score.

    Args:
        record: The front.
        members: What each member scores, the same metrics in the same order.
        untrained: What the untrained model does, or None where it was not asked.

    Raises:
        ConfigError: Members have different metrics, or one is called like an objective.
    """
    names = [score.name for score in members[0]]
    if any([score.name for score in found] != names for found in [*members, *([untrained] if untrained else [])]):
        raise ConfigError("The members were not measured by the same metrics.")
    if taken := sorted({o.name for o in record.objectives} & set(names)):
        raise ConfigError(f"The front has an objective {taken[0]!r} already.")
    objectives = list(record.objectives)
    for j, score in enumerate(members[0]):
        seen = np.concatenate([found[j].values for found in members])
        low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
        low, high = (0.0, 1.0) if 0 <= low <= high <= 1 else (low, high if high > low else low + 1.0)
        objectives.append(
            ObjectiveRecord(
                name=score.name,
                role="audit",
                maximize=score.maximize,
                lower=low if score.maximize else -high,
                upper=high if score.maximize else -low,
                bounds=(0.0, 1.0) if set(np.unique(seen[np.isfinite(seen)])) <= {0.0, 1.0} else None,
                description=f"lm-evaluation-harness, {len(score.values)} questions",
            )
        )
    reference = record.reference_policy
    if reference is not None:
        # one that was not asked has no number, and no more
        nothing = [replace(score, values=np.full(2, np.nan)) for score in members[0]]
        reference = widened(reference, untrained or nothing)
    return replace(
        record,
        objectives=objectives,
        members=[
            replace(member, estimate=widened(member.estimate, scores), sample=_without_rewards(member.sample))
            for member, scores in zip(record.members, members, strict=True)
        ],
        reference_policy=reference,
        reference_sample=_without_rewards(record.reference_sample),
        fallen=[_padded(entry, len(names)) for entry in record.fallen],
        family=None if record.family is None else _with_gaps(record.family, len(names)),
    )


def _with_gaps(family: FamilyRecord, more: int) -> FamilyRecord:
    """A family is not put through the benchmarks: its adapters are made when somebody asks for one."""
    gaps = [math.nan] * more
    return replace(
        family,
        values=[[*row, *gaps] for row in family.values],
        stderr=[[*row, *gaps] for row in family.stderr],
    )


def _without_rewards(sample: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers to the run's prompts have no score on a benchmark, and a row has one number for each objective."""
    return [{key: value for key, value in pair.items() if key != "rewards"} for pair in sample]


def _padded(entry: dict[str, Any], more: int) -> dict[str, Any]:
    """What did not stay was not put through the benchmarks."""
    missing: list[None] = [None] * more
    return {**entry, **{key: [*(entry.get(key) or []), *missing] for key in ("values", "stderr") if entry.get(key)}}
