"""Keys and values while sampling: what many completions share is kept once, what is their own in one block.

A *prefix* is the beginning that completions share: the prompt of one policy, or with activated adapters the part of
the prompt that all policies share. It is read by all its completions at once. Behind it every completion has its own
keys, in a block with room for the longest completion, into which a decoding step writes one slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from pareto_align.policies.layers.attention import AttentionPlan
from pareto_align.policies.transfers import to_device

__all__ = ["GrowingCache", "GrowingLayer", "SharedPrompt"]


class GrowingLayer(CacheLayerMixin):
    """Keys and values of one layer in one preallocated block: a decoding step writes one slice of it.

    Args:
        capacity: Tokens there is room for.
    """

    is_sliding = False
    is_croppable = True

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate when the first keys show their shape."""
        rows, heads, _, width = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, width)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values `[rows, key heads, T, D]`; returns all of them so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        stop = self.length + key_states.shape[2]
        self.keys[:, :, self.length : stop] = key_states
        self.values[:, :, self.length : stop] = value_states
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def filled(self) -> tuple[Tensor, Tensor]:
        """Keys and values `[rows, key heads, T, D]` so far."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys seen by the next queries, and where the first of them stands."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self.length

    def get_max_length(self) -> int:
        """Unlimited, as far as transformers is concerned."""
        return -1

    def take(self, rows: Tensor, capacity: int | None = None) -> None:
        """Keep the given rows (repeats allowed), with room for `capacity` tokens."""
        self.capacity = self.capacity if capacity is None else capacity
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(rows), old.shape[1], self.capacity, old.shape[3])
            new[:, :, : self.length] = old[rows, :, : self.length]
            setattr(self, name, new)


class GrowingCache(Cache):
    """An empty cache of a model with room for `capacity` tokens.

    Attributes:
        layers: One `GrowingLayer` a layer of the model.
    """

    layers: list[GrowingLayer]  # type: ignore[assignment]

    def __init__(self, model: Any, capacity: int) -> None:
        layers = [GrowingLayer(capacity) for _ in range(model.config.get_text_config().num_hidden_layers)]
        super().__init__(layers=layers)  # type: ignore[arg-type]

    def take(self, rows: Tensor, capacity: int | None = None) -> None:
        """Keep the given rows (repeats allowed) of every layer."""
        for layer in self.layers:
            layer.take(rows, capacity)

    def read(self) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values `[rows, key heads, T, D]` of every layer, as far as they are filled."""
        keys, values = zip(*(layer.filled() for layer in self.layers), strict=True)
        return list(keys), list(values)


class SharedPrompt(AttentionPlan):
    """Rows that attend to the prefix they share and to their own keys.

    Args:
        keys, values: One `[F, key heads, P, D]` a layer: F prefixes, padded on the right.
        lengths: `[F]` real tokens of each, on the CPU.
        prefix_of_row: `[rows]` which prefix a row belongs to, on the CPU: what the host knows it need not wait for.
        own_seen: `[rows, L]` False on padding among a row's own first tokens; None if there is none.
    """

    def __init__(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        lengths: Tensor,
        prefix_of_row: Tensor,
        own_seen: Tensor | None = None,
    ) -> None:
        self.keys, self.values, self.lengths = keys, values, lengths
        self.own_seen = own_seen
        self.serve(prefix_of_row)

    def serve(self, prefix_of_row: Tensor, own_seen: Tensor | None = None) -> None:
        """From now on these rows are run.

        The rows of a prefix are stacked into one product with its keys; where prefixes have unequal numbers of rows,
        the shorter stacks are filled up with the first row, whose results are not read.
        """
        self.prefix_of_row = prefix_of_row
        if own_seen is not None:
            self.own_seen = own_seen
        device = self.keys[0].device
        self.stack = int(torch.bincount(prefix_of_row).max())
        gather, scatter = self.arrange(prefix_of_row)
        self.gather, self.scatter = to_device(gather, device), to_device(scatter, device)
        unseen = self.unseen_by(prefix_of_row)
        self.unseen = to_device(unseen, device) if bool(unseen.any()) else None

    def arrange(self, prefix_of_row: Tensor) -> tuple[Tensor, Tensor]:
        """Which row stands at each place of the stacks `[F * stack]`, and each row's place `[rows]`; on the CPU."""
        order = prefix_of_row.argsort(stable=True)
        counts = torch.bincount(prefix_of_row, minlength=len(self.lengths))
        rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[prefix_of_row[order]]
        place = prefix_of_row[order] * self.stack + rank
        gather = torch.zeros(len(counts) * self.stack, dtype=torch.long)
        gather[place] = order
        scatter = torch.empty_like(order)
        scatter[order] = place
        self.sorted = torch.equal(gather, torch.arange(len(order)))
        return gather, scatter

    def unseen_by(self, prefix_of_row: Tensor) -> Tensor:
        """Where the prefix of each row is padding `[rows, 1, 1, P]`, on the CPU."""
        return (torch.arange(self.keys[0].shape[2]) >= self.lengths[prefix_of_row, None])[:, None, None]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, softcap: float | None
    ) -> Tensor:
        """See `AttentionPlan.attend`; `key` and `value` are the rows' own."""
        rows, heads, length, width = query.shape
        shared, own = key.shape[1], key.shape[2]
        each = heads // shared * length  # queries of a row that one key head serves
        query = query.reshape(rows, shared, each, width)
        keys, values = self.keys[layer], self.values[layer]
        scaling = width**-0.5 if scaling is None else scaling
        if query.dtype == torch.float16:  # some models' products pass 65504 before they are scaled
            query, scaling = query * scaling, 1.0
        scores = torch.cat(
            [self._unstack(torch.matmul(self._stack(query), keys.transpose(2, 3)), each), query @ key.transpose(2, 3)],
            3,
        ).float()
        scores *= scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        prefix = keys.shape[2]
        self.hide(scores, length, own)
        weights = scores.softmax(-1).to(value.dtype)
        out = weights[..., prefix:] @ value
        out += self._unstack(torch.matmul(self._stack(weights[..., :prefix]), values), each)
        return out.view(rows, heads, length, -1).transpose(1, 2)

    def hide(self, scores: Tensor, length: int, own: int) -> None:
        """Rule out what a row does not see, in scores `[rows, key heads, each, P + own]` of `length` tokens a row."""
        prefix = scores.shape[3] - own
        if self.unseen is not None:
            scores[..., :prefix].masked_fill_(self.unseen, -torch.inf)
        if self.own_seen is not None:
            scores[..., prefix:].masked_fill_(~self.own_seen[:, None, None, :own], -torch.inf)
        if length > 1:
            causal = torch.ones(length, own, dtype=torch.bool, device=scores.device).tril(own - length)
            scores[..., prefix:].masked_fill_(~causal.repeat(scores.shape[2] // length, 1), -torch.inf)

    def _stack(self, x: Tensor) -> Tensor:
        """`[rows, key heads, each, D]` to `[F, key heads, stack * each, D]`."""
        x = x if self.sorted else x.index_select(0, self.gather)
        return x.unflatten(0, (-1, self.stack)).transpose(1, 2).flatten(2, 3)

    def _unstack(self, x: Tensor, each: int) -> Tensor:
        """Back to `[rows, key heads, each, D]`."""
        x = x.unflatten(2, (self.stack, each)).transpose(1, 2).flatten(0, 1)
        return x if self.sorted else x.index_select(0, self.scatter)
