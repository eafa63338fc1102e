"""The event loop that async rewards run on: in a thread of its own, for the life of the process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from pareto_align.errors import ObjectiveError

__all__ = ["forget_loop", "start_async"]


class _EventLoopThread:
    """One event loop on a daemon thread.

    A loop of its own makes async rewards work where the caller already runs one (notebooks); a *lasting* one lets
    HTTP clients keep their connections from step to step, since those belong to the loop that opened them.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve, name="pareto-align-rewards", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        # A task that leaves by SystemExit, or a reward that stops the loop, ends run_forever. Whoever waits for another
        # task would wait for ever, so the loop goes on; the task's own error is with its future.
        while not self.loop.is_closed():
            with suppress(BaseException):
                self.loop.run_forever()


_loop_thread: _EventLoopThread | None = None
_loop_lock = threading.Lock()


def start_async(awaitable: Awaitable[Any]) -> Future[Any]:
    """Run `awaitable` on the background event loop, concurrently with all others there; wait on what is returned."""
    global _loop_thread
    with _loop_lock:
        if _loop_thread is None or not _loop_thread.thread.is_alive():
            _loop_thread = _EventLoopThread()
        return asyncio.run_coroutine_threadsafe(_await(awaitable), _loop_thread.loop)


def forget_loop() -> None:
    """Give the next async rewards an event loop of their own, for what runs on this one may never let go of it."""
    global _loop_thread
    with _loop_lock:
        _loop_thread = None


def _begin_in_child() -> None:
    """Threads do not survive a fork: a child process needs a loop, and a lock that no thread of its parent holds."""
    global _loop_thread, _loop_lock
    _loop_thread, _loop_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


async def _await(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:  # it would end the loop, and the caller would wait for ever
        raise left_by(error) from error


def left_by(error: BaseException) -> ObjectiveError:
    """What a caller in another thread is told of a function that left by SystemExit, KeyboardInterrupt or the like."""
    return ObjectiveError(f"the reward function left by {type(error).__name__}: {error}")
