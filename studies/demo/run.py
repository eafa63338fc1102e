"""The demo's front for several seeds, and linear weights beside it: `python studies/demo/run.py`.

Writes results.json and front.png beside this file. About 11 minutes a run on 2 cores; a run that is there is not
repeated (delete its folder under studies/demo/runs to have it again). The right half of the picture is the problem
`flat` of pareto_align.testing, whose true front is known: seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pareto_align import Grid, ParetoFront
from pareto_align.demo import SETTINGS, demo_aligner, demo_prompts

HERE = Path(__file__).parent
TONE, BREVITY = 0, 1


def fit(kind: str, seed: int) -> ParetoFront:
    """One run: the demo as it is, or the same with fixed linear weights on a grid with its corners."""
    folder = HERE / "runs" / f"{kind}-{seed}"
    if not (folder / "front" / "front.json").exists():
        fixed = {"weighting": "fixed", "explorer": Grid()} if kind == "fixed" else {}
        started = time.monotonic()
        demo_aligner(seed=seed, output_dir=folder, **fixed).fit(demo_prompts())
        (folder / "seconds").write_text(f"{time.monotonic() - started:.0f}")
    return ParetoFront.load(folder)


def verdict(front: ParetoFront) -> dict[str, object]:
    """What the demo promises, as numbers."""
    estimates = [member.estimate for member in front.record.members]
    values = np.array([e.mean for e in estimates])

    def distinct(i: int, j: int) -> bool:
        from pareto_align.front import paired_difference

        gap, error = paired_difference(estimates[i], estimates[j])
        return bool((np.abs(gap) > 2 * error)[[TONE, BREVITY]].any())

    pairs = list(itertools.combinations(range(len(values)), 2))
    order = np.argsort(values[:, TONE])
    last = next((e for e in reversed(front.history) if e["event"] == "report"), {})
    return {
        "members": len(front),
        "values": values.round(3).tolist(),
        "stderr": np.array([e.stderr for e in estimates]).round(3).tolist(),
        "pairs_apart_by_two_standard_errors": f"{sum(distinct(i, j) for i, j in pairs)} of {len(pairs)}",
        "strictly_between_the_corners": max(len(order) - 2, 0),
        "hypervolume": [last.get(k) for k in ("hypervolume", "hypervolume_low", "hypervolume_high")],
        "untrained_hypervolume": [
            last.get(k) for k in ("reference_hypervolume", "reference_hypervolume_low", "reference_hypervolume_high")
        ],
        "restarts": sum(e["event"] == "stalled" and e["action"] == "started again" for e in front.history),
        "seconds": int((front.path / "seconds").read_text()) if (front.path / "seconds").exists() else None,
    }


def last_population(front: ParetoFront) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard errors `[K, M]` of all policies at the last measurement, kept or not."""
    event = [e for e in front.history if e["event"] == "evaluation"][-1]
    return np.array(event["values"]), np.array(event["stderr"])


def known_front(weighting: str, seed: int = 0) -> dict[str, Any]:
    """Eight policies on `flat` after 400 steps: exact expected rewards, share of the attainable hypervolume."""
    from pareto_align.testing.judging import judged_fit
    from pareto_align.testing.problems import get_problem

    with tempfile.TemporaryDirectory() as folder:
        fit = judged_fit(
            get_problem("flat"), Path(folder) / "run", weighting=weighting, seed=seed,
            learning_rate=1e-3, steps=400, eval_every=25,
        )  # fmt: skip
    return {"values": fit.values.round(4).tolist(), "hypervolume_ratio": round(fit.verdict().hypervolume_ratio, 4)}


LOOKS = {"fixed": ("linear weights", "#b5651d", "s"), "chebyshev": ("smooth Chebyshev (default)", "#2a788e", "o")}


def draw(fronts: dict[str, ParetoFront], flat: dict[str, dict[str, Any]]) -> Figure:
    """The README's picture: the demo at its end on the left, a problem with a known front on the right."""
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, front in fronts.items():
        label, color, marker = LOOKS[kind]
        values, stderr = last_population(front)
        left.errorbar(
            values[:, TONE], values[:, BREVITY], 1.96 * stderr[:, BREVITY], 1.96 * stderr[:, TONE],
            fmt=marker, color=color, markersize=8, elinewidth=1.2, label=label, alpha=0.9,
        )  # fmt: skip
    reference = fronts["chebyshev"].record.reference_policy
    if reference is not None:
        left.plot(*reference.mean[[TONE, BREVITY]], "D", mfc="white", mec="black", ms=8, ls="", label="untrained")
    left.set(xlabel="positive tone (better →)", ylabel="brevity (better →)")
    left.set_title(
        f"SmolLM2-135M: {SETTINGS['population']} policies, {SETTINGS['steps']} steps, 95 % intervals", loc="left"
    )
    right.plot([0, 1], [1, 0], color="#999999", lw=1.2, label="true front")
    for kind, found in flat.items():
        label, color, marker = LOOKS[kind]
        values = np.array(found["values"])
        size = 15 if kind == "fixed" else 9  # several policies lie on one another in the corners
        right.plot(values[:, 0], values[:, 1], marker, color=color, ms=size, ls="", alpha=0.9, label=label)
    right.set(xlabel="first reward (better →)", ylabel="second reward (better →)")
    right.set_title("a straight front, known exactly: 8 policies, 400 steps", loc="left")
    for axes in (left, right):
        axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fixed", type=int, nargs="*", default=[0], help="seeds to run with fixed linear weights too")
    arguments = parser.parse_args()
    results = {f"chebyshev-{seed}": verdict(fit("chebyshev", seed)) for seed in arguments.seeds}
    results |= {f"fixed-{seed}": verdict(fit("fixed", seed)) for seed in arguments.fixed}
    flat = {kind: known_front(kind) for kind in ("fixed", "chebyshev")}
    results |= {f"flat-{kind}": found for kind, found in flat.items()}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    fronts = {
        kind: fit(kind, seeds[0])
        for kind, seeds in (("fixed", arguments.fixed), ("chebyshev", arguments.seeds))
        if seeds
    }
    draw(fronts, flat).savefig(HERE / "front.png", dpi=150)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
