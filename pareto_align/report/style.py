"""How our figures look: one type scale, one palette, no global state.

Sizes are chosen so that a figure still reads when it is shown at half its width, in a README column or on a slide.
Colors survive the common color-vision deficiencies and a grey printer: preference runs along viridis without its
pale end, everything that is not the point of a figure is grey.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pareto_align.report.units import Axis

__all__ = [
    "ACCENT",
    "FAINT",
    "GREY",
    "INK",
    "ReportFigure",
    "header",
    "new_figure",
    "place_labels",
    "plain_axes",
    "preference_bar",
    "preference_colors",
    "step_axis",
]

INK = "#1c1f24"
GREY = "#8a8f98"
FAINT = "#d5d8dd"
ACCENT = "#31688e"
NO_PREFERENCE = "#5b6068"
TITLE, TEXT, SMALL = 13.0, 10.5, 9.0

_SEPARATOR = "   ·   "
_TICK_STEPS = [1, 2, 2.5, 5, 10]
_PREFERENCE: Colormap = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.9, 256)), name="preference")


class ReportFigure(Figure):
    """A matplotlib figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def new_figure(width: float, height: float) -> ReportFigure:
    """An empty figure of so many inches, with an Agg canvas and constrained layout."""
    figure = ReportFigure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def header(figure: Figure, title: str, remarks: Sequence[str] = ()) -> None:
    """Title and small print, at the left edge, in a strip the axes keep clear of.

    A title that is too long for the figure is set smaller, remarks that are go on to the next line.
    """
    width, height = figure.get_size_inches()
    pad = 0.10
    size = min(TITLE, 72.0 * (width - 2 * pad) / (0.68 * max(len(title), 1)))
    figure.text(pad / width, 1 - pad / height, title, ha="left", va="top", fontsize=size, color=INK,
                fontweight="bold", parse_math=False)  # fmt: skip
    room = int(72.0 * (width - 2 * pad) / (0.56 * SMALL))
    lines: list[str] = []
    for remark in filter(None, remarks):
        if lines and len(lines[-1]) + len(_SEPARATOR) + len(remark) <= room:
            lines[-1] += _SEPARATOR + remark
        else:
            lines.append(remark)
    figure.text(pad / width, 1 - 0.36 / height, "\n".join(lines), ha="left", va="top", fontsize=SMALL,
                color="#50555e", parse_math=False)  # fmt: skip
    strip = 0.42 + 0.17 * len(lines)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.0, 0.0, 1.0, 1.0 - strip / height), w_pad=0.08, h_pad=0.06)


