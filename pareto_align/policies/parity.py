"""Whether an adapter's folder, read by stock PEFT onto the bare model, is the policy that the population ran."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pareto_align.policies.adapters import put_on
from pareto_align.policies.logprobs import lay_out, predicting_states
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import fits_window, read_contexts

__all__ = ["compare_with_peft"]

TOKENS = 8  # places at which logits are compared
# Of the median logit's size: what a model forbids may stand at -1e4. Rounding is 1e-6 of it in float32 and a tenth in
# bfloat16 on models of few layers, and grows with depth; an adapter that means something else is off by its whole size.
ALLOWED = {torch.float64: 5e-3, torch.float32: 5e-3, torch.float16: 0.2, torch.bfloat16: 1.0}


@torch.no_grad()
def compare_with_peft(population: PolicyPopulation, row: Tensor, folder: Path, prompt: Sequence[int]) -> dict[str, Any]:
    """Compare one policy's logits in the population with those of its folder under stock PEFT.

    The model is given to PEFT for the moment as it was, without the population's layers, and taken back. What PEFT
    draws is drawn aside.

    Args:
        population: Runs the policy.
        row: `[P]` the policy.
        folder: Its PEFT folder.
        prompt: Token ids of a prompt of the run.

    Returns:
        "largest_difference" of the logits, and "allowed", what rounding may make of it in the model's dtype. Empty
        where parts of the model are offloaded: PEFT would place them anew.
    """
    if {"cpu", "disk"} & set((getattr(population.base.model, "hf_device_map", None) or {}).values()):
        return {}
    room = min(TOKENS, max(1, population.base.context_length - len(prompt)))
    said = [prompt[n % len(prompt)] for n in range(room)]  # any tokens will do
    ours = _population_logits(population, row, prompt, said)
    with (
        population.moved_out(),
        torch.random.fork_rng(_devices(population)),
        closing(_Loaded(population, folder)) as peft,
    ):
        theirs = peft.logits(prompt, said)
    share = ALLOWED[torch.bfloat16 if population.base.rounds_coarsely else torch.float32]
    if not getattr(population.base.model, "is_quantized", False):
        share = ALLOWED.get(population.base.dtype, share)
    return {
        "largest_difference": float(f"{float((ours - theirs).abs().max()):.2g}"),
        "allowed": float(f"{share * float(theirs.abs().median()):.2g}"),
    }


class _Loaded:
    """A folder on the bare model, until closed."""

    def __init__(self, population: PolicyPopulation, folder: Path) -> None:
        self.population = population
        self.model: Any = put_on(population.base.model, folder, "checked")

    def logits(self, prompt: Sequence[int], said: Sequence[int]) -> Tensor:
        """`[T, V]` at the places that predict the T tokens `said`."""
        ids = torch.tensor([[*prompt, *said]], device=self.population.base.device)
        begins: dict[str, Any] = {}
        if self.population.activated:  # what is said may hold the invocation tokens again
            begins["alora_offsets"] = [len(self.population.split(prompt)[1]) + len(said)]
        logits: Tensor = self.model(input_ids=ids, use_cache=False, **begins).logits
        return logits[0, len(prompt) - 1 : -1].float()

    def close(self) -> None:
        self.model.unload()


def _population_logits(population: PolicyPopulation, row: Tensor, prompt: Sequence[int], said: Sequence[int]) -> Tensor:
    context, rest = population.split(prompt)
    tokens = torch.tensor(said)[None, None, None]
    past = read_contexts(population, [context]) if context else None
    plain = not fits_window(population.base, len(prompt) + len(said))
    with population.serving(row[None].to(population.base.device)):
        rows = lay_out(population, [rest], tokens, torch.ones_like(tokens, dtype=torch.bool), packed=False, past=past)
        with predicting_states(population, rows, plain=plain) as hidden:
            return population.head.logits(hidden)


def _devices(population: PolicyPopulation) -> list[torch.device]:
    device = population.base.device
    return [device] if device.type == "cuda" else []
