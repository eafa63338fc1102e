"""How hard comparisons are for a given reference policy: who it prefers, who an ideal policy would, what displaces.

Numbers only: gaps are log-probabilities under the reference of the preferred response less those of the other, summed
over tokens; states are those of the reference's last layer.

References:
    Chen et al., "Preference Learning Algorithms Do Not Learn Preference Rankings", arXiv 2405.19534 (ranking
        accuracies).
    Razin et al., "Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization",
        arXiv 2410.08847 (CHES).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError

__all__ = ["ches", "flip_losses", "idealised_accuracy", "idealised_margins", "ranking_accuracy"]

FloatArray = NDArray[np.float64]


def ranking_accuracy(gaps: ArrayLike) -> float:
    """Share of pairs in which the preferred response is the likelier one; equal ones count half.

    Args:
        gaps: `[n]`.
    """
    found = np.asarray(gaps, dtype=np.float64)
    return float(np.where(found == 0, 0.5, found > 0).mean())


def idealised_margins(gaps: ArrayLike, probabilities: ArrayLike, beta: float) -> FloatArray:
    """`[n]` the gaps of the policy that DPO would ideally reach: `gap + logit(p) / beta`.

    Args:
        gaps: `[n]` of the reference.
        probabilities: `[n]` p, how probable it is that the preferred response is preferred, strictly between 0 and 1.
        beta: DPO's.

    Raises:
        ConfigError: A probability is 0 or 1, with which the margin is infinite, or beta is not positive.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if not ((p > 0) & (p < 1)).all():
        raise ConfigError("`probabilities` must lie strictly between 0 and 1: a certain label has no ideal margin.")
    if not beta > 0:
        raise ConfigError(f"`beta` must be positive. Found {beta!r}.")
    return np.asarray(np.asarray(gaps, dtype=np.float64) + np.log(p / (1 - p)) / beta)


def idealised_accuracy(gaps: ArrayLike, probabilities: ArrayLike, beta: float) -> float:
    """The ranking accuracy of the policy that DPO would ideally reach; arguments as of `idealised_margins`."""
    return ranking_accuracy(idealised_margins(gaps, probabilities, beta))


def flip_losses(gaps: ArrayLike, beta: float) -> FloatArray:
    """`[n]` the DPO loss below which a pair's ranking is right: `-log sigmoid(-beta gap)`; ln 2 where the gap is 0.

    Where the reference prefers the wrong response by much, the loss has to become tiny first: below about 0.1 a pair
    will in practice never be turned.

    Args:
        gaps: `[n]` of the reference.
        beta: DPO's.
    """
    return np.asarray(np.logaddexp(0, beta * np.asarray(gaps, dtype=np.float64)))


def ches(preferred: ArrayLike, other: ArrayLike, *, per_token: bool = False) -> float:
    """The centred hidden-embedding similarity of a pair: high where learning it lowers both responses' likelihood.

    `<H_w, H_r> - |H_w|^2` with H the sum of the states that predict a response's tokens.

    Args:
        preferred: `[T_w, d]` states of the preferred response.
        other: `[T_r, d]` of the other one.
        per_token: Means instead of sums: the form by which pairs of unequal lengths can be compared.
    """
    h, g = (np.asarray(states, dtype=np.float64) for states in (preferred, other))
    w, r = (h.mean(0), g.mean(0)) if per_token else (h.sum(0), g.sum(0))
    return float(w @ r - w @ w)
