"""The hypervolume of measured members with an interval: a bootstrap over prompts, without the luck of the chosen."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError
from pareto_align.front.estimates import Estimate, student_quantile
from pareto_align.front.indicators import approximate_hypervolume, exact_up_to, hypervolume, hypervolumes
from pareto_align.front.intervals import beyond_alike

__all__ = ["bootstrap_difference", "bootstrap_hypervolume"]

Floats = NDArray[np.float64]


def bootstrap_hypervolume(
    estimates: Sequence[Estimate],
    axes: Sequence[int],
    ref: ArrayLike,
    *,
    scale_lower: ArrayLike,
    scale_upper: ArrayLike,
    rivals: Sequence[Sequence[Estimate]] = (),
    bounds: Sequence[tuple[float, float] | None] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """Hypervolume of measured members with a bootstrap interval.

    Prompts are drawn with replacement, the same ones for every member, so what the members share cancels as it should.
    Where members cannot be paired their means are drawn from their normal approximation instead. The deviations of the
    replicates are widened to those of Student's t, since resampling n prompts understates their spread.

    A front over noisy means is a maximum over luck and its hypervolume is biased upwards, twice:

    - Between members: where two are close, the larger one counts. A replicate is biased once more, so the interval is
      the reflected one, (2v - q_high, 2v - q_low), which takes this bias off.
    - Within a member's group: a member that was chosen among `rivals` that cannot be told from it, on these same
      measurements, is there because it was lucky. The luck is what the best of a group gains if all are truly equal,
      the worst case; the lower end is that of the members without it.

    Resampling measurements that are all alike gives them once more. What was not among them is drawn within `bounds`;
    without, few of them leave the noise not known.

    The interval is widened to contain v where necessary. Measured on prompts that nothing was chosen on, members have
    no rivals.

    Args:
        estimates: The n members, each over all objectives, maximised.
        axes: Columns that span the front, m of them.
        ref: [m] reference point, in normalised units.
        scale_lower: [m] value of each axis that becomes 0.
        scale_upper: [m] value of each axis that becomes 1.
        rivals: For each member the estimates that it was chosen among; empty where nothing was chosen.
        bounds: For each axis what its rewards cannot leave, in the estimates' units; None, for an axis or for all: not
            known.
        n_boot: Number of bootstrap replicates.
        seed: Seed of the replicates.
        confidence: Coverage aimed at.

    Returns:
        The hypervolume of the means, and the ends of its interval: NaN where the noise of a member is not known.
    """
    lower, upper = np.asarray(scale_lower, dtype=float), np.asarray(scale_upper, dtype=float)
    columns = list(axes)
    members = [e.take(columns) for e in estimates]
    if not members:
        return 0.0, 0.0, 0.0
    if rivals and len(rivals) != len(members):
        raise ConfigError(f"Found rivals for {len(rivals)} members, but there are {len(members)}.")

    limit = exact_up_to(len(columns))
    quick = limit is None or 4 * len(members) <= limit

    def volumes(sets: Floats) -> Floats:
        framed = (sets - lower) / (upper - lower)
        # the same random points every time, so most of the estimate's error cancels in the differences taken here
        return hypervolumes(framed, ref) if quick else _approximate(framed, ref)

    rng = np.random.default_rng(seed)
    means = np.stack([e.mean for e in members])
    n_boot = n_boot if quick else min(n_boot, 200)
    value = float(volumes(means[None])[0])
    if np.isnan([e.noise(bounds) for e in members]).any():
        return (value if quick else hypervolume((means - lower) / (upper - lower), ref)), np.nan, np.nan
    replicates = means + _widening(members, confidence) * (_bootstrap_means(members, means, n_boot, rng) - means)
    for k, member in enumerate(members):
        for j, ends in enumerate(bounds or ()):
            if ends is not None and member.alike[j]:
                # a replicate errs as the means do: by their distance from the truth, not by the truth's from them
                replicates[:, k, j] -= beyond_alike(means[k, j], int(member.counts[j]), ends, n_boot, rng)
    tail = 50 * (1 - confidence)
    q_low, q_high = np.percentile(volumes(replicates), [tail, 100 - tail])
    groups = [[member, *(e.take(columns) for e in group)] for member, group in zip(members, rivals, strict=False)]
    luck = np.stack([_luck(group, rng) for group in groups]) if groups else np.zeros_like(means)
    fair = float(volumes((means - luck)[None])[0])
    low, high = fair + value - float(q_high), 2 * value - float(q_low)
    if not quick:
        value, estimated = hypervolume((means - lower) / (upper - lower), ref), value
        low, high = low + value - estimated, high + value - estimated
    return value, min(value, max(0.0, low)), max(value, high)


def bootstrap_difference(
    first: Sequence[Estimate],
    second: Sequence[Estimate],
    axes: Sequence[int],
    ref: ArrayLike,
    *,
    scale_lower: ArrayLike,
    scale_upper: ArrayLike,
    bounds: Sequence[tuple[float, float] | None] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """How much larger the hypervolume of the first members is than that of the second, with a bootstrap interval.

    Prompts are drawn with replacement, the same ones for all, so what a prompt does to both cancels where both were
    measured on it, which equal ids say. The interval is the reflected one, as in `bootstrap_hypervolume`, so what the
    larger of two close members gains by luck is taken off on both sides.

    Args:
        first: Estimates of one front's members, each over all objectives, maximised.
        second: Those of the other.
        axes: Columns that span the fronts, m of them.
        ref: [m] reference point, in normalised units.
        scale_lower: [m] value of each axis that becomes 0.
        scale_upper: [m] value of each axis that becomes 1.
        bounds: For each axis what its rewards cannot leave, in the estimates' units; None: not known.
        n_boot: Number of bootstrap replicates.
        seed: Seed of the replicates.
        confidence: Coverage aimed at.

    Returns:
        The difference of the means' hypervolumes, and the ends of its interval: NaN where the noise of a member is not
        known.
    """
    lower, upper = np.asarray(scale_lower, dtype=float), np.asarray(scale_upper, dtype=float)
    columns = list(axes)
    members = [e.take(columns) for e in (*first, *second)]
    count = len(first)
    limit = exact_up_to(len(columns))
    quick = limit is None or 4 * max(count, len(members) - count) <= limit
    n_boot = n_boot if quick else min(n_boot, 200)

    def volumes(sets: Floats) -> Floats:
        framed = (sets - lower) / (upper - lower)
        if not framed.shape[1]:
            return np.zeros(len(framed))
        return hypervolumes(framed, ref) if quick else _approximate(framed, ref)

    def differences(sets: Floats) -> Floats:
        return np.asarray(volumes(sets[:, :count]) - volumes(sets[:, count:]), dtype=float)

    if not members:
        return 0.0, 0.0, 0.0
    means = np.stack([e.mean for e in members])
    value = float(differences(means[None])[0])
    if np.isnan([e.noise(bounds) for e in members]).any():
        return value, np.nan, np.nan
    rng = np.random.default_rng(seed)
    replicates = means + _widening(members, confidence) * (_bootstrap_means(members, means, n_boot, rng) - means)
    for k, member in enumerate(members):
        for j, ends in enumerate(bounds or ()):
            if ends is not None and member.alike[j]:
                replicates[:, k, j] -= beyond_alike(means[k, j], int(member.counts[j]), ends, n_boot, rng)
    tail = 50 * (1 - confidence)
    q_low, q_high = np.percentile(differences(replicates), [tail, 100 - tail])
    return value, min(value, 2 * value - float(q_high)), max(value, 2 * value - float(q_low))


def _approximate(sets: Floats, ref: ArrayLike) -> Floats:
    """[b] estimated hypervolume of each of b sets."""
    return np.array([approximate_hypervolume(points, ref, samples=4096)[0] for points in sets], dtype=float)


def _widening(members: list[Estimate], confidence: float) -> float:
    """Factor from the deviations of resampled means to those of Student's t, for the fewest units of any member."""
    tail, n = (1 - confidence) / 2, min(int(e.counts.min()) for e in members)
    return student_quantile(tail, n) / NormalDist().inv_cdf(1 - tail) * float(np.sqrt(n / max(n - 1, 1)))


