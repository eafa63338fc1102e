"""From a preference to a member: which adapter serves this user, how sure is that, and what could it cost.

The choice is made on the measured means. Its risk is what the noise of the measurement leaves open: the true values are
drawn around the measured ones (flat prior, Student's t with as many degrees of freedom as the standard errors have;
where bounded measurements were all equal, from the ends of their interval), and the *regret* is the mean utility that
the truly best member would add. Where the noise is not known, nothing is said of either: both are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError, PreferenceError
from pareto_align.front.dominance import as_points
from pareto_align.front.estimates import mean_residuals, student_quantile
from pareto_align.front.intervals import beyond_alike
from pareto_align.front.lexicographic import first_in_order, tolerances
from pareto_align.front.preferences import Preference
from pareto_align.front.utility import ROUNDING, RULES, Rule, check_rule, rule_name, utility_of

__all__ = ["RULES", "Limit", "Selection", "drawn_errors", "keeping", "select"]

Floats = NDArray[np.float64]

MANY = 1_000_000
"""Units behind a standard error that is as good as known."""


@dataclass(frozen=True)
class Limit:
    """The least that the mean of an objective may be, maximised.

    Attributes:
        column: The objective.
        least: The smallest mean that keeps it.
    """

    column: int
    least: float

    def missed_by(self, values: ArrayLike) -> Floats:
        """How far means [..., M] miss it; 0 or less where they keep it, NaN where nothing was measured."""
        found = np.asarray(values, dtype=float)[..., self.column]
        missed = np.asarray(self.least - found)
        # at the limit up to rounding is at the limit
        return np.where(np.abs(missed) <= ROUNDING * np.maximum(np.abs(found), abs(self.least)), 0.0, missed)


def keeping(values: ArrayLike, limits: Sequence[Limit]) -> tuple[NDArray[np.intp], int]:
    """Which rows of means [n, M] keep all limits, and which row comes nearest to it.

    Limits in different units are compared by how far they are missed as a share of what the rows span.
    """
    means = np.asarray(values, dtype=float)
    missed = np.stack([limit.missed_by(means) for limit in limits], axis=1)  # [n, limits]
    columns = [means[~np.isnan(means[:, limit.column]), limit.column] for limit in limits]
    span = np.array([(np.ptp(column) if column.size else 0.0) or 1.0 for column in columns])
    nearest = int(np.nan_to_num(np.maximum(missed, 0.0) / span, nan=np.inf).max(axis=1).argmin())
    return np.flatnonzero((missed <= 0).all(axis=1)), nearest


@dataclass(frozen=True)
class Selection:
    """The member that serves a preference.

    Attributes:
        index: Row of the chosen member.
        score: Its utility under the rule, in normalised units.
        regret: Expected utility lost because the values are only measured; 0 without noise, NaN where the noise is not
            known.
        runner_up: Row of the second best, None if there is no other.
        probability_best: Probability that no other eligible member is truly better; NaN where the noise is not known.
        feasible: Does it meet its bounds with 95 % confidence each (one-sided)? The mean always does.
        reason: The choice as a sentence.
    """

    index: int
    score: float
    regret: float
    runner_up: int | None
    probability_best: float
    feasible: bool
    reason: str


def select(
    values: ArrayLike,
    stderr: ArrayLike,
    preference: ArrayLike | Preference,
    *,
    rule: Rule = "linear",
    lower: ArrayLike,
    upper: ArrayLike,
    at_least: Mapping[int, float] | None = None,
    ideal: ArrayLike | None = None,
    span: ArrayLike | None = None,
    samples: ArrayLike | None = None,
    n: ArrayLike = MANY,
    bounds: Sequence[tuple[float, float] | None] | None = None,
    draws: int = 4000,
    seed: int = 0,
) -> Selection:
    """Choose the member that serves a preference best.

    With v the values scaled so that lower is 0 and upper is 1, and w the preference, the utility of a member is

    - "linear": w . v. Only members on the convex hull are ever chosen.
    - "chebyshev": -max_j w_j (ideal_j - v_j), ideal_j being the best of the members unless `ideal` and `span` say
      otherwise; every member can be chosen.
    - "knee": m w . v with v scaled to the range of the members instead; with equal weights this is the member that lies
      farthest above the plane through the ideal corners, where giving up a little of one objective no longer buys much.
    - "lexicographic": the best on the objective with the largest weight; among those within one standard error of the
      difference from it the best on the next, and so on. Its regret is the loss on the first objective, its
      `probability_best` how likely the same member is chosen by the true means.
    - a function of your own: f(v), from values [m] to a number, larger is better; w plays no part.

    Ties, up to rounding, go to the larger w . v, then to the larger sum of v, then to the first. "At least x on a, then
    the best b" is `at_least={a: x}` with all the weight on b.

    Args:
        values: [n, m] measured means, maximised. Rows with a NaN are never chosen.
        stderr: [n, m] their standard errors; NaN where they are not known, and 0 where all measurements within `bounds`
            were equal; see `Estimate.noise`.
        preference: [m] weights, any positive scale.
        rule: One of `RULES`, or a function.
        lower: [m] value that becomes 0.
        upper: [m] value that becomes 1.
        at_least: Smallest allowed mean of some columns, maximised.
        ideal: [m] what "chebyshev" counts shortfalls from, where it is not the best of the members that may be chosen.
        span: [m] how far below the ideal its shortfall is 1, where that is not `upper` minus `lower`.
        samples: [n, N, m] rewards of all members on the same N prompts; the noise is then drawn jointly, so that what
            the members share cancels. Without them members and objectives are independent.
        n: Independent units behind each standard error: one number, or [n, m].
        bounds: For each objective what its rewards cannot leave, maximised; None, for an objective or for all: not
            known. For the regret no true value lies outside of them; one without bounds may lie as far outside of what
            was measured, or of `lower` to `upper`, as that is wide.
        draws: Number of draws of the true values.
        seed: Seed of the draws.

    Raises:
        PreferenceError: If the preference is unusable, there is no member, or none meets `at_least`; the message then
            says how close the nearest one comes.
        ConfigError: If the rule is unknown or the shapes do not fit.
    """
    points = as_points(values)
    rows, m = points.shape
    w = (preference if isinstance(preference, Preference) else Preference(np.asarray(preference))).weights
    low, high = np.asarray(lower, dtype=float), np.asarray(upper, dtype=float)
    noise = np.asarray(stderr, dtype=float)
    check_rule(rule)
    if rows and (w.shape != (m,) or low.shape != (m,) or high.shape != (m,) or noise.shape != (rows, m)):
        raise ConfigError(
            f"For values of shape {(rows, m)} found {w.size} preference weights, {low.size} lower and {high.size} "
            f"upper ends and standard errors of shape {noise.shape}."
        )
    if (high <= low).any():
        raise ConfigError(f"lower must be below upper. Found {low.tolist()} and {high.tolist()}.")

    limits = [Limit(column, float(bound)) for column, bound in (at_least or {}).items()]
    eligible = _eligible(points, limits)
    if rule == "lexicographic":
        return _lexicographic(
            points, noise, w, low, high, eligible, limits, n=n, samples=samples, bounds=bounds, draws=draws, seed=seed
        )
    utility, unit = utility_of(rule, points[eligible], w, low, high, ideal, span)
    framed = (points[eligible] - low) / (high - low)
    score = utility(points[eligible])
    size = np.abs([*points[eligible], low, high]).max(axis=0)
    rounding = ROUNDING * m * float((size / unit).max())
    order = _ranked([score, framed @ w, framed.sum(axis=1)], rounding)
    best = order[0]
    index = int(eligible[best])
    runner_up = int(eligible[order[1]]) if len(order) > 1 else None

    units = np.broadcast_to(np.asarray(n, dtype=np.int64), noise.shape)
    if len(eligible) == 1:
        regret, probability = 0.0, 1.0
    else:
        joint = None if samples is None else np.asarray(samples, dtype=float)[eligible]
        errors = drawn_errors(
            points[eligible], noise[eligible], n=units[eligible], samples=joint, bounds=bounds, draws=draws, seed=seed
        )
        errors[..., w == 0] = 0.0  # what does not count may well not be known
        drawn = points[eligible] + errors  # [draws, eligible, m]
        found = utility(drawn)
        loss = found.max(axis=1) - found[:, best]
        known = not np.isnan(loss).any()
        none = rounding + ROUNDING * np.abs(found).max(axis=1)  # what counts as no loss, [draws]
        probability = float((loss <= none).mean()) if known else np.nan
        within = utility(np.clip(drawn, *_attainable(rule, points[eligible], low, high, bounds)))
        regret = float((within.max(axis=1) - within[:, best]).mean())
    feasible = _feasible(points[index], noise[index], units[index], limits, bounds)
    reason = f"Member {index} has the best {rule_name(rule)} utility, {score[best]:.3f}"
    if runner_up is not None:
        reason += f"; member {runner_up} follows with {score[order[1]]:.3f}"
    return Selection(
        index=index,
        score=float(score[best]),
        regret=regret,
        runner_up=runner_up,
        probability_best=probability,
        feasible=feasible,
        reason=reason + ("." if feasible else ". It meets its bounds in the mean, but not with 95% confidence."),
    )


def _lexicographic(
    points: Floats,
    noise: Floats,
    w: Floats,
    low: Floats,
    high: Floats,
    eligible: NDArray[np.intp],
    limits: Sequence[Limit],
    *,
    n: ArrayLike,
    samples: ArrayLike | None,
    bounds: Sequence[tuple[float, float] | None] | None,
    draws: int,
    seed: int,
) -> Selection:
    """The choice under the rule "lexicographic"; the arguments are those of `select`, read."""
    units = np.broadcast_to(np.asarray(n, dtype=np.int64), noise.shape)
    order = [int(column) for column in np.argsort(-w, kind="stable") if w[column] > 0]
    joint = None if samples is None else np.asarray(samples, dtype=float)[eligible]
    alike = tolerances(noise[eligible], joint)
    best = int(first_in_order(points[eligible], order, alike))
    index, second = int(eligible[best]), None
    regret, probability = 0.0, 1.0
    if len(eligible) > 1:
        others = np.delete(np.arange(len(eligible)), best)
        left = first_in_order(points[eligible[others]], order, alike[np.ix_(others, others)])
        second = int(eligible[others[int(left)]])
        errors = drawn_errors(
            points[eligible], noise[eligible], n=units[eligible], samples=joint, bounds=bounds, draws=draws, seed=seed
        )[..., order]
        truth = points[eligible][:, order] + errors
        known = not np.isnan(truth).any()
        chosen = first_in_order(truth, range(len(order)), alike[..., order])
        probability = float((chosen == best).mean()) if known else np.nan
        ends = _attainable("linear", points[eligible], low, high, bounds)
        first = np.clip(truth[..., 0], ends[0][order[0]], ends[1][order[0]])
        regret = float((first.max(axis=1) - first[:, best]).mean() / (high - low)[order[0]])
    feasible = _feasible(points[index], noise[index], units[index], limits, bounds)
    reason = f"Member {index} comes first by objectives {', '.join(map(str, order))} in this order"
    reason += "" if second is None else f"; member {second} follows"
    return Selection(
        index=index,
        score=float((points[index, order[0]] - low[order[0]]) / (high - low)[order[0]]),
        regret=regret,
        runner_up=second,
        probability_best=probability,
        feasible=feasible,
        reason=reason + ("." if feasible else ". It meets its bounds in the mean, but not with 95% confidence."),
    )


def _feasible(
    means: Floats,
    stderr: Floats,
    units: NDArray[np.int64],
    limits: Sequence[Limit],
    bounds: Sequence[tuple[float, float] | None] | None,
) -> bool:
    """Whether a member [m] keeps all limits with 95 % confidence each."""
    worst = means - student_quantile(0.05, units) * stderr
    for j, ends in enumerate(bounds or ()):
        if ends is not None and stderr[j] == 0:  # the lower end of the interval of equal values
            worst[j] -= (means[j] - ends[0]) * (1 - 0.05 ** (1 / units[j]))
    return all(limit.missed_by(worst) <= 0 for limit in limits)


def _ranked(keys: list[Floats], rounding: float) -> list[int]:
    """The first two rows, best first, by keys [n] of falling weight; values within `rounding` are equal."""
    left, order = list(range(len(keys[0]))), []
    for _ in range(min(2, len(left))):
        best = left
        for key in keys:
            most = max(key[i] for i in best)
            best = [i for i in best if key[i] >= most - rounding]
        order.append(best[0])
        left = [i for i in left if i != best[0]]
    return order


def _attainable(
    rule: Rule, members: Floats, lower: Floats, upper: Floats, bounds: Sequence[tuple[float, float] | None] | None
) -> tuple[Floats, Floats]:
    """[m] ends of where the true values may lie, so that few prompts, whose errors have no mean, have a regret.

    The knee scales what the members span to 1, however little that is: farther out nothing is of use to it.
    """
    worst, best = members.min(axis=0), members.max(axis=0)
    if rule == "knee":
        return worst, best
    worst, best = np.minimum(worst, lower), np.maximum(best, upper)
    worst, best = worst - (best - worst), best + (best - worst)
    for j, ends in enumerate(bounds or ()):
        if ends is not None:
            worst[j], best[j] = ends
    return worst, best


def _eligible(points: Floats, limits: Sequence[Limit]) -> NDArray[np.intp]:
    """Rows that are complete and keep every limit."""
    complete: NDArray[np.intp] = np.flatnonzero(~np.isnan(points).any(axis=1))
    if not complete.size:
        raise PreferenceError("There is no member to choose from.")
    if not limits:
        return complete
    for limit in limits:
        if not 0 <= limit.column < points.shape[1]:
            raise PreferenceError(f"at_least names column {limit.column}, but there are {points.shape[1]} objectives.")
    rows, nearest = keeping(points[complete], limits)
    if rows.size:
        return complete[rows]
    row = int(complete[nearest])
    missed = "; ".join(
        f"objective {limit.column} reaches {points[row, limit.column]:.4g} of {limit.least:.4g}"
        for limit in limits
        if limit.missed_by(points[row]) > 0
    )
    raise PreferenceError(f"No member meets the bounds. The nearest is member {row}: {missed}.")


def drawn_errors(
    values: Floats,
    stderr: Floats,
    *,
    n: NDArray[np.int64],
    samples: Floats | None = None,
    bounds: Sequence[tuple[float, float] | None] | None = None,
    draws: int = 4000,
    seed: int = 0,
) -> Floats:
    """Draws of how far the true means may lie from the measured ones; the arguments are those of `select`.

    Args:
        values: [n, m] measured means, maximised.
        stderr: [n, m] their standard errors.
        n: [n, m] independent units behind each.
        samples: [n, N, m] rewards on the same N prompts, for joint draws.
        bounds: What the rewards of each objective cannot leave.
        draws: Number of draws.
        seed: Of the draws.

    Returns:
        [draws, n, m] errors; NaN where the noise is not known.
    """
    rng = np.random.default_rng(seed)
    errors = _errors(stderr, n, samples, draws, rng)
    errors[:, np.isnan(stderr)] = np.nan
    for i, j in np.argwhere(stderr == 0):
        if bounds is not None and (ends := bounds[j]) is not None:
            errors[:, i, j] = beyond_alike(values[i, j], n[i, j], ends, draws, rng)
    return errors


def _errors(
    stderr: Floats, units: NDArray[np.int64], samples: Floats | None, draws: int, rng: np.random.Generator
) -> Floats:
    """[draws, n, m] errors of the measured means."""
    if samples is None:
        return np.asarray(rng.standard_t(np.maximum(units - 1, 1), (draws, *stderr.shape)) * stderr, dtype=float)
    if samples.ndim != 3 or (len(samples), samples.shape[2]) != stderr.shape:
        raise ConfigError(f"Samples must have shape [n, N, m]. Found {samples.shape} for {stderr.shape[1]} objectives.")
    n, prompts, m = samples.shape
    residuals = mean_residuals(samples.transpose(1, 0, 2).reshape(prompts, n * m))
    freedom = max(int((~np.isnan(samples)).sum(axis=1).min()) - 1, 1)
    errors = (rng.standard_normal((draws, prompts)) @ residuals).reshape(draws, n, m)
    # one factor for all: any weighing of members and objectives is Student's
    return np.asarray(errors * np.sqrt(freedom / rng.chisquare(freedom, (draws, 1, 1))), dtype=float)
