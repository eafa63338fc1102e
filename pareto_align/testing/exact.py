"""Exact answers by enumeration: what a policy is worth when everything it can say fits into one table.

Everything here works on tables. `probabilities` is [n_prompts, S], the chance of each of the S = V**T strings for each
prompt; `rewards` is [n_prompts, S, m], maximised. Strings are in the order of `itertools.product(range(V), repeat=T)`.
`policy_table` makes the table of a model (see `pareto_align.testing.tables`).

For a reference policy p0 and a weight vector w the policy that maximises E[w.r] - beta KL(p || p0) is known:

    p_w(y|x) = p0(y|x) exp(w.r(x,y) / beta) / Z_w(x)        best value = mean_x beta log Z_w(x)

so regret, missed share and front need no sampling. KL is per sequence, in nats, averaged over the prompts.
Nothing here uses `pareto_align.front`: the judge shares no code with what it judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError
from pareto_align.testing.tables import policy_table, string_log_probabilities, string_probabilities

if TYPE_CHECKING:
    from pareto_align.testing.problems import KnownFrontProblem

__all__ = [
    "Verdict",
    "attainable_hypervolume",
    "best_value",
    "convex_front",
    "expected_rewards",
    "hypervolume",
    "hypervolume_ratio",
    "judge",
    "kl_divergence",
    "missed_share",
    "optimal_policy",
    "policy_table",
    "policy_value",
    "regret",
    "regularized_front",
    "string_log_probabilities",
    "string_probabilities",
]

Array = NDArray[np.float64]


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that `points` [n, m] dominate above `reference` [m], everything maximised."""
    import moocore

    low = np.asarray(reference, float)
    above = np.atleast_2d(np.asarray(points, float))
    above = above[(above > low).all(axis=1)]  # a point below the reference in any objective dominates no volume
    return float(moocore.hypervolume(above, low, maximise=True)) if len(above) else 0.0


# ------------------------------------------------------------------------------------------------ one policy


def expected_rewards(probabilities: ArrayLike, rewards: ArrayLike) -> Array:
    """E[r] of a policy, averaged over the prompts: [m]."""
    p, r = np.asarray(probabilities, float), np.asarray(rewards, float)
    return np.einsum("xs,xsm->m", p, r) / len(p)


