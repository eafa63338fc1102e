"""An audited score steers the weights of its proxies: how much of what the best fixed weights reach?

python studies/bilevel/run.py            # half an hour on one core; adds to results.json
python studies/bilevel/run.py --page     # train nothing, write README.md from the results
python studies/bilevel/run.py --smoke    # a few steps, to try it; writes nothing

A run that is in results.json is not repeated, so it can be stopped at any time.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from runs import carry_out, rounded  # noqa: E402

SEEDS = tuple(range(10))
SETTING: dict[str, Any] = {
    "steps": 200,
    "learning_rate": 5e-3,
    "group_size": 64,
    "kl_coef": 0.1,
    "eval_every": 200,
    "grid": 20,
}
"""Of all runs; `grid` are the steps of each weight among which the best fixed weights are looked for."""
SMOKE = SETTING | {"steps": 2, "group_size": 8, "eval_every": 2, "grid": 4}

METHODS: dict[str, dict[str, Any]] = {
    "even": {"name": "fixed"},
    "ctwa": {"name": "ctwa"},
    "covariance": {"name": "bilevel"},
    "gramian": {"name": "bilevel", "estimate": "gramian"},
    "paired": {"name": "bilevel", "estimate": "paired"},
    "box": {"name": "bilevel", "simplex": False},
}
"""What is compared; `paired` trains two policies, and is judged by the one that never saw the audit."""
PROBLEMS: dict[str, tuple[str, ...]] = {
    "misleading": ("even", "ctwa", "covariance", "gramian", "paired", "box"),
    "hacked": ("even", "ctwa", "box"),
}


@dataclass(frozen=True)
class Case:
    """One run: which problem (of which every seed draws another `misleading`), which method, which seed."""

    problem: str
    method: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.problem}/{self.method}/{self.seed}"


def cases(seeds: Sequence[int] = SEEDS, methods: Sequence[str] | None = None) -> Iterator[Case]:
    """All runs, or those of some seeds and methods."""
    for problem, compared in PROBLEMS.items():
        for method in compared:
            if methods is None or method in methods:
                yield from (Case(problem, method, seed) for seed in seeds)


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """Fit once; `wanted`, the audited score of the policy exactly, and the same of the policies to compare with.

    Returns:
        `wanted`; `reference`, of the untrained model; `best`, of the exact policy of the best fixed weights, from a
        grid on the simplex, in the box from one over it; `single`, of that of the best proxy alone; `weights` [m] at
        the end.
    """
    import torch

    from pareto_align import Grid
    from pareto_align.testing.judging import judged_fit
    from pareto_align.testing.problems import get_problem

    torch.set_num_threads(1)  # another number of threads rounds otherwise
    problem = get_problem(case.problem, **({"seed": case.seed} if case.problem == "misleading" else {}))
    (gold,) = problem.audits.values()
    policies = 2 if case.method == "paired" else 1
    options = {name: value for name, value in setting.items() if name != "grid"}
    with tempfile.TemporaryDirectory() as folder:
        fit = judged_fit(
            problem, Path(folder) / "run", seed=case.seed, weighting=METHODS[case.method], population=policies,
            explorer=Grid([[1 / problem.m] * problem.m] * policies), **options,
        )  # fmt: skip
        steps = [event for event in fit.front.history if event["event"] == "step"]

    def score(table: np.ndarray) -> float:
        return float((table * gold).sum(1).mean())

    best = best_fixed(problem, fit.reference, gold, setting, box=case.problem == "hacked" or case.method == "box")
    return rounded({
        "wanted": score(fit.policies[0]), "reference": score(fit.reference), "best": best,
        "single": best_fixed(problem, fit.reference, gold, setting | {"grid": 1}, box=False),
        "weights": [float(weight) for weight in steps[-1]["weights"][0]],
    })  # fmt: skip


def best_fixed(problem: Any, reference: np.ndarray, gold: np.ndarray, setting: dict[str, Any], *, box: bool) -> float:
    """The score of the exact policy of the best weights on a grid."""
    from pareto_align.testing import exact

    grid = setting["grid"]
    rows = itertools.product(range(grid + 1), repeat=problem.m)
    weights = [np.array(row) / grid for row in rows if box or sum(row) == grid]
    tables = (exact.optimal_policy(reference, problem.rewards, w, setting["kl_coef"]) for w in weights)
    return max(float((table * gold).sum(1).mean()) for table in tables)


def share(run: dict[str, Any]) -> float:
    """What of the best fixed weights' gain over the untrained model was reached; NaN where none can be had."""
    gain = run["best"] - run["reference"]
    return float((run["wanted"] - run["reference"]) / gain) if gain > 0 else float("nan")


