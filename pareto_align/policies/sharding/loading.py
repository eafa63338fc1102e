"""A rank's share of a base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from pareto_align.errors import ModelError
from pareto_align.policies.base import Base, load_base, resolve_device, resolve_dtype
from pareto_align.policies.sharding.fsdp import FullySharded
from pareto_align.policies.sharding.protocol import Sharding
from pareto_align.policies.sharding.tensor import TensorParallel

__all__ = ["SHARDINGS", "load_share"]

SHARDINGS: dict[str, type[Sharding]] = {way.name: way for way in (TensorParallel, FullySharded)}
"""By the name that a backend's `base_sharding` has for them."""


def load_share(loading: Mapping[str, Any], way: str) -> Base:
    """Load this rank's share of a model; all ranks of the process group call it.

    They load one after another, so that the memory of the machine holds one whole model at a time.

    Args:
        loading: Arguments of `load_base`.
        way: One of `SHARDINGS`.

    Raises:
        ModelError: The model cannot be spread over so many ranks, there is no GPU for each of them, or as in
            `load_base`.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # each of them would have one
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = _device_of(loading.get("device", "auto"), rank, ranks)
    dtype: list[Any] = [resolve_dtype(loading.get("dtype", "auto"), device) if rank == 0 else None]
    dist.broadcast_object_list(dtype)  # it may be measured, and another rank find another one
    on_cpu = {**loading, "device": "cpu", "dtype": dtype[0]}
    kind = SHARDINGS[way]
    kind.check(load_base(**{**on_cpu, "weights": False}).model, ranks)
    sharding = kind(device)
    for turn in range(ranks):
        if turn == rank:
            base = load_base(**on_cpu)
            sharding.take(base.model)
        dist.all_reduce(torch.zeros(1))  # between processors: GPUs would lose patience with a long turn
    sharding.join(base.model)
    return replace(base, device=device, sharding=sharding)


def _device_of(asked: Any, rank: int, ranks: int) -> torch.device:
    """Where a rank computes: each on a GPU of its own, or all on the CPU.

    Raises:
        ModelError: There are fewer GPUs than ranks.
    """
    device = resolve_device(asked)
    if device.type != "cuda":
        return torch.device("cpu")  # of the others there is one, which cannot be shared
    if (there := torch.cuda.device_count()) < ranks:
        raise ModelError(f"{ranks} ranks need a GPU each, and this machine has {there}. Take fewer ranks.")
    return torch.device("cuda", rank)
