"""Losses with the objectives' weights inside: they aim at the reward that a mixture of rewards would give.

A weighted sum of losses and the loss of a weighted sum of rewards have different optima, except at the corners. These
aim at the second: `pi_ref exp(w.r / beta) / Z`.

References:
    Zhou et al., "Beyond One-Preference-Fits-All Alignment: Multi-Objective Direct Preference Optimization", arXiv
        2310.03708 (modpo). There one objective's labels are learned from at a time, with frozen models of the others
        as margins, one run a weight; here all labels at once, and the margins are those of the population's own corner
        policies.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pareto_align.arguments import Positive
from pareto_align.errors import ConfigError
from pareto_align.learning.preferences.base import register_preference
from pareto_align.learning.preferences.margins import MarginLoss
from pareto_align.learning.preferences.view import PairView

__all__ = ["LogitPool", "Modpo"]

SMALLEST = 1e-3
"""Weight below which an objective's own term is left out of MODPO: its limit for certain labels is a step."""


class _Scalarized(MarginLoss):
    """A loss of DPO's margin that knows the weights.

    Args:
        beta: How strongly the reference is held on to.
    """

    soft_labels = True
    weights_inside = True

    def __init__(self, *, beta: Positive = 0.1) -> None:
        self.beta = float(beta)

    def score(self, view: PairView) -> Tensor:
        """The log-ratio."""
        return view.ratios

    def of_margin(self, x: Tensor) -> Tensor:
        """`-log sigmoid(x)`."""
        return -functional.logsigmoid(x)

    def _cross_entropy(self, x: Tensor, labels: Tensor) -> Tensor:
        return labels * self.of_margin(x) + (1 - labels) * self.of_margin(-x)

    def _trade(self, view: PairView) -> Tensor:
        if view.trade is None:
            raise ConfigError(f"{self.name!r} needs the weights of every policy.")
        return view.trade.to(view.logps.dtype)


@register_preference("modpo")
class Modpo(_Scalarized):
    """MODPO for a population: every label set at once, with the corner policies' own margins.

        L_k = sum_j w_kj mean_(pairs labelled by j) CE(s_j, sigmoid(h_kj))
        h_kj = (beta D_k - sum_(i != j) w_ki m_i) / w_kj,     m_i = beta D of the policy that serves objective i alone

    All terms share the optimum `pi_ref exp(w_k.r / beta) / Z`. The weight before a term and the one it is divided by
    cancel in the slope, which is at most beta m however small a weight is. A corner policy is plain DPO. Margins carry
    no gradient; `PairView.rewards` may give them instead, on the scale of the labels' logits.

    Args:
        beta: How strongly the reference is held on to.
    """

    def losses_of(self, gaps: Tensor, view: PairView) -> Tensor:
        """Terms `[K, pairs, m]`, weights applied.

        Raises:
            ConfigError: There are neither corner policies nor rewards to take margins from.
        """
        trade = self._trade(view)
        margins = self._margins(gaps, view)  # [pairs, m]
        weights = trade[:, None, :]
        others = (margins * weights).sum(-1, keepdim=True) - margins * weights
        kept = weights >= SMALLEST
        divisor = torch.where(kept, weights, torch.ones_like(weights))
        h = (self.beta * gaps[..., None] - others) / divisor
        return torch.where(kept, weights * self._cross_entropy(h, view.known), torch.zeros_like(h))

    def _margins(self, gaps: Tensor, view: PairView) -> Tensor:
        if view.rewards is not None:
            return view.rewards.to(gaps.dtype)
        if view.corners is None:
            raise ConfigError(
                "'modpo' needs a margin of every objective: a policy that serves it alone (a corner), or rewards."
            )
        return self.beta * gaps.detach()[view.corners].T


@register_preference("logit_pool")
class LogitPool(_Scalarized):
    """One cross-entropy with the pooled label `sigmoid(sum_j w_kj logit(s_j))`.

    The optimum is MODPO's and no margins are needed, but only for calibrated labels strictly between 0 and 1: of label
    models, or of many annotators. Pairs that lack a label of any objective are left out.

    Args:
        beta: How strongly the reference is held on to.
    """

    def counted(self, view: PairView) -> Tensor:
        """Pairs that have all labels."""
        found = super().counted(view)
        return torch.where((found > 0).all(1, keepdim=True), found, torch.zeros_like(found))

    def losses_of(self, gaps: Tensor, view: PairView) -> Tensor:
        """The cross-entropy `[K, pairs, m]`, in shares of the weights.

        Raises:
            ConfigError: A label is 0 or 1.
        """
        if bool(((view.labels == 0) | (view.labels == 1)).any()):
            raise ConfigError(
                "'logit_pool' needs labels strictly between 0 and 1: with a certain label it has no finite optimum. "
                "Use 'modpo', or `.soften()` labels that have margins."
            )
        trade = self._trade(view)
        target = torch.sigmoid(trade @ torch.logit(view.known).T)[..., None]  # [K, pairs, 1]
        return trade[:, None, :] * self._cross_entropy(self.beta * gaps[..., None], target)
