"""K LoRA policies on one frozen base model: loading, serving, sampling, log-probabilities, PEFT in and out."""

from __future__ import annotations

from pareto_align.policies.base import Base, load_base
from pareto_align.policies.lora_config import activated_lora_config, default_lora_config
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import Completions, SamplingParams, sample

__all__ = [
    "Base",
    "Completions",
    "PolicyPopulation",
    "SamplingParams",
    "activated_lora_config",
    "default_lora_config",
    "load_base",
    "sample",
]
