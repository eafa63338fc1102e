"""How the front grew: hypervolume and each policy's objectives over the training steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from pareto_align.errors import FrontFileError
from pareto_align.front.estimates import student_quantile
from pareto_align.report import style
from pareto_align.report.journal import Event, Stretch, events_of, fronts_of, numbers_of, stretches_of, table_of
from pareto_align.report.limits import draw_limit
from pareto_align.report.units import INTERVAL, Axis, axes_of, bound_of, optimized, shown_record
from pareto_align.runs.pace import members_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pareto_align.front.storage import FrontRecord

__all__ = ["HistoryInfo", "Series", "draw_history", "history_info"]

CROWD = 8
"""Policies up to which each has a line of its own."""


@dataclass(frozen=True, eq=False)
class Series:
    """A value of each policy over steps.

    Attributes:
        steps: [s] training steps, increasing.
        values: [s, K, M] in the user's units, NaN where nothing was measured.
        stretches: What each policy was for, and through which of the steps.
        halfwidth: [s, K, M] of 95 % intervals, NaN where one prompt says nothing of noise; None for training prompts.
        drawn: Whether preferences were drawn anew for each step, as a family's are.
    """

    steps: np.ndarray
    values: np.ndarray
    stretches: tuple[Stretch, ...]
    halfwidth: np.ndarray | None = None
    drawn: bool = False


@dataclass(frozen=True, eq=False)
class HistoryInfo:
    """The numbers of a run's history.

    Attributes:
        axes: All M objectives.
        steps: [e] steps at which the front was measured; the last one twice where a family was measured at further
            preferences.
        hypervolume: [e] on the frozen frame.
        hypervolume_low: [e] lower ends of the 95 % intervals, NaN where not known.
        hypervolume_high: [e] upper ends.
        members: [e] how many members the front had.
        training: Means over the training prompts of each step.
        evaluation: Means over the held-out prompts.
        first: Name of the first optimised objective, which the colors stand for.
        second: Name of the other one if there are just two.
        prompts: How many selection prompts each measurement is over, or None if the journal does not say.
        untrained: [M] means of the untrained model, or None if the journal does not say.
        untrained_hypervolume: Hypervolume of the untrained model alone, or None.
        bounds: [M] the limit of each constrained objective, None for the others.
    """

    axes: tuple[Axis, ...]
    steps: np.ndarray
    hypervolume: np.ndarray
    hypervolume_low: np.ndarray
    hypervolume_high: np.ndarray
    members: np.ndarray
    training: Series
    evaluation: Series
    first: str
    second: str | None
    prompts: int | None = None
    untrained: np.ndarray | None = None
    untrained_hypervolume: float | None = None
    bounds: tuple[float | None, ...] = ()

    @property
    def crowded(self) -> bool:
        """Whether single policies could not be followed: many of them, or of preferences that one hue cannot tell."""
        return self.evaluation.values.shape[1] > CROWD or sum(axis.role == "optimize" for axis in self.axes) > 2


def history_info(record: FrontRecord, history: Sequence[Event]) -> HistoryInfo:
    """Gather what `draw_history` draws from a run's journal.

    Raises:
        FrontFileError: The journal has no training steps; a front folder alone does not carry it.
    """
    record = shown_record(record)
    axes = axes_of(record)
    spanning = [axes[i].name for i in optimized(record)]
    steps, measurements = events_of(history, "step"), events_of(history, "evaluation")
    fronts = fronts_of(history)
    if not steps and not measurements:
        raise FrontFileError(
            "This front has no training history. It is in `journal.jsonl` of the run folder: load that folder "
            "with ParetoFront.load, not only the front inside it."
        )
    training, evaluation = table_of(steps, "values", len(axes)), table_of(measurements, "values", len(axes))
    spread = table_of(measurements, "stderr", len(axes))
    if spread.shape != evaluation.shape:
        spread = np.full(evaluation.shape, np.nan)
    start = next((event for event in history if event.get("event") == "start"), {})
    untrained = table_of([{"reference": [start.get("reference")]}], "reference", len(axes)).ravel()
    prompts = _select_prompts(start)
    units = _count(start.get("units", prompts))  # not the prompts where groups of them, or samples of one, are units
    volume = numbers_of([{"value": value} for value in start.get("reference_hypervolume") or []], "value")
    return HistoryInfo(
        axes=axes,
        steps=np.array([int(event["step"]) for event in fronts], dtype=int),
        hypervolume=numbers_of(fronts, "hypervolume"),
        hypervolume_low=numbers_of(fronts, "hypervolume_low"),
        hypervolume_high=numbers_of(fronts, "hypervolume_high"),
        members=numbers_of(fronts, "members"),
        training=Series(
            np.array([int(event["step"]) for event in steps], dtype=int),
            training,
            stretches_of(history, steps, training.shape[1], len(spanning)),
            drawn=bool(steps and steps[-1].get("preferences")),
        ),
        evaluation=Series(
            np.array([int(event["step"]) for event in measurements], dtype=int),
            evaluation,
            stretches_of(history, measurements, evaluation.shape[1], len(spanning)),
            _reach(units) * spread,
        ),
        first=spanning[0],
        second=spanning[1] if len(spanning) == 2 else None,
        prompts=prompts,
        untrained=untrained if np.isfinite(untrained).any() else None,
        untrained_hypervolume=float(volume[0]) if volume.size else None,
        bounds=tuple(bound_of(o) if o.role == "constrain" else None for o in record.objectives),
    )


def _select_prompts(start: Event) -> int | None:
    splits = start.get("splits")
    return _count(splits.get("select") if isinstance(splits, Mapping) else None)


def _count(count: Any) -> int | None:
    # a number that a damaged journal made up must not reach scipy
    return count if isinstance(count, int) and 0 < count < 2**31 else None


def _reach(units: int | None) -> float:
    """Standard errors on either side that make a 95 % interval: Student's t, as for members, where n is known."""
    if units is None:
        return INTERVAL
    return student_quantile(0.025, units) if units > 1 else math.nan


