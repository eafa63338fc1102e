"""What a sweep returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pareto_align.tuning.comparison import Comparison
from pareto_align.tuning.trials import FINISHED, Trial

__all__ = ["TuningResult"]

_SEARCHES = {
    "optuna": "Optuna's Gaussian process",
    "sobol": "a random search over Sobol points (Optuna, extra `hpo`, would learn from the trials)",
}


@dataclass(frozen=True, repr=False)
class TuningResult:
    """The settings that a sweep found, and whether they are better than those it began with.

    `ParetoAligner(model, objectives, ..., **result.best.settings)` is the tuned aligner.

    Attributes:
        best: The finished trial with the largest score. Its score is optimistic, as it was chosen by it.
        default: The trial of the settings that the aligner came with, trial 0.
        trials: All trials.
        comparison: Best against default on the confirm seeds; None where no trial beat the default.
        space: What was searched.
        seeds: Seeds of every trial.
        confirm_seeds: Seeds of the comparison, disjoint from `seeds`.
        engine: "optuna" or "sobol".
        frame: By optimized objective the maximized values that became 0 and 1 in every hypervolume.
        at_end: Which of the best settings lie at an end of their range: a wider one may hold better.
        cost: What all fits spent together: runs, train_tokens, eval_tokens, rollouts, reward_calls.
        folder: Where the sweep is on disk.
    """

    best: Trial
    default: Trial
    trials: tuple[Trial, ...]
    comparison: Comparison | None
    space: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    confirm_seeds: tuple[int, ...]
    engine: str
    frame: dict[str, tuple[float, float]]
    at_end: tuple[str, ...]
    cost: dict[str, int]
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "best": self.best.to_dict(),
            "default": self.default.to_dict(),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "trials": [trial.to_dict() for trial in self.trials],
            "space": self.space,
            "seeds": list(self.seeds),
            "confirm_seeds": list(self.confirm_seeds),
            "engine": self.engine,
            "frame": {name: list(ends) for name, ends in self.frame.items()},
            "at_end": list(self.at_end),
            "cost": self.cost,
            "folder": str(self.folder),
        }

    def summary(self) -> str:
        """The trials as a table, the verdict and the budget, as text."""
        lines = [
            f"Tuned {', '.join(self.space)} by final hypervolume: {len(self.trials)} trials, seeds "
            f"{_list(self.seeds)}, by {_SEARCHES[self.engine]}",
            "",
            *_table(self.trials, list(self.space)),
            "",
        ]
        if self.comparison is None:
            lines.append("No trial beat the settings one began with; keep those.")
        else:
            lines.append(f"Best: trial {self.best.number}, {_settings(self.best.settings)}")
            lines.append(f"On seeds {_list(self.confirm_seeds)}, on which nothing was chosen:")
            lines.append(f"  {self.comparison}")
            lines += [f"  failed: {what}" for what in self.comparison.failed]
            if self.at_end:
                lines.append(f"At an end of the range, beyond which there may be better: {', '.join(self.at_end)}")
            if "temperature" in self.space:
                lines.append(
                    "Each front was measured at the temperature of its trial: it belongs to the adapters, sample at it."
                )
        lines.append(
            f"Budget: {self.cost['runs']} fits, {self.cost['train_tokens']:,} tokens to train on, "
            f"{self.cost['eval_tokens']:,} to measure on, {self.cost['reward_calls']:,} reward calls"
        )
        lines.append(f"Trials: {self.folder}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def _table(trials: tuple[Trial, ...], names: list[str]) -> list[str]:
    rows = [["trial", *names, "hypervolume", "fits", "status"]]
    for trial in trials:
        score = "-" if trial.score is None else f"{trial.score:.4f}"
        status = trial.status if trial.reason is None else f"{trial.status}: {trial.reason}"
        if trial.number == 0:
            status = "default" if trial.status == FINISHED else f"default, {status}"
        rows.append([str(trial.number), *map(_number, trial.settings.values()), score, str(len(trial.runs)), status])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return ["  ".join([*(cell.rjust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_number(value)}" for name, value in settings.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _list(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))
