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
it is true. A *few* units that are all equal say as little: their variance is 0, and what they leave open is a matter of
what they might have been, see `Estimate.noise`.

References:
    Liang, Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 73 (1986).
    Miller, "Adding Error Bars to Evals", arXiv 2411.00640: questions that belong together, in evaluations of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError
from pareto_align.front.intervals import FEW, all_equal, bounded_interval, doubt

__all__ = [
    "Estimate",
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

    @cached_property
    def alike(self) -> NDArray[np.bool_]:
        """[m] whether all units of several were equal, up to rounding; False where they are not at hand."""
        if self.samples is None:
            return np.zeros(self.mean.size, dtype=bool)
        return np.array([len(x := self._observed(j)[0]) > 1 and all_equal(x) for j in range(self.mean.size)])

    def noise(self, bounds: Sequence[tuple[float, float] | None] | None = None) -> Floats:
        """[m] standard errors for judging by: 0 where the units were alike, and NaN where that says nothing.

        Fewer than `FEW` units without bounds say nothing of what was not among them. Within bounds they do, though not
        by a standard error: see `front.intervals`.

        Args:
            bounds: For each objective what its rewards cannot leave; None, for an objective or for all: not known.
        """
        bounded = np.array([ends is not None for ends in bounds or [None] * self.mean.size])
        return np.where(self.alike, np.where(bounded | (self.counts >= FEW), 0.0, np.nan), self.stderr)

    def halfwidth(self, confidence: float = 0.95) -> Floats:
        """[m] half the width of each mean's interval, by Student's t; NaN where the noise is not known."""
        return student_quantile((1 - confidence) / 2, self.counts) * self.noise()

    def interval(
        self, confidence: float = 0.95, bounds: Sequence[tuple[float, float] | None] | None = None
    ) -> tuple[Floats, Floats]:
        """[m] lower and [m] upper ends of each mean's interval; NaN where the noise is not known.

        Args:
            confidence: Coverage.
            bounds: For each objective what its rewards cannot leave, in maximised units: Gaffke's interval then holds
                whatever they are like. None, for an objective or for all: Student's. See `front.intervals`.
        """
        reach = student_quantile((1 - confidence) / 2, self.counts) * self.noise(bounds)
        low, high = self.mean - reach, self.mean + reach
        for j, ends in enumerate(bounds or ()):
            if ends is not None and self.samples is not None and not np.isnan(reach[j]):
                values, sizes = self._observed(j)
                low[j], high[j] = bounded_interval(values, *ends, confidence=confidence, sizes=sizes)
        return low, high

    def doubts(self, bounds: Sequence[tuple[float, float] | None] | None = None) -> tuple[str, ...]:
        """For each objective why its interval is not to be trusted: "few", "rare" or "skewed"; "" where it is."""
        found = []
        for j in range(self.mean.size):
            if np.isnan(self.stderr[j]) or (bounds is not None and bounds[j] is not None and self.samples is not None):
                found.append("")
            elif self.samples is None:
                found.append("few" if self.counts[j] < FEW and self.stderr[j] > 0 else "")
            else:
                found.append(doubt(self._observed(j)[0]))
        return tuple(found)

    def _observed(self, j: int) -> tuple[Floats, Floats]:
        """What objective j was on each unit, the mean of a group's prompts, and how many prompts each stands for."""
        assert self.samples is not None
        column = self.samples[:, [j]]
        ids, values = _units(column, self.prompt_ids)
        sizes = np.ones_like(values)
        if self.groups is not None and ids is not None:
            assert self.prompt_ids is not None
            group = dict(zip(self.prompt_ids, self.groups, strict=True))
            _, owner = np.unique([group[int(i)] for i in ids], return_inverse=True)
            total, sizes = _sums(values, owner, int(owner.max()) + 1)
            values = np.divide(total, sizes, out=np.full_like(total, np.nan), where=sizes > 0)
        seen = ~np.isnan(values[:, 0])
        return values[seen, 0], sizes[seen, 0]

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
