"""Being asked to stop: the step in hand is finished and the run saved before the process leaves."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any, Self

__all__ = ["StopRequest"]

logger = logging.getLogger(__name__)


class StopRequest:
    """Within this context the first SIGINT or SIGTERM is only noted; a second SIGINT interrupts at once.

    Signals belong to the main thread: in another one nothing is changed and they act as they always do.

    Attributes:
        signal: The signal that came; None while there was none.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        logger.warning("%s: this step is finished and saved first; Ctrl-C stops at once.", self.signal.name)

    def leave(self) -> None:
        """Leave if a signal came: as KeyboardInterrupt for SIGINT, else as SystemExit with status 128 + signal."""
        if self.signal is None:
            return
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)
