"""A batch of comparisons as tensors: tokens for the passes, pairs and labels for the losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.learning.preferences import PairView

__all__ = ["ComparisonBatch", "collate", "token_weights"]


@dataclass(frozen=True, eq=False)
class ComparisonBatch:
    """N comparisons, the same for all policies.

    Attributes:
        rows: The comparisons.
        tokens: `[1, N, G, T]` token ids; the pad token after the end, and where a row has fewer than G responses.
        mask: `[1, N, G, T]` True where there is a token.
        pairs: `[pairs, 3]` row, response a, response b.
        labels: `[pairs, m]`, NaN where there is none.
        margins: `[pairs, m]`, NaN where none is known; None where none is.
        weights: `[pairs, m]` judgements behind each label; None where each is one.
        scores: `[N, G, m]`, NaN where none is known; None where none is.
        marks: `[N, G, m]`, likewise.
        golds: `[N]` the response to be imitated, -1 where there is none.
    """

    rows: tuple[ComparisonRow, ...]
    tokens: Tensor
    mask: Tensor
    pairs: Tensor
    labels: Tensor
    margins: Tensor | None
    weights: Tensor | None
    scores: Tensor | None
    marks: Tensor | None
    golds: Tensor

    @property
    def lengths(self) -> Tensor:
        """`[N, G]` tokens of each response."""
        return self.mask[0].sum(-1)

    @property
    def prompts(self) -> list[list[int]]:
        """N prompts as token ids."""
        return [list(row.ids) for row in self.rows]

    def view(self, logps: Tensor, reference: Tensor | None = None, **more: Any) -> PairView:
        """What a loss sees of this batch.

        Args:
            logps: `[K, N, G]` summed log-probabilities of the responses.
            reference: `[K or 1, N, G]` under the reference.
            more: Further fields of `PairView`, such as `trade` and `corners`.
        """
        return PairView(
            logps=logps,
            lengths=self.lengths,
            pairs=self.pairs,
            labels=self.labels,
            reference=reference,
            margins=self.margins,
            weights=self.weights,
            scores=self.scores,
            marks=self.marks,
            golds=self.golds,
            **more,
        )


def collate(rows: Sequence[ComparisonRow], pad: int) -> ComparisonBatch:
    """A batch of these comparisons.

    Args:
        rows: N of them.
        pad: The pad token.
    """
    group = max(len(row.tokens) for row in rows)
    length = max(len(one) for row in rows for one in row.tokens)
    tokens = torch.full((1, len(rows), group, length), pad)
    mask = torch.zeros(1, len(rows), group, length, dtype=torch.bool)
    pairs = []
    for n, row in enumerate(rows):
        for g, one in enumerate(row.tokens):
            tokens[0, n, g, : len(one)] = torch.tensor(one)
            mask[0, n, g, : len(one)] = True
        pairs.append(np.column_stack([np.full(len(row.comparison.labels), n), row.comparison.labels.pairs]))
    labels = [row.comparison.labels for row in rows]
    return ComparisonBatch(
        tuple(rows),
        tokens,
        mask,
        torch.from_numpy(np.concatenate(pairs).astype(np.int64)),
        _stacked([one.values for one in labels]),
        _optional([one.margins for one in labels], [one.values for one in labels], math.nan),
        _optional([one.weights for one in labels], [one.values for one in labels], 1.0),
        _grouped([row.comparison.scores for row in rows], group),
        _grouped([row.comparison.marks for row in rows], group),
        torch.tensor([-1 if row.comparison.gold is None else row.comparison.gold for row in rows]),
    )


def token_weights(mask: Tensor, ld_alpha: float | None) -> Tensor:
    """What each token counts in its response's log-probability, `[..., G, T]`: 1, or LD-DPO's `ld_alpha` beyond the
    shortest response of the row.

    Args:
        mask: `[..., G, T]`; responses without a token are not there.
        ld_alpha: From 0 (only the length that all responses have counts) to 1; None counts all alike.

    References:
        Liu et al., "Length Desensitization in Direct Preference Optimization", arXiv 2409.06411. There a row has two
            responses.
    """
    real = mask.float()
    if ld_alpha is None:
        return real
    lengths = mask.sum(-1)
    shortest = torch.where(lengths > 0, lengths, lengths.max() + 1).amin(-1)[..., None, None]
    beyond = torch.arange(mask.shape[-1], device=mask.device) >= shortest
    return torch.where(beyond, ld_alpha * real, real)


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.float32))


def _optional(arrays: Sequence[np.ndarray | None], like: Sequence[np.ndarray], missing: float) -> Tensor | None:
    if all(array is None for array in arrays):
        return None
    filled = [np.full(one.shape, missing) if array is None else array for array, one in zip(arrays, like, strict=True)]
    return _stacked(filled)


def _grouped(arrays: Sequence[np.ndarray | None], group: int) -> Tensor | None:
    """`[G_n, m]` of each row as `[N, G, m]`."""
    m = next((array.shape[1] for array in arrays if array is not None), None)
    if m is None:
        return None
    found = np.full((len(arrays), group, m), math.nan, dtype=np.float32)
    for place, array in zip(found, arrays, strict=True):
        if array is not None:
            place[: len(array)] = array
    return torch.from_numpy(found)
