"""From the host's memory to a device's, in one copy that the host does not wait for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["moved"]

ALIGNMENT = 16  # bytes; every type may start there


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the CPU on a device; on a CPU the tensors themselves.

    They travel as one block of bytes. CUDA waits for a copy out of ordinary memory, and with it for all the work that
    was queued before; out of pinned memory it does not.

    Args:
        tensors: On the CPU, of any shapes and types.
        device: Where to.
    """
    if device.type == "cpu":
        return list(tensors)
    flat = [x.contiguous().flatten().view(torch.uint8) for x in tensors]
    starts, total = [], 0
    for piece in flat:
        starts.append(total)
        total += -(-len(piece) // ALIGNMENT) * ALIGNMENT
    block = torch.zeros(total, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for piece, start in zip(flat, starts, strict=True):
        block[start : start + len(piece)] = piece
    there = block.to(device, non_blocking=True)
    return [
        there[start : start + len(piece)].view(x.dtype).view(x.shape)
        for x, piece, start in zip(tensors, flat, starts, strict=True)
    ]
