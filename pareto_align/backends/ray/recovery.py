"""Who works where, and what brings somebody new to where the one before was.

A worker that was lost is made anew in its place, is told what every host was told, and its shards go through what they
did since their last state; where nothing can be made there, they move to the worker with the fewest.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from pareto_align.backends.protocol import READS, RESTORE, SNAPSHOT, Alike, Host
from pareto_align.backends.ray.calls import ATTEMPTS, Job, Late, Lost, result_of
from pareto_align.backends.ray.cluster import Place, has_room
from pareto_align.backends.ray.worker import Worker
from pareto_align.errors import ConfigError, ParetoAlignError, ParetoAlignWarning, TrainingError

__all__ = ["Staff"]

MOST_CALLS, MOST_BYTES = 256, 1 << 30
"""Changes of a shard, and what those hold, after which its state is fetched where nobody has asked for it meanwhile: a
family's gradients are as large as it is, one a step."""
LOOK_S = 1.0
"""Seconds between two looks at whether the machine of a worker that begins is still there."""
NO_ROOM = "there is no room for it now"


class Staff:
    """The workers of a run.

    Args:
        make: Makes a host, where it is to be.
        threads: That each computes with.
        ranks: Processes of each.
        timeout_s: Seconds that a call may take.
        start_timeout_s: Seconds that making a host may take.

    Attributes:
        places: For all that it may have.
        since: Of each shard, what it has to go through to come to where it is: its last state, and the calls since.
        said: What every host was told, whether the answers have to be alike, and what the first one said.
    """

    def __init__(
        self,
        make: Callable[[], Host],
        *,
        threads: int,
        ranks: int,
        timeout_s: float,
        start_timeout_s: float,
    ) -> None:
        self.places: list[Place] = []
        self._begin = make, threads, ranks
        self.timeout_s, self.start_timeout_s = timeout_s, start_timeout_s
        self.since: dict[int, list[tuple[str, Sequence[Any]]]] = {}
        self.said: list[tuple[str, Sequence[Any], Alike | None, Any]] = []

    @property
    def there(self) -> list[Place]:
        """The places where somebody takes part."""
        return [place for place in self.places if place.staffed]

    # -- calls ---------------------------------------------------------------------------------------------------

    def result(self, reference: Any, place: Place, job: Job, *, wait: float | None) -> Any:
        """See `result_of`."""
        name = "start_timeout_s" if job.method == "start" else "timeout_s"
        return result_of(reference, job, place, wait=wait, limit=f"{name}={getattr(self, name):g}")

    def now(self, place: Place, shard: int | None, method: str, *arguments: Any) -> Any:
        """Make one call at a place that is idle, and wait for it."""
        reference = place.actor.do.remote(shard, method, *arguments)
        return self.result(reference, place, Job(0, method, arguments, shard), wait=self.timeout_s)

    def note(self, job: Job, result: Any) -> None:
        """Remember what a shard has to go through to come to where it is."""
        if job.shard is None:
            return
        if job.method == SNAPSHOT:
            self.since[job.shard] = [(RESTORE, (result,))]
        elif job.method == RESTORE:
            self.since[job.shard] = [(RESTORE, job.arguments)]
        elif job.method not in READS:
            self.since[job.shard].append((job.method, job.arguments))

    def has_a_long_way(self, shard: int) -> bool:
        """Whether a shard would have to go through so much that a new state is better."""
        calls = self.since[shard]
        held = sum(getattr(argument, "nbytes", 0) for _, arguments in calls for argument in arguments)
        return len(calls) > MOST_CALLS or held > MOST_BYTES

    # -- who begins ----------------------------------------------------------------------------------------------

    def employ(self, place: Place) -> None:
        """Let somebody new come to a place, and make a host there."""
        place.employ(Worker, self._begin, self.start_timeout_s)

    def start(self, place: Place) -> None:
        """Wait for the host of a worker that was just employed; it learns what every host was told, and does the same.

        Raises:
            Lost: It was lost again.
            ConfigError: It is not like the others.
        """
        import ray

        ready: list[Any] = []
        while not ready and (left := place.until - time.monotonic()) > 0:
            ready, _ = ray.wait([place.coming], timeout=min(left, LOOK_S))
            if not ready and self._no_use(place):
                raise Lost(NO_ROOM)
        if not ready and not has_room(place):
            raise Late(f"{NO_ROOM} (start_timeout_s={self.start_timeout_s:g})")
        place.where = self.result(place.coming, place, Job(0, "start", ()), wait=None if ready else 0.0)
        for method, arguments, alike, first in self.said:
            found = self.now(place, None, method, *arguments)
            if alike is not None:
                alike([first, found])
        for shard in place.shards:
            self.bring(place, shard)
        place.coming, place.failed = None, 0

    def _no_use(self, place: Place) -> bool:
        """Whether there is no room at a place, as where its machine is gone, and others can have its shards."""
        return bool(self.there) and not has_room(place)

    def bring(self, place: Place, shard: int) -> None:
        """Put a shard on a place and let it go through what it did since its last state."""
        self.now(place, None, "open", shard)
        if shard in place.left:
            place.left.remove(shard)
        for method, arguments in self.since[shard]:
            self.now(place, shard, method, *arguments)

    def take_on(self) -> None:
        """Let workers come where there is room by now, and those take part that have the model; nobody waits for it."""
        import ray

        for place in self.places:
            if place.actor is None and place.group is not None and has_room(place):
                self.employ(place)
            if place.coming is None:
                continue
            if not ray.wait([place.coming], timeout=0)[0] and time.monotonic() < place.until:
                continue
            try:
                self.start(place)
            except (Lost, ParetoAlignError) as error:  # those that are there go on without it
                place.dismiss()
                place.failed += 1
                told = f"{place} cannot take part: {error}"
                if place.failed == ATTEMPTS or not isinstance(error, Lost):
                    place.give_up()
                    told += f"{'.' * (not told.endswith('.'))} It is not tried again"
                warnings.warn(f"{told[0].upper()}{told[1:]}.", ParetoAlignWarning, stacklevel=2)

    # -- who was lost --------------------------------------------------------------------------------------------

    def replace(self, place: Place, lost: Exception, job: Job) -> None:
        """Let somebody else work at a place; where nobody can, its shards move.

        Raises:
            TrainingError: The call has cost too many workers, or there is none left.
        """
        told = f"Lost {place} at {job}: {lost}."
        place.dismiss()
        if job.attempts >= ATTEMPTS:
            raise TrainingError(f"{told} This call has cost {job.attempts} workers.")
        warnings.warn(f"{told} Another one goes on from there.", ParetoAlignWarning, stacklevel=2)
        for _ in range(ATTEMPTS - 1):
            if self._no_use(place):
                lost = Lost(NO_ROOM)
                break
            self.employ(place)
            try:
                self.start(place)
            except (Lost, ConfigError) as again:
                place.dismiss()
                lost = again
                if not isinstance(again, Lost):  # a machine of other versions, or without the model
                    place.give_up()
                    break
                if isinstance(again, Late):  # waiting once more will not help
                    break
            else:
                return
        if self.there:
            moved = f"Nobody else can be started there: {lost}. Its shards move to others."
            warnings.warn(moved, ParetoAlignWarning, stacklevel=2)
        while place.shards or not self.there:
            if not (others := self.there):
                raise TrainingError(f"{told} No worker is left, and none can be started: {lost}.")
            other = min(others, key=lambda one: (len(one.shards), one.number))
            try:
                self.bring(other, place.shards[0])
            except Lost as again:
                self.replace(other, again, Job(0, "open", (), place.shards[0], attempts=job.attempts + 1))
            else:
                other.shards.append(place.shards.pop(0))
