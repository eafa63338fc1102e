"""What the weighting did: the weights policies trained under, step by step, and what it put on constraints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from pareto_align.errors import FrontFileError
from pareto_align.report import style
from pareto_align.report.journal import Event, Stretch, events_of, stretches_of, table_of
from pareto_align.report.units import axes_of, optimized, shown_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pareto_align.front.storage import FrontRecord

__all__ = ["WeightsInfo", "draw_weights", "weights_info"]

PANELS = 12
"""Policies that have a panel each, where there are more than two objectives."""


@dataclass(frozen=True, eq=False)
class WeightsInfo:
    """The weights of a run.

    Attributes:
        names: The m optimised objectives.
        steps: [s] training steps.
        shares: [s, K, m] each policy's weights divided by their sum: the trade it trained for.
        strength: [s, K] the sums: how hard it was pushed.
        stretches: What each policy was for, and through which steps.
        steered: The c objectives that the weighting put weight on beside the optimised ones: constraints, or audits
            that steer.
        steering: [s, K, c] those weights; for constraints the multipliers.
        drawn: [s, K, m] the preferences that a family drew anew for each step; None of policies that keep theirs.
    """

    names: tuple[str, ...]
    steps: np.ndarray
    shares: np.ndarray
    strength: np.ndarray
    stretches: tuple[Stretch, ...]
    steered: tuple[str, ...] = ()
    steering: np.ndarray | None = None
    drawn: np.ndarray | None = None

    @property
    def varies(self) -> bool:
        """Whether the sums say anything: they are 1 throughout under most weightings."""
        return bool(np.nanmax(np.abs(self.strength - 1.0), initial=0.0) > 0.01)


def weights_info(record: FrontRecord, history: Sequence[Event]) -> WeightsInfo:
    """Gather what `draw_weights` draws from a run's journal.

    Raises:
        FrontFileError: The journal has no weights.
    """
    axes = axes_of(shown_record(record))
    names = tuple(axes[i].name for i in optimized(record))
    steps = [event for event in events_of(history, "step") if event.get("weights")]
    if not steps:
        raise FrontFileError(
            "This front has no record of its weights. They are in `journal.jsonl` of the run folder: load that "
            "folder with ParetoFront.load, not only the front inside it."
        )
    weights = table_of(steps, "weights", len(names))
    strength = weights.sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(strength[..., None] > 0, weights / strength[..., None], np.nan)
    stretches = stretches_of(history, steps, *weights.shape[1:])
    width = max((len(row or []) for event in steps for row in event.get("steering") or []), default=0)
    constrained = [axis.name for axis in axes if axis.role == "constrain"]
    audited = [axis.name for axis in axes if axis.role == "audit"]
    told = next((found for found in (constrained, audited) if len(found) == width), [])
    steered = tuple(told) or tuple(f"constraint {i}" for i in range(width))
    return WeightsInfo(
        names,
        np.array([int(e["step"]) for e in steps]),
        shares,
        strength,
        stretches,
        steered,
        table_of(steps, "steering", width, weights.shape[1]) if width else None,
        table_of(steps, "preferences", len(names), weights.shape[1]) if steps[-1].get("preferences") else None,
    )


def draw_weights(info: WeightsInfo) -> Figure:
    """Draw the weights: with two objectives a line a policy, with more a panel a policy; and multipliers if any.

    The sums of the weights have a panel where they vary with two objectives; with more they are no part of the trade.
    Of a family, whose preferences are others at each step, there is a panel an objective instead: the weight that the
    weighting made of a preference.
    """
    if info.drawn is not None:
        return _draw_family(info, info.drawn)
    m, policies = len(info.names), info.shares.shape[1]
    each = m > 2
    varies = info.varies and not each
    shown = min(policies, PANELS) if each else 1
    panels = shown + varies + len(info.steered)
    columns = min(panels, 4 if each else 3)
    rows = -(-panels // columns)
    size = (3.1 * columns + 0.6, 2.5 * rows + 1.1) if each else (
        6.6 if columns == 1 else 4.3 * columns + 0.6, 3.3 * rows + 0.75
    )  # fmt: skip
    figure = style.new_figure(*size)
    grid = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    moved = "cut where a policy went on to another" if len(info.stretches) > policies else ""
    if each:
        left_out = f"{policies - shown} more policies are not shown" if shown < policies else ""
        remarks: tuple[str, ...] = ("a panel a policy: how its weight is shared", "ticks on the right: its preference",
                                    left_out, moved)  # fmt: skip
    else:
        remarks = ("one line a policy", "triangles: the preference it was given", moved)
    style.header(figure, "Weights over the run", remarks)
    colors = style.preference_colors(np.array([stretch.preference for stretch in info.stretches]))
    if each:
        for k, ax in enumerate(grid[:shown]):
            _draw_policy(ax, info, k)
        figure.legend(
            handles=[_patch(color) for color in style.distinct_colors(min(m, 8))],
            labels=[style.short(name, 30) for name in info.names[:8]], loc="outside lower center", ncols=min(m, 3),
            frameon=False, fontsize=style.SMALL, labelcolor=style.INK,
        )  # fmt: skip
    else:
        _draw_share(grid[0], info, 0, colors)
    if varies:
        _draw_strength(grid[shown], info, colors)
    for i, ax in enumerate(grid[shown + varies : panels]):
        _draw_steering(ax, info, i, colors)
    for ax in grid[panels:]:
        ax.set_visible(False)
    for ax in grid[max(0, panels - columns) : panels]:
        ax.set_xlabel("training step")
    if m == 2:
        style.preference_bar(figure, grid[:panels], *info.names)
    return figure


def _draw_family(info: WeightsInfo, drawn: np.ndarray) -> Figure:
    """A dot for each step and row: the preference that was drawn, and the weight it was trained with.

    Two objectives have one panel, since the weight of the other one is the rest; a multiplier is drawn over the
    preference for the first objective.
    """
    m = len(info.names)
    panels = [(f"weight on {style.short(info.names[i])}", i, info.shares[..., i]) for i in range(1 if m == 2 else m)]
    weights, left_out = panels[:PANELS], max(len(panels) - PANELS, 0)
    multipliers = [] if info.steering is None else [
        (f"multiplier on {style.short(name)}", 0, info.steering[..., i]) for i, name in enumerate(info.steered)
    ]  # fmt: skip
    panels = [*weights, *multipliers]
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = style.new_figure(*((6.6, 4.4) if len(panels) == 1 else (3.6 * columns + 0.8, 3.3 * rows + 0.75)))
    grid = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    remarks = ("a dot a preference of a step", "dashed: linear weights, which are the preference itself",
               f"{left_out} more objectives are not shown" if left_out else "")  # fmt: skip
    style.header(figure, "The weights that preferences became", remarks)
    colors = np.repeat(np.array(style.step_colors(info.steps)), drawn.shape[1], axis=0)
    for ax, (title, i, values) in zip(grid, panels, strict=False):
        style.plain_axes(ax)
        ax.scatter(drawn[..., i].ravel(), values.ravel(), c=colors, s=11, alpha=0.8, lw=0, zorder=2)
        ax.set_xlim(-0.03, 1.03)
        ax.set_title(title, loc="left", fontsize=style.TEXT, color=style.INK, parse_math=False)
        ax.set_xlabel(f"preference for {style.short(info.names[i])}", parse_math=False)
    for ax in grid[: len(weights)]:
        ax.plot([0, 1], [0, 1], color=style.INK, lw=1.0, ls=(0, (5, 3)), zorder=1)
        ax.set_ylim(-0.03, 1.03)
    for ax in grid[len(panels) :]:
        ax.set_visible(False)
    style.step_bar(figure, grid[: len(panels)], info.steps)
    return figure


def _patch(color: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=color)


def _draw_policy(ax: Axes, info: WeightsInfo, k: int) -> None:
    """How one policy's weight is shared, stacked; and the preference that it has at the end, at the right."""
    style.plain_axes(ax)
    style.step_axis(ax)
    colors = style.distinct_colors(min(len(info.names), 8))
    colors += [style.GREY] * (len(info.names) - len(colors))
    shares = np.nan_to_num(info.shares[:, k])
    ax.stackplot(info.steps, shares.T, colors=colors, alpha=0.85, lw=0)
    ax.set_ylim(0, 1)
    ax.set_title(f"policy {k}", loc="left", fontsize=style.SMALL, color=style.INK)
    for stretch in info.stretches:
        if stretch.policy == k and stretch.rows.start:
            ax.axvline(info.steps[stretch.rows.start], color=style.FACE, lw=1.2)
    last = [stretch for stretch in info.stretches if stretch.policy == k][-1:]
    if last and not np.isnan(last[0].preference).any():
        for height in np.cumsum(last[0].preference)[:-1]:
            ax.plot([1.0, 1.04], [height, height], transform=ax.get_yaxis_transform(), color=style.INK, lw=1.2,
                    clip_on=False)  # fmt: skip


