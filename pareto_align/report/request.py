"""A request as a person states it, and the answer in the person's own words and units.

A request is a preference and limits: at least so much of what should be high, at most so much of what should be low.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.errors import ConfigError, PreferenceError
from pareto_align.front import selection
from pareto_align.front.estimates import Estimate
from pareto_align.front.preferences import Preference
from pareto_align.front.selection import MANY, keeping, select
from pareto_align.front.utility import ROUNDING, Rule, check_rule, rule_name, utility_of
from pareto_align.printable import one_line
from pareto_align.report.units import (
    INTERVAL,
    Axis,
    Measured,
    axes_of,
    bound_of,
    bounds_of,
    listed,
    measured,
    optimized,
    preferences_of,
)
from pareto_align.weighting.base import reading_of

if TYPE_CHECKING:
    from pareto_align.front.selection import Selection
    from pareto_align.front.storage import FrontRecord, ObjectiveRecord

__all__ = [
    "Answer", "Evidence", "Limit", "answer", "evidence", "limits_of", "place_of", "recorded_rule", "rows_within",
    "run_limits",
]  # fmt: skip

CRITERIA = ("ser", "esr")
"""What a utility is of: of the means (scalarised expected returns), or of each answer (expected scalarised returns)."""
RULE_OF = {"place": "chebyshev", "rate": "linear"}
"""The rule that chooses under each reading of a preference."""
SHOWN_ALIKE = 0.006
"""Weights no further apart than this are the same where a preference is shown by two decimals."""

_WORDS = {"chebyshev": "a place on the front", "linear": "an exchange rate"}


@dataclass(frozen=True)
class Limit:
    """A bound on the mean of one objective, in the user's units.

    Attributes:
        column: The objective's position among all M.
        axis: The objective.
        bound: At least this if it is maximised, at most this if it is minimised.
    """

    column: int
    axis: Axis
    bound: float

    def __str__(self) -> str:
        return f"{self.axis.name} {'at least' if self.axis.maximize else 'at most'} {self.bound:g}"

    @property
    def maximized(self) -> selection.Limit:
        """The same where more is better."""
        return selection.Limit(self.column, self.axis.sign * self.bound)

    def surely(self, members: Measured, row: int) -> bool:
        """Whether the whole 95 % interval of a member's mean keeps the limit; not where its noise is not known."""
        worst = members.low if self.axis.maximize else members.high
        return bool(self.maximized.missed_by(self.axis.sign * worst[row]) <= 0)


def limits_of(axes: Sequence[Axis], at_least: Mapping[str, float], at_most: Mapping[str, float]) -> tuple[Limit, ...]:
    """Read limits by name.

    Raises:
        PreferenceError: A name is unknown, a number is not finite, or a limit is on the side that is better anyway.
    """
    names = [axis.name for axis in axes]
    limits: list[Limit] = []
    for asked, given, other in (("at_least", at_least, "at_most"), ("at_most", at_most, "at_least")):
        if not isinstance(given, Mapping):
            raise PreferenceError(
                f"`{asked}` must map objectives to numbers, such as {{{names[0]!r}: 0.5}}. Found {given!r:.80}."
            )
        for name, bound in given.items():
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"The objectives are {', '.join(names)}."
                raise PreferenceError(f"Unknown objective {name!r} in `{asked}`. {hint}")
            axis = axes[names.index(name)]
            if axis.maximize != (asked == "at_least"):
                better = "maximized, so more is better" if axis.maximize else "minimized, so less is better"
                raise PreferenceError(f"{name!r} is {better}: limit it with `{other}`, not with `{asked}`.")
            if isinstance(bound, bool) or not isinstance(bound, Real) or not math.isfinite(bound):
                raise PreferenceError(f"`{asked}` of {name!r} must be a finite number. Found {bound!r}.")
            limits.append(Limit(names.index(name), axis, float(bound)))
    return tuple(limits)


def run_limits(record: FrontRecord) -> list[Limit]:
    """The limits that the run was held to."""
    bounds = [(i, axis, bound_of(record.objectives[i])) for i, axis in enumerate(axes_of(record))]
    return [Limit(i, axis, bound) for i, axis, bound in bounds if bound is not None]


