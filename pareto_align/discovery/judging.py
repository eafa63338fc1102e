"""Judging in threads of its own, while whoever asked goes on."""

from __future__ import annotations

import contextvars
import queue
import threading
import time

from pareto_align.learning.rollouts import Answers
from pareto_align.objectives import ObjectiveSet
from pareto_align.objectives.attempts import Turns
from pareto_align.objectives.background import left_by
from pareto_align.objectives.verdicts import Verdict

__all__ = ["Judge"]

Verdicts = dict[int, Verdict]
Part = tuple[int, int]
"""A step, and a shard."""


class Judge:
    """Has answers judged by some objectives, several parts of them at a time, each in a thread.

    Sync rewards are called one after the other, as ever; those that are thread-safe, and async ones, at the same time.
    Nothing counts yet of what they say. Made and closed in the thread that the run is in.

    Args:
        objectives: All of a run.
        columns: Those that judge a row by itself.

    Attributes:
        pending: Parts that are being judged.
        rest: The other columns.
        waited: Seconds in which whoever asked had nothing else to do.
    """

    def __init__(self, objectives: ObjectiveSet, columns: tuple[int, ...]) -> None:
        self.objectives, self.columns = objectives, columns
        self.rest = tuple(column for column in range(objectives.M) if column not in columns)
        self.pending = 0
        self.waited = 0.0
        self._turns = Turns()
        self._ended: queue.SimpleQueue[tuple[Part, Verdicts | BaseException]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock, self._active, self._since, self._busy = threading.Lock(), 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Wall-clock seconds in which anything was being judged."""
        with self._lock:
            return self._busy + (time.perf_counter() - self._since if self._active else 0.0)

    def begin(self, part: Part, answers: Answers) -> None:
        """Have a part judged by the objectives that judge a row by itself."""
        self.pending += 1
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._began()
        context = contextvars.copy_context()
        # a daemon: a function that never returns must not keep the process from ending
        thread = threading.Thread(
            target=context.run, args=(self._work, part, answers), name=f"pareto-align-judge-{part}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _work(self, part: Part, answers: Answers) -> None:
        try:
            found: Verdicts | BaseException = self.objectives.judge(answers.call(), self.columns, self._turns)
        except Exception as error:
            found = error
        except BaseException as error:  # it would end the thread, and whoever waits would do so for ever
            found = left_by(error)
        self._over()
        self._ended.put((part, found))

    def ended(self, *, wait: bool) -> tuple[Part, Verdicts] | None:
        """A part that was judged, and what was said; None where none is and nobody waits.

        Raises:
            ObjectiveError: A reward function misbehaved.
        """
        started = time.perf_counter()
        try:
            part, found = self._ended.get(block=wait)
        except queue.Empty:
            return None
        finally:
            self.waited += time.perf_counter() - started if wait else 0.0
        self.pending -= 1
        if isinstance(found, BaseException):
            raise found
        return part, found

    def others(self, answers: Answers) -> Verdicts:
        """What the other objectives say, to all answers of a step in one call each.

        Raises:
            ObjectiveError: A reward function misbehaved.
        """
        started = time.perf_counter()
        self._began()
        try:
            return self.objectives.judge(answers.call(), self.rest, self._turns)
        finally:
            self._over()
            self.waited += time.perf_counter() - started

    def close(self) -> None:
        """Stop what can be stopped, and wait for what cannot: a sync function returns when it returns."""
        self._turns.stop()
        for thread in self._threads:
            thread.join()

    def _began(self) -> None:
        with self._lock:
            if not self._active:
                self._since = time.perf_counter()
            self._active += 1

    def _over(self) -> None:
        with self._lock:
            self._active -= 1
            if not self._active:
                self._busy += time.perf_counter() - self._since
