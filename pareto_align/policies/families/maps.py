"""Families that are maps: the preference decides the core between the shared factors.

References:
    Wang et al., "Conditional Language Policy: A General Framework for Steerable Multi-Objective Finetuning", arXiv
        2407.15762 (blocks of parameters weighted by the preference, trained jointly).
    Zhong et al., "Panacea: Pareto Alignment via Preference Adaptation for LLMs", arXiv 2402.02030 (singular values that
        are the preference).
    Lin et al., "PARM: Multi-Objective Test-Time Alignment via Preference-Aware Autoregressive Reward Model", arXiv
        2505.06274 (a full core, linear in the preference).
    Jain et al., "Multi-Objective GFlowNets", arXiv 2210.12765 (thermometer features of a preference).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pareto_align.policies.families.base import Family, Ranks, register_family

__all__ = ["Blocks", "Gates", "PBLoRA", "Panacea"]

Features = Literal["linear", "centred", "quadratic", "thermometer"]


@register_family("gates")
class Gates(Family):
    """A diagonal core: shared ranks, and a block of ranks for each feature of the preference, scaled by it.

    Args:
        features: "centred": m w_i - 1, which is 0 at equal weights, so that what all preferences have in common is left
            to the shared ranks and what tells them apart is learnt as fast. "linear": the weights w_i; a family that is
            rewarded for the same at first may then forget the rest everywhere. "quadratic": the weights and the
            products w_i w_j, which let the middle of the front differ from a blend of its ends. "thermometer": `bins`
            steps a weight, of which as many are full as the weight is large.
        bins: Steps of a thermometer.
        shared: Ranks that serve every preference alike; by default the LoRA config's `r`.
        each: Ranks of each feature's block; by default the LoRA config's `r`.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self, *, features: Features = "centred", bins: Ranks = 4, shared: int | None = None, each: int | None = None
    ) -> None:
        super().__init__(shared=shared, each=each)
        self.features = features
        self.bins = bins

    def rank(self, m: int) -> int:
        """See `Family.rank`."""
        shared, each = self.ranks
        return shared + each * self.featured(torch.full((1, m), 1 / m)).shape[1]

    def featured(self, preferences: Tensor) -> Tensor:
        """The features `[k, F]` of preferences `[k, m]`."""
        if self.features == "thermometer":
            assert self.bins is not None
            steps = torch.arange(self.bins, device=preferences.device, dtype=preferences.dtype)
            return (preferences[..., None] * self.bins - steps).clamp(0, 1).flatten(1)
        if self.features == "centred":
            return preferences.shape[1] * preferences - 1
        if self.features == "quadratic":
            first, second = torch.triu_indices(preferences.shape[1], preferences.shape[1], offset=1)
            return torch.cat([preferences, preferences[:, first] * preferences[:, second]], 1)
        return preferences

    def cores(self, preferences: Tensor, extras: Tensor) -> Tensor:
        """See `Family.cores`."""
        shared, each = self.ranks
        weighed = self._scaled(self.featured(preferences), extras).repeat_interleave(each, -1)
        return torch.cat([weighed.new_ones(*weighed.shape[:2], shared), weighed], 2)

    def _scaled(self, features: Tensor, extras: Tensor) -> Tensor:
        """`[k, L, F]` the features as the layers see them."""
        return features[:, None]


@register_family("blocks")
class Blocks(Gates):
    """A shared block of ranks, and one block an objective that is scaled by the objective's weight.

    `Gates` with linear features; conditional language policies without their extras.

    Args:
        shared: Ranks that serve every preference alike; by default the LoRA config's `r`.
        each: Ranks of each objective's block; by default the LoRA config's `r`.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(self, *, shared: int | None = None, each: int | None = None) -> None:
        super().__init__(features="linear", shared=shared, each=each)


@register_family("panacea")
class Panacea(Gates):
    """One rank an objective, whose singular value is the objective's weight times a number that each layer learns.

    The paper's singular values of the shared ranks are here part of B.

    Args:
        shared: Ranks that serve every preference alike; by default the LoRA config's `r`.
        each: Ranks an objective, 1 in the paper.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(self, *, shared: int | None = None, each: int = 1) -> None:
        super().__init__(features="linear", shared=shared, each=each)

    def extras(self, m: int) -> int:
        """See `Family.extras`: the scale of the preference."""
        return 1

    def initial_extras(self, m: int, generator: torch.Generator) -> Tensor:
        """See `Family.initial_extras`."""
        return torch.ones(1)

    def _scaled(self, features: Tensor, extras: Tensor) -> Tensor:
        return features[:, None] * extras[None]


@register_family("pblora")
class PBLoRA(Family):
    """A shared block of ranks, and one block whose full core is the weighted sum of m learnt matrices.

    The paper's core of the shared block is here part of B.

    Args:
        shared: Ranks that serve every preference alike; by default the LoRA config's `r`.
        each: Ranks of the block with the core; by default the LoRA config's `r`.

    Raises:
        ConfigError: A setting is out of range.
    """

    def rank(self, m: int) -> int:
        """See `Family.rank`."""
        return sum(self.ranks)

    def extras(self, m: int) -> int:
        """See `Family.extras`: m matrices."""
        return m * self.ranks[1] ** 2

    def initial_extras(self, m: int, generator: torch.Generator) -> Tensor:
        """See `Family.initial_extras`: uniform, with Kaiming's bound for a matrix of so many columns."""
        return (torch.rand(self.extras(m), generator=generator) * 2 - 1) / math.sqrt(self.ranks[1])

    def cores(self, preferences: Tensor, extras: Tensor) -> Tensor:
        """See `Family.cores`."""
        (k, m), (shared, each) = preferences.shape, self.ranks
        inner = torch.einsum("km,lmrs->klrs", preferences, extras.view(-1, m, each, each))
        core = torch.eye(shared + each, device=inner.device, dtype=inner.dtype).repeat(k, len(extras), 1, 1)
        core[..., shared:, shared:] = inner
        return core
