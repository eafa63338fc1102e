"""A host that is several processes on one machine, its ranks, which share one model.

They are started by a command of their own, and not as copies of this process or by importing its script once more: a
script that fits without `if __name__ == "__main__"` may have ranks too. What is sent is pickled, and goes through pipes
that nobody else has; no file is ever unpickled. They end with this process, or as soon as one of them fails: nobody is
left to wait for the others within a sum over all of them.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from pareto_align.backends.protocol import Host
from pareto_align.errors import ConfigError, ParetoAlignError, TrainingError

__all__ = ["Job", "RankLost", "Ranks", "check_system", "serve"]

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
GRACE_S = 5.0
"""Seconds that a rank has to be gone once it is told to."""


def check_system(backend: str, ranks: int) -> None:
    """Whether there can be ranks on this system.

    Raises:
        ConfigError: There cannot.
    """
    if ranks > 1 and sys.platform == "win32":
        raise ConfigError(f"Backend {backend!r}: there are no ranks on Windows. Leave `ranks` out.")


class RankLost(TrainingError):
    """A rank is gone."""


@dataclass(frozen=True)
class Job:
    """A call of a host, or of a shard on it.

    Attributes:
        place: Where ranks work apart, the number that says which of them makes it.
        method, arguments: Of the call.
        shard: Whose method it is; None: the host's own.
    """

    place: int
    method: str
    arguments: Sequence[Any]
    shard: int | None = None

    def on(self, host: Host) -> Any:
        """Make the call."""
        if self.shard is None:
            return getattr(host, self.method)(*self.arguments)
        return host.call(self.shard, self.method, self.arguments)


class Ranks:
    """Processes that each hold a part of one host's model.

    Args:
        make: Makes the host of one rank; called in each of them, in a process group of all.
        count: How many.
        apart: Whether each has calls of its own, while the others `attend`. Otherwise all make every call, and the
            first one's results are told.
        threads: That each computes with.

    Raises:
        ConfigError: A rank cannot be started, or cannot make its host.
    """

    def __init__(self, make: Callable[[], Host], count: int, *, apart: bool, threads: int) -> None:
        self.count, self.apart = count, apart
        self._folder = tempfile.mkdtemp(prefix="pareto-align-ranks-")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lines: list[Connection] = []
        try:
            for rank in range(count):
                self._start(rank, threads)
            self._exchange([make] * count)
        except (TrainingError, OSError) as error:
            self.close()
            raise ConfigError(f"The ranks cannot be started: {error}") from error

    def _start(self, rank: int, threads: int) -> None:
        ours, theirs = Pipe()
        told = theirs.fileno(), rank, self.count, str(Path(self._folder) / "store"), threads
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve(*{told!r})"
        # several of one machine meet each other there, and need no name that can be looked up
        environment = {"GLOO_SOCKET_IFNAME": LOOPBACK, **os.environ}
        with theirs:
            self._processes.append(
                subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=environment)
            )
        self._lines.append(ours)

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Make calls, and return what they return.

        Raises:
            ParetoAlignError: A call failed; a note has the rank's own traceback.
            RankLost: A rank is gone, and all others with it.
        """
        if not self.apart:
            return self._all(jobs)
        own = [[n for n, job in enumerate(jobs) if job.place % self.count == rank] for rank in range(self.count)]
        found = self._exchange([([jobs[n] for n in some], True) for some in own])
        results = {
            n: result for some, told in zip(own, found, strict=True) for n, result in zip(some, told, strict=True)
        }
        return [results[n] for n in range(len(jobs))]

    def everywhere(self, method: str, arguments: Sequence[Any]) -> Any:
        """Make a call of every rank's host; what the first one returns."""
        return self._all([Job(0, method, arguments)])[0]

    # what a host is asked for, so that a group can stand in the place of one

    def open(self, shard: int) -> None:
        """See `Host.open`."""
        self.run([Job(shard, "open", (shard,))])

    def call(self, shard: int, method: str, arguments: Sequence[Any]) -> Any:
        """See `Host.call`."""
        return self.run([Job(shard, method, arguments, shard)])[0]

    def close(self) -> None:
        """End the processes."""
        for line in self._lines:
            line.close()
        for process in self._processes:
            process.kill()  # there is nothing that they would have to save
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        self._processes, self._lines = [], []
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all(self, jobs: Sequence[Job]) -> list[Any]:
        """Let every rank make all calls; what the first one finds."""
        first, others = (list(jobs), True), (list(jobs), False)
        return self._exchange([first, *[others] * (self.count - 1)])[0]

    def _exchange(self, told: Sequence[Callable[[], Host] | tuple[list[Job], bool]]) -> list[list[Any]]:
        """Let each rank make a host, or calls of it; what those found that are to tell it."""
        found: list[list[Any]] = [[] for _ in told]
        try:
            if not self._lines:
                raise TrainingError("The ranks have ended. What was saved can be gone on with: `resume`.")
            messages = {id(one): pickle.dumps(one) for one in told}  # what is the same for all, once
            for rank, (line, one) in enumerate(zip(self._lines, told, strict=True)):
                try:
                    line.send_bytes(messages[id(one)])
                except OSError:
                    raise self._lost(rank) from None
            waiting = dict(enumerate(self._lines))
            while waiting:
                ready = wait(list(waiting.values()))
                for rank in [rank for rank, line in waiting.items() if line in ready]:
                    found[rank] = self._answer(rank, waiting.pop(rank))
        except ParetoAlignError as error:
            gone = [rank for rank, process in enumerate(self._processes) if process.poll() is not None]
            lost = self._lost(gone[0]) if gone and not isinstance(error, RankLost) else None
            self.close()
            if lost is not None:  # the others fail as well, for they wait for it
                raise lost from error
            raise
        except BaseException:
            self.close()
            raise
        return found

    def _answer(self, rank: int, line: Connection) -> list[Any]:
        try:
            done, answer = _received(line)
        except (EOFError, OSError):
            raise self._lost(rank) from None
        if done:
            found: list[Any] = answer
            return found
        error, trace = answer
        error.add_note(f"Rank {rank} on {socket.gethostname()}:\n{trace}")
        raise error

    def _lost(self, rank: int) -> RankLost:
        process = self._processes[rank]
        try:
            how = f"exit code {process.wait(GRACE_S)}"
        except subprocess.TimeoutExpired:
            how = "it answers no more"
        return RankLost(
            f"Rank {rank} of {self.count} (process {process.pid}) was lost: {how}. What was saved can be gone on with: "
            "`resume`."
        )


