"""What a run is made of where nothing was said: its family, weighting and explorer. The evidence is in `studies/`.

One family of adapters serves all preferences, held at places by the front's own normals, unless something that was
asked for needs policies of their own. See `docs/choosing-a-family.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pareto_align.discovery.explorers import Explorer, make_explorer
from pareto_align.registry import is_named
from pareto_align.weighting import Weighting
from pareto_align.weighting import make as make_weighting

__all__ = ["FAMILY", "INDEPENDENT", "LEARNER", "Parts", "chosen_parts", "usual_parts"]

FAMILY = "gates"
LEARNER = "grpo"
INDEPENDENT = "independent"


@dataclass(frozen=True)
class Parts:
    """What is fitted: one family or independent policies, how they are weighed, what is trained next."""

    family: Any
    weighting: Weighting
    explorer: Explorer


def usual_parts(family: Any) -> tuple[str, str]:
    """Names of the weighting and the explorer that independent policies have by default, or a family."""
    return ("chebyshev", "discover") if family == INDEPENDENT else ("steady-chebyshev", "everywhere")


def chosen_parts(
    family: Any, weighting: Any, explorer: Any, learner: Any, *, m: int, population: int, offline: bool
) -> Parts:
    """What was asked for, and what is usual where nothing was.

    Args:
        family, weighting, explorer, learner: As `ParetoAligner` is given them; None: nothing was said.
        m: Objectives that are traded.
        population: Policies side by side.
        offline: The run learns from comparisons.

    Raises:
        ConfigError: A name or a setting is unknown.
    """
    asked = None if weighting is None else make_weighting(weighting)
    looks = None if explorer is None else make_explorer(explorer)
    if family is None:
        shared = min(m, population) > 1 and not offline and _can_be_shared(asked, looks, learner)
        family = FAMILY if shared else INDEPENDENT
    elif is_named(family, INDEPENDENT):
        family = INDEPENDENT
    weighs, explores = usual_parts(family)
    usual: Any = weighs
    if offline and weighs == "chebyshev":  # what labels are explained is known to lie between 0 and 1
        usual = {"name": weighs, "ideal": [1.0] * m, "nadir": [0.0] * m, "smoothing": 0.0}
    weighing = make_weighting(usual) if asked is None else asked
    if looks is None:
        # places are read off the population's ends, which a family has to be held to
        held = explores == "everywhere" and weighing.reading == "place"
        looks = make_explorer({"name": explores, "corners": 1.0} if held else explores)
    return Parts(family, weighing, looks)


def _can_be_shared(weighting: Weighting | None, explorer: Explorer | None, learner: Any) -> bool:
    """Whether all policies can be one family: nothing that was asked for gives a policy something of its own."""
    if weighting is not None and (weighting.tries_policies or weighting.follows_slots):
        return False
    if explorer is not None and not explorer.for_families:
        return False
    name = learner.get("name") if isinstance(learner, Mapping) else learner
    if name == LEARNER:
        return True  # torch is not loaded to ask
    from pareto_align.learning.choice import check_learner

    return not getattr(check_learner(learner), "needs_own_policies", False)
