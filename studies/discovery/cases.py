"""What is run: which explorer on which problem under which weighting, and its budget; one run is a `Case`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2, 3, 4)
EXPLORERS = ("grid", "cmorl", "bayesian", "soups", "adaptive", "discover")
TASKS = (
    ("flat", "fixed"),
    ("dent", "fixed"),
    ("flat", "chebyshev"),
    ("arc", "chebyshev"),
    ("noisy", "chebyshev"),
    ("groups", "chebyshev"),
    ("contexts", "chebyshev"),
    ("dent", "chebyshev"),
)
"""Problem and weighting, in the order in which they run."""

SETTING: dict[str, Any] = {
    "population": 4,
    "steps": 150,
    "learning_rate": 2e-3,
    "lr_schedule": "linear",
    "group_size": 32,
    "eval_every": 10,
}
"""The one setting of all explorers; every explorer has its own defaults."""

SMOKE = SETTING | {"population": 2, "steps": 4, "group_size": 4, "eval_every": 1}


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        problem, weighting, explorer: Which.
        seed: Of model, noise and run.
    """

    problem: str
    weighting: str
    explorer: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.problem}/{self.weighting}/{self.explorer}/{self.seed}"


def cases(
    seeds: Sequence[int] = SEEDS, explorers: Sequence[str] | None = None, problems: Sequence[str] | None = None
) -> Iterator[Case]:
    """All runs, or those of some explorers and problems; the explorers of a seed follow each other."""
    for problem, weighting in TASKS:
        if problems is None or problem in problems:
            for seed in seeds:
                yield from (
                    Case(problem, weighting, name, seed) for name in EXPLORERS if explorers is None or name in explorers
                )


def budget(problem: Any, setting: dict[str, Any]) -> int:
    """Tokens of the grid's steps and of one measurement of the population every `eval_every` of them.

    What else is measured, contested policies again and mixtures, is paid with steps.
    """
    count = len(problem.prompts)
    measured = 64 // count * (count if count < 4 else 2 * count)  # completions a policy, as in `judged_fit`
    completions = (
        setting["steps"] * count * setting["group_size"] + setting["steps"] // setting["eval_every"] * measured
    )
    return int(setting["population"] * completions * problem.T)


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """Fit once and write down what came out, exactly.

    Returns:
        `ratio`, hypervolume of the exact values of the published members as a share of the whole front's; `members`,
        how many; `values` [n, m]; `steps`, `tokens` (training and measuring up to the last step) and `moves`, `soups`:
        how often a slot got something else to do, and how many mixtures were measured.
    """
    import torch

    from pareto_align.testing import exact
    from pareto_align.testing.judging import judged_fit
    from pareto_align.testing.problems import get_problem

    torch.set_num_threads(1)  # another number of threads rounds otherwise
    problem = get_problem(case.problem)
    with tempfile.TemporaryDirectory() as folder:
        fit = judged_fit(
            problem,
            Path(folder) / "run",
            seed=case.seed,
            weighting=case.weighting,
            explorer=case.explorer,
            max_tokens=budget(problem, setting),
            **setting,
        )
    whole = exact.hypervolume(exact.convex_front(problem.rewards), problem.reference)
    events = fit.front.history
    spent = next(event for event in events if event["event"] == "end")["cost"]
    return {
        "ratio": round(exact.hypervolume(fit.member_values, problem.reference) / whole, 4),
        "members": len(fit.front),
        "steps": sum(event["event"] == "step" for event in events),
        "train_tokens": spent["train_tokens"],
        "eval_tokens": spent["eval_tokens"],
        "moves": sum(event["event"] == "task" for event in events),
        "soups": sum(len(event["names"]) for event in events if event["event"] == "mixtures"),
        "values": fit.member_values.round(4).tolist(),
    }
