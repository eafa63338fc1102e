"""Objectives as people have them: reward functions, a mapping of them by name, the names of reward models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pareto_align.errors import ObjectiveError
from pareto_align.objectives.composed import reward_name
from pareto_align.objectives.models import reward_model
from pareto_align.objectives.objective import Objective

__all__ = ["ObjectiveLike", "as_objectives"]

ObjectiveLike = Objective | Callable[..., Any] | str
"""An objective, a reward function, or the hub id or folder of a reward model."""


def as_objectives(
    given: Sequence[ObjectiveLike] | Mapping[str, ObjectiveLike] | Callable[..., Any] | str,
) -> list[Objective]:
    """Objectives of what TRL takes as ``reward_funcs``, or of rewards by name; an `Objective` stays as it is.

    What is no `Objective` is optimized, more being better, and has no bounds: its scale is measured on the untrained
    model. A function is called as it is called in Python, a reward model by the last part of its name.

    Raises:
        ObjectiveError: One of them is none of these, or has no name of its own.
    """
    if isinstance(given, Mapping):
        return [_named(str(name), reward) for name, reward in given.items()]
    if isinstance(given, str) or (callable(given) and not isinstance(given, Sequence)):
        given = [given]
    if isinstance(given, Objective):
        raise ObjectiveError("Give a list of objectives, also for a single one.")
    try:
        rewards = list(given)
    except TypeError:
        raise ObjectiveError(f"`objectives` must be a list of objectives. Found {given!r:.80}.") from None
    return [_objective(reward, position) for position, reward in enumerate(rewards)]


def _objective(reward: Any, position: int) -> Objective:
    if isinstance(reward, Objective):
        return reward
    if isinstance(reward, str):
        return _named(reward.rstrip("/").rpartition("/")[2], reward)
    if not callable(reward):
        raise ObjectiveError(
            f"Objective {position} is {reward!r:.80}; give an Objective(name, reward_function), a reward function, or "
            "the name of a reward model."
        )
    name = reward_name(reward)
    if name == "<lambda>":
        raise ObjectiveError(f"Objective {position} is a lambda, which has no name. Give {{'its name': lambda ...}}.")
    return _named(name, reward)


def _named(name: str, reward: Any) -> Objective:
    if isinstance(reward, Objective):
        if reward.name != name:
            raise ObjectiveError(f"The objective {reward.name!r} is given under the name {name!r}. Say one of them.")
        return reward
    if hasattr(reward, "config") and hasattr(reward, "forward"):
        raise ObjectiveError(
            f"Objective {name!r} is a model. Give `reward_model(model, tokenizer=...)` of pareto_align.objectives, "
            "which reads completions with it."
        )
    return Objective(name, reward_model(reward) if isinstance(reward, str) else reward)
