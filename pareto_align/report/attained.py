"""What a front attains: its hypervolume with an interval, and the boundary of the region it dominates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from pareto_align.errors import ConfigError
from pareto_align.report.units import Axis, bounds_of, optimized, signs

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = ["Hypervolume", "attained_boundary", "front_hypervolume", "nondominated"]


@dataclass(frozen=True)
class Hypervolume:
    """Hypervolume on the frozen [0, 1] frame of the objectives, with its interval.

    Attributes:
        value: Hypervolume of the members' means.
        low: Lower end of the interval, NaN where it is not known.
        high: Upper end of the interval, likewise.
        confidence: What share of resamples the interval covers.
    """

    value: float
    low: float
    high: float
    confidence: float = 0.95

    def __str__(self) -> str:
        if np.isnan([self.low, self.high]).any():
            return f"{self.value:.3f} (interval not known)"
        return f"{self.value:.3f} ({100 * self.confidence:g} % interval {self.low:.3f} to {self.high:.3f})"


def normalized_reference(record: FrontRecord, reference: Sequence[float] | Mapping[str, float] | None) -> np.ndarray:
    """The reference point [m] on the frozen frame: the record's own, or one given in the user's units.

    Raises:
        ConfigError: The given point has the wrong length or names, or is not finite.
    """
    if reference is None:
        return np.asarray(record.reference, dtype=float)
    axes = list(optimized(record))
    names = [record.objectives[i].name for i in axes]
    strangers = set(reference) - set(names) if isinstance(reference, Mapping) else set()
    try:
        given = [reference[name] for name in names] if isinstance(reference, Mapping) else list(reference)
        point = np.asarray(given, dtype=float)
    except (TypeError, ValueError, KeyError):
        point = np.zeros(0)
    if strangers or point.shape != (len(axes),) or not np.isfinite(point).all():
        raise ConfigError(
            f"`reference` must be {len(axes)} finite numbers, one for each of {', '.join(map(repr, names))}, in this "
            f"order or by name, in your own units. Found {reference!r}."
        )
    lower = np.array([record.objectives[i].lower for i in axes])
    upper = np.array([record.objectives[i].upper for i in axes])
    return (point * signs(record)[axes] - lower) / (upper - lower)


def front_hypervolume(
    record: FrontRecord,
    reference: Sequence[float] | Mapping[str, float] | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Hypervolume:
    """Hypervolume of a front's members and its bootstrap interval.

    Prompts are resampled jointly over members, so what all members share cancels.

    Args:
        record: The front.
        reference: The worst point that still counts, [m] or by name, in the user's units; by default the run's own.
        confidence: Share of resamples the interval covers, in (0, 1).
        seed: Of the resampling.
    """
    from pareto_align.front.bootstrap import bootstrap_hypervolume

    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ConfigError(f"`confidence` must lie between 0 and 1, such as 0.95. Found {confidence!r}.")
    if not record.members:
        return Hypervolume(0.0, 0.0, 0.0, confidence)
    axes, bounds = list(optimized(record)), bounds_of(record)
    value, low, high = bootstrap_hypervolume(
        [member.estimate for member in record.members],
        axes,
        normalized_reference(record, reference),
        scale_lower=np.array([record.objectives[i].lower for i in axes]),
        scale_upper=np.array([record.objectives[i].upper for i in axes]),
        bounds=[bounds[i] for i in axes],
        seed=seed,
        confidence=confidence,
    )
    return Hypervolume(float(value), float(low), float(high), confidence)


def nondominated(values: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """[n] bool: rows of `values` [n, m], in the user's units, that no other row dominates on these axes."""
    from pareto_align.front.dominance import nondominated_mask

    if not len(values):
        return np.zeros(0, dtype=bool)
    return np.asarray(nondominated_mask(values * np.array([axis.sign for axis in axes])), dtype=bool)


def attained_boundary(values: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """Corners of the boundary of what a set attains on two axes, in drawing order.

    Between two neighbours on the front nothing better than the worse of both was shown to be attainable on either
    axis: the boundary runs in steps, not along the straight line between them.

    Args:
        values: [n, 2] in the user's units; dominated and NaN rows are passed over.
        axes: The two objectives.

    Returns:
        [2k - 1, 2] corners, from the end that is best on the second axis to the end that is best on the first;
        empty [0, 2] without points.
    """
    points = values[nondominated(values, axes)] * np.array([axis.sign for axis in axes])
    if not len(points):
        return np.zeros((0, 2))
    points = points[np.argsort(points[:, 0])]
    corners = [points[0]]
    for before, after in itertools.pairwise(points):
        corners += [np.array([before[0], after[1]]), after]
    return np.array(corners) * np.array([axis.sign for axis in axes])
