"""A choice in two sentences for somebody who decides on it: what one gets, and what the runner-up would change."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pareto_align.printable import one_line
from pareto_align.report.units import axes_of, decimals, listed, measured, number, reference_measured

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord
    from pareto_align.report.request import Answer

__all__ = ["explanation"]

SURE, CLOSE = 0.9, 0.6
"""Probability of being the best from which on a choice is sure, and below which it is a close call."""


def explanation(record: FrontRecord, answered: Answer) -> str:
    """Two sentences: the member's values against the untrained model's, and the runner-up's against the member's."""
    axes, table, untrained = axes_of(record), measured(record), reference_measured(record)
    digits = [decimals(table.halfwidth[:, i], table.values[:, i]) for i in range(len(axes))]

    def shown(value: float, i: int) -> str:
        return number(value, digits[i])

    chosen = table.values[answered.row]
    reached = []
    for i, axis in enumerate(axes):
        before = "" if untrained is None else _against(chosen[i], untrained.values[0, i], axis.sign, digits[i])
        reached.append(f"{axis.name} {shown(chosen[i], i)}{before}")
    first = f"{table.ids[answered.row]} has {listed(reached)}."
    if answered.runner_up is None:
        return one_line(f"{first} No other member comes into question.")
    changes = []
    for i, axis in enumerate(axes):
        change = table.values[answered.runner_up, i] - chosen[i]
        text = shown(abs(change), i)
        if math.isfinite(change) and float(text) != 0:
            side = "better" if change * axis.sign > 0 else "worse"
            changes.append(f"{text} {'more' if change > 0 else 'less'} {axis.name} ({side})")
    other = f"{table.ids[answered.runner_up]}, the runner-up, would have {listed(changes) or 'the same values'}"
    return one_line(f"{first} {other}; {_sureness(answered.probability_best)}.")


def _against(value: float, before: float, sign: float, digits: int) -> str:
    """The untrained model's value, and what is gained or lost on it."""
    change = number(abs(value - before), digits)
    told = ""
    if math.isfinite(value - before):
        side = "better" if (value - before) * sign > 0 else "worse"
        told = f", so {change} {side}" if float(change) != 0 else ", the same"
    return f" (untrained {number(before, digits)}{told})"


def _sureness(probability: float) -> str:
    if math.isnan(probability):
        return "which of them is better is not known, as too little was measured"
    told = "the choice is sure" if probability >= SURE else "a close call" if probability < CLOSE else "likely the best"
    return f"{told}, with probability {probability:.2f}"
