"""Log-probabilities of completions without a full logits tensor.

Rows are laid out by `packing`: *packed*, one row per policy and prompt, or *dense*, one row per completion. Both give
the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pareto_align.policies.layers.attention import no_mask
from pareto_align.policies.layers.head import Head, Softmax
from pareto_align.policies.layers.packing import PackedAttention, PackedRows, Past, pack
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.transfers import moved

__all__ = [
    "TokenLoss",
    "completion_logprobs",
    "fused_loss",
    "half_scale",
    "last_states",
    "lay_out",
    "predicting_states",
    "token_logprobs",
    "token_scores",
]

HALF_PEAK = 16.0  # float16 reaches 4000 times further up, for what grows on the way back, and 3e8 times further down

TokenLoss = Callable[[Tensor, slice], Tensor]
"""Maps log-probabilities `[n]` of the tokens in a slice to their losses `[n]`."""


def lay_out(
    population: PolicyPopulation,
    prompt_ids: Sequence[Sequence[int]],
    tokens: Tensor,
    mask: Tensor,
    *,
    packed: bool,
    copies: int = 1,
    past: Past | None = None,
) -> PackedRows:
    """Rows of completions `[K, N, G, T]` of N prompts.

    Args:
        population: Whose model reads them.
        prompt_ids: N prompts, without what stands in `past`, or K*N; see `pack`.
        tokens, mask: `[K, N, G, T]`.
        packed: One row a prompt with its G completions, instead of one row a completion.
        copies: How often a packed row holds its prompt.
        past: What stands before the prompts, one entry a prompt.
    """
    if not packed:
        group = tokens.shape[2]
        prompt_ids = [ids for ids in prompt_ids for _ in range(group)]
        tokens, mask = (x.flatten(1, 2).unsqueeze(2) for x in (tokens, mask))
        past = None if past is None else past.take([n for n in range(len(past.lengths)) for _ in range(group)])
    base = population.base
    pad = int(base.tokenizer.pad_token_id)
    return pack(prompt_ids, tokens, mask, pad=pad, device=base.device, copies=copies, past=past)


@contextmanager
def last_states(
    population: PolicyPopulation, rows: PackedRows, *, spread: Tensor | None = None, plain: bool = False
) -> Iterator[Tensor]:
    """Run rows through the model: the last layer's hidden states `[R, L, d]`.

    A context, because gradient checkpointing runs layers again on the way back: the backward pass belongs inside.

    Args:
        population: The policies being served read the rows.
        rows: What is read.
        spread: `[R, G, C]` share of each completion in the gradient of each copy of its prompt.
        plain: Leave attention and its masks to transformers altogether (dense rows only).
    """
    plan = mask = None
    if not plain and population.attention.in_place:
        plan, mask = PackedAttention(rows, spread), no_mask(rows.ids.device)
    elif rows.group > 1:
        least = torch.finfo(population.base.dtype).min
        mask = torch.zeros(1, dtype=population.base.dtype, device=rows.ids.device)
        mask = mask.expand(rows.ids.shape[0], 1, rows.ids.shape[1], rows.ids.shape[1])
        mask = mask.masked_fill(~rows.tree_mask(), least)
    # a dense row needs no mask: padding stands at its end, where causal attention never looks
    with population.attention.following(plan):
        hidden = population.head.decoder(
            input_ids=rows.ids, position_ids=rows.positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        yield hidden


@contextmanager
def predicting_states(
    population: PolicyPopulation, rows: PackedRows, *, spread: Tensor | None = None, plain: bool = False
) -> Iterator[Tensor]:
    """The hidden states `[n, d]` that predict the n completion tokens of rows, in their order; see `last_states`."""
    with last_states(population, rows, spread=spread, plain=plain) as hidden:
        yield rows.predicting(hidden, spread)


@torch.no_grad()
def token_logprobs(
    population: PolicyPopulation,
    prompt_ids: Sequence[Sequence[int]],
    tokens: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    packed: bool = False,
    past: Past | None = None,
    plain: bool = False,
) -> Tensor:
    """Log-probabilities `[n]` of the n real tokens of completions under the policies being served; no gradient.

    Args: see `lay_out` and `predicting_states`.
    """
    rows = lay_out(population, prompt_ids, tokens, mask, packed=packed, past=past)
    (targets,) = moved([tokens[mask].cpu()], population.base.device)
    with predicting_states(population, rows, plain=plain) as hidden:
        return token_scores(population.head, hidden, targets, temperature)


@torch.no_grad()
def token_scores(head: Head, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities `[n]` of tokens from the states `[n, d]` that predict them, in chunks; no gradient."""
    found = torch.empty(len(targets), device=hidden.device)
    for start in range(0, len(targets), head.chunk()):
        part = slice(start, start + head.chunk())
        found[part] = Softmax(head, hidden[part], targets[part], temperature).logprobs
    return found


