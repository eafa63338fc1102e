"""RDPO: rewards of any shape brought to one, and what two of them say twice counted once.

References:
    Bai et al., "Multi-Objective and Mixed-Reward Reinforcement Learning via Reward-Decorrelated Policy Optimization",
        arXiv 2605.13641. Only its abstract could be read, not its formulas: that there are two steps, a quantile
        normalisation that heeds magnitudes within a prompt and Mahalanobis whitening among the rewards that are active,
        is the paper's; how each is done here is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pareto_align.arguments import Share
from pareto_align.learning.credit import Credit, register_credit

__all__ = ["Rdpo"]


@register_credit("rdpo")
class Rdpo(Credit):
    """Advantages that can be compared between a reward of 0 and 1 and one with a long tail, and do not repeat others.

    1. Within a group each objective becomes  (1 - magnitude) q + magnitude z:  q the normal quantile of a completion's
       mid-rank (ties share one), z its distance from the mean, both and the sum at a root mean square of 1. Ranks alone
       cannot tell a near miss from a failure; distances alone let one outlier take all.
    2. Within a policy's batch the objectives are multiplied by C^(-1/2), C their correlations over the groups in which
       both vary: the symmetric root, which changes each objective as little as can be. In a group in which some
       objectives do not vary, only the others' block of C is used. What two rewards say alike then counts once.

    A missing reward counts as its group's mean in the correlations, and has no advantage.

    Args:
        magnitude: Share of the distances; 0 are ranks alone.
        shrink: How far C is drawn to no correlation: 1 whitens nothing. Few completions make correlations of chance.

    Raises:
        ConfigError: A setting out of range.
    """

    def __init__(self, *, magnitude: Share = 0.5, shrink: Share = 0.1) -> None:
        self.magnitude, self.shrink = float(magnitude), float(shrink)

    def _vector(self, rewards: Tensor) -> Tensor:
        present = ~torch.isnan(rewards)
        low = torch.where(present, rewards, torch.inf).amin(2, keepdim=True)
        high = torch.where(present, rewards, -torch.inf).amax(2, keepdim=True)
        counted = present & (high > low)
        # from the least one, so that neither a common part nor huge numbers eat the digits
        distances = torch.where(counted, (rewards - low) / (high - low), 0.0)
        scores = torch.where(counted, _normal_scores(rewards, present), 0.0)
        blend = (1 - self.magnitude) * _unit(scores, counted) + self.magnitude * _unit(distances, counted)
        shown = _unit(blend, counted)
        found = torch.stack([self._whitened(own) for own in shown])
        return torch.where(present, found, 0.0)

    def _whitened(self, shown: Tensor) -> Tensor:
        """One policy's [N, G, m], each group by the correlations of the objectives that vary in it."""
        active = (shown != 0).any(1)
        both = torch.einsum("ni,nj->nij", active.to(shown), active.to(shown))
        products = torch.einsum("ngi,ngj->nij", shown, shown)
        squares = shown.square().sum(1)
        first, second = (torch.einsum("ni,nij->ij", squares, both), torch.einsum("nj,nij->ij", squares, both))
        scale = (first * second).sqrt()
        correlations = torch.where(scale > 0, (products * both).sum(0) / scale.clamp(min=1e-12), 0.0)
        eye = torch.eye(shown.shape[-1]).to(shown)
        correlations = (1 - self.shrink) * (correlations * (1 - eye)) + eye
        found = torch.zeros_like(shown)
        for kinds in torch.unique(active, dim=0):
            rows = (active == kinds).all(1)
            places = kinds.nonzero()[:, 0]
            if len(places):
                root = _inverse_root(correlations[places][:, places])
                found[rows] = found[rows].index_copy(2, places, shown[rows][:, :, places] @ root)
        return found


def _inverse_root(correlations: Tensor) -> Tensor:
    """Symmetric C^(-1/2).

    Pairs were seen in different groups, and two rewards may be the same one: eigenvalues are held above .001, so that
    what such rewards differ by, noise, is not blown up.
    """
    values, vectors = torch.linalg.eigh(correlations)
    return (vectors * values.clamp(min=1e-3).rsqrt()) @ vectors.T


def _normal_scores(rewards: Tensor, present: Tensor) -> Tensor:
    """Normal quantile of each completion's mid-rank among those present in its group, [K, N, G, m]."""
    pairs = present[:, :, :, None] & present[:, :, None]
    below = (rewards[:, :, None] < rewards[:, :, :, None]) & pairs
    alike = (rewards[:, :, None] == rewards[:, :, :, None]) & pairs
    count = present.sum(2, keepdim=True).clamp(min=1)
    share = (below.sum(3) + alike.sum(3) / 2).to(torch.float64) / count
    return torch.special.ndtri(share.clamp(1e-6, 1 - 1e-6)).to(rewards)


def _unit(scores: Tensor, counted: Tensor) -> Tensor:
    """What counts of scores [K, N, G, m], less its mean in the group and at a root mean square of 1; 0 elsewhere."""
    count = counted.sum(2, keepdim=True).clamp(min=1)
    centred = torch.where(counted, scores - scores.sum(2, keepdim=True) / count, 0.0)
    size = (centred.square().sum(2, keepdim=True) / count).sqrt()
    return torch.where(counted, centred / size.clamp(min=1e-30), 0.0)
