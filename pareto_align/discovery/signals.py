"""What a weighting gets to see: a step's rollouts as the small numbers of a `Signal`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.weighting import Signal, Weighting

if TYPE_CHECKING:  # the aligner reads PROVIDED before torch is loaded
    from pareto_align.learning.gradients import ObjectiveGradients
    from pareto_align.learning.rollouts import Rollouts

__all__ = ["PROVIDED", "make_signal", "mean_rewards", "steered_axes"]

PROVIDED = frozenset({"measured", "gramians", "slack", "spread", "covariances", "cross_gramians", "audits"})
"""The optional fields of a weighting's `Signal` that a fit fills in."""


def steered_axes(objectives: ObjectiveSet, weighting: Weighting) -> tuple[int, ...]:
    """Columns a weighting has weights for: the m optimized objectives, and the c constrained ones if it steers them."""
    constrained = [column for column, _ in objectives.constraints] if "slack" in weighting.requires else []
    return (*objectives.axes, *constrained)


def mean_rewards(rollouts: Rollouts) -> np.ndarray:
    """Mean score `[K, M]` of each policy over its completions, NaN where an objective never applied."""
    rewards = _flat(rollouts)
    seen = np.isfinite(rewards).sum(1)
    return np.where(seen > 0, np.nansum(rewards, 1) / np.maximum(seen, 1), np.nan)


def make_signal(
    weighting: Weighting,
    rollouts: Rollouts,
    objectives: ObjectiveSet,
    scale: RewardScale,
    *,
    step: int,
    steps: int,
    spent: float,
    preferences: np.ndarray,
    measured: np.ndarray | None,
    gradients: ObjectiveGradients | None,
) -> Signal:
    """The signal of one training step, with the optional fields that the weighting requires.

    Args:
        weighting: Who will read it.
        rollouts: What the population just said.
        objectives: All M objectives.
        scale: The frozen scale.
        step: Training steps made.
        steps: Training steps planned.
        spent: Share of the token budget used, 0 without one.
        preferences: `[K, m]`.
        measured: `[K, m]` framed, or None before the first evaluation.
        gradients: The gradients of all steered objectives, where the weighting requires something of them.
    """
    from pareto_align.learning.covariances import reward_covariances

    axes: Sequence[int] = list(objectives.axes)
    values = mean_rewards(rollouts)
    slack = spread = covariances = audits = None
    if "slack" in weighting.requires:
        columns = [column for column, _ in objectives.constraints]
        thresholds = np.full(objectives.M, np.nan)
        for column, threshold in objectives.constraints:
            thresholds[column] = threshold
        slack = (scale.normalize(values) - scale.normalize(thresholds))[:, columns]
    if "spread" in weighting.requires:
        spread = _spread(scale.normalize(_flat(rollouts))[..., axes])
    if "covariances" in weighting.requires:
        covariances = reward_covariances(scale.normalize(rollouts.rewards)[..., axes])
    if "audits" in weighting.requires:
        audited = [i for i, objective in enumerate(objectives) if objective.role == "audit"]
        audits = scale.normalize(values)[:, audited]
    m = objectives.m
    cross = None if gradients is None else gradients.cross_gramians
    return Signal(
        step=step,
        steps=steps,
        values=scale.normalize(values)[:, axes],
        preferences=preferences,
        measured=measured,
        gramians=None if gradients is None else gradients.gramians[:, :m, :m],
        slack=slack,
        spread=spread,
        covariances=covariances,
        cross_gramians=None if cross is None else cross[:, :m, :m],
        audits=audits,
        spent=spent,
    )


def _flat(rollouts: Rollouts) -> np.ndarray:
    """Rewards `[K, N*G, M]`."""
    rewards = rollouts.rewards
    return rewards.reshape(rewards.shape[0], -1, rewards.shape[-1])


def _spread(rewards: np.ndarray) -> np.ndarray:
    """Standard deviation `[K, m]` of rewards `[K, n, m]` over what was seen, NaN where nothing was."""
    seen = np.isfinite(rewards)
    count = seen.sum(1)
    mean = np.nansum(rewards, 1) / np.maximum(count, 1)
    squares = np.where(seen, (rewards - mean[:, None]) ** 2, 0.0).sum(1)
    return np.where(count > 0, np.sqrt(squares / np.maximum(count, 1)), np.nan)
