"""What a constraint looks like: the line, the side that misses it, and which members keep it beyond noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.axes import Axes

from pareto_align.report import style
from pareto_align.report.units import Axis, axes_of, bound_of, measured, reference_measured

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = ["DrawnLimit", "draw_limit", "limits_info"]


@dataclass(frozen=True, eq=False)
class DrawnLimit:
    """One constraint, and where the n members stand to it, in the user's units.

    Attributes:
        axis: The constrained objective.
        bound: At least this where more is better, at most this where less is.
        values: [n] means.
        low: [n] lower ends of 95 % intervals, NaN where the spread is not known.
        high: [n] upper ends.
        untrained: Mean of the untrained model, NaN where it is not known.
    """

    axis: Axis
    bound: float
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    untrained: float

    @property
    def told(self) -> str:
        """The limit, such as "at most 0.5"."""
        return f"{'at least' if self.axis.maximize else 'at most'} {self.bound:g}"

    @property
    def surely(self) -> np.ndarray:
        """[n] whether the whole interval keeps it; False where the spread is not known."""
        return np.asarray(self.low >= self.bound if self.axis.maximize else self.high <= self.bound)


def limits_info(record: FrontRecord) -> tuple[DrawnLimit, ...]:
    """The constraints of a front, in the user's order."""
    axes, table, reference = axes_of(record), measured(record), reference_measured(record)
    found = []
    for i, objective in enumerate(record.objectives):
        bound = bound_of(objective)
        if bound is not None and objective.role == "constrain":
            before = np.nan if reference is None else float(reference.values[0, i])
            found.append(DrawnLimit(axes[i], bound, table.values[:, i], table.low[:, i], table.high[:, i], before))
    return tuple(found)


def draw_limit(ax: Axes, bound: float, maximize: bool, along: Literal["x", "y"] = "y") -> None:
    """The limit as a line, and a hatch over the side that misses it. Call it when the limits of the panel are set.

    Args:
        ax: The panel.
        bound: Where the line is.
        maximize: Whether more is better.
        along: The axis of the constrained objective.
    """
    low, high = ax.get_ylim() if along == "y" else ax.get_xlim()
    span = high - low
    low, high = min(low, bound - 0.08 * span), max(high, bound + 0.08 * span)
    (ax.set_ylim if along == "y" else ax.set_xlim)(low, high)
    wrong = (low, bound) if maximize else (bound, high)
    shade, line = (ax.axhspan, ax.axhline) if along == "y" else (ax.axvspan, ax.axvline)
    shade(*wrong, facecolor="none", edgecolor=style.FAINT, hatch="////", lw=0, zorder=0.5)
    line(bound, color=style.ALARM, lw=1.4, zorder=2.5, label="limit")