def draw_history(info: HistoryInfo) -> Figure:
    """Draw a run's history: hypervolume first, then one panel an objective."""
    panels = 1 + len(info.axes)
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = style.new_figure(3.75 * columns + 0.6, 3.1 * rows + 0.75)
    grid = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    final = info.hypervolume[np.isfinite(info.hypervolume)]
    grown = f"hypervolume {final[0]:.3f} → {final[-1]:.3f}" if len(final) > 1 else ""
    if grown and np.isfinite(info.members[-1]):
        grown += f" with {members_text(int(info.members[-1]))}"
    untrained = info.untrained_hypervolume is not None or info.untrained is not None
    count = "" if info.prompts is None else f"{info.prompts} "
    moved = len(info.evaluation.stretches) > info.evaluation.values.shape[1]
    limited = "red: limit, hatched the side that misses it" if any(b is not None for b in info.bounds) else ""
    lines = (
        ("line: the best policy at each time, with its 95 % interval", "dashed grey: the median of all",
         "band: from the worst to the best")
        if info.crowded
        else (f"dots: {count}selection prompts, 95 % intervals",
              f"faint: training prompts{'' if info.training.drawn else ', smoothed'}")
    )  # fmt: skip
    ends = ""
    if not info.crowded and info.training.drawn:
        ends = "each dot of its own preference, drawn for the step"
    elif not info.crowded and moved:
        ends = "lines end where a policy went on to another preference"
    remarks = (grown, *lines, "dashed: untrained" if untrained else "", limited, ends)
    style.header(figure, "The front over the run", remarks)
    _draw_hypervolume(grid[0], info)
    for ax, i in zip(grid[1:], range(len(info.axes)), strict=False):
        _draw_objective(ax, info, i)
    for ax in grid[panels:]:
        ax.set_visible(False)
    for ax in grid[max(0, panels - columns) : panels]:
        ax.set_xlabel("training step")
    if not info.crowded and info.second is not None:  # a color is the preference for one of two
        style.preference_bar(figure, grid[:panels], info.first, info.second)
    return figure


def _draw_hypervolume(ax: Axes, info: HistoryInfo) -> None:
    style.plain_axes(ax)
    style.step_axis(ax)
    ax.fill_between(info.steps, info.hypervolume_low, info.hypervolume_high, color=style.ACCENT, alpha=0.16, lw=0)
    ax.plot(info.steps, info.hypervolume, color=style.ACCENT, lw=2.0, marker="o", ms=4.5)
    ax.set_title("hypervolume", loc="left", fontsize=style.TEXT, color=style.INK)
    if info.untrained_hypervolume is not None:
        ax.axhline(info.untrained_hypervolume, color=style.INK, lw=1.0, ls=(0, (5, 3)), zorder=1)


