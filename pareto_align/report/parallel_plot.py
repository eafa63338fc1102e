"""Fronts of four objectives or more: one vertical scale each, better always on top, a member a line across.

Lines of one hue cannot be followed from scale to scale, so some are in colours that can be told apart, named at their
end, and the others are grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from pareto_align.report import style
from pareto_align.report.units import Axis, decimals, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pareto_align.report.limits import DrawnLimit

__all__ = ["draw_parallel", "highlighted"]

MANY = 8
"""Members up to which all are in colour."""


class ParallelInfo(Protocol):
    """What is drawn; `FrontInfo` says what each means."""

    @property
    def axes(self) -> tuple[Axis, ...]: ...
    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def values(self) -> np.ndarray: ...
    @property
    def low(self) -> np.ndarray: ...
    @property
    def high(self) -> np.ndarray: ...
    @property
    def fallen(self) -> np.ndarray: ...
    @property
    def untrained(self) -> np.ndarray | None: ...
    @property
    def limits(self) -> tuple[DrawnLimit, ...]: ...
    @property
    def title(self) -> str: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...


def highlighted(info: ParallelInfo, asked: Sequence[str] | None) -> list[int]:
    """Rows of the members that are drawn in colour, at most eight."""
    if asked is not None:
        return [info.ids.index(name) for name in dict.fromkeys(asked)][:MANY]
    if len(info.ids) <= MANY:
        return list(range(len(info.ids)))
    better = info.values * np.array([axis.sign for axis in info.axes])
    low, high = np.nanmin(better, axis=0), np.nanmax(better, axis=0)
    share = (better - low) / np.where(high > low, high - low, 1.0)
    balanced = int(np.argmax(np.nan_to_num(share, nan=-1.0).min(axis=1)))
    extremes = [int(np.nanargmax(better[:, i])) for i in range(better.shape[1])]
    return list(dict.fromkeys([balanced, *extremes]))[:MANY]


def draw_parallel(info: ParallelInfo, highlight: Sequence[str] | None = None) -> Figure:
    """Draw a front in parallel coordinates, its constraints as further scales with their limits."""
    m, extra = len(info.axes), len(info.limits)
    width = m + extra
    figure = style.new_figure(max(9.0, 1.95 * width + 1.7), 5.3)
    ax = figure.subplots()
    ax.set_facecolor(style.FACE)
    chosen = highlighted(info, highlight)
    grey = "grey: other members" if len(chosen) < len(info.ids) else ""
    remarks = [remark for remark in info.remarks if not remark.startswith("hollow")]
    style.header(figure, info.title, (*remarks, grey, "red: limits" if extra else ""))
    axes = [*info.axes, *(limit.axis for limit in info.limits)]

    def joined(values: np.ndarray, of_limits: list[np.ndarray]) -> np.ndarray:
        return np.column_stack([values, *of_limits]) if extra else values

    values = joined(info.values, [limit.values for limit in info.limits])
    low_ends = joined(info.low, [limit.low for limit in info.limits])
    high_ends = joined(info.high, [limit.high for limit in info.limits])
    untrained = None
    if info.untrained is not None:
        untrained = np.array([*info.untrained, *(limit.untrained for limit in info.limits)])
    fallen = np.column_stack([info.fallen, np.full((len(info.fallen), extra), np.nan)]) if extra else info.fallen
    bounds = np.array([*[np.nan] * m, *(limit.bound for limit in info.limits)])
    stacks = [values, fallen, np.fmin(low_ends, values), np.fmax(high_ends, values), bounds[None]]
    seen = np.vstack(stacks + ([] if untrained is None else [untrained[None]]))
    empty = np.isnan(seen).all(axis=0)
    seen = np.vstack([seen, np.where(empty, 0.0, np.nan)[None]])  # an empty front still has its scales
    low, high = np.nanmin(seen, axis=0), np.nanmax(seen, axis=0)
    high = np.where(high > low, high, low + 1.0)
    sign = np.array([axis.sign for axis in axes])

    def height(row: np.ndarray) -> np.ndarray:
        share = (row - low) / (high - low)
        return np.where(sign > 0, share, 1.0 - share)

    at = np.arange(width)
    for row in fallen:
        ax.plot(at[:m], height(row)[:m], color=style.FAINT, lw=0.9, zorder=1)
    for k in range(len(info.ids)):
        if k not in chosen:
            ax.plot(at, height(values[k]), color=style.GREY, lw=0.9, alpha=0.55, zorder=1.5)
    if untrained is not None:
        ax.plot(at, height(untrained), color=style.INK, lw=1.4, ls=(0, (4, 2)), marker="D", ms=5.5, mfc=style.FACE,
                zorder=4)  # fmt: skip
    colors = style.distinct_colors(len(chosen))
    arms = np.nan_to_num(np.maximum([values - low_ends, high_ends - values], 0.0))
    arms = np.where(sign > 0, arms, arms[::-1])  # a scale that is turned round has its lower end on top
    for place, (k, color) in enumerate(zip(chosen, colors, strict=True)):
        # a small sideways shift, so that bars of several members on one scale can be told apart
        x = at + 0.018 * (place - (len(chosen) - 1) / 2)
        ax.plot(x, height(values[k]), color=color, lw=1.8, marker="o", ms=5.5, mec=style.FACE, mew=0.7, zorder=3)
        ax.errorbar(x, height(values[k]), yerr=arms[:, k] / (high - low), fmt="none", ecolor=color, elinewidth=1.2,
                    alpha=0.6, zorder=2)  # fmt: skip
    _scales(ax, axes, info.limits, values, (high_ends - low_ends) / 2, low, high)
    for i, limit in enumerate(info.limits, start=m):
        y = float(height(np.where(np.arange(width) == i, limit.bound, low))[i])
        ax.add_patch(Rectangle((i - 0.12, 0), 0.24, y, fc="none", ec=style.FAINT, hatch="////", lw=0, zorder=0.5))
        ax.plot([i - 0.16, i + 0.16], [y, y], color=style.ALARM, lw=2.0, zorder=3.5, label="limit")
    ends = [(info.ids[k], float(height(values[k])[-1]), color) for k, color in zip(chosen, colors, strict=True)]
    if untrained is not None:
        ends.append(("untrained", float(height(untrained)[-1]), style.INK))
    _name_lines(ax, at[-1] + 0.2, ends)
    return figure


def _name_lines(ax: Axes, x: float, ends: Sequence[tuple[str, float, Any]]) -> None:
    """Names beside the last scale, in the order of the lines, pushed apart where they would touch."""
    gap = 0.062
    ends = sorted((row for row in ends if np.isfinite(row[1])), key=lambda row: row[1])
    heights: list[float] = []
    for _, y, _ in ends:
        heights.append(max(y, heights[-1] + gap) if heights else y)
    # what was pushed beyond the top comes down again, and pushes what is below it
    limit = max(1.0, gap * len(heights))
    for k in reversed(range(len(heights))):
        heights[k] = min(heights[k], limit)
        limit = heights[k] - gap
    for (name, _, color), y in zip(ends, heights, strict=True):
        ax.text(x, y, style.short(name, 14), ha="left", va="center", fontsize=style.SMALL - 0.5, color=color,
                parse_math=False)  # fmt: skip


def _scales(
    ax: Axes, axes: Sequence[Axis], limits: Sequence[DrawnLimit], values: np.ndarray, halfwidth: np.ndarray,
    low: np.ndarray, high: np.ndarray,
) -> None:  # fmt: skip
    """Vertical rules with the best and the worst value at their ends and the objective's name on top."""
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_yticks([])
    ax.set_xticks([])
    told = ["", *[""] * (len(axes) - len(limits) - 1), *(limit.told for limit in limits)]
    ax.set(xlim=(-0.55, len(axes) - 1 + 1.0), ylim=(-0.12, 1.36))
    for i, axis in enumerate(axes):
        digits = decimals(halfwidth[:, i], values[:, i])
        best, worst = (high[i], low[i]) if axis.maximize else (low[i], high[i])
        ax.plot([i, i], [0, 1], color=style.GREY, lw=0.8, zorder=0)
        head = style.wrapped(axis.name, line=19) + (f"\n{told[i]}" if told[i] else "")
        ax.text(i, 1.115, head, ha="center", va="bottom", fontsize=style.SMALL + 0.5, color=style.INK,
                linespacing=1.15, parse_math=False)  # fmt: skip
        top = f"{number(best, digits)} {'▲' if axis.maximize else '▼'}"
        for y, text, side in ((1.03, top, "bottom"), (-0.035, number(worst, digits), "top")):
            ax.text(i, y, text, ha="center", va=side, fontsize=style.SMALL, color=style.SOFT, parse_math=False)
    ax.text(-0.48, 0.5, "better →", rotation=90, ha="center", va="center", fontsize=style.SMALL, color=style.SOFT)
