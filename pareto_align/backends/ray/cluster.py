"""The cluster: connecting to it, what is reserved there, and whether there is room."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pareto_align.errors import ConfigError

__all__ = ["PATIENCE_S", "Needs", "Place", "check_size", "connect", "has_room", "reserve", "wait_for_room"]

PATIENCE_S = 5.0
"""Seconds in which a cluster has to take up a connection, or to find room for workers that a run can begin without."""
POLL_S = 0.05
"""Seconds between two looks at whether there is room."""


@dataclass(frozen=True)
class Needs:
    """What is reserved for one worker."""

    cpus: float
    gpus: float

    @property
    def bundle(self) -> dict[str, float]:
        """As Ray has it."""
        return {kind: each for kind, each in (("CPU", float(self.cpus)), ("GPU", float(self.gpus))) if each}

    def times_in(self, machine: Mapping[str, float]) -> int:
        """How many workers a machine has room for that has so much of what."""
        return min(int(machine.get(kind, 0) / each + 1e-6) for kind, each in self.bundle.items())

    def __str__(self) -> str:
        return ", ".join(f"{amount:g} {kind}" for kind, amount in self.bundle.items())


@dataclass(eq=False)
class Place:
    """One worker's place in the cluster, whoever works there.

    Attributes:
        called: What somebody there is, with a number, for messages.
        number: Of the place.
        needs: What a worker there has.
        group: What is reserved for it, or asked for; None where it is not tried again.
        actor: Who works there now; None where nobody can.
        coming: The result of making the host; None as soon as the worker takes part.
        until: When that has to be there.
        failed: Times in a row that nobody could be started where there was room.
        where: Its machine and process.
        shards: Those that are there.
        left: Those that have moved away, and have yet to be taken off it.
    """

    called: str
    number: int
    needs: Needs
    group: Any
    actor: Any = None
    coming: Any = None
    until: float = 0.0
    failed: int = 0
    where: str = "not started"
    shards: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)

    @property
    def staffed(self) -> bool:
        """Whether somebody takes part there."""
        return self.actor is not None and self.coming is None

    def __str__(self) -> str:
        return f"{self.called} ({self.where})"

    def employ(self, kind: type, arguments: Sequence[Any], patience_s: float, *given: Any) -> None:
        """Let somebody new come, who begins with `start`.

        Args:
            kind: Of actor.
            arguments: Of `start`.
            patience_s: Seconds that it may take.
            given: Arguments of the actor itself.
        """
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        options = {
            "num_cpus": self.needs.cpus,
            "num_gpus": self.needs.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, 0),
        }
        self.where = f"{_machine_of(self.group)}, not started"
        self.actor = ray.remote(kind).options(**options).remote(*given)
        self.coming = self.actor.start.remote(*arguments)
        self.until = time.monotonic() + patience_s

    def dismiss(self) -> None:
        """Let nobody work there."""
        import ray

        if self.actor is not None:
            ray.kill(self.actor)
        self.actor = self.coming = None
        self.left.clear()

    def give_up(self) -> None:
        """Ask for nothing there any more."""
        import ray

        if self.group is not None:
            ray.util.remove_placement_group(self.group)
        self.group = None


def connect(address: str | None, cpus: int) -> bool:
    """Connect to a cluster, or start one.

    Args:
        address: Of the cluster; None: one is started on this machine.
        cpus: That it has at least, if it is started.

    Returns:
        Whether the connection was made now.

    Raises:
        ConfigError: There is none, or it is one of other versions.
    """
    import ray

    if ray.is_initialized():
        return False
    if address is None:
        cpus = max(os.cpu_count() or 1, cpus)
        ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR)
        return True
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal():  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), PATIENCE_S).close()
        ray.init(address, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"Backend 'ray': there is no cluster at {address!r} that this process could join: {error}. "
            "Start one with `ray start --head`, with the same versions of Ray and Python as here; one that asks "
            "for a token needs RAY_AUTH_MODE=token here too."
        ) from error
    return True


def check_size(wanted: Sequence[tuple[int, str, Needs]]) -> None:
    """Whether a cluster has what workers need, be it in use or not, and each of them on one machine.

    Args:
        wanted: How many there are of what, and what each needs.

    Raises:
        ConfigError: It has not.
    """
    import ray

    there, wanted = ray.cluster_resources(), [one for one in wanted if one[0]]
    needs: dict[str, float] = {}
    for count, _, each in wanted:
        for kind, amount in each.bundle.items():
            needs[kind] = needs.get(kind, 0) + count * amount
    if any(there.get(kind, 0) < amount for kind, amount in needs.items()):
        workers = " and ".join(told(count, name) for count, name, _ in wanted)
        asked = ", ".join(f"{amount:g} {kind}" for kind, amount in needs.items())
        has = ", ".join(f"{there.get(kind, 0):g} {kind}" for kind in needs)
        one = sum(count for count, *_ in wanted) == 1
        raise ConfigError(
            f"Backend 'ray': {workers} need{'s' if one else ''} {asked}, and the cluster has {has}."
            + (" `min_workers` lets a run begin with fewer." if wanted[0][0] > 1 else "")
        )
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for count, name, each in wanted:
        fit = sum(each.times_in(machine) for machine in machines)
        if fit < count:
            raise ConfigError(
                f"Backend 'ray': a {name} needs {each} on one machine, and those of the cluster have room for "
                f"{fit if fit else 'none'}{f' of {count}' if fit else ''}. Take less for each, or larger machines."
            )


def _machine_of(group: Any) -> str:
    """Name of the machine where there is room for a worker, for messages."""
    import ray

    names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
    (there,) = ray.util.placement_group_table(group)["bundles_to_node_id"].values()
    return str(names.get(there, "no machine"))


def reserve(needs: Needs, workers: int, name: str = "worker") -> list[Place]:
    """Ask for what workers need.

    Each is asked for by itself: Ray gives back one that was lost as soon as there is room for it, whatever became
    of the others, and a cluster that grows by itself learns what is missing.
    """
    import ray

    run = f"pareto-align-{uuid.uuid4().hex[:12]}"  # of its own: a run that is begun again meets no old one
    return [
        Place(f"{name} {number}", number, needs, ray.util.placement_group([needs.bundle], name=f"{run}-{number}"))
        for number in range(workers)
    ]


def wait_for_room(places: Sequence[Place], least: int, start_timeout_s: float, name: str = "worker") -> list[Place]:
    """The places where there is room for a worker now.

    Raises:
        ConfigError: They are fewer than `least` after `start_timeout_s` seconds.
    """
    begun = time.monotonic()
    while len(found := [place for place in places if has_room(place)]) < len(places):
        waited = time.monotonic() - begun
        if waited >= (start_timeout_s if len(found) < least else min(PATIENCE_S, start_timeout_s)):
            break
        time.sleep(POLL_S)
    if len(found) < least:
        raise ConfigError(
            f"Backend 'ray': the cluster had no room for {told(least, name)} in {start_timeout_s:g} seconds. Others "
            f"use it, or no machine is large enough for one {name}."
        )
    return found


def has_room(place: Place) -> bool:
    """Whether what a place needs is reserved for it now."""
    import ray

    return bool(ray.util.placement_group_table(place.group)["state"] == "CREATED")


def told(count: int, name: str) -> str:
    """So many of something, in words."""
    return f"{count} {name}{'s' if count != 1 else ''}"
