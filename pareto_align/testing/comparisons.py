"""Comparisons whose best policies are known in closed form, and where each way of weighing leads.

Tables are as in `pareto_align.testing.exact`: a policy is `[n_prompts, S]`, rewards are `[n_prompts, S, m]`. Labels
follow Bradley and Terry: `P_j(a > b) = sigmoid(r_j(a) - r_j(b))`.

Two right answers are kept apart. Weighing *rewards* (MODPO) ends at `exact.optimal_policy`; weighing *losses* ends at
`loss_weighted_policy`, which is another policy except where one objective has all the weight.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from pareto_align.data.comparison import Comparison, Labels
from pareto_align.data.comparisons import Comparisons
from pareto_align.errors import ConfigError
from pareto_align.objectives.learned.heads import bradley_terry
from pareto_align.testing.problems import KnownFrontProblem

__all__ = [
    "all_pairs",
    "chebyshev_places",
    "conflict_comparisons",
    "ipo_policy",
    "label_probabilities",
    "linear_places",
    "loss_weighted_policy",
    "mirror_steps",
    "problem_comparisons",
    "regularized_equilibrium",
]

Array = NDArray[np.float64]


def all_pairs(count: int) -> NDArray[np.int64]:
    """All pairs `[pairs, 2]` of so many responses, in order."""
    return np.array(list(itertools.combinations(range(count), 2)), dtype=np.int64)


def label_probabilities(rewards: ArrayLike, pairs: ArrayLike) -> Array:
    """How probable it is that the first of each pair is preferred: `[..., S, m]` to `[..., pairs, m]`."""
    r, which = np.asarray(rewards, float), np.asarray(pairs)
    gaps = r[..., which[:, 0], :] - r[..., which[:, 1], :]
    return np.asarray(expit(gaps))


def problem_comparisons(
    problem: KnownFrontProblem,
    *,
    pairs: int | None = None,
    hard: bool = False,
    flips: float = 0.0,
    missing: float = 0.0,
    seed: int = 0,
) -> Comparisons:
    """Comparisons of a problem's strings, labelled by its rewards.

    Args:
        problem: Whose rewards are the truth.
        pairs: How many pairs of each prompt, drawn at random; all by default.
        hard: Draw each label instead of giving its probability.
        flips: Share of the drawn labels that is turned round.
        missing: Share of the labels that is left out.
        seed: Of all that is drawn.

    Raises:
        ConfigError: `flips` without `hard`.
    """
    if flips and not hard:
        raise ConfigError("`flips` turns drawn labels round: it needs hard=True.")
    rng = np.random.default_rng(seed)
    strings = problem.strings()
    found = []
    for prompt, rewards in zip(problem.prompts, problem.rewards, strict=True):
        chosen = all_pairs(len(strings))
        if pairs is not None and pairs < len(chosen):
            chosen = chosen[np.sort(rng.permutation(len(chosen))[:pairs])]
        labels = label_probabilities(rewards, chosen)
        if hard:
            labels = (rng.random(labels.shape) < labels).astype(float)
            labels = np.where(rng.random(labels.shape) < flips, 1 - labels, labels)
        labels = np.where(rng.random(labels.shape) < missing, np.nan, labels)
        found.append(Comparison(prompt, tuple(strings), Labels(chosen, labels)))
    return Comparisons(found, problem.names)


def conflict_comparisons(prompts: Sequence[str], conflicts: int) -> Comparisons:
    """One pair a prompt, "a" and "b", with certain labels of two objectives that conflict on the first `conflicts`."""
    labels = [[1.0, float(position >= conflicts)] for position in range(len(prompts))]
    rows = [
        Comparison(prompt, ("a", "b"), Labels(np.array([[0, 1]]), np.array([label])))
        for prompt, label in zip(prompts, labels, strict=True)
    ]
    return Comparisons(rows, ("first", "second"))


def linear_places(conflict: float, preferences: ArrayLike) -> Array:
    """Where a weighted sum of losses leads on the ceiling of two conflicting objectives, explained `[n, 2]`.

    Args:
        conflict: Share c of the pairs on which certain labels conflict.
        preferences: `[n, 2]` weights.
    """
    w = np.asarray(preferences, float)
    return np.asarray(1 + conflict * np.log2(w / w.sum(1, keepdims=True)))


def chebyshev_places(conflict: float, preferences: ArrayLike) -> Array:
    """The points of that ceiling at which both weighted shortfalls from (1, 1) are the same, explained `[n, 2]`."""
    found = []
    for p, q in np.asarray(preferences, float):
        w = brentq(lambda w, p=p, q=q: p * np.log2(w) - q * np.log2(1 - w), 1e-12, 1 - 1e-12)
        found.append(1 + conflict * np.log2([w, 1 - w]))
    return np.array(found)


def loss_weighted_policy(reference: ArrayLike, rewards: ArrayLike, weights: ArrayLike, beta: float) -> Array:
    """The minimiser `[n_prompts, S]` of the weighted sum of all objectives' DPO losses over all pairs.

    A convex problem in the log-ratios: the cross-entropy with the weighted mean of the labels' probabilities.
    """
    return _fitted(reference, rewards, weights, lambda x, labels: bradley_terry(x, labels, penalty=1e-9) / beta)


def ipo_policy(reference: ArrayLike, rewards: ArrayLike, weights: ArrayLike, tau: float) -> Array:
    """The minimiser `[n_prompts, S]` of the weighted sum of IPO losses over all pairs, with sums of log-ratios.

    Least squares: differences of log-ratios as near as can be to `(p - 1/2) / tau`.
    """

    def ratios(x: Array, labels: Array) -> Array:
        return np.asarray(np.linalg.lstsq(x, (labels - 0.5) / tau, rcond=None)[0], dtype=float)

    return _fitted(reference, rewards, weights, ratios)


def _fitted(
    reference: ArrayLike, rewards: ArrayLike, weights: ArrayLike, ratios: Callable[[Array, Array], Array]
) -> Array:
    """The policy `[n_prompts, S]` whose log-ratios `[S]` are fitted to the weighted mean of the labels of all pairs.

    Args:
        reference: `[n_prompts, S]` the untrained policy.
        rewards: `[n_prompts, S, m]` behind the labels.
        weights: `[m]`.
        ratios: Of which string is compared with which, `[pairs, S]`, and the mean labels, `[pairs]`.
    """
    p0, r, w = np.asarray(reference, float), np.asarray(rewards, float), np.asarray(weights, float)
    pairs = all_pairs(p0.shape[1])
    x = np.zeros((len(pairs), p0.shape[1]))
    x[np.arange(len(pairs)), pairs[:, 0]], x[np.arange(len(pairs)), pairs[:, 1]] = 1, -1
    shares = w / w.sum()
    return np.array([
        _tilted(before, ratios(x, label_probabilities(of_prompt, pairs) @ shares))
        for before, of_prompt in zip(p0, r, strict=True)
    ])  # fmt: skip


def regularized_equilibrium(preferences: ArrayLike, reference: ArrayLike, tau: float, steps: int = 20_000) -> Array:
    """The Nash equilibrium `[S]` of a preference game with a price tau on the divergence from the reference.

    The fixed point `pi = pi_ref exp(P pi / tau) / Z`, by mirror-prox steps.

    Args:
        preferences: P `[S, S]`, how probable it is that i is preferred to j.
        reference: `[S]`.
        tau: Price of a nat.
        steps: At most; it ends where nothing moves any more.
    """
    game, base = np.asarray(preferences, float), np.log(np.asarray(reference, float))
    step = 0.5 / (1 + tau)
    theta = base.copy()
    for _ in range(steps):
        half = theta + step * (game @ _normal(theta) - tau * (theta - base))
        moved = step * (game @ _normal(half) - tau * (half - base))
        theta = theta + moved
        if np.ptp(moved) < 1e-15:
            break
    return _normal(theta)


def mirror_steps(
    preferences: ArrayLike, reference: ArrayLike, tau: float, rate: float, steps: int, *, look_ahead: bool = False
) -> Array:
    """The policy `[S]` after exact steps of self-play from the reference, in a game as of `regularized_equilibrium`.

    A step is `pi' ~ pi^(1 - rate tau) pi_ref^(rate tau) exp(rate P q)`. q is the policy itself (INPO), or with
    `look_ahead` what one such step makes of it (EGPO), which comes nearer to the equilibrium, the more so the larger
    the steps are.

    References:
        Zhang et al., "Iterative Nash Policy Optimization", arXiv 2407.00617 (INPO).
        Zhou et al., "Extragradient Preference Optimization (EGPO)", arXiv 2503.08942.
    """
    game, base = np.asarray(preferences, float), np.log(np.asarray(reference, float))
    theta = base.copy()

    def step(against: Array) -> Array:
        return np.asarray((1 - rate * tau) * theta + rate * tau * base + rate * (game @ against))

    for _ in range(steps):
        made = step(_normal(theta))
        theta = step(_normal(made)) if look_ahead else made
    return _normal(theta)


def _tilted(reference: Array, ratios: Array) -> Array:
    return _normal(np.log(reference) + ratios)


def _normal(logits: Array) -> Array:
    found = np.exp(logits - logits.max())
    return np.asarray(found / found.sum())
