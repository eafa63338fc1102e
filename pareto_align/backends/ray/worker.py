"""What runs in the processes of workers: one host, or the ranks that are one; or the objectives that one judges by."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from pareto_align.backends.protocol import Host
from pareto_align.backends.ranks import RankLost, Ranks
from pareto_align.objectives import Objective
from pareto_align.objectives.calling import RewardCall
from pareto_align.objectives.verdicts import Verdict, verdicts
from pareto_align.versions import versions

__all__ = ["RewardWorker", "Worker"]


class Worker:
    """An actor. It has one call at a time."""

    def start(self, make: Callable[[], Host], threads: int, ranks: int = 1) -> str:
        """Make the host; where this is, for messages."""
        import torch

        threads = max(1, threads // ranks)
        torch.set_num_threads(threads)
        self.host = make() if ranks == 1 else Ranks(make, ranks, apart=False, threads=threads)
        return _here()

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


class RewardWorker:
    """An actor that judges. It has one call at a time, in its main thread, which some rewards need.

    Args:
        path: Where the process of the run looks for modules; here too, first.
        folder: That it is in. Where this machine has it, files are looked for from there, and else from where Ray was
            started.
    """

    def __init__(self, path: Sequence[str], folder: str) -> None:
        sys.path[:] = [*path, *(folder for folder in sys.path if folder not in path)]
        with suppress(OSError):
            os.chdir(folder)

    def start(self, objectives: Mapping[int, Objective], threads: int) -> tuple[str, str, dict[str, str]]:
        """Take the objectives, by column; where this is, for messages, the machine's name and the versions there."""
        import torch

        torch.set_num_threads(threads)
        self.objectives = objectives
        return _here(), socket.gethostname(), versions()

    def judge(self, columns: Sequence[int], batch: RewardCall, answered: Collection[str]) -> dict[int, Verdict]:
        """What some of its objectives say to a batch."""
        found = verdicts([self.objectives[column] for column in columns], batch, answered)
        return dict(zip(columns, found, strict=True))


def _here() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"