def serve(fileno: int, rank: int, count: int, store: str, threads: int) -> None:
    """What runs in the process of a rank, until the other side is gone.

    Args:
        fileno: Of the connection to whoever started it.
        rank: Its number, of `count`.
        count: How many there are.
        store: A file through which they meet.
        threads: That it computes with.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides what is to be done about it
    if rank:
        warnings.simplefilter("ignore")  # the first one says it
    line = Connection(fileno)
    host: Any = None
    try:
        while True:
            told = _received(line)
            answer: tuple[bool, Any]
            try:
                if isinstance(told, ConfigError):
                    raise told
                if host is None:
                    _meet(rank, count, store, threads)
                if callable(told):
                    host, told = told(), ([], False)
                jobs, asked = told
                found = [job.on(host) for job in jobs]
                host.attend()
                answer = True, found if asked else []
            except Exception as error:
                answer = False, (_sendable(error), traceback.format_exc())
            line.send_bytes(pickle.dumps(answer))
    except (EOFError, OSError):
        os._exit(0)  # others may be waiting for this rank within a call of a library


def _meet(rank: int, count: int, store: str, threads: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(threads)
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo", store=dist.FileStore(store, count), rank=rank, world_size=count
    )


def _received(line: Connection) -> Any:
    """What the process at the other end has sent; a `ConfigError` where it is of something that is not known here."""
    message = line.recv_bytes()
    try:
        return pickle.loads(message)
    except (AttributeError, ImportError) as error:
        return ConfigError(
            f"A rank cannot find what the run was given: {error}. A class or function of one's own has to be in a "
            "module that can be imported, and not in the script or notebook itself."
        )


def _sendable(error: Exception) -> Exception:
    """An error as one of this package's, which can be sent."""
    if isinstance(error, ParetoAlignError):
        return error
    return TrainingError(f"A call failed on a rank: {type(error).__name__}: {error}")
