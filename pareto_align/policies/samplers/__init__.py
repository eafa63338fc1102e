"""What draws the completions that policies learn from: the population itself, or an engine beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pareto_align.policies.samplers.in_process import InProcess
from pareto_align.policies.samplers.protocol import Sampler
from pareto_align.policies.samplers.vllm import TEMPERATURES, Vllm, VllmSampler
from pareto_align.registry import Registry

__all__ = ["TEMPERATURES", "InProcess", "Sampler", "Vllm", "VllmSampler", "make_engine"]

_engines: Registry[Vllm] = Registry("sampler", Vllm)
_engines.register("vllm")(Vllm)


def make_engine(sampler: str | Mapping[str, Any]) -> Vllm:
    """The settings of an engine by its name, or by a mapping with `name` and settings.

    Raises:
        ConfigError: The name or a setting is unknown, or a setting is of the wrong kind.
    """
    return _engines.make(sampler)
