"""From ratings and rankings of several responses to pairs with labels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError

__all__ = ["PAIR_RULES", "PairRule", "check_pairs", "choose_pairs", "hierarchy_labels", "labels_of"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

PairRule = Literal["auto", "all", "adjacent", "best_worst", "best_rest", "random"]
"""Which responses of a prompt become pairs: all; neighbours in the ranking; the best and the worst; the best and each
of the rest; disjoint pairs at random. "auto" takes all up to four responses, else the best and the rest."""

PAIR_RULES: tuple[str, ...] = get_args(PairRule)
"""All rules by which pairs are made of ratings."""

FEW = 4


def check_pairs(rule: str) -> None:
    """Refuse a rule that does not exist.

    Raises:
        ConfigError: It says which there are.
    """
    if rule not in PAIR_RULES:
        raise ConfigError(f"`pairs` must be one of {', '.join(PAIR_RULES)}. Found {rule!r}.")


def choose_pairs(scores: ArrayLike, rule: str = "auto", rng: np.random.Generator | None = None) -> IntArray:
    """The pairs (a, b), a before b, that a rule takes from one prompt's responses.

    With several objectives a pair is taken where the rule takes it for any of them: a rating is there for all, so each
    further pair of the same responses costs no tokens.

    Args:
        scores: `[G, m]` ratings, more being better; NaN where one is missing.
        rule: See `PairRule`.
        rng: For "random".

    Returns:
        `[pairs, 2]`, without pairs that no objective tells apart.

    Raises:
        ConfigError: There is no such rule.
    """
    check_pairs(rule)
    rated = np.asarray(scores, dtype=np.float64)
    group = len(rated)
    if rule == "auto":
        rule = "all" if group <= FEW else "best_rest"
    if rule == "all":
        found = set(itertools.combinations(range(group), 2))
    elif rule == "random":
        order = (rng or np.random.default_rng(0)).permutation(group)
        found = {_sorted(a, b) for a, b in zip(order[::2], order[1::2], strict=False)}
    else:
        found = set[tuple[int, int]]()
        for column in rated.T:
            found |= _of_ranking(column, rule)
    pairs = np.array(sorted(found), dtype=np.int64).reshape(-1, 2)
    gaps = rated[pairs[:, 0]] - rated[pairs[:, 1]]
    return pairs[(np.abs(gaps) > 0).any(axis=1)]  # NaN is not above 0


def _of_ranking(column: FloatArray, rule: str) -> set[tuple[int, int]]:
    known = np.flatnonzero(~np.isnan(column))
    if len(known) < 2:
        return set()
    order = known[np.argsort(-column[known], kind="stable")]
    if rule == "best_worst":
        return {_sorted(order[0], order[-1])}
    if rule == "best_rest":
        return {_sorted(order[0], other) for other in order[1:]}
    return {_sorted(a, b) for a, b in itertools.pairwise(order)}


def _sorted(a: int, b: int) -> tuple[int, int]:
    return (int(a), int(b)) if a < b else (int(b), int(a))


def labels_of(scores: ArrayLike, pairs: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """What ratings say of pairs.

    Args:
        scores: `[G, m]`, NaN where one is missing.
        pairs: `[pairs, 2]`.

    Returns:
        Labels `[pairs, m]`, 1 where the first is rated higher, 0 where lower, 0.5 where both are rated alike, and
        margins `[pairs, m]`, the absolute difference; NaN in both where a rating is missing.
    """
    rated, which = np.asarray(scores, dtype=np.float64), np.asarray(pairs, dtype=np.int64)
    gaps = rated[which[:, 0]] - rated[which[:, 1]]
    return np.where(np.isnan(gaps), math.nan, (np.sign(gaps) + 1) / 2), np.abs(gaps)


def hierarchy_labels(scores: ArrayLike, margins: Sequence[float], pairs: ArrayLike) -> FloatArray:
    """Labels `[pairs]` of objectives in order of importance: the first whose ratings differ by its margin decides.

    Args:
        scores: `[G, m]`, the most important objective first, more being better; a missing rating decides nothing.
        margins: `[m]` what a difference must exceed to decide.
        pairs: `[pairs, 2]`.

    References:
        Bukharin et al., "Deep Reinforcement Learning from Hierarchical Preference Design", arXiv 2309.02632.
    """
    rated, which = np.asarray(scores, dtype=np.float64), np.asarray(pairs, dtype=np.int64)
    gaps = np.nan_to_num(rated[which[:, 0]] - rated[which[:, 1]])
    labels = np.full(len(which), 0.5)
    for column, margin in reversed(list(zip(gaps.T, margins, strict=True))):
        labels = np.where(np.abs(column) > margin, (np.sign(column) + 1) / 2, labels)
    return labels
