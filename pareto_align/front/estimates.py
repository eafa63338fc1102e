"""How well is a policy known: mean, covariance of the mean, and number of measurements.

The independent unit is the *prompt*: the G samples of one prompt share its difficulty, so they are averaged first, and
two policies measured on the same prompts are compared prompt by prompt. Prompts that belong together (a topic, a
document) may be declared one unit, a *group*: the mean stays that over prompts, its covariance is cluster-robust.

Everything here rests on one decomposition. Let x_p be the units of an estimate and c_j the number of units that have
objective j. Row p of the *residuals* is (x_p - mean) / sqrt(c_j (c_j - 1)), zero where the value is missing, so that

    covariance of the mean                 =  R^T R
    covariance of a difference of means    =  sum over all prompts of (R_a - R_b)^T (R_a - R_b)

where a prompt that only one of the two has seen counts with the other's residual zero. Both are positive semidefinite
by construction, for any pattern of missing values and any overlap of the prompts. A group of prompts g counts as the
unit  mean + (c / n) sum over its prompts of (x_p - mean),  n prompts in c groups: the mean of these units is the mean
over prompts, and their covariance that of Liang and Zeger with the factor c / (c - 1).

A standard error is itself estimated from n units, so intervals and decisions use Student's t with n - 1 degrees of
freedom: with 8 prompts a 95 % interval is 2.36 standard errors wide on either side, not 1.96. *One* unit says nothing
of its own noise: variances are NaN then, not 0, so that whatever is computed with them is NaN, and no comparison with
it is true.

References:
    Liang, Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 73 (1986).
    Miller, "Adding Error Bars to Evals", arXiv 2411.00640: questions that belong together, in evaluations of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError

__all__ = [
    "Estimate",
    "bootstrap_hypervolume",
    "common_units",
    "difference",
    "mean_residuals",
    "paired_difference",
    "pool",
    "student_quantile",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimate:
    """A measured reward vector and its uncertainty, in maximised units.

    Attributes:
        mean: [m] mean of each objective; NaN where nothing was measured.
        covariance: [m, m] covariance *of the mean*; NaN in the row and column of an objective that fewer than two
            units have, whose noise is not known. 0 is a noise that is known to be none.
        n: Number of independent units behind the mean: distinct prompts, or groups of them, or samples where there is
            one prompt only.
        samples: [rows, m] what was measured, one row for each prompt and measurement (NaN = objective did not apply).
        prompt_ids: One id a row of `samples`; rows with the same id were measured on the same prompt.
        groups: One number a row of `samples`; prompts with the same number are one unit. None: each is its own.
    """

    mean: Floats
    covariance: Floats
    n: int
    samples: Floats | None = None
    prompt_ids: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        mean = np.array(self.mean, dtype=float)
        covariance = np.array(self.covariance, dtype=float)
        if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
            raise ConfigError(
                "An estimate needs a mean [m] and a covariance [m, m]. "
                f"Found shapes {mean.shape} and {covariance.shape}."
            )
        if np.isinf(covariance).any():
            raise ConfigError("The covariance of an estimate must be finite, or NaN where it is not known.")
        samples = None if self.samples is None else np.array(self.samples, dtype=float)
        if samples is not None and (samples.ndim != 2 or samples.shape[1] != mean.size):
            raise ConfigError(f"Samples must have shape [rows, {mean.size}]. Found {samples.shape}.")
        ids = None if self.prompt_ids is None else tuple(int(i) for i in self.prompt_ids)
        if ids is not None and (samples is None or len(ids) != len(samples)):
            rows = "no samples" if samples is None else f"{len(samples)} rows of samples"
            raise ConfigError(f"Found {len(ids)} prompt ids for {rows}; there must be one a row.")
        groups = None if self.groups is None else tuple(int(g) for g in self.groups)
        if groups is not None and (ids is None or len(groups) != len(ids)):
            raise ConfigError("Groups of prompts need the prompts' ids, and must be one a row of the samples.")
        for name, value in (("mean", mean), ("samples", samples), ("prompt_ids", ids), ("groups", groups)):
            object.__setattr__(self, name, value)
        alone = np.flatnonzero((self.counts < 2) | np.isnan(mean))
        covariance[alone, :] = covariance[:, alone] = np.nan
        object.__setattr__(self, "covariance", covariance)
        for array in (mean, covariance, samples):
            if array is not None:
                array.flags.writeable = False  # estimates are shared between archive, records and results

    @classmethod
    def from_samples(
        cls, values: ArrayLike, prompt_ids: Sequence[int] | None = None, groups: Sequence[int] | None = None
    ) -> Estimate:
        """Estimate the mean reward vector from measured rewards.

        Args:
            values: [N, G, m] or [N, m] rewards in maximised units; NaN (objective did not apply) is left out.
            prompt_ids: [N] identity of each prompt. A repeated id is the same prompt measured again. Without ids the
                prompts count as distinct and the estimate cannot be paired with another.
            groups: [N] which prompts belong together: those with the same number are one unit. With ids only.

        Returns:
            The estimate. With a single prompt its samples are the independent units: that prompt is then all there is.

        Raises:
            ConfigError: If the shape is wrong, nothing was measured, a value is infinite, or ids, groups and prompts
                differ in number.
        """
        array = np.array(values, dtype=float)
        if array.ndim == 2:
            array = array[:, None, :]
        if array.ndim != 3 or 0 in array.shape:
            raise ConfigError(f"Measured rewards must have shape [N, G, m] or [N, m]. Found {np.shape(values)}.")
        if np.isinf(array).any():
            raise ConfigError("Measured rewards must not be infinite.")
        ids = None if prompt_ids is None else tuple(int(i) for i in prompt_ids)
        if ids is not None and len(ids) != len(array):
            raise ConfigError(f"Found {len(ids)} prompt ids for {len(array)} prompts.")
        together = None if groups is None else tuple(int(g) for g in groups)
        if together is not None and len(together) != len(array):
            raise ConfigError(f"Found {len(together)} groups for {len(array)} prompts.")
        if len(array) == 1:
            rows, times = array[0], array.shape[1]
            ids, together = ids and ids * times, together and together * times
        else:
            rows = _nanmean(array, axis=1)
        _, units = _units(rows, ids, together)
        residuals = mean_residuals(units)
        return cls(_nanmean(units, axis=0), residuals.T @ residuals, len(units), rows, ids, together)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """[m] units behind each mean: fewer than n where an objective did not apply everywhere."""
        if self.samples is None or not np.isnan(self.samples).any():
            return np.full(self.mean.size, self.n)
        return np.asarray((~np.isnan(_units(self.samples, self.prompt_ids, self.groups)[1])).sum(axis=0))

    @property
    def stderr(self) -> Floats:
        """[m] standard error of the mean; NaN where it is not known, which is not 0."""
        return np.asarray(np.sqrt(np.diag(self.covariance)), dtype=float)

    def halfwidth(self, confidence: float = 0.95) -> Floats:
        """[m] half the width of each mean's interval, by Student's t; NaN where the noise is not known."""
        return student_quantile((1 - confidence) / 2, self.counts) * self.stderr

    def take(self, columns: Sequence[int]) -> Estimate:
        """Keep only some objectives, in the given order."""
        index = list(columns)
        samples = None if self.samples is None else self.samples[:, index]
        covariance = self.covariance[np.ix_(index, index)]
        return Estimate(self.mean[index], covariance, self.n, samples, self.prompt_ids, self.groups)

    def scaled(self, factors: ArrayLike) -> Estimate:
        """Multiply objective j by `factors[j]` ([m]); factors of -1 turn minimised objectives over."""
        f = np.asarray(factors, dtype=float)
        if f.shape != self.mean.shape:
            raise ConfigError(f"Found {f.size} factors for an estimate of {self.mean.size} objectives.")
        samples = None if self.samples is None else self.samples * f + 0.0
        # adding 0.0 turns -0.0 into 0.0, which reads better in files and tables
        mean, covariance = self.mean * f + 0.0, self.covariance * np.outer(f, f) + 0.0
        return Estimate(mean, covariance, self.n, samples, self.prompt_ids, self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers for JSON; NaN becomes None, nothing is rounded."""
        return {
            "mean": _plain(self.mean),
            "covariance": _plain(self.covariance),
            "n": self.n,
            "samples": None if self.samples is None else _plain(self.samples),
            "prompt_ids": None if self.prompt_ids is None else list(self.prompt_ids),
            **({} if self.groups is None else {"groups": list(self.groups)}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        """Inverse of `to_dict`, to the last bit."""
        samples, ids, groups = data.get("samples"), data.get("prompt_ids"), data.get("groups")
        mean = np.array(data["mean"], dtype=float)
        return cls(
            mean,
            np.array(data["covariance"], dtype=float),
            int(data["n"]),
            None if samples is None else np.array(samples, dtype=float).reshape(-1, mean.size),
            None if ids is None else tuple(ids),
            None if groups is None else tuple(groups),
        )

    @cached_property
    def pairing(self) -> tuple[NDArray[np.int64], Floats, Floats] | None:
        """Sorted ids [u] of the units, their values [u, m] and residuals [u, m]; None where pairing is impossible."""
        if self.samples is None or self.prompt_ids is None:
            return None
        ids, units = _units(self.samples, self.prompt_ids, self.groups)
        return None if ids is None else (ids, units, mean_residuals(units))


def pool(estimates: Sequence[Estimate]) -> Estimate:
    """Combine several measurements of the *same* policy into one estimate.

    With samples on all sides the rows are put together and a prompt that was measured twice is still one unit, so the
    order of pooling does not matter. Without samples the means are weighted by n as independent measurements.

    Raises:
        ConfigError: If there is nothing to pool or the numbers of objectives differ.
    """
    if not estimates:
        raise ConfigError("Nothing to pool: the list of estimates is empty.")
    if len({e.mean.size for e in estimates}) > 1:
        raise ConfigError(f"Estimates of {sorted({e.mean.size for e in estimates})} objectives cannot be pooled.")
    if len(estimates) == 1:
        return estimates[0]
    samples = [e.samples for e in estimates if e.samples is not None]
    ids = [e.prompt_ids for e in estimates if e.prompt_ids is not None]
    groups = [e.groups for e in estimates if e.groups is not None]
    if len(samples) == len(estimates) and {len(ids), len(groups)} <= {0, len(estimates)}:
        joined, together = (tuple(i for part in parts for i in part) if parts else None for parts in (ids, groups))
        return Estimate.from_samples(np.concatenate(samples), joined, together)
    means = np.stack([e.mean for e in estimates])
    weights = np.where(np.isnan(means), 0.0, np.array([[e.n] for e in estimates], dtype=float))
    total = weights.sum(axis=0)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    mean = np.where(total > 0, (weights * np.nan_to_num(means)).sum(axis=0), np.nan)
    shares = [np.outer(w, w) for w in weights]
    covariance = sum(np.where(share > 0, e.covariance * share, 0) for e, share in zip(estimates, shares, strict=True))
    return Estimate(mean, np.asarray(covariance), sum(e.n for e in estimates))


def difference(a: Estimate, b: Estimate) -> tuple[Floats, Floats]:
    """Difference of two policies' means and its covariance.

    Prompts that both were measured on are compared pairwise, which removes what is common to them; the rest counts as
    independent. With no common prompts, or fewer than two on one side, the two covariances add up.

    Returns:
        mean of a minus mean of b, [m], and its covariance, [m, m].
    """
    mean = a.mean - b.mean
    if a.pairing is None or b.pairing is None:
        return mean, a.covariance + b.covariance
    (ids_a, _, rows_a), (ids_b, _, rows_b) = a.pairing, b.pairing
    if len(ids_a) == len(ids_b) and bool((ids_a == ids_b).all()):
        rows = rows_a - rows_b
    else:
        ids = np.union1d(ids_a, ids_b)
        rows = np.zeros((len(ids), mean.size))
        rows[np.searchsorted(ids, ids_a)] += rows_a
        rows[np.searchsorted(ids, ids_b)] -= rows_b
    return mean, rows.T @ rows


def paired_difference(a: Estimate, b: Estimate) -> tuple[Floats, Floats]:
    """Difference of two policies' means [m] and its standard error [m]; see `difference`."""
    mean, covariance = difference(a, b)
    return mean, np.sqrt(np.diag(covariance))


def common_units(a: Estimate, b: Estimate, axes: Sequence[int]) -> int:
    """Units behind the difference of two policies on some axes: the fewest that either has on any."""
    columns = list(axes)
    return int(min(a.counts[columns].min(), b.counts[columns].min()))


@overload
def student_quantile(tail: float, n: int) -> float: ...
@overload
def student_quantile(tail: float, n: NDArray[np.int64]) -> Floats: ...
def student_quantile(tail: float, n: int | NDArray[np.int64]) -> float | Floats:
    """Standard errors beyond which Student's t has probability `tail`, the standard error coming from n units.

    Infinite for n < 2: a unit says nothing of its own noise.
    """
    from scipy.special import stdtrit  # scipy takes a while to import, and not every reader of a front needs it

    freedom = np.asarray(n) - 1
    found = np.where(freedom > 0, -stdtrit(np.maximum(freedom, 1), tail), np.inf)
    return found if found.ndim else float(found)


def bootstrap_hypervolume(
    estimates: Sequence[Estimate],
    axes: Sequence[int],
    ref: ArrayLike,
    *,
    scale_lower: ArrayLike,
    scale_upper: ArrayLike,
    rivals: Sequence[Sequence[Estimate]] = (),
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

    The interval is widened to contain v where necessary. Measured on prompts that nothing was chosen on, members have
    no rivals.

    Args:
        estimates: The n members, each over all objectives, maximised.
        axes: Columns that span the front, m of them.
        ref: [m] reference point, in normalised units.
        scale_lower: [m] value of each axis that becomes 0.
        scale_upper: [m] value of each axis that becomes 1.
        rivals: For each member the estimates that it was chosen among; empty where nothing was chosen.
        n_boot: Number of bootstrap replicates.
        seed: Seed of the replicates.
        confidence: Coverage aimed at.

    Returns:
        The hypervolume of the means, and the ends of its interval: NaN where the noise of a member is not known.
    """
    # here, since dominance and indicators build on this module
    from pareto_align.front.indicators import approximate_hypervolume, exact_up_to, hypervolume

    lower, upper = np.asarray(scale_lower, dtype=float), np.asarray(scale_upper, dtype=float)
    columns = list(axes)
    members = [e.take(columns) for e in estimates]
    if not members:
        return 0.0, 0.0, 0.0
    if rivals and len(rivals) != len(members):
        raise ConfigError(f"Found rivals for {len(rivals)} members, but there are {len(members)}.")

    limit = exact_up_to(len(columns))
    quick = limit is None or 4 * len(members) <= limit

    def volume(points: Floats) -> float:
        framed = (points - lower) / (upper - lower)
        # the same random points every time, so most of the estimate's error cancels in the differences taken here
        return hypervolume(framed, ref) if quick else approximate_hypervolume(framed, ref, samples=4096)[0]

    rng = np.random.default_rng(seed)
    means = np.stack([e.mean for e in members])
    n_boot = n_boot if quick else min(n_boot, 200)
    value = volume(means)
    if np.isnan([e.stderr for e in members]).any():
        return (value if quick else hypervolume((means - lower) / (upper - lower), ref)), np.nan, np.nan
    replicates = means + _widening(members, confidence) * (_bootstrap_means(members, means, n_boot, rng) - means)
    volumes = np.array([volume(points) for points in replicates])
    tail = 50 * (1 - confidence)
    q_low, q_high = np.percentile(volumes, [tail, 100 - tail])
    groups = [[member, *(e.take(columns) for e in group)] for member, group in zip(members, rivals, strict=False)]
    luck = np.stack([_luck(group, rng) for group in groups]) if groups else np.zeros_like(means)
    fair = volume(means - luck)
    low, high = fair + value - float(q_high), 2 * value - float(q_low)
    if not quick:
        value, estimated = hypervolume((means - lower) / (upper - lower), ref), value
        low, high = low + value - estimated, high + value - estimated
    return value, min(value, max(0.0, low)), max(value, high)


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


def _units(
    rows: Floats, ids: tuple[int, ...] | None, groups: tuple[int, ...] | None = None
) -> tuple[NDArray[np.int64] | None, Floats]:
    """What counts as one observation: a prompt, or a group of them, in the units of the module's docstring.

    With no ids, or one prompt only, every row is a unit of its own.
    """
    found, first, prompt = np.unique(np.array(ids or (), dtype=np.int64), return_index=True, return_inverse=True)
    if len(found) < 2:
        return None, rows
    total, count = _sums(rows, prompt, len(found))
    prompts = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    if groups is None:
        return found, prompts
    mean = _nanmean(prompts, axis=0)
    found, group = np.unique(np.array(groups, dtype=np.int64)[first], return_inverse=True)
    total, count = _sums(prompts - mean, group, len(found))
    share = (count > 0).sum(axis=0) / np.maximum(count.sum(axis=0), 1)
    return found, np.where(count > 0, mean + share * total, np.nan)


def _sums(rows: Floats, owner: NDArray[np.int64], owners: int) -> tuple[Floats, Floats]:
    """[owners, m] sums of each owner's rows [rows, m], and how many of them were not NaN."""
    total = np.zeros((owners, rows.shape[1]))
    count = np.zeros_like(total)
    np.add.at(total, owner, np.nan_to_num(rows))
    np.add.at(count, owner, (~np.isnan(rows)).astype(float))
    return total, count


def mean_residuals(units: Floats) -> Floats:
    """[u, m] rows R with R^T R = covariance of the mean of the units [u, m]; NaN in a column with fewer than two."""
    count = (~np.isnan(units)).sum(axis=0)
    centred = np.nan_to_num(units - _nanmean(units, axis=0))
    return np.asarray(centred / np.where(count > 1, np.sqrt(count * (count - 1.0)), np.nan), dtype=float)


def _nanmean(values: Floats, axis: int) -> Floats:
    """`np.nanmean` that says nothing about empty slices: they are NaN, as intended."""
    count = (~np.isnan(values)).sum(axis=axis)
    total = np.nansum(values, axis=axis)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0), dtype=float)


def _plain(array: Floats) -> list[Any]:
    """Nested lists with None for NaN, since JSON has no NaN."""
    plain = array.astype(object)
    plain[np.isnan(array)] = None
    return list(plain.tolist())
