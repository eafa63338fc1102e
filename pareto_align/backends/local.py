"""All shards in this process, one after another, on one model."""

from __future__ import annotations

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

    def open(self, make: Callable[[], Host], shards: int) -> None:
        """See `Backend.open`."""
        self.host, self.shards = make(), shards

    def close(self) -> None:
        """See `Backend.close`."""
        self.host = None

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
