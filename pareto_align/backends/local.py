"""All shards in this process, one after another, on one model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pareto_align.backends.protocol import Backend, Calls, Host, register_backend

__all__ = ["Local"]


@register_backend("local")
class Local(Backend):
    """One host, in this process. Nothing is copied, and nothing dies alone."""

    def __init__(self) -> None:
        self.host: Host | None = None
        self.shards = 0
        self._first: deque[tuple[int, str, tuple[Any, ...]]] = deque()
        self._begun: deque[tuple[int, str, tuple[Any, ...]]] = deque()

    def open(self, make: Callable[[], Host], shards: int) -> None:
        """See `Backend.open`."""
        self.close()
        self.host, self.shards = make(), shards

    def close(self) -> None:
        """See `Backend.close`."""
        self.host = None
        self._first.clear()
        self._begun.clear()

    def everywhere(self, method: str, *arguments: Any) -> list[Any]:
        """See `Backend.everywhere`."""
        return [getattr(self.host, method)(*arguments)]

    def populate(self) -> None:
        """See `Backend.populate`."""
        assert self.host is not None
        for shard in range(self.shards):
            self.host.open(shard)

    def anywhere(self, method: str, several: Sequence[tuple[Any, ...]]) -> list[Any]:
        """See `Backend.anywhere`."""
        return [getattr(self.host, method)(*arguments) for arguments in several]

    def call(self, method: str, calls: Calls) -> dict[int, Any]:
        """See `Backend.call`."""
        assert self.host is not None
        return {shard: self.host.call(shard, method, arguments) for shard, arguments in calls.items()}

    def begin(self, shard: int, method: str, arguments: tuple[Any, ...], *, first: bool = False) -> None:
        """See `Backend.begin`. It is made when it is asked whether it has ended."""
        (self._first if first else self._begun).append((shard, method, arguments))

    def ended(self, wait: float | None = None) -> tuple[int, Any] | None:
        """See `Backend.ended`."""
        assert self.host is not None
        if not self._first and not self._begun:
            return None
        shard, method, arguments = (self._first or self._begun).popleft()
        return shard, self.host.call(shard, method, arguments)
