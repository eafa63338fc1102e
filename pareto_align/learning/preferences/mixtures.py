"""Policies as experts of a mixture: whose comparison a pair is, from the policies' own log-probabilities.

Expectation: `q_ku = pi_k prod_(pairs p of user u) sigmoid(beta D_kp) / Z`. Maximisation: expert k learns from every
pair with the share q of its user (`PairView.shares`), by any loss of pairs. Identical experts would never part, so
users are assigned at random first.

References:
    Mix- and MoE-DPO, arXiv 2510.08256: the mixture of Bradley-Terry models and its experts. Its authors' code was not
        found; this is expectation maximisation of that likelihood.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pareto_align.errors import ConfigError
from pareto_align.learning.preferences.view import PairView

__all__ = ["random_assignment", "responsibilities", "updated_shares"]


def responsibilities(
    view: PairView, beta: float, shares: Tensor, users: Tensor | None = None, *, temperature: float = 1.0
) -> Tensor:
    """How probable it is that each pair is of each expert, `[K, pairs]`; columns sum to 1.

    Args:
        view: Of K experts, with a reference. All its objectives' labels count.
        beta: The loss's.
        shares: `[K]` of the users, pi.
        users: `[pairs]` numbers; pairs of one user are of one expert. None lets each pair be of its own.
        temperature: Above 1 the probabilities are evened out, as at the beginning of a run.

    Raises:
        ConfigError: `shares` are not K, or the temperature is not positive.
    """
    K = len(view.logps)
    if tuple(shares.shape) != (K,) or not temperature > 0:
        raise ConfigError(f"`shares` must have shape {[K]} and `temperature` be positive.")
    with torch.no_grad():
        x = beta * view.gaps(view.ratios)[..., None]
        s, known = view.known, torch.isfinite(view.labels)
        fit = s * functional.logsigmoid(x) + (1 - s) * functional.logsigmoid(-x)
        weights = known.to(fit.dtype) if view.weights is None else known * view.weights.to(fit.dtype)
        logs = (fit * weights).sum(-1)  # [K, pairs]
        if users is not None:
            logs = logs.new_zeros(K, int(users.max()) + 1).index_add_(1, users, logs)[:, users]
        return torch.softmax((logs + shares.clamp(min=1e-12).log()[:, None].to(logs)) / temperature, 0)


def updated_shares(shares: Tensor, found: Tensor, memory: float = 0.9) -> Tensor:
    """`[K]` the running mean of the experts' shares.

    Args:
        shares: `[K]` so far.
        found: `[K, pairs]` responsibilities of a batch.
        memory: Share of the old mean that is kept.
    """
    return memory * shares + (1 - memory) * found.mean(1).to(shares)


def random_assignment(K: int, users: Tensor, seed: int) -> Tensor:
    """Every user to one expert at random, `[K, pairs]`: where responsibilities begin.

    Args:
        K: Experts.
        users: `[pairs]` numbers.
        seed: Of the assignment.
    """
    generator = torch.Generator().manual_seed(seed)
    count = int(users.max()) + 1
    # as many users an expert, as far as that goes: an expert without any would learn from nothing
    chosen = torch.arange(count)[torch.randperm(count, generator=generator)] % K
    return torch.nn.functional.one_hot(chosen, K).T.double()[:, users]
