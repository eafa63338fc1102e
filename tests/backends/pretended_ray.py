"""A pretended cluster in this process: what the backend uses of Ray, with workers that die or hang when told to.

Workers have their own hosts, and what is sent to and fro is copied, as by Ray. A call is made at once; one that hangs
is never made.
"""

from __future__ import annotations

import pickle
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class Cluster:
    """What is told of it.

    Attributes:
        calls: How many calls were made on workers.
        fate: By the number of a call, what happens to the worker then: "dies before", "dies after" or "hangs".
        broken: Numbers of places where no worker can be started any more once one was lost.
        alive: Actors that were not killed.
    """

    def __init__(self, cpus=8):
        self.calls, self.fate, self.cpus, self.broken = 0, {}, cpus, set()
        self.alive, self.results, self.lost_at = set(), {}, set()

    def install(self, monkeypatch):
        """Put it in Ray's place."""
        modules = {name: ModuleType(name) for name in ("ray", "ray.exceptions", "ray.util")}
        modules["ray.util.scheduling_strategies"] = ModuleType("ray.util.scheduling_strategies")
        ray, exceptions, util, strategies = modules.values()
        ray.__spec__ = ModuleSpec("ray", None)
        ray.__path__ = []
        ray.exceptions, ray.util, util.scheduling_strategies = exceptions, util, strategies
        for kind in (RayError, GetTimeoutError, RayTaskError, RayActorError):
            setattr(exceptions, kind.__name__, kind)
        strategies.PlacementGroupSchedulingStrategy = lambda group, number: number
        util.placement_group = lambda bundles, name: Group()
        util.remove_placement_group = lambda group: None
        ray.is_initialized = lambda: True
        ray.cluster_resources = lambda: {"CPU": float(self.cpus)}
        ray.put, ray.get, ray.wait, ray.kill = self.put, self.get, self.wait, self.alive.discard
        ray.remote = lambda kind: Maker(self, kind)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

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
        ready = [reference for reference in references if reference.state[0] != "never"]
        return ready[:1], [reference for reference in references if reference not in ready[:1]]

    def made(self, actor, method, arguments):
        """The result of a call on a worker, whatever becomes of it."""
        fate = self.fate.get(self.calls)
        self.calls += 1
        if fate is not None:
            self.lost_at.add(actor.number)
        if fate == "hangs":
            return "never", None
        if fate == "dies before":
            self.alive.discard(actor)
        if actor not in self.alive or (actor.number in self.broken & self.lost_at):
            return "lost", None
        given = [copied(self.get(one) if isinstance(one, Reference) else one) for one in arguments]
        try:
            found = "value", copied(getattr(actor.instance, method)(*given))
        except Exception as error:
            found = "failed", error
        if fate == "dies after":
            self.alive.discard(actor)
            return "lost", None
        return found


class Reference:
    def __init__(self, cluster, state):
        self.cluster, self.state = cluster, state


class Maker:
    def __init__(self, cluster, kind):
        self.cluster, self.kind = cluster, kind

    def options(self, **options):
        self.number = options["scheduling_strategy"]
        return self

    def remote(self):
        actor = Actor(self.cluster, self.kind(), self.number)
        self.cluster.alive.add(actor)
        return actor


class Actor:
    def __init__(self, cluster, instance, number):
        self.instance, self.number = instance, number
        self.start, self.do = Method(cluster, self, "start"), Method(cluster, self, "do")


class Method:
    def __init__(self, cluster, actor, name):
        self.cluster, self.actor, self.name = cluster, actor, name

    def remote(self, *arguments):
        return Reference(self.cluster, self.cluster.made(self.actor, self.name, arguments))


class Group:
    def wait(self, seconds):
        return True


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
