"""Batched decoding of a whole population with a preallocated KV cache.

The prompt is run once per policy and prompt, its keys and values are then spread over the G samples; rows that have
ended leave the batch in equal numbers per policy, so that rows stay grouped by policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from pareto_align.policies.population import PolicyPopulation

__all__ = ["Completions", "SamplingParams", "left_pad", "sample"]

COMPACT_BELOW = 0.75  # rows leave once a quarter of them has ended: copying the cache costs about one step


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
        prompt_ids: N token lists.
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


class _SlabLayer(CacheLayerMixin):
    """Keys and values of one layer in one preallocated block: a decoding step writes one slice of it."""

    is_sliding = False
    is_croppable = True

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, width = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, width)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        stop = self.length + key_states.shape[2]
        self.keys[:, :, self.length : stop] = key_states
        self.values[:, :, self.length : stop] = value_states
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def take(self, rows: Tensor, capacity: int) -> None:
        """Keep the given rows (repeats allowed), with room for `capacity` tokens."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(rows), old.shape[1], capacity, old.shape[3])
            new[:, :, : self.length] = old[rows, :, : self.length]
            setattr(self, name, new)
        self.capacity = capacity


def left_pad(prompt_ids: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths as ids and mask `[N, P]`, padded on the left."""
    longest = max(len(ids) for ids in prompt_ids)
    ids = torch.full((len(prompt_ids), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(prompt_ids):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens)
        mask[row, longest - len(tokens) :] = 1
    return ids.to(device), mask.to(device)


@torch.no_grad()
def sample(
    population: PolicyPopulation,
    prompt_ids: Sequence[Sequence[int]],
    group_size: int,
    params: SamplingParams,
    seeds: Sequence[int],
    *,
    rows: Tensor | None = None,
) -> Completions:
    """Draw `group_size` completions of every prompt from every policy.

    A policy's completions depend on its own seed, not on K nor on its neighbours: all random numbers of a policy come
    from its own generator and are drawn before decoding.

    Args:
        population: The policies.
        prompt_ids: N prompts as token ids.
        group_size: G.
        params: Temperature and length.
        seeds: One seed a policy served.
        rows: Policies `[K, M]` to run; by default all slots. With no rows at all (`[0, M]`) the reference policy runs.

    Returns:
        Completions `[K, N, G, T]`, on the CPU. K is 1 for the reference policy.
    """
    base = population.base
    rows = population.parameters if rows is None else rows
    policies, group, prompts = max(rows.shape[0], 1), group_size, len(prompt_ids)
    if len(seeds) != policies:
        raise ValueError(f"{len(seeds)} seeds for {policies} policies.")
    total, length = policies * prompts * group, params.max_new_tokens
    uniforms = torch.cat(
        [torch.rand(prompts * group, length, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    ).to(base.device)
    pad = int(base.tokenizer.pad_token_id)
    stop = torch.tensor(base.stop_ids, device=base.device)
    ids, mask = left_pad(prompt_ids, pad, base.device)
    ragged = bool((mask == 0).any())
    ids, mask = ids.repeat(policies, 1), mask.repeat(policies, 1)
    start = ids.shape[1]

    tokens = torch.full((total, length), pad, dtype=torch.long, device=base.device)
    logprobs = torch.zeros(total, length, device=base.device)
    kept = torch.zeros(total, length, dtype=torch.bool, device=base.device)
    ended = torch.zeros(total, dtype=torch.bool, device=base.device)
    slots = torch.arange(total, device=base.device)  # batch row -> completion

    with population.serving(rows) if rows.shape[0] else population.reference():
        layers = [_SlabLayer(start) for _ in range(base.model.config.get_text_config().num_hidden_layers)]
        cache = Cache(layers=layers)  # type: ignore[arg-type]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = _forward(base.model, ids, mask if ragged else None, positions, cache)
        spread = torch.arange(policies * prompts, device=base.device).repeat_interleave(group)
        for layer in layers:
            layer.take(spread, start + length)
        logits, position = logits[spread], positions[spread, -1:] + 1
        if ragged:
            mask = torch.cat([mask[spread], mask.new_ones(total, length)], 1)
        for step in range(length):
            token, logprob = _draw(logits, uniforms[slots, step], params)
            tokens[slots, step], logprobs[slots, step], kept[slots, step] = token, logprob, ~ended[slots]
            ended[slots] |= torch.isin(token, stop)
            living = int((~ended).view(policies, -1).sum(1).max())
            if living == 0 or step + 1 == length:
                break
            width = len(slots) // policies
            if living <= COMPACT_BELOW * width:
                order = ended[slots].view(policies, width).int().argsort(dim=1, stable=True)[:, :living]
                keep = (order + torch.arange(policies, device=base.device)[:, None] * width).flatten()
                for layer in layers:
                    layer.take(keep, layer.capacity)
                slots, token, position = slots[keep], token[keep], position[keep]
                mask = mask[keep] if ragged else mask
            seen = mask[:, : start + step + 1] if ragged else None
            logits = _forward(base.model, token[:, None], seen, position, cache)
            position = position + 1
    shape = (policies, prompts, group, length)
    return Completions(
        [list(p) for p in prompt_ids],
        tokens.masked_fill_(~kept, pad).view(shape).cpu(),
        kept.view(shape).cpu(),
        logprobs.masked_fill_(~kept, 0).view(shape).cpu(),
        base.stop_ids,
    )


def _forward(model: Any, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Cache) -> Tensor:
    """Logits `[rows, V]` of the last position."""
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    last: Tensor = out.logits[:, -1]
    return last


def _draw(logits: Tensor, uniform: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution at one uniform number a row.

    `torch.multinomial` and Gumbel noise draw a random number per vocabulary entry, on the CPU 7 times the cost.
    """
    if params.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.zeros(token.shape, device=logits.device)
    logits = logits.float() / params.temperature
    if params.top_k is not None and params.top_k < logits.shape[-1]:
        least = logits.topk(params.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probs = logits.softmax(-1)
    if params.top_p is not None and params.top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True)
        drop = ordered.cumsum(-1) - ordered >= params.top_p
        probs = probs.scatter(-1, order, ordered.masked_fill(drop, 0))
    cumulative = probs.cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).clamp_(max=logits.shape[-1] - 1)
    probability = probs.gather(-1, token) / (1.0 if params.top_p is None else probs.sum(-1, keepdim=True))
    return token[:, 0], probability[:, 0].log()
