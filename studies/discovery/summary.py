"""From the runs to what is claimed of them: means, and differences to the grid on the same seeds, with intervals."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from cases import EXPLORERS, SEEDS, TASKS, budget
from runs import Spread, spread

BASE = "grid"
RIVALS = tuple(name for name in EXPLORERS if name != BASE)


class Study:
    """The results, asked by task (problem and weighting) and explorer.

    Args:
        results: results.json.

    Attributes:
        tasks: Those that every explorer has run on all seeds, in the order of the plan; the others are left out.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        self.setting: dict[str, Any] = results["setting"]
        self.runs: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
        for key, run in results["runs"].items():
            problem, weighting, explorer, seed = key.split("/")
            self.runs[problem, weighting, explorer][int(seed)] = run
        self.tasks = tuple(
            task for task in TASKS if all(set(SEEDS) <= self.runs.get((*task, name), {}).keys() for name in EXPLORERS)
        )

    def column(self, task: tuple[str, str], explorer: str, what: str = "ratio") -> list[float]:
        """One number of every seed."""
        return [self.runs[*task, explorer][seed][what] for seed in SEEDS]

    def ratio(self, task: tuple[str, str], explorer: str) -> Spread:
        """Hypervolume ratio of the published members."""
        return spread(self.column(task, explorer))

    def gain(self, task: tuple[str, str], explorer: str) -> Spread:
        """Hypervolume ratio less that of the grid on the same seed."""
        pairs = zip(self.column(task, explorer), self.column(task, BASE), strict=True)
        return spread([own - base for own, base in pairs])

    def mean(self, explorer: str, what: str) -> float:
        """Mean of one number over all tasks and seeds."""
        return float(np.mean([self.column(task, explorer, what) for task in self.tasks]))

    def spent(self, explorer: str) -> float:
        """Mean over all runs of the tokens sampled, the report on the members included, as a share of the budget."""
        shares = [
            (train + measured) / budget(task[0], self.setting)
            for task in self.tasks
            for train, measured in zip(
                self.column(task, explorer, "train_tokens"), self.column(task, explorer, "eval_tokens"), strict=True
            )
        ]
        return float(np.mean(shares))

    def tally(self, explorer: str, *, strict: bool = False) -> tuple[int, int]:
        """On how many tasks an explorer is significantly better than the grid, and on how many worse."""
        gains = [self.gain(task, explorer) for task in self.tasks]
        verdicts = [gain.strict if strict else gain.verdict for gain in gains]
        return verdicts.count(1), verdicts.count(-1)

    def problems(self, explorer: str) -> tuple[int, int]:
        """The same by problem: better if it is under some weighting and worse under none, worse if it is under any."""
        found = defaultdict(list)
        for problem, weighting in self.tasks:
            found[problem].append(self.gain((problem, weighting), explorer).verdict)
        worse = sum(min(verdicts) < 0 for verdicts in found.values())
        return sum(max(verdicts) > 0 and min(verdicts) >= 0 for verdicts in found.values()), worse