def kl_divergence(probabilities: ArrayLike, reference: ArrayLike) -> float:
    """KL(policy || reference) per sequence in nats, averaged over the prompts; infinite outside the support."""
    p, q = np.asarray(probabilities, float), np.asarray(reference, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
    # Summed with the vanishing difference of the masses: keeps rounding from making a KL of nearly 0 negative.
    return max(0.0, float((terms.sum(axis=1) - p.sum(axis=1) + q.sum(axis=1)).mean()))


def policy_value(
    probabilities: ArrayLike, reference: ArrayLike, rewards: ArrayLike, weights: ArrayLike, beta: float
) -> float:
    """E[w.r] - beta KL(policy || reference): what a policy trained for `weights` [m] maximises."""
    value = float(expected_rewards(probabilities, rewards) @ np.asarray(weights, float))
    return value - beta * kl_divergence(probabilities, reference) if beta else value


def optimal_policy(reference: ArrayLike, rewards: ArrayLike, weights: ArrayLike, beta: float) -> Array:
    """The best policy for `weights` [m] at `beta`, as a table [n_prompts, S].

    At beta = 0 it is the limit: the reference policy restricted to the best strings of each prompt.
    """
    return np.exp(_log_tilted(reference, rewards, weights, beta)[0])


def best_value(reference: ArrayLike, rewards: ArrayLike, weights: ArrayLike, beta: float) -> float:
    """The largest E[w.r] - beta KL that any policy can have."""
    return float(_log_tilted(reference, rewards, weights, beta)[1].mean())


def regret(
    probabilities: ArrayLike, reference: ArrayLike, rewards: ArrayLike, weights: ArrayLike, beta: float
) -> float:
    """Best value minus the policy's own, in reward units; 0 for the optimal policy, never negative."""
    best = best_value(reference, rewards, weights, beta)
    return max(0.0, best - policy_value(probabilities, reference, rewards, weights, beta))


def missed_share(
    probabilities: ArrayLike, reference: ArrayLike, rewards: ArrayLike, weights: ArrayLike, beta: float
) -> float:
    """Regret as a share of what training could gain over the reference policy: 0 best, 1 nothing learned.

    Above 1 the policy is worse than the untrained one. 0 where there is nothing to gain.
    """
    gain = regret(reference, reference, rewards, weights, beta)
    if gain <= 1e-12:
        return 0.0
    return regret(probabilities, reference, rewards, weights, beta) / gain


def _log_tilted(reference: ArrayLike, rewards: ArrayLike, weights: ArrayLike, beta: float) -> tuple[Array, Array]:
    """Log of the optimal policy [n_prompts, S] and the value of each prompt [n_prompts]."""
    if beta < 0:
        raise ConfigError(f"beta must not be negative. Found beta={beta}.")
    with np.errstate(divide="ignore"):
        log_reference = np.log(np.asarray(reference, float))
    utility = np.asarray(rewards, float) @ np.asarray(weights, float)
    top = np.where(np.isfinite(log_reference), utility, -np.inf).max(axis=1, keepdims=True)
    if beta == 0:
        tilted = np.where(utility >= top - 1e-12, log_reference, -np.inf)
    else:
        tilted = log_reference + (utility - top) / beta  # top taken out: exp never overflows
    log_z = np.logaddexp.reduce(tilted, axis=1, keepdims=True)
    return tilted - log_z, (top + beta * log_z)[:, 0]


# ------------------------------------------------------------------------------------------------- the front


def regularized_front(reference: ArrayLike, rewards: ArrayLike, weights: ArrayLike, beta: float) -> Array:
    """True points E[r] [n, m] of the optimal policies for each row of `weights` [n, m] at `beta`."""
    return np.stack(
        [expected_rewards(optimal_policy(reference, rewards, w, beta), rewards) for w in np.asarray(weights, float)]
    )


def convex_front(rewards: ArrayLike, *, size: int = 500, seed: int = 0) -> Array:
    """A dense sample of the true front at beta = 0.

    A policy mixes the strings of each prompt freely, so its E[r] can be any point of the average over prompts
    (Minkowski average) of the convex hulls of {r(x, y)}. The front is the upper right boundary of that body.

    Args:
        rewards: [n_prompts, S, m], maximised.
        size: Number of points wanted; the vertices are always among them.
        seed: Of the random points on the facets, used when m > 2.

    Returns:
        [n, m] attainable points, n about `size` (fewer when the front is a single point). For m = 2 sorted by
        the first objective, falling, and evenly spaced on normalised axes.
    """
    rewards = np.asarray(rewards, float)
    span = np.ptp(rewards, axis=(0, 1))
    scale = np.where(span > 0, span, 1.0)  # axes of like length: the hull is blind to units
    body, facets = _upper_hull(rewards[0] / scale)
    for prompt in rewards[1:]:
        other, _ = _upper_hull(prompt / scale)
        body, facets = _upper_hull((body[:, None] + other[None]).reshape(-1, rewards.shape[2]))
    body = body / len(rewards)
    if len(body) == 1:
        return body * scale
    if rewards.shape[2] == 2:
        line = body[np.argsort(-body[:, 0])]
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        at = np.union1d(along, np.linspace(0.0, along[-1], max(size, 2)))
        return np.stack([np.interp(at, along, line[:, i]) for i in range(2)], axis=1) * scale
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(facets), size=max(0, size - len(body)), p=_facet_shares(body, facets))
    inside = [rng.dirichlet(np.ones(len(facets[i]))) @ body[facets[i]] for i in chosen]
    return np.concatenate([body, np.reshape(inside, (-1, body.shape[1]))]) * scale


def _upper_hull(points: Array) -> tuple[Array, list[NDArray[np.intp]]]:
    """Vertices [n, m] of the upper right part of a convex hull, and its facets as index arrays into them."""
    import moocore
    from scipy.spatial import ConvexHull

    points = np.unique(np.round(points, 12), axis=0)
    points = points[moocore.is_nondominated(points, maximise=True)]
    n, m = points.shape
    if n <= 2:
        return points, [np.arange(n)]
    # With each point's shadows below it the body is full-dimensional, however flat the points themselves lie.
    floor = points.min(axis=0) - 1.0
    shadows = np.repeat(points, m, axis=0)
    shadows[np.arange(n * m), np.tile(np.arange(m), n)] = np.tile(floor, n)
    hull = ConvexHull(np.concatenate([points, np.unique(shadows, axis=0)]))
    upper = (hull.equations[:, :m] >= -1e-9).all(axis=1)
    facets = [np.sort(simplex[simplex < n]) for simplex in hull.simplices[upper]]
    facets = [np.array(facet) for facet in sorted({tuple(facet.tolist()) for facet in facets if len(facet)})]
    kept = np.unique(np.concatenate(facets))
    return points[kept], [np.searchsorted(kept, facet) for facet in facets]


def _facet_shares(body: Array, facets: list[NDArray[np.intp]]) -> Array:
    """How often to draw from each facet: by area, with a tenth of the draws for facets of a lower dimension."""
    corners = np.array([len(facet) for facet in facets])
    edges = [body[facet[1:]] - body[facet[0]] for facet in facets]
    area = np.array([np.sqrt(max(np.linalg.det(e @ e.T), 0.0)) + 1e-12 for e in edges])
    full = corners == corners.max()
    shares = np.where(full, area / area[full].sum(), 0.0)
    if not full.all():  # areas of different dimensions cannot be compared
        shares = 0.9 * shares + 0.1 * ~full / (~full).sum()
    return shares / shares.sum()


