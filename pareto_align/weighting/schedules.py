"""Weights as a function of progress: a table of weights or of other weightings, or any function of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Part, Signal, Weighting, make, register
from pareto_align.weighting.nested import NestedWeighting

__all__ = ["Schedule"]

Stage: TypeAlias = Part | Sequence[float] | Sequence[Sequence[float]]


@register("schedule")
class Schedule(NestedWeighting):
    """Any weights as a function of progress, which runs from 0 in the first step to 1 in the last.

    A table of points is joined by straight lines; before its first point the first holds, after its last the last.
    What stands at a point is either numbers or another weighting, whose rows are then blended like numbers. All
    weightings of the table see every signal, so that one that takes over later knows what happened before.

    Example:
        ```yaml
        weighting:
          name: schedule
          points: [[0.0, [1.0, 0.0]], [0.3, [0.5, 0.5]]]           # numbers for all policies
        weighting:
          name: schedule
          multiply: true                                          # each policy's preference times the numbers
          points: [[0.0, [1.0, 0.0]], [0.3, [1.0, 1.0]]]
        weighting:
          name: schedule
          points: [[0.0, fixed], [0.5, {name: chebyshev, mu: 0.1}]]
        ```

    Args:
        points: Pairs (progress, weights) in ascending order of progress in [0, 1]. Weights are m numbers for all
            policies, K rows of m numbers, a weighting's name, a mapping with `name` and its settings, or an instance.
        function: Instead of `points`: called as ``function(step, steps)``, returns weights [m] or [K, m].
        multiply: True: numbers multiply each policy's preference instead of replacing it; the row's sum is then the
            strength of its step. Weightings in the table stay as they are.

    Raises:
        ConfigError: Neither or both of `points` and `function` (neither: at setup), points out of order or outside
            [0, 1], numbers that are negative, not finite or not m.
    """

    def __init__(
        self,
        points: Sequence[tuple[float, Stage]] | None = None,
        *,
        function: Callable[[int, int], ArrayLike] | None = None,
        multiply: bool = False,
    ) -> None:
        if points is not None and function is not None:
            raise ConfigError("Schedule takes `points` or `function`, not both.")
        if function is not None and not callable(function):
            raise ConfigError(f"Schedule `function` must be callable as function(step, steps). Found {function!r}.")
        self.function, self.multiply = function, bool(multiply)
        self.times: FloatArray = np.empty(0)
        self.stages: list[FloatArray | Weighting] = []
        if points is not None:
            self.times, self.stages = _read(points)
        super().__init__([stage for stage in self.stages if isinstance(stage, Weighting)])
        if self.stages and not isinstance(self.stages[-1], Weighting):
            self.reading = "rate"  # what a run ends under is what its policies have become

    def setup(self, K: int, m: int) -> None:
        """Set up the weightings of the table.

        Raises:
            ConfigError: There is nothing to follow, or numbers do not fit the objectives.
        """
        super().setup(K, m)
        if self.function is None and not self.stages:
            raise ConfigError(
                "Schedule needs `points`, pairs (progress, weights) such as [[0.0, [1.0, 0.0]], [1.0, [0.5, 0.5]]], or "
                "`function`. Found neither."
            )
        for time, stage in zip(self.times, self.stages, strict=True):
            if not isinstance(stage, Weighting):
                self._numbers(stage, f"at {time:g}")

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m] for this step, or [K, m + c] where a weighting of the table steers constraints.

        Raises:
            ConfigError: The function returned something that is no weights.
        """
        self._check(signal)
        if self.function is not None:
            found = self.function(signal.step, signal.steps)
            return self._scaled(self._numbers(found, f"of `function` in step {signal.step}"), signal)
        rows = [
            stage(signal)
            if isinstance(stage, Weighting)
            else self._scaled(self._numbers(stage, "in the table"), signal)
            for stage in self.stages
        ]
        width = max(row.shape[1] for row in rows)
        weights = np.zeros((self.K, width))
        for share, row in zip(self._shares(signal.progress), rows, strict=True):
            # A part without constraints has no say in them: its columns for them are 0.
            weights[:, : row.shape[1]] += share * row
        return weights

    def _shares(self, progress: float) -> FloatArray:
        """How much of each point's rows counts at this time, [points], sum 1."""
        return np.array([np.interp(progress, self.times, unit) for unit in np.eye(len(self.times))])

    def _scaled(self, numbers: FloatArray, signal: Signal) -> FloatArray:
        return signal.preferences * numbers if self.multiply else numbers

    def _numbers(self, found: ArrayLike, where: str) -> FloatArray:
        """`found` as weights [K, m]."""
        try:
            array = np.asarray(found, dtype=np.float64)
        except (TypeError, ValueError):
            raise ConfigError(f"Schedule weights {where} must be numbers. Found {found!r}.") from None
        if array.shape not in ((self.m,), (self.K, self.m)) or not np.isfinite(array).all() or (array < 0).any():
            raise ConfigError(
                f"Schedule weights {where} must be {self.m} finite numbers of at least 0, or {self.K} such rows. "
                f"Found {array.tolist()}."
            )
        return np.broadcast_to(array, (self.K, self.m)).copy()


def _read(points: Sequence[tuple[float, Stage]]) -> tuple[FloatArray, list[FloatArray | Weighting]]:
    """Times and stages of a table of points."""
    times: list[float] = []
    stages: list[FloatArray | Weighting] = []
    for point in points:
        if isinstance(point, (str, Mapping)) or not isinstance(point, Sequence) or len(point) != 2:
            raise ConfigError(f"A point of a Schedule is a pair (progress, weights). Found {point!r}.")
        time, stage = point
        if isinstance(time, (str, bool)) or not isinstance(time, (int, float)) or not 0 <= time <= 1:
            raise ConfigError(f"A point of a Schedule is at a progress between 0 and 1. Found {time!r}.")
        if times and time <= times[-1]:
            raise ConfigError(f"Points of a Schedule must ascend in progress. Found {time} after {times[-1]}.")
        times.append(float(time))
        if isinstance(stage, (str, Mapping, Weighting)):
            stages.append(make(stage))
        else:
            try:
                stages.append(np.asarray(stage, dtype=np.float64))
            except (TypeError, ValueError):
                raise ConfigError(f"Schedule weights at {time:g} are no numbers and no weighting: {stage!r}.") from None
    if not times:
        raise ConfigError("Schedule `points` must not be empty.")
    return np.array(times), stages
