"""Adapter folders as policies of a population on their base model, for as long as they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pareto_align.policies.lora_config import SELECTING, read_lora_config
from pareto_align.policies.population import PolicyPopulation

if TYPE_CHECKING:
    from peft import LoraConfig

    from pareto_align.policies.base import Base

__all__ = ["moved_in", "shape_of"]


@contextmanager
def moved_in(base: Base, folders: Sequence[Path]) -> Iterator[tuple[PolicyPopulation, Tensor]]:
    """Within this context a base model holds a population of the adapters' rank, beside their policies `[k, P]`.

    Args:
        base: The base model, which no other population and no adapter is on.
        folders: k PEFT folders; ranks may differ, and are padded to the largest.

    Raises:
        ModelError: The base is taken.
        FrontFileError: A folder cannot be read, or is no adapter of this model's layers.
    """
    configs = [read_lora_config(folder) for folder in folders]
    population = PolicyPopulation(base, 1, lora=shape_of(max(configs, key=lambda config: int(config.r))))
    try:
        yield population, torch.stack([population.read_adapter(folder) for folder in folders])
    finally:
        population.close()


def shape_of(config: Any) -> LoraConfig:
    """What an adapter's config says of its shape, and nothing of how it was trained."""
    from peft import LoraConfig

    kept = ("r", "lora_alpha", "use_rslora", "alora_invocation_tokens", *SELECTING)
    said = {name: getattr(config, name, None) for name in kept}
    return LoraConfig(**{name: value for name, value in said.items() if value is not None}, task_type="CAUSAL_LM")
