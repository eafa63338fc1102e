"""Log-probabilities of completions without a full logits tensor.

Two layouts give the same numbers. *Packed*: one row per policy and prompt holds the prompt once and then its G
completions, each seeing the prompt and itself only (a tree mask; the same idea as Prefix Grouper, arXiv 2506.05433).
*Dense*: one row per completion. Packed needs P + G*T tokens where dense needs G*(P + T).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pareto_align.errors import ModelError
from pareto_align.policies.base import Base
from pareto_align.policies.lora import frozen_linear
from pareto_align.policies.sampling import left_pad

__all__ = ["Head", "TokenLoss", "completion_hidden", "completion_logprobs", "fused_loss"]

TokenLoss = Callable[[Tensor, slice], Tensor]
"""Maps log-probabilities `[n]` of the tokens in a slice to their losses `[n]`."""

CHUNK_ELEMENTS = 16_000_000  # logits held at once: 64 MB in float32


class Head:
    """The language-model head: hidden states to logits, as the model itself computes them.

    Raises:
        ModelError: The model computes its logits in a way that this class does not reproduce (checked on one forward).
    """

    def __init__(self, base: Base) -> None:
        self.module = base.model.get_output_embeddings()
        config = base.model.config.get_text_config()
        self.softcap = getattr(config, "final_logit_softcapping", None)
        self.factor = float(getattr(config, "logit_scale", None) or 1.0)
        self.factor /= float(getattr(config, "logits_scaling", None) or 1.0)
        self.decoder = base.model.get_decoder()
        probe = torch.arange(1, 5, device=base.device)[None] % self.module.weight.shape[0]
        with torch.no_grad():
            hidden = self.decoder(input_ids=probe, use_cache=False).last_hidden_state
            ours, theirs = self.logits(hidden[0]), base.model(input_ids=probe, use_cache=False).logits[0].float()
        if ours.shape != theirs.shape or not torch.allclose(
            ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max())
        ):
            raise ModelError(
                f"{type(base.model).__name__} computes its logits in a way that training does not support."
            )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[n, V]` in float32 of hidden states `[n, d]`."""
        logits = frozen_linear(hidden, self.module.weight, self.module.bias).float()
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def chunk(self) -> int:
        """Positions whose logits are held at once."""
        return max(16, CHUNK_ELEMENTS // self.module.weight.shape[0])


def completion_hidden(
    head: Head, base: Base, prompt_ids: list[list[int]], tokens: Tensor, mask: Tensor, *, packed: bool
) -> Tensor:
    """Hidden states `[K, N, G, T, d]` that predict each completion token.

    Args:
        head: The model's head, which knows its decoder.
        base: The model.
        prompt_ids: N prompts.
        tokens: `[K, N, G, T]` completions.
        mask: `[K, N, G, T]` True on real tokens.
        packed: Layout, see the module's docstring.
    """
    policies, prompts, group, length = tokens.shape
    tokens = tokens.to(base.device)
    ids, seen = left_pad(prompt_ids, int(base.tokenizer.pad_token_id), base.device)
    start = ids.shape[1]
    last = seen.sum(1) - 1  # position of the last prompt token
    if packed:
        rows = torch.cat([ids.repeat(policies, 1), tokens.reshape(policies * prompts, group * length)], 1)
        steps = torch.arange(1, length + 1, device=base.device).repeat(group)
        positions = torch.cat([(seen.cumsum(1) - 1).clamp(min=0), last[:, None] + steps], 1).repeat(policies, 1)
        attention = _tree_mask(seen, group, length).repeat(policies, 1, 1, 1)
        hidden = head.decoder(
            input_ids=rows, position_ids=positions, attention_mask=attention, use_cache=False
        ).last_hidden_state
        first = hidden[:, start - 1 : start, None].expand(-1, 1, group, -1).transpose(1, 2)
        rest = hidden[:, start:].unflatten(1, (group, length))[:, :, :-1]
        return torch.cat([first, rest], 2).unflatten(0, (policies, prompts))
    spread = torch.arange(prompts, device=base.device).repeat_interleave(group).repeat(policies)
    rows = torch.cat([ids[spread], tokens.reshape(-1, length)], 1)
    attention = torch.cat([seen[spread], seen.new_ones(len(spread), length)], 1)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    hidden = head.decoder(
        input_ids=rows, position_ids=positions, attention_mask=attention, use_cache=False
    ).last_hidden_state
    return hidden[:, start - 1 : -1].unflatten(0, (policies, prompts, group))


def _tree_mask(seen: Tensor, group: int, length: int) -> Tensor:
    """Attention `[N, 1, L, L]` of packed rows: causal, and a completion sees the prompt and itself only."""
    prompts, start = seen.shape
    device = seen.device
    branch = torch.cat(
        [torch.full((start,), -1, device=device), torch.arange(group, device=device).repeat_interleave(length)]
    )
    index = torch.arange(len(branch), device=device)
    tree = (index[:, None] >= index) & ((branch == -1) | (branch[:, None] == branch))
    real = torch.cat([seen.bool(), seen.new_ones(prompts, group * length).bool()], 1)
    # a padded position attends to itself: a row of the softmax with nothing in it would be NaN
    return ((tree & real[:, None]) | torch.eye(len(branch), dtype=torch.bool, device=device))[:, None]


@torch.no_grad()
def completion_logprobs(
    head: Head,
    base: Base,
    prompt_ids: list[list[int]],
    tokens: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    packed: bool = False,
) -> Tensor:
    """Log-probabilities `[K, N, G, T]` of completions under the policies being served, 0 on padding; no gradient."""
    hidden = completion_hidden(head, base, prompt_ids, tokens, mask, packed=packed)
    where = mask.to(base.device)
    flat, targets = hidden[where], tokens.to(base.device)[where]
    found = torch.empty(len(targets), device=base.device)
    for start in range(0, len(targets), head.chunk()):
        part = slice(start, start + head.chunk())
        logits = head.logits(flat[part]) / temperature
        found[part] = logits.gather(1, targets[part, None])[:, 0] - logits.logsumexp(1)
    out = torch.zeros(tokens.shape, device=base.device)
    out[where] = found
    return out


class _FusedLoss(torch.autograd.Function):
    """Head, log-softmax and token loss in chunks; the gradient of the hidden states is formed on the way forward."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, head: Head, targets: Tensor, temperature: float, token_loss: TokenLoss
    ) -> tuple[Tensor, Tensor]:
        grad_hidden = torch.empty_like(hidden)
        logprobs = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], head.chunk()):
            part = slice(start, min(start + head.chunk(), hidden.shape[0]))
            wanted = targets[part, None]
            raw = head.logits(hidden[part])
            scaled = raw / temperature if temperature != 1.0 else raw
            normalizer = scaled.logsumexp(1, keepdim=True)
            logprob = (scaled.gather(1, wanted) - normalizer)[:, 0]
            with torch.enable_grad():
                leaf = logprob.detach().requires_grad_()
                losses = token_loss(leaf, part)
                (slope,) = torch.autograd.grad(losses.sum(), leaf)
            logprobs[part] = logprob
            total += losses.detach().sum()
            # d loss / d logits = slope * (onehot - softmax), then back through temperature, softcap and scale
            grad_logits = (scaled - normalizer).exp_().mul_(-slope[:, None])
            grad_logits.scatter_add_(1, wanted, slope[:, None])
            factor = head.factor / temperature
            if factor != 1.0:
                grad_logits.mul_(factor)
            if head.softcap:
                grad_logits.mul_(1 - (raw / head.softcap).square())
            grad_hidden[part] = grad_logits.to(head.module.weight.dtype) @ head.module.weight
        ctx.save_for_backward(grad_hidden)
        ctx.mark_non_differentiable(logprobs)
        return total, logprobs

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (grad_hidden,) = ctx.saved_tensors
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
