"""The front itself: every member with its interval, what fell, and where the untrained model stands.

Two objectives make one panel, three make their three pairs, more make parallel coordinates, one makes a list.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from pareto_align.report import style
from pareto_align.report.attained import Hypervolume, attained_boundary, front_hypervolume
from pareto_align.report.units import (
    Axis,
    axes_of,
    decimals,
    fallen_of,
    measured,
    number,
    optimized,
    preferences_of,
    reference_measured,
    shown_record,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pareto_align.front.storage import FrontRecord

__all__ = ["FrontInfo", "draw_front", "front_info"]


@dataclass(frozen=True, eq=False)
class FrontInfo:
    """The numbers of a front's picture, in the user's units. m: optimised objectives.

    Attributes:
        axes: The m objectives that span the front.
        ids: The n members.
        values: [n, m] means.
        low: [n, m] lower ends of 95 % intervals, NaN where the spread is not known.
        high: [n, m] upper ends, likewise.
        preferences: [n, m], rows of NaN for members without one.
        fallen_ids: What was measured and did not stay.
        fallen: [f, m] its means.
        untrained: [m] means of the untrained model, or None.
        untrained_ends: [2, m] the ends of its intervals, or None.
        boundary: Corners of the attained boundary, [2k - 1, 2]; None unless m = 2.
        hypervolume: With its interval, or None if it cannot be computed.
        prompts: How many prompts each mean is over: (fewest, most).
        split: "select" or "report".
        base: The base model's name, "" if it has none.
        grouped: Whether groups of prompts are the units, and what `prompts` counts.
    """

    axes: tuple[Axis, ...]
    ids: tuple[str, ...]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    preferences: np.ndarray
    fallen_ids: tuple[str, ...]
    fallen: np.ndarray
    untrained: np.ndarray | None
    untrained_ends: np.ndarray | None
    boundary: np.ndarray | None
    hypervolume: Hypervolume | None
    prompts: tuple[int, int]
    split: str
    base: str
    grouped: bool = False

    @property
    def halfwidth(self) -> np.ndarray:
        """[n, m] half the widths of the intervals."""
        return np.asarray((self.high - self.low) / 2)

    @property
    def title(self) -> str:
        """What is seen, in one line."""
        names = " / ".join(axis.name for axis in self.axes)
        count = len(self.ids)
        return f"{count} adapter{'' if count == 1 else 's'} on {names}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """The one number, on which prompts, and what is grey."""
        low, high = self.prompts
        count = str(high) if low == high else f"{low} to {high}"
        volume = self.hypervolume
        size = "" if volume is None else f"hypervolume {volume.value:.3f}"
        if volume is not None and np.isfinite([volume.low, volume.high]).all():
            size += f" ({volume.low:.3f} to {volume.high:.3f})"
        bars = "95 % intervals" if np.isfinite(self.halfwidth).any() else "intervals not known"
        kind = "report" if self.split == "report" else "selection"
        unit = f"groups of {kind}" if self.grouped else kind
        return (size, f"{count} {unit} prompts, {bars}", "grey: not kept" if len(self.fallen) else "")


def front_info(record: FrontRecord) -> FrontInfo:
    """Gather what `draw_front` draws from a front's record."""
    record = shown_record(record)
    everything = axes_of(record)
    columns = list(optimized(record))
    axes = tuple(everything[i] for i in columns)
    members = measured(record)
    fallen, _ = fallen_of(record)
    reference = reference_measured(record)
    values = members.values[:, columns]
    return FrontInfo(
        axes=axes,
        ids=members.ids,
        values=values,
        low=members.low[:, columns],
        high=members.high[:, columns],
        preferences=preferences_of(record),
        fallen_ids=fallen.ids,
        fallen=fallen.values[:, columns],
        untrained=None if reference is None else reference.values[0, columns],
        untrained_ends=None if reference is None else np.stack([reference.low[0, columns], reference.high[0, columns]]),
        boundary=attained_boundary(values, axes) if len(axes) == 2 else None,
        hypervolume=front_hypervolume(record) if record.members else None,
        prompts=(min(members.n, default=0), max(members.n, default=0)),
        split=record.split,
        base=str(record.base.get("name") or ""),
        grouped=any(member.estimate.groups is not None for member in record.members),
    )


