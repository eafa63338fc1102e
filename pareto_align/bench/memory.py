"""The most memory that a piece of work takes, as well as the device lets one know."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

__all__ = ["PeakMemory"]

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"  # what Linux takes to forget the process's peak resident memory


class PeakMemory:
    """The most memory that was taken since the last reset, as well as the device lets one know.

    Attributes:
        meaning: What `read` returns, in words.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.floor = 0
        if device.type == "cuda":
            self.meaning = "peak of the memory allocated on the device, the base model included"
        elif device.type == "mps":
            self.meaning = "memory that the driver holds after a step, the base model and its cache included"
        elif _resets_peak():
            self.meaning = "growth of the process's peak resident memory over the loaded base model"
            self.floor = _resident_peak() or 0
        elif _resident_peak() is not None:
            self.meaning = (
                "growth of the process's all-time peak resident memory over that of loading the base model; what stays "
                "below that peak does not show"
            )
            self.floor = _resident_peak() or 0
        else:
            self.meaning = "not measured: this platform does not say"

    def reset(self) -> None:
        """Forget the peak, where that is possible."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "cpu":
            _resets_peak()

    def read(self) -> int | None:
        """Bytes, as `meaning` says; None where they cannot be known."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        peak = _resident_peak()
        return None if peak is None else max(0, peak - self.floor)


def _resets_peak() -> bool:
    """Set the process's peak resident memory to what is resident now; False where the system cannot."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _resident_peak() -> int | None:
    """The process's peak resident memory in bytes; None where the system does not say."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux; the resource module knows the all-time peak
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
