"""The backend of the process that a run is in: what it is asked, and which worker has which shards.

Ray itself repeats nothing: of a call that failed it does not know whether it was carried out. What is lost is made anew
by `recovery`. Places without a worker are looked at before every step: where there is room by now, a worker begins, and
when it has the model it takes shards from those with the most. A shard moves between two steps of its own.

References:
    Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", arXiv 1712.05889.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence, Set
from typing import Any

from pareto_align.arguments import Count, NotNegative, Positive
from pareto_align.backends.protocol import SNAPSHOT, Alike, Backend, Calls, Host, register_backend
from pareto_align.backends.ranks import check_system
from pareto_align.backends.ray.calls import Job, Lost
from pareto_align.backends.ray.cluster import Needs, Place, check_size, connect, reserve, wait_for_room
from pareto_align.backends.ray.dispatch import Dispatch
from pareto_align.backends.ray.recovery import Staff
from pareto_align.backends.ray.rewards import RewardWorkers, check_sent, shared_out
from pareto_align.errors import ConfigError
from pareto_align.objectives import Objective, ObjectiveSet

__all__ = ["Ray"]


@register_backend("ray")
class Ray(Backend):
    """Workers of a Ray cluster, each with the model and some of the shards.

    Args:
        workers: How many; at most as many as there are shards (`shard_size`).
        min_workers: The run begins with at least so many, and takes more, up to `workers`, between steps as there is
            room for them. By default it begins with all.
        gpus_per_worker: Of each; a share lets several use one.
        cpus_per_worker: Of each, and the threads that it computes with. Bytes depend on that number.
        reward_workers: Workers that judge and do nothing else, each by some of the objectives. By default the process
            of the run judges.
        gpus_per_reward_worker: Of each; a share lets several use one.
        cpus_per_reward_worker: Of each, and the threads that torch has there.
        remote_rewards: Names of the objectives that they judge; by default all that can be sent. Async ones, those that
            remember earlier answers and those that count what they cost are asked in the process of the run.
        ranks: Processes of each worker that share one model by tensor parallelism, on a GPU each: `gpus_per_worker` is
            at least as many. They share its CPUs too. A rank that is lost counts as the worker.
        address: Of a cluster, "host:port", or "auto" for the one that this machine is part of. By default one is
            started on this machine and ends with the run, unless the process is connected to one.
        timeout_s: Seconds that a worker may take for a call, such as one shard's step or what a reward worker says to a
            batch. One that takes longer counts as lost.
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
        reward_workers: Count | None = None,
        gpus_per_reward_worker: NotNegative = 0,
        cpus_per_reward_worker: Count = 1,
        remote_rewards: Sequence[str] | None = None,
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
        judging = Needs(cpus_per_reward_worker, gpus_per_reward_worker)
        if reward_workers is None and (judging != Needs(1, 0) or remote_rewards is not None):
            raise ConfigError(
                "Backend 'ray': there are no reward workers. Set `reward_workers`, how many, or leave "
                "`gpus_per_reward_worker`, `cpus_per_reward_worker` and `remote_rewards` out."
            )
        names = not isinstance(remote_rewards, str) and isinstance(remote_rewards, Sequence | None)
        if not names or not all(isinstance(name, str) for name in remote_rewards or ()):
            raise ConfigError(
                f"Backend 'ray': `remote_rewards` must be a list of names of objectives. Found {remote_rewards!r}."
            )
        self.reward_workers, self.remote_rewards = reward_workers or 0, remote_rewards
        self.reward_needs = judging
        self.workers, self.address, self.ranks = workers, address, ranks
        self.min_workers = workers if min_workers is None else min_workers
        self.sharding = "tensor" if ranks > 1 else None
        self.timeout_s, self.start_timeout_s = timeout_s, start_timeout_s
        self.needs, self.threads = Needs(cpus_per_worker, gpus_per_worker), cpus_per_worker
        self.reward_threads = cpus_per_reward_worker
        self._forget()

    def _forget(self) -> None:
        self.shards, self._ours = 0, False
        self._rewards: RewardWorkers | None = None
        self._reward_places: list[Place] = []

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

    def check_rewards(self, objectives: Sequence[Objective], apart: Sequence[int], shards: int) -> None:
        """See `Backend.check_rewards`."""
        if self.reward_workers:
            away = self._shared_out(objectives, apart, shards)
            check_sent([objectives[column] for column in sorted(set().union(*away))])

    def _shared_out(self, objectives: Sequence[Objective], apart: Sequence[int], shards: int) -> list[tuple[int, ...]]:
        return shared_out(objectives, self.remote_rewards, apart, shards, self.reward_workers)

    def open(self, make: Callable[[], Host], shards: int) -> None:
        """See `Backend.open`."""
        self.check(shards)
        self.close()
        cpus = self.workers * self.needs.cpus + self.reward_workers * self.reward_needs.cpus
        self._ours, self.shards = connect(self.address, int(cpus)), shards
        limits = {"timeout_s": self.timeout_s, "start_timeout_s": self.start_timeout_s}
        self._staff = Staff(make, threads=self.threads, ranks=self.ranks, **limits)
        self._dispatch = Dispatch(self._staff)
        try:
            judging = self.reward_workers, "reward worker", self.reward_needs
            check_size([(self.min_workers, "worker", self.needs), judging])
            # first: workers may take all the room that is left
            self._reward_places = reserve(self.reward_needs, self.reward_workers, "reward worker")
            wait_for_room(self._reward_places, self.reward_workers, self.start_timeout_s, "reward worker")
            self._staff.places = reserve(self.needs, self.workers)
            begun = wait_for_room(self._staff.places, self.min_workers, self.start_timeout_s)
            for place in begun:  # all of them load the model at the same time
                self._staff.employ(place)
            for place in begun:
                self._staff.start(place)
        except Lost as lost:
            self.close()
            raise ConfigError(f"Backend 'ray': {place} cannot be started: {lost}.") from lost
        except BaseException:
            self.close()
            raise

    def take(self, objectives: ObjectiveSet, apart: Sequence[int]) -> None:
        """See `Backend.take`."""
        if self.reward_workers:
            self._rewards = RewardWorkers(
                self._reward_places,
                objectives,
                self._shared_out(objectives, apart, self.shards),
                threads=self.reward_threads,
                timeout_s=self.timeout_s,
                start_timeout_s=self.start_timeout_s,
            )

    def close(self) -> None:
        """See `Backend.close`."""
        if not self.shards:
            return
        import ray

        if self._rewards is not None:
            self._rewards.close()
        if ray.is_initialized():
            for place in (*self._reward_places, *self._staff.places):
                place.dismiss()
                place.give_up()
            if self._ours:
                ray.shutdown()
        self._forget()

    def everywhere(self, method: str, *arguments: Any, alike: Alike | None = None) -> list[Any]:
        """See `Backend.everywhere`."""
        import ray

        shared = tuple(ray.put(argument) for argument in arguments)  # once, and not once a worker
        found = self._dispatch.run([Job(place.number, method, shared, place=place) for place in self._staff.there])
        if alike is not None:
            alike(found)
        self._staff.said.append((method, shared, alike, found[0]))
        return found

    def populate(self) -> None:
        """See `Backend.populate`."""
        for n, place in enumerate(there := self._staff.there):
            place.shards = list(range(n, self.shards, len(there)))
            self._staff.since |= {shard: [] for shard in place.shards}
        # all at once: a host that has several opens them one after another
        jobs = [(place, shard) for place in there for shard in place.shards]
        self._dispatch.run([Job(n, "open", (shard,), place=place) for n, (place, shard) in enumerate(jobs)])

    def anywhere(self, method: str, several: Sequence[tuple[Any, ...]]) -> list[Any]:
        """See `Backend.anywhere`."""
        return self._dispatch.run([Job(n, method, arguments) for n, arguments in enumerate(several)])

    def call(self, method: str, calls: Calls) -> dict[int, Any]:
        """See `Backend.call`."""
        found = self._dispatch.run([Job(n, method, given, shard) for n, (shard, given) in enumerate(calls.items())])
        return dict(zip(calls, found, strict=True))

    def begin(self, shard: int, method: str, arguments: tuple[Any, ...], *, first: bool = False) -> None:
        """See `Backend.begin`."""
        self._dispatch.begin(Job(shard, method, arguments, shard, begun=True, first=first))

    def ended(self, wait: float | None = None) -> tuple[int, Any] | None:
        """See `Backend.ended`."""
        job = self._dispatch.ended(wait)
        return None if job is None else (job.number, job.result)

    def rest(self, shards: Sequence[int] | None = None) -> None:
        """See `Backend.rest`."""
        resting = set(range(self.shards) if shards is None else shards)
        if long := [shard for shard in sorted(resting) if self._staff.has_a_long_way(shard)]:
            self.call(SNAPSHOT, dict.fromkeys(long, ()))
        self._staff.take_on()
        self._spread(resting)
        for place in self._staff.there:
            while place.left and not self._dispatch.is_busy(place):
                try:
                    self._staff.now(place, None, "drop", place.left[0])
                    del place.left[0]
                except Lost as lost:
                    self._staff.replace(place, lost, Job(0, "drop", (), place.left[0]))

    def _spread(self, resting: Set[int]) -> None:
        """Move shards that rest from the worker with the most of them to an idle one with fewer, until there is no more
        to even out."""
        while True:
            there = sorted(self._staff.there, key=lambda one: (len(one.shards), one.number))
            many = next((place for place in reversed(there) if not resting.isdisjoint(place.shards)), None)
            few = next((place for place in there if not self._dispatch.is_busy(place)), None)
            if few is None or many is None or len(many.shards) - len(few.shards) < 2:
                return
            shard = next(shard for shard in reversed(many.shards) if shard in resting)
            self._dispatch.run([Job(0, SNAPSHOT, (), shard, first=True)])
            if not few.staffed or self._dispatch.is_busy(few) or shard not in many.shards:
                continue  # somebody was lost over it
            try:
                self._staff.bring(few, shard)
            except Lost as lost:
                self._staff.replace(few, lost, Job(0, "open", (), shard))
                return
            few.shards.append(shard)
            many.shards.remove(shard)
            many.left.append(shard)
