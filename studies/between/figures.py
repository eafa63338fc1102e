"""The study's figures, from its results: questions.png, missed.png and bounds.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from questions import SHOWN

HERE = Path(__file__).parent
ASKED = {"chance": ("tab:gray", "o", "any two members"), "worth": ("tab:blue", "s", "whose answer is worth most")}
WAYS = ("nearest member", "soup", "logits, token by token", "logits, exact")


def draw_questions(rows: list[dict[str, Any]]) -> Figure:
    """Mean regret after some questions, of users none of whose replies are turned round, a panel each front."""
    plain = [row for row in rows if not row["slips"]]
    fronts = sorted({(row["m"], row["members"]) for row in plain})
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    for panel, front in zip(np.ravel(figure.subplots(1, len(fronts), sharey=True)), fronts, strict=True):
        for row in plain:
            if (row["m"], row["members"]) != front:
                continue
            color, mark, told = ASKED[row["by"]]
            line = "-" if row["kind"] == "linear" else "--"
            error = 1.96 * np.array(row["stderr"])
            panel.errorbar(
                SHOWN, row["regret"], error, color=color, marker=mark, linestyle=line, markersize=4, capsize=2,
                label=f"{told}, {row['kind']}",
            )  # fmt: skip
        panel.set_title(f"{front[0]} objectives, {front[1]} members")
        panel.set_xlabel("questions")
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylim(0)  # of both, now that all is drawn
    figure.axes[0].set_ylabel("regret, a share of the user's range")
    figure.axes[0].legend(fontsize="x-small")
    return figure


def draw_missed(quality: dict[str, Any]) -> Figure:
    """What of the possible gain each way to serve an unseen preference misses: median, least and greatest of seeds."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    for panel, (front, found) in zip(np.ravel(figure.subplots(1, len(quality))), quality.items(), strict=True):
        for place, way in enumerate(WAYS):
            told = found["missed"][way]
            panel.plot([told["min"], told["max"]], [place, place], color="tab:blue", linewidth=2, alpha=0.4)
            panel.plot(told["median"], place, "o", color="tab:blue")
        panel.set_title(front)
        panel.set_yticks(range(len(WAYS)), WAYS if panel is figure.axes[0] else [""] * len(WAYS))
        panel.invert_yaxis()
        panel.set_xlim(0)
        panel.grid(axis="x", alpha=0.3)
    figure.supxlabel("missed share of the possible gain (less is better)", fontsize="medium")
    return figure


def draw_bounds(fronts: dict[str, Any]) -> Figure:
    """What the best policy for each preference is worth: at least, at most and in truth, a panel each front."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    for panel, (name, found) in zip(
        np.ravel(figure.subplots(1, len(fronts), sharey=True)), fronts.items(), strict=True
    ):
        weights = found["weights"]
        panel.fill_between(weights, found["lower"], found["upper"], color="tab:blue", alpha=0.2, label="bounds")
        panel.plot(weights, found["truth"], color="black", linewidth=1, label="the best there is")
        panel.set_title(name)
        panel.set_xlabel("weight of the first objective")
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("reward less the price of KL")
    figure.axes[-1].legend(loc="upper center")
    return figure


def write(results: dict[str, Any]) -> None:
    """All of them, beside this file."""
    draw_questions(results["questions"]).savefig(HERE / "questions.png", dpi=130)
    draw_missed(results["quality"]).savefig(HERE / "missed.png", dpi=130)
    draw_bounds(results["bounds"]).savefig(HERE / "bounds.png", dpi=130)
