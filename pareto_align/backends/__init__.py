"""Where the policies of a run are: in this process, or on the workers of a cluster."""

from __future__ import annotations

from pareto_align.backends.local import Local
from pareto_align.backends.protocol import Backend, Host, available_backends, make_backend
from pareto_align.backends.ray import Ray

__all__ = ["Backend", "Host", "Local", "Ray", "available_backends", "make_backend"]
