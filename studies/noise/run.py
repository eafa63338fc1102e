"""How honest is a front under noise? `python studies/noise/run.py` writes results.json and README.md beside this file.

200 seeds of ten settings take about a quarter of an hour on one core; `--seeds 20` is a first look. `--fits` does five
whole fits of the problem `noisy` of pareto_align.testing on the tiny model instead, and keeps the rest. The table of
README.md is made of the results, its text is report.md; `--page` does only that.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from simulation import simulate

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"

SETTINGS = [
    ("trained", "one prompt, 64 samples"),
    ("trained", "64 prompts, 1 sample"),
    ("trained", "16 prompts, 4 samples"),
    ("crowd", "64 prompts, 1 sample"),
    ("identical", "64 prompts, 1 sample"),
]
ROUNDS = (0, 2)


def summary(population: str, layout: str, rounds: int, seeds: int) -> dict[str, Any]:
    """Means over the seeds; rates with their 95 % Wilson intervals."""
    runs = [simulate(population, layout, seed, rounds=rounds) for seed in range(seeds)]
    mean = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}
    reported = sum(run["report members"] for run in runs)
    return {
        "population": population,
        "split": layout,
        "rounds": rounds,
        "seeds": seeds,
        "reported members": int(reported),
        "share dominated": sum(run["report members"] * run["report dominated"] for run in runs) / reported,
        "share of runs with several members": float(np.mean([run["report members"] > 1 for run in runs])),
        "coverage": wilson(sum(run["report covered"] for run in runs), seeds),
        "coverage on the select split": wilson(sum(run["select covered"] for run in runs), seeds),
        "means": mean,
    }


def wilson(successes: float, n: int, z: float = 1.96) -> list[float]:
    """A rate and the ends of its 95 % Wilson interval."""
    p, scale = successes / n, 1 + z**2 / n
    centre, half = (p + z**2 / (2 * n)) / scale, z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / scale
    return [round(value, 4) for value in (p, centre - half, centre + half)]


def fit(seed: int) -> dict[str, Any]:
    """A whole fit of `noisy`: which of the reported members another one truly dominates, and the interval."""
    from peft import LoraConfig, PeftModel

    from pareto_align import ParetoAligner
    from pareto_align.front import dominates, hypervolume
    from pareto_align.testing import tables
    from pareto_align.testing.problems import get_problem

    problem = get_problem("noisy")
    with tempfile.TemporaryDirectory() as folder:
        aligner = ParetoAligner(
            problem.model(seed), problem.objectives(), tokenizer=problem.tokenizer(), population=8, group_size=32,
            lora=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"), steps=150,
            eval_every=30, learning_rate=3e-3, max_new_tokens=1, prompts_per_step=1, eval_group_size=64, seed=seed,
            device="cpu", progress=False, explorer="grid", output_dir=folder,
        )  # fmt: skip
        front = aligner.fit(list(problem.prompts))
        truth = []
        for member in front:
            model = PeftModel.from_pretrained(problem.model(seed), member.adapter_path).eval()
            policy = tables.policy_table(problem, model)
            truth.append(np.einsum("ps,psm->m", policy, problem.rewards) / len(problem.prompts))
        lower, upper = (np.array([getattr(o, key) for o in front.record.objectives]) for key in ("lower", "upper"))
        value, low, high = front.hypervolume(confidence=0.95)
    true_value = hypervolume((np.array(truth) - lower) / (upper - lower), np.zeros(2))
    return {
        "seed": seed,
        "members": len(truth),
        "dominated": sum(any(dominates(a, b) for a in truth) for b in truth),
        "hypervolume": [round(v, 4) for v in (value, low, high)],
        "true hypervolume": round(true_value, 4),
        "covered": bool(low <= true_value <= high),
    }


def table(results: dict[str, Any]) -> str:
    """The simulations, one row a setting."""

    def short(value: float, places: int = 3) -> str:
        return f"{value:.{places}f}".removeprefix("0")

    lines = [
        "| population | split | racing | members | dominated | several | coverage | true hypervolume | "
        "measured on the report split | on the select split |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["simulations"]:
        found, reported, seeds = row["means"], row["reported members"], row["seeds"]
        rate, low, high = row["coverage"]
        cells = (
            row["population"], row["split"], "yes" if row["rounds"] else "no", f"{reported / seeds:.4g}",
            f"{round(row['share dominated'] * reported)} of {reported}",
            f"{round(row['share of runs with several members'] * seeds)} of {seeds}",
            f"{short(rate)} ({short(low)} to {short(high)})",
            *(short(found[f"report {what}"]) for what in ("true hypervolume", "hypervolume")),
            short(found["select hypervolume"]),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--fits", action="store_true", help="only the whole fits")
    parser.add_argument("--page", action="store_true", help="run nothing, write README.md from the results")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if options.page:
        pass
    elif options.fits:
        results["fits"] = [fit(seed) for seed in range(5)]
    else:
        with ProcessPoolExecutor(options.processes) as pool:
            waiting = [
                pool.submit(summary, population, layout, rounds, options.seeds)
                for population, layout in SETTINGS
                for rounds in ROUNDS
            ]
            results["simulations"] = [one.result() for one in waiting]
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    template = Template((HERE / "report.md").read_text(encoding="utf-8"))
    (HERE / "README.md").write_text(template.substitute(table=table(results)), encoding="utf-8")


if __name__ == "__main__":
    main()
