"""What is run: which explorer on which problem under which weighting, and its budget; one run is a `Case`."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ADDING = Path(__file__).resolve().parents[1] / "arithmetic"
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
    ("arithmetic", "chebyshev"),
)
"""Problem and weighting, in the order in which they run; `arithmetic` is the task of studies/arithmetic."""

SETTING: dict[str, Any] = {
    "population": 4,
    "steps": 150,
    "learning_rate": 2e-3,
    "lr_schedule": "linear",
    "group_size": 32,
    "eval_every": 10,
    "arithmetic": {
        "max_tokens": 200_000,
        "steps": 200,
        "prompts_per_step": 8,
        "group_size": 8,
        "learning_rate": 3e-3,
        "eval_every": 4,
        "eval_prompts": 64,
        "judged_on": 500,
    },
}
"""The one setting of all explorers; every explorer has its own defaults. On `arithmetic` the tokens end the run."""

SMOKE = SETTING | {
    "population": 2,
    "steps": 4,
    "group_size": 4,
    "eval_every": 1,
    "arithmetic": {
        "max_tokens": 2_000, "steps": 3, "prompts_per_step": 2, "group_size": 2, "learning_rate": 3e-3, "eval_every": 1,
        "eval_prompts": 4, "judged_on": 8,
    },
}  # fmt: skip


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


def budget(name: str, setting: dict[str, Any]) -> int:
    """Tokens of the grid's steps and of one measurement of the population every `eval_every` of them.

    What else is measured, contested policies again and mixtures, is paid with steps. On `arithmetic` it is given.
    """
    from pareto_align.testing.problems import get_problem

    if name == "arithmetic":
        return int(setting["arithmetic"]["max_tokens"])
    problem = get_problem(name)
    count, measured = len(problem.prompts), 64  # completions a policy and measurement, as in `judged_fit`
    completions = (
        setting["steps"] * count * setting["group_size"] + setting["steps"] // setting["eval_every"] * measured
    )
    return int(setting["population"] * completions * problem.T)


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """Fit once and write down what came out.

    Returns:
        `ratio`, hypervolume of the published members' values as a share of the whole front's (on `arithmetic`, whose
        front nobody knows, of the cube between 0 and 1); `members`, how many; `values` [n, m], exact or, on
        `arithmetic`, measured on problems that no fit has seen; `steps`, `train_tokens` and `eval_tokens`, and `moves`,
        `soups`: how often a slot got something else to do, and how many mixtures were measured.
    """
    import torch

    torch.set_num_threads(1)  # another number of threads rounds otherwise
    values, whole, reference, front = (_adding if case.problem == "arithmetic" else _known)(case, setting)
    events = front.history
    spent = next(event for event in events if event["event"] == "end")["cost"]
    from pareto_align.testing import exact

    return {
        "ratio": round(exact.hypervolume(values, reference) / whole, 4),
        "members": len(front),
        "steps": sum(event["event"] == "step" for event in events),
        "train_tokens": spent["train_tokens"],
        "eval_tokens": spent["eval_tokens"],
        "moves": sum(event["event"] == "task" for event in events),
        "soups": sum(len(event["names"]) for event in events if event["event"] == "mixtures"),
        "values": np.round(values, 4).tolist(),
    }


def _known(case: Case, setting: dict[str, Any]) -> tuple[np.ndarray, float, np.ndarray, Any]:
    """Exact values [n, m] of the members, the hypervolume of the whole front, its reference point, and the front."""
    from pareto_align.testing import exact
    from pareto_align.testing.judging import judged_fit
    from pareto_align.testing.problems import get_problem

    problem = get_problem(case.problem)
    own = {name: value for name, value in setting.items() if name != "arithmetic"}
    with tempfile.TemporaryDirectory() as folder:
        fit = judged_fit(
            problem,
            Path(folder) / "run",
            seed=case.seed,
            weighting=case.weighting,
            explorer=case.explorer,
            max_tokens=budget(case.problem, setting),
            **own,
        )
    whole = exact.hypervolume(exact.convex_front(problem.rewards), problem.reference)
    return fit.member_values, whole, problem.reference, fit.front


def _adding(case: Case, setting: dict[str, Any]) -> tuple[np.ndarray, float, np.ndarray, Any]:
    """The same for the arithmetic model, as far as it can be known."""
    if str(ADDING) not in sys.path:
        sys.path.insert(1, str(ADDING))
    from task import adding, judge

    from pareto_align import ParetoAligner
    from pareto_align.errors import ParetoAlignWarning

    own = dict(setting["arithmetic"])
    task = adding(judged_on=own.pop("judged_on"))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        aligner = ParetoAligner(
            task.model,
            task.objectives,
            tokenizer=task.tokenizer,
            weighting=case.weighting,
            explorer=case.explorer,
            population=setting["population"],
            seed=case.seed,
            output_dir=Path(folder) / "run",
            progress=False,
            **task.settings,
            **own,
        )
        front = aligner.fit(task.prompts, eval_prompts=task.select)
        values = judge(task, [member.adapter_path for member in front]).values
    return values, 1.0, np.zeros(len(task.objectives)), front
