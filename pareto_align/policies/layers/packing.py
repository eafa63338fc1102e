"""Completions as rows of a training pass: the prompt once, then its completions, real tokens only.

A *packed* row holds one prompt of one policy and all G completions, each of which sees the prompt and itself (the idea
of Prefix Grouper, arXiv 2506.05433); a *dense* row is the same with one completion. Rows need P + G*T tokens where
separate ones need G*(P + T), and nothing is padded inside: only attention, a small part of the work, is done on a
rectangle.

A row may hold its prompt several times over. The copies are equal on the way forward; on the way back each one carries
the gradient of another weighted sum of completions, which is what the gradients of several objectives need
(`policies.gradients`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pareto_align.policies.layers.attention import AttentionPlan, additive_mask, attend
from pareto_align.policies.transfers import moved

__all__ = ["PackedAttention", "PackedRows", "Past", "pack", "right_pad", "row_lengths"]


@dataclass(eq=False)
class Past:
    """Keys and values of what stands before every row and is the same for all policies; no gradient flows into it.

    Attributes:
        keys, values: One tensor `[N, key heads, P, D]` a layer, padded on the right.
        lengths: `[N]` real tokens of each.
        counts: `lengths` on the CPU, where rows are laid out; read from `lengths` unless given.
    """

    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor
    counts: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.counts is None:
            self.counts = self.lengths.cpu()

    def take(self, prompts: Sequence[int]) -> Past:
        """The past of some of the prompts."""
        chosen = torch.as_tensor(prompts)
        counts = self.counts[chosen]
        longest = int(counts.max())
        (index,) = moved([chosen], self.lengths.device)
        return Past(
            [k[index, :, :longest] for k in self.keys],
            [v[index, :, :longest] for v in self.values],
            self.lengths[index],
            counts,
        )


@dataclass(eq=False)
class PackedRows:
    """R rows of L tokens, and where everything is in them. Flat positions count through all rows, `R * L`.

    Attention takes the tokens out of their rows into rectangles, `[R, C, P]` of the prompts and behind them
    `[R, G, T]` of the completions, and puts what it found back.

    Attributes:
        ids: `[R, L]` tokens.
        positions: `[R, L]` their places in the sequence that the model believes it reads.
        branch: `[R, L]` -1 on a prompt, the completion's number on a completion, -2 on padding at the end of a row.
        copy: `[R, L]` which copy of the prompt a prompt token belongs to.
        prompt_lengths: `[R]`.
        last: `[R, C]` flat positions of the prompts' last tokens.
        predictors: `[n]` where the state that predicts each real completion token stands, in the tokens' order: among
            the `R * G` states that predict first tokens, and all the flat positions behind them.
        ends: `[R * G]` flat positions of the completions' last tokens; any of an empty one.
        taken: `[R*C*P + R*G*T]` flat positions of the rectangles' tokens; any on padding.
        put_back: `[R*L]` where in the rectangles the token of each flat position is; any on padding.
        absent: Flat positions of padding, in no rectangle.
        empty: Places in the rectangles that are padding.
        copies: C, how often a row holds its prompt.
        width: P, tokens of the longest prompt.
        group: G, completions a row.
        length: T, tokens of the longest completion.
        ragged: Whether there is padding among what stands before the completions.
        past: What stands before all rows.
    """

    ids: Tensor
    positions: Tensor
    branch: Tensor
    copy: Tensor
    prompt_lengths: Tensor
    last: Tensor
    predictors: Tensor
    ends: Tensor
    taken: Tensor
    put_back: Tensor
    absent: Tensor
    empty: Tensor
    copies: int
    width: int
    group: int
    length: int
    ragged: bool
    past: Past | None = None

    @property
    def count(self) -> int:
        """R."""
        return self.ids.shape[0]

    def to(self, device: torch.device) -> PackedRows:
        """The rows on a device, all tensors in one copy; the past stays where it is."""
        names = [field.name for field in fields(self) if isinstance(getattr(self, field.name), Tensor)]
        there = moved([getattr(self, name) for name in names], device)
        return replace(self, **dict(zip(names, there, strict=True)))  # type: ignore[arg-type]

    def tree_mask(self) -> Tensor:
        """Attention mask `[R, 1, L, L]` for a model that does not follow our plan (one copy of the prompt only)."""
        index = torch.arange(self.ids.shape[1], device=self.ids.device)
        mine, other = self.branch[:, :, None], self.branch[:, None, :]
        tree = (index[:, None] >= index) & (mine != -2) & ((other == -1) | (mine == other))
        # padding attends to itself: a row of the softmax with nothing in it would be NaN
        return (tree | torch.eye(len(index), dtype=torch.bool, device=self.ids.device))[:, None]

    def predicting(self, hidden: Tensor, spread: Tensor | None = None) -> Tensor:
        """Hidden states `[n, d]` that predict the n real completion tokens, in their order.

        Args:
            hidden: `[R, L, d]`, the last layer's.
            spread: `[R, G, C]` share of each completion in each copy of the prompt, on the way back.
        """
        flat = hidden.reshape(-1, hidden.shape[-1])
        first = spread_copies(flat[self.last], self.group, spread).reshape(self.count * self.group, -1)
        return torch.cat([first, flat]).index_select(0, self.predictors)

    def ending(self, hidden: Tensor) -> Tensor:
        """Hidden states `[R * G, d]` at the completions' last tokens, of the last layer's `[R, L, d]`."""
        return hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.ends)

    def stream_factors(self, factors: Tensor) -> Tensor:
        """Factors `[R, L, S]` of every token in each of S sums, from those of the completions `[R, G, S]`.

        A completion's tokens carry its own factors. A prompt's copy i carries sum i alone, already weighted; where a
        row holds one completion only, its prompt carries that completion's factors.
        """
        completion = factors.gather(1, self.branch.clamp(min=0)[..., None].expand(-1, -1, factors.shape[2]))
        if self.group == 1:
            return completion.masked_fill((self.branch == -2)[..., None], 0)
        prompt = torch.nn.functional.one_hot(self.copy, factors.shape[2]).to(factors.dtype)
        found = torch.where((self.branch == -1)[..., None], prompt, completion)
        return found.masked_fill((self.branch == -2)[..., None], 0)

    def row_factors(self, factors: Tensor) -> Tensor:
        """Factors `[R, L, S]` of every token in each of S sums, from those of whole rows `[R, S]`: prompt included."""
        return factors[:, None].masked_fill((self.branch == -2)[..., None], 0)


def right_pad(prompt_ids: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths as ids and mask `[N, P]`, padded on the right."""
    ids = torch.full((len(prompt_ids), max(map(len, prompt_ids))), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(prompt_ids):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        mask[row, : len(tokens)] = 1
    return ids.to(device), mask.to(device)


def row_lengths(prompt_ids: Sequence[Sequence[int]], mask: Tensor, copies: int = 1) -> Tensor:
    """Tokens `[K, N]` of each policy's and prompt's packed row; prompts and `mask` as of `pack`."""
    prompts = torch.tensor([len(ids) for ids in prompt_ids]).view(-1, mask.shape[1])
    return copies * prompts + mask.sum((2, 3)).cpu()


def pack(
    prompt_ids: Sequence[Sequence[int]],
    tokens: Tensor,
    mask: Tensor,
    *,
    pad: int,
    device: torch.device,
    copies: int = 1,
    past: Past | None = None,
) -> PackedRows:
    """Lay out completions `[K, N, G, T]` of N prompts as K*N rows, policy-major.

    Args:
        prompt_ids: N prompts, without what stands in `past`; or K*N, policy-major, where each policy has its own.
        tokens, mask: `[K, N, G, T]`; the mask is True from the first to the last token of each completion.
        pad: Fills the rows up to the longest.
        device: Where to.
        copies: C, how often each prompt is repeated.
        past: What stands before the prompts.
    """
    policies, prompts, group, _ = tokens.shape
    lengths = mask.sum(3).reshape(policies * prompts, group).cpu()
    longest = max(1, int(lengths.max()))
    tokens, real = (x[..., :longest].reshape(policies * prompts, group, longest).cpu() for x in (tokens, mask))
    own = torch.tensor([len(ids) for ids in prompt_ids])
    width = int(own.max())
    padded, _ = right_pad(prompt_ids, pad, torch.device("cpu"))
    rows, times = policies * prompts, policies * prompts // len(prompt_ids)
    own = own.repeat(times)
    before = (torch.zeros(prompts, dtype=torch.long) if past is None else past.counts).repeat(policies)
    total = copies * own + lengths.sum(1)
    length = int(total.max())
    start = (torch.arange(rows) * length)[:, None, None]
    place = torch.arange(width)
    in_prompt = (place < own[:, None])[:, None, :].expand(rows, copies, width)
    prompt_start = start + torch.arange(copies)[None, :, None] * own[:, None, None]
    prompt_index = torch.where(in_prompt, prompt_start + place, start)
    offset = copies * own[:, None] + lengths.cumsum(1) - lengths
    completion_index = torch.where(real, start + offset[..., None] + torch.arange(longest), start)

    def lay(prompt: Tensor, completion: Tensor, empty: int) -> Tensor:
        out = torch.full((rows * length,), empty)
        out[prompt_index[in_prompt]] = prompt.expand(rows, copies, width)[in_prompt]
        out[completion_index[real]] = completion.expand(rows, group, longest)[real]
        return out.view(rows, length)

    where = before[:, None, None]
    branch = lay(torch.full((1, 1, 1), -1), torch.arange(group)[None, :, None], -2)
    positions = lay(where + place, where + own[:, None, None] + torch.arange(longest), 0)
    if group == 1:  # padding counts on: transformers takes a step back for the start of another sequence
        positions = torch.where(branch == -2, torch.arange(length), positions)
    first = torch.arange(rows * group).view(rows, group, 1)
    taken = torch.cat([prompt_index.flatten(), completion_index.flatten()])
    present = torch.cat([in_prompt.flatten(), real.flatten()])
    put_back = torch.zeros(rows * length, dtype=torch.long)
    put_back[taken[present]] = present.nonzero()[:, 0]
    laid = PackedRows(
        ids=lay(padded.repeat(times, 1)[:, None], tokens, pad),
        positions=positions,
        branch=branch,
        copy=lay(torch.arange(copies)[None, :, None], torch.zeros(1, 1, 1, dtype=torch.long), 0),
        prompt_lengths=own,
        last=prompt_start[..., 0] + own[:, None] - 1,
        predictors=torch.cat([first, rows * group + completion_index[..., :-1]], 2)[real],
        ends=completion_index.gather(2, (lengths - 1).clamp(min=0)[..., None]).flatten(),
        taken=taken,
        put_back=put_back,
        absent=(branch == -2).flatten().nonzero()[:, 0],
        empty=(~present).nonzero()[:, 0],
        copies=copies,
        width=width,
        group=group,
        length=longest,
        ragged=bool((own < width).any()) or (past is not None and bool((past.counts < past.keys[0].shape[2]).any())),
        past=past,
    )
    return laid.to(device)


def spread_copies(copies: Tensor, group: int, weights: Tensor | None) -> Tensor:
    """What all completions of a row see, `[R, G, ...]`, of its equal copies `[R, C, ...]`.

    On the way back, copy i receives the completions' gradients weighted by `weights[R, G, C]`; with one copy and no
    weights, their sum.
    """
    if weights is None:
        return copies.expand(-1, group, *copies.shape[2:])
    found: Tensor = _SpreadCopies.apply(copies, weights)  # type: ignore[no-untyped-call]
    return found


class _SpreadCopies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, copies: Tensor, weights: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(weights)
        return copies[:, :1].expand(-1, weights.shape[1], *copies.shape[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (weights,) = ctx.saved_tensors
        flat = grad.flatten(2)
        return torch.bmm(weights.transpose(1, 2).to(flat.dtype), flat).view(-1, weights.shape[2], *grad.shape[2:]), None


class _Rearrange(torch.autograd.Function):
    """Rows of a matrix by an index on the way forward, by its inverse on the way back: two gathers, no scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, absent: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(inverse, absent)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        inverse, absent = ctx.saved_tensors
        found = grad.index_select(0, inverse)
        if absent is not None:
            found.index_fill_(0, absent, 0)
        return found, None, None, None


class PackedAttention(AttentionPlan):
    """Packed rows attend as if every completion stood behind its own copy of the prompt.

    Args:
        rows: The rows being run.
        spread: `[R, G, C]` share of each completion in the gradient of each copy of its prompt; None for one copy.
    """

    def __init__(self, rows: PackedRows, spread: Tensor | None = None) -> None:
        self.rows, self.spread = rows, spread
        self._masks: dict[tuple[int, torch.dtype], tuple[Tensor | None, Tensor]] = {}

    def masks(self, repeats: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
        """Additive masks of the prompts and of the completions, as `attend` takes them.

        Torch makes an additive mask of a boolean one in every call, and every layer would keep its own until the
        backward pass. So all layers share these.

        Args:
            repeats: Query heads of a key head.
            dtype: The queries'.

        Returns:
            `[R*C, 1, repeats * P, past + P]`, or None for plain causal attention, and
            `[R*G, 1, repeats * T, past + P + T]`, or one for all rows.
        """
        key = repeats, dtype
        if key not in self._masks:
            prompt, completion = self._seen()
            self._masks[key] = (
                None if prompt is None else additive_mask(prompt, repeats, dtype),
                additive_mask(completion, repeats, dtype),
            )
        return self._masks[key]

    def _seen(self) -> tuple[Tensor | None, Tensor]:
        """What is seen: by the prompts `[R*C, 1, P, past + P]`, by the completions `[R*G, 1, T, past + P + T]`."""
        rows = self.rows
        device, count, width, length = rows.ids.device, rows.count, rows.width, rows.length
        seen = torch.arange(width, device=device) < rows.prompt_lengths[:, None]  # [R, P]
        prompt = None
        if rows.past is not None:
            wide = rows.past.keys[0].shape[2]
            past = torch.arange(wide, device=device) < rows.past.lengths[:, None]
            past = past.repeat(count // len(past), 1)
            causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
            prompt = torch.cat([past[:, None].expand(-1, width, -1), causal.expand(count, -1, -1)], 2)[:, None]
            prompt = prompt.repeat_interleave(rows.copies, 0)
            seen = torch.cat([past, seen], 1)
        own = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        if not rows.ragged:
            full = torch.ones(length, seen.shape[1], dtype=torch.bool, device=device)
            return prompt, torch.cat([full, own], 1)[None, None]
        mask = torch.cat([seen[:, None].expand(-1, length, -1), own.expand(count, -1, -1)], 2)[:, None]
        return prompt, mask.repeat_interleave(rows.group, 0)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, softcap: float | None
    ) -> Tensor:
        """See `AttentionPlan.attend`."""
        rows = self.rows
        count, copies, width, group, length = rows.count, rows.copies, rows.width, rows.group, rows.length

        def split(x: Tensor) -> tuple[Tensor, Tensor]:
            """Prompts `[R*C, heads, P, D]` and completions `[R*G, heads, T, D]`."""
            _, heads, _, depth = x.shape
            flat = x.transpose(1, 2).reshape(-1, heads * depth)
            taken = _Rearrange.apply(flat, rows.taken, rows.put_back, rows.absent)  # type: ignore[no-untyped-call]
            prompts, completions = taken.split([count * copies * width, count * group * length])
            return (
                prompts.view(count * copies, width, heads, depth).transpose(1, 2),
                completions.view(count * group, length, heads, depth).transpose(1, 2),
            )

        prompt_query, own_query = split(query)
        prompt_key, own_key = split(key)
        prompt_value, own_value = split(value)

        def shared(x: Tensor) -> Tensor:
            """The prompts' keys as every completion sees them, `[R*G, heads, P, D]`."""
            return spread_copies(x.unflatten(0, (count, copies)), group, self.spread).flatten(0, 1)

        keys, values = [shared(prompt_key), own_key], [shared(prompt_value), own_value]
        prompt_keys, prompt_values = prompt_key, prompt_value
        if rows.past is not None:
            fixed = [x.repeat(count // len(x), 1, 1, 1) for x in (rows.past.keys[layer], rows.past.values[layer])]
            prompt_keys, prompt_values = (
                torch.cat([x.repeat_interleave(copies, 0), y], 2)
                for x, y in zip(fixed, (prompt_key, prompt_value), strict=True)
            )
            keys.insert(0, fixed[0].repeat_interleave(group, 0))
            values.insert(0, fixed[1].repeat_interleave(group, 0))
        prompt_mask, mask = self.masks(query.shape[1] // key.shape[1], query.dtype)
        prompt_out = attend(prompt_query, prompt_keys, prompt_values, prompt_mask, scaling, softcap)
        own_out = attend(own_query, torch.cat(keys, 2), torch.cat(values, 2), mask, scaling, softcap)
        heads, depth = query.shape[1], value.shape[-1]
        out = torch.cat([x.transpose(1, 2).reshape(-1, heads * depth) for x in (prompt_out, own_out)])
        # on the way back, padding of the rectangles has received nothing
        back = _Rearrange.apply(out, rows.put_back, rows.taken, rows.empty)  # type: ignore[no-untyped-call]
        return back.view(query.shape[0], query.shape[2], heads, depth)
