"""What a run is made of where nothing was said: its family, weighting and explorer. The evidence is in `studies/`.

One family of adapters serves all preferences. Policies are independent where there is nothing to share (one objective,
one policy), where comparisons are learned from, and where a weighting, explorer or learner that was asked for needs
policies of their own. See `docs/choosing-a-family.md`.
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
CONSTRAINED = "lagrangian"
"""Where objectives have thresholds; the usual weighting trades the others."""


@dataclass(frozen=True)
class Parts:
    """What is fitted: a family or independent policies, how rewards are weighed, what is trained next."""

    family: Any
    weighting: Weighting
    explorer: Explorer


def usual_parts(family: Any, *, constrained: bool = False) -> tuple[str, str]:
    """Names of the default weighting and explorer: of independent policies or of a family, with thresholds or not."""
    weighs, explores = ("chebyshev", "discover") if family == INDEPENDENT else ("steady-chebyshev", "everywhere")
    return (CONSTRAINED if constrained else weighs), explores


def chosen_parts(
    family: Any,
    weighting: Any,
    explorer: Any,
    learner: Any,
    *,
    m: int,
    population: int,
    offline: bool,
    constrained: bool = False,
) -> Parts:
    """What was asked for, and what is usual where nothing was.

    Args:
        family, weighting, explorer, learner: As `ParetoAligner` is given them; None: nothing was said.
        m: Objectives that are traded.
        population: Policies side by side.
        offline: The run learns from comparisons.
        constrained: There are objectives with thresholds: multipliers push policies towards them.

    Raises:
        ConfigError: A name or a setting is unknown.
    """
    asked_weighting = None if weighting is None else make_weighting(weighting)
    asked_explorer = None if explorer is None else make_explorer(explorer)
    told = offline and _tells_rewards(learner)
    if family is None and told:
        family = "rewards"
    elif family is None:
        # which is better from comparisons has not been measured yet
        shared = min(m, population) > 1 and not offline and _can_be_shared(asked_weighting, asked_explorer, learner)
        family = FAMILY if shared else INDEPENDENT
    elif is_named(family, INDEPENDENT):
        family = INDEPENDENT
    weighs, explores = usual_parts(family)
    default: Any = "fixed" if told else weighs
    if offline and weighs == "chebyshev":  # the share of labels that is explained lies between 0 and 1
        default = {"name": weighs, "ideal": [1.0] * m, "nadir": [0.0] * m, "smoothing": 0.0}
    elif constrained and not offline:
        default = {"name": CONSTRAINED, "objectives": weighs if m > 1 else "fixed"}
    return Parts(
        family,
        make_weighting(default) if asked_weighting is None else asked_weighting,
        make_explorer(explores) if asked_explorer is None else asked_explorer,
    )


def _tells_rewards(learner: Any) -> bool:
    """Whether it teaches one adapter what rewards before a prompt mean."""
    from pareto_align.learning.choice import check_learner

    return getattr(check_learner(learner), "tells_rewards", False)


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
