"""Seeds as a named tree: adding a policy or an evaluation never shifts the random numbers of another."""

from __future__ import annotations

import hashlib

__all__ = ["seed_for"]


def seed_for(root: int, *names: str | int) -> int:
    """A 63-bit seed for one named use, e.g. `seed_for(0, "sample", step, policy)`."""
    key = "/".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
