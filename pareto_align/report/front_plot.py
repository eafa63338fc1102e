"""The front itself: every member with its interval, what fell, and where the untrained model stands.

Two objectives make one panel, three make their three pairs, more make parallel coordinates, one makes a list. Each
constraint has a panel of its own, with its limit and the side that misses it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pareto_align.errors import ConfigError
from pareto_align.report import style
from pareto_align.report.attained import Hypervolume, attained_boundary, front_hypervolume
from pareto_align.report.limits import DrawnLimit, draw_limit, limits_info
from pareto_align.report.parallel_plot import draw_parallel
from pareto_align.report.units import (
    Axis,
    axes_of,
    fallen_of,
    measured,
    optimized,
    preferences_of,
    reference_measured,
    shown_record,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pareto_align.front.storage import FrontRecord

__all__ = ["FrontInfo", "draw_front", "front_info"]

FEW, CROWD = 14, 20
"""Members from which on not all find room for a name, and from which on a band stands for their intervals."""
NAMED = "members are named where there is room"


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
        limits: The constraints, and where the members stand to them.
        ceilings: Of each two objectives, in order, the front that the labels allow, [n, 2]; none where answers are
            judged.
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
    limits: tuple[DrawnLimit, ...] = ()
    ceilings: tuple[np.ndarray, ...] = ()

    def ceiling(self, i: int, j: int) -> np.ndarray | None:
        """`[n, 2]` of objectives i < j; None where it is not known."""
        pairs = itertools.combinations(range(len(self.axes)), 2)
        return dict(zip(pairs, self.ceilings, strict=False)).get((i, j))

    @property
    def unsure(self) -> np.ndarray:
        """[n] whether a member keeps some limit in the mean at most: its whole interval does not."""
        kept = [limit.surely for limit in self.limits]
        return ~np.logical_and.reduce(kept) if kept else np.zeros(len(self.ids), dtype=bool)

    @property
    def halfwidth(self) -> np.ndarray:
        """[n, m] half the widths of the intervals."""
        return np.asarray((self.high - self.low) / 2)

    @property
    def title(self) -> str:
        """What is seen, in one line."""
        names = " / ".join(style.short(axis.name) for axis in self.axes)
        names = names if len(self.axes) < 4 else f"{len(self.axes)} objectives"
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
        hollow = "hollow: a limit is not kept beyond noise" if self.unsure.any() else ""
        told = (size, f"{count} {unit} prompts, {bars}", "grey: not kept" if len(self.fallen) else "")
        allowed = "dashed: the most that the labels allow" if any(len(curve) for curve in self.ceilings) else ""
        return (*told, *filter(None, (hollow, allowed)))


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
        limits=limits_info(record),
        ceilings=tuple(np.reshape(curve, (-1, 2)) for curve in record.ceilings),
    )


def draw_front(info: FrontInfo, *, labels: bool = True, highlight: Sequence[str] | None = None) -> Figure:
    """Draw a front.

    Args:
        info: What `front_info` gathered.
        labels: Whether members are named.
        highlight: With four objectives or more: the members that are drawn in colour; by default all of up to eight,
            else the best one of each objective and the one whose worst objective is best.

    Returns:
        A matplotlib figure that belongs to nobody: save it, show it, or go on drawing on it.

    Raises:
        ConfigError: A member to highlight is none.
    """
    m = len(info.axes)
    if unknown := sorted(set(highlight or ()) - set(info.ids)):
        raise ConfigError(f"There is no member {unknown[0]!r} to highlight. The front has {', '.join(info.ids)}.")
    if m == 1:
        return _draw_list(info)
    if m == 2:
        return _draw_two(info, labels)
    if m == 3:
        return _draw_three(info, labels)
    return draw_parallel(info, highlight)


def _draw_two(info: FrontInfo, labels: bool) -> Figure:
    rows = len(info.limits)
    figure = style.new_figure(7.0, 4.9 + 1.6 * rows)
    panels = figure.subplots(1 + rows, 1, sharex=True, squeeze=False, height_ratios=[4.0, *[1.5] * rows])[:, 0]
    style.header(figure, info.title, (*info.remarks, NAMED if labels and len(info.ids) > FEW else ""))
    colors = style.preference_colors(info.preferences)
    _draw_pair(panels[0], info, 0, 1, colors)
    for ax, limit in zip(panels[1:], info.limits, strict=True):
        _draw_limit_panel(ax, info, limit, colors)
    if rows:
        panels[0].set_xlabel("")
        panels[-1].set_xlabel(style.axis_label(info.axes[0]), parse_math=False)
    style.preference_bar(figure, list(panels), info.axes[0].name, info.axes[1].name)
    if labels:
        _label(panels[0], info, 0, 1)
    return figure


def _draw_three(info: FrontInfo, labels: bool) -> Figure:
    rows = 1 + -(-len(info.limits) // 3)
    figure = style.new_figure(13.0, 4.5 + 2.3 * (rows - 1))
    grid = figure.subplots(rows, 4, squeeze=False, width_ratios=[1, 1, 1, 0.55],
                           height_ratios=[3.6, *[2.0] * (rows - 1)])  # fmt: skip
    third = "larger dots: better in the objective that a panel leaves out, which may be why one lies below the line"
    style.header(figure, info.title, (*info.remarks, third, NAMED if labels and len(info.ids) > FEW else ""))
    pairs = list(itertools.combinations(range(3), 2))
    colors = style.mixed_colors(info.preferences)
    for ax, (i, j) in zip(grid[0], pairs, strict=False):
        _draw_pair(ax, info, i, j, colors, 3 - i - j)
    style.preference_triangle(grid[0, 3], [axis.name for axis in info.axes], info.preferences)
    below = list(grid[1:, :3].ravel())
    for ax, limit in zip(below, info.limits, strict=False):
        _draw_limit_panel(ax, info, limit, colors)
        ax.set_xlabel(style.axis_label(info.axes[0]), parse_math=False)
    for ax in [*below[len(info.limits) :], *grid[1:, 3]]:
        ax.set_visible(False)
    if labels:
        for ax, (i, j) in zip(grid[0], pairs, strict=False):
            _label(ax, info, i, j)
    return figure


def _draw_pair(ax: Axes, info: FrontInfo, i: int, j: int, colors: Sequence[Any], third: int | None = None) -> None:
    """One panel: objective i across, objective j up, and the size of a dot by a third one if there is one."""
    pair = (info.axes[i], info.axes[j])
    style.plain_axes(ax)
    style.axis_labels(ax, *pair)
    ax.margins(0.09)
    boundary = attained_boundary(info.values[:, [i, j]], pair)
    if len(info.fallen):
        ax.plot(info.fallen[:, i], info.fallen[:, j], "o", ms=4.2, mfc=style.LEFT, mec=style.FACE, mew=0.5, zorder=2)
    if info.untrained is not None and info.untrained_ends is not None:
        arms = _arms(info.untrained, *info.untrained_ends)
        ax.errorbar(info.untrained[i], info.untrained[j], xerr=arms[:, [i]], yerr=arms[:, [j]], fmt="D", ms=6.5,
                    mfc=style.FACE, mec=style.INK, mew=1.3, ecolor=style.INK, elinewidth=1.0, zorder=5)  # fmt: skip
    if len(info.ids) > CROWD:
        _draw_band(ax, info, i, j)
    else:
        arms = _arms(info.values, info.low, info.high)
        for k, color in enumerate(colors):
            ax.errorbar(info.values[k, i], info.values[k, j], xerr=arms[:, k, [i]], yerr=arms[:, k, [j]], fmt="none",
                        ecolor=color, elinewidth=1.3, alpha=0.55, zorder=3)  # fmt: skip
    sizes: Any = 52.0
    if third is not None and len(info.ids):
        better = info.values[:, third] * info.axes[third].sign
        span = float(np.nanmax(better) - np.nanmin(better)) or 1.0
        sizes = 26.0 + 78.0 * np.nan_to_num((better - np.nanmin(better)) / span)
    faces = [style.FACE if hollow else color for hollow, color in zip(info.unsure, colors, strict=True)]
    edges = [color if hollow else style.FACE for hollow, color in zip(info.unsure, colors, strict=True)]
    widths = [1.8 if hollow else 0.9 for hollow in info.unsure]
    ax.scatter(info.values[:, i], info.values[:, j], s=sizes, c=faces, edgecolors=edges, linewidths=widths, zorder=4)
    if (allowed := info.ceiling(i, j)) is not None:
        ax.plot(*allowed.T, color=style.INK, lw=1.1, ls=(0, (5, 3)), zorder=1.2)
    ax.autoscale_view()
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    _draw_boundary(ax, boundary, pair)


def _draw_band(ax: Axes, info: FrontInfo, i: int, j: int) -> None:
    """Where many crosses would be a carpet: the band between what the lower and the upper ends attain."""
    pair = (info.axes[i], info.axes[j])
    worse, better = [], []
    for low, high, axis in ((info.low[:, i], info.high[:, i], pair[0]), (info.low[:, j], info.high[:, j], pair[1])):
        worse.append(low if axis.maximize else high)
        better.append(high if axis.maximize else low)
    inner, outer = (attained_boundary(np.stack(ends, axis=1), pair) for ends in (worse, better))
    if len(inner) and len(outer):
        ax.fill(*np.vstack([inner, outer[::-1]]).T, color=style.ACCENT, alpha=0.16, lw=0, zorder=1.5)


def _draw_limit_panel(ax: Axes, info: FrontInfo, limit: DrawnLimit, colors: Sequence[Any]) -> None:
    """A constrained objective over the first optimised one, with its limit."""
    style.plain_axes(ax)
    ax.margins(0.09, 0.18)
    arms = _arms(limit.values, limit.low, limit.high)
    for k, color in enumerate(colors):
        sure = bool(limit.surely[k])
        ax.errorbar(info.values[k, 0], limit.values[k], yerr=arms[:, [k]], fmt="o", ms=5.5, color=color, elinewidth=1.2,
                    mfc=color if sure else style.FACE, mec=style.FACE if sure else color, mew=0.7 if sure else 1.4,
                    zorder=3)  # fmt: skip
    if info.untrained is not None and np.isfinite(limit.untrained):
        ax.plot(info.untrained[0], limit.untrained, "D", ms=5.5, mfc=style.FACE, mec=style.INK, mew=1.2, zorder=3)
    draw_limit(ax, limit.bound, limit.axis.maximize)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=3))
    ax.set_ylabel(f"{style.wrapped(limit.axis.name, line=16)}\n{limit.told}", fontsize=style.SMALL, parse_math=False)


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
    points, names = info.values[:, [i, j]], [style.short(name) for name in info.ids]
    bars = _arms(info.values, info.low, info.high).max(axis=0)[:, [i, j]]
    if info.untrained is not None and info.untrained_ends is not None:
        # first, so that it finds a place even where members are many
        points = np.vstack([info.untrained[[i, j]], points])
        bars = np.vstack([_arms(info.untrained, *info.untrained_ends).max(axis=0)[[i, j]], bars])
        names.insert(0, "untrained")
    away = np.array([info.axes[i].sign, info.axes[j].sign])
    obstacles = [info.fallen[:, [i, j]], *(() if (allowed := info.ceiling(i, j)) is None else (allowed,))]
    style.place_labels(ax, points, names, away=away, obstacles=obstacles, halfwidth=bars)


def _draw_list(info: FrontInfo) -> Figure:
    """A single objective has no trade: members in a column, best on top; each constraint beside it."""
    order = np.argsort(info.values[:, 0] * info.axes[0].sign)
    columns = 1 + len(info.limits)
    figure = style.new_figure(7.0 + 2.6 * len(info.limits), 1.9 + 0.32 * (len(order) + 1))
    panels = figure.subplots(1, columns, sharey=True, squeeze=False, width_ratios=[4.0, *[1.8] * (columns - 1)])[0]
    style.header(figure, info.title, info.remarks)
    ax = panels[0]
    style.plain_axes(ax, grid="x")
    names = [style.short(info.ids[k]) for k in order]
    arms = _arms(info.values, info.low, info.high)[:, order, 0]
    rows = np.arange(len(order))
    ax.errorbar(info.values[order, 0], rows, xerr=arms, fmt="o", ms=7, color=style.ACCENT, elinewidth=1.4)
    hollow = info.unsure[order]
    ax.plot(info.values[order, 0][hollow], rows[hollow], "o", ms=7, mfc=style.FACE, mec=style.ACCENT, mew=1.6,
            zorder=3)  # fmt: skip
    if info.untrained is not None and info.untrained_ends is not None:
        ax.axvline(info.untrained[0], color=style.INK, lw=1.0, ls=(0, (5, 3)), zorder=1)
        ax.errorbar(info.untrained[0], -1, xerr=_arms(info.untrained, *info.untrained_ends)[:, [0]], fmt="D", ms=6.5,
                    mfc=style.FACE, mec=style.INK, ecolor=style.INK)  # fmt: skip
        names, rows = ["untrained", *names], np.arange(-1, len(order))
    ax.set_yticks(rows, names, parse_math=False)
    ax.set_xlabel(style.axis_label(info.axes[0]), parse_math=False)
    for side, limit in zip(panels[1:], info.limits, strict=True):
        style.plain_axes(side, grid="x")
        side.tick_params(axis="y", length=0)
        bars = _arms(limit.values, limit.low, limit.high)[:, order]
        side.errorbar(limit.values[order], np.arange(len(order)), xerr=bars, fmt="o", ms=6, color=style.ACCENT)
        missed = ~limit.surely[order]
        side.plot(limit.values[order][missed], np.arange(len(order))[missed], "o", ms=6, mfc=style.FACE,
                  mec=style.ACCENT, mew=1.4, zorder=3)  # fmt: skip
        if np.isfinite(limit.untrained):
            side.plot(limit.untrained, -1, "D", ms=6, mfc=style.FACE, mec=style.INK)
        draw_limit(side, limit.bound, limit.axis.maximize, along="x")
        side.xaxis.set_major_locator(MaxNLocator(nbins=3))
        side.set_xlabel(f"{style.wrapped(limit.axis.name, line=20)}\n{limit.told}", parse_math=False)
    ax.set_yticks(rows, names, parse_math=False)
    return figure