def draw_front(info: FrontInfo, *, labels: bool = True) -> Figure:
    """Draw a front.

    Args:
        info: What `front_info` gathered.
        labels: Whether members are named.

    Returns:
        A matplotlib figure that belongs to nobody: save it, show it, or go on drawing on it.
    """
    m = len(info.axes)
    if m == 1:
        return _draw_list(info)
    if m == 2:
        figure = style.new_figure(7.0, 4.9)
        ax = figure.subplots()
        style.header(figure, info.title, info.remarks)
        _draw_pair(ax, info, 0, 1)
        style.preference_bar(figure, ax, info.axes[0].name, info.axes[1].name)
        if labels:
            _label(ax, info, 0, 1)
        return figure
    if m == 3:
        figure = style.new_figure(11.5, 4.3)
        panels = list(figure.subplots(1, 3))
        style.header(figure, info.title, info.remarks)
        pairs = list(itertools.combinations(range(3), 2))
        for ax, (i, j) in zip(panels, pairs, strict=True):
            _draw_pair(ax, info, i, j)
        style.preference_bar(figure, panels, info.axes[0].name)
        if labels:
            for ax, (i, j) in zip(panels, pairs, strict=True):
                _label(ax, info, i, j)
        return figure
    return _draw_parallel(info)


def _draw_pair(ax: Axes, info: FrontInfo, i: int, j: int) -> None:
    """One panel: objective i across, objective j up."""
    pair = (info.axes[i], info.axes[j])
    style.plain_axes(ax)
    style.axis_labels(ax, *pair)
    ax.margins(0.09)
    boundary = attained_boundary(info.values[:, [i, j]], pair)
    if len(info.fallen):
        ax.plot(info.fallen[:, i], info.fallen[:, j], "o", ms=4.2, mfc="#c3c7cd", mec="white", mew=0.5, zorder=2)
    if info.untrained is not None and info.untrained_ends is not None:
        arms = _arms(info.untrained, *info.untrained_ends)
        ax.errorbar(info.untrained[i], info.untrained[j], xerr=arms[:, [i]], yerr=arms[:, [j]], fmt="D", ms=6.5,
                    mfc="white", mec=style.INK, mew=1.3, ecolor=style.INK, elinewidth=1.0, zorder=5)  # fmt: skip
    colors = style.preference_colors(info.preferences)
    arms = _arms(info.values, info.low, info.high)
    for k, color in enumerate(colors):
        ax.errorbar(info.values[k, i], info.values[k, j], xerr=arms[:, k, [i]], yerr=arms[:, k, [j]], fmt="none",
                    ecolor=color, elinewidth=1.3, alpha=0.55, zorder=3)  # fmt: skip
    ax.scatter(info.values[:, i], info.values[:, j], s=52, c=colors, edgecolors="white", linewidths=0.9, zorder=4)
    ax.autoscale_view()
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    _draw_boundary(ax, boundary, pair)


