"""What labels alone say about the front that can be had: agreement, conflict, length bias, cycles, and the ceiling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, spence, xlogy

from pareto_align.data.comparison import FloatArray, IntArray
from pareto_align.data.comparisons import Comparisons

__all__ = [
    "Agreement",
    "LengthBias",
    "PooledPairs",
    "agreement",
    "ceiling",
    "ceiling_hypervolume",
    "ceilings",
    "conflict_ceiling",
    "conflict_hypervolume",
    "cycle_share",
    "disagreement",
    "length_bias",
    "pooled_pairs",
]

Z95 = 1.959963984540054
CERTAIN, SOUGHT, DRAWN = 12.0, 2001, 65  # of a drawn front: log odds of weights where it ends, points sought and drawn
FINE, COARSE = 20001, 401  # points of a front over which is integrated: of few and of many different labels


@dataclass(frozen=True, eq=False)
class PooledPairs:
    """All pairs of some comparisons, each once, whoever judged it.

    Attributes:
        rows: `[pairs]` which comparison each is of.
        pairs: `[pairs, 2]` the responses a < b.
        values: `[pairs, m]` mean labels, 1 where a is better; NaN where there is none.
        counts: `[pairs, m]` judgements.
        lengths: `[pairs, 2]` characters of both responses.
        decided: `[2, pairs, m]` judgements that prefer one of the two, and those that prefer a.
    """

    rows: IntArray
    pairs: IntArray
    values: FloatArray
    counts: FloatArray
    lengths: IntArray
    decided: FloatArray

    @property
    def sides(self) -> FloatArray:
        """`[pairs, m]` 1 where a is preferred, -1 where b is, 0 for ties, NaN where there is no label."""
        return np.asarray(np.sign(self.values - 0.5))


@dataclass(frozen=True)
class LengthBias:
    """How often the longer response is the preferred one.

    Attributes:
        share: Of the decided pairs of unequal lengths; 0.5 is no bias, NaN without any such pair.
        low: Lower end of the 95 % interval of the share; prompts are the units.
        high: Upper end.
        pairs: How many pairs it is of.
        winner: Mean characters of preferred responses.
        loser: Mean characters of the others.
    """

    share: float
    low: float
    high: float
    pairs: int
    winner: float
    loser: float


@dataclass(frozen=True)
class Agreement:
    """How two objectives' labels agree, on the pairs that both decide.

    Attributes:
        pairs: How many pairs these are.
        agree: Share on which they prefer the same response; NaN without any.
        kappa: Cohen's kappa, 2 agree - 1. Which response of a pair comes first has no meaning, so that by chance half
            of the labels agree.
        conflict: Share on which they do not agree.
    """

    pairs: int
    agree: float
    kappa: float
    conflict: float


def pooled_pairs(comparisons: Comparisons) -> PooledPairs:
    """Each pair once, with the mean of its judgements."""
    table = comparisons.table()
    pairs = np.concatenate([row.labels.pairs for row in comparisons]).reshape(-1, 2)
    turned = pairs[:, 0] > pairs[:, 1]
    values = np.where(turned[:, None], 1 - table.values, table.values)
    keys = np.column_stack([table.rows, np.sort(pairs, axis=1)])
    unique, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    place = place.reshape(-1)
    sums, counts = np.zeros((len(unique), comparisons.m)), np.zeros((len(unique), comparisons.m))
    np.add.at(sums, place, np.nan_to_num(values) * table.weights)
    np.add.at(counts, place, table.weights)
    lengths = np.where(turned[:, None], table.lengths[:, ::-1], table.lengths)[first]
    with np.errstate(invalid="ignore"):
        means = sums / counts
    # one judge's tie is for neither; a mean of several nameless judges stays as it is
    sure = table.weights * (np.isin(values, (0.0, 1.0)) | (table.weights > 1))
    decided = np.zeros((2, *means.shape))
    np.add.at(decided[0], place, sure)
    np.add.at(decided[1], place, np.nan_to_num(values) * sure)
    return PooledPairs(unique[:, 0], unique[:, 1:], means, counts, lengths, decided)


def length_bias(pooled: PooledPairs) -> list[LengthBias]:
    """The length bias of each objective. Wilson's interval, at as many pairs as independent ones would be worth."""
    found = []
    for sides in pooled.sides.T:
        decided = np.isfinite(sides) & (sides != 0)
        first = sides[decided] > 0
        lengths, rows = pooled.lengths[decided], pooled.rows[decided]
        winner = np.where(first, lengths[:, 0], lengths[:, 1])
        loser = np.where(first, lengths[:, 1], lengths[:, 0])
        unequal = winner != loser
        longer = (winner > loser)[unequal]
        low, high = _interval(longer.astype(np.float64), rows[unequal])
        found.append(
            LengthBias(
                float(longer.mean()) if len(longer) else math.nan,
                low,
                high,
                len(longer),
                float(winner.mean()) if len(winner) else math.nan,
                float(loser.mean()) if len(loser) else math.nan,
            )
        )
    return found


