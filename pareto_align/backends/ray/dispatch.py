"""Calls that wait for a worker, those that are under way, and those that have ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pareto_align.backends.ray.calls import Job, Lost
from pareto_align.backends.ray.cluster import Place
from pareto_align.backends.ray.recovery import Staff

__all__ = ["Dispatch"]


class Dispatch:
    """Makes calls, one at a time at each place, so that a time limit is one of a call and not of what waits behind it.

    Args:
        staff: Makes them.
    """

    def __init__(self, staff: Staff) -> None:
        self.staff = staff
        self._waiting: list[Job] = []
        self._running: dict[Any, tuple[Place, Any, Job, float]] = {}
        self._over: list[Job] = []

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Make all calls, beside those that were begun; results in order of their numbers, without those of places
        where nobody is left.

        Raises:
            TrainingError: A call failed, or cost `ATTEMPTS` workers.
        """
        for job in jobs:
            self._enter(job)
        given_up: list[Job] = []
        while not all(job.done or job in given_up for job in jobs):
            given_up += self._advance()
        return [job.result for job in sorted(jobs, key=lambda job: job.number) if job.done]

    def begin(self, job: Job) -> None:
        """Ask for a call, and go on meanwhile."""
        self._enter(job)
        self._send()

    def ended(self, wait: float | None = None) -> Job | None:
        """A call that was begun and has ended; None where none has after so many seconds, or none is under way.

        Raises:
            TrainingError: A call failed, or cost `ATTEMPTS` workers.
        """
        until = None if wait is None else time.monotonic() + wait
        while not self._over and (self._waiting or self._running):
            left = None if until is None else max(until - time.monotonic(), 0.0)
            self._advance(left)
            if left == 0.0:
                break
        return self._over.pop(0) if self._over else None

    def is_busy(self, place: Place) -> bool:
        """Whether a call is under way at a place."""
        return any(place is other for other, *_ in self._running.values())

    def _enter(self, job: Job) -> None:
        self._waiting.insert(sum(one.first for one in self._waiting) if job.first else len(self._waiting), job)

    def _send(self) -> None:
        """Let places that are free make calls that wait for them."""
        for place in self.staff.places:
            job = next((job for job in self._waiting if job.may_run_at(place)), None)
            if place.staffed and not self.is_busy(place) and job is not None:
                self._waiting.remove(job)
                reference = place.actor.do.remote(job.shard, job.method, *job.arguments)
                self._running[reference] = place, place.actor, job, time.monotonic() + self.staff.timeout_s

    def _advance(self, wait: float | None = None) -> list[Job]:
        """Take what has ended, after so many seconds at the most; the calls that nobody is left to make.

        Raises:
            TrainingError: A call failed, or cost `ATTEMPTS` workers.
        """
        import ray

        self._send()
        patience = max(min(until for *_, until in self._running.values()) - time.monotonic(), 0.0)
        ready, _ = ray.wait(list(self._running), timeout=patience if wait is None else min(wait, patience))
        late = [one for one, (*_, until) in self._running.items() if until <= time.monotonic()]
        given_up = []
        for reference in ready or late:
            place, actor, job, _ = self._running.pop(reference)
            try:
                job.result = self.staff.result(reference, place, job, wait=None if ready else 0.0)
                if place.actor is not actor:  # where the shard is now it has not been made
                    raise Lost("its worker was lost after it")
            except Lost as lost:
                job.attempts += 1
                if place.actor is actor:  # else it has been replaced already
                    self.staff.replace(place, lost, job)
                if job.place is None or job.place.actor is not None:
                    self._waiting.append(job)
                else:
                    given_up.append(job)
            else:
                job.done = True
                self.staff.note(job, job.result)
                if job.begun:
                    self._over.append(job)
        self._send()
        return given_up
