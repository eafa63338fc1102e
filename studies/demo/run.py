"""The demo's front beside what fixed linear weights find, for several seeds: `python studies/demo/run.py`.

Writes results.json and front.png beside this file. About 13 minutes a run on 2 cores; a run that is there is not
repeated (delete its folder under studies/demo/runs to have it again).
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

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


def draw(curve: ParetoFront, corners: ParetoFront | None) -> Figure:
    """The README's picture: every policy of one seed at its end, linear weights beside the default."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot()
    runs = [("default (smooth Chebyshev)", curve, "#2a788e", "o")]
    if corners is not None:
        runs.insert(0, ("fixed linear weights", corners, "#b5651d", "s"))
    for label, front, color, marker in runs:
        values, stderr = last_population(front)
        axes.errorbar(
            values[:, TONE], values[:, BREVITY], 1.96 * stderr[:, BREVITY], 1.96 * stderr[:, TONE],
            fmt=marker, color=color, markersize=8, elinewidth=1.2, label=label, alpha=0.9,
        )  # fmt: skip
    reference = curve.record.reference_policy
    if reference is not None:
        axes.plot(*reference.mean[[TONE, BREVITY]], "D", mfc="white", mec="black", ms=8, label="untrained")
    axes.set(xlabel="positive tone (better →)", ylabel="brevity (better →)", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    axes.set_title(f"All {SETTINGS['population']} policies after {SETTINGS['steps']} steps, 95 % intervals", loc="left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fixed", type=int, nargs="*", default=[0], help="seeds to run with fixed linear weights too")
    arguments = parser.parse_args()
    results = {f"chebyshev-{seed}": verdict(fit("chebyshev", seed)) for seed in arguments.seeds}
    results |= {f"fixed-{seed}": verdict(fit("fixed", seed)) for seed in arguments.fixed}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    first = arguments.seeds[0]
    corners = fit("fixed", arguments.fixed[0]) if arguments.fixed else None
    draw(fit("chebyshev", first), corners).savefig(HERE / "front.png", dpi=150)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