def _interval(hits: FloatArray, units: IntArray) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, of pairs that come in units."""
    if not len(hits):
        return math.nan, math.nan
    share, n = float(hits.mean()), len(hits)
    _, place = np.unique(units, return_inverse=True)
    together = np.zeros(place.max() + 1)
    np.add.at(together, place.reshape(-1), hits - share)
    variance = float((together**2).sum()) / n**2
    # pairs of one prompt say less than as many independent ones
    worth = min(n, share * (1 - share) / variance) if variance > 0 else float(len(together))
    z2 = Z95**2
    middle = (share + z2 / (2 * worth)) / (1 + z2 / worth)
    half = Z95 / (1 + z2 / worth) * math.sqrt(share * (1 - share) / worth + z2 / (4 * worth**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def agreement(pooled: PooledPairs, first: int, second: int) -> Agreement:
    """How two objectives agree, ties left out."""
    one, other = pooled.sides[:, first], pooled.sides[:, second]
    both = np.isfinite(one) & np.isfinite(other) & (one != 0) & (other != 0)
    count = int(both.sum())
    agree = float((one[both] == other[both]).mean()) if count else math.nan
    return Agreement(count, agree, 2 * agree - 1, 1 - agree)


def cycle_share(pooled: PooledPairs, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """By objective, how many triples of responses are ranked in a circle, and of how many that are compared throughout.

    Args:
        pooled: The pairs.
        sizes: Responses of each comparison.
    """
    m = pooled.values.shape[1]
    circles, triples = np.zeros(m, dtype=np.int64), np.zeros(m, dtype=np.int64)
    groups = np.asarray(sizes)
    for size in np.unique(groups[groups >= 3]):
        members = np.flatnonzero(groups == size)
        place = np.full(len(groups), -1)
        place[members] = np.arange(len(members))
        chosen = place[pooled.rows] >= 0
        rows, pairs = place[pooled.rows[chosen]], pooled.pairs[chosen]
        sides = np.nan_to_num(pooled.sides[chosen]).astype(np.int8)
        wins = np.zeros((len(members), size, size, m), dtype=np.int8)
        wins[rows, pairs[:, 0], pairs[:, 1]], wins[rows, pairs[:, 1], pairs[:, 0]] = sides, -sides
        for i, j, k in itertools.combinations(range(size), 3):
            one, other, third = wins[:, i, j], wins[:, j, k], wins[:, k, i]
            whole = (one != 0) & (other != 0) & (third != 0)
            triples += whole.sum(0)
            circles += (whole & (one == other) & (other == third)).sum(0)
    return [(int(a), int(b)) for a, b in zip(circles, triples, strict=True)]


def disagreement(pooled: PooledPairs) -> list[float]:
    """By objective, how often two judges who decide disagree about a pair; NaN where no pair has two of them."""
    found = []
    for n, ahead in zip(pooled.decided[0].T, pooled.decided[1].T, strict=True):
        several = n >= 2
        wins, count = ahead[several], n[several]
        found.append(float((2 * wins * (count - wins) / (count * (count - 1))).mean()) if several.any() else math.nan)
    return found


# ------------------------------------------------------------------------------------------------ the ceiling


def ceiling(pooled: PooledPairs, weights: ArrayLike) -> FloatArray:
    """The best that labels allow: each pair may have any margin z = sigmoid(beta D), and one for all objectives.

    `explained_j` is 1 less the mean cross-entropy in bits of objective j's labels: 0 for the untrained model, 1 where
    all labels are certain and met. For weights w the best z of a pair is the mean of its labels, weighed by w and by
    what a label counts in its objective's mean.

    Args:
        pooled: The pairs.
        weights: `[n, m]` weights of the objectives, one point of the front each.

    Returns:
        `[n, m]` explained.
    """
    w = np.atleast_2d(np.asarray(weights, dtype=np.float64))
    known = np.isfinite(pooled.values)
    total = pooled.counts.sum(0)
    counts = np.where(known, pooled.counts, 0) / np.where(total > 0, total, 1)  # [pairs, m], columns sum to 1
    labels, share = _patterns(np.where(known, pooled.values, 0.5), counts)
    found = np.empty((len(w), labels.shape[1]))
    step = max(1, 2_000_000 // max(labels.size, 1))
    for start in range(0, len(w), step):
        some = w[start : start + step, None, :] * share  # [n, patterns, m]
        weight = some.sum(-1)
        mean = np.divide((some * labels).sum(-1), weight, out=np.full_like(weight, 0.5), where=weight > 0)
        z = mean[..., None]
        # labels of 0 and 1 cost nothing where z meets them: 0 log 0 is 0, and elsewhere it is infinite
        with np.errstate(divide="ignore"):
            cost = -(xlogy(labels, z) + xlogy(1 - labels, 1 - z))
        cost = np.where(share > 0, cost, 0)
        found[start : start + step] = 1 - (share * cost).sum(1) / math.log(2)
    return found


def _patterns(labels: FloatArray, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Pairs with the same labels and proportions as one, with the sum of what they count."""
    scale = counts.max(1, keepdims=True)
    proportion = np.divide(counts, scale, out=np.zeros_like(counts), where=scale > 0)
    keys, place = np.unique(np.hstack([labels, np.round(proportion, 12)]), axis=0, return_inverse=True)
    total = np.zeros((len(keys), labels.shape[1]))
    np.add.at(total, place.reshape(-1), counts)
    return keys[:, : labels.shape[1]], total


