"""What a Pareto front is: dominance, indicators, estimates, preferences, the archive, selection and storage.

Everything is maximised; numpy and moocore only, never torch.
"""

from __future__ import annotations

from pareto_align.front.archive import Entry, ParetoArchive, Status
from pareto_align.front.bootstrap import bootstrap_hypervolume
from pareto_align.front.dominance import dominates, nondominated_mask, oriented, pareto_ranks, probability_dominates
from pareto_align.front.estimates import Estimate, difference, paired_difference, pool
from pareto_align.front.indicators import (
    contributions,
    crowding_distance,
    expected_utility,
    hypervolume,
    hypervolume_subset,
    igd_plus,
    maximum_utility_loss,
    r2,
    sparsity,
)
from pareto_align.front.origin import Origin
from pareto_align.front.preferences import Preference, grid, interior, lattice, random
from pareto_align.front.selection import Selection, select
from pareto_align.front.storage import FamilyRecord, FrontRecord, MemberRecord, ObjectiveRecord, read_front, write_front

__all__ = [
    "Entry",
    "Estimate",
    "FamilyRecord",
    "FrontRecord",
    "MemberRecord",
    "ObjectiveRecord",
    "Origin",
    "ParetoArchive",
    "Preference",
    "Selection",
    "Status",
    "bootstrap_hypervolume",
    "contributions",
    "crowding_distance",
    "difference",
    "dominates",
    "expected_utility",
    "grid",
    "hypervolume",
    "hypervolume_subset",
    "igd_plus",
    "interior",
    "lattice",
    "maximum_utility_loss",
    "nondominated_mask",
    "oriented",
    "paired_difference",
    "pareto_ranks",
    "pool",
    "probability_dominates",
    "r2",
    "random",
    "read_front",
    "select",
    "sparsity",
    "write_front",
]
