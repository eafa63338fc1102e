"""Hosts on the workers of a Ray cluster, or of one that is started on this machine for the run."""

from __future__ import annotations

from pareto_align.backends.ray.backend import Ray

__all__ = ["Ray"]
