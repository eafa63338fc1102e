"""A call of a worker, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pareto_align.backends.ray.cluster import Place
from pareto_align.errors import ParetoAlignError, TrainingError

__all__ = ["ATTEMPTS", "Job", "Late", "Lost", "result_of"]

ATTEMPTS = 3
"""Times that a call is made in all before what it does is taken to be the reason that workers are lost."""


class Lost(Exception):
    """A worker is gone, or does not answer in time."""


class Late(Lost):
    """It does not answer in time."""


@dataclass(eq=False)
class Job:
    """A call that has to be made: a shard's, the host's at a place, or where both are None any host's."""

    number: int
    method: str
    arguments: Sequence[Any]
    shard: int | None = None
    place: Place | None = None
    attempts: int = 0
    begun: bool = False
    first: bool = False
    done: bool = False
    result: Any = None

    def may_run_at(self, place: Place) -> bool:
        """Whether a place can make the call."""
        if self.shard is not None:
            return self.shard in place.shards
        return self.place in (None, place)

    def __str__(self) -> str:
        return f"{self.method!r}" if self.shard is None else f"{self.method!r} of shard {self.shard}"


def result_of(reference: Any, job: object, place: Place, *, wait: float | None, limit: str) -> Any:
    """What a call returned.

    Args:
        reference: Of the result.
        job: The call, for messages.
        place: Where it is made.
        wait: Seconds in which it must be there; None: it is.
        limit: What sets that, for messages.

    Raises:
        Lost: The worker is gone, or was too slow.
        ParetoAlignError: The call failed; a note has the worker's own traceback.
    """
    import ray
    from ray import exceptions

    try:
        return ray.get(reference, timeout=wait)
    except exceptions.GetTimeoutError:
        raise Late(f"{job} did not end in time ({limit})") from None
    except exceptions.RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, ParetoAlignError):
            cause = TrainingError(f"{job} failed on {place}: {type(cause).__name__}: {cause}")
        cause.add_note(f"{job} on {place}:\n{error}")
        raise cause from None
    except exceptions.RayError as error:
        raise Lost(str(error).strip().splitlines()[0].rstrip(".")) from None