def _luck(group: list[Estimate], rng: np.random.Generator, draws: int = 1000) -> Floats:
    """[m] expected error of the mean of the best of some estimates whose true means are equal.

    Best is the largest sum of the objectives in units of their noise, as the archive chooses between duplicates.
    """
    m = group[0].mean.size
    if len(group) == 1:
        return np.zeros(m)
    means = np.stack([e.mean for e in group])
    noise = _normal_noise(group, draws, rng)
    unit = np.sqrt(np.mean([e.stderr**2 for e in group], axis=0))
    score = np.divide(noise, unit, out=np.zeros_like(noise), where=unit > 0).sum(axis=2)
    score[:, np.isnan(means).any(axis=1)] = -np.inf
    return np.asarray(noise[np.arange(draws), score.argmax(axis=1)].mean(axis=0), dtype=float)


def _normal_noise(members: list[Estimate], draws: int, rng: np.random.Generator) -> Floats:
    """[draws, n, m] errors of the members' means in their normal approximation, shared prompts included."""
    pairings = [e.pairing for e in members]
    known = [p for p in pairings if p is not None]
    if len(known) < len(members):
        m = members[0].mean.size
        spreads = [np.nan_to_num(e.covariance) for e in members]  # a rival that nobody knows the noise of has no luck
        return np.stack([rng.multivariate_normal(np.zeros(m), spread, size=draws) for spread in spreads], axis=1)
    ids = np.unique(np.concatenate([p[0] for p in known]))
    shocks = rng.standard_normal((draws, len(ids)))
    return np.stack([shocks[:, np.searchsorted(ids, own)] @ residuals for own, _, residuals in known], axis=1)


def _bootstrap_means(members: list[Estimate], means: Floats, n_boot: int, rng: np.random.Generator) -> Floats:
    """[n_boot, n, m] replicates of the members' means [n, m]."""
    known = [p for p in (e.pairing for e in members) if p is not None]
    if len(known) < len(members):
        # the normal approximation needs no correction for resampling; `_widening` has it, so it is taken off here
        n = min(e.n for e in members)
        return np.asarray(means + _normal_noise(members, n_boot, rng) * np.sqrt(max(n - 1, 1) / n), dtype=float)
    ids = np.unique(np.concatenate([p[0] for p in known]))
    units = np.full((len(ids), *means.shape), np.nan)
    for k, (own, values, _) in enumerate(known):
        units[np.searchsorted(ids, own), k] = values
    flat = units.reshape(len(ids), -1)
    weights = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=n_boot).astype(float)
    count = weights @ (~np.isnan(flat))
    total = weights @ np.nan_to_num(flat)
    fallback = np.broadcast_to(means.ravel(), total.shape).copy()
    np.divide(total, count, out=fallback, where=count > 0)
    return fallback.reshape(n_boot, *means.shape)
