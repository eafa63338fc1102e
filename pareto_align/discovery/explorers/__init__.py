"""Explorers: what to train next, and from which parent. One file a family, one class a method."""

from pareto_align.discovery.explorers.adaptive import Adaptive
from pareto_align.discovery.explorers.base import (
    Exploration,
    Explorer,
    Mixture,
    Task,
    available_explorers,
    make_explorer,
    register_explorer,
)
from pareto_align.discovery.explorers.bayesian import Bayesian
from pareto_align.discovery.explorers.cmorl import CMORL
from pareto_align.discovery.explorers.corner_weights import CornerWeights
from pareto_align.discovery.explorers.discover import Discover
from pareto_align.discovery.explorers.everywhere import Everywhere
from pareto_align.discovery.explorers.evolution import Evolution
from pareto_align.discovery.explorers.grid import Grid
from pareto_align.discovery.explorers.illuminate import Illuminate
from pareto_align.discovery.explorers.llm import Llm
from pareto_align.discovery.explorers.random import RandomPreferences
from pareto_align.discovery.explorers.soups import Soups

__all__ = [
    "CMORL",
    "Adaptive",
    "Bayesian",
    "CornerWeights",
    "Discover",
    "Everywhere",
    "Evolution",
    "Exploration",
    "Explorer",
    "Grid",
    "Illuminate",
    "Llm",
    "Mixture",
    "RandomPreferences",
    "Soups",
    "Task",
    "available_explorers",
    "make_explorer",
    "register_explorer",
]