def table(results: dict[str, Any]) -> str:
    """Shares of the gain on `misleading`, and the score on `hacked`, over the seeds."""
    runs = results["runs"]

    def over(values: list[float]) -> str:
        return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "—"

    def of(problem: str, method: str) -> list[dict[str, Any]]:
        return [runs[case.key] for case in cases(methods=[method]) if case.problem == problem and case.key in runs]

    lines = ["| weights | `misleading`: share of the gain | `hacked`: audited score |", "|---|---|---|"]
    known = of("misleading", "even")
    single = [(run["single"] - run["reference"]) / (run["best"] - run["reference"]) for run in known]
    untrained = [run["reference"] for run in of("hacked", "even")]
    lines += [
        f"| the untrained model | 0 | {over(untrained)} |",
        f"| the best proxy alone, in hindsight | {over(single)} | — |",
    ]
    for method in METHODS:
        lines.append(
            f"| {NAMES[method]} | {over([share(run) for run in of('misleading', method)])} "
            f"| {over([run['wanted'] for run in of('hacked', method)])} |"
        )
    return "\n".join(lines)


NAMES = {
    "even": "even, `fixed`",
    "ctwa": "`ctwa`",
    "covariance": "**`bilevel`**",
    "gramian": '`estimate="gramian"`',
    "paired": '`estimate="paired"`, two policies',
    "box": "**`simplex=False`**",
}


def draw(results: dict[str, Any]) -> Any:
    """The share of the best fixed weights' gain on `misleading`, a mark a seed, and the mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    panel = figure.subplots()
    runs = results["runs"]
    for place, method in enumerate(METHODS):
        known = [case.key for case in cases(methods=[method]) if case.problem == "misleading"]
        shares = [share(runs[key]) for key in known if key in runs]
        color = "tab:gray" if method in ("even", "ctwa") else "tab:blue"
        panel.plot(shares, [place] * len(shares), "o", color=color, alpha=0.35, markeredgewidth=0)
        panel.plot(np.mean(shares), place, "|", color=color, markersize=18, markeredgewidth=2)
    panel.set_yticks(range(len(METHODS)), [NAMES[method].replace("*", "").replace("`", "") for method in METHODS])
    panel.invert_yaxis()
    panel.set_xlabel("share of the best fixed weights' gain in the audited score")
    panel.grid(axis="x", alpha=0.3)
    return figure


def write_pages(results: dict[str, Any]) -> None:
    """README.md from report.md and the results, and the figure."""
    draw(results).savefig(HERE / "shares.png", dpi=130)
    text = (HERE / "report.md").read_text(encoding="utf-8").replace("{table}", table(results))
    (HERE / "README.md").write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    return carry_out(
        arguments,
        __doc__,
        home=HERE,
        seeds=SEEDS,
        parts={"methods": tuple(METHODS)},
        settings=(SETTING, SMOKE),
        cases=cases,
        measure=measure,
        told=lambda found: f"share {share(found):.3f}, score {found['wanted']:.4f}",
        pages=write_pages,
    )


if __name__ == "__main__":
    raise SystemExit(main())