def rows_within(members: Measured, limits: Sequence[Limit]) -> list[int]:
    """Rows of the members whose means keep all limits; all rows without limits.

    Raises:
        PreferenceError: No member does; the message says how near the nearest one comes.
    """
    if not limits:
        return list(range(len(members.ids)))
    means = members.values.copy()
    for limit in limits:
        means[:, limit.column] = limit.axis.sign * members.values[:, limit.column]
    rows, nearest = keeping(means, [limit.maximized for limit in limits])
    if rows.size:
        return [int(row) for row in rows]
    reached = ", ".join(
        f"{limit.axis.name} {members.values[nearest, limit.column]:.4g}"
        for limit in limits
        if not limit.maximized.missed_by(means[nearest]) <= 0
    )
    raise PreferenceError(
        f"No member keeps {' and '.join(map(str, limits))}. The nearest is {members.ids[nearest]} with {reached}."
    )


@dataclass(frozen=True)
class Answer:
    """Which member serves a request.

    Attributes:
        row: The member's row.
        runner_up: Row of the second best among those that keep the limits, or None.
        regret: Expected loss against the truly best, in normalised utility; NaN where the noise is not known.
        probability_best: How likely this one is the truly best; NaN where the noise is not known.
        feasible: Whether the whole 95 % intervals keep the limits, one by one; its means always do.
        rule: The rule that chose.
        reason: A few sentences saying why.
        posterior: How probable it is that each member, by its id, is the one that is wanted; None where the question
            was not asked so.
    """

    row: int
    runner_up: int | None
    regret: float
    probability_best: float
    feasible: bool
    rule: str
    reason: str
    posterior: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was measured of some members on the m optimized objectives, maximised, as `front.selection.select` takes it.

    Attributes:
        means: [n, m] measured means.
        stderr: [n, m] their standard errors.
        samples: [n, N, m] rewards on the prompts that all share, or None where they were not measured on the same.
        known: Its further arguments: `lower`, `upper`, `n` and `bounds`.
    """

    means: np.ndarray
    stderr: np.ndarray
    samples: np.ndarray | None
    known: dict[str, Any]


def evidence(record: FrontRecord, rows: Sequence[int]) -> Evidence:
    """What was measured of the members in `rows`."""
    axes = list(optimized(record))
    objectives = [record.objectives[i] for i in axes]
    estimates = [record.members[row].estimate.take(axes) for row in rows]
    declared = bounds_of(record)
    bounds = [declared[i] for i in axes]
    known: dict[str, Any] = {
        "lower": np.array([o.lower for o in objectives]),
        "upper": np.array([o.upper for o in objectives]),
        # a noise that is known to be none is no chance of a few measurements
        "n": np.stack([np.where((e.stderr == 0) & ~e.alike, MANY, e.counts) for e in estimates]),
        "bounds": bounds,
    }
    means = np.stack([estimate.mean for estimate in estimates])
    stderr = np.stack([estimate.noise(bounds) for estimate in estimates])
    return Evidence(means, stderr, _shared_samples(estimates), known)


def recorded_rule(record: FrontRecord) -> str:
    """The rule that reads a preference as the run did; fronts that do not say how go by their weighting's name."""
    reading = record.config.get("reading") or reading_of(str(record.config.get("weighting")))
    return RULE_OF[reading]


