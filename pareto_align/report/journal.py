"""The run's journal, as a report reads it: events in order, lists of lists as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["Event", "Stretch", "events_of", "fronts_of", "numbers_of", "stretches_of", "table_of"]

Event = Mapping[str, Any]
"""One line of `journal.jsonl`; its kind is under "event"."""


def events_of(history: Iterable[Event], kind: str) -> list[Event]:
    """The events of one kind in the order of their steps; of a step that a resumed run repeated, the last one."""
    latest = {int(event["step"]): event for event in history if event.get("event") == kind and "step" in event}
    return [latest[step] for step in sorted(latest)]


def fronts_of(history: Iterable[Event]) -> list[Event]:
    """The measurements of the front over the run; last what a trained family came to at further preferences."""
    history = list(history)
    return [*events_of(history, "evaluation"), *events_of(history, "further")[-1:]]


@dataclass(frozen=True, eq=False)
class Stretch:
    """Events in a row through which a slot trained one policy for one preference.

    Attributes:
        policy: The slot.
        rows: Which of the events.
        preference: [m]; NaN where the journal does not say.
    """

    policy: int
    rows: slice
    preference: np.ndarray


def stretches_of(history: Iterable[Event], events: Sequence[Event], policies: int, m: int) -> tuple[Stretch, ...]:
    """What each of K slots was for through s events, in their order.

    A task that an explorer gives a slot ends one stretch: from the next step on the slot has another preference, and
    mostly another policy as well. So does a preference that was drawn for a step alone.
    """
    history, steps = list(history), np.array([int(event["step"]) for event in events], dtype=int)
    pursued = np.full((len(events), policies, m), np.nan)
    tasks = np.zeros((len(events), policies), dtype=int)
    for event in history:
        if event.get("event") == "start" and event.get("preferences"):
            pursued[:] = table_of([event], "preferences", m, policies)[0]
            break
    for event in history:
        slot = event.get("policy")
        if event.get("event") == "task" and type(slot) is int and 0 <= slot < policies:
            later = steps > int(event.get("step", 0))
            pursued[later, slot] = table_of([{"given": [event.get("preference")]}], "given", m, 1)[0, 0]
            tasks[later, slot] += 1
    for row, event in enumerate(events):
        if event.get("preferences"):
            pursued[row] = table_of([event], "preferences", m, policies)[0]
    found = []
    for slot in range(policies):
        told = np.nan_to_num(pursued[:, slot], nan=-1.0)
        moved = (np.diff(tasks[:, slot]) != 0) | (np.diff(told, axis=0) != 0).any(1)
        ends = [0, *(np.flatnonzero(moved) + 1).tolist(), len(events)] if events else []
        found += [Stretch(slot, slice(a, b), pursued[a, slot]) for a, b in pairwise(ends)]
    return tuple(found)


def table_of(events: Sequence[Event], key: str, width: int, policies: int | None = None) -> np.ndarray:
    """[s, K, width] from one key of the events; null and missing become NaN.

    Args:
        events: s events.
        key: Where each has a list of K lists.
        width: How many numbers each of those has.
        policies: K; by default the most that any event has.
    """
    rows = [event.get(key) or [] for event in events]
    count = max((len(row) for row in rows), default=0) if policies is None else policies
    table = np.full((len(rows), count, width), np.nan)
    for s, row in enumerate(rows):
        for k, values in enumerate(row[:count]):
            for i, value in enumerate((values or [])[:width]):
                table[s, k, i] = math.nan if value is None else float(value)
    return table


def numbers_of(events: Sequence[Event], key: str) -> np.ndarray:
    """[s] from one key of the events; null and missing become NaN."""
    return np.array([math.nan if event.get(key) is None else float(event[key]) for event in events], dtype=float)
