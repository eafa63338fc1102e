"""LoRA adapters that read answers, each in its own way: what a reward with an adapter of its own sees."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pareto_align.errors import ConfigError
from pareto_align.policies.base import Base, check_bare
from pareto_align.policies.lora_config import plain_lora_config, read_lora_config
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.states import slot_states

__all__ = ["Readers", "sharing"]


def sharing(base: Base) -> Base:
    """The same model as another object, whose layers can be replaced by themselves; the weights are the same tensors.

    Raises:
        ModelError: A population lives on the model, or adapters are on it.
    """
    check_bare(base.model)
    weights = [*base.model.parameters(), *base.model.buffers()]
    return replace(base, model=copy.deepcopy(base.model, {id(tensor): tensor for tensor in weights}))


def _give_back(weights: Sequence[tuple[Tensor, bool]]) -> None:
    for weight, trained in weights:
        weight.requires_grad_(trained)


class Readers:
    """m adapters, the slots of a population on a model object of their own that shares the base's weights.

    So they read while a run has its policies on the base, and take no more memory than their own numbers.

    Args:
        base: The frozen model, bare.
        count: m.
        lora: A `peft.LoraConfig`; by default `default_lora_config()`.
        notes: Numbers of each slot that no layer reads, such as a head of its states.
        seed: Of the initial adapters, which read as the base does.

    Attributes:
        population: The slots.

    Raises:
        ConfigError: `lora` asks for something that a population does not do, or for activated adapters.
        ModelError: A population lives on the model, or adapters are on it.
    """

    def __init__(self, base: Base, count: int, *, lora: Any = None, notes: int = 0, seed: int = 0) -> None:
        if getattr(lora, "alora_invocation_tokens", None):
            raise ConfigError("Adapters that read answers read the whole prompt: leave `alora_invocation_tokens` out.")
        # a population freezes the weights, which are the user's as well: they are given back as they were
        frozen = [(weight, weight.requires_grad) for weight in base.model.parameters()]
        weakref.finalize(self, _give_back, frozen)
        # copies of the weights in another layout would be a second model
        self.population = PolicyPopulation(
            sharing(base), count, lora=lora, notes=notes, seed=seed, onednn=False, siblings=False
        )

    @classmethod
    def read(cls, base: Base, folders: Sequence[Path]) -> Readers:
        """The adapters of m PEFT folders of this base, all of one rank.

        Raises:
            FrontFileError: A folder cannot be read, or is no adapter of this model's layers.
            ModelError: A population lives on the model, or adapters are on it.
        """
        found = cls(base, len(folders), lora=plain_lora_config(read_lora_config(folders[0])))
        for slot, folder in enumerate(folders):
            found.population.load(slot, found.population.read_adapter(folder))
        return found

    def states(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """States `[m, n, d]` at the end of n completions as token ids, as each adapter reads; see `slot_states`."""
        return slot_states(self.population, prompts, completions)

    def save(self, folders: Sequence[Path]) -> None:
        """Write each as a stock PEFT folder."""
        for row, folder in zip(self.population.parameters, folders, strict=True):
            self.population.save_adapter(row, folder)