def answer(
    record: FrontRecord,
    preference: Any,
    *,
    rule: Rule | None = None,
    criterion: str = "ser",
    at_least: Mapping[str, float] | None = None,
    at_most: Mapping[str, float] | None = None,
) -> Answer:
    """Choose among the members that keep the limits.

    Args:
        record: The front.
        preference: Whatever `Preference.of` reads; None gives all optimized objectives the same weight.
        rule: One of `pareto_align.front.utility.RULES`, or a utility of one's own; None reads the preference as the
            run did.
        criterion: "ser": the utility of the means. "esr": the mean of the utility of each prompt's rewards.
        at_least: Lower limits of maximised objectives, audited ones included, in the user's units.
        at_most: Upper limits of minimised objectives, likewise.

    Raises:
        PreferenceError: The front is empty, the request cannot be read, or no member keeps the limits.
        ConfigError: An unknown rule or criterion, or a pair of them that has no meaning.
    """
    if criterion not in CRITERIA:
        raise ConfigError(f"`criterion` must be one of {', '.join(CRITERIA)}. Found {criterion!r:.40}.")
    if callable(rule) and preference is not None:
        raise PreferenceError("A rule of your own is all there is to a wish: leave the preference out.")
    if not record.members:
        raise PreferenceError("This front has no members to choose from.")
    axes = list(optimized(record))
    objectives = [record.objectives[i] for i in axes]
    weights = Preference.of([1.0] * len(axes) if preference is None else preference, [o.name for o in objectives])
    limits = limits_of(axes_of(record), {} if at_least is None else at_least, {} if at_most is None else at_most)
    table = measured(record)
    rows = rows_within(table, limits)
    seen = evidence(record, rows)
    means, stderr, known = seen.means, seen.stderr, {**seen.known, **place_of(record, axes)}
    asked = recorded_rule(record) if rule is None else rule
    if criterion == "esr":
        found = _by_each_answer(record, rows, asked, weights.weights, means, known)
    else:
        found = select(means, stderr, weights, rule=asked, samples=seen.samples, **known)
    row = rows[found.index]
    unsure = [limit for limit in limits if not limit.surely(table, row)]
    reason = f"{table.ids[row]} is best for {_wish(weights, objectives, asked)}"
    if criterion == "esr":
        reason += ", in the mean over the prompts"
    elif asked in _WORDS and len(axes) > 1:
        reason += f", read as {_WORDS[asked]}" + (" like the run did" if asked == recorded_rule(record) else "")
    if found.runner_up is not None:
        second = table.ids[rows[found.runner_up]]
        reason += f", before {second}; {_sureness(found)}"
    if excluded := len(table.ids) - len(rows):
        reason += f"; {excluded} member{'' if excluded == 1 else 's'} did not keep the limits"
    if unsure:
        reason += f". It keeps {' and '.join(map(str, unsure))} in the mean, but not with 95 % confidence"
    known_rows = [k for k, mean in zip(rows, means, strict=True) if not np.isnan(mean).any()]
    meant = _trained_for(record, known_rows, weights) if asked == recorded_rule(record) and criterion == "ser" else []
    if meant and row not in meant:
        told = f"{listed([table.ids[k] for k in meant])} {'was' if len(meant) == 1 else 'were'} trained for this very"
        reason += f". {told} preference; by what was measured {table.ids[row]} serves it better"
    if criterion == "ser" and _untrained_is_better(record, limits, means, asked, weights, known):
        reason += ". The untrained model serves it better than any of them, as far as it was measured"
    for other in set(_WORDS) - {asked} if asked in _WORDS and criterion == "ser" else ():
        if (instead := rows[select(means, stderr, weights, rule=other, draws=1, **known).index]) != row:
            reason += f". Read as {_WORDS[other]} (rule {other!r}) the preference would choose {table.ids[instead]}"
    return Answer(
        row=row,
        runner_up=None if found.runner_up is None else rows[found.runner_up],
        regret=float(found.regret),
        probability_best=float(found.probability_best),
        feasible=not unsure,
        rule=rule_name(asked),
        reason=one_line(f"{reason}."),
    )


def _trained_for(record: FrontRecord, rows: Sequence[int], preference: Preference) -> list[int]:
    """Which of the rows were trained for a preference, as far as a table shows it; where one is all, none is said."""
    places = preferences_of(record)
    if places.shape[1] < 2:
        return []
    return [k for k in rows if np.abs(places[k] - preference.weights).max() <= SHOWN_ALIKE]


def serves_better(record: FrontRecord, row: int, values: np.ndarray, preference: Preference) -> bool:
    """Whether a member is worth more than values [M], maximised, to whoever has a preference, read as the run did."""
    axes = list(optimized(record))
    seen = evidence(record, range(len(record.members)))
    known = {**seen.known, **place_of(record, axes)}
    return _is_better(seen.means[row], values[None, axes], recorded_rule(record), preference, known)


def _untrained_is_better(
    record: FrontRecord,
    limits: Sequence[Limit],
    means: np.ndarray,
    rule: Rule,
    weights: Preference,
    known: Mapping[str, Any],
) -> bool:
    """Whether the untrained model keeps the limits asked for and the run's, and is worth more than members [n, m]."""
    if record.reference_policy is None:
        return False
    before = np.asarray(record.reference_policy.mean, dtype=float)
    if not all(limit.maximized.missed_by(before) <= 0 for limit in [*limits, *run_limits(record)]):
        return False
    return _is_better(before[list(optimized(record))], means, rule, weights, known)


def _is_better(
    point: np.ndarray, others: np.ndarray, rule: Rule, weights: Preference, known: Mapping[str, Any]
) -> bool:
    """Whether a point [m] is worth more than each of others [n, m]; never by a rule that cannot compare any two."""
    if rule not in _WORDS:
        return False
    lower, upper = known["lower"], known["upper"]
    utility, unit = utility_of(rule, others, weights.weights, lower, upper, known.get("ideal"), known.get("span"))
    others = others[~np.isnan(others).any(axis=1)]  # as in `select`
    size = np.abs([*others, point, lower, upper]).max(axis=0)
    rounding = ROUNDING * len(point) * float((size / unit).max())
    return bool(utility(point[None])[0] > utility(others).max(initial=-np.inf) + rounding)


