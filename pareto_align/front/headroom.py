"""What routing could gain: how much better the best member for each prompt is than the best member for all.

The mean over prompts of the best member's value is larger than any one member's even where all are the same, since the
largest of noisy numbers is a lucky one. So the member is chosen for each prompt by one measurement and scored by
another, and the two take turns.

References:
    The same idea as in double Q-learning: van Hasselt, "Double Q-learning", NeurIPS 2010.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.errors import ConfigError

__all__ = ["Headroom", "gained", "headroom"]


@dataclass(frozen=True)
class Headroom:
    """What choosing a member for each prompt could gain over the best single one, in units of the utility.

    Attributes:
        value: The gain, chosen and scored by different measurements; below 0 where choosing only follows the noise.
        low, high: 95 % interval, by resampling prompts.
        naive: What one measurement that both chooses and scores would claim.
        best: Place of the best single member.
    """

    value: float
    low: float
    high: float
    naive: float
    best: int

    @property
    def worthwhile(self) -> bool:
        """Whether there is anything to route, as far as the interval tells."""
        return self.low > 0


def headroom(first: ArrayLike, second: ArrayLike, *, draws: int = 2000, seed: int = 0) -> Headroom:
    """Headroom from two measurements of n members on the same N prompts.

    Args:
        first: [n, N] utilities of each member's answers to each prompt.
        second: [n, N] of other answers to the same prompts.
        draws: Resampled sets of prompts.
        seed: Of the resampling.

    Raises:
        ConfigError: The two are not of the same members and prompts, or numbers are missing.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != two.shape or one.ndim != 2 or 0 in one.shape:
        raise ConfigError(f"Headroom takes two tables [n, N] of the same shape. Found {one.shape} and {two.shape}.")
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise ConfigError("Headroom needs a utility of every member for every prompt: some are missing.")
    prompts = np.arange(one.shape[1])
    # [N] what a router that saw the other measurement gets for each prompt
    routed = (two[one.argmax(0), prompts] + one[two.argmax(0), prompts]) / 2
    return gained(routed, (one + two) / 2, draws=draws, seed=seed)


def gained(routed: ArrayLike, utilities: ArrayLike, *, draws: int = 2000, seed: int = 0) -> Headroom:
    """What a router gains that gets `routed` for each prompt.

    Args:
        routed: [N].
        utilities: [n, N] of each member's answers to each prompt.
        draws: Resampled sets of prompts.
        seed: Of the resampling.
    """
    got, both = np.asarray(routed, dtype=float), np.asarray(utilities, dtype=float)
    best = int(both.mean(1).argmax())
    rng = np.random.default_rng(seed)
    drawn = rng.integers(both.shape[1], size=(draws, both.shape[1]))
    # the best single member is chosen anew in each resample, as it was in the sample
    gains = got[drawn].mean(1) - both[:, drawn].mean(2).max(0)
    low, high = np.quantile(gains, [0.025, 0.975])
    return Headroom(
        value=float(got.mean() - both[best].mean()),
        low=float(low),
        high=float(high),
        naive=float(both.max(0).mean() - both[best].mean()),
        best=best,
    )
