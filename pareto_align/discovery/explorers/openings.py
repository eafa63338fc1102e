"""Where a measured front is open: the gaps between neighbours on it, how wide they are, and what may lead into them.

Two members are neighbours if no third one lies in the ball that has the two as its ends (the Gabriel graph). With two
objectives these are exactly the pairs that follow each other along the front: of three points none of which dominates
another, the middle one sees the outer two under an obtuse angle, an outer one sees the others under an acute one. With
more objectives there is no order to follow, and the graph takes its place.

References:
    Gabriel and Sokal, "A new statistical approach to geographic variation analysis", Systematic Zoology 18, 1969.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pareto_align.discovery.explorers.base import Exploration
from pareto_align.front import Entry

__all__ = ["Gap", "find_gaps", "nearest_parent", "neighbours", "newest", "place", "preference_of", "widest"]

CLOSE = 0.02  # preferences nearer than this are the same request
ROOM = (
    0.05  # a place is read off from this far beyond the best value of each objective, so that none has all the weight
)


@dataclass(frozen=True, eq=False)
class Gap:
    """The stretch of the front between two neighbours.

    Attributes:
        ends: The two members.
        points: `[2, m]` their framed values.
        preferences: `[2, m]` what they were trained for.
        width: Their distance in the frame.
        preference: `[m]` on the simplex, what may lead to the middle.
    """

    ends: tuple[Entry, Entry]
    points: np.ndarray
    preferences: np.ndarray
    width: float
    preference: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        """`[m]` halfway between the ends, framed."""
        return np.asarray(self.points.mean(0))

    def spans(self, point: np.ndarray) -> bool:
        """Whether a framed point `[m]` lies inside the ball that has the two ends as its ends."""
        return bool((point - self.points[0]) @ (point - self.points[1]) < -1e-12)

    def halves(self) -> tuple[Gap, Gap]:
        """What is left of it once a policy is on its way to the middle."""
        (first, last), (one, other) = self.points, self.preferences
        before, after = np.stack([first, self.middle]), np.stack([self.middle, last])
        return (
            Gap(self.ends, before, np.stack([one, self.preference]), self.width / 2, (one + self.preference) / 2),
            Gap(self.ends, after, np.stack([self.preference, other]), self.width / 2, (self.preference + other) / 2),
        )


def neighbours(points: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of points `[n, m]` with no third one in the ball between them. O(n^3)."""
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    pairs = []
    for i in range(len(points)):
        # k lies in the ball over (i, j) if the angle that it sees them under is obtuse
        between = (squared[i, None, :] + squared) < squared[i][:, None]
        pairs += [(i, int(j)) for j in np.flatnonzero(~between.any(1)) if j > i]
    return pairs


def find_gaps(state: Exploration, *, resolution: float = 2.0) -> list[Gap]:
    """The gaps between neighbouring members of the front, widest first.

    Args:
        state: What was measured.
        resolution: A gap counts from this many standard errors of its width on: a narrower one may be noise.
    """
    members = [e for e in state.archive.members() if e.adapter is not None]
    points = state.points(members)
    asked = [preference_of(state, entry, points) for entry in members]
    errors = [float((state.frame_stderr(e.estimate) ** 2).sum()) for e in members]
    gaps = []
    for i, j in neighbours(points):
        width = float(np.linalg.norm(points[i] - points[j]))
        if width <= max(resolution * (errors[i] + errors[j]) ** 0.5, 1e-9):
            continue
        preference = (asked[i] + asked[j]) / 2
        if np.abs(asked[i] - asked[j]).max() < CLOSE:  # one request led to both ends: go by the place instead
            preference = place((points[i] + points[j]) / 2, points)
        ends = (members[i], members[j])
        gaps.append(Gap(ends, points[[i, j]], np.stack([asked[i], asked[j]]), width, preference))
    return sorted(gaps, key=lambda gap: (-round(gap.width, 9), sorted(entry.id for entry in gap.ends)))


def widest(gaps: Sequence[Gap], tried: Sequence[np.ndarray], count: int) -> list[Gap]:
    """The gaps that `count` policies should go for, one after the other: the widest first, then what it leaves.

    A gap that was tried n times before counts as 1 / (1 + n) of its width: it may be none that can be filled.

    Args:
        gaps: To choose from.
        tried: Framed points `[m]` that were aimed at before. Regions are compared, not numbers: an attempt counts for
            the gap that spans it, wherever the ends have moved to since.
        count: How many policies are free.

    Returns:
        `count` gaps, halves of a wide one among them; none if there is no gap.
    """
    left = [(gap.width / (1 + sum(gap.spans(point) for point in tried)), gap) for gap in gaps]
    chosen: list[Gap] = []
    while left and len(chosen) < count:
        best = max(range(len(left)), key=lambda i: left[i][0])
        worth, gap = left.pop(best)
        chosen.append(gap)
        left += [(worth / 2, half) for half in gap.halves()]
    return chosen


def place(point: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The preference `[m]` whose Chebyshev ray goes through a point `[m]` of the front that `points` `[n, m]` span.

    Under p the shortfalls d from the ideal are balanced where all p_i d_i are equal: p is proportional to 1 / d.
    """
    low, high = points.min(0), points.max(0)
    span = np.where(high > low, high - low, 1.0)
    shortfall = np.maximum((high - point) / span, 0.0) + ROOM
    return np.asarray((1 / shortfall) / (1 / shortfall).sum())


def preference_of(state: Exploration, entry: Entry, points: np.ndarray) -> np.ndarray:
    """What led to an entry, `[m]`: what it was trained for, else the place that it has on the front `points` `[n, m]`.

    Under floors it is not the preference that decides where a policy ends.
    """
    known = entry.origin.pursued
    return place(state.frame(entry.estimate), points) if known is None else known


def newest(state: Exploration) -> list[Entry | None]:
    """What each of the K slots was just measured as; None for one that holds another policy since."""
    found: list[Entry | None] = [None] * len(state.preferences)
    for entry in state.archive.entries.values():
        slot = entry.origin.policy
        if slot is not None and entry.origin.step == state.step and np.isfinite(state.measured[slot]).all():
            found[slot] = entry
    return found


def nearest_parent(state: Exploration, preference: np.ndarray, among: Sequence[Entry] | None = None) -> Entry | None:
    """The archived policy to go on from towards a preference `[m]`: the nearest one that can still learn.

    Policies in which nothing varied any more have no gradient; they are taken only where there is no other. Of those
    trained for the same preference, members come first, then the youngest.

    Args:
        state: What was measured.
        preference: Where to.
        among: Choose from these; by default from all that hold an adapter.
    """
    candidates = list(state.alive() if among is None else among)
    if not candidates:
        return None
    points = state.points(candidates)

    def rank(i: int) -> tuple[bool, float, bool, float, str]:
        entry = candidates[i]
        distance = float(np.abs(preference_of(state, entry, points) - preference).max())
        still, age = not entry.origin.can_learn, -(entry.origin.step or 0)
        return still, round(distance, 9), str(entry.status) != "member", age, entry.id

    return candidates[min(range(len(candidates)), key=rank)]