def _draw_objective(ax: Axes, info: HistoryInfo, i: int) -> None:
    style.plain_axes(ax)
    style.step_axis(ax)
    axis = info.axes[i]
    if info.untrained is not None:
        ax.axhline(info.untrained[i], color=style.INK, lw=1.0, ls=(0, (5, 3)), zorder=1)
    role = "" if axis.role == "optimize" else ", audit only" if axis.role == "audit" else ", constraint"
    told = f"({'↑' if axis.maximize else '↓'} better{role})"
    name = axis.name if len(axis.name) <= style.LINE else f"{style.wrapped(axis.name, line=34)}\n"
    ax.set_title(f"{name}   {told}" if "\n" not in name else f"{name}{told}", loc="left", fontsize=style.TEXT,
                 color=style.INK, parse_math=False)  # fmt: skip
    if info.crowded:
        _draw_envelope(ax, info, i)
    else:
        _draw_policies(ax, info, i)
    bound = info.bounds[i] if i < len(info.bounds) else None
    if bound is not None:
        draw_limit(ax, bound, axis.maximize)


def _draw_envelope(ax: Axes, info: HistoryInfo, i: int) -> None:
    """The best, the median and the worst policy at each measurement."""
    series, values = info.evaluation, info.evaluation.values[:, :, i]
    known = ~np.isnan(values).all(axis=1)
    steps, values = series.steps[known], values[known]
    if not len(steps):
        return
    best = np.nanargmax(values * info.axes[i].sign, axis=1)
    rows = np.arange(len(steps))
    ax.fill_between(steps, np.nanmin(values, axis=1), np.nanmax(values, axis=1), color=style.ACCENT, alpha=0.14, lw=0)
    ax.plot(steps, np.nanmedian(values, axis=1), color=style.GREY, lw=1.2, ls=(0, (2, 1.5)))
    bars = None if series.halfwidth is None else np.nan_to_num(series.halfwidth[known, :, i][rows, best])
    ax.errorbar(steps, values[rows, best], yerr=bars, color=style.ACCENT, lw=1.7, marker="o", ms=4, elinewidth=1.0)


def _draw_policies(ax: Axes, info: HistoryInfo, i: int) -> None:
    """Each policy in the colour of its preference."""
    aside = dodge(info.evaluation.steps, info.evaluation.values.shape[1])
    for stretch, color in _colored(info.training):
        steps, values = info.training.steps[stretch.rows], info.training.values[stretch.rows, stretch.policy, i]
        ax.plot(steps, smoothed(values), color=color, lw=1.0, alpha=0.35, marker="" if len(steps) > 1 else ".")
    spread = info.evaluation.halfwidth
    for stretch, color in _colored(info.evaluation):
        steps, values = info.evaluation.steps[stretch.rows], info.evaluation.values[stretch.rows, stretch.policy, i]
        bars = None if spread is None else np.nan_to_num(spread[stretch.rows, stretch.policy, i])
        ax.errorbar(steps + aside[stretch.policy], values, yerr=bars, color=color, lw=1.6, marker="o", ms=3.6,
                    elinewidth=0.9)  # fmt: skip


def _colored(series: Series) -> zip[tuple[Stretch, Any]]:
    """Stretches with the colors of their preferences."""
    preferences = np.array([stretch.preference for stretch in series.stretches])
    return zip(series.stretches, style.preference_colors(preferences), strict=True)


def dodge(steps: np.ndarray, policies: int) -> np.ndarray:
    """[K] sideways shifts, in steps, so that the error bars of several policies do not hide each other.

    Together they take at most half of the shortest way from one measurement to the next.
    """
    gaps = np.diff(steps)
    if policies < 2 or not len(gaps):
        return np.zeros(policies)
    width = min(0.012 * float(np.ptp(steps)) * (policies - 1), 0.5 * float(gaps.min()))
    return np.linspace(-width / 2, width / 2, policies)


def smoothed(values: np.ndarray) -> np.ndarray:
    """[s] centred running mean over about a tenth of the series, NaN left out; short series stay as they are."""
    half = len(values) // 20
    if half == 0:
        return values
    out = np.empty(len(values))
    for s in range(len(values)):
        window = values[max(0, s - half) : s + half + 1]
        out[s] = np.nan if np.isnan(window).all() else np.nanmean(window)
    return out
