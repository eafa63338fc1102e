"""What a backend does: it keeps hosts, which hold models and shards of policies, and carries calls to them.

A shard is some of a run's policies that are always sampled and trained together. The shapes of all that is computed for
it depend on it alone, so its bytes are the same on whichever host it is and whatever else is there. The run itself
(archive, weighting, explorer, journal, rewards) stays where it was begun, and needs no model.

A backend knows nothing of policies: it hands calls on by name. One whose hosts may be lost remembers what brings a
shard to where it was, the state that it last went on from and the calls that changed it since. Those hold the rewards
and weights of every step, and all random numbers have seeds of their own, so a shard goes through its steps again
alone: no other host is asked, and no reward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from pareto_align.arguments import KeepsArguments
from pareto_align.objectives import Objective, ObjectiveSet
from pareto_align.registry import Registry

__all__ = [
    "READS",
    "RESTORE",
    "SNAPSHOT",
    "Alike",
    "Backend",
    "Calls",
    "Host",
    "available_backends",
    "backends",
    "make_backend",
    "register_backend",
]

READS = frozenset({"home", "scale", "engine_state"})
"""Methods of a shard that leave it as it is."""
SNAPSHOT, RESTORE = "state", "load"
"""The method that returns all that a shard goes on from, and the one that takes it."""

Calls = Mapping[int, tuple[Any, ...]]
"""The arguments of a call, by the number of the shard that is called."""

Alike = Callable[[Sequence[Any]], None]
"""Is told what several hosts said, and raises ConfigError where these cannot work together."""


class Host(Protocol):
    """Holds a model, and the shards that are on it. What else a host can do is called by name as well."""

    def open(self, shard: int) -> None:
        """Put a shard on it, as it is at the beginning of a run."""

    def drop(self, shard: int) -> None:
        """Take a shard off it, which is on another one now."""

    def call(self, shard: int, method: str, arguments: Sequence[Any]) -> Any:
        """Call a method of a shard that is on it."""

    def attend(self) -> None:
        """One of several ranks that share a model: help the others until none has a call to make any more."""


class Backend(KeepsArguments, ABC):
    """Keeps hosts and carries calls to them; for one run at a time.

    Attributes:
        name: What it is chosen by.
        remote: Whether the hosts are other processes, so that what is sent is copied, and the model is not here.
        sharding: How the ranks of a host share its model, one of `policies.sharding.loading.SHARDINGS`; None where a
            host is one process.
    """

    kind = "Backend"
    name: ClassVar[str] = ""
    remote: bool = False
    sharding: str | None = None

    def check(self, shards: int) -> None:
        """See, before anything is loaded, whether it can hold so many shards.

        Raises:
            ConfigError: It cannot.
        """

    def check_rewards(self, objectives: Sequence[Objective], apart: Sequence[int], shards: int) -> None:
        """See, before anything is loaded, whether it can ask objectives where it is to.

        Args:
            objectives: All of the run.
            apart: Columns of those that judge each of the shards by itself.
            shards: How many there will be.

        Raises:
            ConfigError: It cannot.
        """

    @abstractmethod
    def open(self, make: Callable[[], Host], shards: int) -> None:
        """Begin a run: make the hosts.

        Args:
            make: Makes one, where it is to be; loads the model.
            shards: How many there will be.

        Raises:
            ConfigError: There is no such cluster, it has too little of something, or a host cannot be made there.
        """

    def take(self, objectives: ObjectiveSet, apart: Sequence[int]) -> None:
        """From now until `close`, ask objectives where they are to be asked; by default all stay in this process.

        Args:
            objectives: All of the run.
            apart: As of `check_rewards`.

        Raises:
            ConfigError: An objective cannot be asked there.
        """

    @abstractmethod
    def close(self) -> None:
        """End the run; does nothing where none was begun."""

    @abstractmethod
    def everywhere(self, method: str, *arguments: Any, alike: Alike | None = None) -> list[Any]:
        """Call a method of every host, and of every host that is made later, in the same order.

        Args:
            method: Of a host.
            arguments: Of the call.
            alike: Is told what the hosts said; of one that is made later with what the first one said.

        Raises:
            ConfigError: `alike` refuses the hosts. One that is made later and refused takes no part.
        """

    @abstractmethod
    def populate(self) -> None:
        """Put every shard on a host."""

    @abstractmethod
    def anywhere(self, method: str, several: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method that leaves no trace, once for each of several arguments, on whichever host is free."""

    @abstractmethod
    def call(self, method: str, calls: Calls) -> dict[int, Any]:
        """Call a method of some shards; what each returned, by its number.

        Raises:
            TrainingError: A host was lost, and so was what came in its place.
        """

    @abstractmethod
    def begin(self, shard: int, method: str, arguments: tuple[Any, ...], *, first: bool = False) -> None:
        """Ask for a call of a shard, and go on meanwhile; a shard has one such call at a time.

        Args:
            shard: Which.
            method: Of it.
            arguments: Of the call.
            first: It comes before the calls that wait for the same host.
        """

    @abstractmethod
    def ended(self, wait: float | None = None) -> tuple[int, Any] | None:
        """The shard of a call that was begun and has ended, and what it returned.

        Args:
            wait: Seconds in which one must have ended; None: as long as it takes.

        Returns:
            None where none has ended.

        Raises:
            TrainingError: A host was lost, and so was what came in its place.
        """

    def rest(self, shards: Sequence[int] | None = None) -> None:
        """Some shards are between two steps: their state is all there is of them, and they may move to another host.

        Asked for before every step; where steps overlap, before every step of a shard, of that one.

        Args:
            shards: Which; None: all.
        """


backends: Registry[Backend] = Registry("backend", Backend)  # type: ignore[type-abstract]
register_backend = backends.register


def available_backends() -> list[str]:
    """Names of all registered backends."""
    return backends.names()


def make_backend(backend: str | Mapping[str, Any] | Backend) -> Backend:
    """A backend by name, by a mapping with `name` and settings, or the instance given.

    Raises:
        ConfigError: The name or a setting is unknown.
    """
    return backends.make(backend)
