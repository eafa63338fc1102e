"""The study's figures, from its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from questions import AGREED, SHOWN

HERE = Path(__file__).parent
ASKED = {"chance": ("tab:gray", "o", "any two members"), "worth": ("tab:blue", "s", "whose answer is worth most")}
WAYS = ("nearest member", "soup", "logits, token by token", "logits, exact")


def draw_questions(rows: list[dict[str, Any]]) -> Figure:
    """Mean regret after some questions, of users none of whose replies are turned round, a panel each front.

    A line ends where a session does: what is shown beyond is of longer ones.
    """
    plain = [row for row in rows if not row["slips"]]
    fronts = sorted({(row["m"], row["members"]) for row in plain})
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    for panel, front in zip(np.ravel(figure.subplots(1, len(fronts), sharey=True)), fronts, strict=True):
        for row in plain:
            if (row["m"], row["members"]) != front:
                continue
            color, mark, told = ASKED[row["by"]]
            line = "-" if row["kind"] == "linear" else "--"
            points = np.array([SHOWN, row["regret"], 1.96 * np.array(row["stderr"])])
            for session, label in ((points[0] <= AGREED[0], f"{told}, {row['kind']}"), (points[0] > AGREED[0], None)):
                panel.errorbar(
                    *points[:, session], color=color, marker=mark, linestyle=line, markersize=4, capsize=2, label=label
                )
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


def draw_headroom(kinds: dict[str, Any]) -> Figure:
    """What two measurements and what one say of the gain by routing, by the number of prompts: median and 95 %."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    told = {"naive": ("tab:gray", "the mean of each prompt's best"), "value": ("tab:blue", "front.headroom")}
    for panel, (kind, found) in zip(np.ravel(figure.subplots(1, len(kinds), sharey=True)), kinds.items(), strict=True):
        prompts = [row["prompts"] for row in found["rows"]]
        for name, (color, label) in told.items():
            low, middle, high = np.transpose([row[name] for row in found["rows"]])
            panel.fill_between(prompts, low, high, color=color, alpha=0.2)
            panel.plot(prompts, middle, color=color, marker="o", markersize=4, label=label)
        panel.plot(prompts, [row["truth"] for row in found["rows"]], color="black", linewidth=1, label="the truth")
        panel.set_xscale("log", base=2)
        panel.set_xticks(prompts, [str(count) for count in prompts])
        panel.minorticks_off()
        panel.set_title(kind, fontsize="medium")
        panel.set_xlabel("prompts")
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("gain by routing")
    figure.axes[0].legend(fontsize="small")
    return figure


def draw_told(found: dict[str, Any]) -> Figure:
    """Each objective's worth along the preferences: the mean over the seeds, and each seed as a thin line."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    looks = {
        "the best there is": ("black", ":"),
        "a map, `gates`": ("tab:gray", "-"),
        "told in the prompt": ("tab:blue", "-"),
    }
    for i, panel in enumerate(np.ravel(figure.subplots(1, 2, sharey=True))):
        weights = np.array(found["weights"]) if i == 0 else 1 - np.array(found["weights"])
        for name, (color, line) in looks.items():
            curves = np.array(found[name])[..., i]
            for curve in curves if len(curves) > 1 else ():
                panel.plot(weights, curve, color=color, linestyle=line, linewidth=0.6, alpha=0.5)
            panel.plot(weights, curves.mean(0), color=color, linestyle=line, marker="o", markersize=3, label=name)
        panel.set_title(f"objective {i + 1}", fontsize="medium")
        panel.set_xlabel("its weight")
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("expected reward")
    figure.axes[0].legend(fontsize="small")
    return figure


def draw_cells(found: dict[str, Any]) -> Figure:
    """Cells that hold a policy after each measurement, and how good the best of each is: each seed by itself."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    counts, elites = figure.subplots(1, 2)
    for (name, runs), color, mark, aside in zip(
        found.items(), ("tab:gray", "tab:blue"), "os", (-0.1, 0.1), strict=True
    ):
        for seed, run in enumerate(runs):
            label = name if seed == 0 else None
            counts.plot(range(1, len(run["filled"]) + 1), run["filled"], color=color, alpha=0.8, label=label)
            places = [int(cell) + 1 + aside for cell in run["elites"]]
            elites.plot(places, list(run["elites"].values()), mark, color=color, markersize=4, alpha=0.8, label=label)
    counts.set_xlabel("measurements")
    counts.set_ylabel("cells filled, of 8")
    counts.set_ylim(0, 8.4)
    elites.set_xlabel("cell, by the longest run")
    elites.set_ylabel("mean reward of its best")
    for panel in figure.axes:
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", loc="lower right")
    return figure


DRAWN = {
    "questions": (draw_questions, "questions.png"),
    "quality": (draw_missed, "missed.png"),
    "bounds": (draw_bounds, "bounds.png"),
    "headroom": (draw_headroom, "headroom.png"),
    "told": (draw_told, "told.png"),
    "cells": (draw_cells, "cells.png"),
}


def write(results: dict[str, Any]) -> None:
    """All of them whose results are in, beside this file."""
    for part, (draw, file) in DRAWN.items():
        if part in results:
            draw(results[part]).savefig(HERE / file, dpi=130)
