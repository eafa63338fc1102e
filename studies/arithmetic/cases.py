"""What is run: which method with which preferences, and the one setting; one run is a `Case`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2, 3, 4)

PRESETS = {
    "accuracy-focused": (0.5, 0.25, 0.25),
    "balanced": (0.334, 0.333, 0.333),
    "efficiency-focused": (0.25, 0.375, 0.375),
}
"""The fixed weights of arXiv 2509.11452, over accuracy, conciseness, clarity."""

GRID = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), *PRESETS.values())
"""The corners, from which a method can see how far each objective goes, and the presets between them."""

METHODS = {
    "presets": ("fixed", tuple(preset for preset in PRESETS.values() for _ in range(2))),
    **{name: (name, GRID) for name in ("fixed", "chebyshev", "hypervolume", "gradient")},
}
"""Weighting and six preferences of each method; the presets have two policies each."""

SETTING: dict[str, Any] = {
    "steps": 40,
    "prompts_per_step": 8,
    "group_size": 8,
    "learning_rate": 2e-3,
    "lr_schedule": "linear",
    "eval_every": 5,
    "eval_prompts": 64,
    "remeasure_rounds": 0,
    "judged_on": 500,
    "judged_samples": 1,
}
"""The one setting of all methods; every weighting has its own defaults."""

SMOKE = SETTING | {"steps": 2, "group_size": 2, "eval_every": 1, "eval_prompts": 4, "judged_on": 8, "judged_samples": 1}


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        method: One of `METHODS`.
        seed: Of the run.
    """

    method: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.method}/{self.seed}"


def cases(seeds: Sequence[int] = SEEDS, methods: Sequence[str] | None = None) -> Iterator[Case]:
    """All runs, or those of some methods; the seeds of a method follow each other."""
    for name in METHODS:
        if methods is None or name in methods:
            yield from (Case(name, seed) for seed in seeds)


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """Fit once, and judge the policies as training left them on problems that no fit has seen.

    Returns:
        By policy, in the order of the preferences: `values` [6, 3] and their `stderr`, mean `tokens` [6], shares of the
        `forms` [6, 4]. And what the fit sampled: `rollouts`, `train_tokens`, `measured` (completions of the aligner's
        own measurements while it trained) and `eval_tokens` (theirs, and those of the report at the end).
    """
    import torch
    from task import adding, judge

    from pareto_align import Grid, ParetoAligner
    from pareto_align.errors import ParetoAlignWarning

    torch.set_num_threads(1)  # another number of threads rounds otherwise
    task = adding(judged_on=setting["judged_on"])
    weighting, preferences = METHODS[case.method]
    options = {name: value for name, value in setting.items() if not name.startswith("judged")}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)  # a smoke run measures on very few problems
        aligner = ParetoAligner(
            task.model,
            task.objectives,
            tokenizer=task.tokenizer,
            weighting=weighting,
            explorer=Grid(preferences),
            population=len(preferences),
            seed=case.seed,
            output_dir=Path(folder) / "run",
            progress=False,
            **task.settings,
            **options,
        )
        front = aligner.fit(task.prompts, eval_prompts=task.select)
        spent = front.record.cost
        measurements = sum(event["event"] == "evaluation" for event in front.history)
    judged = judge(task, aligner.policies_, samples=setting["judged_samples"])
    return {
        "values": judged.values.round(4).tolist(),
        "stderr": judged.stderr.round(4).tolist(),
        "tokens": judged.tokens.round(2).tolist(),
        "forms": judged.forms.round(4).tolist(),
        "rollouts": spent["rollouts"],
        "train_tokens": spent["train_tokens"],
        "measured": measurements * len(preferences) * setting["eval_prompts"],
        "eval_tokens": spent["eval_tokens"],
    }


def untrained(setting: dict[str, Any]) -> dict[str, Any]:
    """The pre-trained model as it is, and how often each of its forms is right."""
    from task import FORMS, adding, judge

    task = adding(judged_on=setting["judged_on"])
    judged = judge(task, None, samples=setting["judged_samples"])
    return {
        "values": judged.values[0].round(4).tolist(),
        "tokens": round(float(judged.tokens[0]), 2),
        "forms": judged.forms[0].round(4).tolist(),
        "right": dict(zip(FORMS, judged.right[0].round(4).tolist(), strict=True)),
    }
