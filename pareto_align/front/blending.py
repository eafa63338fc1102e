"""Which adapters serve a preference that none was trained for, and with which coefficients.

The preferences that adapters were trained for (*anchors*) cut the simplex into the cells of a Delaunay triangulation.
A preference is the weighted mean of the corners of the cell that holds it; at most m adapters take part, the nearest
ones. The cell is found by lifting the anchors to a paraboloid, of which the triangulation is the lower hull: a linear
programme, which needs no case for anchors on a line, and none for anchors that stand twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import PreferenceError

__all__ = ["Coefficients", "coefficients_for"]

Floats = NDArray[np.float64]

OUTSIDE = 1e-6
"""Distance from the hull beyond which a preference lies outside of it, and coefficients below which there are none."""


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Weights of adapters for a preference.

    Attributes:
        weights: [n] on the simplex, at most m of them above 0.
        served: [m] the preference that they serve: the asked one, or the nearest one between the anchors.
        distance: How far that is from the asked one; 0 where it lies between the anchors.
    """

    weights: Floats
    served: Floats
    distance: float


def coefficients_for(anchors: ArrayLike, preference: ArrayLike, worth: ArrayLike | None = None) -> Coefficients:
    """Barycentric coordinates of a preference in the cell of anchors that holds it.

    Args:
        anchors: [n, m] preferences on the simplex that adapters were trained for; rows of NaN take no part.
        preference: [m] on the simplex. Outside of the anchors' hull the nearest point of the hull is served.
        worth: [n] what decides between anchors that stand at the same place: the larger one takes all.

    Raises:
        PreferenceError: No adapter has an anchor.
    """
    from scipy.optimize import lsq_linear

    places, asked = np.asarray(anchors, dtype=float), np.asarray(preference, dtype=float)
    known = np.flatnonzero(np.isfinite(places).all(axis=1))
    if not known.size:
        raise PreferenceError("No member was trained for a preference, so none lies between them.")
    if worth is not None:
        known = known[np.argsort(-np.asarray(worth, dtype=float)[known], kind="stable")]
    _, first = np.unique(places[known].round(9), axis=0, return_index=True)
    known = known[np.sort(first)]
    corners = places[known]
    cell = _cell(corners, asked)
    if cell is not None:
        served, distance = asked, 0.0
    else:
        # stiff: the coefficients sum to 1
        stiff = np.vstack([corners.T, np.full(len(corners), 1e3)])
        inner = lsq_linear(stiff, np.append(asked, 1e3), bounds=(0, np.inf), method="bvls").x
        served = inner / inner.sum() @ corners
        distance = float(np.linalg.norm(served - asked))
        cell = _cell(corners, served)
        cell = inner if cell is None else cell
        if distance <= OUTSIDE:
            served, distance = asked, 0.0
    kept = np.where(cell > OUTSIDE, cell, 0.0)
    weights = np.zeros(len(places))
    weights[known] = kept / kept.sum()
    return Coefficients(weights, np.asarray(served, dtype=float), distance)


def _cell(corners: Floats, asked: Floats) -> Floats | None:
    """[n] coordinates in the cell that holds a point; None where none does."""
    from scipy.optimize import linprog

    held = linprog(
        ((corners - asked) ** 2).sum(axis=1),
        A_eq=np.vstack([corners.T, np.ones((1, len(corners)))]),
        b_eq=np.append(asked, 1.0),
        bounds=(0, None),
    )
    return held.x if held.status == 0 else None
