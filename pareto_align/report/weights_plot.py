"""What the weighting did: the weights each policy trained under, step by step."""

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


@dataclass(frozen=True, eq=False)
class WeightsInfo:
    """The weights of a run.

    Attributes:
        names: The m optimised objectives.
        steps: [s] training steps.
        shares: [s, K, m] each policy's weights divided by their sum: the trade it trained for.
        strength: [s, K] the sums: how hard it was pushed.
        stretches: What each policy was for, and through which steps.
    """

    names: tuple[str, ...]
    steps: np.ndarray
    shares: np.ndarray
    strength: np.ndarray
    stretches: tuple[Stretch, ...]

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
    return WeightsInfo(names, np.array([int(e["step"]) for e in steps]), shares, strength, stretches)


def draw_weights(info: WeightsInfo) -> Figure:
    """Draw the weights: a panel an objective (with two, the second mirrors the first), and the sums if they vary."""
    m = len(info.names)
    shown = [0] if m <= 2 else list(range(m))
    panels = len(shown) + info.varies
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = style.new_figure((6.6 if columns == 1 else 4.0 * columns + 0.6), 3.3 * rows + 0.75)
    grid = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    moved = "cut where a policy went on to another" if len(info.stretches) > info.shares.shape[1] else ""
    remarks = ("one line a policy", "triangles: the preference it was given", moved)
    style.header(figure, "Weights over the run", remarks)
    colors = style.preference_colors(np.array([stretch.preference for stretch in info.stretches]))
    for ax, i in zip(grid, shown, strict=False):
        _draw_share(ax, info, i, colors)
    if info.varies:
        _draw_strength(grid[len(shown)], info, colors)
    for ax in grid[panels:]:
        ax.set_visible(False)
    for ax in grid[max(0, panels - columns) : panels]:
        ax.set_xlabel("training step")
    style.preference_bar(figure, grid[:panels], info.names[0], info.names[1] if m == 2 else None)
    return figure


def _draw_share(ax: Axes, info: WeightsInfo, i: int, colors: Sequence[object]) -> None:
    style.plain_axes(ax)
    style.step_axis(ax)
    rest = f" (the rest on {info.names[1]})" if len(info.names) == 2 else ""
    ax.set_title(f"weight on {info.names[i]}{rest}", loc="left", fontsize=style.TEXT, color=style.INK,
                 parse_math=False)  # fmt: skip
    ax.set_ylim(-0.03, 1.03)
    for stretch, color in zip(info.stretches, colors, strict=True):
        steps, wanted = info.steps[stretch.rows], stretch.preference[i]
        _draw_line(ax, steps, info.shares[stretch.rows, stretch.policy, i], color)
        mark: dict[str, Any] = {"marker": "<", "ms": 6, "color": color, "mec": "white", "mew": 0.5, "ls": "none"}
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


def _draw_line(ax: Axes, steps: np.ndarray, values: np.ndarray, color: Any) -> None:
    """A stretch of a policy; one of a single step is a dot."""
    ax.plot(steps, values, color=color, lw=1.7, marker="" if len(steps) > 1 else ".")
