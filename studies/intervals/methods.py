"""Intervals of a mean from samples [R, n], R of them at a time: each gives the lower and the upper ends, [R] both.

References:
    Efron, "Better Bootstrap Confidence Intervals", J. Am. Stat. Assoc. 82 (1987): BCa.
    Owen, "Empirical likelihood ratio confidence intervals for a single functional", Biometrika 75 (1988).
    Maurer, Pontil, "Empirical Bernstein Bounds and Sample Variance Penalization", arXiv 0907.3740.
    Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686: the hedged
        capital interval for a fixed n.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special, stats

from pareto_align.front.intervals import bounded_interval, doubt

LEVEL = 0.95
ALPHA = 1 - LEVEL

Ends = tuple[np.ndarray, np.ndarray]


def student(x: np.ndarray) -> Ends:
    """The t interval: 0.1.0's, and still that of rewards without bounds."""
    n = x.shape[1]
    reach = stats.t.ppf(1 - ALPHA / 2, n - 1) * x.std(axis=1, ddof=1) / math.sqrt(n)
    return x.mean(axis=1) - reach, x.mean(axis=1) + reach


def bca(x: np.ndarray, resamples: int = 1000) -> Ends:
    """Bias-corrected and accelerated bootstrap; the mean itself where all resamples are equal."""
    rng = np.random.default_rng(0)
    runs, n = x.shape
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    drawn = np.sort(x @ weights.T, axis=1)
    mean = x.mean(axis=1, keepdims=True)
    below = (drawn < mean).mean(axis=1) + 0.5 * (drawn == mean).mean(axis=1)
    bias = special.ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    centred = x - mean
    squares = (centred**2).sum(axis=1)
    speed = np.divide((centred**3).sum(axis=1), 6 * squares**1.5, out=np.zeros(runs), where=squares > 0)
    ends = []
    for tail in (ALPHA / 2, 1 - ALPHA / 2):
        z = bias + special.ndtri(tail)
        at = special.ndtr(bias + z / (1 - speed * z))
        place = np.clip(np.nan_to_num(at, nan=tail) * resamples, 0, resamples - 1).astype(int)
        ends.append(drawn[np.arange(runs), place])
    return ends[0], ends[1]


def empirical_likelihood(x: np.ndarray) -> Ends:
    """Owen's: all means whose likelihood ratio chi^2 with one degree of freedom does not refuse."""
    limit = stats.chi2.ppf(LEVEL, 1)
    mean = x.mean(axis=1)

    def ratio(mu: np.ndarray) -> np.ndarray:
        """-2 log R(mu) for mu [R] strictly between the smallest and the largest value."""
        c = x - mu[:, None]
        low, high = -1 / c.max(axis=1), -1 / c.min(axis=1)
        for _ in range(45):
            middle = (low + high) / 2
            falls = (c / (1 + middle[:, None] * c)).sum(axis=1) > 0
            low, high = np.where(falls, middle, low), np.where(falls, high, middle)
        return np.asarray(2 * np.log1p(((low + high) / 2)[:, None] * c).sum(axis=1))

    ends = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for far in (x.min(axis=1), x.max(axis=1)):
            inner, outer = mean.copy(), far.copy()
            for _ in range(40):
                middle = (inner + outer) / 2
                kept = ratio(middle) <= limit
                inner, outer = np.where(kept, middle, inner), np.where(kept, outer, middle)
            ends.append(np.where(x.min(axis=1) < x.max(axis=1), (inner + outer) / 2, far))
    return ends[0], ends[1]


def maurer_pontil(x: np.ndarray) -> Ends:
    """Empirical Bernstein for values in [0, 1], each side with half of the error."""
    n, mean = x.shape[1], x.mean(axis=1)
    log = math.log(4 / ALPHA)
    reach = np.sqrt(2 * x.var(axis=1, ddof=1) * log / n) + 7 * log / (3 * (n - 1))
    return np.clip(mean - reach, 0, 1), np.clip(mean + reach, 0, 1)


def betting(x: np.ndarray, grid: int = 500) -> Ends:
    """The hedged capital interval for values in [0, 1] and a fixed n, with c = 1/2, by a grid of means."""
    runs, n = x.shape
    means = np.linspace(0, 1, grid + 1)
    seen = np.arange(1, n + 1)
    running = (0.5 + x.cumsum(axis=1)) / (1 + seen)
    spread = (0.25 + ((x - running) ** 2).cumsum(axis=1)) / (1 + seen)
    before = np.concatenate([np.full((runs, 1), 0.25), spread[:, :-1]], axis=1)
    bets = np.sqrt(2 * math.log(2 / ALPHA) / (n * before))  # [R, n], known before the value they are made on
    kept = np.zeros((runs, grid + 1), dtype=bool)
    with np.errstate(divide="ignore"):
        for k, m in enumerate(means):
            up = np.minimum(bets, 0.5 / m if m > 0 else np.inf)
            down = np.minimum(bets, 0.5 / (1 - m) if m < 1 else np.inf)
            for_more = np.log1p(up * (x - m)).sum(axis=1)
            for_less = np.log1p(-down * (x - m)).sum(axis=1)
            # the mixture of both bets reaches 1 / alpha; for a fixed n the largest capital on the way counts as well
            kept[:, k] = np.maximum(for_more, for_less) < math.log(2 / ALPHA)
    first, last = kept.argmax(axis=1), grid - kept[:, ::-1].argmax(axis=1)
    return means[np.maximum(first - 1, 0)], means[np.minimum(last + 1, grid)]


def gaffke(x: np.ndarray) -> Ends:
    """The product's interval for values in [0, 1]: Clopper-Pearson's where they are 0 or 1."""
    ends = [bounded_interval(np.sort(row), 0.0, 1.0, confidence=LEVEL) for row in x]
    return np.array([low for low, _ in ends]), np.array([high for _, high in ends])


def doubtful(x: np.ndarray) -> np.ndarray:
    """[R] whether the product says of Student's interval that it is not to be trusted."""
    return np.array([bool(doubt(row)) for row in x])


METHODS: dict[str, Callable[[np.ndarray], Ends]] = {
    "Student": student,
    "BCa": bca,
    "empirical likelihood": empirical_likelihood,
    "Maurer-Pontil": maurer_pontil,
    "betting": betting,
    "Gaffke": gaffke,
}
BOUNDED = ("Maurer-Pontil", "betting", "Gaffke")
"""Methods for values in [0, 1] only."""
