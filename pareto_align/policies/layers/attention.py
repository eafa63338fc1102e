"""The attention of a population: rows that share a prompt read it once.

transformers lets an attention function be registered by name. Ours follows a *plan* where there is one (the rows of a
training pass, `packing.PackedAttention`, or of a decoding step, `caching.SharedPrompt`) and is transformers' own
scaled-dot-product attention everywhere else. A plan sees the raw queries, keys and values, so that no mask over whole
rows is ever built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["AttentionPlan", "PopulationAttention", "additive_mask", "attend", "no_mask"]

NAME = "pareto_align"
ATTRIBUTE = "pareto_align_attention"
TAKES_OVER = ("sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
ALIGNMENT = 8  # elements; what the memory-efficient kernels of CUDA ask of a mask's strides
UNKNOWN = ("position_bias", "s_aux")  # what a model may ask of its attention that no plan of ours does


class AttentionPlan(ABC):
    """How the rows of the batch that is being run attend to each other."""

    @abstractmethod
    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, softcap: float | None
    ) -> Tensor:
        """Attention `[rows, T, heads, D]` of `query[rows, heads, T, D]` over `key`, `value` `[rows, key heads, L, D]`.

        Args:
            layer: The layer's number, for plans that hold keys of their own.
            query, key, value: As the model computed them, positions rotated in.
            scaling: Of the scores; `D ** -0.5` if None.
            softcap: Scores are squashed to plus or minus this by a tanh; None leaves them.
        """


class PopulationAttention:
    """Puts our attention into a model and holds the plan it follows.

    Attributes:
        plan: What the rows being run are; None is plain causal attention.
        in_place: Whether the model uses our attention. A model with attention code of its own does not, and is run
            with plain rows.
    """

    def __init__(self, model: Any) -> None:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self.plan: AttentionPlan | None = None
        self.model = model
        self.before = getattr(model.config, "_attn_implementation", None)
        attention = [m for m in model.modules() if hasattr(m, "layer_idx") and "Attention" in type(m).__name__]
        interface = self.before in TAKES_OVER or (
            self.before == "eager" and getattr(model, "_supports_attention_backend", False)
        )
        # where it cannot be set transformers warns and goes on with the model's own, which reads our rows wrongly
        settable = getattr(model, "_can_set_attn_implementation", lambda: True)()
        self.in_place = bool(attention) and interface and settable
        self.modules = attention if self.in_place else []
        if self.in_place:
            ALL_ATTENTION_FUNCTIONS.register(NAME, population_attention)
            ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
            self.put_in()

    def put_in(self) -> None:
        """Let the model use our attention, where it can."""
        if self.modules:
            self.model.set_attn_implementation(NAME)
            for module in self.modules:
                setattr(module, ATTRIBUTE, self)
            self.in_place = True

    @contextmanager
    def following(self, plan: AttentionPlan | None) -> Iterator[None]:
        """Within this context the model's rows attend as the plan says; backward passes belong inside."""
        before, self.plan = self.plan, plan
        try:
            yield
        finally:
            self.plan = before

    def restore(self) -> None:
        """Give the model its own attention back."""
        if self.in_place:
            self.model.set_attn_implementation(self.before)
            for module in self.modules:
                delattr(module, ATTRIBUTE)
            self.in_place = False


def no_mask(device: torch.device) -> Tensor:
    """A mask that tells transformers to build none: a four-dimensional one is handed to the attention as it is."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


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

    softcap = kwargs.get("softcap")
    plan = getattr(module, ATTRIBUTE).plan if hasattr(module, ATTRIBUTE) else None
    if plan is not None:
        asked = [name for name in UNKNOWN if kwargs.get(name) is not None]
        if asked:
            raise NotImplementedError(f"attention with {asked[0]}")
        return plan.attend(module.layer_idx, query, key, value, scaling, softcap), None
    if softcap is not None:  # transformers' own scaled-dot-product attention refuses it
        if attention_mask is None:
            length, seen = query.shape[2], key.shape[2]
            attention_mask = torch.ones(length, seen, dtype=torch.bool, device=query.device).tril(seen - length)
        return attend(query, key, value, attention_mask, scaling, softcap).transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)


def additive_mask(seen: Tensor, repeats: int, dtype: torch.dtype) -> Tensor:
    """What `attend` adds to the scores, `[rows, 1, repeats * T, L]`: 0 where seen, else minus infinity.

    Args:
        seen: `[rows, 1, T, L]`.
        repeats: Query heads of a key head, whose queries `attend` stacks.
        dtype: The queries'.
    """
    rows, _, length, width = seen.shape
    # a GPU's kernel copies a mask whose rows do not start at multiples of ALIGNMENT, in every layer
    wide = -(-width // ALIGNMENT) * ALIGNMENT
    mask = torch.zeros(rows, 1, repeats * length, wide, dtype=dtype, device=seen.device)[..., :width]
    mask.unflatten(2, (repeats, length)).masked_fill_(~seen[:, :, None], -torch.inf)
    return mask


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, softcap: float | None
) -> Tensor:
    """Attention `[rows, heads, T, D]` under a boolean or additive mask that all heads share; None is plain causal.

    The query heads that share a key head are stacked as more queries of that head, so no key is copied for them: torch
    would repeat keys and values on a CPU, and on a GPU take a slower kernel as soon as there is a mask.

    Args:
        query: `[rows, heads, T, D]`.
        key, value: `[rows, key heads, L, D]`.
        mask: Broadcasts to `[rows, 1, T, L]`, True is seen; or an `additive_mask`, already stacked.
        scaling, softcap: See `AttentionPlan.attend`.
    """
    if mask is None and softcap is None:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=query.shape[2] > 1, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
    rows, heads, length, width = query.shape
    shared = key.shape[1]
    stacked = query.reshape(rows, shared, heads // shared * length, width)
    if mask is None:
        mask = torch.ones(length, key.shape[2], dtype=torch.bool, device=query.device).tril()
    if heads != shared and mask.shape[-2] != stacked.shape[2]:
        mask = mask.expand(*mask.shape[:-2], length, key.shape[2]).repeat(*[1] * (mask.dim() - 2), heads // shared, 1)
    if softcap is None:
        out = torch.nn.functional.scaled_dot_product_attention(stacked, key, value, attn_mask=mask, scale=scaling)
    else:
        # scaled before the product: in float16 some models' products pass 65504
        scores = torch.matmul(stacked * (width**-0.5 if scaling is None else scaling), key.transpose(2, 3)).float()
        scores = torch.tanh(scores / softcap) * softcap
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        out = torch.matmul(scores.softmax(-1).to(value.dtype), value)
    return out.reshape(rows, heads, length, out.shape[-1])
