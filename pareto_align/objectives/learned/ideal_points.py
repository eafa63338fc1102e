"""Ideal points: every user is a mixture of a few prototypes, and a new one is served after a handful of comparisons.

A response has a place `f(h)` and a user an ideal point `a_u = sum_z w_uz p_z`; who is nearer is preferred:
`P(first) = sigmoid(|f(h_2) - a_u|^2 - |f(h_1) - a_u|^2)`. The prototypes are the axes of a front, and a user's mixture
is a
preference: what `front.select` takes.

References:
    Chen et al., "PAL: Pluralistic Alignment Framework for Learning from Heterogeneous Preferences", arXiv 2406.08469.
        The squared distance is ours: it is smooth where a response is the ideal.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError

__all__ = ["IdealPoints", "fit_ideal_points"]

FloatArray = NDArray[np.float64]

NEW_STEPS, NEW_RATE, NEW_RIDGE, NEW_STARTS = 150, 0.1, 0.01, 3
"""How a new user's mixture is found: steps and rate of Adam, ridge on its logits, starts."""


@dataclass(frozen=True, eq=False)
class IdealPoints:
    """A map of responses, prototypes, and the users' mixtures of them.

    Attributes:
        map: `[k, d]` f, linear.
        prototypes: `[Z, k]`.
        users: U of them.
        mixtures: `[U, Z]` points of the simplex.
    """

    map: FloatArray
    prototypes: FloatArray
    users: tuple[Hashable, ...]
    mixtures: FloatArray

    def scores(self, features: ArrayLike, mixture: ArrayLike | None = None) -> FloatArray:
        """Minus the squared distance of responses `[n, d]` from each prototype `[n, Z]`, or from a mixture `[n]`."""
        places = np.asarray(features, dtype=np.float64) @ self.map.T
        ideals = self.prototypes if mixture is None else np.asarray(mixture, dtype=np.float64) @ self.prototypes
        if mixture is not None:
            return np.asarray(-((places - ideals) ** 2).sum(-1))
        return np.asarray(-((places[:, None] - ideals) ** 2).sum(-1))

    def preference_of(self, first: ArrayLike, second: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> FloatArray:
        """The mixture `[Z]` of a new user; the map and the prototypes stay.

        Without any comparison it is the mean of the known users' mixtures.

        Args:
            first: `[n, d]` features of the first responses.
            second: `[n, d]` of the second ones.
            labels: `[n]` how strongly the first is preferred.
            seed: Of the starts.
        """
        import torch

        s = np.asarray(labels, dtype=np.float64)
        if not len(s):
            return np.asarray(self.mixtures.mean(0))
        a, b = (torch.from_numpy(np.asarray(side, dtype=np.float64) @ self.map.T) for side in (first, second))
        prototypes, target = torch.from_numpy(self.prototypes), torch.from_numpy(s)
        generator = torch.Generator().manual_seed(seed)
        others = torch.randn(NEW_STARTS - 1, len(prototypes), generator=generator)
        begin = torch.cat([torch.zeros(1, len(prototypes)), others])
        logits = begin.double().requires_grad_()  # all starts in one graph: Adam keeps them apart

        def loss() -> Any:
            ideals = (logits.softmax(1) @ prototypes)[:, None]
            gap = (b - ideals).pow(2).sum(2) - (a - ideals).pow(2).sum(2)
            fit = torch.nn.functional.binary_cross_entropy_with_logits(gap, target.expand_as(gap), reduction="none")
            return fit.mean(1) + NEW_RIDGE * logits.pow(2).mean(1)

        ended = _adam(loss, [logits], NEW_STEPS, NEW_RATE)
        if not ended.isfinite().any():
            return np.asarray(self.mixtures.mean(0))
        return np.asarray(logits.detach()[ended.nan_to_num(nan=np.inf).argmin()].softmax(0).numpy())


def fit_ideal_points(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    users: Sequence[Hashable],
    prototypes: int = 2,
    *,
    dimension: int = 16,
    steps: int = 1500,
    learning_rate: float = 3e-2,
    penalty: float = 1e-3,
    seed: int = 0,
) -> IdealPoints:
    """The map, the prototypes and the mixtures of all users together, by Adam on the cross-entropy.

    Args:
        first: `[n, d]` features of the first responses.
        second: `[n, d]` of the second ones.
        labels: `[n]` how strongly the first is preferred.
        users: n, who judged each.
        prototypes: Z.
        dimension: k of the map.
        steps: Of Adam.
        learning_rate: Of Adam.
        penalty: Of the map's mean square.
        seed: Of the start.

    Raises:
        ConfigError: Shapes do not belong together.
    """
    import torch

    a, b = (torch.from_numpy(np.asarray(side, dtype=np.float64)) for side in (first, second))
    target = torch.from_numpy(np.asarray(labels, dtype=np.float64))
    if not a.shape == b.shape == (len(target), a.shape[-1]) or len(users) != len(target):
        raise ConfigError("`first`, `second`, `labels` and `users` must have one entry a comparison.")
    if prototypes < 1:
        raise ConfigError(f"`prototypes` must be at least 1. Found {prototypes}.")
    names = tuple(dict.fromkeys(users))
    number = {name: place for place, name in enumerate(names)}
    who = torch.tensor([number[user] for user in users])
    generator = torch.Generator().manual_seed(seed)
    size = a.shape[1]
    mapped = (torch.randn(dimension, size, generator=generator).double() / size**0.5).requires_grad_()
    points = torch.randn(prototypes, dimension, generator=generator).double().requires_grad_()
    logits = torch.zeros(len(names), prototypes).double().requires_grad_()

    def loss() -> Any:
        ideals = (logits.softmax(1) @ points)[who]
        gap = (b @ mapped.T - ideals).pow(2).sum(1) - (a @ mapped.T - ideals).pow(2).sum(1)
        return torch.nn.functional.binary_cross_entropy_with_logits(gap, target) + penalty * mapped.pow(2).mean()

    _adam(loss, [mapped, points, logits], steps, learning_rate)
    return IdealPoints(mapped.detach().numpy(), points.detach().numpy(), names, logits.detach().softmax(1).numpy())


def _adam(loss: Any, parameters: list[Any], steps: int, rate: float) -> Any:
    """Minimise a loss, or the sum of several, and give the last of them."""
    import torch

    optimizer, value = torch.optim.Adam(parameters, lr=rate), torch.tensor(np.inf)
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.sum().backward()
        optimizer.step()
    return value.detach()
