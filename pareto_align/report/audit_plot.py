"""Audited against optimised: does what was not trained on follow, or fall as the reward rises?

A reward that is optimised hard enough stops being a measure (Goodhart's law). Each dot is a policy at a measurement of
the run, coloured by when.

References:
    Gao, Schulman, Hilton, "Scaling Laws for Reward Model Overoptimization", arXiv 2210.10760.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.report import style
from pareto_align.report.journal import Event, events_of, numbers_of, table_of
from pareto_align.report.units import Axis, axes_of, optimized, shown_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pareto_align.front.storage import FrontRecord

__all__ = ["AuditInfo", "AuditPair", "audit_info", "draw_audit"]

PANELS = 9
"""Pairs that are drawn."""
CLEAR = 0.3
"""Rank correlation from which on two things move together."""
LEAST = 8
"""Dots below which a correlation says nothing."""


@dataclass(frozen=True, eq=False)
class AuditPair:
    """One audited objective against one optimised one.

    Attributes:
        optimized: The objective that was trained on.
        audit: The one that was not.
        together: Spearman's correlation over the later half of the run, of both turned so that more is better; NaN
            where too little was measured.
        x: [s, K] means of the optimised one, user's units.
        y: [s, K] means of the audited one, user's units.
    """

    optimized: Axis
    audit: Axis
    together: float
    x: np.ndarray
    y: np.ndarray

    @property
    def verdict(self) -> str:
        """What the later half of the run says, in words."""
        if np.isnan(self.together):
            return "too little was measured to tell"
        if self.together <= -CLEAR:
            return f"gets worse as the reward rises, ρ {self.together:.2f}"
        if self.together >= CLEAR:
            return f"gets better as the reward rises, ρ {self.together:.2f}"
        return f"does not follow the reward, ρ {self.together:.2f}"


@dataclass(frozen=True, eq=False)
class AuditInfo:
    """What was audited over the run.

    Attributes:
        pairs: Audited objectives against optimised ones.
        steps: [s] steps of the measurements.
        untrained: [M] means of the untrained model by objective name, where they are known.
        left_out: Pairs that are not drawn.
    """

    pairs: tuple[AuditPair, ...]
    steps: np.ndarray
    untrained: dict[str, float]
    left_out: int = 0


def audit_info(record: FrontRecord, history: Sequence[Event]) -> AuditInfo:
    """Gather what `draw_audit` draws.

    Raises:
        ConfigError: Nothing was audited.
        FrontFileError: The journal has no measurements; a front folder alone does not carry it.
    """
    record = shown_record(record)
    axes = axes_of(record)
    audited = [i for i, axis in enumerate(axes) if axis.role == "audit"]
    if not audited:
        raise ConfigError(
            "This front has no audited objective. Give one that is measured and not trained on, role='audit'."
        )
    events = events_of(history, "evaluation")
    if not events:
        raise FrontFileError(
            "This front has no history to audit. It is in `journal.jsonl` of the run folder: load that folder with "
            "ParetoFront.load, not only the front inside it."
        )
    values = table_of(events, "values", len(axes))
    pairs = []
    for a, o in itertools.product(audited, optimized(record)):
        half = values[len(events) // 2 :]
        x, y = half[:, :, o].ravel() * axes[o].sign, half[:, :, a].ravel() * axes[a].sign
        known = np.isfinite(x) & np.isfinite(y)
        pairs.append(
            AuditPair(axes[o], axes[a], _ranked_together(x[known], y[known]), values[:, :, o], values[:, :, a])
        )
    measured = [pair for pair in pairs if np.isfinite(pair.y).any()] or pairs
    start = next((event for event in history if event.get("event") == "start"), {})
    before = numbers_of([{"v": value} for value in start.get("reference") or []], "v")
    untrained = {axis.name: float(value) for axis, value in zip(axes, before, strict=False) if np.isfinite(value)}
    steps = np.array([int(event["step"]) for event in events])
    return AuditInfo(tuple(measured[:PANELS]), steps, untrained, len(measured) - len(measured[:PANELS]))


def _ranked_together(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation; NaN of few points, or where one of both does not vary."""
    if len(x) < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)


def draw_audit(info: AuditInfo) -> Figure:
    """Draw audited against optimised objectives, a panel a pair."""
    panels = len(info.pairs)
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = style.new_figure(7.2 if columns == 1 else 4.6 * columns + 0.9, 4.3 * rows + 0.7)
    grid = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    diamond = "diamond: untrained" if info.untrained else ""
    more = f"{info.left_out} more pairs are not shown" if info.left_out else ""
    remarks = ("a dot a policy at each measurement", "verdicts: rank correlation over the later half", diamond, more)
    style.header(figure, "Audited against optimised objectives", remarks)
    for ax, pair in zip(grid, info.pairs, strict=False):
        _draw_pair(ax, info, pair)
    for ax in grid[panels:]:
        ax.set_visible(False)
    style.step_bar(figure, grid[:panels], info.steps)
    return figure


def _draw_pair(ax: Axes, info: AuditInfo, pair: AuditPair) -> None:
    style.plain_axes(ax)
    style.axis_labels(ax, pair.optimized, pair.audit)
    ax.margins(0.08)
    colors = style.step_colors(info.steps)
    for row, color in enumerate(colors):
        ax.plot(pair.x[row], pair.y[row], "o", ms=4.5, mfc=color, mec=style.FACE, mew=0.4, zorder=3)
    middle = [
        np.nanmedian(values, axis=1) if np.isfinite(values).any() else values[:, 0] for values in (pair.x, pair.y)
    ]
    ax.plot(*middle, color=style.GREY, lw=1.1, zorder=2)
    if {pair.optimized.name, pair.audit.name} <= set(info.untrained):
        ax.plot(info.untrained[pair.optimized.name], info.untrained[pair.audit.name], "D", ms=6.5, mfc=style.FACE,
                mec=style.INK, mew=1.3, zorder=4)  # fmt: skip
    alarm = pair.together <= -CLEAR
    ax.set_title(style.wrapped(pair.verdict, line=44), loc="left", fontsize=style.SMALL,
                 color=style.ALARM if alarm else style.SOFT)  # fmt: skip
