"""The one maker of a `Signal`: what was seen of the policies, as the small numbers that a weighting may look at.

By the policy gradient theorem an objective's expected reward changes, to first order, by its covariance with the
advantages of the update. With advantages that are linear in the rewards, sum_l w_l (r_l - mean), those covariances are
R w, R the matrix that `reward_covariances` finds.

References:
    Lu and Jiang, "Uncovering Cross-Objective Interference in Multi-Objective Alignment", arXiv 2602.06869 (the local
        covariance law).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.errors import ConfigError
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.weighting.base import FloatArray, Signal, Weighting

__all__ = [
    "FROM_GRADIENTS",
    "FROM_REWARDS",
    "HALVES",
    "audited",
    "make_signal",
    "mean_rewards",
    "reward_covariances",
    "spread_of",
    "steered_axes",
]

FROM_REWARDS = frozenset({"audit_covariances", "audits", "covariances", "slack", "spread"})
"""The optional fields of a `Signal` that rewards are enough for."""
HALVES = frozenset({"audit_gramians", "cross_gramians"})
"""Those that need the objectives' gradients on two halves of a batch."""
FROM_GRADIENTS = HALVES | {"gramians"}
"""Those that need the objectives' gradients."""


def steered_axes(objectives: ObjectiveSet, weighting: Weighting) -> tuple[int, ...]:
    """Columns a weighting has weights for: the m optimized objectives, then constrained and audited ones it steers."""
    constrained = [column for column, _ in objectives.constraints] if "slack" in weighting.requires else []
    return (*objectives.axes, *constrained, *(audited(objectives) if weighting.steers_audits else ()))


def audited(objectives: ObjectiveSet) -> tuple[int, ...]:
    """Columns of the a audited objectives."""
    return tuple(column for column, objective in enumerate(objectives) if objective.role == "audit")


def make_signal(
    weighting: Weighting,
    objectives: ObjectiveSet,
    scale: RewardScale,
    values: FloatArray,
    *,
    rewards: FloatArray | None = None,
    step: int,
    steps: int,
    preferences: FloatArray,
    spent: float = 0.0,
    measured: FloatArray | None = None,
    gramians: FloatArray | None = None,
    cross_gramians: FloatArray | None = None,
) -> Signal:
    """The signal of one training step, with the optional fields that the weighting requires.

    Args:
        weighting: Who will read it.
        objectives: All M objectives.
        scale: The frozen scale.
        values: `[K, M]` what each policy reached in this step, maximised, in the user's units; NaN where unseen.
        rewards: `[K, N, G, M]` what the values are the means of.
        step: Training steps made.
        steps: Training steps planned.
        preferences: `[K, m]`.
        spent: Share of the token budget used, 0 without one.
        measured: `[K, m]` framed, or None before the first evaluation.
        gramians, cross_gramians: `[K, s, s]` of the s >= m objectives that are steered, as `steered_axes` has them.

    Raises:
        ConfigError: The weighting requires something of rewards, and there are none.
    """
    requires, m = weighting.requires, objectives.m
    axes = list(objectives.axes)
    scaled = scale.normalize(values)
    slack = spread = covariances = audits = audit_covariances = audit_gramians = None
    followed = list(audited(objectives))
    if "slack" in requires:
        columns = [column for column, _ in objectives.constraints]
        thresholds = np.full(objectives.M, np.nan)
        for column, threshold in objectives.constraints:
            thresholds[column] = threshold
        slack = (scaled - scale.normalize(thresholds))[:, columns]
    if "audits" in requires:
        audits = scaled[:, followed]
    if "audit_gramians" in requires and cross_gramians is not None:
        last = slice(cross_gramians.shape[1] - len(followed), None)
        both = cross_gramians[:, :m, last], cross_gramians[:, last, :m].swapaxes(1, 2)
        audit_gramians = (both[0] + both[1]) / 2
    if requires & {"spread", "covariances", "audit_covariances"}:
        if rewards is None:
            raise ConfigError(f"The weighting {weighting.name!r} goes by rewards, and there are none to go by.")
        every = scale.normalize(rewards)
        each = every[..., axes]
        spread = spread_of(each.reshape(len(each), -1, m)) if "spread" in requires else None
        covariances = reward_covariances(each) if "covariances" in requires else None
        if "audit_covariances" in requires:
            audit_covariances = reward_covariances(each, every[..., followed])
    return Signal(
        step=step,
        steps=steps,
        values=scaled[:, axes],
        preferences=preferences,
        measured=measured,
        gramians=None if gramians is None else gramians[:, :m, :m],
        slack=slack,
        spread=spread,
        covariances=covariances,
        cross_gramians=None if cross_gramians is None else cross_gramians[:, :m, :m],
        audits=audits,
        audit_covariances=audit_covariances,
        audit_gramians=audit_gramians,
        spent=spent,
    )


