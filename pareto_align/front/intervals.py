"""Intervals of a mean that hold what they say: for bounded rewards always, for others as far as the rewards allow.

Student's interval holds for rewards that are near normal or many. A reward of 0 or 1 is neither where successes are
rare: at a success rate of 2 % most samples of 16 prompts have no success, and no spread to make an interval of.

**Bounded rewards** in [lower, upper] need no assumption. Let D be the n + 1 gaps that n uniform numbers leave between 0
and 1. The upper end of Gaffke's interval is the quantile of  sum_i D_i x_i + D_(n+1) upper,  and the lower end that of
the same with `lower`: what the mean may be if, beside what was seen, there is one measurement as good or as bad as can
be. For rewards of 0 and 1 it is the interval of Clopper and Pearson. That it covers for all bounded rewards is proved
for two values, and conjectured beyond: no case that breaks it is known. `studies/intervals` compares it with others.

Where the values are all equal, the interval is that one measurement's doing alone, and `beyond_alike` draws from it.

**Unbounded rewards** have Student's interval, and no other of those compared does better where that one fails. Where it
is likely to, `doubt` says so.

References:
    Gaffke, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable",
        Mathematical Methods of Statistics 14 (2005).
    Learned-Miller, Thomas, "A New Confidence Interval for the Mean of a Bounded Random Variable", arXiv 1905.06208.
    Phan, Thomas, Learned-Miller, "Towards Practical Mean Bounds for Small Samples", arXiv 2106.03163.
    Clopper, Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26
        (1934).
    Hall, "The Bootstrap and Edgeworth Expansion" (1992): what skewness takes from the coverage of Student's interval.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FEW", "all_equal", "beyond_alike", "bounded_interval", "doubt"]

Floats = NDArray[np.float64]

FEW = 8
"""Units below which a sample does not show whether the rewards are near normal."""
LOSS = 0.02
"""Coverage that an interval may lose to skewness and still be trusted: 93 % in the place of 95 %."""

_NODES = np.arange(0.0, 8.0, 0.16)  # of an integral that falls off doubly exponentially; error below 1e-8


def bounded_interval(
    values: ArrayLike, lower: float, upper: float, *, confidence: float = 0.95, sizes: ArrayLike | None = None
) -> tuple[float, float]:
    """Gaffke's interval of the mean of independent values in [lower, upper].

    Args:
        values: [n] at least one; those of groups are their means.
        lower: The least possible value.
        upper: The largest possible value.
        confidence: Coverage, half of the rest on either side.
        sizes: [n] how much each value counts in the mean, groups by their prompts; all the same by default.

    Returns:
        Its ends. They lie in [lower, upper] and have the mean of the values between them.
    """
    x = np.asarray(values, dtype=float)
    weight = np.ones(len(x)) if sizes is None else np.asarray(sizes, dtype=float)
    # the measurement that was not made counts as much as one that was
    rows = sorted(zip(((x - lower) / (upper - lower)).tolist(), (weight / weight.mean()).tolist(), strict=True))
    share = (1 + confidence) / 2
    low = 1 - _upper_end(tuple((1 - v, w) for v, w in reversed(rows)), share)
    return lower + (upper - lower) * low, lower + (upper - lower) * _upper_end(tuple(rows), share)


def all_equal(values: ArrayLike) -> bool:
    """Whether values [n] differ by no more than rounding."""
    x = np.asarray(values, dtype=float)
    return bool(np.ptp(x) <= 16 * np.finfo(float).eps * np.abs(x).max())


def beyond_alike(
    value: float, n: int, bounds: tuple[float, float], draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """[draws] how far the mean of values within `bounds` may be from `value`, which all of n measurements gave.

    Half of them from the distribution that the upper end of `bounded_interval` is a quantile of, half from the other's:
    the measurement that was not made counts Beta(1, n), and is as good or as bad as can be.
    """
    end = np.where(rng.random(draws) < 0.5, *bounds)
    return np.asarray(rng.beta(1, n, draws) * (end - value), dtype=float)


@lru_cache(maxsize=4096)  # a front is looked at many times: its table, its figures, every choice from it
def _upper_end(rows: tuple[tuple[float, float], ...], share: float) -> float:
    """The value that  sum_i w_i E_i x_i / sum_i w_i E_i  stays below with probability `share`.

    E are exponential, which divided by their sum are gaps; x in [0, 1] and w come in pairs, and one of (1, 1) is added.
    """
    from scipy.optimize import brentq

    pairs, counts = np.unique(np.array([*rows, (1.0, 1.0)]), axis=0, return_counts=True)
    x, w = pairs.T
    if x[0] >= 1:
        return 1.0

    def excess(q: float) -> float:
        return _probability_positive(w * (x - q), counts) - (1 - share)

    return float(brentq(excess, x[0] + 1e-12, 1 - 1e-12, xtol=1e-10))


def _probability_positive(c: Floats, counts: NDArray[np.int64]) -> float:
    """P(sum_i c_i G_i > 0), G_i Gamma with shape `counts`; c has both signs.

    The inversion integral of the moment-generating function, along the vertical line through its saddlepoint, where the
    integrand does not oscillate.
    """
    from scipy.optimize import brentq

    top = c.max()
    if top <= 0:
        return 0.0

    def slope(s: float) -> float:
        return float((counts * c / (1 - c * s)).sum() - 1 / s)

    saddle = brentq(slope, 1e-12 / top, (1 - 1e-12) / top, xtol=1e-13 / top)
    height = (counts * np.log1p(-c * saddle)).sum()
    width = ((counts * (c / (1 - c * saddle)) ** 2).sum() + saddle**-2) ** -0.5
    s = saddle + 1j * width * np.sinh(_NODES)
    integrand = np.exp(-(counts * np.log(1 - np.multiply.outer(s, c))).sum(axis=1) + height) / s
    terms = integrand.real * np.cosh(_NODES)
    terms[0] /= 2
    return float(np.exp(-height) * terms.sum() * width * (_NODES[1] - _NODES[0]) / np.pi)


def doubt(values: ArrayLike) -> str:
    """Why Student's interval of the mean of these values [n] is not to be trusted; "" where nothing speaks against it.

    - "few": so few values do not show what the rewards are like.
    - "rare": (nearly) all are equal, and what makes the mean may be the rare case that is not among them.
    - "skewed": a two-sided 95 % interval loses about skewness^2 / (4 n) of its coverage (Hall's expansion), here more
      than `LOSS`, taking off what chance makes of the skewness of normal rewards, 6 / n.
    """
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    n = len(x)
    if n < 2:
        return ""  # there is no interval to doubt
    if n < FEW:
        return "few"
    centred = x - x.mean()
    variance = float((centred**2).mean())
    if all_equal(x) or not variance:
        return "rare"
    skewness = float((centred**3).mean()) / variance**1.5 * np.sqrt(n * (n - 1)) / (n - 2)
    if (skewness**2 - 6 / n) / (4 * n) <= LOSS:
        return ""
    commonest = np.unique(x, return_counts=True)[1].max()
    return "rare" if commonest > 0.75 * n else "skewed"