def _arms(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """[2, ...] how far the intervals reach below and above the values; 0 where they are not known."""
    return np.nan_to_num(np.maximum([values - low, high - values], 0.0))


def _draw_boundary(ax: Axes, boundary: np.ndarray, pair: tuple[Axis, Axis]) -> None:
    """The attained steps, run out to the panel's edge on the worse side, over a faint fill of what they dominate."""
    if not len(boundary):
        return
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    worst_x = x0 if pair[0].maximize else x1
    worst_y = y0 if pair[1].maximize else y1
    first, last = boundary[0], boundary[-1]
    line = np.vstack([[worst_x, first[1]], boundary, [last[0], worst_y]])
    ax.fill(*np.vstack([line, [worst_x, worst_y]]).T, color=style.ACCENT, alpha=0.055, lw=0, zorder=0)
    ax.plot(*line.T, color=style.GREY, lw=1.1, zorder=1)


def _label(ax: Axes, info: FrontInfo, i: int, j: int) -> None:
    points, names = info.values[:, [i, j]], list(info.ids)
    bars = _arms(info.values, info.low, info.high).max(axis=0)[:, [i, j]]
    if info.untrained is not None and info.untrained_ends is not None:
        # first, so that it finds a place even where members are many
        points = np.vstack([info.untrained[[i, j]], points])
        bars = np.vstack([_arms(info.untrained, *info.untrained_ends).max(axis=0)[[i, j]], bars])
        names.insert(0, "untrained")
    away = np.array([info.axes[i].sign, info.axes[j].sign])
    style.place_labels(ax, points, names, away=away, obstacles=[info.fallen[:, [i, j]]], halfwidth=bars)


def _draw_list(info: FrontInfo) -> Figure:
    """A single objective has no trade: members in a column, best on top."""
    order = np.argsort(info.values[:, 0] * info.axes[0].sign)
    figure = style.new_figure(7.0, 1.6 + 0.32 * (len(order) + 1))
    ax = figure.subplots()
    style.header(figure, info.title, info.remarks)
    style.plain_axes(ax, grid="x")
    names = [info.ids[k] for k in order]
    arms = _arms(info.values, info.low, info.high)[:, order, 0]
    rows = np.arange(len(order))
    ax.errorbar(info.values[order, 0], rows, xerr=arms, fmt="o", ms=7, color=style.ACCENT, elinewidth=1.4)
    if info.untrained is not None and info.untrained_ends is not None:
        ax.errorbar(info.untrained[0], -1, xerr=_arms(info.untrained, *info.untrained_ends)[:, [0]], fmt="D", ms=6.5,
                    mfc="white", mec=style.INK, ecolor=style.INK)  # fmt: skip
        names, rows = ["untrained", *names], np.arange(-1, len(order))
    ax.set_yticks(rows, names, parse_math=False)
    ax.set_xlabel(info.axes[0].label, parse_math=False)
    return figure


def _draw_parallel(info: FrontInfo) -> Figure:
    """One vertical scale an objective, better always on top; a member is a line across."""
    m = len(info.axes)
    figure = style.new_figure(max(7.5, 2.0 * m), 4.9)
    ax = figure.subplots()
    style.header(figure, info.title, info.remarks)
    stacks = [info.values, info.fallen] + ([] if info.untrained is None else [info.untrained[None]])
    seen = np.vstack(stacks)
    with_bars = np.vstack([seen, np.fmin(info.low, info.values), np.fmax(info.high, info.values)])
    known = with_bars if len(with_bars) else np.zeros((1, m))  # an empty front still has its scales
    low, high = np.nanmin(known, axis=0), np.nanmax(known, axis=0)
    high = np.where(high > low, high, low + 1.0)
    sign = np.array([axis.sign for axis in info.axes])

    def height(values: np.ndarray) -> np.ndarray:
        share = (values - low) / (high - low)
        return np.where(sign > 0, share, 1.0 - share)

    at = np.arange(m)
    for row in info.fallen:
        ax.plot(at, height(row), color=style.FAINT, lw=0.9, zorder=1)
    if info.untrained is not None:
        ax.plot(at, height(info.untrained), color=style.INK, lw=1.4, ls=(0, (4, 2)), marker="D", ms=5.5, mfc="white",
                zorder=4)  # fmt: skip
    arms = _arms(info.values, info.low, info.high)
    arms = np.where(sign > 0, arms, arms[::-1])  # a scale that is turned round has its lower end on top
    for k, color in enumerate(style.preference_colors(info.preferences)):
        y = height(info.values[k])
        bar = arms[:, k] / (high - low)
        # a small sideways shift, so that bars of several members on one scale can be told apart
        x = at + 0.012 * (k - (len(info.ids) - 1) / 2)
        ax.plot(x, y, color=color, lw=1.8, marker="o", ms=5.5, mec="white", mew=0.7, zorder=3)
        ax.errorbar(x, y, yerr=bar, fmt="none", ecolor=color, elinewidth=1.2, alpha=0.55, zorder=2)
    _scales(ax, info, at, low, high)
    ends = {name: float(height(row)[-1]) for name, row in zip(info.ids, info.values, strict=True)}
    if info.untrained is not None:
        ends["untrained"] = float(height(info.untrained)[-1])
    _name_lines(ax, at[-1] + 0.14, ends)
    style.preference_bar(figure, ax, info.axes[0].name)
    return figure


def _name_lines(ax: Axes, x: float, ends: dict[str, float]) -> None:
    """Names beside the last scale, in the order of the lines, pushed apart where they would touch."""
    gap = 0.052
    heights: list[float] = []
    for y in sorted(ends.values()):
        heights.append(max(y, heights[-1] + gap) if heights else y)
    # what was pushed beyond the top comes down again, and pushes what is below it
    limit = max(1.02, gap * len(heights))
    for k in reversed(range(len(heights))):
        heights[k] = min(heights[k], limit)
        limit = heights[k] - gap
    for name, y in zip(sorted(ends, key=lambda name: ends[name]), heights, strict=True):
        ax.text(x, y, name, ha="left", va="center", fontsize=style.SMALL - 0.5, color="#3d424a", parse_math=False)


def _scales(ax: Axes, info: FrontInfo, at: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Vertical rules with the best and the worst value at their ends and the objective's name on top."""
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_yticks([])
    ax.set_xticks([])
    ax.set(xlim=(-0.4, at[-1] + 0.75), ylim=(-0.09, 1.2))
    for i, axis in enumerate(info.axes):
        digits = decimals(info.halfwidth[:, i], info.values[:, i])
        best, worst = (high[i], low[i]) if axis.maximize else (low[i], high[i])
        ax.plot([i, i], [0, 1], color=style.GREY, lw=0.8, zorder=0)
        kinds: list[tuple[float, str, str, dict[str, Any]]] = [
            (1.125, axis.name, "bottom", {"fontsize": style.TEXT, "color": style.INK}),
            (1.04, f"{number(best, digits)} {'▲' if axis.maximize else '▼'}", "bottom", {"fontsize": style.SMALL}),
            (-0.04, number(worst, digits), "top", {"fontsize": style.SMALL}),
        ]
        for y, text, side, font in kinds:
            ax.text(i, y, text, ha="center", va=side, parse_math=False, **{"color": "#50555e", **font})
    ax.text(-0.36, 0.5, "better →", rotation=90, ha="center", va="center", fontsize=style.SMALL, color="#50555e")