def mean_rewards(rewards: FloatArray) -> FloatArray:
    """Mean `[K, M]` of rewards `[K, N, G, M]` over what was seen, NaN where nothing was."""
    flat = rewards.reshape(len(rewards), -1, rewards.shape[-1])
    seen = np.isfinite(flat).sum(1)
    found: FloatArray = np.where(seen > 0, np.nansum(flat, 1) / np.maximum(seen, 1), np.nan)
    return found


def spread_of(rewards: FloatArray) -> FloatArray:
    """Standard deviation `[K, m]` of rewards `[K, n, m]` over what was seen, NaN where nothing was."""
    seen = np.isfinite(rewards)
    count = seen.sum(1)
    mean = np.nansum(rewards, 1) / np.maximum(count, 1)
    squares = np.where(seen, (rewards - mean[:, None]) ** 2, 0.0).sum(1)
    found: FloatArray = np.where(count > 0, np.sqrt(squares / np.maximum(count, 1)), np.nan)
    return found


def reward_covariances(rewards: ArrayLike, others: ArrayLike | None = None) -> FloatArray:
    """Mean over the prompts of the covariances of rewards among a prompt's completions: `[K, m, m]`, or `[K, m, a]`.

    Covariances are over n, not n - 1: they are those of the sample that the update is made of. With one completion a
    prompt (G = 1) the prompts take the completions' place. A prompt counts for a pair of objectives where it has at
    least two completions with both rewards; a pair without such a prompt is NaN.

    Args:
        rewards: `[K, N, G, m]` on the frozen scale; NaN where a reward is missing.
        others: `[K, N, G, a]` what they are held against; by default each other.
    """
    found = np.asarray(rewards, dtype=np.float64)
    against = found if others is None else np.asarray(others, dtype=np.float64)
    if found.shape[2] == 1:
        found, against = found.transpose(0, 2, 1, 3), against.transpose(0, 2, 1, 3)
    (one, here), (two, there) = _centred(found), _centred(against)
    both = np.einsum("kngi,kngj->knij", here, there)
    count = np.maximum(both, 1)
    product = np.einsum("kngi,kngj->knij", one, two) / count
    # means over the completions that have both rewards; 0 where none is missing
    first = np.einsum("kngi,kngj->knij", one, there) / count
    second = np.einsum("kngi,kngj->knij", here, two) / count
    covariance = product - first * second
    usable = both >= 2
    prompts = usable.sum(1)
    total = np.where(usable, covariance, 0.0).sum(1)
    mean_of_prompts: FloatArray = np.where(prompts > 0, total / np.maximum(prompts, 1), np.nan)
    return mean_of_prompts


def _centred(rewards: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rewards `[K, N, G, m]` less their prompt's mean, 0 where missing, and 1 where they are there.

    Centred before anything is multiplied, so that a large common value does not eat the digits.
    """
    here = ~np.isnan(rewards)
    filled = np.where(here, rewards, 0.0)
    mean = filled.sum(2, keepdims=True) / np.maximum(here.sum(2, keepdims=True), 1)
    return np.where(here, filled - mean, 0.0), here.astype(float)
