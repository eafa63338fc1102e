"""The micro-batch size that `pareto-align bench` found for a model on this machine, as a run looks it up."""

from __future__ import annotations

from pathlib import Path

import torch

from pareto_align.policies.base import Base
from pareto_align.policies.records import processor, read_record, write_record

__all__ = ["DEFAULT_MICRO_BATCH_TOKENS", "processor_of", "record_micro_batch", "recorded_micro_batch"]

DEFAULT_MICRO_BATCH_TOKENS = 4096
"""Tokens of one forward and backward pass where neither a setting nor a record says otherwise."""

RECORD = "micro_batch.json"


def record_micro_batch(base: Base, tokens: int) -> Path | None:
    """Keep a micro-batch size for later runs of this model, in this type, on this machine.

    Args:
        base: The model it was measured on.
        tokens: Tokens of one forward and backward pass.

    Returns:
        The file in the user's cache; None where the model has no name to know it by, or the file cannot be written.
    """
    key = _record_key(base)
    if key is None:
        return None
    return write_record(RECORD, key, tokens)


def recorded_micro_batch(base: Base) -> int | None:
    """The micro-batch size that was recorded for this model, in this type, on this machine; None without a record."""
    key = _record_key(base)
    tokens = None if key is None else read_record(RECORD).get(key)
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 1 else None


def _record_key(base: Base) -> str | None:
    if not base.name:
        return None
    # a folder may be named from anywhere; a hub id is its own name
    name = str(Path(base.name).resolve()) if Path(base.name).exists() else base.name
    parts = [name, base.gguf_file, base.quantization, str(base.dtype).removeprefix("torch."), base.device.type]
    parts += [processor_of(base.device), f"{torch.get_num_threads()} threads"]
    return " | ".join(part for part in parts if part)


def processor_of(device: torch.device) -> str:
    """The device's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
