"""Whether an adapter's folder, read by stock PEFT onto the bare model, is the policy that the population ran."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pareto_align.policies.adapters import put_on
from pareto_align.policies.logprobs import lay_out, predicting_states
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import fits_window, read_contexts

__all__ = ["compare_with_peft", "parity_of"]

TOKENS = 8  # places at which the two are compared
PLAUSIBLE = 7.0  # nats below the likeliest token: what lies deeper is hardly ever sampled
SUMS = 32  # float32 roundings that the sums of a matrix product come to, whatever the dtype
SPREAD = 4  # how much further than one draw of roundings another one may lead


def parity_of(population: PolicyPopulation, row: Tensor, prompt: Sequence[int]) -> dict[str, Any]:
    """`compare_with_peft` of a policy `[P]` and a folder that it is written to for the moment.

    Where ranks share the layers, each puts its parts of the adapter on its parts of the model.
    """
    with tempfile.TemporaryDirectory(prefix="pareto-align-") as folder:
        population.save_adapter(row, Path(folder), own=True)
        return compare_with_peft(population, row, Path(folder), prompt)


@torch.no_grad()
def compare_with_peft(population: PolicyPopulation, row: Tensor, folder: Path, prompt: Sequence[int]) -> dict[str, Any]:
    """Compare what one policy says in the population with what its folder says under stock PEFT.

    Compared are log-probabilities, which a constant added to all logits leaves as they are, and only of tokens that
    either side may well say: a model may forbid others at -1e4, where nothing is known to the last nat.

    What rounding may make of it is measured on the loaded model itself, since it depends on the dtype, grows with the
    depth, and no size of the logits tells it: a second run multiplies the output of every adapted layer, where the
    population computes otherwise than PEFT, by 1 plus or minus its rounding. Allowed are `SPREAD` times what that
    makes, and the rounding of the logits themselves, or of 1 nat where they are smaller.

    The model is given to PEFT for the moment as it was, without the population's layers, and taken back. What PEFT
    draws is drawn aside.

    Args:
        population: Runs the policy.
        row: `[P]` the policy.
        folder: Its PEFT folder.
        prompt: Token ids of a prompt of the run.

    Returns:
        "largest_difference" of the log-probabilities, in nats, and "allowed", what rounding may make of it. Empty
        where parts of the model are offloaded: PEFT would place them anew.
    """
    if {"cpu", "disk"} & set((getattr(population.base.model, "hf_device_map", None) or {}).values()):
        return {}
    room = min(TOKENS, max(1, population.base.context_length - len(prompt)))
    said = [prompt[n % len(prompt)] for n in range(room)]  # any tokens will do
    ours = _population_logits(population, row, prompt, said)
    eps = _rounding(population)
    with (
        population.moved_out(),
        torch.random.fork_rng(_devices(population)),
        closing(_Loaded(population, folder)) as peft,
    ):
        theirs = peft.logits(prompt, said)
        with peft.rounding_once_more(eps + SUMS * torch.finfo(torch.float32).eps):
            rounded = peft.logits(prompt, said)
    difference, size = _compared(ours, theirs)
    allowed = SPREAD * _compared(rounded, theirs)[0] + 2 * eps * max(1.0, size)
    return {"largest_difference": float(f"{difference:.2g}"), "allowed": float(f"{allowed:.2g}")}


def _rounding(population: PolicyPopulation) -> float:
    """Of the dtype that the layers compute in; logits are compared in float32, and 8-bit layers round what they read
    about as coarsely as bfloat16."""
    coarse = getattr(population.base.model, "is_quantized", False)
    dtype = torch.bfloat16 if coarse else population.base.dtype
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


def _compared(one: Tensor, other: Tensor) -> tuple[float, float]:
    """How far two logits `[T, V]` are apart as log-probabilities of plausible tokens, and the largest of those logits.

    NaN where there is one.
    """
    logits = torch.stack([one.cpu(), other.cpu()]).double()
    logprobs = logits.log_softmax(-1)
    plausible = ~(logprobs <= logprobs.amax(-1, keepdim=True) - PLAUSIBLE)
    apart = (logprobs[0] - logprobs[1])[plausible.any(0)]
    return float(apart.abs().max()), float(logits[plausible].abs().max())


class _Loaded:
    """A folder on the bare model, until closed."""

    def __init__(self, population: PolicyPopulation, folder: Path) -> None:
        self.population = population
        base = population.base
        with nullcontext() if base.sharding is None else base.sharding.unnoticed(base.model):
            self.model: Any = put_on(base.model, folder, "checked")

    def logits(self, prompt: Sequence[int], said: Sequence[int]) -> Tensor:
        """`[T, V]` at the places that predict the T tokens `said`."""
        ids = torch.tensor([[*prompt, *said]], device=self.population.base.device)
        begins: dict[str, Any] = {}
        if self.population.activated:  # what is said may hold the invocation tokens again
            begins["alora_offsets"] = [len(self.population.split(prompt)[1]) + len(said)]
        logits: Tensor = self.model(input_ids=ids, use_cache=False, **begins).logits
        return logits[0, len(prompt) - 1 : -1].float()

    @contextmanager
    def rounding_once_more(self, size: float) -> Iterator[None]:
        """Within this context the output of every adapted layer is off by random shares of up to `size`."""
        from peft.tuners.lora import LoraLayer

        generator = torch.Generator(self.population.base.device).manual_seed(0)

        def off(layer: nn.Module, read: Any, output: Tensor) -> Tensor:
            share = torch.rand(output.shape, generator=generator, device=output.device) * 2 - 1
            return (output * (1 + size * share)).to(output.dtype)

        layers: list[Any] = [layer for layer in self.model.modules() if isinstance(layer, LoraLayer)]
        hooks = [layer.register_forward_hook(off) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

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
