"""How the objectives' rewards vary together among the completions of a prompt.

By the policy gradient theorem an objective's expected reward changes, to first order, by its covariance with the
advantages of the update. With advantages that are linear in the rewards, sum_l w_l (r_l - mean), those covariances are
R w, R the matrix found here.

References:
    Lu and Jiang, "Uncovering Cross-Objective Interference in Multi-Objective Alignment", arXiv 2602.06869 (the local
        covariance law).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["reward_covariances"]


def reward_covariances(rewards: ArrayLike) -> np.ndarray:
    """Mean over the prompts of the covariance matrix of the rewards among a prompt's completions: `[K, m, m]`.

    Covariances are over n, not n - 1: they are those of the sample that the update is made of. With one completion a
    prompt (G = 1) the prompts take the completions' place. A prompt counts for a pair of objectives where it has at
    least two completions with both rewards; a pair without such a prompt is NaN.

    Args:
        rewards: `[K, N, G, m]` on the frozen scale; NaN where a reward is missing.
    """
    found = np.asarray(rewards, dtype=np.float64)
    if found.shape[2] == 1:
        found = found.transpose(0, 2, 1, 3)
    here = ~np.isnan(found)
    both = np.einsum("kngi,kngj->knij", here.astype(float), here.astype(float))
    filled = np.where(here, found, 0.0)
    # centred first, so that a large common value does not eat the digits
    filled = np.where(here, filled - filled.sum(2, keepdims=True) / np.maximum(here.sum(2, keepdims=True), 1), 0.0)
    count = np.maximum(both, 1)
    product = np.einsum("kngi,kngj->knij", filled, filled) / count
    # means over the completions that have both rewards; 0 where none is missing
    mean = np.einsum("kngi,kngj->knij", filled, here.astype(float)) / count
    covariance = product - mean * mean.swapaxes(2, 3)
    usable = both >= 2
    prompts = usable.sum(1)
    total = np.where(usable, covariance, 0.0).sum(1)
    return np.where(prompts > 0, total / np.maximum(prompts, 1), np.nan)
