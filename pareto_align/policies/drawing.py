"""Drawing tokens: how, with which random numbers, and what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pareto_align.policies.base import Base
from pareto_align.policies.transfers import runs_behind, to_device, to_host

__all__ = ["Completions", "Drawn", "SamplingParams", "draw_tokens"]

BLOCK = 256  # entries of the vocabulary that are summed before one of them is looked at


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn.

    Attributes:
        max_new_tokens: T, the longest completion.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Keep this many likeliest tokens; None keeps all.
        top_p: Keep the smallest set of likeliest tokens whose probability reaches this; None keeps all.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass(eq=False)
class Completions:
    """What K policies said to N prompts, G times each.

    Attributes:
        prompt_ids: N token lists, or K*N, policy-major, where each policy had prompts of its own.
        tokens: `[K, N, G, T]` token ids; the pad token after the end.
        mask: `[K, N, G, T]` True where a token was sampled, the end token included.
        logprobs: `[K, N, G, T]` log-probability of each sampled token under the sampling distribution; 0 after the end.
    """

    prompt_ids: list[list[int]]
    tokens: Tensor
    mask: Tensor
    logprobs: Tensor
    stop_ids: tuple[int, ...] = field(default=())

    @property
    def lengths(self) -> Tensor:
        """Sampled tokens of each completion `[K, N, G]`, the end token included."""
        return self.mask.sum(-1)

    def token_lists(self) -> list[list[int]]:
        """The K*N*G completions as token lists without the end token, policy-major."""
        stop = set(self.stop_ids)
        rows = self.tokens.flatten(0, 2).tolist()
        lengths = self.lengths.flatten().tolist()
        return [[t for t in row[:length] if t not in stop] for row, length in zip(rows, lengths, strict=True)]


class Drawn:
    """The tokens drawn so far, and where each completion ended.

    Args:
        base: The model.
        rows: Completions in all.
        params: How to draw.
        uniforms: `[rows, T]` one random number a token.
    """

    def __init__(self, base: Base, rows: int, params: SamplingParams, uniforms: Tensor) -> None:
        length = params.max_new_tokens
        self.params = params
        self.uniforms = to_device(uniforms, base.device)
        self.sharding = base.sharding
        self.pad = int(base.tokenizer.pad_token_id)
        self.stop = torch.tensor(base.stop_ids, dtype=torch.long, device=base.device)
        self.tokens = torch.full((rows, length), self.pad, dtype=torch.long, device=base.device)
        self.logprobs = torch.zeros(rows, length, device=base.device)
        self.kept = torch.zeros(rows, length, dtype=torch.bool, device=base.device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=base.device)

    def draw(self, logits: Tensor, slots: Tensor, step: int) -> Tensor:
        """Draw token number `step` `[n]` of the completions `slots` `[n]` from `logits` `[n, V]` and record it."""
        token, logprob = draw_tokens(logits, self.uniforms[slots, step], self.params)
        if self.sharding is not None:
            self.sharding.agree(token)
        self.tokens[slots, step], self.logprobs[slots, step] = token, logprob
        self.kept[slots, step] = ~self.ended[slots]
        self.ended[slots] |= self.ends(token)
        return token

    def ends(self, tokens: Tensor) -> Tensor:
        """Which tokens `[...]` end a completion: there are few ids that do, and comparing needs no sorting."""
        return (tokens[..., None] == self.stop).any(-1)

    def completions(
        self, prompt_ids: Sequence[Sequence[int]], shape: tuple[int, int, int, int], stop_ids: tuple[int, ...]
    ) -> Completions:
        """What was drawn, `[K, N, G, T]` on the CPU, with padding after the end."""
        tokens = self.tokens.masked_fill_(~self.kept, self.pad)
        logprobs = self.logprobs.masked_fill_(~self.kept, 0)
        tokens, kept, logprobs = (x.view(shape) for x in to_host(tokens, self.kept, logprobs))
        return Completions([list(ids) for ids in prompt_ids], tokens, kept, logprobs, stop_ids)


def draw_tokens(logits: Tensor, uniform: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution at one uniform number a row, and its log-probability.

    `torch.multinomial` and Gumbel noise draw a random number per vocabulary entry. The inversion goes over sums of
    blocks first and then inside one block: faster than one long cumulative sum, and with less rounding.

    Args:
        logits: `[n, V]`.
        uniform: `[n]` in [0, 1).
        params: Temperature, top-k and top-p.

    Returns:
        Tokens `[n]`, and their log-probabilities `[n]` under the distribution that was drawn from.
    """
    if params.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.zeros(token.shape, device=logits.device)
    logits = logits.float()
    if params.temperature != 1:
        logits = logits / params.temperature
    if params.top_k is not None and params.top_k < logits.shape[-1]:
        least = logits.topk(params.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    mass = (logits - logits.amax(-1, keepdim=True)).exp_()
    if params.top_p is not None and params.top_p < 1:
        ordered, order = (mass / mass.sum(-1, keepdim=True)).sort(dim=-1, descending=True)
        drop = _cumulative(ordered) - ordered >= params.top_p
        mass = mass.scatter(-1, order, mass.gather(-1, order).masked_fill(drop, 0))
    token = _invert(mass, uniform)
    return token, (mass.gather(-1, token[:, None])[:, 0] / mass.sum(-1)).log()


def _invert(mass: Tensor, uniform: Tensor) -> Tensor:
    """The index `[n]` at which the cumulative sum of `mass` `[n, V]` passes `uniform` times its total."""
    rows, size = mass.shape
    blocks = -(-size // BLOCK)
    if size % BLOCK:
        mass = torch.nn.functional.pad(mass, (0, blocks * BLOCK - size))
    inside = mass.view(rows, blocks, BLOCK)
    sums = inside.sum(-1)
    cumulative = _cumulative(sums)
    target = uniform[:, None] * cumulative[:, -1:]
    # the last block that holds anything: rounding may carry the target past the end
    holds = torch.arange(blocks, device=mass.device).expand(rows, -1).masked_fill(sums <= 0, 0).amax(-1, keepdim=True)
    block = torch.minimum(torch.searchsorted(cumulative, target, right=True), holds)
    chosen = inside[torch.arange(rows, device=mass.device), block[:, 0]]
    left = (target - (cumulative.gather(1, block) - sums.gather(1, block))).clamp(min=0)
    within = torch.searchsorted(_cumulative(chosen), left, right=True)
    last = torch.arange(BLOCK, device=mass.device).expand(rows, -1).masked_fill(chosen <= 0, 0).amax(-1, keepdim=True)
    return (block * BLOCK + torch.minimum(within, last))[:, 0]


def _cumulative(x: Tensor) -> Tensor:
    """Cumulative sums `[n, L]` of non-negative numbers, the same bits at every call.

    On CUDA `cumsum` adds in an order that is not fixed, and torch refuses it in deterministic mode. A product with a
    triangle of ones is fixed; it is taken in float64, because float32 may run there in TF32, which has 10 bits.
    """
    if not runs_behind(x.device):
        return x.cumsum(-1)
    rows, size = x.shape
    groups = -(-size // BLOCK)
    wide = torch.nn.functional.pad(x.double(), (0, groups * BLOCK - size)).view(rows, groups, BLOCK)
    sums = wide @ torch.ones(BLOCK, BLOCK, dtype=torch.float64, device=x.device).triu()
    if groups > 1:
        sums = sums + (_cumulative(sums[..., -1]) - sums[..., -1])[..., None]
    return sums.flatten(1)[:, :size]
