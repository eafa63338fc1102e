"""How our figures look: one type scale, one palette, no global state.

Sizes are chosen so that a figure still reads when it is shown at half its width, in a README column or on a slide.
Colors survive the common color-vision deficiencies and a grey printer: preference runs along viridis without its
pale end, everything that is not the point of a figure is grey.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import MaxNLocator

from pareto_align.errors import ConfigError
from pareto_align.report.units import Axis

__all__ = [
    "STYLES",
    "ReportFigure",
    "axis_label",
    "axis_labels",
    "distinct_colors",
    "drawn_in",
    "header",
    "mixed_colors",
    "new_figure",
    "place_labels",
    "plain_axes",
    "preference_bar",
    "preference_colors",
    "preference_triangle",
    "short",
    "step_axis",
    "step_bar",
    "step_colors",
    "wrapped",
]

TITLE, TEXT, SMALL = 13.0, 10.5, 9.0

_SEPARATOR = "   ·   "
_TICK_STEPS = [1, 2, 2.5, 5, 10]
LINE = 22
"""Characters of a name on one line."""


@dataclass(frozen=True)
class _Palette:
    """What a figure is drawn in.

    Attributes:
        face: The paper.
        ink: Titles, ticks, what is not to be missed.
        soft: Small print.
        name: Names beside marks.
        grey: Axes and steps.
        faint: Lines of what did not stay, and hatches.
        left: Dots of what did not stay.
        grid: Lines behind the data.
        accent: The one colour where no preference is meant.
        alarm: Limits, and the side that misses them.
        none: Members without a preference.
        preference: From the last objective to the first.
        corners: Of three objectives.
        distinct: Colours for lines that have to be followed.
    """

    face: str
    ink: str
    soft: str
    name: str
    grey: str
    faint: str
    left: str
    grid: str
    accent: str
    alarm: str
    none: str
    preference: Colormap
    corners: tuple[str, str, str]
    distinct: tuple[str, ...]


def _viridis(low: float, high: float) -> Colormap:
    return ListedColormap(colormaps["viridis"](np.linspace(low, high, 256)), name="preference")


STYLES = {
    "light": _Palette(
        face="#ffffff", ink="#1c1f24", soft="#50555e", name="#3d424a", grey="#8a8f98", faint="#d5d8dd",
        left="#c3c7cd", grid="#eceef1",
        accent="#31688e", alarm="#b3423a", none="#5b6068", preference=_viridis(0.0, 0.9),
        corners=("#20559c", "#c45a00", "#2d8a4e"),
        distinct=("#0072b2", "#d55e00", "#009e73", "#a5528b", "#b98200", "#3a9fd6", "#1c1f24", "#8c6d1f"),
    ),
    "dark": _Palette(
        face="#15181d", ink="#eef0f3", soft="#aab0ba", name="#c9ced6", grey="#7c828c", faint="#3c424b",
        left="#565d68", grid="#262b32",
        accent="#6fb3e0", alarm="#ff8a7a", none="#9aa0aa", preference=_viridis(0.25, 1.0),
        corners=("#7db4ff", "#ffb066", "#6fdc98"),
        distinct=("#56b4e9", "#ff9a5c", "#4fd1a5", "#e39ac8", "#f0e442", "#8fb8ff", "#eef0f3", "#e69f00"),
    ),
}  # fmt: skip
"""What `front.plot(style=...)` takes."""

_palette: ContextVar[_Palette] = ContextVar("palette", default=STYLES["light"])


def __getattr__(name: str) -> str:
    """`style.INK` and the like: the colour of that name in the style that is drawn in now."""
    if not name.isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return str(getattr(_palette.get(), name.lower()))


@contextmanager
def drawn_in(style: str) -> Iterator[None]:
    """Within this context figures are drawn in a style.

    Raises:
        ConfigError: It is none.
    """
    if style not in STYLES:
        raise ConfigError(f"`style` must be one of {', '.join(STYLES)}. Found {style!r:.40}.")
    token = _palette.set(STYLES[style])
    try:
        yield
    finally:
        _palette.reset(token)


def wrapped(text: str, *, line: int = LINE, lines: int = 2) -> str:
    """A name on a few short lines; what does not fit ends in an ellipsis."""
    if len(text) <= line:
        return text
    found = textwrap.wrap(text, line, break_long_words=True, break_on_hyphens=True)
    if len(found) <= lines:
        return "\n".join(found)
    last = f"{found[lines - 1][: line - 1].rstrip()}…"
    return "\n".join([*found[: lines - 1], last])


def short(text: str, length: int = LINE) -> str:
    """A name on one line, cut with an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