def completion_logprobs(
    population: PolicyPopulation,
    prompt_ids: Sequence[Sequence[int]],
    tokens: Tensor,
    mask: Tensor,
    **settings: Any,
) -> Tensor:
    """Log-probabilities `[K, N, G, T]` of completions under the policies being served, 0 on padding; no gradient.

    Args: see `token_logprobs`.
    """
    found = token_logprobs(population, prompt_ids, tokens, mask, **settings)
    (where,) = moved([mask.cpu().flatten().nonzero()[:, 0]], found.device)
    return torch.zeros(mask.numel(), device=found.device).index_copy_(0, where, found).view(mask.shape)


def half_scale(gradient: Tensor) -> float:
    """What a gradient of hidden states is multiplied by in float16, so that its largest entry is near `HALF_PEAK`."""
    peak = float(gradient.abs().max()) if gradient.numel() else 0.0
    return 2.0 ** math.floor(math.log2(HALF_PEAK / peak)) if 0 < peak < math.inf else 1.0


class _FusedLoss(torch.autograd.Function):
    """Head, log-softmax and token loss in chunks; the gradient of the hidden states is formed on the way forward.

    float16 ends at 6e-8, and a token's share of a batch's loss is smaller than that before long. So there the head sees
    every token as if its share were 1, and the gradient leaves with its largest entry at `HALF_PEAK`; the adapters'
    layers divide by that scale when they add to their float32 buffers (`ServedAdapters.gradient_scale`).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, head: Head, targets: Tensor, temperature: float, token_loss: TokenLoss
    ) -> tuple[Tensor, Tensor]:
        half = hidden.dtype == torch.float16
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32 if half else None)
        logprobs = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        scale = head.factor / temperature  # of logits to scores
        for start in range(0, hidden.shape[0], head.chunk()):
            part = slice(start, min(start + head.chunk(), hidden.shape[0]))
            softmax = Softmax(head, hidden[part], targets[part], temperature, keep=True)
            with torch.enable_grad():
                leaf = softmax.logprobs.detach().requires_grad_()
                losses = token_loss(leaf, part)
                (slope,) = torch.autograd.grad(losses.sum(), leaf)
            logprobs[part] = softmax.logprobs
            total += losses.detach().sum()
            slope = slope * scale
            if half:
                grad_hidden[part] = softmax.backward(torch.ones_like(slope)).float() * slope[:, None]
            else:
                grad_hidden[part] = softmax.backward(slope)
        ctx.scale = 1.0
        if half:
            ctx.scale = half_scale(grad_hidden)
            grad_hidden = (grad_hidden * ctx.scale).to(hidden.dtype)
        ctx.served = head.served
        ctx.save_for_backward(grad_hidden)
        ctx.mark_non_differentiable(logprobs)
        return total, logprobs

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (grad_hidden,) = ctx.saved_tensors
        ctx.served.gradient_scale = ctx.scale
        return grad_hidden * grad, None, None, None, None


def fused_loss(
    hidden: Tensor, head: Head, targets: Tensor, token_loss: TokenLoss, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Sum of token losses and the tokens' log-probabilities, never holding more than a chunk of logits.

    Args:
        hidden: `[n, d]` states that predict the targets.
        head: The language-model head; frozen.
        targets: `[n]` token ids.
        token_loss: Loss of each token from its log-probability; differentiated by autograd on `[n]` numbers.
        temperature: The sampling temperature: log-probabilities are those of the distribution that was sampled from.

    Returns:
        The summed loss (differentiable in `hidden`) and the detached log-probabilities `[n]` in float32.
    """
    result: tuple[Tensor, Tensor] = _FusedLoss.apply(hidden, head, targets, temperature, token_loss)  # type: ignore[no-untyped-call]
    return result
