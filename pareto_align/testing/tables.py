"""From a language model to the table of everything it can say.

A table holds the probability of each of the V**T strings of T symbols for each prompt, strings in the order of
`itertools.product(range(V), repeat=T)`. The symbols are the token ids 0 .. V-1, as in `pareto_align.testing.tiny`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ModelError
from pareto_align.testing.tiny import symbol_strings

if TYPE_CHECKING:
    import torch

    from pareto_align.testing.problems import KnownFrontProblem

__all__ = ["policy_table", "string_log_probabilities", "string_probabilities"]


def string_log_probabilities(
    model: Callable[[torch.Tensor], Any], prompts_ids: Sequence[Sequence[int]], V: int, T: int, *, rows: int = 1024
) -> torch.Tensor:
    """Log-probability of every string of T symbols under a model, differentiable.

    All V**(T-1) prefixes go through the model after each prompt; as it is causal, one pass yields the distributions
    at all T positions. Prompts of the same length share a batch, so nothing is ever padded.

    Args:
        model: Called with input ids [B, L]; returns logits [B, L, vocabulary], or an object with `.logits`. A module
            is used in the mode it is in.
        prompts_ids: Token ids of each prompt.
        V: Number of symbols.
        T: Length of a completion.
        rows: Most sequences in one forward pass.

    Returns:
        [n_prompts, V**T] float64 tensor on the model's device.
    """
    import torch

    device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else torch.device("cpu")
    prefixes = torch.tensor(symbol_strings(V, T - 1), dtype=torch.long, device=device)
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts_ids):
        by_length[len(prompt)].append(i)
    table: list[torch.Tensor] = [torch.empty(0)] * len(prompts_ids)
    for length, members in by_length.items():
        starts = torch.tensor([list(prompts_ids[i]) for i in members], dtype=torch.long, device=device)
        sequences = torch.cat([starts.repeat_interleave(len(prefixes), dim=0), prefixes.repeat(len(members), 1)], dim=1)
        log_p = []
        for part in sequences.split(rows):
            out = model(part)
            steps = getattr(out, "logits", out)[:, length - 1 :].double().log_softmax(dim=-1)[..., :V]
            said = steps[:, :-1].gather(2, part[:, length:, None]).sum(dim=(1, 2))
            log_p.append(said[:, None] + steps[:, -1])
        for i, row in zip(members, torch.cat(log_p).reshape(len(members), -1), strict=True):
            table[i] = row
    return torch.stack(table)


def string_probabilities(
    model: Callable[[torch.Tensor], Any], prompts_ids: Sequence[Sequence[int]], V: int, T: int, *, rows: int = 1024
) -> NDArray[np.float64]:
    """Probability of every string of T symbols, a numpy table [n_prompts, V**T]; see `string_log_probabilities`.

    Raises:
        ModelError: The model puts probability on tokens that are no symbols, so the table would not be the policy.
    """
    import torch

    with torch.no_grad():
        table = string_log_probabilities(model, prompts_ids, V, T, rows=rows).exp().cpu().numpy()
    lost = 1.0 - table.sum(axis=1)
    if not np.abs(lost).max() < 1e-6:  # also true for NaN
        raise ModelError(
            f"The model puts {lost.max():.3g} of its probability on tokens outside the {V} symbols (ids 0 to {V - 1}). "
            "Exact answers need a model that can only say symbols, see pareto_align.testing.tiny.tiny_llama."
        )
    return np.asarray(table, dtype=np.float64)


def policy_table(
    problem: KnownFrontProblem, model: Callable[[torch.Tensor], Any], *, rows: int = 1024
) -> NDArray[np.float64]:
    """The table [n_prompts, V**T] of the policy that `model` is at this moment, on the problem's prompts.

    Works for a plain model, a PEFT model, or a population while one of its policies is active. Dropout is off during
    the call.

    Args:
        problem: Names the prompts and the strings.
        model: Called with input ids [B, L]; returns logits, or an object with `.logits`.
        rows: Most sequences in one forward pass.
    """
    training = bool(getattr(model, "training", False))
    if training:
        model.eval()  # type: ignore[attr-defined]
    try:
        return string_probabilities(model, problem.prompts_ids(), problem.V, problem.T, rows=rows)
    finally:
        if training:
            model.train()  # type: ignore[attr-defined]
