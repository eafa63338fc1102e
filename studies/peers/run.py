"""The same task by TRL: five runs of GRPOTrainer with five weights, and soups of two; beside one family, by the clock.

python studies/peers/run.py            # two hours on one core; adds to results.json
python studies/peers/run.py --page     # train nothing, write README.md from the results
python studies/peers/run.py --smoke    # a few steps, to try it; writes nothing

A run that is in results.json is not repeated, so it can be stopped at any time.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "real")]  # for `runs`, and the task

from cases import CENTRED, RANK  # noqa: E402
from runs import carry_out  # noqa: E402
from tasks import TASKS, TOKENS  # noqa: E402

TASK = "tone"
SEEDS = (0,)
SETTING: dict[str, Any] = {
    "steps": 135,  # of one policy; 1,620 rollouts in all, as many as 40,000 tokens buy on this task
    "prompts_per_step": 2,
    "group_size": 6,
    "learning_rate": 2e-3,
    "kl_coef": 0.02,
    "eval_prompts": 32,
}
SMOKE = SETTING | {"steps": 10, "prompts_per_step": 1, "group_size": 2, "eval_prompts": 4}
WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Of the first objective; the soups are of these shares as well."""
METHODS = ("family", *(f"trl {weight:g}" for weight in WEIGHTS), "trl soups")


@dataclass(frozen=True)
class Case:
    """One run: a method, and the seed of the prompts and of the training."""

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
    """Train, and measure on prompts that nothing was trained or chosen on.

    Returns:
        `seconds` of training, of the family those of measuring as well; `rollouts`; and `values` [n, m] of the
        policies, what they reach. Of the family also the `hypervolume` that it published.
    """
    import torch

    torch.set_num_threads(1)  # as in the study
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        if case.method == "family":
            return family(case.seed, setting, Path(folder))
        shares = WEIGHTS if case.method == "trl soups" else (float(case.method.split()[1]),)
        return by_trl(shares, case.seed, setting, Path(folder))


