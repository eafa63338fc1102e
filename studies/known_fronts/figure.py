"""The picture: every method on the core problems, with intervals over seeds."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from summary import Study

DEFAULT, LINEAR, REST = "#2a788e", "#b5651d", "#6b6b6b"


def draw(results: dict[str, Any]) -> Figure:
    """Hypervolume ratio, a row a method and a panel a problem."""
    study = Study(results)
    methods = study.ranking[::-1]
    figure = Figure(figsize=(12, 8.2), layout="constrained")
    panels = figure.subplots(1, len(study.core), sharey=True, squeeze=False)[0]
    colors = {"chebyshev": DEFAULT, "fixed": LINEAR}
    for axes, problem in zip(panels, study.core, strict=True):
        for place, method in enumerate(methods):
            found = study.spread(problem, method, "ratio")
            assert found is not None
            color = colors.get(method, REST)
            axes.plot([found.low, found.high], [place, place], color=color, lw=3, solid_capstyle="round")
            axes.plot(found.mean, place, "o", color=color, ms=9)
        axes.axvline(0.9, color="#999999", lw=1, ls=":")
        axes.set_xlim(-0.03, 1.03)
        axes.set_title(problem, fontsize=17, loc="left")
        axes.tick_params(labelsize=13)
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.grid(color="#e8e8e8")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(methods)), methods, fontsize=13)
    for label, method in zip(panels[0].get_yticklabels(), methods, strict=True):
        label.set_color(colors.get(method, "black"))
        label.set_fontweight("bold" if method in colors else "normal")
    panels[0].set_ylim(-0.6, len(methods) - 0.4)
    figure.supxlabel("share of the hypervolume that 8 policies can have (better →), 95 % over seeds", fontsize=15)
    return figure
