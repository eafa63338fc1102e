"""Explorers: what to train next, and from which parent. One file a family, one class a method."""

from pareto_align.discovery.explorers.base import (
    Exploration,
    Explorer,
    Mixture,
    Task,
    available_explorers,
    make_explorer,
    register_explorer,
)
from pareto_align.discovery.explorers.grid import Grid

__all__ = [
    "Exploration",
    "Explorer",
    "Grid",
    "Mixture",
    "Task",
    "available_explorers",
    "make_explorer",
    "register_explorer",
]
