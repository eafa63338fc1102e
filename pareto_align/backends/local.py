"""All shards in this process, one after another, on one model; or on a model that several processes share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pareto_align.arguments import Count
from pareto_align.backends.protocol import Alike, Backend, Calls, Host, register_backend
from pareto_align.backends.ranks import Job, Ranks, check_system
from pareto_align.errors import ConfigError

__all__ = ["Local"]


@register_backend("local")
class Local(Backend):
    """One host, in this process. Nothing is copied, and nothing dies alone.

    Args:
        ranks: Processes that share one model, on a GPU each; with more than one, none of them is this process. A rank
            that is lost ends the run, which can be resumed.
        base_sharding: How they share it. "tensor": each has a part of every layer, and all work on the same policies at
            the same time. "fsdp": each has pieces of every layer, which are put together whenever one runs it, and each
            works on shards of its own.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(self, *, ranks: Count = 1, base_sharding: Literal["tensor", "fsdp"] = "tensor") -> None:
        self.ranks = ranks
        self.sharding = base_sharding if ranks > 1 else None
        self.remote = ranks > 1
        self.host: Host | Ranks | None = None
        self.shards = 0
        self._first: deque[Job] = deque()
        self._begun: deque[Job] = deque()
        self._over: deque[tuple[int, Any]] = deque()

    def check(self, shards: int) -> None:
        """See `Backend.check`."""
        check_system(self.name, self.ranks)
        if self.sharding == "fsdp" and self.ranks > shards:
            raise ConfigError(
                f"Backend 'local': {self.ranks} ranks for {shards} shard{'s' if shards > 1 else ''}; with "
                "base_sharding='fsdp' each works on shards of its own. Take fewer ranks, a smaller `shard_size` "
                "(population / shard_size is the number of shards), or base_sharding='tensor'."
            )

    def open(self, make: Callable[[], Host], shards: int) -> None:
        """See `Backend.open`."""
        self.close()
        self.shards = shards
        if self.ranks > 1:
            import torch

            self.host = Ranks(make, self.ranks, apart=self.sharding == "fsdp", threads=torch.get_num_threads())
        else:
            self.host = make()

    def close(self) -> None:
        """See `Backend.close`."""
        if isinstance(self.host, Ranks):
            self.host.close()
        self.host = None
        for jobs in (self._first, self._begun, self._over):
            jobs.clear()

    def everywhere(self, method: str, *arguments: Any, alike: Alike | None = None) -> list[Any]:
        """See `Backend.everywhere`."""
        if isinstance(self.host, Ranks):
            found = [self.host.everywhere(method, arguments)]
        else:
            found = [getattr(self.host, method)(*arguments)]
        if alike is not None:
            alike(found)
        return found

    def populate(self) -> None:
        """See `Backend.populate`."""
        self._run([Job(shard, "open", (shard,)) for shard in range(self.shards)])

    def anywhere(self, method: str, several: Sequence[tuple[Any, ...]]) -> list[Any]:
        """See `Backend.anywhere`."""
        return self._run([Job(n, method, arguments) for n, arguments in enumerate(several)])

    def call(self, method: str, calls: Calls) -> dict[int, Any]:
        """See `Backend.call`."""
        jobs = [Job(shard, method, arguments, shard) for shard, arguments in calls.items()]
        return dict(zip(calls, self._run(jobs), strict=True))

    def begin(self, shard: int, method: str, arguments: tuple[Any, ...], *, first: bool = False) -> None:
        """See `Backend.begin`. It is made when it is asked whether it has ended."""
        (self._first if first else self._begun).append(Job(shard, method, arguments, shard))

    def ended(self, wait: float | None = None) -> tuple[int, Any] | None:
        """See `Backend.ended`."""
        if not self._over:
            jobs = self._next()
            self._over += [(job.place, result) for job, result in zip(jobs, self._run(jobs), strict=True)]
        return self._over.popleft() if self._over else None

    def _next(self) -> list[Job]:
        """The calls that wait longest: one, or one of each rank where they work apart."""
        jobs: dict[int, Job] = {}
        for queue in (self._first, self._begun):
            for job in list(queue):
                apart = isinstance(self.host, Ranks) and self.host.apart
                rank = job.place % self.ranks if apart else 0
                if rank not in jobs:
                    jobs[rank] = job
                    queue.remove(job)
        return list(jobs.values())

    def _run(self, jobs: Sequence[Job]) -> list[Any]:
        assert self.host is not None
        return self.host.run(jobs) if isinstance(self.host, Ranks) else [job.on(self.host) for job in jobs]
