"""How much of what was said a policy foresees: pairs, and marks of single responses where there are no pairs.

A pair is foreseen as `sigmoid(beta D)`, D being how much more the policy prefers a to b than the untrained model does,
and a marked response as `sigmoid(beta u)`, u being how much likelier the policy finds it. Both are 1/2 untrained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pareto_align.learning.preferences import PairView

__all__ = ["Statements", "explained", "explained_rows", "ranked", "statements"]


@dataclass(frozen=True, eq=False)
class Statements:
    """All that was said in a batch, q pairs and marked responses.

    Attributes:
        logits: `[K, q]` how surely each policy foresees that the label is 1, in log odds.
        labels: `[q, m]` 0 to 1; 0.5 where nothing is said.
        counted: `[q, m]` judgements behind each, 0 where nothing is said.
        rows: `[q]` which comparison each is of.
    """

    logits: Tensor
    labels: Tensor
    counted: Tensor
    rows: Tensor

    @property
    def values(self) -> Tensor:
        """`[K, q, m]` 1 - CE(s, sigmoid(logit)) / ln 2: 0 for a logit of 0, 1 where a label is foreseen for sure."""
        x, s = self.logits[..., None], self.labels
        entropy = -(s * functional.logsigmoid(x) + (1 - s) * functional.logsigmoid(-x))
        return 1 - entropy / math.log(2)

    def mean(self, values: Tensor) -> Tensor:
        """`[K, m]` mean of `[K, q, m]` over what was said; NaN where nothing was."""
        total = self.counted.sum(0)
        found = (values * self.counted).sum(1) / total.clamp(min=1e-12)
        return torch.where(total > 0, found, torch.full_like(found, math.nan))


def statements(view: PairView, beta: float) -> Statements:
    """What was said, with what the policies foresee.

    Marks count where no pair of the same comparison is labelled under the same objective.

    Args:
        view: Responses with their log-probabilities and what was said about them.
        beta: What log-ratios are multiplied by.
    """
    said = torch.isfinite(view.labels)
    counted = said * (torch.ones_like(view.known) if view.weights is None else view.weights.to(view.known))
    logits, labels, rows = beta * view.gaps(view.ratios), view.known, view.pairs[:, 0]
    if view.marks is not None:
        _, count, group = view.logps.shape
        paired = torch.zeros(count, view.m).index_add_(0, rows, said.float())
        marks = view.marks.flatten(0, 1).to(labels)
        alone = torch.isfinite(marks) & (paired == 0).repeat_interleave(group, 0)
        logits = torch.cat([logits, beta * view.ratios.flatten(1)], 1)
        labels = torch.cat([labels, marks.nan_to_num(nan=0.5)])
        counted = torch.cat([counted, alone.to(counted)])
        rows = torch.cat([rows, torch.arange(count).repeat_interleave(group)])
    return Statements(logits, labels, counted, rows)


def explained(view: PairView, beta: float) -> Tensor:
    """How much of the labels a policy explains, `[K, m]`; NaN where nothing is said.

    0 is the untrained model, exactly, and 1 foresees all labels with certainty; there is no lower bound.
    """
    said = statements(view, beta)
    return said.mean(said.values)


def explained_rows(view: PairView, beta: float) -> Tensor:
    """The same of each comparison, `[K, N, m]`."""
    said = statements(view, beta)
    policies, rows, _ = view.logps.shape
    total = torch.zeros(rows, view.m).index_add_(0, said.rows, said.counted.float())
    found = torch.zeros(policies, rows, view.m).index_add_(1, said.rows, (said.values * said.counted).float())
    return torch.where(total > 0, found / total.clamp(min=1e-12), torch.full_like(found, math.nan))


def ranked(said: Statements) -> Tensor:
    """The share of the labels that a policy foresees rather than not, `[K, m]`.

    A label of .7 is right to .7 or .3, and to .5 where the policy does not lean either way.
    """
    x, s = said.logits[..., None], said.labels
    return said.mean(torch.where(x > 0, s, torch.where(x < 0, 1 - s, torch.full_like(x * s, 0.5))))
