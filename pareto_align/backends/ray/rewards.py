"""Workers that judge: so that a reward model has a GPU of its own, and slow rewards do not wait for each other.

A worker has some of the objectives, and one call at a time: the call that this process would make otherwise, of the
same answers. So a reward that depends on what else is in a batch is the same, and only what it keeps to itself is not
seen here. A worker that was lost is made anew with the objectives as they were at first, and asked again.
"""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import warnings
from collections.abc import Collection, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pareto_align.backends.ray.calls import ATTEMPTS, Late, Lost, result_of
from pareto_align.backends.ray.cluster import Place, has_room
from pareto_align.backends.ray.worker import RewardWorker
from pareto_align.errors import ConfigError, ParetoAlignWarning, TrainingError
from pareto_align.objectives import Objective, ObjectiveSet
from pareto_align.objectives.calling import RewardCall
from pareto_align.objectives.sending import belonging_together, stays_because
from pareto_align.objectives.verdicts import Verdict
from pareto_align.versions import check_versions, versions

__all__ = ["RewardWorkers", "check_sent", "shared_out"]


@dataclass(eq=False)
class _Call:
    """A batch that some objectives judge."""

    names: Sequence[str]
    columns: Sequence[int]
    batch: Any
    answered: Collection[str]
    future: Future[dict[int, Verdict]] = field(default_factory=Future)

    def __str__(self) -> str:
        return f"judging by {', '.join(map(repr, self.names))}"


_Queue = queue.SimpleQueue[_Call | None]


class RewardWorkers:
    """The workers that judge in a run. Each is attended to by a thread here, which repeats a call that was lost.

    Args:
        places: Of the workers; they may be called from several threads at a time.
        objectives: All of the run, which asks these workers until `close`.
        columns: Those that each worker has.
        threads: That each computes with.
        timeout_s: Seconds that a call may take.
        start_timeout_s: Seconds that a worker may take to begin.

    Raises:
        ConfigError: An objective cannot be sent, or a worker cannot begin.
    """

    def __init__(
        self,
        places: Sequence[Place],
        objectives: ObjectiveSet,
        columns: Sequence[tuple[int, ...]],
        *,
        threads: int,
        timeout_s: float,
        start_timeout_s: float,
    ) -> None:
        import ray

        self.objectives = objectives
        self.columns = frozenset(column for own in columns for column in own)
        self.timeout_s, self.start_timeout_s = timeout_s, start_timeout_s
        # as they are now, whatever becomes of them here
        begin = {own: (ray.put({column: objectives[column] for column in own}), threads) for own in set(columns)}
        self._begin = {place: begin[own] for place, own in zip(places, columns, strict=True)}
        self._calls: dict[tuple[int, ...], _Queue] = {own: queue.SimpleQueue() for own in columns}
        self._closed, self._lock = False, threading.Lock()
        try:
            for place in places:
                self._employ(place)
            for place in places:
                self._start(place)
        except Lost as lost:
            raise ConfigError(f"Backend 'ray': {place} cannot be started: {lost}.") from lost
        self._threads = [
            threading.Thread(
                target=self._attend, args=(place, self._calls[own]), name=f"pareto-align-{place.called}", daemon=True
            )
            for place, own in zip(places, columns, strict=True)
        ]
        for thread in self._threads:
            thread.start()
        objectives.elsewhere = self

    def begin(
        self, batch: RewardCall, columns: Sequence[int], answered: Collection[str]
    ) -> list[Future[dict[int, Verdict]]]:
        """See `Elsewhere.begin`."""
        import ray

        given, begun = ray.put(batch), []
        for own, calls in self._calls.items():
            if asked := [column for column in columns if column in own]:
                call = _Call([self.objectives[column].name for column in asked], asked, given, frozenset(answered))
                calls.put(call)
                begun.append(call.future)
        return begun

    def close(self) -> None:
        """End all workers; what they judge is given up."""
        import ray

        self.objectives.elsewhere = None
        with self._lock:
            self._closed = True
            for place in self._begin if ray.is_initialized() else ():
                place.dismiss()
        for calls in self._calls.values():
            for _ in self._threads:
                calls.put(None)
        for thread in self._threads:
            thread.join()

    # -- one worker ------------------------------------------------------------------------------------------------

    def _employ(self, place: Place) -> None:
        """Let somebody new come to a place."""
        with self._lock:
            if self._closed:
                raise Lost("the run is over")
            path = [os.path.abspath(folder) for folder in sys.path]
            place.employ(RewardWorker, self._begin[place], self.start_timeout_s, path, os.getcwd())

    def _start(self, place: Place) -> None:
        """Wait until a worker that was just employed has its objectives.

        Raises:
            Lost: It was lost again, or there is no room for it.
            ConfigError: It cannot have them, or is not like this process.
        """
        limit = f"start_timeout_s={self.start_timeout_s:g}"
        try:
            found = result_of(place.coming, "'start'", place, wait=self.start_timeout_s, limit=limit)
        except Late:
            if has_room(place):
                raise
            raise Late(f"there was no room for it ({limit})") from None
        except TrainingError as error:  # Ray could not read what was sent
            told = str(error).splitlines()[0]
            raise ConfigError(
                f"Backend 'ray': {place} cannot have its objectives. {told}. Functions of a module are looked for "
                "by its name, so every machine has to have it, installed or in the same folder; those of the script "
                "that is run are sent."
            ) from error
        place.where, machine, there = found
        check_versions([(machine, there)], versions())
        place.coming = None

    def _attend(self, place: Place, calls: _Queue) -> None:
        """Have a worker make one call after another."""
        while (call := calls.get()) is not None:
            with suppress(InvalidStateError):  # nobody waits for it any more
                try:
                    if not call.future.cancelled():
                        call.future.set_result(self._judged(place, call))
                except InvalidStateError:
                    raise
                except BaseException as error:
                    call.future.set_exception(error)

    def _judged(self, place: Place, call: _Call) -> dict[int, Verdict]:
        """What a worker says, or somebody else in its place.

        Raises:
            ObjectiveError: A reward function misbehaved.
            TrainingError: The call has cost too many workers, or nobody else can be started.
        """
        for attempt in itertools.count(1):
            try:
                if place.actor is None:
                    self._employ(place)
                    self._start(place)
                reference = place.actor.judge.remote(call.columns, call.batch, call.answered)
                found: dict[int, Verdict] = result_of(
                    reference, call, place, wait=self.timeout_s, limit=f"timeout_s={self.timeout_s:g}"
                )
                return found
            except Lost as lost:
                in_vain = place.coming is not None and isinstance(lost, Late)  # waiting once more will not help
                with self._lock:
                    place.dismiss()
                told = f"Lost {place} at {call}: {lost}."
                if self._closed or in_vain or attempt == ATTEMPTS:
                    raise TrainingError(f"{told} This call has cost {attempt} reward workers.") from None
                warnings.warn(f"{told} Another one is asked the same.", ParetoAlignWarning, stacklevel=2)
        raise AssertionError("it returns or raises")


