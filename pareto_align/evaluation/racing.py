"""Racing: measure again what noise leaves open, and only that.

A verdict is *resolved* when the archive is sure of it, or when not even a lucky error would make it matter. Open are

- entries within noise of a member: contested ones and duplicates that, one standard error better than they look, would
  add hypervolume to the front;
- choices: the two members that a common preference (one objective alone, or all alike) would choose between, as long as
  taking the wrong one is expected to cost something.

An open entry is measured together with its rival, on the same prompts and the same new random numbers, so that the two
stay paired. Stopping as soon as a verdict is resolved invites lucky stops; the archive pays for every look (see
`ParetoArchive.threshold`), so racing needs no correction of its own.

References:
    Maron, Moore, "Hoeffding races: accelerating model selection search for classification and function approximation",
        NIPS 6 (1993): measure only those that are still in the race.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch

from pareto_align.evaluation.answers import Measures
from pareto_align.front import Entry, ParetoArchive, Status, difference, hypervolume

__all__ = ["WORTH", "Race", "open_verdicts", "race"]

WORTH = 1e-3
"""What an open verdict must be worth: hypervolume or utility on the archive's frame, where the ideal point has 1."""


@dataclass(frozen=True)
class Race:
    """What a race did.

    Attributes:
        batches: Ids that were measured again, one list a round.
        tokens: What that took.
        open: How many verdicts were still open at the end.
    """

    batches: list[list[str]]
    tokens: int
    open: int


def race(archive: ParetoArchive, evaluator: Measures, *, budget_tokens: int, rounds: int) -> Race:
    """Measure open entries again until all verdicts are resolved, or the budget or the rounds are used up.

    Args:
        archive: Its entries' adapters are tensors `[P]`.
        evaluator: Measures on the split that the archive's estimates come from.
        budget_tokens: Most tokens to sample. A batch holds what is worth most, as far as its mean lengths so far say
            that it fits.
        rounds: Most batches.
    """
    start = evaluator.tokens
    batches: list[list[str]] = []
    for _ in range(rounds if evaluator.repeatable else 0):
        batch = _affordable(archive, open_verdicts(archive), evaluator, budget_tokens - (evaluator.tokens - start))
        if not batch:
            break
        # a number that no earlier batch had, and that a resumed run arrives at as well
        repeat = 1 + sum(entry.measured - 1 for entry in archive.entries.values())
        found = evaluator.measure(torch.stack([archive.entries[id].adapter for id in batch]), repeat=repeat)
        archive.remeasure_all({id: m.estimate for id, m in zip(batch, found, strict=True)})
        batches.append(batch)
    return Race(batches, evaluator.tokens - start, len(open_verdicts(archive)))


def open_verdicts(archive: ParetoArchive) -> list[tuple[str, str]]:
    """Pairs of ids whose comparison is open and worth measuring, from the most to the least worth.

    Entries that gave their adapters up are past measuring.
    """
    members = archive.members()
    front = [_framed(archive, member.estimate.mean) for member in members]
    volume = hypervolume(front, archive.reference)
    ready = {id for id, entry in archive.entries.items() if entry.adapter is not None}
    worth: dict[tuple[str, str], float] = {}
    for entry in archive.entries.values():
        if entry.status in (Status.CONTESTED, Status.DUPLICATE) and {entry.id, entry.rival} <= ready:
            rival = archive.entries[str(entry.rival)]
            _, covariance = difference(entry.estimate, rival.estimate)
            if np.diag(covariance)[list(archive.axes)].any():  # else the two answered alike, and will again
                hopeful = _framed(archive, entry.estimate.mean + entry.estimate.stderr)
                # what was measured once may be anything: the ideal point has 1 on every axis
                hopeful = np.where(np.isnan(hopeful), np.maximum(1.0, _framed(archive, entry.estimate.mean)), hopeful)
                worth[entry.id, rival.id] = hypervolume([*front, hopeful], archive.reference) - volume
    for weights in [*np.eye(len(archive.axes)), np.full(len(archive.axes), 1 / len(archive.axes))]:
        if len(members) > 1:
            first, second, loss = _choice(archive, members, weights)
            worth[first, second] = max(loss, worth.get((first, second), 0.0))
    pairs = [pair for pair, value in worth.items() if value > WORTH and ready.issuperset(pair)]
    return sorted(pairs, key=lambda pair: (-worth[pair], pair))


def _choice(archive: ParetoArchive, members: Sequence[Entry], weights: np.ndarray) -> tuple[str, str, float]:
    """The two members of largest linear utility, and what choosing the first is expected to lose against the second.

    Normal approximation of their paired difference.
    """
    axes = list(archive.axes)
    utility = np.array([weights @ _framed(archive, e.estimate.mean) for e in members])
    second, first = np.argsort(utility, kind="stable")[-2:]
    _, covariance = difference(members[first].estimate, members[second].estimate)
    scaled = weights / (archive.scale_upper - archive.scale_lower)
    # rounding may leave a variance of 0 a little below it
    noise = float(np.sqrt(np.maximum(scaled @ covariance[np.ix_(axes, axes)] @ scaled, 0.0)))
    loss = 0.0
    if noise > 0:
        z = float(utility[first] - utility[second]) / noise
        loss = noise * (NormalDist().pdf(z) - z * NormalDist().cdf(-z))
    return members[first].id, members[second].id, loss


def _affordable(
    archive: ParetoArchive, pairs: Sequence[tuple[str, str]], evaluator: Measures, tokens: float
) -> list[str]:
    """The ids of the first pairs that the tokens pay for, each once."""
    batch: list[str] = []
    for pair in pairs:
        new = [id for id in pair if id not in batch]
        cost = sum(evaluator.tokens_for(archive.entries[id].origin.length) for id in new)
        if cost > tokens:
            break
        batch += new
        tokens -= cost
    return batch


def _framed(archive: ParetoArchive, mean: np.ndarray) -> np.ndarray:
    framed: np.ndarray = (mean[list(archive.axes)] - archive.scale_lower) / (archive.scale_upper - archive.scale_lower)
    return framed
