"""Losses without a reference: SimPO, CPO, ORPO, TPO.

References:
    Meng, Xia and Chen, "SimPO: Simple Preference Optimization with a Reference-Free Reward", arXiv 2405.14734.
    Xu et al., "Contrastive Preference Optimization", arXiv 2401.08417 (cpo).
    Gupta et al., "AlphaPO: Reward Shape Matters for LLM Alignment", arXiv 2501.03884 (alpha).
    Hong, Lee and Thorne, "ORPO: Monolithic Preference Optimization without Reference Model", arXiv 2403.07691.
    Hejna et al., "Contrastive Preference Learning: Learning from Human Feedback without RL", arXiv 2310.13639
        (`negative_bias`).
    Saeidi et al., "Triple Preference Optimization", arXiv 2405.16681 (tpo, tpo-l).
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor
from torch.nn import functional

from pareto_align.arguments import NotNegative, Positive, Share
from pareto_align.errors import ConfigError
from pareto_align.learning.preferences.base import register_preference
from pareto_align.learning.preferences.margins import EXPONENT, Flips, MarginLoss, Side, SidedLoss, token_nll
from pareto_align.learning.preferences.view import PairView

__all__ = ["Cpo", "Orpo", "SimPo", "Tpo", "TpoLength"]

LARGEST = -1e-6  # a mean log-probability: the odds of a certain response are infinite


class _Free(MarginLoss):
    """A margin loss of log-probabilities themselves: `-(1 - e) log sigmoid(x - gamma) - e log sigmoid(gamma - x)`."""

    needs_reference = False
    per_token = False
    label_smoothing = 0.0
    gamma = 0.0
    alpha = 0.0

    def score(self, view: PairView) -> Tensor:
        """The log-probability, per token where the loss is normalised so; AlphaPO's transform of it with an alpha."""
        found = view.logps / view.lengths.clamp(min=1).to(view.logps.dtype) if self.per_token else view.logps
        if self.alpha == 0:
            return found
        return -torch.expm1((-self.alpha * found).clamp(-EXPONENT, EXPONENT)) / self.alpha

    def of_margin(self, x: Tensor) -> Tensor:
        """The cross-entropy with a smoothed label."""
        e, ahead = self.label_smoothing, x - self.gamma
        return -(1 - e) * functional.logsigmoid(ahead) - e * functional.logsigmoid(-ahead)

    @property
    def factor(self) -> Hashable:
        """One a normalisation and transform."""
        return ("length" if self.per_token else "one") if self.alpha == 0 else ("alpha", self.alpha, self.per_token)


@register_preference("simpo")
class SimPo(_Free):
    """SimPO: `-log sigmoid(beta (lbar_w - lbar_l) - gamma)` with means over tokens.

    Args:
        beta: Scale of the rewards. TRL's default is 0.1; the authors' settings are 2 to 10.
        simpo_gamma: The margin that must be exceeded.
        label_smoothing: Share of labels that are taken to be flipped.
        alpha: AlphaPO's transform `(1 - p^-alpha) / alpha` of p = exp(lbar); 0 is none.
    """

    per_token = True

    def __init__(
        self,
        *,
        beta: Positive = 2.0,
        simpo_gamma: NotNegative = 0.5,
        label_smoothing: Flips = 0.0,
        alpha: float = 0.0,
    ) -> None:
        self.beta, self.gamma = float(beta), float(simpo_gamma)
        self.label_smoothing, self.alpha = float(label_smoothing), float(alpha)


