"""The reference's log-probabilities of all responses: computed once a run, for all policies, and kept with it.

They belong to one model, in one dtype, laid out in one way, and to exactly these tokens; a fingerprint says which, and
what has another one is computed anew.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.errors import ParetoAlignWarning
from pareto_align.front.files import write_whole

__all__ = ["REFERENCES_FILE", "fingerprint", "read_references", "write_references"]

REFERENCES_FILE = "references.safetensors"
"""What the file is called in a run folder."""


def fingerprint(rows: Sequence[ComparisonRow], *, model: str, dtype: torch.dtype, layout: str) -> str:
    """What the log-probabilities are of: another model, dtype, layout or token gives another text.

    Args:
        rows: The comparisons, in order.
        model: What tells the model from others: its name, or a hash of its config.
        dtype: Of the model.
        layout: How rows are laid out for it, such as "packed": in half types a sum depends on it.
    """
    found = hashlib.sha256(f"{model}|{dtype}|{layout}".encode())
    for row in rows:
        for tokens in (row.ids, *row.tokens):
            found.update(len(tokens).to_bytes(4, "big"))
            found.update(torch.tensor(tokens, dtype=torch.int64).numpy().tobytes())
        found.update(b"|")
    return found.hexdigest()


def write_references(folder: Path, logps: Sequence[Tensor], key: str) -> None:
    """Keep them, whole or not at all.

    Args:
        folder: The run folder.
        logps: `[G]` of each comparison, float32.
        key: Their fingerprint.
    """
    counts = torch.tensor([len(row) for row in logps], dtype=torch.int64)
    tensors = {"counts": counts, "logps": torch.cat([row.float().cpu() for row in logps]).contiguous()}
    write_whole(folder / REFERENCES_FILE, save(tensors, metadata={"fingerprint": key}))


def read_references(folder: Path, key: str) -> list[Tensor] | None:
    """What `write_references` kept, `[G]` of each comparison; None where there is none of this fingerprint.

    Warns:
        ParetoAlignWarning: A file is there and is of something else, or damaged.
    """
    file = folder / REFERENCES_FILE
    if not file.exists():
        return None
    try:
        with safe_open(str(file), framework="pt") as stream:
            found = (stream.metadata() or {}).get("fingerprint")
            counts, logps = stream.get_tensor("counts").tolist(), stream.get_tensor("logps")
    except (SafetensorError, OSError) as error:
        _warn(f"{file} cannot be read ({error})")
        return None
    if found != key or sum(counts) != len(logps) or not bool(torch.isfinite(logps).all()):
        _warn(
            f"{file} is of another model, dtype, layout or other comparisons" if found != key else f"{file} is damaged"
        )
        return None
    return list(logps.split(counts))


def _warn(told: str) -> None:
    warnings.warn(f"{told}: the reference's log-probabilities are computed anew.", ParetoAlignWarning, stacklevel=3)
