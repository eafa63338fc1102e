"""Losses that look at the preferred and the other response each by itself, and those that look at the whole batch.

u is a response's log-ratio `log pi - log ref`; w the preferred response, l the other. Ties are left out.

References:
    Chen et al., "Noise Contrastive Alignment of Language Models with Explicit Rewards", arXiv 2402.05369 (nca_pair).
    Jung et al., "Binary Classifier Optimization for Large Language Model Alignment", arXiv 2404.04656 (bco_pair).
    Wu et al., "Self-Play Preference Optimization for Language Model Alignment", arXiv 2405.00675 (sppo_hard).
    D'Oosterlinck et al., "Anchored Preference Optimization and Contrastive Revisions", arXiv 2408.06266 (apo_zero,
    apo_down). Melnyk et al., "Distributional Preference Alignment of LLMs via Optimal Transport", arXiv 2406.05882
    (aot). Liu et al., "Provably Mitigating Overoptimization in RLHF", arXiv 2405.16436: "sft" beside "sigmoid" is RPO.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pareto_align.arguments import Positive
from pareto_align.learning.preferences.base import PreferenceLoss, register_preference
from pareto_align.learning.preferences.margins import SQUARED, Flips, MarginLoss, Side, SidedLoss, token_nll
from pareto_align.learning.preferences.view import PairView

__all__ = ["Aot", "AotUnpaired", "ApoDown", "ApoZero", "Bco", "Nca", "Sft", "SppoHard"]


class _Anchored(SidedLoss):
    """A sided loss with a beta.

    Args:
        beta: How strongly the reference is held on to.
    """

    def __init__(self, *, beta: Positive = 0.1) -> None:
        self.beta = float(beta)


@register_preference("nca_pair")
class Nca(_Anchored):
    """NCA: `-log sigmoid(beta u_w) - (log sigmoid(-beta u_w) + log sigmoid(-beta u_l)) / 2`."""

    def of_sides(self, winner: Side, loser: Side, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        w, lost = self.beta * winner.ratios, self.beta * loser.ratios
        ahead = functional.logsigmoid(w)
        return -ahead - 0.5 * functional.logsigmoid(-w) - 0.5 * functional.logsigmoid(-lost)


@register_preference("bco_pair")
class Bco(_Anchored):
    """BCO: `-log sigmoid(beta u_w) - log sigmoid(-beta u_l)`. As TRL 1.16 has it, without the paper's running shift."""

    def of_sides(self, winner: Side, loser: Side, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        return -functional.logsigmoid(self.beta * winner.ratios) - functional.logsigmoid(-self.beta * loser.ratios)


@register_preference("sppo_hard")
class SppoHard(_Anchored):
    """SPPO with certain labels: `(u_w - 1/(2 beta))^2 + (u_l + 1/(2 beta))^2`. The paper's beta is 1e-3."""

    def of_sides(self, winner: Side, loser: Side, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        target = 0.5 / self.beta
        w, lost = (side.ratios.clamp(-SQUARED, SQUARED) for side in (winner, loser))
        return (w - target).square() + (lost + target).square()


@register_preference("apo_zero")
class ApoZero(_Anchored):
    """APO-zero, for responses that are better than the model's own: `1 - sigmoid(beta u_w) + sigmoid(beta u_l)`."""

    def of_sides(self, winner: Side, loser: Side, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        return torch.sigmoid(-self.beta * winner.ratios) + torch.sigmoid(self.beta * loser.ratios)


@register_preference("apo_down")
class ApoDown(_Anchored):
    """APO-down, for responses worse than the model's own: `sigmoid(beta u_w) + 1 - sigmoid(beta (u_w - u_l))`."""

    def of_sides(self, winner: Side, loser: Side, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        gap = winner.ratios - loser.ratios
        return torch.sigmoid(self.beta * winner.ratios) + torch.sigmoid(-self.beta * gap)


@register_preference("sft")
class Sft(PreferenceLoss):
    """Negative log-likelihood of the preferred responses, a mean over their tokens; to be added to another loss.

    With "sigmoid" and weights `[1, eta]` it is RPO.
    """

    needs_reference = False
    couples_batch = True

    def losses(self, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        return token_nll(view, self.counted(view))


@register_preference("aot")
class Aot(MarginLoss):
    """AOT: the margins of the policy and those of the reference, each sorted over the batch, compared rank by rank.

    `-(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d)` with d the i-th smallest margin of the policy less the i-th
    smallest of the reference; each objective sorts its own labelled pairs.

    Args:
        beta: How strongly the reference is held on to.
        label_smoothing: e.
    """

    couples_batch = True

    def __init__(self, *, beta: Positive = 0.1, label_smoothing: Flips = 0.0) -> None:
        self.beta, self.label_smoothing = float(beta), float(label_smoothing)

    def score(self, view: PairView) -> Tensor:
        """The log-probability."""
        return view.logps

    def of_margin(self, x: Tensor) -> Tensor:
        """The cross-entropy with a smoothed label."""
        e = self.label_smoothing
        return -(1 - e) * functional.logsigmoid(x) - e * functional.logsigmoid(-x)

    def losses_of(self, gaps: Tensor, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        wanted = view.gaps(view.logps.detach() - view.ratios.detach())  # the reference's, also where it is shared
        margins, references = gaps[..., None] * view.sides, wanted[..., None] * view.sides
        return self.of_margin(self.beta * (margins - by_rank(margins, references, self.counted(view) > 0)))


@register_preference("aot_unpaired")
class AotUnpaired(SidedLoss):
    """AOT without pairs: the log-ratios of preferred responses and of the others, each sorted, compared rank by rank.

    Args:
        beta: How strongly the reference is held on to.
        label_smoothing: e, as of "aot".
    """

    couples_batch = True

    def __init__(self, *, beta: Positive = 0.1, label_smoothing: Flips = 0.0) -> None:
        self.beta, self.label_smoothing = float(beta), float(label_smoothing)

    def of_sides(self, winner: Side, loser: Side, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        e = self.label_smoothing
        x = self.beta * (winner.ratios - by_rank(winner.ratios, loser.ratios, self.counted(view) > 0))
        return -(1 - e) * functional.logsigmoid(x) - e * functional.logsigmoid(-x)


def by_rank(values: Tensor, others: Tensor, counted: Tensor) -> Tensor:
    """For each value the one of `others` that has the same rank among its own.

    Args:
        values: `[K, pairs, m]`, ranked along the pairs, each policy and objective by itself.
        others: `[K, pairs, m]`.
        counted: `[pairs, m]` which pairs take part; the others get 0.
    """
    columns = []
    for value, other, mask in zip(values.unbind(-1), others.unbind(-1), counted.unbind(-1), strict=True):
        places = torch.nonzero(mask)[:, 0]
        ranks = value[:, places].argsort(dim=1, stable=True).argsort(dim=1)
        matched = other[:, places].sort(1).values.expand(len(value), -1).gather(1, ranks)
        columns.append(torch.zeros_like(value).index_copy(1, places, matched))
    return torch.stack(columns, -1)