@register_preference("cpo")
class Cpo(_Free):
    """CPO: `-log sigmoid(beta (l_w - l_l))` plus the negative log-likelihood of the preferred response.

    Args:
        beta: Scale of the log-probabilities.
        cpo_alpha: Weight of the likelihood, a mean over tokens as of "sft".
        label_smoothing: Share of labels that are taken to be flipped.
        alpha: AlphaPO's transform, see "simpo".
        negative_bias: CPL's lambda: the other response counts so much, `-log sigmoid(beta (l_w - lambda l_l))`. Below 1
            the labels of ties are left out, and the loss is not of one margin.
    """

    soft_labels = True

    def __init__(
        self,
        *,
        beta: Positive = 0.1,
        cpo_alpha: NotNegative = 1.0,
        label_smoothing: Flips = 0.0,
        alpha: float = 0.0,
        negative_bias: Share = 1.0,
    ) -> None:
        self.beta, self.cpo_alpha = float(beta), float(cpo_alpha)
        self.label_smoothing, self.alpha = float(label_smoothing), float(alpha)
        self.negative_bias = float(negative_bias)
        self.soft_labels = self.negative_bias == 1
        self.rank_one = self.cpo_alpha == 0 and self.soft_labels
        self.couples_batch = self.cpo_alpha > 0

    def losses(self, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        if self.negative_bias == 1:
            found = super().losses(view)
        else:
            winner, loser = view.winners(self.score(view))
            found = self.of_margin(self.beta * (winner - self.negative_bias * loser))
        return found + self.cpo_alpha * token_nll(view, self.counted(view)) if self.cpo_alpha > 0 else found


@register_preference("orpo")
class Orpo(SidedLoss):
    """ORPO: the negative log-likelihood of the preferred response less `beta log sigmoid(log of the odds ratio)`.

    The odds are of the mean log-probability a token. TRL's likelihood runs over the prompt as well; ours is of the
    response only.

    Args:
        beta: Weight of the odds ratio.
    """

    needs_reference = False
    couples_batch = True

    def __init__(self, *, beta: Positive = 0.1) -> None:
        self.beta = float(beta)

    def of_sides(self, winner: Side, loser: Side, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        ahead, behind = _log_odds(winner), _log_odds(loser)
        return token_nll(view, self.counted(view)) - self.beta * functional.logsigmoid(ahead - behind)


def _log_odds(side: Side) -> Tensor:
    mean = (side.logps / side.lengths).clamp(max=LARGEST)
    return mean - torch.log(-torch.expm1(mean))


@register_preference("tpo")
class Tpo(_Free):
    """TPO: `-log sigmoid(beta (l_w - l_l))` plus the negative log-likelihood of a third response, the gold one.

    Args:
        beta: Scale of the log-probabilities.
        tpo_alpha: Weight of the likelihood, a mean over the gold responses' tokens.
        label_smoothing: Share of labels that are taken to be flipped.
    """

    soft_labels = True

    def __init__(self, *, beta: Positive = 0.01, tpo_alpha: NotNegative = 1.0, label_smoothing: Flips = 0.0) -> None:
        self.beta, self.tpo_alpha, self.label_smoothing = float(beta), float(tpo_alpha), float(label_smoothing)
        self.rank_one = self.tpo_alpha == 0
        self.couples_batch = not self.rank_one

    def losses(self, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`.

        Raises:
            ConfigError: No response is gold.
        """
        found = super().losses(view)
        if self.rank_one:
            return found
        if view.golds is None or not bool((view.golds >= 0).any()):
            raise ConfigError(f"{self.name!r} needs a gold response (TRL's column `reference`), or tpo_alpha=0.")
        rows = torch.nonzero(view.golds >= 0)[:, 0]
        golds = view.golds[rows]
        tokens = view.lengths[rows, golds].sum().clamp(min=1).to(found.dtype)
        likelihood = -view.logps[:, rows, golds].sum(1) / tokens
        return found + self.tpo_alpha * likelihood[:, None, None]


@register_preference("tpo-l")
class TpoLength(Tpo):
    """TPO-L: TPO on means over tokens with a margin, `-log sigmoid(beta (lbar_w - lbar_l) - gamma)`.

    Args:
        beta: Scale of the means.
        tpo_alpha: Weight of the gold response's likelihood.
        tpo_l_gamma: The margin that must be exceeded; TRL's default.
        label_smoothing: Share of labels that are taken to be flipped.
    """

    soft_labels = False
    per_token = True

    def __init__(
        self,
        *,
        beta: Positive = 0.01,
        tpo_alpha: NotNegative = 1.0,
        tpo_l_gamma: NotNegative = 0.5,
        label_smoothing: Flips = 0.0,
    ) -> None:
        super().__init__(beta=beta, tpo_alpha=tpo_alpha, label_smoothing=label_smoothing)
        self.gamma = float(tpo_l_gamma)