def shared_out(
    objectives: Sequence[Objective], chosen: Sequence[str] | None, apart: Collection[int], shards: int, workers: int
) -> list[tuple[int, ...]]:
    """The columns of the objectives that each reward worker has.

    Those that share something stay together. Workers beyond the first of each have what is judged shard by shard.

    Args:
        objectives: All of the run.
        chosen: Names of those that workers judge; None: all that can be sent.
        apart: Columns of those that judge each of the shards by itself.
        shards: How many there are.
        workers: How many there are.

    Raises:
        ConfigError: One of `chosen` is none, or cannot be judged elsewhere; no objective can; or some workers would
            have nothing to do.
    """
    here = {objective.name: stays_because(objective) for objective in objectives}
    for name in chosen or ():
        if name not in here:
            known = ", ".join(map(repr, here))
            raise ConfigError(f"Backend 'ray': `remote_rewards` names {name!r}, which is no objective. Known: {known}.")
        if here[name] is not None:
            raise ConfigError(
                f"Backend 'ray': `remote_rewards` names {name!r}, which {here[name]}. Leave it out: it is asked in the "
                "process of the run."
            )
    if chosen is None:
        chosen = [name for name, reason in here.items() if reason is None]
    if not chosen:
        told = "; ".join(f"{name!r} {reason}" for name, reason in here.items())
        raise ConfigError(f"Backend 'ray': there is nothing for reward workers to judge: {told}. Leave them out.")
    columns = [column for column, objective in enumerate(objectives) if objective.name in chosen]
    groups = belonging_together(objectives, columns)
    by_shard = sum(not set(group).isdisjoint(apart) for group in groups)
    if workers > (most := len(groups) + by_shard * (shards - 1)):
        raise ConfigError(
            f"Backend 'ray': {workers} reward workers, of which at most {most} have anything to do: one for each "
            "objective that is sent (those that share something go together), and where steps overlap one for each "
            "shard of a rowwise objective. Take fewer."
        )
    count = min(workers, len(groups))
    parts = [tuple(sorted(column for group in groups[n::count] for column in group)) for n in range(count)]
    several = [part for part in parts if not set(part).isdisjoint(apart)]
    return parts + [several[n % len(several)] for n in range(workers - count)]


def check_sent(objectives: Sequence[Objective]) -> None:
    """Whether objectives can be sent.

    Raises:
        ConfigError: One of them cannot be.
    """
    from ray import cloudpickle

    for objective in objectives:
        try:
            cloudpickle.dumps(objective)
        except Exception as error:
            raise ConfigError(
                f"Backend 'ray': the reward of {objective.name!r} cannot be sent to a reward worker: "
                f"{type(error).__name__}: {error}. Let it open files, connections and locks at its first call, or name "
                "the objectives that can be sent in `remote_rewards`."
            ) from error
