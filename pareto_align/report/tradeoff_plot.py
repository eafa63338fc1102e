"""What one more point of one objective costs in another, along the front.

Between two members of the front the exchange rate is the loss on one axis over the gain on the other. It is a ratio of
two noisy differences, so it comes with an interval, and where the gain itself cannot be told from zero there is no rate
to speak of: such a member is passed over for the next one, and what remains at the end is shown as unresolved and never
as a number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pareto_align.errors import ConfigError
from pareto_align.front.estimates import common_units, difference, student_quantile
from pareto_align.report import style
from pareto_align.report.attained import nondominated
from pareto_align.report.units import Axis, axes_of, measured, number, optimized, shown_record, signs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pareto_align.front.estimates import Estimate
    from pareto_align.front.storage import FrontRecord

__all__ = ["Exchange", "Tradeoff", "draw_tradeoff", "exchange_rate", "tradeoff_info"]


@dataclass(frozen=True)
class Exchange:
    """The step from one member to the next that is better, beyond noise, on the gained objective.

    Attributes:
        start: The member with less of the gained objective.
        end: The member with more.
        gained: Values of the gained objective at start and end, user's units.
        rate: What one unit of gain costs on the other objective: positive, in the user's units of both.
        low: Lower end of the 95 % interval, -inf if unresolved.
        high: Upper end, inf if unresolved.
        resolved: Whether the gain can be told from zero at 95 %.
    """

    start: str
    end: str
    gained: tuple[float, float]
    rate: float
    low: float
    high: float
    resolved: bool


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """All exchanges along the front between two objectives.

    Attributes:
        gain: The objective that is bought.
        cost: The objective that pays.
        unit: The amount of gain that prices are quoted for: a power of ten, about a tenth of the front's span.
        exchanges: From the cheap end to the dear end.
        undominated: Members that no other one dominates in the means of these two objectives, from little gain to much.
        members: How many members the front has.
    """

    gain: Axis
    cost: Axis
    unit: float
    exchanges: tuple[Exchange, ...]
    undominated: tuple[str, ...]
    members: int

    @property
    def quoted(self) -> str:
        """What the prices are for, such as "+0.1 tone" or "-10 words"."""
        return f"{'+' if self.gain.maximize else '-'}{self.unit:g} {style.short(self.gain.name)}"

    @property
    def missing(self) -> str:
        """Why there are no exchanges; "" where there are some."""
        if self.exchanges:
            return ""
        if self.members < 2:
            return f"{'one member' if self.members else 'no members'}: nothing to exchange"
        return (
            f"of {self.members} members only {style.short(self.undominated[0])} is undominated\n"
            "on these two objectives and these prompts"
        )


def exchange_rate(start: Estimate, end: Estimate, gain: int, cost: int) -> tuple[float, float, float, bool]:
    """Loss on `cost` for each unit gained on `gain` on the way from one policy to another.

    Both differences are taken on the same prompts where both policies were measured on them, so that what a hard
    prompt does to both cancels. The interval is Fieller's for a ratio, by Student's t: unlike the delta
    method it stays honest when the gain is small, and it is unbounded exactly where the gain cannot be told from zero.

    Args:
        start: Estimate over M objectives, maximised.
        end: Estimate over M objectives, maximised; larger mean on `gain`.
        gain: Column of the objective that is bought.
        cost: Column of the objective that pays.

    Returns:
        (rate, low, high, resolved); the interval is (-inf, inf) where not resolved, NaN where the spread is not known.

    References:
        Fieller, "Some problems in interval estimation", Journal of the Royal Statistical Society B, 1954.
    """
    change, covariance = difference(end, start)
    bought, paid = float(change[gain]), -float(change[cost])
    rate = paid / bought if bought != 0 else math.nan
    spread, noise, shared = covariance[gain, gain], covariance[cost, cost], -covariance[gain, cost]
    if math.isnan(spread + noise):  # a single measurement says nothing about its own noise
        return rate, math.nan, math.nan, bought > 0
    square = student_quantile(0.025, common_units(start, end, (gain, cost))) ** 2
    curve = bought**2 - square * spread
    if curve <= 0 or bought <= 0:
        return rate, -math.inf, math.inf, False
    middle = bought * paid - square * shared
    inside = middle**2 - curve * (paid**2 - square * noise)
    reach = math.sqrt(max(inside, 0.0))
    return rate, (middle - reach) / curve, (middle + reach) / curve, True


def tradeoff_info(record: FrontRecord, gain: str | None = None, cost: str | None = None) -> tuple[Tradeoff, ...]:
    """Exchange rates between members next to each other on the front, as far as they can be told apart.

    Args:
        record: The front.
        gain: The objective to buy; by default the first optimised one, and with three objectives every pair.
        cost: The objective that pays; by default every other optimised one.

    Raises:
        ConfigError: An unknown objective, the same one twice, or a front of one objective.
    """
    axes = axes_of(record)
    spanning = list(optimized(record))
    if len(spanning) < 2:
        raise ConfigError("A front of one objective has no trade-off to show.")
    pairs: list[tuple[int, int]]
    if gain is None and cost is None and len(spanning) <= 3:
        pairs = list(itertools.combinations(spanning, 2))
    else:
        bought = _position(axes, spanning, gain) if gain is not None else None
        paying = _position(axes, spanning, cost) if cost is not None else None
        if bought is None:
            bought = next(i for i in spanning if i != paying)
        pairs = [(bought, i) for i in ([paying] if paying is not None else spanning) if i != bought]
        if not pairs:
            raise ConfigError(f"`gain` and `cost` must be two objectives. Found {gain!r} for both.")
    record = shown_record(record)
    return tuple(_tradeoff(record, axes_of(record), *pair) for pair in pairs)


def _position(axes: Sequence[Axis], spanning: Sequence[int], name: str) -> int:
    for i in spanning:
        if axes[i].name == name:
            return i
    known = ", ".join(repr(axes[i].name) for i in spanning)
    raise ConfigError(f"{name!r} is not an optimized objective of this front. It has {known}.")


def _tradeoff(record: FrontRecord, axes: Sequence[Axis], gain: int, cost: int) -> Tradeoff:
    values = measured(record).values
    on_front = np.flatnonzero(nondominated(values[:, [gain, cost]], (axes[gain], axes[cost])))
    order = on_front[np.argsort((values * signs(record))[on_front, gain], kind="stable")]
    exchanges = []
    start = 0
    for stop in range(1, len(order)):
        a, b = record.members[order[start]], record.members[order[stop]]
        rate, low, high, resolved = exchange_rate(a.estimate, b.estimate, gain, cost)
        # a gain within noise has no price: go on to the next member, until one can be told apart or none is left
        if resolved or stop == len(order) - 1:
            ends = (float(values[order[start], gain]), float(values[order[stop], gain]))
            exchanges.append(Exchange(a.id, b.id, ends, rate, low, high, resolved))
            start = stop
    span = float(np.ptp(values[order, gain])) if len(order) > 1 else 1.0
    unit = 10.0 ** round(math.log10(max(span, 1e-12) / 6.0))
    names = tuple(record.members[k].id for k in order)
    return Tradeoff(axes[gain], axes[cost], unit, tuple(exchanges), names, len(record.members))


def draw_tradeoff(tradeoffs: Sequence[Tradeoff]) -> Figure:
    """Draw exchange rates: across, how much of the gained objective there is; up, what the next bit costs."""
    columns = min(len(tradeoffs), 3)
    rows = -(-len(tradeoffs) // columns)
    figure = style.new_figure((7.0 if columns == 1 else 4.1 * columns + 0.3), (3.9 if rows == 1 else 3.4 * rows) + 0.7)
    grid = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    if len(tradeoffs) == 1:
        only = tradeoffs[0]
        bought = only.quoted if only.exchanges else style.short(only.gain.name)
        title = f"What {bought} costs in {style.short(only.cost.name)}"
    else:
        title = "What one more point of an objective costs in another"
    unresolved = any(not exchange.resolved for tradeoff in tradeoffs for exchange in tradeoff.exchanges)
    remarks = ("between members that can be told apart", "bands: 95 % intervals",
               "arrows: the band goes on beyond the panel" if any(map(cut_bands, tradeoffs)) else "",
               "hatched: gain within noise, no price" if unresolved else "")  # fmt: skip
    style.header(figure, title, remarks if any(tradeoff.exchanges for tradeoff in tradeoffs) else ())
    for ax, tradeoff in zip(grid, tradeoffs, strict=False):
        _draw_panel(ax, tradeoff)
        if columns > 1:
            ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    for ax in grid[len(tradeoffs) :]:
        ax.set_visible(False)
    figure.draw_without_rendering()  # how many names there is room for depends on how wide the panels have become
    for ax, tradeoff in zip(grid, tradeoffs, strict=False):
        if tradeoff.exchanges:
            _name_members(ax, tradeoff)
    return figure


def _draw_panel(ax: Axes, tradeoff: Tradeoff) -> None:
    style.plain_axes(ax)
    unit, exchanges = tradeoff.unit, tradeoff.exchanges
    change = "less" if tradeoff.cost.maximize else "more"
    ax.set_xlabel(style.axis_label(tradeoff.gain), parse_math=False)
    cost = tradeoff.cost.name if len(tradeoff.cost.name) <= style.LINE else f"{style.wrapped(tradeoff.cost.name)}\n"
    if not exchanges:
        # ticks and a grid would be of a scale that nothing was measured on
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(f"{change} {cost}".rstrip(), parse_math=False)
        ax.text(0.5, 0.5, tradeoff.missing, transform=ax.transAxes, ha="center", va="center", color=style.SOFT,
                fontsize=style.TEXT, parse_math=False)  # fmt: skip
        return
    ax.set_ylabel(f"{change} {cost}{'' if cost.endswith(chr(10)) else '  '}per {tradeoff.quoted}", parse_math=False)
    edges = [exchanges[0].gained[0], *(e.gained[1] for e in exchanges)]
    low, high = _price_limits(tradeoff)
    ax.set(ylim=(low, high))
    pad = 0.05 * abs(edges[-1] - edges[0]) or 1.0
    ax.set_xlim(min(edges) - pad, max(edges) + pad)
    ax.axhline(0.0, color=style.GREY, lw=0.9, zorder=1)
    tops = []
    for exchange in exchanges:
        left, width = min(exchange.gained), abs(exchange.gained[1] - exchange.gained[0])
        if not exchange.resolved:
            ax.add_patch(Rectangle((left, low), width, high - low, fc=style.FACE, ec=style.FAINT, hatch="////", lw=0,
                                   zorder=0))  # fmt: skip
            tops.append(math.nan)
            continue
        if math.isfinite(exchange.low):
            bottom, top = np.clip([exchange.low * unit, exchange.high * unit], low, high)
            ax.add_patch(Rectangle((left, bottom), width, top - bottom, fc=style.ACCENT, alpha=0.17, lw=0, zorder=2))
        ax.plot([left, left + width], [exchange.rate * unit] * 2, color=style.ACCENT, lw=2.6, zorder=3,
                solid_capstyle="butt")  # fmt: skip
        tops.append(exchange.rate * unit)
    _write_prices(ax, tradeoff, tops)
    _write_cut_bands(ax, tradeoff)


def _price_limits(tradeoff: Tradeoff) -> tuple[float, float]:
    """Limits set by the prices that are known: an unresolved stretch or one endless band must not flatten the rest."""
    prices = [e.rate * tradeoff.unit for e in tradeoff.exchanges if e.resolved and math.isfinite(e.rate)]
    if not prices:
        return -1.0, 1.0
    ends = [v * tradeoff.unit for e in tradeoff.exchanges if e.resolved for v in (e.low, e.high) if math.isfinite(v)]
    reach = max(map(abs, prices))
    low = min(0.0, *prices, max(min(ends, default=0.0), -0.5 * reach))
    high = max(*prices, min(max(ends, default=reach), 2.0 * reach))
    span = high - low or 1.0
    return low - 0.06 * span, high + 0.16 * span


def cut_bands(tradeoff: Tradeoff) -> tuple[tuple[int, float], ...]:
    """Ends of bands that the panel has no room for: (which exchange, the price at that end, as quoted)."""
    low, high = _price_limits(tradeoff)
    ends = [
        (k, end * tradeoff.unit)
        for k, exchange in enumerate(tradeoff.exchanges)
        if exchange.resolved
        for end in (exchange.low, exchange.high)
    ]
    return tuple((k, price) for k, price in ends if price < low or price > high)


def _write_cut_bands(ax: Axes, tradeoff: Tradeoff) -> None:
    """An arrow where a band goes on beyond the panel, and the price at which it ends if there is room to say it."""
    (x0, x1), (low, high) = ax.get_xlim(), ax.get_ylim()
    for k, price in cut_bands(tradeoff):
        gained = tradeoff.exchanges[k].gained
        up = price > high
        text = "↑" if up else "↓"
        if abs(gained[1] - gained[0]) / (x1 - x0) > 0.05:
            text += f" {price:.2g}" if abs(price) < 100 else f" {price:.0f}"
        ax.annotate(text, (sum(gained) / 2, high if up else low), xytext=(0, -4 if up else 4),
                    textcoords="offset points", ha="center", va="top" if up else "bottom", fontsize=style.SMALL,
                    color=style.ACCENT)  # fmt: skip


def _name_members(ax: Axes, tradeoff: Tradeoff) -> None:
    """Members as ticks along the top, where one stretch ends and the next begins; names that touch are left out."""
    names = [style.short(name, 14) for name in (tradeoff.exchanges[0].start, *(e.end for e in tradeoff.exchanges))]
    edges = [tradeoff.exchanges[0].gained[0], *(e.gained[1] for e in tradeoff.exchanges)]
    (x0, x1), figure = ax.get_xlim(), ax.get_figure(root=True)
    assert figure is not None
    points = 0.68 * style.SMALL * max(map(len, names)) + 5.0
    room = points * figure.dpi / 72.0 / ax.get_window_extent().width
    last = -math.inf
    for edge, name in sorted(zip(edges, names, strict=True)):
        ax.plot([edge, edge], [0.985, 1.0], transform=ax.get_xaxis_transform(), color=style.GREY, lw=1.0, zorder=4)
        share = (edge - x0) / (x1 - x0)
        if share - last >= room:
            ax.text(edge, 1.015, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom",
                    fontsize=style.SMALL - 0.5, color=style.NAME, parse_math=False)  # fmt: skip
            last = share


def _write_prices(ax: Axes, tradeoff: Tradeoff, prices: Sequence[float]) -> None:
    """The price itself above each stretch that is wide enough to carry a number, and above the last, the dearest."""
    x0, x1 = ax.get_xlim()
    known = [abs(p) for p in prices if math.isfinite(p) and p != 0]
    digits = int(np.clip(1 - math.floor(math.log10(float(np.median(known)))), 0, 6)) if known else 2
    last = max((k for k, price in enumerate(prices) if math.isfinite(price)), default=-1)
    for k, (exchange, price) in enumerate(zip(tradeoff.exchanges, prices, strict=True)):
        wide = abs(exchange.gained[1] - exchange.gained[0]) / (x1 - x0)
        if math.isfinite(price) and (wide > 0.07 or k == last):
            ax.annotate(number(price, digits), (sum(exchange.gained) / 2, price), xytext=(0, 4),
                        textcoords="offset points", ha="center", fontsize=style.SMALL, color=style.INK)  # fmt: skip
