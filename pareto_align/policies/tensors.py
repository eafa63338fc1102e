"""Tensors in safetensors files; whatever is wrong with a file is an OSError."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

__all__ = ["read_tensors", "write_tensors"]


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Names to tensors, on the CPU.

    Raises:
        OSError: The file is not there, or is none of the kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write names and tensors.

    Raises:
        OSError: The disk is full, say.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error