def attainable_hypervolume(front: ArrayLike, /, reference: ArrayLike, size: int) -> float:
    """The largest hypervolume that `size` points of a dense front can have.

    Exact for m = 2 (dynamic programming over the sorted front). For more objectives a greedy choice, then exchanges
    until none helps: below the best by a fraction of a percent at m = 3, by up to about two percent at m = 5, mostly
    because a sample of a few hundred points is thin there.

    Args:
        front: [n, m] dense sample of the true front, maximised.
        reference: [m] reference point.
        size: Number of points that may be chosen.
    """
    points, low = np.asarray(front, float), np.asarray(reference, float)
    if size < 1:
        raise ConfigError(f"size must be at least 1. Found size={size}.")
    points = points[(points > low).all(axis=1)]
    if len(points) <= size:
        return hypervolume(points, low)
    if points.shape[1] == 2:
        return _best_subset_2d(points - low, size)
    chosen: list[int] = []
    for _ in range(size):
        chosen.append(_best_addition(points, low, chosen))
    for _ in range(20):
        before = list(chosen)
        for slot in range(size):
            rest = chosen[:slot] + chosen[slot + 1 :]
            chosen[slot] = _best_addition(points, low, rest, incumbent=chosen[slot])
        if chosen == before:
            break
    return hypervolume(points[chosen], low)


def _best_addition(points: Array, low: Array, chosen: list[int], incumbent: int | None = None) -> int:
    """Index of the point that adds most to `chosen`; `incumbent` wins ties, so that exchanges come to an end."""
    box = np.prod(points - low, axis=1)

    def added(i: int) -> float:
        # The volume a point adds is its own box minus what the others cover inside that box.
        return float(box[i]) - (hypervolume(np.minimum(points[chosen], points[i]), low) if chosen else 0.0)

    best = int(np.argmax(box)) if incumbent is None else incumbent
    most = added(best)
    for i in np.argsort(-box).tolist():
        if box[i] <= most:
            break  # nor can any later point add more than its box
        gain = added(i)
        if gain > most + 1e-12:
            best, most = i, gain
    return best


def _best_subset_2d(points: Array, size: int) -> float:
    """Largest area above the origin that `size` of the points [n, 2] can cover together."""
    x, y = points[np.lexsort((points[:, 1], -points[:, 0]))].T  # x falls
    best = x * y
    total = float(best.max())
    # A later point (smaller x) adds its width times how much higher it reaches than the one before it.
    step = np.where(np.triu(np.ones((len(x), len(x)), bool), 1), x[None] * (y[None] - y[:, None]), -np.inf)
    for _ in range(size - 1):
        best = (best[:, None] + step).max(axis=0)
        total = max(total, float(best.max()))
    return total


def hypervolume_ratio(points: ArrayLike, front: ArrayLike, reference: ArrayLike) -> float:
    """Hypervolume of `points` [n, m] divided by the largest that n points of the dense `front` can have.

    The sample is not the whole front, so a perfect set may exceed 1 a little (see `attainable_hypervolume`).
    """
    points = np.atleast_2d(np.asarray(points, float))
    return hypervolume(points, reference) / attainable_hypervolume(front, reference, len(points))


# ------------------------------------------------------------------------------------------------ population


@dataclass(frozen=True, eq=False)
class Verdict:
    """What K policies are exactly worth on a problem whose front is known.

    Attributes:
        rewards: [K, m] exact E[r], maximised.
        kl: [K] exact KL to the reference policy per sequence, in nats.
        regret: [K] best value for the policy's own weights minus its value.
        missed_share: [K] regret divided by what training could gain.
        hypervolume: Of `rewards` over the problem's reference point.
        hypervolume_ratio: The same divided by the most that K points of the true front (beta = 0) can have.
    """

    rewards: Array
    kl: Array
    regret: Array
    missed_share: Array
    hypervolume: float
    hypervolume_ratio: float


def judge(
    problem: KnownFrontProblem,
    policies: Sequence[ArrayLike] | Array,
    reference: ArrayLike,
    preferences: ArrayLike,
    *,
    beta: float = 0.0,
) -> Verdict:
    """Judge a population against the truth.

    Args:
        problem: The problem; its reward table is used without noise.
        policies: [K, n_prompts, S] probability tables, see `policy_table`.
        reference: [n_prompts, S] table of the untrained model.
        preferences: [K, m] the weights each policy was trained for.
        beta: Strength of the KL term in regret and missed share. The hypervolume ratio is always that of beta = 0.
    """
    tables, weights = [np.asarray(p, float) for p in policies], np.asarray(preferences, float)
    if weights.shape != (len(tables), problem.m):
        raise ConfigError(
            f"Attribute `preferences` must have shape ({len(tables)}, {problem.m}). Found shape {weights.shape}."
        )
    r = problem.rewards
    values = np.stack([expected_rewards(p, r) for p in tables])
    pairs = list(zip(tables, weights, strict=True))
    return Verdict(
        rewards=values,
        kl=np.array([kl_divergence(p, reference) for p in tables]),
        regret=np.array([regret(p, reference, r, w, beta) for p, w in pairs]),
        missed_share=np.array([missed_share(p, reference, r, w, beta) for p, w in pairs]),
        hypervolume=hypervolume(values, problem.reference),
        hypervolume_ratio=hypervolume_ratio(values, convex_front(r), problem.reference),
    )