class ReportFigure(Figure):
    """A matplotlib figure that a notebook shows without pyplot.

    Attributes:
        alt: What is seen, in words, for who does not see it.
    """

    alt: str = ""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", facecolor=self.get_facecolor())
        return buffer.getvalue()


def new_figure(width: float, height: float) -> ReportFigure:
    """An empty figure of so many inches, with an Agg canvas and constrained layout."""
    figure = ReportFigure(figsize=(width, height), dpi=150, layout="constrained", facecolor=_palette.get().face)
    FigureCanvasAgg(figure)
    return figure


def header(figure: Figure, title: str, remarks: Sequence[str] = ()) -> None:
    """Title and small print, at the left edge, in a strip the axes keep clear of.

    A title that is too long for the figure goes on to a second line, remarks that are to as many as they need.
    """
    colors = _palette.get()
    width, height = figure.get_size_inches()
    pad = 0.10
    room = int(72.0 * (width - 2 * pad) / (0.62 * TITLE))
    head = wrapped(title, line=room)
    figure.text(pad / width, 1 - pad / height, head, ha="left", va="top", fontsize=TITLE, color=colors.ink,
                fontweight="bold", linespacing=1.1, parse_math=False)  # fmt: skip
    room = int(72.0 * (width - 2 * pad) / (0.56 * SMALL))
    lines: list[str] = []
    for remark in filter(None, remarks):
        if lines and len(lines[-1]) + len(_SEPARATOR) + len(remark) <= room:
            lines[-1] += _SEPARATOR + remark
        else:
            lines += textwrap.wrap(remark, room) or [remark]
    below = pad + 0.24 * (1 + head.count("\n"))
    figure.text(pad / width, 1 - (below + 0.02) / height, "\n".join(lines), ha="left", va="top", fontsize=SMALL,
                color=colors.soft, parse_math=False)  # fmt: skip
    if isinstance(figure, ReportFigure):
        figure.alt = ". ".join([title, *filter(None, remarks)]) + "."
    strip = below + 0.08 + 0.17 * len(lines)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.0, 0.0, 1.0, 1.0 - strip / height), w_pad=0.08, h_pad=0.06)


def plain_axes(ax: Axes, *, grid: str = "both") -> None:
    """Two spines, few ticks, a grid that stays behind the data."""
    colors = _palette.get()
    ax.set_facecolor(colors.face)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(colors.grey)
        ax.spines[side].set_linewidth(0.8)
    ax.tick_params(labelsize=SMALL, colors=colors.ink, width=0.8, length=3.5)
    ax.tick_params(axis="both", color=colors.grey)
    ax.grid(True, axis=grid, color=colors.grid, linewidth=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    ax.xaxis.label.set(size=TEXT, color=colors.ink)
    ax.yaxis.label.set(size=TEXT, color=colors.ink)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=_TICK_STEPS))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=_TICK_STEPS))


def preference_colors(preferences: np.ndarray) -> list[Any]:
    """A color a row of `preferences` [n, m]: its weight on the first objective along viridis, grey without one.

    Where there is one objective, all are alike.
    """
    colors = _palette.get()
    if preferences.ndim == 2 and preferences.shape[1] == 1:
        return [colors.accent] * len(preferences)
    first = preferences[:, 0] if preferences.size else np.full(len(preferences), np.nan)
    return [colors.none if np.isnan(w) else colors.preference(float(w)) for w in first]


def mixed_colors(preferences: np.ndarray) -> list[Any]:
    """A color a row of `preferences` [n, 3]: the mixture of three corners' colors by its weights, grey without one."""
    colors = _palette.get()
    corners = np.array([to_rgb(corner) for corner in colors.corners])
    return [colors.none if np.isnan(row).any() else to_hex(np.clip(row @ corners, 0, 1)) for row in preferences]


def distinct_colors(count: int) -> list[str]:
    """Up to eight colors that can be told apart, also by those who do not see red and green alike (Okabe and Ito)."""
    return list(_palette.get().distinct[:count])


def preference_bar(figure: Figure, axes: Axes | Sequence[Axes], first: str, second: str) -> None:
    """The key to the colors of two objectives, beside the panels.

    Args:
        figure: Where it goes.
        axes: The panels it belongs to.
        first: The objective that is named at the upper end.
        second: The objective at the lower end.
    """
    colors = _palette.get()
    scale = ScalarMappable(norm=Normalize(0.0, 1.0), cmap=colors.preference)
    target: Any = axes if isinstance(axes, Axes) else list(axes)
    bar = figure.colorbar(scale, ax=target, fraction=0.045, pad=0.02, aspect=28)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_ticks([0.0, 0.5, 1.0], labels=["0", "0.5", "1"])
    bar.ax.tick_params(labelsize=SMALL, colors=colors.ink, length=0, pad=4)
    label = f"preference: 1 = only {short(first)},\n0 = only {short(second)}"
    bar.set_label(label, fontsize=SMALL, color=colors.ink, labelpad=6, parse_math=False)


