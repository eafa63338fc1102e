"""The front-discovery loop: what to train, how it is measured, what is kept."""

from __future__ import annotations

from pareto_align.discovery.explorers import Explorer, Grid, make_explorer
from pareto_align.runs.settings import Settings

__all__ = ["Explorer", "Grid", "Settings", "make_explorer"]
