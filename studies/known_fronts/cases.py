"""What is run: which method on which problem, in which setting; one run is a `Case`."""

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
    "steps": 200,
    "learning_rate": 2e-3,
    "lr_schedule": "linear",
    "group_size": 32,
    "eval_every": 25,
    "explorer": "grid",
}
"""The one setting of all methods; every weighting has its own defaults."""

SMOKE = SETTING | {"population": 3, "steps": 2, "group_size": 4, "eval_every": 1, "eval_group_size": 4}


def traders() -> tuple[str, ...]:
    """Every weighting of the package that trades; `schedule` is any of them, and the others need a constraint."""
    from pareto_align.weighting import available, make

    found = {name: make(name) for name in available() if name != "schedule"}
    return tuple(
        name
        for name, weighting in found.items()
        if type(weighting).__module__.startswith("pareto_align.") and not weighting.requires & {"slack", "audits"}
    )


METHODS = traders()

CORE = ("arc", "flat", "dent", "scales")
WIDER = ("groups", "noisy", "contexts", "strings", "many", "tilt", "bow")
FEW = ("fixed", "chebyshev", "stch", "augmented-tchebycheff", "saw", "hypervolume")
"""The methods that run on the wider problems too; chosen before anything was run."""

LATER = ("steady-chebyshev",)
"""Made after the others' runs were seen; on the wider problems too, but not among the six."""

SHARED = {"average": "fixed", "maxmin-shares": "maxmin"}
"""On `groups`, all policies with the groups' shares as their preference."""

CONSTRAINED = {"sum": "fixed", "lagrangian-equality": "lagrangian-equality", "lagrangian-all": "lagrangian-all"}
"""On `hacked`, with the sum of the proxies to optimise and the proxies as constraints at their points."""

TOLERANCE = 0.03
"""How far from a proxy point a published policy of `hacked` may be measured."""

PLAN = (
    *((problem, method) for problem in CORE for method in METHODS),
    *(("hacked", method) for method in CONSTRAINED),
    *(("groups", method) for method in SHARED),
    *((problem, method) for problem in WIDER for method in (*FEW, *LATER)),
)


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        problem, method: Which.
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
    """All runs of the plan, or those of some methods and problems."""
    for problem, method in PLAN:
        if (methods is None or method in methods) and (problems is None or problem in problems):
            yield from (Case(problem, method, seed) for seed in seeds)


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """Fit once and write down what came out, exactly.

    Returns:
        `values` [K, m], exact rewards of the policies as training left them; `ratio`, their hypervolume as a share of
        what K points can have; `front_ratio`, the same for the exact values of the published members (still over K
        points); `missed`, mean missed share for the preferences; `members`, how many were published. On `noisy` also
        `published`, each member's [m] truth, and means and standard errors on the select and report splits. On
        `hacked` also `gold` [K].
    """
    import torch

    from pareto_align.testing import exact
    from pareto_align.testing.judging import judged_fit

    torch.set_num_threads(1)  # another number of threads rounds otherwise
    problem = problem_of(case.problem)
    options: dict[str, Any] = {"weighting": case.method}
    if case.problem == "hacked" and case.method in CONSTRAINED:
        options = {"weighting": CONSTRAINED[case.method], "objectives": constrained_objectives(problem)}
    if case.problem == "groups" and case.method in SHARED:
        options = {"weighting": SHARED[case.method], "explorer": shared_grid(problem, setting["population"])}
    with tempfile.TemporaryDirectory() as folder:
        fit = judged_fit(problem, Path(folder) / "run", seed=case.seed, **(setting | options))
    verdict = fit.verdict(weights_of(problem, fit.preferences))
    most = exact.attainable_hypervolume(exact.convex_front(problem.rewards), problem.reference, setting["population"])
    found: dict[str, Any] = {
        "ratio": round(verdict.hypervolume_ratio, 4),
        "front_ratio": round(exact.hypervolume(fit.member_values, problem.reference) / most, 4),
        "missed": round(float(verdict.missed_share.mean()), 4),
        "members": len(fit.front),
        "values": fit.values.round(4).tolist(),
    }
    if problem.noise:
        found["published"] = published(fit)
    if problem.audits:
        gold = next(iter(problem.audits.values()))
        found["gold"] = [round(float((table * gold).sum(1).mean()), 4) for table in fit.policies]
    return found


def problem_of(name: str) -> Any:
    """The problem as it is, but for more than two objectives with a reference point a tenth of each range further down.

    Above the least of every reward, a policy that gives up one of five would be worth nothing.
    """
    from pareto_align.testing.problems import get_problem

    problem = get_problem(name)
    if problem.m == 2:
        return problem
    return get_problem(name, reference=problem.reference - 0.1 * np.ptp(problem.rewards, axis=(0, 1)))


def weights_of(problem: Any, preferences: np.ndarray) -> np.ndarray:
    """What a preference [K, m] means in the problem's raw rewards: a weight on each reward's range.

    A fit that optimises something else than the problem's rewards is judged by equal weights.
    """
    ranges = np.ptp(problem.rewards, axis=(0, 1))
    widths = np.array([r if b is None else b[1] - b[0] for r, b in zip(ranges, problem.bounds, strict=True)])
    if preferences.shape[1] != problem.m:
        preferences = np.full((len(preferences), problem.m), 1 / problem.m)
    return preferences / widths


def published(fit: Any) -> list[dict[str, list[float]]]:
    """For each member the truth, and what was measured: when it was chosen, and for the report."""
    events = [event for event in fit.front.history if event["event"] == "evaluation"]
    size = len(fit.preferences)
    rows = []
    for member, truth in zip(fit.front, fit.member_values, strict=True):
        place, slot = divmod(int(member.id[1:]), size)  # ids count the policies measured, K at a time
        estimate = fit.front.record.members[[m.id for m in fit.front].index(member.id)].estimate
        row = {
            "truth": truth,
            "select": events[place]["values"][slot],
            "select_stderr": events[place]["stderr"][slot],
            "report": estimate.mean,
            "report_stderr": estimate.stderr,
        }
        rows.append({name: np.round(numbers, 4).tolist() for name, numbers in row.items()})
    return rows


def constrained_objectives(problem: Any) -> list[Any]:
    """The sum of the proxies to optimise, each proxy a constraint at its point, the gold score audited."""
    from pareto_align import Objective
    from pareto_align.testing.problems import TableReward

    total = TableReward("sum", problem.prompts, problem.rewards.mean(-1), problem.V, problem.T)
    own = problem.objectives()
    proxies = [
        Objective(o.name, o.reward, bounds=o.bounds, role="constrain", at_least=target, tolerance=TOLERANCE)
        for o, target in zip(own, problem.targets, strict=False)
    ]
    return [Objective("sum", total, bounds=(0.0, 1.0)), *proxies, *own[problem.m :]]


def shared_grid(problem: Any, population: int) -> Any:
    """Every policy with the groups' shares as its preference."""
    from pareto_align import Grid

    return Grid([problem.group_shares] * population)
