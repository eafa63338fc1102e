"""Attention for a decoding step on the CPU, where torch's grouped-query path is slow.

With one query token, the query heads that share a key head are packed as rows of one product: 67 -> 24 ms a step at 32
rows (torch's `enable_gqa` on the CPU copies the keys for every query head). Every other call goes to transformers' own
scaled-dot-product attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["population_attention", "use_population_attention"]

NAME = "pareto_align"


def population_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of `query[rows, heads, T, D]` over `key`, `value` `[rows, key heads, L, D]`, called by transformers."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    plain = query.shape[2] == 1 and query.device.type == "cpu" and not torch.is_grad_enabled() and dropout == 0.0
    if not plain or kwargs.get("position_bias") is not None or kwargs.get("softcap") is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    rows, heads, _, width = query.shape
    shared = key.shape[1]
    scores = torch.matmul(query.reshape(rows, shared, heads // shared, width), key.transpose(2, 3))
    scores = scores.float().mul_(width**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        mask = attention_mask[..., : key.shape[2]]
        scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    weights = scores.softmax(-1).to(value.dtype)
    return torch.matmul(weights, value).reshape(rows, 1, heads, value.shape[-1]), None


def use_population_attention(model: Any) -> Callable[[], None]:
    """Let a model that runs on scaled-dot-product attention use ours; returns what undoes it.

    A model with an attention of its own (eager, softcapped, FlashAttention) is left as it is.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = getattr(model.config, "_attn_implementation", None)
    if before != "sdpa":
        return lambda: None
    ALL_ATTENTION_FUNCTIONS.register(NAME, population_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return lambda: model.set_attn_implementation(before)
