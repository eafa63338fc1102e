"""Linear heads on features of responses: Bradley-Terry from comparisons, ridge regression from ratings, calibration.

Features are what a frozen model says of a response, such as its last state at the stop token; here they are numbers
`[n, d]`. A score is `v.h + b`, and after calibration one unit of a score's difference is one unit of log odds.

References:
    Bradley and Terry, "Rank Analysis of Incomplete Block Designs", Biometrika 39, 1952.
    Wang et al., "Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts", arXiv
        2406.12845 (ArmoRM): ridge regression an attribute, without an intercept, on the rows that have it.
    Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599: the temperature and the calibration error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from pareto_align.errors import ConfigError

__all__ = [
    "HeadReport",
    "Heads",
    "bradley_terry",
    "calibration_error",
    "cross_entropy",
    "fit_comparisons",
    "fit_ratings",
    "held_out",
    "ridge",
    "temperature",
]

FloatArray = NDArray[np.float64]
ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""Strengths of the ridge that `fit_ratings` tries."""

HELD_OUT = 0.2
"""Share of the prompts that heads are measured and calibrated on."""


@dataclass(frozen=True)
class HeadReport:
    """How good one head is, on prompts that it was not fitted to.

    Attributes:
        name: The objective.
        n: Comparisons, or ratings, that were held out.
        accuracy: Share of decided comparisons that it decides alike; of a regression, R squared.
        cross_entropy: Mean in nats, after calibration; ln 2 knows nothing. NaN of a regression.
        temperature: What scores were multiplied by.
        error: Expected calibration error, 10 bins of equal counts. NaN of a regression.
    """

    name: str
    n: int
    accuracy: float
    cross_entropy: float
    temperature: float
    error: float


@dataclass(frozen=True, eq=False)
class Heads:
    """Scores of m objectives.

    Attributes:
        names: The objectives.
        weights: `[m, d]`, calibrated.
        bias: `[m]`.
        report: One each.
    """

    names: tuple[str, ...]
    weights: FloatArray
    bias: FloatArray
    report: tuple[HeadReport, ...]

    def scores(self, features: ArrayLike) -> FloatArray:
        """Scores `[n, m]` of responses with features `[n, d]`."""
        return np.asarray(np.asarray(features, dtype=np.float64) @ self.weights.T + self.bias)

    def own_scores(self, features: ArrayLike) -> FloatArray:
        """Scores `[n, m]` of responses where each objective has features of its own, `[m, n, d]`."""
        own = np.einsum("mnd,md->nm", np.asarray(features, dtype=np.float64), self.weights)
        return np.asarray(own + self.bias)