def plain_axes(ax: Axes, *, grid: str = "both") -> None:
    """Two spines, few ticks, a grid that stays behind the data."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GREY)
        ax.spines[side].set_linewidth(0.8)
    ax.tick_params(labelsize=SMALL, colors=INK, width=0.8, length=3.5)
    ax.tick_params(axis="both", color=GREY)
    ax.grid(True, axis=grid, color="#eceef1", linewidth=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    ax.xaxis.label.set(size=TEXT, color=INK)
    ax.yaxis.label.set(size=TEXT, color=INK)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=_TICK_STEPS))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=_TICK_STEPS))


def preference_colors(preferences: np.ndarray) -> list[Any]:
    """A color a row of `preferences` [n, m]: its weight on the first objective along viridis, dark grey without one."""
    first = preferences[:, 0] if preferences.size else np.full(len(preferences), np.nan)
    return [NO_PREFERENCE if np.isnan(w) else _PREFERENCE(float(w)) for w in first]


def preference_bar(figure: Figure, axes: Axes | Sequence[Axes], first: str, second: str | None = None) -> None:
    """The key to the colors, beside the panels.

    Args:
        figure: Where it goes.
        axes: The panels it belongs to.
        first: The objective that is named at the upper end.
        second: The objective at the lower end; with more than two objectives there is none to name.
    """
    scale = ScalarMappable(norm=Normalize(0.0, 1.0), cmap=_PREFERENCE)
    target: Any = axes if isinstance(axes, Axes) else list(axes)
    bar = figure.colorbar(scale, ax=target, fraction=0.045, pad=0.02, aspect=28)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_ticks([0.0, 0.5, 1.0], labels=["0", "0.5", "1"])
    bar.ax.tick_params(labelsize=SMALL, colors=INK, length=0, pad=4)
    label = f"preference for {first}" if second is None else f"preference  {second} → {first}"
    bar.set_label(label, fontsize=SMALL + 0.5, color=INK, labelpad=6, parse_math=False)


def step_axis(ax: Axes) -> None:
    """Training steps along the bottom: whole numbers."""
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=_TICK_STEPS))


def axis_labels(ax: Axes, x: Axis, y: Axis) -> None:
    """Name both objectives and which way is better."""
    ax.set_xlabel(x.label, parse_math=False)
    ax.set_ylabel(y.label, parse_math=False)


def place_labels(
    ax: Axes,
    points: np.ndarray,
    texts: Sequence[str],
    *,
    away: np.ndarray,
    obstacles: Iterable[np.ndarray] = (),
    halfwidth: np.ndarray | None = None,
    size: float = SMALL - 0.5,
    color: str = "#3d424a",
) -> int:
    """Put a small name beside each point so that names touch neither each other nor a mark.

    Call it last: it settles the layout and the limits first, since what touches what depends on them.

    Args:
        ax: The panel.
        points: [n, 2] data coordinates.
        texts: n names.
        away: [2], the direction in which names should stand off, such as (1, 1) for a front that is best top right.
        obstacles: More marks to keep clear of, each [k, 2] data coordinates.
        halfwidth: [n, 2] half-lengths of the error bars to keep clear of.
        size: Font size in points.
        color: Of the text.

    Returns:
        How many names were placed; one without a free place is left out.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    to_pixels = ax.transData.transform
    unit = figure.dpi / 72.0
    at = to_pixels(points)
    marks = np.vstack([at, *[to_pixels(o) for o in obstacles if len(o)]])
    bars = _bars_in_pixels(points, halfwidth, to_pixels)
    taken = np.zeros((len(texts), 4))
    frame = ax.get_window_extent()
    angle = np.arctan2(away[1], away[0])
    placed = 0
    for i, text in enumerate(texts):
        if not np.isfinite(at[i]).all():
            continue
        width, height = 0.66 * size * len(text) * unit, 1.2 * size * unit
        best: tuple[float, tuple[float, float, float, float]] | None = None
        for radius in (6.0, 11.0, 15.0):
            for turn in (0.0, 0.5, -0.5, 1.0, -1.0, 1.4, -1.4):
                dx, dy = np.cos(angle + turn), np.sin(angle + turn)
                # the box touches the circle of this radius with the side that faces the point
                cx = at[i, 0] + dx * (radius * unit + width / 2)
                cy = at[i, 1] + dy * (radius * unit + height / 2)
                box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
                cost = 0.004 * (radius + 8.0 * abs(turn))
                cost += 3.0 * _touched(box, taken[:placed]) + 0.3 * _touched(box, bars)
                cost += 0.8 * float(np.sum((np.abs(marks[:, 0] - cx) < width / 2 + 4 * unit)
                                           & (np.abs(marks[:, 1] - cy) < height / 2 + 4 * unit)))  # fmt: skip
                if not (frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1):
                    cost += 3.0
                if best is None or cost < best[0]:
                    best = (cost, box)
        assert best is not None
        if best[0] > 1.0:
            continue
        box = best[1]
        taken[placed] = box
        offset = (np.array([box[0] + box[2], box[1] + box[3]]) / 2 - at[i]) / unit
        label = ax.annotate(text, points[i], xytext=tuple(offset), textcoords="offset points", ha="center",
                            va="center", fontsize=size, color=color, zorder=6, annotation_clip=False,
                            parse_math=False)  # fmt: skip
        label.set_in_layout(False)
        placed += 1
    return placed


def _bars_in_pixels(points: np.ndarray, halfwidth: np.ndarray | None, to_pixels: Any) -> np.ndarray:
    """[2n, 4] error bars as thin boxes (x0, y0, x1, y1) in pixels."""
    if halfwidth is None:
        return np.zeros((0, 4))
    spread = np.nan_to_num(halfwidth)
    bars = []
    for j in range(2):
        step = np.zeros_like(points)
        step[:, j] = spread[:, j]
        low, high = to_pixels(points - step), to_pixels(points + step)
        bars.append(np.hstack([np.minimum(low, high) - 1, np.maximum(low, high) + 1]))
    return np.vstack(bars)


def _touched(box: Sequence[float], others: np.ndarray) -> int:
    """How many of the boxes [k, 4] a box covers some of, all (x0, y0, x1, y1)."""
    wide = np.minimum(box[2], others[:, 2]) > np.maximum(box[0], others[:, 0])
    high = np.minimum(box[3], others[:, 3]) > np.maximum(box[1], others[:, 1])
    return int(np.count_nonzero(wide & high))
