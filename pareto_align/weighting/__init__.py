"""Dynamic reward weightings: one file a family, one class a method. numpy only."""

from __future__ import annotations

from pareto_align.weighting.base import Signal, Weighting, available, make, register
from pareto_align.weighting.chebyshev import Chebyshev
from pareto_align.weighting.fixed import Fixed
from pareto_align.weighting.hypervolume import Hypervolume, HypervolumePaper

__all__ = [
    "Chebyshev",
    "Fixed",
    "Hypervolume",
    "HypervolumePaper",
    "Signal",
    "Weighting",
    "available",
    "make",
    "register",
]
