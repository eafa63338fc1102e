"""What a user calls the learner: a learner by name, or a credit, by which an online one compares completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from warnings import warn

from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.learning.credit import Credit, credits
from pareto_align.learning.learner import Learner, learners
from pareto_align.learning.losses import PolicyLoss
from pareto_align.learning.online import OnlineLearner
from pareto_align.learning.preferences import is_trl_config, learner_of_trl
from pareto_align.spelling import hint

__all__ = ["available_learners", "check_learner", "make_learner"]


def available_learners() -> list[str]:
    """Everything that `learner=` may be called, sorted."""
    return sorted([*learners.names(), *credits.names()])


def check_learner(part: str | Mapping[str, Any] | Learner | Credit) -> Learner | Credit:
    """What `learner=` says, as an object: a learner, or a credit that is still to be given its loss.

    A `trl.DPOConfig` is the learner "dpo" with its loss.

    Raises:
        ConfigError: The name or a setting is unknown, or a setting is of the wrong kind.
    """
    if is_trl_config(part):
        part, ignored = learner_of_trl(part)
        if ignored:
            warn(
                f"Of TRL's config the learner takes the loss. Not read: {', '.join(ignored)}. What else there is to "
                "set are keywords of ParetoAligner, see docs/trl.md.",
                ParetoAlignWarning,
                stacklevel=2,
            )
    name = part.get("name") if isinstance(part, Mapping) else part
    if isinstance(part, Learner) or (isinstance(name, str) and learners.get(name) is not None):
        return learners.make(part)  # type: ignore[arg-type]
    if isinstance(name, str) and credits.get(name) is None:
        told = hint(name, available_learners()) or f" Known: {', '.join(available_learners())}."
        raise ConfigError(f"Unknown learner {name!r}.{told}")
    return credits.make(part)  # type: ignore[arg-type]


def make_learner(part: Any, loss: PolicyLoss | None = None, *, updates: int = 1) -> Learner:
    """The learner that `learner=` asks for.

    Args:
        part: A name, a mapping with `name` and settings, a `Learner`, or a `Credit`.
        loss: Of an online learner.
        updates: Optimizer steps per rollout of an online learner.

    Raises:
        ConfigError: The name or a setting is unknown, or a setting is of the wrong kind.
    """
    found = check_learner(part)
    return found if isinstance(found, Learner) else OnlineLearner(found, loss, updates=updates)
