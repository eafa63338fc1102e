"""From features of responses and what was said of them to `Scores`: fitted, calibrated, measured on other prompts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ConfigError
from pareto_align.objectives.learned.embeddings import Embeddings, fit_embeddings, skew
from pareto_align.objectives.learned.heads import (
    Heads,
    fit_comparisons,
    fit_ratings,
    held_out,
    report_of,
    temperature,
)
from pareto_align.objectives.learned.ideal_points import IdealPoints, fit_ideal_points
from pareto_align.objectives.learned.mixture import Mixture, choose_groups, fit_mixture
from pareto_align.objectives.learned.scores import KINDS, Model, Scores, warmed, with_one

__all__ = ["Judged", "fit_scores"]

FloatArray = NDArray[np.float64]

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
"""Strengths of the penalty that are tried where none is given; features have unit variance."""

POOL = 64
"""Answers that "gpm" compares a new one with."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Responses by their features, and what was said about them.

    Attributes:
        features: `[n, d]` of all responses.
        units: `[n]` which prompt each response is of.
        pairs: `[P, 2]` which of them were compared.
        labels: `[P, m]`, NaN where there is none.
        names: m names.
        weights: `[P, m]` judgements behind each label.
        users: Who judged each pair; None where nobody is named.
        ratings: `[n, m]`, NaN where one is missing; None where there are none.
    """

    features: FloatArray
    units: NDArray[np.int64]
    pairs: NDArray[np.int64]
    labels: FloatArray
    names: tuple[str, ...]
    weights: FloatArray
    users: tuple[Hashable, ...] | None = None
    ratings: FloatArray | None = None

    @property
    def pair_units(self) -> NDArray[np.int64]:
        """`[P]` which prompt each pair is of."""
        return np.asarray(self.units[self.pairs[:, 0]])

    def sides(self, which: NDArray[np.bool_] | slice = slice(None)) -> tuple[FloatArray, FloatArray]:
        """Features `[P, d]` of the first responses of pairs and of the second ones."""
        return self.features[self.pairs[which, 0]], self.features[self.pairs[which, 1]]


def fit_scores(
    judged: Judged,
    kind: str = "bt",
    *,
    groups: int | None = None,
    penalty: float | None = None,
    dimension: int = 16,
    planes: int = 4,
    steps: int | None = None,
    seed: int = 0,
) -> Scores:
    """Scores that explain what was said.

    A fifth of the prompts is held out: heads' penalties, temperatures and the report come from there.

    Args:
        judged: Features of any unit; they are brought to unit variance.
        kind: "bt": a Bradley-Terry head an objective. "regression": ridge on ratings, in their own unit. "mixture":
            groups of users, a head each. "pal": prototypes of ideal points. "gpm": preference embeddings, which may
            prefer in a circle. The last three take one objective, and the two before need to know who judged.
        groups: Groups of "mixture", prototypes of "pal"; by default as many as explain held-out comparisons best, and
            two.
        penalty: Of the heads' squared length, against the sum of the losses; by default the best of `PENALTIES`.
        dimension: Of the space in which "pal" has its points.
        planes: Half the entries of an embedding of "gpm".
        steps: Of Adam, for "pal" and "gpm".
        seed: Of what is held out, and of the starts.

    Raises:
        ConfigError: There is no such kind, or it needs what is not there.
    """
    if kind not in KINDS:
        raise ConfigError(f"`kind` must be one of {', '.join(KINDS)}. Found {kind!r}.")
    center, scale = judged.features.mean(0), judged.features.std(0)
    scale = np.where(scale > 1e-8, scale, 1.0)
    ready = replace(judged, features=(judged.features - center) / scale)
    if kind == "regression":
        if ready.ratings is None:
            raise ConfigError("kind='regression' learns from ratings, and these comparisons have none: use kind='bt'.")
        heads = fit_ratings(ready.features, ready.ratings, ready.names, units=ready.units, seed=seed)
        return Scores(kind, ready.names, center, scale, heads, heads.report)
    if kind == "bt":
        heads = _heads(ready, penalty, seed)
        return Scores(kind, ready.names, center, scale, heads, heads.report)
    if len(ready.names) != 1:
        raise ConfigError(
            f"kind={kind!r} learns one objective's labels at a time, and there are {len(ready.names)}: "
            f"{', '.join(ready.names)}. Say which: objective={ready.names[0]!r}."
        )
    if kind in ("mixture", "pal") and ready.users is None:
        raise ConfigError(f"kind={kind!r} needs to know who judged. Read with user='COLUMN', the column of annotators.")
    known = np.isfinite(ready.labels[:, 0])
    if kind in ("mixture", "pal"):  # what nobody is named for is nobody's
        known &= np.array([user is not None for user in ready.users or ()])
    apart = held_out(ready.pair_units, seed) & known
    fit = known & ~apart
    if not fit.any() or not apart.any():
        raise ConfigError(f"There are {int(known.sum())} labels: too few to fit anything and to hold some out.")
    users = () if ready.users is None else ready.users
    own = [user for user, used in zip(users, fit, strict=True) if used] if users else []
    (first, second), labels = ready.sides(fit), ready.labels[fit, 0]
    name = ready.names[0]
    model: Model
    pool = None
    if kind == "mixture":
        held = 10.0 if penalty is None else penalty
        count = choose_groups(first - second, labels, own, penalty=held, seed=seed)[0] if groups is None else groups
        model = fit_mixture(first - second, labels, own, count, penalty=held, seed=seed)
        names = tuple(f"{name}, group {z + 1}" for z in range(count))
    elif kind == "pal":
        count = 2 if groups is None else groups
        model = fit_ideal_points(
            first, second, labels, own, count, dimension=dimension, steps=1500 if steps is None else steps,
            penalty=1e-3 if penalty is None else penalty, seed=seed,
        )  # fmt: skip
        names = tuple(f"{name}, prototype {z + 1}" for z in range(count))
    else:
        first, second = with_one(first), with_one(second)
        model = fit_embeddings(first, second, labels, planes=planes, steps=500 if steps is None else steps, seed=seed)
        chosen = np.random.default_rng(seed).permutation(len(ready.features))[:POOL]
        pool = model.embed(with_one(ready.features[chosen]))
        names = (name,)
    test_users = [user for user, used in zip(users, apart, strict=True) if used] if users else []
    gaps = _gaps(model, *ready.sides(apart), test_users)
    truth = ready.labels[apart, 0]
    t = temperature(gaps, truth)
    model = warmed(model, max(t, 1e-6))  # what foresees nothing says next to nothing
    report = [report_of(name, t * gaps, truth, t)]
    if isinstance(model, Mixture):  # how each group is served
        of = np.array([model.groups[model.users.index(user)] if user in model.users else -1 for user in test_users])
        report += [
            report_of(names[z], t * gaps[of == z], truth[of == z], t) for z in range(len(names)) if (of == z).any()
        ]
    return Scores(kind, names, center, scale, model, tuple(report), pool)


def _heads(judged: Judged, penalty: float | None, seed: int) -> Heads:
    """One head an objective, each with the penalty that explains what was held out best."""
    found = []
    for j, name in enumerate(judged.names):
        tried = [
            fit_comparisons(
                judged.features,
                judged.pairs,
                judged.labels[:, [j]],
                [name],
                units=judged.pair_units,
                weights=judged.weights[:, [j]],
                penalty=value,
                seed=seed,
            )
            for value in (PENALTIES if penalty is None else (penalty,))
        ]
        found.append(min(tried, key=lambda one: one.report[0].cross_entropy))
    return Heads(
        judged.names,
        np.concatenate([one.weights for one in found]),
        np.concatenate([one.bias for one in found]),
        tuple(one.report[0] for one in found),
    )


def _gaps(model: Model, first: FloatArray, second: FloatArray, users: Sequence[Hashable]) -> FloatArray:
    """`[n]` log odds of held-out pairs before calibration; a user who is not known is one of the whole."""
    if isinstance(model, Embeddings):
        return np.asarray(skew(model.embed(with_one(first)), model.embed(with_one(second))) / model.tau)
    if isinstance(model, Heads):
        return np.asarray((model.scores(first) - model.scores(second))[:, 0])
    place = {user: n for n, user in enumerate(model.users)}
    if isinstance(model, Mixture):
        shares = [model.responsibilities[place[user]] if user in place else model.shares for user in users]
        return np.asarray(((model.scores(first) - model.scores(second)) * np.array(shares)).sum(1))
    assert isinstance(model, IdealPoints)
    mixtures = np.array([model.mixtures[place[user]] if user in place else model.mixtures.mean(0) for user in users])
    ideals = mixtures @ model.prototypes
    a, b = first @ model.map.T, second @ model.map.T
    return np.asarray(((b - ideals) ** 2).sum(1) - ((a - ideals) ** 2).sum(1))
