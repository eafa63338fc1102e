"""What a frozen model makes of answers: its last states as numbers, and how probable it finds them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pareto_align.policies.base import Base
from pareto_align.policies.layers.head import Head
from pareto_align.policies.population import PolicyPopulation

__all__ = ["end_states", "read_answers", "slot_states"]


@torch.no_grad()
def end_states(
    base: Base, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, batch_tokens: int = 4096
) -> NDArray[np.float32]:
    """States `[n, d]` of the last layer, after its norm, at the last token of each prompt with its completion.

    A completion that ends with its stop token is read to the end: the state is that of an answer that is complete.
    Where a population lives on the model it is not being served here, so the states are those of the frozen base.

    Args:
        base: The model.
        prompts, completions, batch_tokens: See `slot_states`.
    """
    return _end_states(base, 1, prompts, completions, batch_tokens)[0]


@torch.no_grad()
def slot_states(
    population: PolicyPopulation,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 4096,
) -> NDArray[np.float32]:
    """What `end_states` finds, as each of a population's K policies reads: `[K, n, d]`.

    Args:
        population: The policies.
        prompts: n prompts as token ids.
        completions: n completions as token ids, the stop token included; an empty one is read as the prompt alone.
        batch_tokens: Tokens that are read at a time, padding included. What is longer than the model's context loses
            its beginning.
    """
    with population.serving():
        return _end_states(population.base, population.size, prompts, completions, batch_tokens)


def _end_states(
    base: Base, count: int, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], batch_tokens: int
) -> NDArray[np.float32]:
    """`[count, n, d]` where the model reads every row as so many policies do, rows grouped by policy."""
    rows = [[*p, *c][-base.context_length :] for p, c in zip(prompts, completions, strict=True)]
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    decoder, pad = base.model.get_decoder(), int(base.tokenizer.pad_token_id)
    found = np.zeros((count, len(rows), base.model.get_output_embeddings().weight.shape[1]), dtype=np.float32)
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and count * (end + 1 - start) * len(rows[order[end]]) <= batch_tokens:
            end += 1
        places = order[start:end]
        longest = len(rows[places[-1]])
        ids = torch.tensor([[*rows[n], *[pad] * (longest - len(rows[n]))] for n in places], device=base.device)
        last = torch.tensor([len(rows[n]) - 1 for n in places], device=base.device)
        # padding stands at the end, where causal attention never looks
        hidden = decoder(input_ids=ids.repeat(count, 1), use_cache=False).last_hidden_state
        ends = hidden[torch.arange(len(ids) * count, device=base.device), last.repeat(count)]
        found[:, places] = ends.float().unflatten(0, (count, -1)).cpu().numpy()
        start = end
    return found


@torch.no_grad()
def read_answers(
    base: Base, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, batch_tokens: int = 1024
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Summed log-probabilities `[n]` of completions, and the sums `[n, d]` of the states that predict their tokens.

    The states are those from the prompt's last token to the completion's last but one.

    Args:
        base: The model, at temperature 1.
        prompts: n prompts as token ids.
        completions: n completions as token ids, none of them empty; with its prompt none is longer than the context.
        batch_tokens: Tokens that are read at a time, padding included: their logits are held at once.
    """
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]) + len(completions[n]))
    decoder, pad = base.model.get_decoder(), int(base.tokenizer.pad_token_id)
    head = Head(base)
    logps = np.zeros(len(prompts))
    states = np.zeros((len(prompts), base.model.get_output_embeddings().weight.shape[1]))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order):
            longest = len(prompts[order[end]]) + len(completions[order[end]])
            if (end + 1 - start) * longest > batch_tokens:
                break
            end += 1
        places = order[start:end]
        rows = [[*prompts[n], *completions[n]] for n in places]
        longest = len(rows[-1])
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=base.device)
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
        for row, n in enumerate(places):
            first, size = len(prompts[n]), len(completions[n])
            seen = hidden[row, first - 1 : first - 1 + size]
            said = head.logits(seen).log_softmax(-1).gather(1, ids[row, first : first + size, None])
            logps[n] = float(said.sum())
            states[n] = seen.float().sum(0).cpu().numpy()
        start = end
    return logps, states