def step_colors(steps: Sequence[int] | np.ndarray) -> list[Any]:
    """A color for each of some training steps, from the first to the last."""
    at = np.asarray(steps, dtype=float)
    span = float(np.ptp(at)) if len(at) else 0.0
    return [_palette.get().preference(float(x)) for x in ((at - at.min()) / span if span else np.zeros(len(at)))]


def step_bar(figure: Figure, axes: Sequence[Axes], steps: Sequence[int] | np.ndarray) -> None:
    """The key to the colors of training steps."""
    colors = _palette.get()
    low, high = (float(np.min(steps)), float(np.max(steps))) if len(steps) else (0.0, 1.0)
    scale = ScalarMappable(norm=Normalize(low, high if high > low else low + 1.0), cmap=colors.preference)
    target: Any = list(axes)
    bar = figure.colorbar(scale, ax=target, fraction=0.045, pad=0.02, aspect=28)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    bar.ax.tick_params(labelsize=SMALL, colors=colors.ink, length=0, pad=4)
    bar.set_label("training step", fontsize=SMALL, color=colors.ink, labelpad=6)


def preference_triangle(ax: Axes, names: Sequence[str], preferences: np.ndarray) -> None:
    """The key to the colors of three objectives: a triangle of mixtures, its corners named, with the members in it.

    Args:
        ax: An empty panel.
        names: Of the three objectives.
        preferences: [n, 3], rows of NaN for members without one.
    """
    colors = _palette.get()
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    steps = 12
    for i in range(steps):
        for j in range(steps - i):
            for up in (False, True):
                if up and i + j > steps - 2:
                    continue
                at = [(i, j), (i + 1, j), (i, j + 1)] if not up else [(i + 1, j), (i + 1, j + 1), (i, j + 1)]
                weights = np.array([[a, b, steps - a - b] for a, b in at]) / steps
                middle = mixed_colors(weights.mean(axis=0)[None])[0]
                ax.add_patch(Polygon(weights @ corners, closed=True, fc=middle, ec=middle, lw=0.4, alpha=0.9))
    known = preferences[~np.isnan(preferences).any(axis=1)] @ corners
    ax.plot(known[:, 0], known[:, 1], "o", ms=4, mfc=colors.face, mec=colors.ink, mew=0.8)
    # the names below stand one under the other, since both would not fit side by side
    places = ((-0.2, -0.08, "left", "top"), (1.2, -0.46, "right", "top"), (0.5, 0.93, "center", "bottom"))
    for (x, y, ha, va), name, mark in zip(places, names, "◣◢▲", strict=True):
        ax.text(x, y, f"{mark} {wrapped(name, line=16)}", ha=ha, va=va, fontsize=SMALL - 1, color=colors.ink,
                parse_math=False)  # fmt: skip
    ax.set(xlim=(-0.35, 1.35), ylim=(-0.9, 1.3), aspect="equal")
    ax.set_axis_off()
    ax.set_label("<key>")
    ax.set_title("preference", fontsize=SMALL, color=colors.ink, pad=2)


def step_axis(ax: Axes) -> None:
    """Training steps along the bottom: whole numbers."""
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=_TICK_STEPS))


def axis_labels(ax: Axes, x: Axis, y: Axis) -> None:
    """Name both objectives and which way is better; long names take two lines."""
    ax.set_xlabel(axis_label(x), parse_math=False)
    ax.set_ylabel(axis_label(y), parse_math=False)


def axis_label(axis: Axis) -> str:
    """A name and which way is better, on one line where they fit."""
    if len(axis.name) <= LINE:
        return axis.label
    return f"{wrapped(axis.name)}  ({axis.arrow})"


def place_labels(
    ax: Axes,
    points: np.ndarray,
    texts: Sequence[str],
    *,
    away: np.ndarray,
    obstacles: Iterable[np.ndarray] = (),
    halfwidth: np.ndarray | None = None,
    size: float = SMALL - 0.5,
    color: str | None = None,
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
        color: Of the text; by default that of names.

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
        width, height = (0.7 * size * len(text) + 3.0) * unit, 1.3 * size * unit
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
                            va="center", fontsize=size, color=color or _palette.get().name, zorder=6,
                            annotation_clip=False,
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
