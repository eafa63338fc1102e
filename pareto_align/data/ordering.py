"""The order in which comparisons are learned from: whole passes, labels of all objectives in a batch, easy first."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.data.comparison import IntArray, Labels
from pareto_align.data.comparisons import Comparisons
from pareto_align.errors import ComparisonError, ConfigError, ParetoAlignWarning
from pareto_align.seeds import seed_for

__all__ = ["ComparisonOrder", "curriculum", "warn_of_sparse"]

RARE = 0.05
"""Chance of a batch without any label of an objective above which a warning is given."""


class ComparisonOrder:
    """Batches of comparisons in whole passes; a batch depends on the seed and the step alone, so nothing is saved.

    Within a pass the comparisons of each pattern of labels are spread evenly, so that every batch holds each
    objective's labels in proportion.

    Args:
        labelled: `[n, m]` whether a comparison has a label of an objective.
        seed: Of the shuffles.
        name: What the seed is for; another name is another order.
    """

    def __init__(self, labelled: ArrayLike, seed: int, name: str = "comparisons") -> None:
        self.labelled = np.asarray(labelled, dtype=bool)
        if self.labelled.ndim != 2 or not len(self.labelled):
            raise ConfigError(f"`labelled` must have shape [n, m] with n of at least 1. Found {self.labelled.shape}.")
        self.seed, self.name = seed, name
        _, self._pattern = np.unique(self.labelled, axis=0, return_inverse=True)
        self._pattern = self._pattern.reshape(-1)

    def batch(self, step: int, size: int) -> IntArray:
        """The comparisons of a step, `[size]` numbers; a pass that ends within it goes over into the next."""
        n = len(self.labelled)
        positions = np.arange(step * size, (step + 1) * size)
        passes = {number: self.one_pass(int(number)) for number in np.unique(positions // n)}
        return np.array([passes[position // n][position % n] for position in positions], dtype=np.int64)

    def one_pass(self, number: int) -> IntArray:
        """The order `[n]` of the pass of that number."""
        rng = np.random.default_rng(seed_for(self.seed, self.name, number))
        shuffled = rng.permutation(len(self.labelled))
        places = np.empty(len(shuffled))
        for pattern in range(self._pattern.max() + 1):
            members = shuffled[self._pattern[shuffled] == pattern]
            # the i-th of n at about (i + 1/2) / n of the pass, all moved by one random number
            places[members] = (np.arange(len(members)) + rng.random()) / len(members)
        return np.asarray(np.argsort(places, kind="stable"), dtype=np.int64)


def curriculum(comparisons: Comparisons, stages: int, gaps: ArrayLike | None = None) -> list[Comparisons]:
    """The comparisons in stages from easy to hard pairs, as many pairs in each.

    Args:
        comparisons: With margins, unless `gaps` are given.
        stages: How many.
        gaps: `[pairs]` how far apart the two responses of each pair are, such as the reference's log-probabilities; by
            default the mean over objectives of the margins in their standard deviations.

    Returns:
        One `Comparisons` a stage, with its pairs only; prompts without any are left out.

    Raises:
        ComparisonError: There are no margins, or fewer pairs than stages.

    References:
        Pattnaik et al., "Curry-DPO: Enhancing Alignment using Curriculum Learning & Ranked Preferences", arXiv
        2403.07230.
    """
    table = comparisons.table()
    if stages < 1 or stages > len(table.rows):
        raise ComparisonError(
            f"A curriculum of {len(table.rows)} pairs has 1 to {len(table.rows)} stages. Found {stages}."
        )
    distance = _distances(table.margins) if gaps is None else np.asarray(gaps, dtype=np.float64)
    if distance.shape != (len(table.rows),):
        raise ComparisonError(f"`gaps` must have shape [{len(table.rows)}], one a pair. Found {list(distance.shape)}.")
    if not np.isfinite(distance).any():
        raise ComparisonError("A curriculum needs margins: ratings, a column `margin`, or `gaps` of the reference.")
    # a pair whose gap is not known is as hard as the hardest
    order = np.argsort(-np.nan_to_num(distance, nan=-math.inf), kind="stable")
    stage = np.empty(len(order), dtype=np.int64)
    stage[order] = np.arange(len(order)) * stages // len(order)
    ends = np.cumsum([0, *(len(row.labels) for row in comparisons)])
    found = []
    for number in range(stages):
        rows = []
        for row, start, end in zip(comparisons, ends[:-1], ends[1:], strict=True):
            kept = stage[start:end] == number
            if kept.any():
                rows.append(replace(row, labels=_some(row.labels, kept)))
        found.append(Comparisons(rows, comparisons.names, counts=comparisons.counts))
    return found


def _distances(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(margins)
    filled = np.where(known, margins, 0)
    count = known.sum(0)
    spread = np.sqrt((filled**2).sum(0) / np.maximum(count, 1))
    scaled = filled / np.where(spread > 0, spread, 1)
    several = known.sum(1)
    return np.asarray(np.where(several > 0, scaled.sum(1) / np.maximum(several, 1), math.nan))


def _some(labels: Labels, kept: NDArray[np.bool_]) -> Labels:
    return Labels(
        labels.pairs[kept],
        labels.values[kept],
        None if labels.margins is None else labels.margins[kept],
        None if labels.weights is None else labels.weights[kept],
        None if labels.users is None else tuple(user for user, keep in zip(labels.users, kept, strict=True) if keep),
    )


def warn_of_sparse(comparisons: Comparisons, prompts: int) -> None:
    """Say so where a batch of so many prompts may well hold no label of an objective.

    Warns:
        ParetoAlignWarning: The chance of it exceeds 5 % for comparisons drawn at random.
    """
    table = comparisons.table()
    labelled = np.zeros((len(comparisons), comparisons.m), dtype=bool)
    np.logical_or.at(labelled, table.rows, np.isfinite(table.values))
    for name, share in zip(comparisons.names, labelled.mean(0), strict=True):
        chance = (1 - share) ** prompts
        if share > 0 and chance > RARE:
            warnings.warn(
                f"{share:.1%} of the comparisons have a label of {name!r}: {chance:.0%} of the batches of {prompts} "
                "prompts hold none of it, and say nothing of that objective. Take more prompts a step.",
                ParetoAlignWarning,
                stacklevel=2,
            )
