"""One answer from several adapters at once: their next-token distributions are multiplied, each to a power.

    p(token) = prod_k p_k(token)^c_k / Z

For policies that are each best for a reward of their own under one price of KL to one reference, this is the policy
that is best for the weighted sum of the rewards, if it is done for whole answers. Done token by token it is that policy
up to what each step's normaliser Z_t takes away. For coefficients on the simplex Z_t is at most 1 (Hoelder), and the
*disagreement* S = -sum_t log Z_t, which falls out of the draw, is all that there is to know of the error:

    p_exact(y) = p(y) e^-S(y) / E[e^-S]       KL(p || p_exact) = E[S] + log E[e^-S]

E[e^-S] is the share of answers that a rejection sampler of the exact policy would keep; keeping one of several
candidates with probability in proportion to e^-S comes as near to it as there are candidates.

References:
    Shi et al., "Decoding-Time Language Model Alignment with Multiple Objectives", arXiv 2406.18853 (mixing by reverse
        KL). Their code runs the models one after the other, greedily, and knows no error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pareto_align.errors import ConfigError
from pareto_align.policies.drawing import Completions, Drawn, SamplingParams, draw_tokens
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import run, uniforms_of

__all__ = ["Blended", "mixed_logits", "sample_blend", "summary"]

LEAST = -1e4
"""Log-probabilities below it count as this: 0 times minus infinity is no number."""


@dataclass(frozen=True, eq=False)
class Blended:
    """Answers of a mixture of policies.

    Attributes:
        completions: `[1, N, G, T]`.
        disagreement: `[N, G]` S of each answer in nats, not negative; NaN where a coefficient is negative or they sum
            to more than 1, which has no exact mixture.
    """

    completions: Completions
    disagreement: Tensor

    @property
    def kl(self) -> float:
        """Nats between what was drawn and the exact mixture, in the mean over the prompts; NaN with one answer each."""
        return summary(self.disagreement)[1]

    @property
    def acceptance(self) -> float:
        """Share of answers that a rejection sampler of the exact mixture would keep."""
        return summary(self.disagreement)[2]

    def kept(self, seed: int) -> Tensor:
        """Which of the G answers `[N]` to keep of each prompt, in proportion to e^-S; any where S is not known."""
        uniform = torch.rand(
            self.disagreement.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        gumbel = -(-uniform.clamp(min=torch.finfo(torch.float64).tiny).log()).log()
        return (gumbel - self.disagreement.double().nan_to_num(0.0)).argmax(1)


def summary(disagreement: Tensor) -> tuple[float, float, float]:
    """What the disagreement `[N, G]` of answers says of their distance to the exact mixture.

    Returns:
        The mean S, which the distance does not exceed; the distance KL(p || p_exact) itself, in the mean over the
        prompts, NaN with one answer each; and the acceptance E[e^-S].
    """
    s = disagreement.double()
    count = s.shape[1]
    kl = float((s.mean(1) + torch.logsumexp(-s, 1) - math.log(count)).mean()) if count > 1 else math.nan
    return float(s.mean()), kl, float((-s).exp().mean())


def mixed_logits(logits: Tensor, coefficients: Sequence[float], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The mixture's next-token log-probabilities.

    Args:
        logits: `[k * n, V]`, grouped by policy.
        coefficients: k of them.
        temperature: Of each policy's distribution.

    Returns:
        `[n, V]` normalised, and log Z `[n]`.
    """
    each = (logits.float() / temperature).log_softmax(-1).clamp(min=LEAST)
    parts = each.view(len(coefficients), -1, logits.shape[1])
    raw = parts[0] * coefficients[0]
    for part, weight in zip(parts[1:], coefficients[1:], strict=True):
        raw = raw.add(part, alpha=weight)  # no matrix product, which a GPU may round to 10 bits
    normaliser = raw.logsumexp(-1)
    return raw - normaliser[:, None], normaliser


