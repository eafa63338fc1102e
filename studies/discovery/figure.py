"""The picture: how much each explorer's front gains on the grid's, a panel a task, with intervals over seeds."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from summary import BASE, RIVALS, Study

BETTER, WORSE, OPEN = "#2a788e", "#b5651d", "#6b6b6b"
ACROSS = 3  # panels


def draw(results: dict[str, Any]) -> Figure:
    """Paired differences of the hypervolume ratio; colour says on which side of 0 the interval lies."""
    study = Study(results)
    down = -(-len(study.tasks) // ACROSS)
    figure = Figure(figsize=(12, 3.1 * down + 1.1), layout="constrained")
    panels = figure.subplots(down, ACROSS, sharey=True, squeeze=False).ravel()
    names = RIVALS[::-1]
    for axes, task in zip(panels, study.tasks, strict=False):
        for place, name in enumerate(names):
            found = study.gain(task, name)
            color = {1: BETTER, -1: WORSE, 0: OPEN}[found.verdict]
            axes.plot([found.low, found.high], [place, place], color=color, lw=3, solid_capstyle="round")
            axes.plot(found.mean, place, "o", color=color, ms=9)
        axes.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
        axes.axvline(0, color="black", lw=1)
        axes.set_title(f"{task[0]}, {task[1]}\n{BASE} has {study.ratio(task, BASE).mean:.2f}", fontsize=15, loc="left")
        axes.tick_params(labelsize=14)
        axes.grid(color="#e8e8e8")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(study.tasks) :]:
        axes.set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    figure.supxlabel(
        f"hypervolume ratio less that of the {BASE} on the same seed (better →), 95 % over seeds;\n"
        "each panel on its own scale; blue: better, brown: worse, grey: not told apart",
        fontsize=15,
    )
    return figure
