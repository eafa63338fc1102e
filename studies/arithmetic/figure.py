"""The picture: the final policies of every method, accuracy against tokens, clarity as colour; intervals over seeds."""

from __future__ import annotations

from typing import Any

from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from page import cell
from summary import Study

ACROSS = 3  # panels
MAP = "viridis"


def draw(results: dict[str, Any]) -> Figure:
    """A panel a method: every run's policies small, means over seeds large with 95 % intervals."""
    study = Study(results)
    down = max(-(-len(study.methods) // ACROSS), 1)
    figure = Figure(figsize=(12, 4 * down + 0.9), layout="constrained")
    panels = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).ravel()
    shades = Normalize(0, 1)
    dots = None
    for axes, method in zip(panels, study.methods, strict=False):
        tokens, values = study.column(method, "tokens"), study.column(method, "values")
        axes.scatter(
            tokens, 100 * values[..., 0], c=values[..., 2], cmap=MAP, norm=shades, s=22, alpha=0.45, linewidths=0
        )
        for _, slots in study.groups(method):
            for slot in slots:
                x, y = study.policy(method, slot, "tokens"), study.policy(method, slot, "values", 0)
                axes.errorbar(
                    x.mean, 100 * y.mean,
                    xerr=[[x.mean - x.low], [x.high - x.mean]],
                    yerr=[[100 * (y.mean - y.low)], [100 * (y.high - y.mean)]],
                    fmt="none", color="#555555", lw=1.4, zorder=3,
                )  # fmt: skip
                shade = study.policy(method, slot, "values", 2).mean
                dots = axes.scatter(
                    x.mean, 100 * y.mean, c=[shade], cmap=MAP, norm=shades, s=130, edgecolors="black", zorder=4
                )
        axes.plot(
            study.untrained["tokens"], 100 * study.untrained["values"][0], "D",
            mfc="white", mec="black", ms=9, zorder=2, label="untrained",
        )  # fmt: skip
        found = study.mean(method, "hypervolume")
        axes.set_title(f"{method}\nhypervolume {cell(found)}", fontsize=13.5, loc="left")
        axes.tick_params(labelsize=14)
        axes.grid(color="#e8e8e8")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(study.methods) :]:
        axes.set_visible(False)
    for axes in panels[max(len(study.methods) - ACROSS, 0) : len(study.methods)]:
        axes.tick_params(labelbottom=True)  # the lowest panel of every column, also above a hidden one
    panels[0].set_ylim(-3, 103)
    panels[0].legend(frameon=False, fontsize=14, loc="lower right")
    if dots is not None:
        bar = figure.colorbar(dots, ax=list(panels), shrink=0.6, pad=0.01)
        bar.set_label("clarity: share of the working shown", fontsize=15)
        bar.ax.tick_params(labelsize=14)
    figure.supxlabel(
        "tokens of an answer (← better); large: a policy's mean over 5 seeds with 95 % intervals, small: single runs",
        fontsize=15,
    )
    figure.supylabel("right answers, % of held-out problems (better →)", fontsize=15)
    return figure
