"""The picture: hypervolume over the tokens of training, run by run, and the area under these curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import FIRST, SEEDS, TRADED
from matplotlib.figure import Figure

LOOKS = dict(zip(FIRST, (("#7a7a7a", "s", "--"), ("#1f6fb2", "o", "-")), strict=True))


def curve(run: dict[str, Any]) -> np.ndarray:
    """(tokens of training, hypervolume on the select split) [n, 2], from the untrained model on.

    Further preferences and mixtures that were measured at one step are one point, the last of them.
    """
    last = {0: run["untrained"][0], **dict(run["curve"])}
    return np.array(sorted(last.items()), dtype=float)


def area(run: dict[str, Any], tokens: float) -> float:
    """Mean height of a run's curve from 0 to so many tokens; behind its end it stays where it is."""
    x, y = curve(run).T
    x, y = np.append(x, max(tokens, x[-1])), np.append(y, y[-1])
    reached = x <= tokens
    x, y = np.append(x[reached], tokens), np.append(y[reached], np.interp(tokens, x, y))
    return float(np.trapezoid(y, x) / tokens)


def draw(results: dict[str, Any]) -> Figure:
    """A panel a task: both methods' curves, and what the report measured at the end."""
    runs = results["runs"]
    figure = Figure(figsize=(12, 7.4), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    for axes, task in zip(panels.ravel(), TRADED, strict=True):
        for method in FIRST:
            color, mark, line = LOOKS[method]
            name = "the default" if method == FIRST[1] else method
            for seed in SEEDS:
                run = runs.get(f"{task}/{method}/{seed}")
                if run is None:
                    continue
                x, y = curve(run).T
                axes.plot(x / 1000, y, line, marker=mark, color=color, ms=3.5, lw=1.2, alpha=0.8)
                axes.plot(
                    [results["setting"]["max_tokens"] / 1000], [run["hypervolume"][0]],
                    mark, mfc="white", mec=color, ms=7.5, mew=1.6, clip_on=False, label=name,
                )  # fmt: skip
                name = "_"
        axes.set_title(task, fontsize=14, loc="left")
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, results["setting"]["max_tokens"] / 1000)
        axes.tick_params(labelsize=12)
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].legend(frameon=False, fontsize=12, loc="upper left")
    figure.supxlabel(
        "thousands of tokens sampled in training; open marks: the report's prompts, at the end", fontsize=14
    )
    figure.supylabel("hypervolume of the front (better ↑)", fontsize=14)
    return figure
