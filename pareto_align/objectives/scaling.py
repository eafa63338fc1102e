"""The one scale on which rewards are weighed, measured once on the reference policy and then frozen.

A weight can mean a preference only if one unit of each objective means the same thing throughout a run. So the scale
is taken before training, from the untrained model's rewards and from the bounds the user knows, and never moves.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError, ObjectiveError, ParetoAlignWarning
from pareto_align.objectives.objective_set import ObjectiveSet

__all__ = ["RewardScale"]

FIELDS = ("location", "scale", "lower", "upper")


@dataclass(frozen=True, eq=False)
class RewardScale:
    """Location and scale of each of M objectives, and the frame in which a front is drawn. Maximized units.

    Args:
        location: [M], the reward that `normalize` maps to 0.
        scale: [M], positive, the difference in reward that `normalize` maps to 1.
        lower: [M], the reward that `frame` maps to 0.
        upper: [M], above `lower`, the reward that `frame` maps to 1.

    Raises:
        ConfigError: The four differ in shape, are not finite, or `scale` or ``upper - lower`` is not positive.
    """

    location: NDArray[np.float64]
    scale: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    def __post_init__(self) -> None:
        for field in FIELDS:
            try:
                array = np.array(getattr(self, field), dtype=np.float64)  # a copy: frozen means frozen
            except (TypeError, ValueError):
                raise ConfigError(f"RewardScale.{field} must be numbers. Found {getattr(self, field)!r}.") from None
            if array.ndim != 1 or array.shape != np.shape(self.location) or not np.isfinite(array).all():
                raise ConfigError(
                    f"RewardScale.{field} must be one finite number an objective. Found {getattr(self, field)!r}."
                )
            array.setflags(write=False)
            object.__setattr__(self, field, array)
        if not (self.scale > 0).all():
            raise ConfigError(f"RewardScale.scale must be positive. Found {self.scale.tolist()}.")
        if not (self.upper > self.lower).all():
            raise ConfigError(
                f"RewardScale.upper must be above lower. Found {self.lower.tolist()} and {self.upper.tolist()}."
            )

    @classmethod
    def measure(cls, rewards: ArrayLike, objectives: ObjectiveSet) -> RewardScale:
        """Take the scale from rewards of the reference policy.

        A bounded objective is scaled by its bounds ``(lo, hi)`` and nothing else: location ``lo``, scale
        ``hi - lo``, frame ``[lo, hi]``. An unbounded one is scaled by what was measured: location the mean, scale
        the standard deviation (``ddof=1``), frame from the smallest to the largest reward. Where an unbounded
        objective was measured only once or never varied, it has no scale of its own: it then gets scale 1, the frame
        ``[value - 1, value + 1]`` and a warning.

        Args:
            rewards: [n, M], maximized; NaN where an objective does not apply (left out of its column).
            objectives: The M objectives.

        Raises:
            ObjectiveError: The shape is wrong, a reward is infinite, or an unbounded objective was never measured.

        Warns:
            ParetoAlignWarning: An unbounded objective did not vary.
        """
        array = np.asarray(rewards, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != objectives.M:
            raise ObjectiveError(
                f"Rewards must be [n, {objectives.M}], one column an objective. Found shape {array.shape}."
            )
        rows = [
            _column_scale(o.name, column, o.maximized_bounds) for o, column in zip(objectives, array.T, strict=True)
        ]
        location, scale, lower, upper = np.array(rows).T
        return cls(location, scale, lower, upper)

    @classmethod
    def of_labels(cls, M: int) -> RewardScale:
        """The scale of how much of its labels each of M objectives has explained: as it is, in the frame from -1 (a bit
        lost a pair) to 1, with the untrained model at 0 in the middle."""
        nothing, one = np.zeros(M), np.ones(M)
        return cls(nothing, one, -one, one)

    def normalize(self, rewards: ArrayLike) -> NDArray[np.float64]:
        """(rewards - location) / scale, for maximized rewards [..., M]; NaN stays NaN."""
        return (self._checked(rewards) - self.location) / self.scale

    def frame(self, values: ArrayLike) -> NDArray[np.float64]:
        """(values - lower) / (upper - lower), for maximized values [..., M]; not clipped to [0, 1]."""
        return (self._checked(values) - self.lower) / self.span

    @property
    def span(self) -> NDArray[np.float64]:
        """What one unit of the frame is worth, [M]."""
        return self.upper - self.lower

    def unframe(self, framed: ArrayLike) -> NDArray[np.float64]:
        """The maximized values [..., M] of what stands in the frame."""
        return self.lower + self._checked(framed) * self.span

    def to_dict(self) -> dict[str, list[float]]:
        """The four arrays as lists, for JSON."""
        return {field: getattr(self, field).tolist() for field in FIELDS}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> RewardScale:
        """The scale that `to_dict` took down.

        Raises:
            ConfigError: A field is missing, unknown or invalid.
        """
        if set(state) != set(FIELDS):
            raise ConfigError(f"A reward scale has the fields {', '.join(FIELDS)}. Found {', '.join(sorted(state))}.")
        return cls(**state)

    def _checked(self, values: ArrayLike) -> NDArray[np.float64]:
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 0 or array.shape[-1] != len(self.location):
            raise ConfigError(
                f"Expected {len(self.location)} columns, one an objective. Found an array of shape {array.shape}."
            )
        return array


def _column_scale(
    name: str, column: NDArray[np.float64], bounds: tuple[float, float] | None
) -> tuple[float, float, float, float]:
    """(location, scale, lower, upper) of one objective from its rewards [n]."""
    measured = column[~np.isnan(column)]
    if not np.isfinite(measured).all():
        raise ObjectiveError(f"Objective {name!r} has an infinite reward; its scale cannot be measured.")
    if bounds is not None:
        low, high = bounds
        return low, high - low, low, high
    if len(measured) == 0:
        raise ObjectiveError(
            f"Objective {name!r} applied to none of {len(column)} completions of the reference policy, so its scale "
            "cannot be measured; give it bounds."
        )
    low, high, mean = float(measured.min()), float(measured.max()), float(measured.mean())
    # A constant computed in two ways differs by rounding (0.3 and 0.1 + 0.2), and dividing by a deviation of 1e-17
    # would blow up whatever moves later. Anything within rounding of constant counts as constant.
    if high - low <= 8 * np.finfo(np.float64).eps * max(abs(low), abs(high)):
        warnings.warn(
            f"Objective {name!r} was {mean:g} for every measured completion of the reference policy "
            f"({len(measured)}), so it has no scale of its own; 1 is used. Give it bounds if that is not its range.",
            ParetoAlignWarning,
            stacklevel=4,
        )
        return mean, 1.0, mean - 1.0, mean + 1.0
    return mean, float(measured.std(ddof=1)), low, high
