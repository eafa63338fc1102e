"""What is served at an unseen preference, with an interval whose coverage is proved: split-conformal prediction.

A smooth function of the preference is fitted to what was measured, and its error is measured at preferences that
nothing was fitted to. For a user whose preference is drawn like those, the next error is as likely as any to be the
largest: half-widths need no assumption on the policies, the rewards, or the function.

References:
    Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005; Lei et al., "Distribution-Free
        Predictive Inference for Regression", arXiv 1604.04173 (split-conformal intervals).
    Scheffé, "Experiments with Mixtures", JRSS B 20, 1958 (the quadratic in mixture proportions).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import PreferenceError

__all__ = ["Quadratic", "calibrated_halfwidth", "least_calibration"]

Floats = NDArray[np.float64]


def least_calibration(confidence: float) -> int:
    """Fewest held-out preferences that a confidence can be promised with: 9 for .9, 19 for .95."""
    return math.ceil(confidence / (1 - confidence) - 1e-9)


def calibrated_halfwidth(errors: ArrayLike, confidence: float) -> Floats:
    """Half the width [M] of intervals about a prediction: the ceil((n + 1) confidence)-th smallest held-out error.

    The chance that the interval holds the next measured value is at least `confidence`, over held-out preferences and
    the next one, where they are drawn alike; for each objective by itself.

    Args:
        errors: [n, M] of predictions at held-out preferences, of either sign.
        confidence: Between 0 and 1.

    Raises:
        PreferenceError: Too few errors for the confidence.
    """
    found = np.sort(np.abs(np.asarray(errors, dtype=float)), axis=0)
    least = least_calibration(confidence)
    if len(found) < least:
        raise PreferenceError(
            f"A confidence of {confidence:g} needs {least} held-out preferences: fewer cannot have seen so rare an "
            f"error. Found {len(found)}."
        )
    return np.asarray(found[math.ceil((len(found) + 1) * confidence - 1e-9) - 1])


@dataclass(frozen=True, eq=False)
class Quadratic:
    """Values as a quadratic function of the preference, sum_i a_i w_i + sum_ij b_ij w_i w_j.

    Attributes:
        coefficients: [features, M].
    """

    coefficients: Floats

    @classmethod
    def fit(cls, preferences: ArrayLike, values: ArrayLike, *, ridge: float = 1e-3) -> Quadratic:
        """The least-squares fit; pairwise terms are drawn to 0, which leaves a plane where points are few.

        Args:
            preferences: [n, m] on the simplex.
            values: [n, M] found there.
            ridge: Penalty on the pairwise terms.
        """
        asked, found = np.asarray(preferences, dtype=float), np.asarray(values, dtype=float)
        features = _features(asked)
        penalty = np.full(features.shape[1], ridge)
        penalty[: asked.shape[1]] = 1e-9
        return cls(np.linalg.solve(features.T @ features + np.diag(penalty), features.T @ found))

    def __call__(self, preferences: ArrayLike) -> Floats:
        """Values [j, M] at preferences [j, m]."""
        return np.asarray(_features(np.atleast_2d(np.asarray(preferences, dtype=float))) @ self.coefficients)


def _features(preferences: Floats) -> Floats:
    """[n, m + m (m - 1) / 2] weights and their products."""
    m = preferences.shape[1]
    pairs = [preferences[:, i] * preferences[:, j] for i in range(m) for j in range(i)]
    return np.column_stack([preferences, *pairs])