def _draw_share(ax: Axes, info: WeightsInfo, i: int, colors: Sequence[object]) -> None:
    style.plain_axes(ax)
    style.step_axis(ax)
    name, rest = style.short(info.names[i]), ""
    if len(info.names) == 2:
        long = len(info.names[0]) + len(info.names[1]) > style.LINE
        rest = f"{chr(10) if long else ' '}(the rest on {style.short(info.names[1])})"
    ax.set_title(f"weight on {name}{rest}", loc="left", fontsize=style.TEXT, color=style.INK,
                 parse_math=False)  # fmt: skip
    ax.set_ylim(-0.03, 1.03)
    for stretch, color in zip(info.stretches, colors, strict=True):
        steps, wanted = info.steps[stretch.rows], stretch.preference[i]
        _draw_line(ax, steps, info.shares[stretch.rows, stretch.policy, i], color)
        mark: dict[str, Any] = {"marker": "<", "ms": 6, "color": color, "mec": style.FACE, "mew": 0.5, "ls": "none"}
        if stretch.rows.stop == len(info.steps):  # outside the right spine, where it hides no line
            ax.plot([1.015], [wanted], clip_on=False, transform=ax.get_yaxis_transform(), **mark)
        elif len(steps) > 1:
            ax.plot(steps[-1:], [wanted], **mark)


