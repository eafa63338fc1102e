"""Getting an answer out of reward functions that may fail now and then, or never answer.

What fails is asked again after a pause that doubles, except where the error says that the code is wrong: that does not
heal by itself. What does not answer within its time limit stops the scoring. A thread cannot be stopped from outside,
so a sync function that hangs is left alone: its thread goes on until the function returns or the process ends, and
what it returns then is dropped. An async one is cancelled.

Several threads may judge at the same time. Then sync functions still run one after the other, unless they say that they
may not mind.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from pareto_align.errors import ObjectiveError
from pareto_align.objectives import torch_state
from pareto_align.objectives.background import forget_loop, left_by, start_async
from pareto_align.objectives.calling import RewardCall, StatefulReward, is_async, lacks_column, raised_error

__all__ = ["BACK_OFF_S", "Answer", "Asked", "Turns", "answers"]

BACK_OFF_S = 0.5
"""Seconds before the first retry; each further one waits twice as long."""
HOPELESS = (ObjectiveError, TypeError, NameError, AttributeError, ImportError)
"""Errors that say that the function, or how it is called, is wrong; they are not tried again."""


@dataclass(frozen=True)
class Asked:
    """One reward function of a batch.

    Attributes:
        name: The objective's name, for errors.
        reward: The function.
        timeout_s: Seconds that one call may take; None for as long as it likes.
        retries: How often it is asked again after an error.
        answered: Whether it has answered about prompts with these columns: then none that it needs is missing.
        thread_safe: Whether it may be called by several threads at a time.
    """

    name: str
    reward: Callable[..., Any]
    timeout_s: float | None = None
    retries: int = 0
    answered: bool = False
    thread_safe: bool = False


@dataclass(frozen=True)
class Answer:
    """What a reward function made of a batch.

    Attributes:
        returned: What it returned; of an iterator, what it gave.
        failures: How often it had to be asked again.
        left: What of torch's state it left changed, in words; it was put back.
    """

    returned: Any
    failures: int
    left: tuple[str, ...]


class Turns:
    """What threads that judge at the same time have in common: one lock for sync functions, and a way to stop all.

    Made in the thread that the run is in, whose state of torch (with a mode for gradients, a default device) is that of
    every call: a thread that read it for itself could read what a function of another thread has just set for a moment.

    Attributes:
        state: Of torch.
    """

    def __init__(self) -> None:
        self.state = torch_state.read()
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._under_way: set[Future[Any]] = set()

    def of(self, *asked: Asked) -> AbstractContextManager[Any]:
        """What functions are called within: one after the other, where any of them must not meet itself in a thread."""
        return self._lock if any(takes_turns(one) for one in asked) else nullcontext()

    def stop(self) -> None:
        """Let nothing more be called, and stop the requests under way; a sync function goes on until it returns."""
        self._stopped.set()
        for future in list(self._under_way):
            future.cancel()

    def check(self) -> None:
        """Whether anybody still waits for an answer.

        Raises:
            ObjectiveError: Nobody does.
        """
        if self._stopped.is_set():
            raise ObjectiveError("Judging was stopped.")

    def began(self, future: Future[Any]) -> None:
        """A request is under way."""
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        if self._stopped.is_set():
            future.cancel()


def takes_turns(asked: Asked) -> bool:
    """Whether threads that judge call the function one at a time."""
    return not (asked.thread_safe or is_async(asked.reward))


def answers(asked: Sequence[Asked], batch: RewardCall, turns: Turns | None = None) -> list[Answer]:
    """What each reward function returns for a batch, in order.

    Async functions run concurrently, and start before the sync ones. The first one that fails for good stops the
    others.

    Args:
        asked: The functions.
        batch: What they judge.
        turns: Shared with other threads that judge; by default there are none.

    Raises:
        ObjectiveError: One failed on every attempt, did not answer in time, or needs what the batch does not have.
    """
    for one in asked:
        batch.wanted(one.name, one.reward)  # what is missing is said before anything is called
    turns = turns or Turns()
    state = turns.state
    torch_state.put_back(state)
    calls = [_Call(one, batch, turns) for one in asked]
    # The async ones start first, so that they wait for their servers while the sync ones compute.
    order = sorted(calls, key=lambda call: not is_async(call.asked.reward))
    free, in_turn = ([call for call in order if takes_turns(call.asked) is turn] for turn in (False, True))
    try:
        for call in free:
            call.start()
        with turns.of(*(call.asked for call in in_turn)):  # together: what they share is computed once a batch
            for call in in_turn:
                call.start()
        while running := [call for call in order if call.future is not None]:
            limits = [call.left for call in running if call.left is not None]
            wait(
                [call.future for call in running if call.future is not None],
                timeout=max(0.0, min(limits)) if limits else None,
                return_when=FIRST_COMPLETED,
            )
            for call in running:
                call.collect()
    finally:
        for call in calls:
            if call.future is not None:
                call.future.cancel()  # on an error or Ctrl-C it stops the requests under way
        torch_state.put_back(state)
    return [Answer(call.returned, call.failures, tuple(call.left_changed)) for call in calls]


class _Call:
    """One reward function at work on one batch.

    Attributes:
        returned: What it returned, once `future` is None.
        future: What is waited for.
        failures: Errors so far.
        left_changed: What of torch's state it left changed.
    """

    def __init__(self, asked: Asked, batch: RewardCall, turns: Turns) -> None:
        self.asked = asked
        self.batch = batch
        self.turns = turns
        self.left_changed: list[str] = []
        self.returned: Any = None
        self.future: Future[Any] | None = None
        self.failures = 0
        self._deadline: float | None = None
        self._memory = asked.reward.state_dict() if isinstance(asked.reward, StatefulReward) else None

    @property
    def left(self) -> float | None:
        """Seconds until the time limit."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def start(self) -> None:
        """Call the function; a sync one has answered when this returns."""
        limit = self.asked.timeout_s
        while True:
            try:
                with self.turns.of(self.asked):
                    self.turns.check()
                    self._deadline = None if limit is None else time.monotonic() + limit
                    try:
                        returned = self._call()
                    finally:
                        self.left_changed += torch_state.put_back(self.turns.state)
                break
            except (Exception, asyncio.CancelledError) as error:
                self._pause_or_raise(error)
        if inspect.isawaitable(returned):
            self.future = start_async(returned)
            self.turns.began(self.future)
        else:
            self.returned = returned

    def collect(self) -> None:
        """Take the answer of an async function if it is there; start again after an error."""
        assert self.future is not None
        if not self.future.done():
            if self.left is not None and self.left <= 0:
                self.future.cancel()
                forget_loop()  # a coroutine that never awaits holds up the loop, and all that would come after it
                raise self._too_late("It was cancelled.")
            return
        future, self.future = self.future, None
        try:
            self.returned = self._listed(future.result())
        except Exception as error:
            self._pause_or_raise(error)
            self.start()
        finally:
            self.left_changed += torch_state.put_back(self.turns.state)

    def _call(self) -> Any:
        arguments = self.batch.arguments(self.asked.name, self.asked.reward)  # its own at every attempt
        if self.asked.timeout_s is None or is_async(self.asked.reward):
            return self._listed(self.asked.reward(**arguments))
        future: Future[Any] = Future()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                future.set_result(context.run(lambda: self._listed(self.asked.reward(**arguments))))
            except (Exception, asyncio.CancelledError) as error:
                future.set_exception(error)
            except BaseException as error:  # it would end the caller, and say nothing
                future.set_exception(left_by(error))

        # a daemon: a function that never returns must not keep the process from ending
        threading.Thread(target=work, name=f"pareto-align-reward-{self.asked.name}", daemon=True).start()
        if not wait([future], timeout=self.asked.timeout_s).done:
            raise self._too_late(
                "The call cannot be stopped: it goes on in its thread until it returns or the process ends, and its "
                "answer is dropped."
            )
        return future.result()

    def _listed(self, returned: Any) -> Any:
        """What an iterator gives, while an error of it is still one of this call; anything else as it is."""
        if not isinstance(returned, Iterator):
            return returned
        return list(itertools.islice(returned, len(self.batch.completions) + 1))  # it may never end

    def _pause_or_raise(self, error: BaseException) -> None:
        if isinstance(error, _TooLate):
            raise error
        self.turns.check()
        self.failures += 1
        hopeless = isinstance(error, HOPELESS) or (not self.asked.answered and lacks_column(error, self.batch))
        if hopeless or self.failures > self.asked.retries:
            raise raised_error(self.asked.name, error, self.batch, self.failures) from error
        if self._memory is not None and isinstance(self.asked.reward, StatefulReward):
            self.asked.reward.load_state_dict(self._memory)  # a batch that failed halfway is not learned twice
        time.sleep(BACK_OFF_S * 2 ** (self.failures - 1))

    def _too_late(self, what_now: str) -> _TooLate:
        return _TooLate(
            f"Objective {self.asked.name!r} did not answer within its time limit of {self.asked.timeout_s:g} s for "
            f"{len(self.batch.completions)} completions. {what_now} Raise timeout_s if it only needs longer."
        )


class _TooLate(ObjectiveError):
    """A reward function used up its time."""
