"""What a frozen model makes of an answer: its last state at the answer's last token, as numbers to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pareto_align.policies.base import Base

__all__ = ["end_states"]


@torch.no_grad()
def end_states(
    base: Base, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, batch_tokens: int = 4096
) -> NDArray[np.float32]:
    """States `[n, d]` of the last layer, after its norm, at the last token of each prompt with its completion.

    A completion that ends with its stop token is read to the end: the state is that of an answer that is complete.
    Where a population lives on the model it is not being served here, so the states are those of the frozen base.

    Args:
        base: The model.
        prompts: n prompts as token ids.
        completions: n completions as token ids, the stop token included; an empty one is read as the prompt alone.
        batch_tokens: Tokens that are read at a time, padding included. What is longer than the model's context loses
            its beginning.
    """
    rows = [[*p, *c][-base.context_length :] for p, c in zip(prompts, completions, strict=True)]
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    decoder, pad = base.model.get_decoder(), int(base.tokenizer.pad_token_id)
    found = np.zeros((len(rows), base.model.get_output_embeddings().weight.shape[1]), dtype=np.float32)
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= batch_tokens:
            end += 1
        places = order[start:end]
        longest = len(rows[places[-1]])
        ids = torch.tensor([[*rows[n], *[pad] * (longest - len(rows[n]))] for n in places], device=base.device)
        last = torch.tensor([len(rows[n]) - 1 for n in places], device=base.device)
        # padding stands at the end, where causal attention never looks
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
        found[places] = hidden[torch.arange(len(places), device=base.device), last].float().cpu().numpy()
        start = end
    return found