def _draw_strength(ax: Axes, info: WeightsInfo, colors: Sequence[object]) -> None:
    style.plain_axes(ax)
    style.step_axis(ax)
    ax.set_title("sum of weights: strength of the step", loc="left", fontsize=style.TEXT, color=style.INK)
    ax.axhline(1.0, color=style.GREY, lw=0.9)
    for stretch, color in zip(info.stretches, colors, strict=True):
        _draw_line(ax, info.steps[stretch.rows], info.strength[stretch.rows, stretch.policy], color)


def _draw_steering(ax: Axes, info: WeightsInfo, i: int, colors: Sequence[object]) -> None:
    """The multiplier on one constraint; zero means that the limit is kept without being pushed."""
    assert info.steering is not None
    style.plain_axes(ax)
    style.step_axis(ax)
    ax.set_title(f"multiplier on {style.short(info.steered[i])}", loc="left", fontsize=style.TEXT, color=style.INK,
                 parse_math=False)  # fmt: skip
    ax.axhline(0.0, color=style.GREY, lw=0.9)
    plain = len(info.names) > 2
    for stretch, color in zip(info.stretches, colors, strict=True):
        shown = style.ALARM if plain else color
        _draw_line(ax, info.steps[stretch.rows], info.steering[stretch.rows, stretch.policy, i], shown)


def _draw_line(ax: Axes, steps: np.ndarray, values: np.ndarray, color: Any) -> None:
    """A stretch of a policy; one of a single step is a dot."""
    ax.plot(steps, values, color=color, lw=1.7, marker="" if len(steps) > 1 else ".")
