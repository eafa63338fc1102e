"""A pretended cluster in this process: what the backend uses of Ray, with workers that die or hang when told to.

Workers have their own hosts, and what is sent to and fro is copied, as by Ray. A call is made at once; one that hangs
is never made.
"""

from __future__ import annotations

import pickle
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType


class Cluster:
    """What is told of it.

    Attributes:
        calls: How many calls were made on workers.
        fate: By the number of a call, what happens to the worker then: "dies before", "dies after" or "hangs"; or
            "leaves": its machine is gone, with what was reserved there, unless no other worker is left. Or a number:
            of times that one looks before its result is there.
        broken: Numbers of places where no worker can be started any more once one was lost.
        alive: Actors that were not killed.
        groups: All that was reserved or asked for, and not given back.
        free: CPUs that nobody has reserved.
        machines: CPUs of each machine; by default there is one with all of them.
        asked_of: Number of the place that the last call was made at.
        judged, verdict: The same as `calls` and `fate` of what reward workers are asked.
        struck: How often a fate came true.
        started: How many workers were told to make their hosts.
    """

    def __init__(self, cpus=8):
        self.calls, self.fate, self.cpus, self.broken = 0, {}, cpus, set()
        self.alive, self.lost_at, self.struck, self.started = set(), set(), 0, 0
        self.free, self.groups, self.asked, self.asked_of, self.machines = cpus, [], 0, None, []
        self.judged, self.verdict, self.one_by_one = 0, {}, threading.Lock()

    def install(self, monkeypatch):
        """Put it in Ray's place."""
        modules = {name: ModuleType(name) for name in ("ray", "ray.exceptions", "ray.util")}
        modules["ray.util.scheduling_strategies"] = ModuleType("ray.util.scheduling_strategies")
        ray, exceptions, util, strategies = modules.values()
        ray.__spec__ = ModuleSpec("ray", None)
        ray.__path__ = []
        ray.cloudpickle = pickle
        ray.exceptions, ray.util, util.scheduling_strategies = exceptions, util, strategies
        for kind in (RayError, GetTimeoutError, RayTaskError, RayActorError):
            setattr(exceptions, kind.__name__, kind)
        strategies.PlacementGroupSchedulingStrategy = lambda group, bundle: group
        util.placement_group, util.remove_placement_group = self.reserve, self.give_back
        util.placement_group_table = lambda group: {
            "state": group.state,
            "bundles_to_node_id": {0: f"node {group.number}"},
        }
        ray.is_initialized = lambda: True
        ray.cluster_resources = lambda: {"CPU": float(self.cpus)}
        ray.nodes = lambda: [
            {"NodeID": f"node {n}", "NodeManagerHostname": f"host-{n}", "Alive": True, "Resources": {"CPU": each}}
            for n, each in enumerate(self.machines or [self.cpus])
        ]
        ray.put, ray.get, ray.wait, ray.kill = self.put, self.get, self.wait, self.alive.discard
        ray.remote = lambda kind: Maker(self, kind)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def reserve(self, bundles, name):
        (needs,) = (bundle["CPU"] for bundle in bundles)
        self.groups.append(Group(self.asked, needs))
        self.asked += 1
        self.join(0)
        return self.groups[-1]

    def give_back(self, group):
        self.groups.remove(group)
        self.join(group.needs if group.state == "CREATED" else 0)

    def join(self, cpus):
        """A machine comes: what was asked for first has it first."""
        self.free += cpus
        for group in self.groups:
            if group.state != "CREATED" and group.needs <= self.free:
                group.state = "CREATED"
                self.free -= group.needs

    def leave(self, group):
        """The machine of a group is gone; if there is room elsewhere the group is there at once."""
        self.alive -= {actor for actor in self.alive if actor.group is group}
        group.state = "RESCHEDULING"
        self.join(0)

    def put(self, value):
        return Reference(self, ("value", copied(value)))

    def get(self, reference, timeout=None):
        state, value = reference.state
        if state == "never":
            raise GetTimeoutError
        if state == "lost":
            raise RayActorError("The actor died unexpectedly.")
        if state == "failed":
            raise RayTaskError(value)
        return copied(value)

    def wait(self, references, timeout):
        ready = [reference for reference in references if reference.is_there()]
        return ready[:1], [reference for reference in references if reference not in ready[:1]]

    def made(self, actor, method, arguments):
        """The result of a call on a worker, whatever becomes of it."""
        if hasattr(actor.instance, "judge"):
            return self.said(actor, method, arguments)
        self.started += method == "start"
        fate, self.asked_of = self.fate.get(self.calls), actor.number
        self.calls += 1
        if isinstance(fate, str):
            self.struck += 1
            self.lost_at.add(actor.number)
        if fate == "hangs":
            return "never", None
        if fate == "dies before":
            self.alive.discard(actor)
        if fate == "leaves" and any(other.group is not actor.group for other in self.alive):
            self.leave(actor.group)
        if actor.group.state != "CREATED":
            return ("never" if actor in self.alive else "lost"), None
        if actor not in self.alive or (actor.number in self.broken & self.lost_at):
            return "lost", None
        found = self.called(actor, method, arguments)
        if isinstance(fate, int):
            return *found, fate
        if fate == "dies after":
            self.alive.discard(actor)
            return "lost", None
        return found

    def called(self, actor, method, arguments):
        """What a call comes to where nothing becomes of the worker."""
        given = [copied(self.get(one) if isinstance(one, Reference) else one) for one in arguments]
        try:
            return "value", copied(getattr(actor.instance, method)(*given))
        except Exception as error:
            return "failed", error

    def said(self, actor, method, arguments):
        """The result of a call on a reward worker, which a thread of its own asks for."""
        with self.one_by_one:
            fate = self.verdict.get(self.judged) if method == "judge" else None
            self.judged += method == "judge"
            self.struck += fate is not None
        if fate == "hangs":
            return "never", None
        if fate == "dies before":
            self.alive.discard(actor)
        if actor not in self.alive:
            return "lost", None
        found = self.called(actor, method, arguments)
        if fate == "dies after":
            self.alive.discard(actor)
            return "lost", None
        return found


class Reference:
    def __init__(self, cluster, state):
        self.cluster, self.state, self.looks = cluster, state[:2], sum(state[2:])

    def is_there(self):
        self.looks -= 1
        return self.looks < 0 and self.state[0] != "never"


class Maker:
    def __init__(self, cluster, kind):
        self.cluster, self.kind = cluster, kind

    def options(self, **options):
        self.group = options["scheduling_strategy"]
        return self

    def remote(self, *given):
        actor = Actor(self.cluster, self.kind(*given), self.group)
        self.cluster.alive.add(actor)
        return actor


class Actor:
    def __init__(self, cluster, instance, group):
        self.instance, self.group, self.number = instance, group, group.number
        self.start, self.do, self.judge = (Method(cluster, self, name) for name in ("start", "do", "judge"))


class Method:
    def __init__(self, cluster, actor, name):
        self.cluster, self.actor, self.name = cluster, actor, name

    def remote(self, *arguments):
        return Reference(self.cluster, self.cluster.made(self.actor, self.name, arguments))


class Group:
    def __init__(self, number, needs):
        self.number, self.needs, self.state = number, needs, "PENDING"


class RayError(Exception):
    pass


class GetTimeoutError(RayError):
    pass


class RayActorError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(f"the worker's own traceback: {cause!r}")
        self.cause = cause


def copied(value):
    """As if it had been sent."""
    return pickle.loads(pickle.dumps(value))
