"""Users who want different things: a mixture of Bradley-Terry models, found by expectation maximisation.

References:
    Chakraborty et al., "MaxMin-RLHF: Alignment with Diverse Human Preferences", arXiv 2402.08925, algorithm 2 (there
        users are assigned to one group each; "soft" keeps their probabilities).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from pareto_align.errors import ConfigError
from pareto_align.objectives.learned.heads import bradley_terry, cross_entropy

__all__ = ["Mixture", "choose_groups", "fit_mixture"]

FloatArray = NDArray[np.float64]
EMPTY = 0.5
"""Users that a group must be expected to have; one with fewer begins anew with the users that are explained worst."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Z groups of users, each with a reward of its own.

    Attributes:
        weights: `[Z, d]` a vector a group: the reward of a response with features h is `v_z.h`.
        shares: `[Z]` of the users.
        users: U of them, in the order of `responsibilities`.
        responsibilities: `[U, Z]` how probable it is that a user is of a group.
        likelihood: Log-likelihood of all labels, in nats.
        steps: Of expectation maximisation.
    """

    weights: FloatArray
    shares: FloatArray
    users: tuple[Hashable, ...]
    responsibilities: FloatArray
    likelihood: float
    steps: int

    def scores(self, features: ArrayLike) -> FloatArray:
        """Rewards `[n, Z]` of responses with features `[n, d]`, one column a group."""
        return np.asarray(np.asarray(features, dtype=np.float64) @ self.weights.T)

    @property
    def groups(self) -> NDArray[np.int64]:
        """`[U]` the likeliest group of each user."""
        return np.asarray(self.responsibilities.argmax(1))

    @property
    def entropy(self) -> FloatArray:
        """`[U]` how uncertain each user's group is, in nats; 0 is certain."""
        q = self.responsibilities
        return np.asarray(-np.where(q > 0, q * np.log(np.where(q > 0, q, 1)), 0).sum(1))

    def group_of(self, differences: ArrayLike, labels: ArrayLike) -> FloatArray:
        """`[Z]` how probable it is that a new user with these comparisons is of each group.

        Args:
            differences: `[n, d]` features of the first response less those of the second.
            labels: `[n]`.
        """
        x, s = np.asarray(differences, dtype=np.float64), np.asarray(labels, dtype=np.float64)
        logs = -cross_entropy(x @ self.weights.T, s[:, None]).sum(0) + np.log(self.shares)
        return np.asarray(np.exp(logs - logsumexp(logs)))


def fit_mixture(
    differences: ArrayLike,
    labels: ArrayLike,
    users: Sequence[Hashable],
    groups: int = 2,
    *,
    soft: bool = True,
    restarts: int = 5,
    steps: int = 50,
    penalty: float = 1e-2,
    seed: int = 0,
) -> Mixture:
    """The mixture of the largest likelihood among several starts.

    Users are assigned to groups at random first: from equal groups none would ever part.

    Args:
        differences: `[n, d]` features of the first response less those of the second.
        labels: `[n]` how strongly the first is preferred.
        users: n, who judged each.
        groups: Z.
        soft: Whether users are shared among groups by their probabilities, or assigned to one.
        restarts: Starts.
        steps: Of expectation maximisation at most, for each.
        penalty: See `heads.bradley_terry`.
        seed: Of the starts.

    Raises:
        ConfigError: There are fewer users than groups, or shapes do not belong together.
    """
    x, s = np.asarray(differences, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    names = tuple(dict.fromkeys(users))
    if not len(x) == len(s) == len(users):
        raise ConfigError(f"There are {len(x)} differences, {len(s)} labels and {len(users)} users; give one each.")
    if not 1 <= groups <= len(names):
        raise ConfigError(f"`groups` must be from 1 to the number of users, {len(names)}. Found {groups}.")
    number = {name: place for place, name in enumerate(names)}
    who = np.array([number[user] for user in users])
    found = [
        _one_start(x, s, who, names, groups, soft, steps, penalty, np.random.default_rng([seed, start]))
        for start in range(restarts if groups > 1 else 1)
    ]
    return max(found, key=lambda one: one.likelihood)


def choose_groups(
    differences: ArrayLike,
    labels: ArrayLike,
    users: Sequence[Hashable],
    most: int = 4,
    *,
    penalty: float = 1e-2,
    held_out: float = 0.25,
    seed: int = 0,
) -> tuple[int, list[float]]:
    """How many groups explain held-out comparisons of the same users best, and the mean log-likelihood of each number.

    Args:
        differences: `[n, d]`.
        labels: `[n]`.
        users: n, who judged each.
        most: Groups that are tried, from 1.
        penalty: As in `fit_mixture`.
        held_out: Share of the comparisons that is held out.
        seed: Of what is held out and of the starts.
    """
    x, s = np.asarray(differences, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    test = np.random.default_rng(seed).random(len(x)) < held_out
    kept = [user for user, out in zip(users, test, strict=True) if not out]
    values = []
    for groups in range(1, min(most, len(set(kept))) + 1):
        found = fit_mixture(x[~test], s[~test], kept, groups, penalty=penalty, seed=seed)
        place = {user: position for position, user in enumerate(found.users)}
        total = 0.0
        for user in found.users:
            own = np.array([out and other == user for other, out in zip(users, test, strict=True)])
            if own.any():
                logs = -cross_entropy(x[own] @ found.weights.T, s[own, None]).sum(0)
                with np.errstate(divide="ignore"):
                    total += float(logsumexp(logs + np.log(found.responsibilities[place[user]])))
        values.append(total / max(int(test.sum()), 1))
    return int(np.argmax(values)) + 1, values


def _one_start(
    x: FloatArray,
    s: FloatArray,
    who: NDArray[np.int64],
    names: tuple[Hashable, ...],
    groups: int,
    soft: bool,
    steps: int,
    penalty: float,
    rng: np.random.Generator,
) -> Mixture:
    count = len(names)
    q = rng.dirichlet(np.ones(groups), count)
    taken = 0
    while taken < steps:
        taken += 1
        v = np.stack([bradley_terry(x, s, weights=q[who, z], penalty=penalty) for z in range(groups)])
        shares = q.mean(0)
        logs = np.zeros((count, groups))
        np.add.at(logs, who, -cross_entropy(x @ v.T, s[:, None]))
        with np.errstate(divide="ignore"):
            joint = logs + np.log(shares)
        new = np.exp((joint if soft else logs) - logsumexp(joint if soft else logs, axis=1, keepdims=True))
        if not soft:
            new = np.eye(groups)[new.argmax(1)]
        for z in np.flatnonzero(new.sum(0) < EMPTY):
            worst = np.argsort(logs.max(1))[: max(1, count // groups)]
            new[worst] = np.eye(groups)[z]
        moved = float(np.abs(new - q).max())
        q = new
        if moved < 1e-6:
            break
    return Mixture(v, q.mean(0), names, q, float(logsumexp(joint, axis=1).sum()), taken)
