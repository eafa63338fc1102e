"""Families: one set of parameters that says, for every preference, which policy serves it.

`base` has what all share, `maps` those whose weights the preference decides, `prompted` those that are told it.
"""

from __future__ import annotations

from pareto_align.policies.families.base import (
    EXTRAS_FILE,
    Family,
    available_families,
    families,
    fold,
    make_family,
    register_family,
    spoken,
    write_policy,
)
from pareto_align.policies.families.maps import Blocks, Gates, Panacea, PBLoRA
from pareto_align.policies.families.prompted import Directions, Prompted, Rewards, Weights

__all__ = [
    "EXTRAS_FILE",
    "Blocks",
    "Directions",
    "Family",
    "Gates",
    "PBLoRA",
    "Panacea",
    "Prompted",
    "Rewards",
    "Weights",
    "available_families",
    "families",
    "fold",
    "make_family",
    "register_family",
    "spoken",
    "write_policy",
]
