"""What a sweep knows of its trials, as plain records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

__all__ = ["COUNTED", "FAILED", "FINISHED", "PRUNED", "RUNNING", "Run", "Trial", "spent"]

RUNNING, FINISHED, PRUNED, FAILED = "running", "finished", "pruned", "failed"

COUNTED = ("train_tokens", "eval_tokens", "rollouts", "reward_calls")
"""The parts of a run's cost that are added up."""


@dataclass(frozen=True)
class Run:
    """One fit with some settings and one seed.

    Attributes:
        seed: Of the fit.
        hypervolume: Of the published front in the sweep's frame; None where the fit failed.
        members: How many adapters were published.
        cost: What it spent; of a fit that failed, up to its last measurement.
        error: Why it failed.
    """

    seed: int
    hypervolume: float | None
    members: int = 0
    cost: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


@dataclass
class Trial:
    """Some settings and their fits.

    Attributes:
        number: 0 has the settings one began with.
        settings: The values of the tuned settings.
        status: "running", "finished", "pruned" (stopped early, as it fell behind) or "failed".
        runs: One a seed, in the order of the seeds.
        reason: Why it was pruned or failed.
    """

    number: int
    settings: dict[str, Any]
    status: str = RUNNING
    runs: list[Run] = field(default_factory=list)
    reason: str | None = None

    @property
    def score(self) -> float | None:
        """Mean hypervolume of the fits that were made; None where one failed or there is none yet."""
        return self.means()[-1] if self.runs and self.status != FAILED else None

    def means(self) -> list[float]:
        """Mean hypervolume after the first fit, after the second, and so on, up to one that failed."""
        found: list[float] = []
        for run in self.runs:
            if run.hypervolume is None:
                break
            found.append(run.hypervolume)
        return [float(np.mean(found[: n + 1])) for n in range(len(found))]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"score": self.score}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trial:
        """The trial that `to_dict` took down."""
        runs = [Run(**run) for run in data["runs"]]
        return cls(int(data["number"]), dict(data["settings"]), str(data["status"]), runs, data["reason"])


def spent(runs: Sequence[Run]) -> dict[str, int]:
    """What some fits cost together, and how many they were."""
    return {"runs": len(runs)} | {name: sum(int(run.cost.get(name, 0)) for run in runs) for name in COUNTED}