def family(seed: int, setting: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One family of adapters, as the study fits it, for as many rollouts."""
    from peft import LoraConfig

    from pareto_align import ParetoAligner

    task = TASKS[TASK]()
    options = setting | {"steps": setting["steps"] // len(WEIGHTS), "eval_every": setting["steps"]}
    began = time.perf_counter()
    front = ParetoAligner(
        task.model, task.objectives(), lora=LoraConfig(r=RANK, lora_alpha=2 * RANK, task_type="CAUSAL_LM", **task.lora),
        population=len(WEIGHTS), family=CENTRED, weighting="fixed", learner="centred", seed=seed,
        output_dir=folder / "run", progress=False, dtype="float32", **task.options, **options,
    ).fit(task.prompts())  # fmt: skip
    seconds = time.perf_counter() - began
    report = next(event for event in reversed(front.history) if event["event"] == "report")
    axes = [i for i, objective in enumerate(front.record.objectives) if objective.role == "optimize"]
    values = [member.estimate.mean[axes].round(4).tolist() for member in front.record.members]
    return {
        "seconds": round(seconds, 1),
        "rollouts": front.record.cost["rollouts"],
        "values": values,
        "hypervolume": round(float(report["hypervolume"]), 4),
    }


def by_trl(shares: Sequence[float], seed: int, setting: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Stock GRPOTrainer: one policy for one share, or the corners' and their soups for several."""
    import torch

    from pareto_align.data.prompts import encode_rows, split_prompts
    from pareto_align.data.rows import read_rows
    from pareto_align.evaluation.answers import Evaluator
    from pareto_align.objectives import ObjectiveSet
    from pareto_align.policies import SamplingParams, load_base
    from pareto_align.policies.experts import moved_in
    from pareto_align.policies.mixing import mix

    task = TASKS[TASK]()
    base = load_base(task.model, dtype="float32")
    rows = encode_rows(read_rows(task.prompts()), base, TOKENS)
    splits = split_prompts(rows, None, setting["eval_prompts"], seed)
    trained = (1.0, 0.0) if len(shares) > 1 else shares
    steps = setting["steps"] // (len(trained) if len(shares) > 1 else len(WEIGHTS))
    prompts = [row.prompt for row in splits.train]
    seconds = 0.0
    adapters = []
    for number, share in enumerate(trained):
        adapters.append(folder / f"trl-{number}")
        seconds += train(task, share, prompts, steps, seed, setting, adapters[-1])
    objectives = ObjectiveSet(task.objectives())
    with moved_in(base, adapters) as (population, held):
        policies = [mix(population, held, [w, 1 - w])[0] for w in shares] if len(shares) > 1 else [held[0]]
        evaluator = Evaluator(population, objectives, splits.report, 1, SamplingParams(TOKENS), seed)
        found = evaluator.measure(torch.stack(policies))
    axes = list(objectives.axes)
    return {
        "seconds": round(seconds, 1),
        "rollouts": len(trained) * steps * setting["prompts_per_step"] * setting["group_size"],
        "values": [one.estimate.mean[axes].round(4).tolist() for one in found],
    }


def train(
    task: Any, share: float, prompts: Sequence[Any], steps: int, seed: int, setting: dict[str, Any], target: Path
) -> float:
    """One run of TRL's trainer with a weighted sum of the task's rewards; its seconds. Writes the adapter."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    from pareto_align.policies import load_base

    base = load_base(task.model, dtype="float32")
    rewards = [objective.reward for objective in task.objectives() if objective.role == "optimize"]
    batch = setting["prompts_per_step"] * setting["group_size"]
    config = GRPOConfig(
        output_dir=str(target.with_suffix(".run")), per_device_train_batch_size=batch,
        num_generations=setting["group_size"], max_completion_length=TOKENS, max_steps=steps,
        learning_rate=setting["learning_rate"], beta=setting["kl_coef"], reward_weights=[share, 1 - share],
        gradient_checkpointing=False, bf16=False, use_cpu=True, report_to="none", save_strategy="no", seed=seed,
        logging_steps=10_000, disable_tqdm=True,
    )  # fmt: skip
    rank = 3 * RANK
    trainer = GRPOTrainer(
        model=base.model, reward_funcs=rewards, args=config, processing_class=base.tokenizer,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        peft_config=LoraConfig(r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM", **task.lora),
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    trainer.model.save_pretrained(str(target))
    return seconds


def hypervolume(values: Sequence[Sequence[float]]) -> float:
    """Of points above (0, 0); all rewards lie in [0, 1]."""
    from pareto_align.testing import exact

    return exact.hypervolume(values, np.zeros(len(values[0]))) if values else 0.0


def table(results: dict[str, Any]) -> str:
    """Hypervolume, seconds and their ratio; a dash where a run is missing."""
    found = results["runs"]
    groups = {
        "one family, `centred, linear`": ["family"],
        "five runs of TRL's GRPOTrainer": [f"trl {weight:g}" for weight in WEIGHTS],
        "soups of two runs of TRL's GRPOTrainer": ["trl soups"],
    }
    lines = ["| method | hypervolume | seconds | hypervolume an hour | rollouts | what it reaches |", "|---" * 6 + "|"]
    for name, methods in groups.items():
        known = [found[f"{method}/{SEEDS[0]}"] for method in methods if f"{method}/{SEEDS[0]}" in found]
        if len(known) < len(methods):
            lines.append(f"| {name} | — ({len(known)} of {len(methods)} runs are in) | — | — | — | — |")
            continue
        values = [value for run in known for value in run["values"]]
        volume, seconds = hypervolume(values), sum(run["seconds"] for run in known)
        told = " ".join(f"({a:.2f}, {b:.2f})" for a, b in values)
        lines.append(
            f"| {name} | {volume:.3f} | {seconds:,.0f} | {3600 * volume / seconds:.2f} | "
            f"{sum(run['rollouts'] for run in known):,} | {told} |"
        )
    return "\n".join(lines)


def write_pages(results: dict[str, Any]) -> None:
    """README.md from report.md and the results."""
    text = (HERE / "report.md").read_text(encoding="utf-8").replace("{table}", table(results))
    (HERE / "README.md").write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then write."""
    return carry_out(
        arguments,
        __doc__,
        home=HERE,
        seeds=SEEDS,
        parts={"methods": METHODS},
        settings=(SETTING, SMOKE),
        cases=cases,
        measure=measure,
        told=lambda found: f"{found['seconds']} s, {found['values']}",
        pages=write_pages,
    )


if __name__ == "__main__":
    raise SystemExit(main())
