"""Rank and learning rate for the methods that are compared first: `python studies/real/search.py`.

The same settings for all, with a seed that the study does not use; writes search.json, which the study's
page reads. A run that is there is not repeated. `--methods`, `--tasks` and `--seeds` take a part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # for `runs`

import runs  # noqa: E402
from cases import METHODS, SETTING, SMOKE, fitted  # noqa: E402

SEEDS = (100,)
SEARCHED = ("independent, linear", "centred, steady", "all linear: centred, steady")
TRIED = ((24, 2e-3), (24, 1e-3), (8, 2e-3), (24, 7e-4), (24, 4e-3))
"""(ranks in all, learning rate). A family of m objectives shares its ranks out in m + 1 blocks."""


@dataclass(frozen=True)
class Case:
    """One run: `task` and `method` as in the study, `rank` in all, learning `rate`, `seed`."""

    task: str
    method: str
    rank: int
    rate: float
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.task}/{self.method}/{self.rank}/{self.rate:g}/{self.seed}"


def cases(
    seeds: Sequence[int] = SEEDS, methods: Sequence[str] | None = None, tasks: Sequence[str] | None = None
) -> Iterator[Case]:
    """All runs, or those of some methods."""
    for seed in seeds:
        for task in ("adding", "tone"):
            for rank, rate in TRIED:
                for method in SEARCHED:
                    asked = (methods is None or method in methods) and (tasks is None or task in tasks)
                    if asked and not (task == "adding" and method.startswith("all linear")):  # they are, anyway
                        yield Case(task, method, rank, rate, seed)


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run, as the study's."""
    method = METHODS[case.method]
    blocks = 1 if method["family"] == "independent" else 4 if case.task == "adding" else 3
    chosen = {"rank": max(case.rank // blocks, 1), "learning_rate": case.rate}
    return fitted(case.task, case.seed, setting | method | chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing."""
    return runs.carry_out(
        arguments,
        __doc__,
        home=HERE,
        seeds=SEEDS,
        parts={"methods": SEARCHED, "tasks": ("adding", "tone")},
        settings=(SETTING, SMOKE),
        cases=cases,
        measure=measure,
        told=lambda found: f"hypervolume {found['hypervolume'][0]:.3f}, {len(found['values'])} members",
        pages=lambda results: None,
        file="search.json",
    )


if __name__ == "__main__":
    raise SystemExit(main())
