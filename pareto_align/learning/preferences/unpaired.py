"""Losses of single responses: desirable or not (KTO and its kin), or by how often they win (SPPO).

References:
    Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", arXiv 2402.01306.
    D'Oosterlinck et al., "Anchored Preference Optimization", arXiv 2408.06266 (apo_zero_unpaired).
    Wu et al., "Self-Play Preference Optimization for Language Model Alignment", arXiv 2405.00675 (sppo).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pareto_align.arguments import NotNegative, Positive
from pareto_align.errors import ConfigError
from pareto_align.learning.preferences.base import PreferenceLoss, Unit, register_preference
from pareto_align.learning.preferences.margins import SQUARED
from pareto_align.learning.preferences.view import PairView

__all__ = ["ApoZeroUnpaired", "Kto", "Sppo", "mismatched_kl", "win_rates"]


@register_preference("kto")
class Kto(PreferenceLoss):
    """KTO: `w_D (1 - sigmoid(beta (u - z)))` for a desirable response, `w_U (1 - sigmoid(beta (z - u)))` for another.

    u is the log-ratio and z the policy's own estimate of its KL divergence from the reference, from responses set
    beside prompts that are not theirs (`mismatched_kl`); no gradient goes through it, and it is the same for all
    objectives.

    Args:
        beta: How strongly the reference is held on to.
        desirable_weight: w_D. With w_D n_D / (w_U n_U) between 1 and 4/3 neither kind drowns the other.
        undesirable_weight: w_U.
    """

    unit: Unit = "response"
    couples_batch = True
    needs_kl: ClassVar[bool] = True

    def __init__(
        self,
        *,
        beta: Positive = 0.1,
        desirable_weight: NotNegative = 1.0,
        undesirable_weight: NotNegative = 1.0,
    ) -> None:
        self.beta = float(beta)
        self.desirable_weight, self.undesirable_weight = float(desirable_weight), float(undesirable_weight)

    def counted(self, view: PairView) -> Tensor:
        """Responses that are marked one way or the other."""
        marked = super().counted(view)
        assert view.marks is not None
        return torch.where(view.marks == 0.5, torch.zeros_like(marked), marked)

    def losses(self, view: PairView) -> Tensor:
        """Losses `[K, N, G, m]`."""
        assert view.marks is not None
        gains = (self.beta * (view.ratios - self._zero(view)))[..., None]
        desirable = self.desirable_weight * torch.sigmoid(-gains)
        undesirable = self.undesirable_weight * torch.sigmoid(gains)
        return torch.where(torch.nan_to_num(view.marks) > 0.5, desirable, undesirable)

    def _zero(self, view: PairView) -> Tensor:
        if view.kl is None:
            raise ConfigError(
                "'kto' needs an estimate of the KL divergence, from at least two prompts a step. 'apo_zero_unpaired' "
                "does without."
            )
        return view.kl.detach().clamp(min=0)[:, None, None]


@register_preference("apo_zero_unpaired")
class ApoZeroUnpaired(Kto):
    """APO-zero for single responses: KTO with z = 0.

    Args:
        beta: How strongly the reference is held on to.
        desirable_weight: What a desirable response counts.
        undesirable_weight: What another counts.
    """

    couples_batch = False
    needs_kl: ClassVar[bool] = False

    def _zero(self, view: PairView) -> Tensor:
        return torch.zeros_like(view.logps[:, :1, :1])


@register_preference("sppo")
class Sppo(PreferenceLoss):
    """SPPO: `(u - (P - 1/2) / beta)^2 / 2`, P how often a response wins against the prompt's others.

    Args:
        beta: 1 / eta. The paper's is 1e-3.
    """

    unit: Unit = "response"
    soft_labels = True

    def __init__(self, *, beta: Positive = 1e-3) -> None:
        self.beta = float(beta)

    def counted(self, view: PairView) -> Tensor:
        """Responses that were compared with another."""
        return torch.isfinite(win_rates(view)).to(view.logps.dtype)

    def losses(self, view: PairView) -> Tensor:
        """Losses `[K, N, G, m]`."""
        target = (torch.nan_to_num(win_rates(view), nan=0.5) - 0.5) / self.beta
        return 0.5 * (view.ratios.clamp(-SQUARED, SQUARED)[..., None] - target).square()


def win_rates(view: PairView) -> Tensor:
    """`[N, G, m]` mean label of each response against those of its prompt that it was compared with; NaN without any.

    A response is not compared with itself: that would pull every rate towards 1/2.
    """
    _, N, G = view.logps.shape
    row, a, b = view.pairs.unbind(1)
    said, s = torch.isfinite(view.labels).to(view.logps.dtype), view.known
    wins, seen = view.logps.new_zeros(N, G, view.m), view.logps.new_zeros(N, G, view.m)
    for place, share in ((a, s), (b, 1 - s)):
        wins.index_put_((row, place), share * said, accumulate=True)
        seen.index_put_((row, place), said, accumulate=True)
    return torch.where(seen > 0, wins / seen.clamp(min=1), torch.full_like(wins, torch.nan))


def mismatched_kl(logps: Tensor, reference: Tensor) -> Tensor:
    """KTO's z: `max(0, mean(log pi - log ref))` over responses that stand behind a prompt that is not theirs.

    Args:
        logps: `[K, n]` of response i - 1 behind prompt i, the first behind the last one's (a rotation of the batch).
        reference: `[K, n]` or `[1, n]`.

    Returns:
        `[K]`, one a policy, without a gradient.

    Raises:
        ConfigError: There is one prompt, whose response is its own.
    """
    if logps.shape[1] < 2:
        raise ConfigError(
            "'kto' needs at least 2 prompts a step: a single response has no other prompt to stand behind."
        )
    return (logps - reference).mean(1).clamp(min=0).detach()
