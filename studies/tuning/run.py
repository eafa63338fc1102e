"""Does a small sweep find better settings, and does the gain hold on other seeds? Writes results.json, prints tables.

    python studies/tuning/run.py [--folder DIR] [--smoke]

The problem `flat` of pareto_align.testing, both engines. About five minutes on one free core. With a folder, a run that
was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

SETTING: dict[str, Any] = {
    "population": 6, "steps": 100, "prompts_per_step": 1, "group_size": 32, "eval_every": 25, "eval_group_size": 64,
    "explorer": "grid", "max_new_tokens": 1,
}  # fmt: skip
SWEEP: dict[str, Any] = {"trials": 8, "seeds": (10, 11), "confirm_seeds": (0, 1, 2)}
BY_HAND = {"learning_rate": 2e-3}
"""What the study of known fronts was made with, all else as the aligner has it."""

SMOKE: dict[str, Any] = {"trials": 2, "seeds": (10,), "confirm_seeds": (0, 1)}


def aligner(**settings: Any) -> Any:
    """The aligner with its own learning rate, KL price and temperature unless they are given."""
    from pareto_align import ParetoAligner
    from pareto_align.testing.judging import symbol_lora
    from pareto_align.testing.problems import get_problem

    problem = get_problem("flat")
    return ParetoAligner(
        problem.model(), problem.objectives(), tokenizer=problem.tokenizer(), lora=symbol_lora(), device="cpu",
        progress=False, **{**SETTING, **settings},
    )  # fmt: skip


def measure(folder: Path, sweep: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Both sweeps, and the settings chosen by hand on the confirm seeds."""
    import torch

    from pareto_align import tune
    from pareto_align.testing.problems import get_problem

    torch.set_num_threads(1)  # another number of threads rounds otherwise
    prompts = list(get_problem("flat").prompts)
    found: dict[str, Any] = {"setting": SETTING | settings, "by hand": []}
    for engine in ("optuna", "sobol"):
        result = tune(aligner(**settings), prompts, engine=engine, output_dir=folder / engine, progress=False, **sweep)
        print(result, "\n", flush=True)
        found[engine] = {key: value for key, value in result.to_dict().items() if key != "folder"}
    for seed in sweep["confirm_seeds"]:
        with tempfile.TemporaryDirectory() as place:
            front = aligner(**{**settings, **BY_HAND}, seed=seed).fit(prompts, output_dir=Path(place) / "run")
        found["by hand"].append(front.hypervolume())
    return found


def table(results: dict[str, Any]) -> list[str]:
    """The rows of README.md, one a sweep and two to compare with."""
    rows = ["| settings | learning rate | KL price | temperature | on the tuning seeds | on the confirm seeds |"]
    rows.append("|---|---|---|---|---|---|")
    default = results["optuna"]["default"]
    for name in ("optuna", "sobol"):
        best, comparison = results[name]["best"], results[name]["comparison"]
        rows.append(_row(f"tuned, {name}", best["settings"], best["score"], comparison and comparison["tuned"]))
    compared = results["optuna"]["comparison"]
    rows.append(_row("default", default["settings"], default["score"], compared and compared["default"]))
    rows.append(_row("by hand", default["settings"] | BY_HAND, None, results["by hand"]))
    return rows


def verdicts(results: dict[str, Any]) -> list[str]:
    """Tuned against default, a line a sweep."""
    lines = []
    for name in ("optuna", "sobol"):
        found, cost = results[name]["comparison"], results[name]["cost"]
        told = "no trial beat the default"
        if found is not None:
            interval = f"95 % interval {found['low']:+.3f} to {found['high']:+.3f}"
            told = f"difference {found['difference']:+.3f} ({interval}): {found['verdict']}"
        lines.append(
            f"- {name}: {told}. {cost['runs']} fits, {cost['train_tokens']:,} tokens to train on, "
            f"{cost['eval_tokens']:,} to measure on, {cost['reward_calls']:,} reward calls."
        )
    return lines


def _row(name: str, settings: dict[str, Any], score: float | None, confirmed: list[float] | None) -> str:
    numbers = [f"{settings[key]:.3g}" for key in ("learning_rate", "kl_coef", "temperature")]
    on = "-" if not confirmed else f"{sum(confirmed) / len(confirmed):.3f} ({', '.join(f'{v:.3f}' for v in confirmed)})"
    return f"| {name} | {' | '.join(numbers)} | {'-' if score is None else f'{score:.3f}'} | {on} |"


def main(arguments: list[str] | None = None) -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the sweeps are kept; by default nowhere")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--smoke", action="store_true", help="two trials of a few steps; writes only with --results")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single prompt is meant here
        folder = options.folder or Path(place)
        results = measure(folder, SMOKE, steps=2, group_size=4) if options.smoke else measure(folder, SWEEP)
    if not options.smoke or options.results != HERE / "results.json":
        options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n".join([*table(results), "", *verdicts(results)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
