"""Nelder-Mead as a search that is asked for a point and told its score, one at a time, and can be saved in between.

References:
    Nelder and Mead, "A simplex method for function minimization", The Computer Journal 7, 1965. Coefficients 1, 2, .5
        and .5, and the order of all comparisons as in `scipy.optimize.minimize`, which cannot be left and resumed.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.weighting.base import FloatArray

__all__ = ["NelderMead"]


class Stage(IntEnum):
    """What the point that was asked for is."""

    START = 0
    REFLECTED = 1
    EXPANDED = 2
    OUTSIDE = 3
    INSIDE = 4
    SHRUNK = 5


class NelderMead:
    """Search for the point of a box with the largest score.

    Args:
        simplex: [n + 1, n] first vertices.
        lower: [n] lower end of the box, to which every point is clipped.
        upper: [n] upper end.

    Attributes:
        simplex: [n + 1, n] vertices, the best first once all have a score.
        scores: [n + 1] their scores; -inf before.
        point: [n] what is to be scored next.
    """

    def __init__(self, simplex: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> None:
        self.lower, self.upper = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        self.simplex = self._clipped(np.array(simplex, dtype=np.float64))
        self.scores = np.full(len(self.simplex), -np.inf)
        self.stage = Stage.START
        self.vertex = 0
        self.point: FloatArray = self.simplex[0].copy()
        self.reflected, self.reflected_score = self.point.copy(), -np.inf

    @property
    def best(self) -> FloatArray:
        """The vertex [n] with the largest score; the first one before any has a score."""
        return np.asarray(self.simplex[int(self.scores.argmax())].copy())

    @property
    def size(self) -> float:
        """Largest distance, in one coordinate, of a vertex from the best one."""
        return float(np.abs(self.simplex - self.best).max())

    def tell(self, score: float) -> None:
        """The score of `point`; `point` is then the next one."""
        if self.stage in (Stage.START, Stage.SHRUNK):
            self.scores[self.vertex] = score
            self.vertex += 1
            if self.vertex < len(self.simplex):
                self.point = self.simplex[self.vertex].copy()
            else:
                self._reflect()
        elif self.stage == Stage.REFLECTED:
            self.reflected, self.reflected_score = self.point, score
            if score > self.scores[0]:
                self._try(Stage.EXPANDED, 2.0)
            elif score > self.scores[-2]:
                self._accept(self.point, score)
            elif score > self.scores[-1]:
                self._try(Stage.OUTSIDE, 0.5)
            else:
                self._try(Stage.INSIDE, -0.5)
        elif self.stage == Stage.EXPANDED:
            if score > self.reflected_score:
                self._accept(self.point, score)
            else:
                self._accept(self.reflected, self.reflected_score)
        elif score >= self.reflected_score if self.stage == Stage.OUTSIDE else score > self.scores[-1]:
            self._accept(self.point, score)
        else:
            self.simplex[1:] = self._clipped(self.simplex[0] + 0.5 * (self.simplex[1:] - self.simplex[0]))
            self.stage, self.vertex, self.point = Stage.SHRUNK, 1, self.simplex[1].copy()

    def pack(self) -> FloatArray:
        """All that it knows but the box, as numbers [n^2 + 4 n + 4]."""
        tail = [float(self.reflected_score), float(self.stage), float(self.vertex)]
        return np.concatenate([self.simplex.ravel(), self.scores, self.point, self.reflected, tail])

    @classmethod
    def unpack(cls, numbers: FloatArray, lower: FloatArray, upper: FloatArray) -> NelderMead:
        """The search that was packed."""
        n = len(lower)
        simplex, scores, point, reflected, tail = np.split(
            numbers, np.cumsum([(n + 1) * n, n + 1, n, n], dtype=np.int64)
        )
        found = cls(simplex.reshape(n + 1, n), lower, upper)
        found.scores, found.point, found.reflected = scores.copy(), point.copy(), reflected.copy()
        found.reflected_score, found.stage, found.vertex = float(tail[0]), Stage(int(tail[1])), int(tail[2])
        return found

    def _accept(self, point: FloatArray, score: float) -> None:
        self.simplex[-1], self.scores[-1] = point, score
        self._reflect()

    def _reflect(self) -> None:
        order = np.argsort(-self.scores, kind="stable")
        self.simplex, self.scores = self.simplex[order], self.scores[order]
        self._try(Stage.REFLECTED, 1.0)

    def _try(self, stage: Stage, along: float) -> None:
        """Next is the point that lies `along` times as far beyond the centre of the others as the worst lies before."""
        centre = self.simplex[:-1].mean(axis=0)
        self.stage, self.point = stage, self._clipped((1 + along) * centre - along * self.simplex[-1])

    def _clipped(self, points: FloatArray) -> FloatArray:
        return np.asarray(np.clip(points, self.lower, self.upper))
