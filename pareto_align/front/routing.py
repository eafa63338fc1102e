"""Which member answers which prompt best: rewards read off what the untrained model makes of a prompt.

Each member's reward is a ridge regression on the prompt's features, with a penalty of its own: where a prompt says
nothing, the penalty that misses least is infinite and the prediction is the member's mean. What is said of a prompt
that was regressed on comes from a regression without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.errors import ConfigError

__all__ = ["Regression", "regress"]

PENALTIES = (*np.logspace(-4, 4, 17), np.inf)
"""As shares of the features' mean eigenvalue."""


@dataclass(frozen=True, eq=False)
class Regression:
    """Predicts k numbers from features.

    Attributes:
        center: `[d]` what features are taken less.
        slopes: `[d, k]`.
        means: `[k]` at the center.
    """

    center: np.ndarray
    slopes: np.ndarray
    means: np.ndarray

    def __call__(self, features: ArrayLike) -> np.ndarray:
        """`[N, k]` of features `[N, d]`."""
        return np.asarray((np.asarray(features, dtype=float) - self.center) @ self.slopes + self.means)


def regress(features: ArrayLike, targets: ArrayLike, groups: Sequence[Hashable]) -> tuple[Regression, np.ndarray]:
    """Ridge regressions, each with the penalty that misses least on groups it was not fitted to.

    Args:
        features: `[N, d]`.
        targets: `[N, k]`.
        groups: N names: rows of one name are left out together. One prompt that was asked twice is one group.

    Returns:
        The regression on all rows, and `[N, k]` what those without a row's group predict for it. One penalty of a few
        is chosen by these predictions, which flatters them by as little as that can.

    Raises:
        ConfigError: Fewer than two groups, or something is not finite.
    """
    x, y = np.asarray(features, dtype=float), np.asarray(targets, dtype=float)
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        raise ConfigError(f"Prompts that differ are needed to tell them apart. Found {len(names)} of them.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError("Features and rewards must be finite: some are missing.")
    place = {name: number for number, name in enumerate(names)}
    group = np.array([place[name] for name in groups])
    members = [np.flatnonzero(group == number) for number in range(len(names))]

    center, spread = x.mean(0), x.std(0)
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0.0)
    left, singular, right = np.linalg.svd((x - center) * scale, full_matrices=False)
    unit = max(float((singular**2).mean()), 1e-300)
    means = y.mean(0)

    best = np.full(y.shape[1], np.inf)
    predicted, slopes = np.tile(means, (len(y), 1)), np.zeros((x.shape[1], y.shape[1]))
    for penalty in PENALTIES:
        shrunk = singular**2 / (singular**2 + penalty * unit) if np.isfinite(penalty) else np.zeros_like(singular)
        hat = (left * shrunk) @ left.T + 1 / len(y)
        found = _left_out(hat, y, members)
        missed = ((found - y) ** 2).sum(0)
        better = missed < best
        best[better] = missed[better]
        predicted[:, better] = found[:, better]
        inverse = np.divide(shrunk, singular, out=np.zeros_like(singular), where=singular > 0)
        slopes[:, better] = scale[:, None] * (right.T @ (inverse[:, None] * (left.T @ (y - means)[:, better])))
    return Regression(center, slopes, means), predicted


def _left_out(hat: np.ndarray, y: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    """`[N, k]` predictions without each row's group, from the matrix `[N, N]` that takes targets to predictions.

    The residual without a group is (I - H)^-1 of the group's own residual, as with single rows.
    """
    residual = y - hat @ y
    found = np.empty_like(y)
    for rows in members:
        own = np.eye(len(rows)) - hat[np.ix_(rows, rows)]
        # rows that carry all of the weight on their direction leave nothing to predict them by
        found[rows] = y[rows] - np.linalg.lstsq(own, residual[rows], rcond=1e-10)[0]
    return found
