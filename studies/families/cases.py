"""What is run: which method on which problem; one run is a `Case`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = (0, 1, 2, 3, 4)

SETTING: dict[str, Any] = {
    "population": 8,
    "learning_rate": 2e-3,
    "group_size": 32,
    "steps": 200,
    "contexts_steps": 100,
    "rank": 8,
    "unseen": 20,
    "kl_coef": 0.05,
}
"""The one setting of all runs. `kl_coef` is that of `contexts`, `many` and `strings`; the others have none."""

SMOKE = SETTING | {"population": 4, "group_size": 4, "steps": 2, "contexts_steps": 2, "rank": 2, "unseen": 3}

CENTRED = {"name": "gates", "features": "centred"}
METHODS: dict[str, dict[str, Any]] = {
    "independent, linear": {"weighting": "fixed"},
    "independent, linear, rank 24": {"weighting": "fixed", "rank": 3},
    "independent, chebyshev": {"weighting": "chebyshev"},
    "blocks, linear": {"family": "blocks", "weighting": "fixed"},
    "centred, linear": {"family": CENTRED, "weighting": "fixed"},
    "quadratic, linear": {"family": {"name": "gates", "features": "quadratic"}, "weighting": "fixed"},
    "panacea, linear": {"family": "panacea", "weighting": "fixed"},
    "pblora, linear": {"family": "pblora", "weighting": "fixed"},
    "blocks, chebyshev": {"family": "blocks", "weighting": "chebyshev", "corners": 1.0},
    "centred, chebyshev": {"family": CENTRED, "weighting": "chebyshev", "corners": 1.0},
    "the default": {"family": CENTRED, "weighting": "steady-chebyshev", "corners": 1.0, "learner": "grpo"},
}
"""Each with its family and weighting; `rank` multiplies the rank, `corners` is the explorer's.

Credit is `centred` but for the default's, which divides by the spread of a group and so charges another price of KL: it
is not tried on the problems that have one.
"""

SEVERAL = ("contexts-2", "contexts-3", "many")
PRICED = (*SEVERAL, "strings")
PROBLEMS = ("flat", "tilt", "bow", "arc", "contexts-2", "contexts-3", "many", "strings")


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        problem: Its name; after a hyphen the number of objectives, where it can be chosen.
        method: Of METHODS.
        seed: Of model, noise and run.
    """

    problem: str
    method: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.problem}/{self.method}/{self.seed}"


def cases(
    seeds: Sequence[int] = SEEDS, methods: Sequence[str] | None = None, problems: Sequence[str] | None = None
) -> Iterator[Case]:
    """All runs, or those of some methods and problems; seed by seed, so that a part is a whole study of fewer seeds."""
    for seed in seeds:
        for problem in PROBLEMS:
            for method in METHODS:
                comparable = problem not in PRICED or "learner" not in METHODS[method]
                wanted = (methods is None or method in methods) and (problems is None or problem in problems)
                if wanted and comparable:
                    yield Case(problem, method, seed)


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run, see `fitted`."""
    return fitted(case.problem, case.seed, setting, METHODS[case.method])


def fitted(problem_name: str, seed: int, setting: dict[str, Any], method: dict[str, Any]) -> dict[str, Any]:
    """Fit once and write down what came out, exactly.

    Args:
        problem_name: Of PROBLEMS.
        seed: Of model, noise and run.
        setting: As SETTING.
        method: As one of METHODS.

    Returns:
        `ratio`, the hypervolume of the K policies as training left them as a share of what K points can have;
        `front_ratio`, the same for the published members; `own` and `unseen`, mean missed share at the preferences of
        the grid and at preferences that nobody was trained for (a family's own policy; of independent policies the
        nearest); `worst`, the largest of the latter; `members`; `tokens` sampled in training.
    """
    import torch
    from peft import LoraConfig

    from pareto_align.testing import exact
    from pareto_align.testing.judging import judged_fit

    torch.set_num_threads(1)  # another number of threads rounds otherwise
    method = dict(method)
    rank = round(setting["rank"] * method.pop("rank", 1))
    corners = method.pop("corners", None)
    if corners is not None:
        method["explorer"] = {"name": "everywhere", "corners": corners}
    problem = problem_of(problem_name)
    steps = setting["contexts_steps"] if problem_name in PRICED else setting["steps"]
    with tempfile.TemporaryDirectory() as folder:
        fit = judged_fit(
            problem,
            Path(folder) / "run",
            seed=seed,
            population=setting["population"],
            learning_rate=setting["learning_rate"],
            group_size=setting["group_size"],
            steps=steps,
            eval_every=max(steps // 4, 1),
            kl_coef=setting["kl_coef"] if problem_name in PRICED else 0.0,
            unseen=unseen(problem.m, setting["unseen"]),
            lora=LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
            **method,
        )
        found, served = fit.verdict(), fit.unseen_verdict()
        most = exact.attainable_hypervolume(
            exact.convex_front(problem.rewards), problem.reference, setting["population"]
        )
        return {
            "ratio": round(found.hypervolume_ratio, 4),
            "front_ratio": round(exact.hypervolume(fit.member_values, problem.reference) / most, 4),
            "own": round(float(found.missed_share.mean()), 4),
            "unseen": round(float(served.missed_share.mean()), 4),
            "worst": round(float(served.missed_share.max()), 4),
            "members": len(fit.front),
            "tokens": fit.front.record.cost["train_tokens"],
        }


def problem_of(name: str) -> Any:
    """The problem as it is, but for more than two objectives with a reference point a tenth of each range further down.

    Above the least of every reward, a policy that gives up one of three would be worth nothing.
    """
    from pareto_align.testing.problems import get_problem

    kind, _, m = name.partition("-")
    chosen = {"m": int(m)} if m else {}
    problem = get_problem(kind, **chosen)
    if problem.m == 2:
        return problem
    return get_problem(kind, reference=problem.reference - 0.1 * np.ptp(problem.rewards, axis=(0, 1)), **chosen)


def unseen(m: int, count: int) -> np.ndarray:
    """Preferences [count, m] off every grid of eight: evenly spread for two objectives, else drawn."""
    if m == 2:
        first = (np.arange(count) + 0.5) / count
        return np.stack([first, 1 - first], axis=1)
    return np.random.default_rng(5).dirichlet(np.ones(m), count)
