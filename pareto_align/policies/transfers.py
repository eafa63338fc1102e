"""Copies between the host and a device that runs ahead of it: the host waits as seldom as it can.

On an accelerator the host only queues what is to be done. It has to wait where it asks for a number, and the device
runs dry meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Look", "moved", "runs_behind", "to_device", "to_host"]

ALIGNMENT = 16  # bytes; every type may start there


def runs_behind(device: torch.device) -> bool:
    """Whether the device does its work while the host goes on, and copies can be queued as well."""
    return device.type not in ("cpu", "mps")


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Numbers of the host on the device; only queued, where the device can read pinned memory."""
    if device.type == "cuda":
        return numbers.pin_memory().to(device, non_blocking=True)
    return numbers.to(device)


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


def to_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Several tensors of one device on the CPU, with one wait: what is copied last is there last."""
    *others, last = tensors
    copied = [x.to("cpu", non_blocking=runs_behind(x.device)) for x in others]
    return (*copied, last.cpu())


class Look:
    """Numbers of a device on their way to the host, which can go on until it reads them.

    Args:
        numbers: As they are now; what is queued later does not change what is read.
    """

    def __init__(self, numbers: Tensor) -> None:
        behind = runs_behind(numbers.device)
        self._copy = numbers.to("cpu", non_blocking=behind)
        self._there = torch.Event(numbers.device) if behind else None
        if self._there is not None:
            self._there.record()

    def read(self) -> Tensor:
        """The numbers, on the CPU."""
        if self._there is not None:
            self._there.synchronize()
        return self._copy
