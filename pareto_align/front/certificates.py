"""How much better than what was found a policy could be, for any preference: bounds that need no training.

With a price beta of KL a policy for weights w maximises V(w) = E[w.r] - beta KL(policy || reference), and the largest
value V*(w) is a maximum of linear functions of w, so it is convex. Hence:

    at least    V*(w) >= w.v_j - beta KL_j                        what any measured policy j is worth for w
    at most     V*(w) <= sum_j c_j V*(w_j)                        for any c >= 0 with sum_j c_j w_j = w

The ceilings V*(w_j) are known though no policy is the best one. For any policy, with q(y) = w.r(y) - beta log-ratio(y):

    V*(w) = beta log E[exp(q / beta)]        over the policy's *own* answers,  >= E[q], what the policy is worth

an importance sampling identity, so that a policy's own answers say how far it is from the best one. It is only as good
as the weights exp(q / beta) are even: the effective number of answers says so, and where it is small there is no
ceiling. Nor is there one of a policy that collapsed: of answers that it never gives it knows nothing, and equal ones
count as one.

The lower end is the largest of several noisy values, and the upper end the least over combinations of noisy ceilings:
the luckiest error would be picked. So the error allowed is shared among them (Bonferroni), and each gives way by as
much as lets all of them hold at once.

References:
    Roijers et al., "Computing Convex Coverage Sets for Faster Multi-objective Coordination", JAIR 52, 2015 (optimistic
        linear support: the bound for exact optima, without noise). Taken of trained policies as if they were optimal it
        is no bound; the ceilings are our own derivation.
    Owen, "Monte Carlo theory, methods and examples", 2013, chapter 9 (the effective sample size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import PreferenceError

__all__ = ["LEAST_COVERED", "LEAST_EFFECTIVE", "Bounds", "Ceiling", "bounds_at", "ceiling_of"]

Floats = NDArray[np.float64]

LEAST_EFFECTIVE = 10.0
"""Effective answers to a prompt, of the prompt with fewest, below which a ceiling is refused."""
LEAST_COVERED = 0.9
"""Share of the reference's probability that a prompt's answers must stand for where they are all alike.

Where they differ a small share is no sign of collapse: the best policy leaves out what is worse, and a nat of KL away
it shows .6 in 256 answers.
"""
ALIKE = 1e-6
"""Nats, and scaled reward, by which equal answers may differ in rounding."""
ROUNDING = 1e-9
"""Shares, and directions on the simplex, that differ by no more are the same."""
ERROR = 0.05
"""How often either end may fail, as far as the noise is normal; shared among what it is chosen from."""


@dataclass(frozen=True)
class Ceiling:
    """What the best policy for some weights is worth, as one policy's own answers tell.

    Attributes:
        value: V*, in scaled reward.
        stderr: Its standard error.
        effective: Effective answers to a prompt, of the prompt that has fewest. Equal answers count as one where they
            stand for less than `LEAST_COVERED` of what the reference says: there the policy has collapsed.
        kl: KL of the policy from the reference, in nats an answer.
        kl_stderr: Its standard error.
        covered: Share of the reference's probability that the policy's answers stand for, about 1 where it can say
            all that the reference can. A ceiling knows nothing of answers that the policy never gives.
        values: [m] means of its rewards, on the scale that it is trained on.
        errors: [m] their standard errors.
    """

    value: float
    stderr: float
    effective: float
    kl: float
    kl_stderr: float
    covered: float = 1.0
    values: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether enough answers bear it, which those of a collapsed policy never are."""
        return self.effective >= LEAST_EFFECTIVE


@dataclass(frozen=True)
class Bounds:
    """What the best policy for a preference is worth, in scaled reward less the price of its KL.

    Attributes:
        lower: At least this: the best measured policy.
        upper: At most this; infinite where the preference lies between no ceilings.
        best: Place of the measured policy that `lower` is of.
    """

    lower: float
    upper: float
    best: int

    @property
    def gain(self) -> float:
        """What training for the preference could add at most to what there is."""
        return max(self.upper - self.lower, 0.0)


