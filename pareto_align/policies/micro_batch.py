"""The micro-batch size that `pareto-align bench` found for a model on this machine, as a run looks it up."""

from __future__ import annotations

from pathlib import Path

import torch

from pareto_align.policies.base import Base
from pareto_align.policies.records import processor, read_record, write_record

__all__ = [
    "DEFAULT_MICRO_BATCH_TOKENS",
    "default_micro_batch",
    "kept_bytes",
    "processor_of",
    "record_micro_batch",
    "recorded_micro_batch",
]

DEFAULT_MICRO_BATCH_TOKENS = 4096
"""Tokens of one forward and backward pass on a CPU, where neither a setting nor a record says otherwise."""

MOST_TOKENS = 32_768  # beyond it a pass of the smallest models has long filled the largest GPU
SHARE = 0.6  # of the free memory; the rest is for logits, masks, gradients and the allocator's gaps

RECORD = "micro_batch.json"


def default_micro_batch(base: Base) -> int:
    """Tokens of one forward and backward pass where neither a setting nor a record says otherwise.

    On a GPU a small pass takes as long as the host takes to launch it, so there it is as large as the memory that is
    free allows; an estimate, which `RowLayout.within_memory` corrects and `pareto-align bench` replaces.

    Args:
        base: The model, on its device.
    """
    each = kept_bytes(base)
    if base.device.type != "cuda" or each is None:
        return DEFAULT_MICRO_BATCH_TOKENS
    free, _ = torch.cuda.mem_get_info(base.device)
    return max(1, min(MOST_TOKENS, int(SHARE * free) // each))


def kept_bytes(base: Base) -> int | None:
    """Bytes that a pass keeps of every token for its backward pass, about; None where the model does not say its sizes.

    A layer keeps some six states of its width, four of its feed-forward width, and its queries, keys and values twice.
    """
    config = base.model.config.get_text_config()
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    sizes = [size for name in names if isinstance(size := getattr(config, name, None), int)]
    if len(sizes) < len(names):
        return None
    layers, hidden, wide, heads = sizes
    width = getattr(config, "head_dim", None) or hidden // heads
    attention = (heads + 2 * (getattr(config, "num_key_value_heads", None) or heads)) * width
    return int(layers * (6 * hidden + 4 * wide + 2 * attention) * base.dtype.itemsize)


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
