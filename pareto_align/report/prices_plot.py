"""What each objective costs in each other one: a matrix of prices, for fronts of three objectives or more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Rectangle

from pareto_align.errors import ConfigError
from pareto_align.report import style
from pareto_align.report.tradeoff_plot import Tradeoff, tradeoff_info
from pareto_align.report.units import Axis, axes_of, decimals, measured, number, optimized, shown_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pareto_align.front.storage import FrontRecord

__all__ = ["PricesInfo", "draw_prices", "prices_info"]


@dataclass(frozen=True, eq=False)
class PricesInfo:
    """Prices along the front, in the user's units. m: optimised objectives.

    Attributes:
        axes: The m objectives.
        quoted: [m] what a price is for, such as "+0.1 tone".
        prices: [m, m] what one quoted amount of the row's objective costs in the column's on the way from the cheap end
            to the dear end; NaN on the diagonal, and where no step can be told from noise.
        cheapest: [m, m] the lowest price of a single step.
        dearest: [m, m] the highest.
        share: [m, m] the price as a share of the members' spans of both: 1 is a whole span for a whole span.
        missing: [m][m] why there is no price; "" where there is one.
    """

    axes: tuple[Axis, ...]
    quoted: tuple[str, ...]
    prices: np.ndarray
    cheapest: np.ndarray
    dearest: np.ndarray
    share: np.ndarray
    missing: tuple[tuple[str, ...], ...]


def prices_info(record: FrontRecord) -> PricesInfo:
    """Gather what `draw_prices` draws.

    Raises:
        ConfigError: The front has fewer than three objectives; `tradeoff_info` says it all there.
    """
    record = shown_record(record)
    columns = list(optimized(record))
    axes = tuple(axes_of(record)[i] for i in columns)
    m = len(axes)
    if m < 3:
        raise ConfigError("A matrix of prices is for three objectives or more. Draw the trade-off of the two.")
    values = measured(record).values[:, columns]
    values = values[~np.isnan(values).any(axis=1)]
    spans = np.ptp(values, axis=0) if len(values) else np.ones(m)
    prices, cheapest, dearest, share = (np.full((m, m), np.nan) for _ in range(4))
    missing = [[""] * m for _ in range(m)]
    quoted = [""] * m
    for i, gain in enumerate(axes):
        unit = 10.0 ** round(math.log10(max(float(spans[i]), 1e-12) / 6.0))
        quoted[i] = f"{'+' if gain.maximize else '-'}{unit:g} {gain.name}"
        for j, cost in enumerate(axes):
            if i == j:
                continue
            (found,) = tradeoff_info(record, gain.name, cost.name)
            told = [exchange for exchange in found.exchanges if exchange.resolved]
            if not told:
                missing[i][j] = _why(found)
                continue
            bought = [abs(exchange.gained[1] - exchange.gained[0]) for exchange in told]
            rates = np.array([exchange.rate for exchange in told])
            mean = float(np.average(rates, weights=bought))
            prices[i, j], cheapest[i, j], dearest[i, j] = unit * mean, unit * rates.min(), unit * rates.max()
            share[i, j] = mean * spans[i] / spans[j] if spans[j] > 0 else np.nan
    return PricesInfo(axes, tuple(quoted), prices, cheapest, dearest, share, tuple(map(tuple, missing)))


def _why(found: Tradeoff) -> str:
    if found.members < 2:
        return "one member"
    return "within noise" if found.exchanges else "no trade:\none member leads"


def draw_prices(info: PricesInfo) -> Figure:
    """Draw the matrix: rows are what is bought, columns what pays."""
    m = len(info.axes)
    figure = style.new_figure(2.6 + 1.75 * m, 2.1 + 0.95 * m)
    ax = figure.subplots()
    ax.set_facecolor(style.FACE)
    remarks = ("rows: what is bought", "columns: what pays", "below: the cheapest and the dearest step",
               "darker: a larger share of what members span")  # fmt: skip
    style.header(figure, "What each objective costs in each other one", remarks)
    for i in range(m):
        for j in range(m):
            if i == j:
                ax.add_patch(Rectangle((j, i), 1, 1, fc=style.GRID, ec=style.FACE, lw=2))
                continue
            strength = float(np.clip(np.nan_to_num(info.share[i, j]), 0.0, 2.0)) / 2.0
            ax.add_patch(Rectangle((j, i), 1, 1, fc=style.ACCENT, alpha=0.06 + 0.34 * strength, ec=style.FACE, lw=2))
            if info.missing[i][j]:
                ax.text(j + 0.5, i + 0.5, info.missing[i][j], ha="center", va="center", fontsize=style.SMALL - 1,
                        color=style.SOFT)  # fmt: skip
                continue
            price, ends = info.prices[i, j], (info.cheapest[i, j], info.dearest[i, j])
            digits = decimals([], [price])
            ax.text(j + 0.5, i + 0.42, number(price, digits), ha="center", va="center", fontsize=style.TITLE,
                    color=style.INK)  # fmt: skip
            told = "one step" if ends[0] == ends[1] else f"{number(ends[0], digits)} to {number(ends[1], digits)}"
            ax.text(j + 0.5, i + 0.76, told, ha="center",
                    va="center", fontsize=style.SMALL - 1, color=style.SOFT)  # fmt: skip
    ax.set(xlim=(0, m), ylim=(m, 0))
    heads = [f"{'less' if axis.maximize else 'more'}\n{style.wrapped(axis.name, line=15)}" for axis in info.axes]
    ax.set_xticks(np.arange(m) + 0.5, heads, parse_math=False)
    rows = [style.wrapped(f"for {told}", line=26) for told in info.quoted]
    ax.set_yticks(np.arange(m) + 0.5, rows, parse_math=False)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=style.SMALL, labelcolor=style.INK)
    for side in ax.spines.values():
        side.set_visible(False)
    return figure
