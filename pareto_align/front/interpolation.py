"""What a family does at a preference nobody measured: read off between its measured neighbours, with its own error.

The measured preferences cut the simplex into cells (segments for two objectives); within a cell the values are taken to
be linear. How far that is off is found by leaving out each measured preference in turn and predicting it from the
others, across a cell that is then about twice as wide: the errors are larger than those of the full set, so the
interval errs on the wide side.

References:
    Barber et al., "Predictive inference with the jackknife+", arXiv 1905.02928 (intervals from leave-one-out errors).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.front.estimates import student_quantile
from pareto_align.front.preferences import simplex_plane

__all__ = ["controllability", "interpolate", "left_out_error", "predict"]

Floats = NDArray[np.float64]

LEAST_ERRORS = 3  # left-out predictions, below which nothing is known of the error
CONFIDENCE = 0.95


def controllability(preferences: ArrayLike, values: ArrayLike) -> Floats:
    """How well a family does as it is told: of each objective, Spearman's correlation of its weight with its value.

    Args:
        preferences: `[k, m]` measured ones.
        values: `[k, m]` means found there, maximised; NaN where there is none.

    Returns:
        `[m]` from -1 to 1; 0 where the value is the same at all weights, NaN where fewer than three are known.
    """
    from scipy.stats import rankdata

    found = []
    for weights, reached in zip(np.asarray(preferences, dtype=float).T, np.asarray(values, dtype=float).T, strict=True):
        known = np.isfinite(reached)
        if known.sum() < 3:
            found.append(math.nan)
            continue
        ranks = np.stack([rankdata(weights[known]), rankdata(reached[known])])
        ranks -= ranks.mean(1, keepdims=True)
        size = float(np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
        found.append(float(ranks[0] @ ranks[1]) / size if size else 0.0)
    return np.array(found)


def predict(
    preferences: ArrayLike, values: ArrayLike, stderr: ArrayLike, n: int, at: ArrayLike
) -> tuple[Floats, Floats]:
    """Values at a preference, and half the widths of their 95 % intervals.

    Args:
        preferences: `[k, m]` measured ones.
        values: `[k, M]` means found there.
        stderr: `[k, M]` their standard errors.
        n: Prompts behind them.
        at: `[m]` on the simplex.

    Returns:
        `[M]` the values, NaN without enough neighbours, and `[M]` half-widths, NaN where too few preferences were
        measured to know the error. Beyond a 95 % share of the left-out errors nothing is promised.
    """
    asked, point = np.asarray(preferences, dtype=float), np.asarray(at, dtype=float)[None]
    found, noise = (interpolate(asked, np.asarray(v, dtype=float), point)[0] for v in (values, stderr))
    if n < 2:
        return found, np.full(len(found), np.nan)
    return found, np.hypot(student_quantile((1 - CONFIDENCE) / 2, n) * noise, left_out_error(asked, values))


def left_out_error(preferences: ArrayLike, values: ArrayLike) -> Floats:
    """`[M]` what 95 % of the measured preferences are missed by, each read off between those at other places.

    NaN where too few of them lie between others to know. Arguments as for `predict`.
    """
    asked, found = np.asarray(preferences, dtype=float), np.asarray(values, dtype=float)
    errors = []
    for i in range(len(asked) if len(asked) > 1 else 0):
        # what stands at the same place would foretell itself, which says nothing of what lies between
        others = (np.abs(asked - asked[i]) > 1e-9).any(axis=1)
        if not others.any():
            continue
        errors.append(np.abs(interpolate(asked[others], found[others], asked[i : i + 1])[0] - found[i]))
    known = ~np.isnan(found).all(axis=0)  # an audit that was added later was measured at none
    missed = np.array([error for error in errors if np.isfinite(error[known]).all()])
    if len(missed) < LEAST_ERRORS:
        return np.full(found.shape[1], np.nan)
    rank = min(math.ceil(CONFIDENCE * (len(missed) + 1)), len(missed))
    return np.asarray(np.sort(missed, axis=0)[rank - 1], dtype=float)


def interpolate(preferences: Floats, values: Floats, at: Floats) -> Floats:
    """Piecewise linear interpolation `[j, M]` of values `[k, M]` at preferences `[j, m]`; NaN outside them.

    Args:
        preferences: `[k, m]` on the simplex. Where one stands twice its values are averaged.
        values: `[k, M]`.
        at: `[j, m]`.
    """
    _, first, owner = np.unique(preferences.round(9), axis=0, return_index=True, return_inverse=True)
    places = preferences[first]  # as they are: a rounded end would leave out what was measured there
    means = np.stack([values[owner.reshape(-1) == i].mean(0) for i in range(len(places))])
    j, m = at.shape
    if m == 2:
        # an end may lie outside of itself by a rounding error
        clipped = np.clip(at[:, 0], places[0, 0], places[-1, 0])
        inner = np.where(np.abs(at[:, 0] - clipped) < 1e-8, clipped, at[:, 0])
        columns = [
            np.interp(inner, places[:, 0], means[:, c], left=np.nan, right=np.nan) for c in range(means.shape[1])
        ]
        return np.stack(columns, axis=1)
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import QhullError

    plane = simplex_plane(m)
    try:
        # a preference on the border may lie outside by a rounding error
        inner = at + 1e-9 * (places.mean(0) - at)
        return np.asarray(LinearNDInterpolator(places @ plane, means)(inner @ plane), dtype=float)
    except (QhullError, ValueError):
        return np.full((j, means.shape[1]), np.nan)
