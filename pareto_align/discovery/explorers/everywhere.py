"""Preferences for a family: drawn anew at every step, all over the simplex, and measured where the front bends.

References:
    Panacea, arXiv 2402.02030, and conditional language policies, arXiv 2407.15762 (a family is trained on preferences
        drawn from the whole simplex).
    Du, Faber and Gunzburger, "Centroidal Voronoi Tessellations: Applications and Algorithms", SIAM Review 41, 1999.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pareto_align.arguments import Share, Whole
from pareto_align.discovery.explorers.base import Exploration, Explorer, register_explorer
from pareto_align.discovery.explorers.checks import require
from pareto_align.discovery.explorers.openings import newest
from pareto_align.front import preferences as simplex
from pareto_align.front.preferences import simplex_plane

__all__ = ["Everywhere", "cells", "fill_in"]

SAMPLES = 4096  # points of the simplex by which cells are laid out
SOMETIMES = 0.25  # how often a corner is drawn, where nothing asks for it at every step
ROUNDS = 60  # of Lloyd's algorithm, far past where the cells stand still


@register_explorer("everywhere")
class Everywhere(Explorer):
    """Draws the preferences that a family is trained on, one in each of K cells of the simplex at every step.

    The cells have about the same size and never move, and slot k always draws from cell k. So every step sees the
    simplex from end to end, and what a weighting remembers of a slot (running means, multipliers) stays true of it, up
    to the size of a cell. Within a cell all preferences are drawn equally often, but for cells that hold a corner of
    the simplex. Such a cell draws the corner itself now and then, since with many objectives no random preference
    comes near it. Where the weighting reads a preference as a place the cell draws nothing but its corner: places are
    read off the ends, which then have to be held, and what lies between is the family's to fill in. Where there are no
    more cells than objectives, every cell draws its corner now and then only, else nothing between would be trained.

    The family is measured at the preferences of a grid, as independent policies are. When training is over, `dense`
    further preferences are measured, each in the middle of the widest gap that the measured front then has: no training
    is needed for them.

    Args:
        corners: How often a cell that holds a corner draws the corner itself; by default always under a weighting that
            reads places, and else, or where there are no more cells than objectives, in a quarter of the steps.
        dense: Further preferences measured at the end; 0 for none.

    Raises:
        ConfigError: A setting is out of range.
    """

    moves_slots = False
    for_families = True

    def __init__(self, *, corners: Share | None = None, dense: Whole = 8) -> None:
        self.corners = None if corners is None else float(corners)
        self.usual_corners = SOMETIMES
        self.dense = int(dense)
        self.homes = np.zeros((0, 0))  # [K, m] the cells' centres, once `preferences` has laid them out

    def read_as(self, reading: str) -> None:
        """See `Explorer.read_as`."""
        self.usual_corners = 1.0 if reading == "place" else SOMETIMES

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """See `Explorer.preferences`: the grid that the family is measured on, row k in cell k where it can be."""
        from scipy.optimize import linear_sum_assignment

        m = len(names)
        require(self.name, names, population, objectives=2, policies=2)
        self.homes = cells(m, population)
        rows = simplex.grid(m, population)
        _, order = linear_sum_assignment(((self.homes[:, None] - rows[None]) ** 2).sum(-1))
        return rows[order]

    def draw(self, seed: int) -> np.ndarray:
        """See `Explorer.draw`."""
        rng = np.random.default_rng(seed)
        K, m = self.homes.shape
        drawn = self.homes.copy()
        # a cell has about 1/K of the simplex, so hardly ever none of 32 K points lies in it; it then keeps its centre
        candidates = rng.dirichlet(np.ones(m), size=32 * K)
        owner = _nearest(candidates, self.homes)
        for k in range(K):
            inside = candidates[owner == k]
            if len(inside):
                drawn[k] = inside[0]
        usual = self.usual_corners if m < K else SOMETIMES
        often = usual if self.corners is None else self.corners
        for corner, k in enumerate(_nearest(np.eye(m), self.homes)):
            if rng.random() < often:
                drawn[k] = np.eye(m)[corner]
        return drawn

    def further(self, state: Exploration) -> np.ndarray:
        """See `Explorer.further`: asked twice, for half of `dense` each, the second time with the first ones known."""
        grid = [entry for entry in newest(state) if entry is not None]
        added = [e for e in state.archive.entries.values() if e.origin.between == state.step]
        measured = [*grid, *added]
        if len(measured) < 2:
            return np.zeros((0, len(state.names)))
        asked = np.array([entry.origin.preference for entry in measured], dtype=float)
        return fill_in(asked, state.points(measured), self.dense // 2 if added else (self.dense + 1) // 2)


def cells(m: int, count: int) -> np.ndarray:
    """The centres `[count, m]` of cells of about equal size that fill the simplex, the first objective's end first.

    Two objectives: equal pieces of the segment. More: Lloyd's algorithm on a fixed sample.
    """
    if m == 2:
        first = 1 - (np.arange(count) + 0.5) / count
        return np.stack([first, 1 - first], axis=1)
    points = simplex.random(m, SAMPLES, seed=0)
    centres = points[:count].copy()
    for _ in range(ROUNDS):
        owner = _nearest(points, centres)
        centres = np.stack([points[owner == k].mean(0) if (owner == k).any() else centres[k] for k in range(count)])
    return np.asarray(centres[np.lexsort(centres.round(9).T[::-1])[::-1]])


def fill_in(preferences: np.ndarray, points: np.ndarray, count: int) -> np.ndarray:
    """Preferences `[count, m]` halfway between neighbours whose points lie furthest apart, the widest gap first.

    A gap that was filled counts on as two of half its width. Fewer are added where all gaps are filled.

    Args:
        preferences: `[n, m]` measured ones, n >= 2.
        points: `[n, m]` what was measured there, framed.
        count: How many to add.
    """
    gaps = [
        (float(np.linalg.norm(points[i] - points[j])), preferences[i], preferences[j]) for i, j in _edges(preferences)
    ]
    added: list[np.ndarray] = []
    while gaps and len(added) < count:
        widest = max(range(len(gaps)), key=lambda i: gaps[i][0])
        width, one, other = gaps.pop(widest)
        if np.abs(one - other).max() < 1e-6:
            continue
        middle = (one + other) / 2
        added.append(middle)
        gaps += [(width / 2, one, middle), (width / 2, middle, other)]
    return np.array(added).reshape(-1, preferences.shape[1])


def _edges(preferences: np.ndarray) -> list[tuple[int, int]]:
    """Neighbours among preferences `[n, m]`: those that follow each other, or the edges of Delaunay's triangulation."""
    n, m = preferences.shape
    if m == 2:
        order = [int(i) for i in np.argsort(preferences[:, 0], kind="stable")]
        return list(pairwise(order))
    from scipy.spatial import Delaunay, QhullError

    try:
        simplices = Delaunay(preferences @ simplex_plane(m), qhull_options="QJ").simplices
    except (QhullError, ValueError):  # too few, or all on one face
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    pairs = {(int(min(a, b)), int(max(a, b))) for cell in simplices for a in cell for b in cell if a != b}
    return sorted(pairs)


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """`[n]` which of the centres `[K, m]` each point `[n, m]` is closest to."""
    return np.asarray(((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1))