def ceilings(pooled: PooledPairs, objectives: Sequence[int]) -> list[FloatArray]:
    """The ceilings of each two objectives, explained, as policies are measured: every comparison counts once.

    Args:
        pooled: The pairs.
        objectives: Which of the m.

    Returns:
        For each two of them, in the order of `itertools.combinations`, `[n, 2]` from the end of the second to that of
        the first; only what explains no less than the untrained model of either.
    """
    total = np.zeros((int(pooled.rows.max()) + 1, pooled.counts.shape[1]))
    np.add.at(total, pooled.rows, pooled.counts)
    counts = np.divide(pooled.counts, total[pooled.rows], out=np.zeros_like(pooled.counts), where=pooled.counts > 0)
    found = []
    for pair in itertools.combinations(objectives, 2):
        two = replace(pooled, values=pooled.values[:, pair], counts=counts[:, pair])

        def at(logits: FloatArray, two: PooledPairs = two) -> FloatArray:
            return ceiling(two, np.column_stack([expit(logits), expit(-logits)]))

        # where labels are soft a small step in the weights is a long way, so the ends are looked for first
        logits = np.linspace(-CERTAIN, CERTAIN, SOUGHT)
        good = logits[(at(logits) >= 0).all(1)]
        found.append(at(np.linspace(good[0], good[-1], DRAWN)) if len(good) else np.zeros((0, 2)))
    return found


def conflict_ceiling(conflict: float, weight: ArrayLike) -> FloatArray:
    """The ceiling of two objectives of certain labels that conflict on a share c of the pairs.

    `(1 + c log2 w, 1 + c log2(1 - w))` for a weight w of the first.

    Args:
        conflict: c.
        weight: `[n]`, between 0 and 1.

    Returns:
        `[n, 2]` explained.
    """
    w = np.asarray(weight, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.stack([np.log2(w), np.log2(1 - w)], -1)
        return np.asarray(1 + np.where(conflict > 0, conflict * shares, 0))


def conflict_hypervolume(conflict: float) -> float:
    """The hypervolume above (0, 0), the untrained model, of `conflict_ceiling`: 1 without conflict, 0 where all is.

    In closed form, with dilogarithms: the front is cut by the axes at w = 2^(-1/c) and at 1 - w = 2^(-1/c).
    """
    if not conflict > 0:
        return 1.0
    low = 2.0 ** (-1 / conflict)
    high = 1 - low
    if low >= high:
        return 0.0
    # the integral of log(1 - w) / w is -Li2(w), and spence(x) is Li2(1 - x)
    area = 1 + conflict * math.log2(high) + (conflict / math.log(2)) ** 2 * (spence(1 - low) - spence(1 - high))
    return float(area)


def ceiling_hypervolume(pooled: PooledPairs, first: int, second: int) -> float:
    """The hypervolume above (0, 0) of the ceiling of two objectives, whatever their labels; NaN where one has none."""
    chosen = [first, second]
    values, counts = pooled.values[:, chosen], pooled.counts[:, chosen]
    if not np.isfinite(values).any(0).all():
        return math.nan
    if np.isin(values, (0.0, 1.0)).all() and (counts == counts[0]).all():
        return conflict_hypervolume(float((values[:, 0] != values[:, 1]).mean()))
    two = replace(pooled, values=values, counts=counts)
    different = len(np.unique(np.nan_to_num(values, nan=-1), axis=0))
    logits = np.linspace(-40, 40, FINE if different < 100 else COARSE)
    w = expit(logits)
    front = np.maximum(ceiling(two, np.column_stack([w, 1 - w])), 0)
    # from the corner of the second objective to that of the first, and the strip that lies left of the front
    return float(np.trapezoid(front[:, 1], front[:, 0]) + front[0, 0] * front[0, 1])
