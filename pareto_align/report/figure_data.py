"""The numbers of a figure as rows, for who wants to draw it otherwise, or to read it without seeing it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.errors import ConfigError
from pareto_align.report.audit_plot import audit_info
from pareto_align.report.front_plot import front_info
from pareto_align.report.history_plot import history_info
from pareto_align.report.prices_plot import prices_info
from pareto_align.report.tradeoff_plot import tradeoff_info
from pareto_align.report.weights_plot import weights_info

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = ["KINDS", "as_csv", "figure_rows"]

KINDS = ("front", "history", "weights", "tradeoff", "prices", "audit")
"""Every figure there is."""

Row = dict[str, Any]


def figure_rows(
    record: FrontRecord,
    history: Sequence[Mapping[str, Any]],
    kind: str,
    gain: str | None = None,
    cost: str | None = None,
) -> list[Row]:
    """What a figure shows, one mapping a mark, all with the same keys, in the user's units; None: not known.

    Raises:
        ConfigError: There is no such figure, or the front has nothing for it.
        FrontFileError: The run's journal is needed and not there.
    """
    if kind == "front":
        rows = _front(record)
    elif kind == "history":
        rows = _history(record, history)
    elif kind == "weights":
        rows = _weights(record, history)
    elif kind == "tradeoff":
        rows = _tradeoff(record, gain, cost)
    elif kind == "prices":
        rows = _prices(record)
    elif kind == "audit":
        rows = _audit(record, history)
    else:
        raise ConfigError(f"There is no figure {kind!r}. There are {', '.join(KINDS)}.")
    return [{key: _plain(value) for key, value in row.items()} for row in rows]


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as a CSV file with a header; what is not known is an empty cell."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _front(record: FrontRecord) -> Iterator[Row]:
    info = front_info(record)
    for k, member in enumerate(info.ids):
        for i, axis in enumerate(info.axes):
            yield {"what": "member", "id": member, "objective": axis.name, "mean": info.values[k, i],
                   "low": info.low[k, i], "high": info.high[k, i], "preference": info.preferences[k, i],
                   "limit": None}  # fmt: skip
        for limit in info.limits:
            yield {"what": "member", "id": member, "objective": limit.axis.name, "mean": limit.values[k],
                   "low": limit.low[k], "high": limit.high[k], "preference": None, "limit": limit.told}  # fmt: skip
    others: list[tuple[str, str, np.ndarray, np.ndarray | None]] = [
        ("not kept", name, row, None) for name, row in zip(info.fallen_ids, info.fallen, strict=True)
    ]
    if info.untrained is not None:
        others.append(("untrained", "untrained", info.untrained, info.untrained_ends))
    for what, name, row, ends in others:
        for i, axis in enumerate(info.axes):
            low, high = (None, None) if ends is None else (ends[0, i], ends[1, i])
            yield {"what": what, "id": name, "objective": axis.name, "mean": row[i], "low": low, "high": high,
                   "preference": None, "limit": None}  # fmt: skip
    for pair, curve in zip(combinations(info.axes, 2), info.ceilings, strict=False):
        for n, point in enumerate(curve):
            for axis, value in zip(pair, point, strict=True):
                yield {"what": "allowed by the labels", "id": f"{pair[0].name} / {pair[1].name} {n}",
                       "objective": axis.name, "mean": value, "low": None, "high": None, "preference": None,
                       "limit": None}  # fmt: skip


def _history(record: FrontRecord, history: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    info = history_info(record, history)
    for s, step in enumerate(info.steps):
        yield {"step": int(step), "what": "hypervolume", "policy": None, "value": info.hypervolume[s],
               "low": info.hypervolume_low[s], "high": info.hypervolume_high[s]}  # fmt: skip
    for series, where in ((info.training, "training prompts"), (info.evaluation, "selection prompts")):
        for s, step in enumerate(series.steps):
            for k in range(series.values.shape[1]):
                for i, axis in enumerate(info.axes):
                    value = series.values[s, k, i]
                    reach = np.nan if series.halfwidth is None else series.halfwidth[s, k, i]
                    yield {"step": int(step), "what": f"{axis.name}, {where}", "policy": k, "value": value,
                           "low": value - reach, "high": value + reach}  # fmt: skip


def _weights(record: FrontRecord, history: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    info = weights_info(record, history)
    for s, step in enumerate(info.steps):
        for k in range(info.shares.shape[1]):
            for i, name in enumerate(info.names):
                yield {"step": int(step), "policy": k, "objective": name, "what": "share of weight",
                       "value": info.shares[s, k, i]}  # fmt: skip
                if info.drawn is not None:
                    yield {"step": int(step), "policy": k, "objective": name, "what": "preference",
                           "value": info.drawn[s, k, i]}  # fmt: skip
            yield {"step": int(step), "policy": k, "objective": None, "what": "sum of weights",
                   "value": info.strength[s, k]}  # fmt: skip
            for i, name in enumerate(info.steered):
                assert info.steering is not None
                yield {"step": int(step), "policy": k, "objective": name, "what": "multiplier",
                       "value": info.steering[s, k, i]}  # fmt: skip


def _tradeoff(record: FrontRecord, gain: str | None, cost: str | None) -> Iterator[Row]:
    for found in tradeoff_info(record, gain, cost):
        for step in found.exchanges:
            yield {"gain": found.gain.name, "cost": found.cost.name, "from": step.start, "to": step.end,
                   "gain_from": step.gained[0], "gain_to": step.gained[1], "price_of_one": step.rate, "low": step.low,
                   "high": step.high, "resolved": step.resolved}  # fmt: skip


def _prices(record: FrontRecord) -> Iterator[Row]:
    info = prices_info(record)
    for i, j in np.ndindex(info.prices.shape):
        if i != j:
            yield {"bought": info.quoted[i], "paid_in": info.axes[j].name, "price": info.prices[i, j],
                   "cheapest": info.cheapest[i, j], "dearest": info.dearest[i, j],
                   "note": info.missing[i][j].replace("\n", " ") or None}  # fmt: skip


def _audit(record: FrontRecord, history: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    info = audit_info(record, history)
    for pair in info.pairs:
        for s, k in np.ndindex(pair.x.shape):
            yield {"step": int(info.steps[s]), "policy": k, "optimized": pair.optimized.name,
                   "audited": pair.audit.name, "optimized_mean": pair.x[s, k],
                   "audited_mean": pair.y[s, k]}  # fmt: skip
