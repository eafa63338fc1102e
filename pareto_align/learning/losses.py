"""Policy-gradient losses as a function of a token's log-probability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_align.errors import ConfigError

__all__ = ["PolicyLoss", "centre"]

AGGREGATIONS = ("constant", "token", "sequence")
KL_ESTIMATORS = ("k1", "k3")


def centre(cost: Tensor) -> Tensor:
    """`cost` [K, N, G] less the mean of its group; less that of the policy's batch where a group is one completion."""
    peers = (2,) if cost.shape[2] > 1 else (1, 2)
    return cost - cost.mean(peers, keepdim=True)


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of a sampled token, and how tokens add up.

    On-policy (one update a rollout) this is REINFORCE with the given advantages: the gradient of `-A ratio` at ratio 1
    is that of `-A log pi`. With several updates it is PPO's clipped surrogate (arXiv 1707.06347).

    Attributes:
        clip: PPO's clip range; only felt from the second update on.
        kl_coef: beta, the price of one nat of KL(pi || reference) a completion, in units of the scaled reward. Learners
            that divide rewards by a spread do not divide the KL: there its unit is that of their advantages.
        kl: `"k1"` charges `log pi - log ref` of the whole completion to its advantage: the unbiased gradient of the
            reverse KL. `"k3"` adds `exp(d) - d - 1`, d = log ref - log pi, to each token's loss as GRPO does
            (arXiv 2402.03300): smoother, but on-policy its gradient is that of the *forward* KL.
        kl_limit: delta, nats a token by which an update may leave the policy that sampled, None for no limit: beyond
            it each policy's loss has `[kl_limit_coef (KL - delta)]_+ KL` added, the bracket held constant and KL the
            mean of `log old - log new` over the policy's tokens. Only felt from the second update on. With the
            discriminative credits it stands for the clip (DisCO, arXiv 2505.12366, whose delta is 1e-4).
        kl_limit_coef: How steeply a step beyond the limit is paid for; 1000 as in DisCO's scripts.
        aggregation: `"constant"` sums a completion's tokens and divides by T (unbiased; Dr. GRPO, arXiv 2503.20783),
            `"token"` is the mean over all of a policy's tokens, `"sequence"` the mean of each completion's mean.

    Raises:
        ConfigError: A name is unknown or a number out of range.
    """

    clip: float = 0.2
    kl_coef: float = 0.0
    kl: str = "k1"
    aggregation: str = "constant"
    kl_limit: float | None = None
    kl_limit_coef: float = 1e3

    def __post_init__(self) -> None:
        if self.kl not in KL_ESTIMATORS:
            raise ConfigError(f"`kl` must be one of {', '.join(KL_ESTIMATORS)}. Found kl={self.kl!r}.")
        if self.aggregation not in AGGREGATIONS:
            raise ConfigError(
                f"`aggregation` must be one of {', '.join(AGGREGATIONS)}. Found aggregation={self.aggregation!r}."
            )
        if not self.kl_coef >= 0:
            raise ConfigError(f"`kl_coef` must be 0 or more. Found kl_coef={self.kl_coef}.")
        if self.kl_limit is not None and not self.kl_limit >= 0:
            raise ConfigError(f"`kl_limit` must be 0 or more, or None. Found kl_limit={self.kl_limit}.")
        if not self.kl_limit_coef > 0:
            raise ConfigError(f"`kl_limit_coef` must be positive. Found kl_limit_coef={self.kl_limit_coef}.")
        if not self.clip > 0:
            raise ConfigError(f"`clip` must be positive. Found clip={self.clip}.")

    def token_weights(self, mask: Tensor) -> Tensor:
        """Weight `[K, N, G, T]` of every token, so that a policy's loss is the weighted sum of its token losses.

        The weights of one policy never depend on another policy's completions.
        """
        real = mask.float()
        _, prompts, group, length = mask.shape
        if self.aggregation == "constant":
            return real / (prompts * group * length)
        if self.aggregation == "token":
            return real / real.sum((1, 2, 3), keepdim=True).clamp(min=1)
        return real / real.sum(3, keepdim=True).clamp(min=1) / (prompts * group)

    def renewal(self, mask: Tensor, kept: Tensor) -> Tensor:
        """Factors `[K]` of the token weights where some completions are left out, and count for nothing.

        Args:
            mask: `[K, N, G, T]` True for tokens.
            kept: `[K, N, G]` True for the completions that are not left out.
        """
        counted = mask.sum(3) if self.aggregation == "token" else torch.ones(kept.shape)
        return counted.sum((1, 2)) / (counted * kept).sum((1, 2)).clamp(min=1)

    def pull_back(self, old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
        """How strongly each token [K, N, G, T] is pulled back to the policy that sampled: `kl_limit`'s bracket.

        Args:
            old, new: `[K, N, G, T]` log-probabilities when it was sampled, and before this update.
            mask: `[K, N, G, T]` True for tokens.
        """
        assert self.kl_limit is not None
        share = mask.float() / mask.sum((1, 2, 3), keepdim=True).clamp(min=1)
        divergence = ((old - new) * share).sum((1, 2, 3), keepdim=True)
        return self.kl_limit_coef * (divergence - self.kl_limit).clamp(min=0) * share

    def charge_kl(
        self,
        advantages: Tensor,
        logprobs: Tensor,
        reference: Tensor,
        against_peers: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Advantages `[K, N, G]` less each completion's KL estimate, compared with its peers' (for `kl="k1"`).

        Args:
            advantages: `[K, N, G]`.
            logprobs: `[K, N, G, T]` of the policy that sampled, 0 on padding.
            reference: `[K, N, G, T]` of the reference policy, 0 on padding.
            against_peers: How the advantages came of rewards, so that a reward of one nat and a nat of KL cancel:
                `Credit.against_peers`. By default what the advantages carry from `Credit.combine`, and else less the
                mean of the group.
        """
        if self.kl != "k1" or self.kl_coef == 0:
            return advantages
        if against_peers is None:
            against_peers = getattr(advantages, "against_peers", centre)
        return advantages - self.kl_coef * against_peers((logprobs - reference).sum(-1))

    def token_loss(self, logprob: Tensor, old: Tensor, advantage: Tensor, reference: Tensor | None) -> Tensor:
        """Loss `[n]` of tokens, before their weights.

        Args:
            logprob: `[n]` log-probabilities under the policy being trained; differentiable.
            old: `[n]` under the policy that sampled.
            advantage: `[n]`.
            reference: `[n]` under the reference policy; only needed for `kl="k3"`.
        """
        ratio = (logprob - old).exp()
        loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        if reference is not None and self.kl == "k3" and self.kl_coef > 0:
            gap = (reference - logprob).clamp(-10, 10)
            loss = loss + self.kl_coef * (gap.exp() - gap - 1)
        return loss
