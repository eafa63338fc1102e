"""Hosts on the workers of a Ray cluster, or of one that is started on this machine for the run.

A worker has one call at a time, so a time limit is one of that call and not of what waits behind it. A worker that was
lost, or took too long and was stopped, is made anew in its place and its shards go through what they did since their
last state; where nothing can be made there, they move to the worker with the fewest. Places without a worker are
looked at before every step: where there is room by now, a worker begins, and when it has the model it takes shards from
those with the most. Ray itself repeats nothing: of a call that failed it does not know whether it was carried out.

References:
    Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", arXiv 1712.05889.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pareto_align.arguments import Count, NotNegative, Positive
from pareto_align.backends.protocol import READS, RESTORE, SNAPSHOT, Alike, Backend, Calls, Host, register_backend
from pareto_align.backends.ranks import RankLost, Ranks, check_system
from pareto_align.errors import ConfigError, ParetoAlignError, ParetoAlignWarning, TrainingError

__all__ = ["Ray"]

ATTEMPTS = 3
"""Times that a call is made in all before what it does is taken to be the reason that workers are lost."""
MOST_CALLS = 256
"""Changes of a shard after which its state is fetched, where nobody has asked for it meanwhile."""
PATIENCE_S = 5.0
"""Seconds in which a cluster has to take up a connection, or to find room for workers that a run can begin without."""
POLL_S = 0.05
"""Seconds between two looks at whether there is room."""
NO_ROOM = "there is no room for it now"


class _Worker:
    """What runs in a worker's process: one host, or the ranks that are one."""

    def start(self, make: Callable[[], Host], threads: int, ranks: int = 1) -> str:
        """Make the host; where this is, for messages."""
        import torch

        threads = max(1, threads // ranks)
        torch.set_num_threads(threads)
        self.host = make() if ranks == 1 else Ranks(make, ranks, apart=False, threads=threads)
        return f"{socket.gethostname()}, process {os.getpid()}"

    def do(self, shard: int | None, method: str, *arguments: Any) -> Any:
        """Call a method of the host, or of a shard on it."""
        # Ray's arrays lie in its store and cannot be written to, which torch warns of
        arguments = tuple(x.copy() if isinstance(x, np.ndarray) else x for x in arguments)
        try:
            if shard is not None:
                return self.host.call(shard, method, arguments)
            if isinstance(self.host, Ranks):
                return self.host.everywhere(method, arguments)
            return getattr(self.host, method)(*arguments)
        except RankLost as lost:
            print(lost, file=sys.stderr, flush=True)
            os._exit(1)  # without its ranks it is no worker: so that Ray counts it as lost


class _Lost(Exception):
    """A worker is gone, or does not answer in time."""


class _Late(_Lost):
    """It does not answer in time."""


@dataclass(eq=False)
class _Place:
    """One worker's place in the cluster, whoever works there.

    Attributes:
        number: Of the place.
        group: What is reserved for it, or asked for; None where it is not tried again.
        actor: Who works there now; None where nobody can.
        coming: The result of making the host; None as soon as the worker takes part.
        until: When that has to be there.
        failed: Times in a row that nobody could be started where there was room.
        where: Its machine and process.
        shards: Those that are there.
    """

    number: int
    group: Any
    actor: Any = None
    coming: Any = None
    until: float = 0.0
    failed: int = 0
    where: str = "not started"
    shards: list[int] = field(default_factory=list)

    @property
    def staffed(self) -> bool:
        """Whether somebody takes part there."""
        return self.actor is not None and self.coming is None

    def __str__(self) -> str:
        return f"worker {self.number} ({self.where})"


@dataclass(eq=False)
class _Job:
    """A call that has to be made: a shard's, the host's at a place, or where both are None any host's."""

    number: int
    method: str
    arguments: Sequence[Any]
    shard: int | None = None
    place: _Place | None = None
    attempts: int = 0
    begun: bool = False
    first: bool = False
    done: bool = False
    result: Any = None

    def may_run_at(self, place: _Place) -> bool:
        """Whether a place can make the call."""
        if self.shard is not None:
            return self.shard in place.shards
        return self.place in (None, place)

    def __str__(self) -> str:
        return f"{self.method!r}" if self.shard is None else f"{self.method!r} of shard {self.shard}"


@register_backend("ray")
class Ray(Backend):
    """Workers of a Ray cluster, each with the model and some of the shards.

    Args:
        workers: How many; at most as many as there are shards (`shard_size`).
        min_workers: The run begins with at least so many, and takes more, up to `workers`, between steps as there is
            room for them. By default it begins with all.
        gpus_per_worker: Of each; a share lets several use one.
        cpus_per_worker: Of each, and the threads that it computes with. Bytes depend on that number.
        ranks: Processes of each worker that share one model by tensor parallelism, on a GPU each: `gpus_per_worker` is
            at least as many. They share its CPUs too. A rank that is lost counts as the worker.
        address: Of a cluster, "host:port", or "auto" for the one that this machine is part of. By default one is
            started on this machine and ends with the run, unless the process is connected to one.
        timeout_s: Seconds that a worker may take for a call, such as one shard's step. One that takes longer counts as
            lost.
        start_timeout_s: Seconds that a worker may take to begin: until it has the model, and where the run cannot go on
            without it until there is room for it.

    Raises:
        ConfigError: A setting is out of range.
    """

    remote = True

    def __init__(
        self,
        *,
        workers: Count = 1,
        min_workers: Count | None = None,
        gpus_per_worker: NotNegative = 0,
        cpus_per_worker: Count = 1,
        ranks: Count = 1,
        address: str | None = None,
        timeout_s: Positive = 1800,
        start_timeout_s: Positive = 600,
    ) -> None:
        if not isinstance(address, str | None):
            raise ConfigError(f"Backend 'ray': `address` must be text or None. Found {address!r}.")
        if ranks > 1 and 0 < gpus_per_worker < ranks:
            raise ConfigError(
                f"Backend 'ray': {ranks} ranks need a GPU each. Set gpus_per_worker={ranks}. Found {gpus_per_worker:g}."
            )
        if min_workers is not None and min_workers > workers:
            raise ConfigError(
                f"Backend 'ray': `min_workers` is at most `workers`. Found min_workers={min_workers} and "
                f"workers={workers}."
            )
        self.workers, self.address, self.ranks = workers, address, ranks
        self.min_workers = workers if min_workers is None else min_workers
        self.sharding = "tensor" if ranks > 1 else None
        self.timeout_s, self.start_timeout_s = timeout_s, start_timeout_s
        self.gpus_per_worker, self.cpus_per_worker = gpus_per_worker, cpus_per_worker
        self._forget()

    def _forget(self) -> None:
        self._places: list[_Place] = []
        self._since: dict[int, list[tuple[str, Sequence[Any]]]] = {}
        self._said: list[tuple[str, Sequence[Any], Alike | None, Any]] = []
        self._make: Callable[[], Host] | None = None
        self._ours = False
        self.shards = 0
        self._waiting: list[_Job] = []
        self._running: dict[Any, tuple[_Place, Any, _Job, float]] = {}
        self._over: list[_Job] = []

    # -- a run ---------------------------------------------------------------------------------------------------

    def check(self, shards: int) -> None:
        """See `Backend.check`."""
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("backend='ray' needs Ray. Install it with `pip install 'pareto-align[ray]'`.")
        check_system(self.name, self.ranks)
        if self.workers > shards:
            raise ConfigError(
                f"Backend 'ray': {self.workers} workers for {shards} shard{'s' if shards > 1 else ''}; a worker has at "
                "least one. Take fewer workers, or a smaller `shard_size`: population / shard_size is the number of "
                "shards."
            )

    def open(self, make: Callable[[], Host], shards: int) -> None:
        """See `Backend.open`."""
        self.check(shards)
        self.close()
        self._make, self.shards = make, shards
        try:
            self._connect()
            begun = self._take_places()
            for place in begun:  # all of them load the model at the same time
                self._employ(place)
            for place in begun:
                self._start(place)
        except _Lost as lost:
            self.close()
            raise ConfigError(f"Backend 'ray': a worker cannot be started: {lost}.") from lost
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `Backend.close`."""
        if self._make is None:
            return
        import ray

        if ray.is_initialized():
            for place in self._places:
                self._dismiss(place)
                self._give_up(place)
            if self._ours:
                ray.shutdown()
        self._forget()

    def everywhere(self, method: str, *arguments: Any, alike: Alike | None = None) -> list[Any]:
        """See `Backend.everywhere`."""
        import ray

        shared = tuple(ray.put(argument) for argument in arguments)  # once, and not once a worker
        found = self._run([_Job(place.number, method, shared, place=place) for place in self._staffed])
        if alike is not None:
            alike(found)
        self._said.append((method, shared, alike, found[0]))
        return found

    def populate(self) -> None:
        """See `Backend.populate`."""
        for n, place in enumerate(there := self._staffed):
            place.shards = list(range(n, self.shards, len(there)))
            self._since |= {shard: [] for shard in place.shards}
        # all at once: a host that has several opens them one after another
        jobs = [(place, shard) for place in there for shard in place.shards]
        self._run([_Job(n, "open", (shard,), place=place) for n, (place, shard) in enumerate(jobs)])

    def anywhere(self, method: str, several: Sequence[tuple[Any, ...]]) -> list[Any]:
        """See `Backend.anywhere`."""
        return self._run([_Job(n, method, arguments) for n, arguments in enumerate(several)])

    def call(self, method: str, calls: Calls) -> dict[int, Any]:
        """See `Backend.call`."""
        found = self._run([_Job(n, method, given, shard) for n, (shard, given) in enumerate(calls.items())])
        return dict(zip(calls, found, strict=True))

    def begin(self, shard: int, method: str, arguments: tuple[Any, ...], *, first: bool = False) -> None:
        """See `Backend.begin`."""
        job = _Job(shard, method, arguments, shard, begun=True, first=first)
        self._waiting.insert(sum(one.first for one in self._waiting) if first else len(self._waiting), job)
        self._send()

    def ended(self, wait: float | None = None) -> tuple[int, Any] | None:
        """See `Backend.ended`."""
        until = None if wait is None else time.monotonic() + wait
        while not self._over and (self._waiting or self._running):
            left = None if until is None else max(until - time.monotonic(), 0.0)
            self._advance(left)
            if left == 0.0:
                break
        if not self._over:
            return None
        job = self._over.pop(0)
        return job.number, job.result

    def rest(self) -> None:
        """See `Backend.rest`."""
        if max(map(len, self._since.values())) > MOST_CALLS:
            self.call(SNAPSHOT, dict.fromkeys(self._since, ()))
        self._take_on()
        self._spread()

    # -- the cluster ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect to a cluster, or start one.

        Raises:
            ConfigError: There is none, or it is one of other versions.
        """
        import ray

        if ray.is_initialized():
            return
        if self.address is None:
            cpus = max(os.cpu_count() or 1, self.workers * self.cpus_per_worker)
            ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR)
            self._ours = True
            return
        host, _, port = self.address.rpartition(":")
        try:
            if host and port.isdecimal():  # Ray itself would wait for minutes
                socket.create_connection((host, int(port)), PATIENCE_S).close()
            ray.init(self.address, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"Backend 'ray': there is no cluster at {self.address!r} that this process could join: {error}. "
                "Start one with `ray start --head`, with the same versions of Ray and Python as here; one that asks "
                "for a token needs RAY_AUTH_MODE=token here too."
            ) from error
        self._ours = True

    @property
    def _staffed(self) -> list[_Place]:
        return [place for place in self._places if place.staffed]

    def _take_places(self) -> list[_Place]:
        """Ask for what the workers need; the places where there is room for one now.

        Each is asked for by itself: Ray gives back one that was lost as soon as there is room for it, whatever became
        of the others, and a cluster that grows by itself learns what is missing.

        Raises:
            ConfigError: The cluster has not so much, or not now.
        """
        import ray

        needs = {"CPU": float(self.cpus_per_worker), "GPU": float(self.gpus_per_worker)}
        needs = {kind: each for kind, each in needs.items() if each}
        there, least = ray.cluster_resources(), self.min_workers
        workers = f"{least} worker{'s' if least > 1 else ''}"
        if any(there.get(kind, 0) < each * least for kind, each in needs.items()):
            asked = ", ".join(f"{each * least:g} {kind}" for kind, each in needs.items())
            has = ", ".join(f"{there.get(kind, 0):g} {kind}" for kind in needs)
            raise ConfigError(
                f"Backend 'ray': {workers} need{'s' if least == 1 else ''} {asked}, and the cluster has {has}."
                + (" `min_workers` lets a run begin with fewer." if least > 1 else "")
            )
        run = f"pareto-align-{uuid.uuid4().hex[:12]}"  # of its own: a run that is begun again meets no old one
        self._places = [
            _Place(number, ray.util.placement_group([needs], name=f"{run}-{number}")) for number in range(self.workers)
        ]
        begun = time.monotonic()
        while len(found := [place for place in self._places if _has_room(place)]) < self.workers:
            waited = time.monotonic() - begun
            if waited >= (self.start_timeout_s if len(found) < least else min(PATIENCE_S, self.start_timeout_s)):
                break
            time.sleep(POLL_S)
        if len(found) < least:
            raise ConfigError(
                f"Backend 'ray': the cluster had no room for {workers} in {self.start_timeout_s:g} seconds. Others use "
                "it, or no machine is large enough for one worker."
            )
        return found

    def _employ(self, place: _Place) -> None:
        """Let somebody new come to a place, and make a host there."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        options = {
            "num_cpus": self.cpus_per_worker,
            "num_gpus": self.gpus_per_worker,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(place.group, 0),
        }
        place.actor, place.where = ray.remote(_Worker).options(**options).remote(), "not started"
        place.coming = place.actor.start.remote(self._make, self.cpus_per_worker, self.ranks)
        place.until = time.monotonic() + self.start_timeout_s

    def _dismiss(self, place: _Place) -> None:
        import ray

        if place.actor is not None:
            ray.kill(place.actor)
        place.actor = place.coming = None

    def _give_up(self, place: _Place) -> None:
        """Ask for nothing there any more."""
        import ray

        if place.group is not None:
            ray.util.remove_placement_group(place.group)
        place.group = None

    # -- calls ---------------------------------------------------------------------------------------------------

    def _run(self, jobs: Sequence[_Job]) -> list[Any]:
        """Make all calls, one at a time at each place, beside those that were begun; results in order of their numbers,
        without those of places where nobody is left.

        Raises:
            TrainingError: A call failed, or cost `ATTEMPTS` workers.
        """
        self._waiting += jobs
        given_up: list[_Job] = []
        while not all(job.done or job in given_up for job in jobs):
            given_up += self._advance()
        return [job.result for job in sorted(jobs, key=lambda job: job.number) if job.done]

    def _send(self) -> None:
        """Let places that are free make calls that wait for them."""
        busy = [place for place, *_ in self._running.values()]
        for place in self._places:
            job = next((job for job in self._waiting if job.may_run_at(place)), None)
            if place.staffed and place not in busy and job is not None:
                self._waiting.remove(job)
                reference = place.actor.do.remote(job.shard, job.method, *job.arguments)
                self._running[reference] = place, place.actor, job, time.monotonic() + self.timeout_s

    def _advance(self, wait: float | None = None) -> list[_Job]:
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
                job.result = self._result(reference, place, job, wait=None if ready else 0.0)
                if place.actor is not actor:  # where the shard is now it has not been made
                    raise _Lost("its worker was lost after it")
            except _Lost as lost:
                job.attempts += 1
                if place.actor is actor:  # else it has been replaced already
                    self._replace(place, lost, job)
                if job.place is None or job.place.actor is not None:
                    self._waiting.append(job)
                else:
                    given_up.append(job)
            else:
                job.done = True
                self._note(job, job.result)
                if job.begun:
                    self._over.append(job)
        self._send()
        return given_up

    def _result(self, reference: Any, place: _Place, job: _Job, wait: float | None) -> Any:
        """What a call returned.

        Args:
            reference: Of the result.
            place: Where it is made.
            job: The call.
            wait: Seconds in which it must be there; None: it is.

        Raises:
            _Lost: The worker is gone, or was too slow.
            ParetoAlignError: The call failed; a note has the worker's own traceback.
        """
        import ray
        from ray import exceptions

        try:
            return ray.get(reference, timeout=wait)
        except exceptions.GetTimeoutError:
            raise _Late(f"{job} did not end in time ({self._limit(job)})") from None
        except exceptions.RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, ParetoAlignError):
                cause = TrainingError(f"{job} failed on {place}: {type(cause).__name__}: {cause}")
            cause.add_note(f"{job} on {place}:\n{error}")
            raise cause from None
        except exceptions.RayError as error:
            raise _Lost(str(error).strip().splitlines()[0].rstrip(".")) from None

    def _limit(self, job: _Job) -> str:
        name = "start_timeout_s" if job.method == "start" else "timeout_s"
        return f"{name}={getattr(self, name):g}"

    def _now(self, place: _Place, shard: int | None, method: str, *arguments: Any) -> Any:
        """Make one call at a place that is idle, and wait for it."""
        reference = place.actor.do.remote(shard, method, *arguments)
        return self._result(reference, place, _Job(0, method, arguments, shard), self.timeout_s)

    def _note(self, job: _Job, result: Any) -> None:
        """Remember what a shard has to go through to come to where it is."""
        if job.shard is None:
            return
        if job.method == SNAPSHOT:
            self._since[job.shard] = [(RESTORE, (result,))]
        elif job.method == RESTORE:
            self._since[job.shard] = [(RESTORE, job.arguments)]
        elif job.method not in READS:
            self._since[job.shard].append((job.method, job.arguments))

    # -- what was lost -------------------------------------------------------------------------------------------

    def _start(self, place: _Place) -> None:
        """Wait for the host of a worker that was just employed; it learns what every host was told, and does the same.

        Raises:
            _Lost: It was lost again.
            ConfigError: It is not like the others.
        """
        import ray

        ready: list[Any] = []
        while not ready and (left := place.until - time.monotonic()) > 0:
            ready, _ = ray.wait([place.coming], timeout=min(left, PATIENCE_S))
            if not ready and self._no_use(place):
                raise _Lost(NO_ROOM)
        place.where = self._result(place.coming, place, _Job(0, "start", ()), None if ready else 0.0)
        for method, arguments, alike, first in self._said:
            found = self._now(place, None, method, *arguments)
            if alike is not None:
                alike([first, found])
        for shard in place.shards:
            self._bring(place, shard)
        place.coming, place.failed = None, 0

    def _no_use(self, place: _Place) -> bool:
        """Whether there is no room at a place, as where its machine is gone, and others can have its shards."""
        return bool(self._staffed) and not _has_room(place)

    def _bring(self, place: _Place, shard: int) -> None:
        """Put a shard on a place and let it go through what it did since its last state."""
        self._now(place, None, "open", shard)
        for method, arguments in self._since[shard]:
            self._now(place, shard, method, *arguments)

    def _replace(self, place: _Place, lost: Exception, job: _Job) -> None:
        """Let somebody else work at a place; where nobody can, its shards move.

        Raises:
            TrainingError: The call has cost too many workers, or there is none left.
        """
        told = f"Lost {place} at {job}: {lost}."
        self._dismiss(place)
        if job.attempts >= ATTEMPTS:
            raise TrainingError(f"{told} This call has cost {job.attempts} workers.")
        warnings.warn(f"{told} Another one goes on from there.", ParetoAlignWarning, stacklevel=2)
        for _ in range(ATTEMPTS - 1):
            if self._no_use(place):
                lost = _Lost(NO_ROOM)
                break
            self._employ(place)
            try:
                self._start(place)
            except (_Lost, ConfigError) as again:
                self._dismiss(place)
                lost = again
                if not isinstance(again, _Lost):  # a machine of other versions, or without the model
                    self._give_up(place)
                    break
                if isinstance(again, _Late):  # waiting once more will not help
                    break
            else:
                return
        if self._staffed:
            moved = f"Nobody else can be started there: {lost}. Its shards move to others."
            warnings.warn(moved, ParetoAlignWarning, stacklevel=2)
        while place.shards or not self._staffed:
            if not (others := self._staffed):
                raise TrainingError(f"{told} No worker is left, and none can be started: {lost}.")
            other = min(others, key=lambda one: (len(one.shards), one.number))
            try:
                self._bring(other, place.shards[0])
            except _Lost as again:
                self._replace(other, again, _Job(0, "open", (), place.shards[0], attempts=job.attempts + 1))
            else:
                other.shards.append(place.shards.pop(0))

    # -- who comes -----------------------------------------------------------------------------------------------

    def _take_on(self) -> None:
        """Let workers come where there is room by now, and those take part that have the model; nobody waits for it."""
        import ray

        for place in self._places:
            if place.actor is None and place.group is not None and _has_room(place):
                self._employ(place)
            if place.coming is None:
                continue
            if not ray.wait([place.coming], timeout=0)[0] and time.monotonic() < place.until:
                continue
            try:
                self._start(place)
            except (_Lost, ParetoAlignError) as error:  # those that are there go on without it
                self._dismiss(place)
                place.failed += 1
                told = f"{place} cannot take part: {error}"
                if place.failed == ATTEMPTS or not isinstance(error, _Lost):
                    self._give_up(place)
                    told += f"{'.' * (not told.endswith('.'))} It is not tried again"
                warnings.warn(f"{told[0].upper()}{told[1:]}.", ParetoAlignWarning, stacklevel=2)

    def _spread(self) -> None:
        """Move shards from the worker with the most to that with the fewest, until there is no more to even out."""
        while True:
            there = sorted(self._staffed, key=lambda one: (len(one.shards), one.number))
            few, many = there[0], there[-1]
            if len(many.shards) - len(few.shards) < 2:
                return
            shard = many.shards[-1]
            self.call(SNAPSHOT, {shard: ()})
            if not few.staffed or shard not in many.shards:
                continue  # somebody was lost over it
            try:
                self._bring(few, shard)
            except _Lost as lost:
                self._replace(few, lost, _Job(0, "open", (), shard))
                return
            few.shards.append(shard)
            many.shards.remove(shard)
            try:
                self._now(many, None, "drop", shard)
            except _Lost as lost:
                self._replace(many, lost, _Job(0, "drop", (), shard))


def _has_room(place: _Place) -> bool:
    """Whether what a place needs is reserved for it now."""
    import ray

    return bool(ray.util.placement_group_table(place.group)["state"] == "CREATED")
