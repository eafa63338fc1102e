"""The demo's front for several seeds, and independent policies at equal tokens: `python studies/demo/run.py`.

Writes results.json and front.png beside this file. Some minutes a run on 2 cores; a run that is there is not repeated
(delete its folder under studies/demo/runs to have it again), and `--seeds`, `--kinds` take a part. Independent policies
get as many tokens as the demo of their seed has sampled, so that has to be there.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from peft import LoraConfig

from pareto_align import ParetoFront
from pareto_align.demo import demo_aligner, demo_prompts
from pareto_align.runs.journal import read_journal

HERE = Path(__file__).parent
TONE, BREVITY = 0, 1
RANK = 24  # what the family's blocks add up to: it is sharing that is compared, not rank
MOST_STEPS = 300  # the tokens end a run before that

ALONE = {"family": "independent", "explorer": "grid"}
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": ALONE | {"weighting": "fixed"},
    "chebyshev": ALONE | {"weighting": "chebyshev"},
}
LOOKS = {
    "default": ("one family (the demo)", "#2a788e", "o"),
    "linear": (f"5 independent policies of rank {RANK}, linear weights", "#b5651d", "s"),
    "chebyshev": (f"5 independent policies of rank {RANK}, Chebyshev weights", "#7a5195", "^"),
}


def fit(kind: str, seed: int) -> ParetoFront:
    """One run, or what it left."""
    folder = HERE / "runs" / f"{kind}-{seed}"
    if not any(event["event"] == "end" for event in read_journal(folder / "journal.jsonl")):
        settings = KINDS[kind]
        if settings:
            cost = fit("default", seed).record.cost
            settings = settings | {"max_tokens": cost["train_tokens"] + cost["eval_tokens"], "steps": MOST_STEPS}
        aligner = demo_aligner(seed=seed, output_dir=folder, **settings)
        if settings:
            aligner.lora = LoraConfig(**{**_plain(aligner.lora), "r": RANK, "lora_alpha": 2 * RANK})
        aligner.fit(demo_prompts())
    return ParetoFront.load(folder)


def _plain(lora: LoraConfig) -> dict[str, Any]:
    """What the demo says of its adapters."""
    return {name: getattr(lora, name) for name in ("target_modules", "layers_to_transform", "task_type")}


def verdict(front: ParetoFront) -> dict[str, Any]:
    """What the demo promises, as numbers."""
    from pareto_align.front import paired_difference

    estimates = [member.estimate for member in front.record.members]
    values = np.array([e.mean for e in estimates])

    def distinct(i: int, j: int) -> bool:
        gap, error = paired_difference(estimates[i], estimates[j])
        return bool((np.abs(gap) > 2 * error)[[TONE, BREVITY]].any())

    pairs = list(itertools.combinations(range(len(values)), 2))
    last = next((e for e in reversed(front.history) if e["event"] == "report"), {})
    end = next((e for e in reversed(front.history) if e["event"] == "end"), {})
    cost = front.record.cost
    return {
        "members": len(front),
        "values": values.round(3).tolist(),
        "stderr": np.array([e.stderr for e in estimates]).round(3).tolist(),
        "pairs_apart_by_two_standard_errors": f"{sum(distinct(i, j) for i, j in pairs)} of {len(pairs)}",
        "hypervolume": [last.get(k) for k in ("hypervolume", "hypervolume_low", "hypervolume_high")],
        "untrained_hypervolume": [
            last.get(k) for k in ("reference_hypervolume", "reference_hypervolume_low", "reference_hypervolume_high")
        ],
        "tokens": {name: cost[name] for name in ("train_tokens", "eval_tokens", "rollouts")},
        "seconds": end.get("seconds"),
        "samples": [
            [sample["completion"].strip() for sample in member.samples[:3]]
            for member in sorted(front, key=lambda member: -member.values[TONE])
        ],
    }


def draw(fronts: dict[str, ParetoFront], results: dict[str, Any]) -> Figure:
    """The README's picture: what each kind published, with 95 % intervals."""
    figure = Figure(figsize=(7.6, 5.4), layout="constrained")
    axes = figure.subplots()
    for kind, front in fronts.items():
        label, color, marker = LOOKS[kind]
        order = np.argsort(front.values[:, TONE])
        x, y = front.values[order, TONE], front.values[order, BREVITY]
        volume = results[f"{kind}-0"]["hypervolume"][0]
        axes.errorbar(
            x, y, front.halfwidth[order, BREVITY], front.halfwidth[order, TONE], fmt=marker, color=color,
            markersize=7, elinewidth=0.8, alpha=0.9, label=f"{label}: hypervolume {volume:.2f}",
        )  # fmt: skip
    reference = next(iter(fronts.values())).record.reference_policy
    tokens = sum(results["default-0"]["tokens"][name] for name in ("train_tokens", "eval_tokens"))
    if reference is not None:
        axes.plot(*reference.mean[[TONE, BREVITY]], "D", mfc="white", mec="black", ms=8, ls="", label="untrained")
    axes.set(xlabel="positive tone (better →)", ylabel="brevity (better →)", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(f"SmolLM2-135M, {tokens:,} tokens each, measuring included, 95 % intervals", loc="left")
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower left")
    return figure


def main() -> None:
    """Fit what is missing, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    file = HERE / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for seed, kind in itertools.product(arguments.seeds, arguments.kinds):
        results[f"{kind}-{seed}"] = verdict(fit(kind, seed))
        file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(f"{kind}-{seed}: hypervolume {results[f'{kind}-{seed}']['hypervolume']}", flush=True)
    fronts = {kind: fit(kind, 0) for kind in LOOKS if f"{kind}-0" in results and (HERE / "runs" / f"{kind}-0").exists()}
    if fronts:
        draw(fronts, results).savefig(HERE / "front.png", dpi=150)


if __name__ == "__main__":
    main()
