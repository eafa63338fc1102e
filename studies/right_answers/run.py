"""Right answers first, or a sum: which policies are right as often in fewer tokens?

python studies/right_answers/run.py            # some 20 minutes on one core; adds to results.json
python studies/right_answers/run.py --page     # train nothing, write README.md and the figure from the results
python studies/right_answers/run.py --smoke    # a few steps, to try it; writes nothing

A run that is in results.json is not repeated, so it can be stopped at any time.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "arithmetic")]  # for `runs`, and the task

from runs import carry_out  # noqa: E402

SEEDS = (0, 1, 2, 3, 4)
SETTING: dict[str, Any] = {
    "steps": 40,
    "prompts_per_step": 8,
    "group_size": 8,
    "learning_rate": 2e-3,
    "lr_schedule": "linear",
    "eval_every": 40,
    "eval_prompts": 64,
    "remeasure_rounds": 0,
    "judged_on": 500,
}
"""Of all methods: that of the study of arithmetic, measured once."""
SMOKE = SETTING | {"steps": 2, "group_size": 2, "eval_every": 2, "eval_prompts": 4, "judged_on": 8}

SOFTNESS = (0.05, 0.1, 0.3, 1.0)
"""`lam` of DRPO; one run trains them all, since a weight w of conciseness under lam is one of 1 under lam / w."""
SHORTNESS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
"""Weight of conciseness in a sum with accuracy."""

SUMMED = tuple((1 - w, w) for w in SHORTNESS)
FOUR = tuple((1 - w, w) for w in SOFTNESS)
DECOUPLED = tuple((1 - SOFTNESS[0] / lam, SOFTNESS[0] / lam) for lam in SOFTNESS)
DRPO = {"name": "drpo", "primary": "accuracy", "lam": SOFTNESS[0]}
METHODS: dict[str, tuple[dict[str, Any], tuple[tuple[float, float], ...]]] = {
    "centred": ({"learner": "centred"}, SUMMED),
    "drpo": ({"learner": DRPO, "aggregation": "sequence"}, DECOUPLED),
    "drpo, ranked": ({"learner": DRPO | {"alone": "rank"}, "aggregation": "sequence"}, DECOUPLED),
    "drpo, by token": ({"learner": DRPO}, DECOUPLED),
    "drpo, by token, ranked": ({"learner": DRPO | {"alone": "rank"}}, DECOUPLED),
    "drpo, 16 a prompt": (
        {"learner": DRPO, "aggregation": "sequence", "prompts_per_step": 4, "group_size": 16},
        DECOUPLED,
    ),
    "centred, four": ({"learner": "centred"}, FOUR),
}
"""What differs from SETTING, and the preferences over (accuracy, conciseness), of each."""
NEAR = 0.01
"""So much less accuracy counts as equal."""


@dataclass(frozen=True)
class Case:
    """One run: a method and a seed."""

    method: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.method}/{self.seed}"


def cases(seeds: Sequence[int] = SEEDS, methods: Sequence[str] | None = None) -> Iterator[Case]:
    """All runs, or those of some seeds and methods."""
    for seed in seeds:
        yield from (Case(method, seed) for method in METHODS if methods is None or method in methods)


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """Fit once, and judge the policies on problems that no fit has seen, one answer each.

    Returns:
        By policy: `accuracy`, its standard error `stderr`, and mean `tokens`; and the `rollouts` of each.
    """
    import torch
    from task import adding, judge

    from pareto_align import Grid, ParetoAligner
    from pareto_align.errors import ParetoAlignWarning

    torch.set_num_threads(1)  # another number of threads rounds otherwise
    task = adding(judged_on=setting["judged_on"])
    method, preferences = METHODS[case.method]
    options = {name: value for name, value in setting.items() if name != "judged_on"} | method
    if setting is SMOKE:
        options |= {name: SMOKE[name] for name in ("prompts_per_step", "group_size")}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)  # archive and report are beside the point here
        aligner = ParetoAligner(
            task.model, [o for o in task.objectives if o.name != "clarity"], tokenizer=task.tokenizer,
            weighting="fixed", family="independent", explorer=Grid(preferences), population=len(preferences),
            seed=case.seed, output_dir=Path(folder) / "run", progress=False, **task.settings, **options,
        )  # fmt: skip
        front = aligner.fit(task.prompts, eval_prompts=task.select)
    judged = judge(task, aligner.policies_, samples=1)
    return {
        "accuracy": judged.values[:, 0].round(4).tolist(),
        "stderr": judged.stderr[:, 0].round(4).tolist(),
        "tokens": judged.tokens.round(2).tolist(),
        "rollouts": front.record.cost["rollouts"] // len(preferences),
    }


def beaten(one: dict[str, Any], other: dict[str, Any]) -> list[bool]:
    """Of each policy of `one`, whether a policy of `other` is as accurate, less NEAR, in no more tokens."""
    right, length = np.array(other["accuracy"]), np.array(other["tokens"])
    pairs = zip(one["accuracy"], one["tokens"], strict=True)
    return [bool(((right >= accuracy - NEAR) & (length <= tokens)).any()) for accuracy, tokens in pairs]


def of(results: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """The runs of a method that are in."""
    return [results["runs"][case.key] for case in cases(methods=[method]) if case.key in results["runs"]]


RIVALS = ("drpo", "drpo, by token", "drpo, by token, ranked", "centred", "centred, four")
"""What the methods of the other kind are held against."""


def summed(method: str) -> bool:
    """Whether a method trains for weighted sums."""
    return method.startswith("centred")


def table(results: dict[str, Any]) -> str:
    """Accuracy and tokens of every policy, mean over the seeds, and in how many seeds which rivals beat it."""
    lines = [
        "| method | policy | right, % | tokens | beaten by " + " | by ".join(f"`{rival}`" for rival in RIVALS) + " |",
        "|" + "---|" * (4 + len(RIVALS)),
    ]
    for method, (_, preferences) in METHODS.items():
        known = of(results, method)
        for place in range(len(preferences) if known else 0):
            name = f"weight {preferences[place][1]:g}" if summed(method) else f"lam {SOFTNESS[place]:g}"
            right = 100 * np.mean([run["accuracy"][place] for run in known])
            tokens = np.mean([run["tokens"][place] for run in known])
            told = []
            for rival in RIVALS:
                lost = [beaten(run, other)[place] for run, other in zip(known, of(results, rival), strict=False)]
                told.append("" if summed(rival) == summed(method) else f"{sum(lost)} of {len(lost)}")
            lines.append(f"| {method} | {name} | {right:.1f} | {tokens:.1f} | {' | '.join(told)} |")
    return "\n".join(lines)


def draw(results: dict[str, Any]) -> Any:
    """Accuracy against tokens, one mark a policy and seed, a line through the means."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for method, color, mark in zip(
        METHODS,
        ("tab:gray", "tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:red", "black"),
        "os^vPDX",
        strict=True,
    ):
        if known := of(results, method):
            tokens, right = (np.array([run[name] for run in known]) for name in ("tokens", "accuracy"))
            axes.scatter(tokens, 100 * right, s=14, color=color, marker=mark, alpha=0.35, linewidths=0)
            axes.plot(tokens.mean(0), 100 * right.mean(0), color=color, marker=mark, label=method)
    axes.set_xlim(9, 21.5)
    axes.set_ylim(70, 96)  # far below are the sums that weigh conciseness most
    axes.set_xlabel("tokens of an answer (fewer is better)")
    axes.set_ylabel("right, %")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    return figure


def write_pages(results: dict[str, Any]) -> None:
    """README.md from report.md and the results, and the figure."""
    text = (HERE / "report.md").read_text(encoding="utf-8").replace("{table}", table(results))
    (HERE / "README.md").write_text(text, encoding="utf-8")
    draw(results).savefig(HERE / "fronts.png", dpi=150)


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
        told=lambda found: f"right {found['accuracy']}, tokens {found['tokens']}",
        pages=write_pages,
    )


if __name__ == "__main__":
    raise SystemExit(main())
