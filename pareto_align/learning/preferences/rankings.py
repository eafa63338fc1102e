"""Losses of whole rankings.

References:
    Plackett, "The Analysis of Permutations", 1975; Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290,
        appendix A.3 (pl).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pareto_align.arguments import Positive
from pareto_align.errors import ConfigError
from pareto_align.learning.preferences.base import PreferenceLoss, Unit, register_preference
from pareto_align.learning.preferences.view import PairView

__all__ = ["PlackettLuce"]


@register_preference("pl")
class PlackettLuce(PreferenceLoss):
    """The Plackett-Luce likelihood of a ranking: `-sum_i [beta u_i - log sum_(k not before i) exp(beta u_k)]`.

    u is the log-ratio. With two responses it is "sigmoid". Responses of equal rank each choose from all that are not
    before them (Breslow's treatment of ties); those without a rating are left out.

    Args:
        beta: How strongly the reference is held on to.
    """

    unit: Unit = "group"

    def __init__(self, *, beta: Positive = 0.1) -> None:
        self.beta = float(beta)

    def counted(self, view: PairView) -> Tensor:
        """`[N, m]` prompts whose ratings tell at least two responses apart."""
        scores = self._scores(view)
        known = torch.isfinite(scores)
        largest = torch.where(known, scores, torch.full_like(scores, -torch.inf)).amax(1)
        smallest = torch.where(known, scores, torch.full_like(scores, torch.inf)).amin(1)
        return (largest > smallest).to(view.logps.dtype)

    def losses(self, view: PairView) -> Tensor:
        """Losses `[K, N, m]`."""
        scores = self._scores(view)
        known = torch.isfinite(scores)
        rated = torch.nan_to_num(scores)
        x = (self.beta * view.ratios)[..., None]  # [K, N, G, 1]
        # [N, i, k, m]: k is not before i
        behind = (rated[:, None] <= rated[:, :, None]) & known[:, None] & known[:, :, None]
        # responses that are not ranked choose from themselves, which costs nothing
        alone = (
            torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)[None, :, :, None] & ~known[:, :, None]
        )
        open_to = behind | alone
        options = torch.where(open_to, x[:, :, None], torch.full_like(x[:, :, None], -torch.inf))
        return (options.logsumexp(3) - x).sum(2)

    @staticmethod
    def _scores(view: PairView) -> Tensor:
        if view.scores is None:
            raise ConfigError("'pl' needs rankings or ratings of the responses, not only pairs.")
        return view.scores