class _BlendDrawn(Drawn):
    """Completions that k rows of a batch have in common: one token is drawn, and given to all of them."""

    def __init__(
        self, base: object, completions: int, params: SamplingParams, uniforms: Tensor, weights: Sequence[float]
    ) -> None:
        k = len(weights)
        super().__init__(base, k * completions, params, uniforms.repeat(k, 1))  # type: ignore[arg-type]
        self.weights = list(weights)
        self.disagreement = torch.zeros(completions, device=self.ended.device)

    def draw(self, logits: Tensor, slots: Tensor, step: int) -> Tensor:
        """See `Drawn.draw`; `slots` holds the same completions for each policy, in the same order."""
        k = len(self.weights)
        own = slots[: len(slots) // k]
        mixed, normaliser = mixed_logits(logits, self.weights, self.params.temperature or 1.0)
        params = self.params
        cut = replace(params, temperature=1.0 if params.temperature else 0.0)  # it is in the mixture already
        token, logprob = draw_tokens(mixed, self.uniforms[own, step], cut)
        self.disagreement[own] -= normaliser.masked_fill(self.ended[own], 0.0)
        token, logprob = token.repeat(k), logprob.repeat(k)
        self.tokens[slots, step], self.logprobs[slots, step] = token, logprob
        self.kept[slots, step] = ~self.ended[slots]
        self.ended[slots] |= self.ends(token)
        return token


@torch.no_grad()
def sample_blend(
    population: PolicyPopulation,
    adapters: Tensor,
    coefficients: Sequence[float],
    prompt_ids: Sequence[Sequence[int]],
    group_size: int,
    params: SamplingParams,
    seed: int,
) -> Blended:
    """Draw completions of every prompt from a mixture of policies, in one pass for all of them.

    A batch holds each completion once for every policy, with that policy's keys and values; top-k and top-p cut the
    mixture. A policy alone, with coefficient 1, says what `sample` lets it say with the same seed.

    Args:
        population: Knows how a policy's parameters are laid out.
        adapters: `[n, P]` policies.
        coefficients: n of them; those of 0 take no part. With a row of zeros, which is the reference policy, they may
            be those of a reward model's log-probabilities.
        prompt_ids: N prompts as token ids.
        group_size: G.
        params: Length, and the temperature at which each policy's distribution is taken: that of training.
        seed: Of what is drawn.

    Raises:
        ConfigError: There is not one finite coefficient an adapter, or all are 0.
        ModelError: See `sample`.
    """
    weights = [float(c) for c in coefficients]
    if len(weights) != len(adapters) or not all(map(math.isfinite, weights)) or not any(weights):
        raise ConfigError(
            f"A mixture of {len(adapters)} adapters needs as many finite coefficients, not all 0. Found {weights}."
        )
    there = [i for i, weight in enumerate(weights) if weight]
    used = [weights[i] for i in there]
    prompts, length = len(prompt_ids), params.max_new_tokens
    drawn = _BlendDrawn(
        population.base,
        prompts * group_size,
        params,
        uniforms_of(seed, prompts, group_size, length, None),
        used,
    )
    serving = population.serving(torch.stack([adapters[i] for i in there]).to(population.parameters.device))
    run(population, prompt_ids, group_size, len(there), serving, drawn, eager=True)
    shape = (len(there), prompts, group_size, length)
    found = drawn.completions(prompt_ids, shape, population.base.stop_ids)
    told = Completions(found.prompt_ids, found.tokens[:1], found.mask[:1], found.logprobs[:1], found.stop_ids)
    disagreement = drawn.disagreement.view(prompts, group_size).cpu()
    if min(used) < 0 or sum(used) > 1 + 1e-6:
        disagreement = torch.full_like(disagreement, torch.nan)
    else:
        disagreement = disagreement.clamp(min=0.0)  # rounding
    return Blended(told, disagreement)