def _sureness(found: Selection) -> str:
    """What `probability_best` means, in words: it is about other prompts like those measured on."""
    if math.isnan(found.probability_best):
        return "whether it is truly the best is not known: one measurement, or a few all equal, say nothing of noise"
    return f"on the mean over all prompts like these it is the best with probability {found.probability_best:.2f}"


def _by_each_answer(
    record: FrontRecord, rows: Sequence[int], rule: Rule, weights: np.ndarray, means: np.ndarray, known: dict[str, Any]
) -> Selection:
    """The member with the largest mean of the utility of each prompt's rewards."""
    check_rule(rule)
    if rule == "lexicographic":
        raise ConfigError("An order is one of means: rule='lexicographic' goes with criterion='ser' only.")
    place = (known.get("ideal"), known.get("span"))
    complete = means[~np.isnan(means).any(axis=1)]
    utility, _ = utility_of(rule, complete, weights, known["lower"], known["upper"], *place)
    found = []
    for row in rows:
        seen = record.members[row].estimate.take(list(optimized(record)))
        if seen.samples is None:
            raise PreferenceError(
                f"{record.members[row].id} has no rewards of single prompts, which criterion='esr' needs: it was "
                "measured before they were kept. criterion='ser' reads the means."
            )
        # what counts nothing may well not be known of a prompt
        rewards = seen.samples if callable(rule) else np.where(weights > 0, seen.samples, known["lower"])
        found.append(Estimate.from_samples(utility(rewards)[:, None], seen.prompt_ids, seen.groups))
    return select(
        np.stack([one.mean for one in found]),
        np.stack([one.noise() for one in found]),
        [1.0],
        lower=[0.0],
        upper=[1.0],
        samples=_shared_samples(found),
        n=np.stack([one.counts for one in found]),
    )


def _wish(preference: Preference, objectives: Sequence[ObjectiveRecord], rule: Rule) -> str:
    """A wish in words, such as "tone 0.70 and length 0.30"; what counts nothing is left out."""
    if callable(rule):
        return f"the utility {rule_name(rule)}"
    if rule == "lexicographic":
        order = [i for i in np.argsort(-preference.weights, kind="stable") if preference.weights[i] > 0]
        return " before ".join(objectives[i].name for i in order)
    named = [f"{o.name} {w:.2f}" for o, w in zip(objectives, preference.weights, strict=True) if w > 0]
    return listed(named)


def place_of(record: FrontRecord, axes: Sequence[int]) -> dict[str, np.ndarray]:
    """What makes a preference a place: the best of all members, and how far down from there they span, [m] each.

    That is what the population was held to. Limits do not move it, and where members differ by no more than the width
    of their intervals, the noise must not count as a range.
    """
    means = np.stack([member.estimate.mean[list(axes)] for member in record.members])
    complete = ~np.isnan(means).any(axis=1)
    if not complete.any():
        return {}
    stderr = np.nan_to_num(np.stack([member.estimate.stderr[list(axes)] for member in record.members])[complete])
    noise = 2 * INTERVAL * np.sqrt((stderr**2).mean(axis=0))
    span = np.maximum(np.ptp(means[complete], axis=0), noise)
    frame = np.array([record.objectives[i].upper - record.objectives[i].lower for i in axes])
    known = span > ROUNDING * np.abs(means[complete]).max(axis=0)
    return {"ideal": means[complete].max(axis=0), "span": np.where(known, span, frame)}


def _shared_samples(estimates: Sequence[Estimate]) -> np.ndarray | None:
    """[n, N, m] rewards on the prompts that all members share, or None where they were not measured on the same.

    NaN where a reward is missing. Prompts that say nothing of these objectives are left out: a benchmark's questions.
    """
    pairings = [estimate.pairing for estimate in estimates]
    known = [pairing for pairing in pairings if pairing is not None]
    if len(known) < len(pairings) or any(not np.array_equal(ids, known[0][0]) for ids, _, _ in known):
        return None
    samples = np.stack([units for _, units, _ in known])
    samples = samples[:, np.isfinite(samples).any(axis=(0, 2))]
    return samples if (np.isfinite(samples).sum(axis=1) >= 2).all() else None