def ridge(features: ArrayLike, targets: ArrayLike, alpha: float) -> FloatArray:
    """Ridge regression without an intercept: `(H^T H + alpha I)^-1 H^T y`.

    Args:
        features: H `[n, d]`.
        targets: y `[n]` or `[n, k]`.
        alpha: Not negative.
    """
    h, y = np.asarray(features, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    return np.asarray(np.linalg.solve(h.T @ h + alpha * np.eye(h.shape[1]), h.T @ y))


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> FloatArray:
    """`-s log sigmoid(x) - (1 - s) log sigmoid(-x)`, entry by entry."""
    x, s = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    return np.asarray(s * np.logaddexp(0, -x) + (1 - s) * np.logaddexp(0, x))


def bradley_terry(
    differences: ArrayLike,
    labels: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    margins: ArrayLike | None = None,
    penalty: float = 1e-2,
    sums: ArrayLike | None = None,
    center: float = 0.0,
    steps: int = 50,
) -> FloatArray:
    """The vector `[d]` that explains comparisons best: a convex problem, solved by Newton's method.

    Args:
        differences: `[n, d]` features of the first response less those of the second.
        labels: `[n]` how strongly the first is preferred, 0 to 1.
        weights: `[n]` what each counts.
        margins: `[n]` by how much the preferred response's score must be ahead.
        penalty: Of the squared length of the vector; the sum of all losses is what it is weighed against.
        sums: `[n, d]` features of both responses together, for `center`.
        center: Weight of the squared sum of both scores, which keeps scores around 0 (TRL's
            `center_rewards_coefficient`).
        steps: Newton steps at most.
    """
    x, s = np.asarray(differences, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    n, d = x.shape
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    gap = np.zeros(n) if margins is None else np.asarray(margins, dtype=np.float64)
    held = penalty * np.eye(d)
    if center > 0:
        if sums is None:
            raise ConfigError("`center` needs `sums`, the features of both responses together.")
        both = np.asarray(sums, dtype=np.float64)
        held = held + 2 * center * both.T @ both
    v = np.zeros(d)
    for _ in range(steps):
        score = x @ v
        first, second = expit(score - gap), expit(score + gap)
        slope = w * (s * (first - 1) + (1 - s) * second)
        bend = w * (s * first * (1 - first) + (1 - s) * second * (1 - second))
        step = np.linalg.solve((x * bend[:, None]).T @ x + held + 1e-10 * np.eye(d), x.T @ slope + held @ v)
        length = np.abs(step).max()
        v = v - step / max(1.0, length / 10)  # far from the optimum Newton's step may be long
        if length < 1e-9:
            break
    return v


def temperature(gaps: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """t that makes `sigmoid(t gap)` explain the labels best; 1 is calibrated already. Never below 0.

    Where every label is foreseen no t is the best one, and a few such labels do not make a head infinitely sure: one
    comparison more, of a usual gap and undecided, is then thought to be there.

    Args:
        gaps: `[n]` score of the first response less that of the second.
        labels: `[n]`.
        weights: `[n]` what each counts.
    """
    x = np.asarray(gaps, dtype=np.float64)
    counts = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    s = np.asarray(labels, dtype=np.float64)
    if np.any(x) and np.all((x == 0) | (s == (x > 0))):
        x, s, counts = np.append(x, np.abs(x).mean()), np.append(s, 0.5), np.append(counts, 1.0)
    return max(0.0, float(bradley_terry(x[:, None], s, weights=counts, penalty=1e-9)[0]))


def calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: mean |label - probability| over bins of as many comparisons each."""
    p, s = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    parts = np.array_split(np.argsort(p, kind="stable"), min(bins, len(p)))
    return (
        float(sum(len(part) * abs(s[part].mean() - p[part].mean()) for part in parts) / len(p)) if len(p) else math.nan
    )


def report_of(name: str, logits: FloatArray, truth: FloatArray, t: float) -> HeadReport:
    """How well held-out comparisons are foreseen, `[n]` log odds that t has calibrated against `[n]` labels."""
    decided = truth != 0.5
    right = np.where(logits[decided] == 0, 0.5, (logits[decided] > 0) == (truth[decided] > 0.5))
    return HeadReport(
        name,
        len(truth),
        float(right.mean()) if len(right) else math.nan,
        float(cross_entropy(logits, truth).mean()),
        t,
        calibration_error(expit(logits), truth),
    )


def fit_comparisons(
    features: ArrayLike,
    pairs: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    *,
    units: ArrayLike | None = None,
    margins: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    penalty: float = 1e-2,
    center: float = 0.0,
    seed: int = 0,
) -> Heads:
    """One Bradley-Terry head an objective, fitted to four fifths of the prompts, calibrated and measured on the rest.

    Args:
        features: `[n, d]` of all responses.
        pairs: `[pairs, 2]` which of them were compared.
        labels: `[pairs, m]`, NaN where there is none.
        names: m names.
        units: `[pairs]` which prompt each pair is of; by default each is its own.
        margins: `[pairs, m]` by how much the preferred score must be ahead; NaN is nothing.
        weights: `[pairs, m]` what each label counts.
        penalty: See `bradley_terry`.
        center: See `bradley_terry`.
        seed: Of the prompts that are held out.

    Raises:
        ConfigError: Shapes do not belong together, or an objective has too few labels to hold any out.
    """
    h, which = np.asarray(features, dtype=np.float64), np.asarray(pairs, dtype=np.int64)
    s = np.asarray(labels, dtype=np.float64)
    if s.shape != (len(which), len(names)):
        raise ConfigError(f"`labels` must have shape {[len(which), len(names)]}. Found {list(s.shape)}.")
    apart = held_out(np.arange(len(which)) if units is None else np.asarray(units), seed)
    x, both = h[which[:, 0]] - h[which[:, 1]], h[which[:, 0]] + h[which[:, 1]]
    vectors, reports = [], []
    for j, name in enumerate(names):
        known = np.isfinite(s[:, j])
        fit, test = known & ~apart, known & apart
        if not fit.any() or not test.any():
            raise ConfigError(
                f"Objective {name!r} has {int(known.sum())} labels: too few to fit a head and to hold some out."
            )
        count = None if weights is None else np.asarray(weights, dtype=np.float64)[:, j]
        gap = None if margins is None else np.nan_to_num(np.asarray(margins, dtype=np.float64)[:, j])
        v = bradley_terry(
            x[fit],
            s[fit, j],
            weights=None if count is None else count[fit],
            margins=None if gap is None else gap[fit],
            penalty=penalty,
            sums=both[fit],
            center=center,
        )
        raw, truth = x[test] @ v, s[test, j]
        t = temperature(raw, truth, None if count is None else count[test])
        reports.append(report_of(name, t * raw, truth, t))
        vectors.append(t * v)
    return Heads(tuple(names), np.stack(vectors), np.zeros(len(names)), tuple(reports))


def fit_ratings(
    features: ArrayLike, ratings: ArrayLike, names: Sequence[str], *, units: ArrayLike | None = None, seed: int = 0
) -> Heads:
    """One ridge regression an attribute, about its mean rating; its strength is chosen on a fifth of the prompts.

    Args:
        features: `[n, d]`.
        ratings: `[n, m]`, NaN where one is missing: such a row is left out of that attribute.
        names: m names.
        units: `[n]` which prompt each response is of.
        seed: Of the prompts that are held out.

    Raises:
        ConfigError: Shapes do not belong together, or an attribute has too few ratings to hold any out.
    """
    h, y = np.asarray(features, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    if y.shape != (len(h), len(names)):
        raise ConfigError(f"`ratings` must have shape {[len(h), len(names)]}. Found {list(y.shape)}.")
    apart = held_out(np.arange(len(h)) if units is None else np.asarray(units), seed)
    vectors, biases, reports = [], [], []
    for j, name in enumerate(names):
        known = np.isfinite(y[:, j])
        fit, test = known & ~apart, known & apart
        if not fit.any() or not test.any():
            raise ConfigError(
                f"Attribute {name!r} has {int(known.sum())} ratings: too few to fit it and to hold some out."
            )
        middle, level = h[fit].mean(0), float(y[fit, j].mean())
        tried = [ridge(h[fit] - middle, y[fit, j] - level, alpha) for alpha in ALPHAS]
        errors = [float(np.square((h[test] - middle) @ v + level - y[test, j]).mean()) for v in tried]
        best = int(np.argmin(errors))
        spread = float(y[test, j].var())
        reports.append(
            HeadReport(
                name, int(test.sum()), 1 - errors[best] / spread if spread > 0 else math.nan, math.nan, 1.0, math.nan
            )
        )
        vectors.append(tried[best])
        biases.append(level - middle @ tried[best])
    return Heads(tuple(names), np.stack(vectors), np.array(biases), tuple(reports))


def held_out(units: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """`[n]` which rows are of the prompts that are held out: a fifth of those, drawn.

    Args:
        units: `[n]` which prompt each row is of.
        seed: Of the draw.
    """
    found, place = np.unique(units, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(found))[: max(1, round(HELD_OUT * len(found)))]
    mask = np.zeros(len(found), dtype=bool)
    mask[chosen] = True
    return np.asarray(mask[place.reshape(-1)])
