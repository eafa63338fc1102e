"""The run's journal, as a report reads it: events in order, lists of lists as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Event", "events_of", "numbers_of", "policy_preferences", "table_of"]

Event = Mapping[str, Any]
"""One line of `journal.jsonl`; its kind is under "event"."""


def events_of(history: Iterable[Event], kind: str) -> list[Event]:
    """The events of one kind in the order of their steps; of a step that a resumed run repeated, the last one."""
    latest = {int(event["step"]): event for event in history if event.get("event") == kind and "step" in event}
    return [latest[step] for step in sorted(latest)]


def policy_preferences(history: Iterable[Event], policies: int, m: int) -> np.ndarray:
    """[K, m] preferences the policies started with; NaN where the journal does not say."""
    preferences = np.full((policies, m), np.nan)
    for event in history:
        if event.get("event") == "start" and event.get("preferences"):
            return table_of([event], "preferences", m, policies)[0]
    return preferences


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
