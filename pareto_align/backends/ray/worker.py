"""What runs in a worker's process: one host, or the ranks that are one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from pareto_align.backends.protocol import Host
from pareto_align.backends.ranks import RankLost, Ranks

__all__ = ["Worker"]


class Worker:
    """An actor. It has one call at a time."""

    def start(self, make: Callable[[], Host], threads: int, ranks: int = 1) -> str:
        """Make the host; where this is, for messages."""
        import torch

        threads = max(1, threads // ranks)
        torch.set_num_threads(threads)
        self.host = make() if ranks == 1 else Ranks(make, ranks, apart=False, threads=threads)
        return f"{socket.gethostname()}, process {os.getpid()}"

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