def ceiling_of(
    rewards: ArrayLike, log_ratios: ArrayLike, prompts: ArrayLike, weights: ArrayLike, beta: float
) -> Ceiling:
    """The ceiling at `weights` from one policy's answers. O(n m).

    The logarithm of a mean over few answers is too small in expectation; its first-order error is added. Prompts are
    taken as given: the ceiling is one of the mean over these prompts.

    Args:
        rewards: [n, m] of its answers, maximised, on the scale that it is trained on.
        log_ratios: [n] nats by which an answer is likelier under the policy than under the reference.
        prompts: [n] which prompt an answer belongs to; those of one are drawn alike.
        weights: [m].
        beta: Price of one nat, in scaled reward; above 0.

    Raises:
        PreferenceError: `beta` is not positive, so that there is no best policy that answers in more than one way.
    """
    if not beta > 0:
        raise PreferenceError(f"A ceiling needs a price of KL: kl_coef above 0. Found {beta}.")
    ratio, found = np.asarray(log_ratios, dtype=float), np.asarray(rewards, dtype=float)
    q = found @ np.asarray(weights, dtype=float) - beta * ratio
    _, owner, counts = np.unique(np.asarray(prompts), return_inverse=True, return_counts=True)
    owner = owner.reshape(-1)
    largest = np.full(len(counts), -np.inf)
    np.maximum.at(largest, owner, q)
    share = np.exp((q - largest[owner]) / beta)  # the largest taken out: nothing overflows
    total = np.bincount(owner, share)
    effective = total**2 / np.bincount(owner, share**2)
    soft = largest + beta * (np.log(total / counts) + (1 / effective - 1 / counts) / 2)
    # to first order the noise of a prompt's value is that of beta share / mean share
    variance = beta**2 * np.maximum(1 / effective - 1 / counts, 0.0) * counts / np.maximum(counts - 1, 1)
    size = len(counts)
    told = np.column_stack([ratio, found])  # [n, 1 + m]
    means = np.stack([np.bincount(owner, column) for column in told.T], 1) / counts[:, None]
    covered = np.bincount(owner, np.exp(-ratio)) / counts
    alike = np.bincount(owner, (np.abs(told - means[owner]) > ALIKE).any(1)) == 0
    effective[alike & (covered < LEAST_COVERED)] = 1.0
    squares = np.stack([np.bincount(owner, column) for column in ((told - means[owner]) ** 2).T], 1)
    errors = np.sqrt((squares / (np.maximum(counts - 1, 1) * counts)[:, None]).sum(0)) / size
    kl, *values = means.mean(0).tolist()
    return Ceiling(
        value=float(soft.mean()),
        stderr=float(np.sqrt(variance.sum()) / size),
        effective=float(effective.min()) if np.isfinite(soft).all() else 0.0,
        kl=kl,
        kl_stderr=float(errors[0]),
        covered=float(min(covered.mean(), 1.0)),
        values=tuple(values),
        errors=tuple(errors[1:].tolist()),
    )


def bounds_at(
    preference: ArrayLike, anchors: ArrayLike, ceilings: Sequence[Ceiling], beta: float, *, error: float = ERROR
) -> Bounds:
    """Bounds of V* at a preference, from k measured policies; one linear programme of k unknowns and m equations.

    Args:
        preference: [m] on the simplex.
        anchors: [k, m] preferences at which the ceilings are.
        ceilings: k of them; those that are not trusted take part in the lower bound only.
        beta: Price of one nat, in scaled reward.
        error: How often either end may fail. The upper one has it shared among the trusted ceilings, the lower one
            among the policies (Bonferroni); the standard errors of a policy's values are added up as if all were wrong
            in one direction.

    Raises:
        PreferenceError: There is no measured policy.
    """
    if not ceilings:
        raise PreferenceError("No measured policy says how it stands to the best one, so there are no bounds.")
    asked, places = np.asarray(preference, dtype=float), np.asarray(anchors, dtype=float)
    values, errors = (np.array([getattr(one, name) for one in ceilings]) for name in ("values", "errors"))
    kls, noise = (np.array([getattr(one, name) for one in ceilings]) for name in ("kl", "kl_stderr"))
    sure = _standard_errors(error, len(ceilings))
    worth = values @ asked - beta * kls - sure * (errors @ asked + beta * noise)
    best = int(worth.argmax())
    trusted = [k for k, one in enumerate(ceilings) if one.trusted]
    upper = np.inf
    if trusted:
        sure = _standard_errors(error, len(trusted))
        tops = np.array([ceilings[k].value + sure * ceilings[k].stderr for k in trusted])
        upper = _cheapest(tops, places[trusted], asked)
    return Bounds(float(worth[best]), upper, best)


def _cheapest(costs: Floats, places: Floats, asked: Floats) -> float:
    """Least cost of a mixture, with shares of at least 0, of k places [k, m] that is what was asked for; inf: none is.

    Of two objectives at most two places take part, so that all pairs can be looked at.
    """
    if places.shape[1] != 2:
        from scipy.optimize import linprog

        found = linprog(costs, A_eq=places.T, b_eq=asked, bounds=(0, None))
        return float(found.fun) if found.status == 0 else np.inf
    x, y = places.T
    across = x[:, None] * y - y[:, None] * x  # of each with each; 0 where both point the same way
    beside = asked[0] * y - asked[1] * x
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(np.abs(across) > ROUNDING, beside / across, -1.0)
        alone = np.where(np.abs(beside) <= ROUNDING, costs * asked.sum() / places.sum(1), np.inf)
    # in a pair the share of the first is its distance from the line through the second, and the other way round
    held = (first >= -ROUNDING) & (first.T >= -ROUNDING)
    return float(min(np.where(held, first * costs[:, None] + first.T * costs, np.inf).min(), alone.min()))


def _standard_errors(error: float, count: int) -> float:
    """By how many standard errors each of `count` normal values gives way, so that all hold but for `error`."""
    return NormalDist().inv_cdf(1 - error / count)
