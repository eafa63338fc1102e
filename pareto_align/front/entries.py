"""An entry of the archive, and the verdicts there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pareto_align.front.estimates import Estimate
from pareto_align.front.origin import Origin

__all__ = ["Entry", "Status", "decide"]


class Status(StrEnum):
    """Verdict on an entry of the archive."""

    MEMBER = "member"  # on the front
    DOMINATED = "dominated"  # a member is confidently better
    CONTESTED = "contested"  # a member is better in the mean, but not confidently
    DUPLICATE = "duplicate"  # cannot be told from a member on any axis
    INFEASIBLE = "infeasible"  # misses a constraint in the mean
    EVICTED = "evicted"  # on the front, but the archive was full
    INVALID = "invalid"  # an objective has no finite mean


@dataclass(eq=False)
class Entry:
    """A measured policy in the archive.

    Attributes:
        id: Name, unique in the archive.
        estimate: Measurement over all objectives, maximised.
        origin: Where the policy comes from.
        status: Current verdict.
        reason: The verdict as a sentence, naming the other entry where there is one.
        measured: How many times the policy was measured; their estimates are pooled.
        rival: The entry that the verdict names, None for a member.
        column: The column that has no finite mean or misses its bound, None where that is not the verdict.
        bound: The bound that it misses, maximised; None where that is not the verdict.
        adapter: Opaque payload. None once given up.
        released: True once a payload was given up. Such an entry can never be shipped, so it leaves the competition
            and its verdict is final. An entry that was offered without a payload always stays in.
    """

    id: str
    estimate: Estimate
    origin: Origin = field(default_factory=Origin)
    status: Status = Status.MEMBER
    reason: str = ""
    measured: int = 1
    rival: str | None = None
    column: int | None = None
    bound: float | None = None
    adapter: Any = None
    released: bool = False


def decide(
    entry: Entry,
    status: Status,
    reason: str,
    *,
    rival: str | None = None,
    column: int | None = None,
    bound: float | None = None,
) -> None:
    """Put a verdict down."""
    entry.status, entry.reason, entry.rival, entry.column, entry.bound = status, reason, rival, column, bound
