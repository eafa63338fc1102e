"""Which rewards may be asked in another process, and which belong together there.

What is sent is a copy. A reward that remembers, counts what it costs, or waits for a server on the event loop of this
process is therefore asked here; and rewards that share a model or what they have computed go to the same process.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from pareto_align.objectives.calling import is_async
from pareto_align.objectives.composed import remembers
from pareto_align.objectives.objective import Objective

__all__ = ["belonging_together", "parts_of", "stays_because", "usage_of"]


def stays_because(objective: Objective) -> str | None:
    """Why an objective is asked in this process, as "it ..."; None where it need not be."""
    if objective.reward is None:
        return "has no reward"
    if remembers(objective.reward):
        return "remembers earlier answers, which belong to the run"
    if is_async(objective.reward):
        return "is async: it waits for a server, which this process can do as well"
    if any(usage_of(part) is not None for part in parts_of(objective.reward)):
        return "counts what its requests cost, which belongs to the run"
    return None


def belonging_together(objectives: Sequence[Objective], columns: Sequence[int]) -> list[tuple[int, ...]]:
    """Columns that share no part with others, in the order of the first of each."""
    groups: list[tuple[set[int], list[int]]] = []
    for column in columns:
        parts, members = {id(part) for part in parts_of(objectives[column].reward)}, [column]
        for group in [group for group in groups if group[0] & parts]:
            groups.remove(group)
            parts |= group[0]
            members = group[1] + members
        groups.append((parts, members))
    return sorted(tuple(sorted(members)) for _, members in groups)


def usage_of(reward: Any) -> Any:
    """What a judge behind a server has cost, as a dataclass of whole numbers; None of any other reward."""
    usage = getattr(reward, "usage", None)
    return usage if is_dataclass(usage) and not isinstance(usage, type) else None


def parts_of(reward: Any) -> Iterator[Any]:
    """A reward, what it is a method or a partial of, its members, and what it says that it `shares`, however deep."""
    yield reward
    if isinstance(reward, functools.partial):
        yield from parts_of(reward.func)
    if inspect.ismethod(reward):
        yield from parts_of(reward.__self__)
    for name in ("members", "shares"):
        parts = getattr(reward, name, ())
        for part in parts if isinstance(parts, tuple) else ():
            yield from parts_of(part)
