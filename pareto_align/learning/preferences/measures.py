"""What policies make of held-out comparisons: how much of the labels they explain, and what became of likelihoods."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pareto_align.learning.preferences.view import PairView

__all__ = ["PairMeasures", "measure_pairs"]


@dataclass(frozen=True, eq=False)
class PairMeasures:
    """Measures of K policies on N prompts; a prompt's value is the mean over its labelled pairs, NaN without any.

    Attributes:
        explained: `[K, N, m]` 1 less the cross-entropy of the labels in bits: exactly 0 for the untrained model.
        accuracy: `[K, N, m]` agreement with the labels; 0.5 where both responses are equally likely.
        margins: `[K, N, m]` beta D towards the preferred response; NaN at ties.
        chosen: `[K, N, m]` change of the preferred response's log-probability since the reference, nats a token.
        rejected: `[K, N, m]` of the other one's.
        displaced: `[K, N, m]` share of the pairs in which both responses became less likely.
    """

    explained: Tensor
    accuracy: Tensor
    margins: Tensor
    chosen: Tensor
    rejected: Tensor
    displaced: Tensor


def measure_pairs(view: PairView, beta: float) -> PairMeasures:
    """Measures of the policies that a view is of. Errors are to be taken over prompts, not over pairs.

    Args:
        view: With a reference.
        beta: The scale on which a margin is log odds: the loss's.
    """
    with torch.no_grad():
        ratios = view.ratios
        x = beta * view.gaps(ratios)[..., None]  # [K, pairs, 1]
        known, s, sides = torch.isfinite(view.labels), view.known, view.sides
        entropy = -s * functional.logsigmoid(x) - (1 - s) * functional.logsigmoid(-x)
        right = torch.where(x > 0, s, torch.where(x < 0, 1 - s, torch.full_like(x, 0.5)))
        tokens = ratios / view.lengths.clamp(min=1).to(ratios.dtype)
        winner, loser = view.winners(tokens)
        decided = known & (sides != 0)
        both = ((winner < 0) & (loser < 0)).to(ratios.dtype)
        return PairMeasures(
            _by_row(1 - entropy / math.log(2), known, view),
            _by_row(right, known, view),
            _by_row(x * sides, decided, view),
            _by_row(winner, decided, view),
            _by_row(loser, decided, view),
            _by_row(both, decided, view),
        )


def _by_row(values: Tensor, counted: Tensor, view: PairView) -> Tensor:
    """Means `[K, N, m]` of values of pairs `[K, pairs, m]` over each prompt's own."""
    K, N, _ = view.logps.shape
    weights = counted.to(values.dtype)
    if view.weights is not None:
        weights = weights * view.weights.to(values.dtype)
    rows = view.pairs[:, 0]
    total = values.new_zeros(K, N, view.m).index_add_(1, rows, torch.where(weights > 0, values * weights, 0.0))
    seen = values.new_zeros(N, view.m).index_add_(0, rows, weights)
    return torch.where(seen > 0, total / seen.clamp(min=torch.finfo(seen.dtype).tiny), torch.full_like(total, math.nan))
