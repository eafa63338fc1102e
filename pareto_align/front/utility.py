"""What a member is worth under a rule: a number from its values, larger is better."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError
from pareto_align.spelling import hint

__all__ = ["ROUNDING", "RULES", "Rule", "check_rule", "rule_name", "utility_of"]

Floats = NDArray[np.float64]

Rule = str | Callable[[Floats], float]
"""One of `RULES`, or a utility of one's own: from values [m], scaled so that the frame is 0 to 1, to a number."""
RULES = ("linear", "chebyshev", "knee", "lexicographic")
ROUNDING = 8 * float(np.finfo(np.float64).eps)
"""Values that differ by less than this share of their size are equal: one mean, summed in two orders."""


def check_rule(rule: Rule) -> None:
    """Refuse what is no rule.

    Raises:
        ConfigError: It is neither one of `RULES` nor a function.
    """
    if not callable(rule) and rule not in RULES:
        raise ConfigError(f"Unknown selection rule {rule!r}.{hint(rule, RULES)}")


def rule_name(rule: Rule) -> str:
    """A rule by its name; a function by its own."""
    return rule if isinstance(rule, str) else getattr(rule, "__name__", type(rule).__name__)


def utility_of(
    rule: Rule,
    members: Floats,
    w: Floats,
    lower: Floats,
    upper: Floats,
    ideal: ArrayLike | None,
    span: ArrayLike | None,
) -> tuple[Callable[[Floats], Floats], Floats]:
    """Utility of points [..., m] under the rule, on a frame that the measured members [n, m] fix, and its units [m]."""
    if callable(rule):
        own = rule
        return lambda v: _own_utility(own, (v - lower) / (upper - lower)), upper - lower
    if rule == "knee":
        lower, upper = members.min(axis=0), members.max(axis=0)
        apart = upper - lower > ROUNDING * np.maximum(np.abs(lower), np.abs(upper))
        reach = np.where(apart, upper - lower, np.inf)  # an axis on which all are equal decides nothing
        return lambda v: np.asarray(len(w) * ((v - lower) / reach) @ w, dtype=float), reach
    if rule == "chebyshev":
        best = members.max(axis=0) if ideal is None else np.asarray(ideal, dtype=float)
        unit = upper - lower if span is None else np.asarray(span, dtype=float)
        return lambda v: np.asarray(-(w * (best - v) / unit).max(axis=-1), dtype=float), unit
    return lambda v: np.asarray((v - lower) / (upper - lower) @ w, dtype=float), upper - lower


def _own_utility(rule: Callable[[Floats], float], values: Floats) -> Floats:
    """A user's function of values [..., m], one after the other; NaN where one of them is."""
    flat = values.reshape(-1, values.shape[-1])
    found = np.full(len(flat), np.nan)
    for row in np.flatnonzero(~np.isnan(flat).any(axis=1)):
        try:
            found[row] = rule(flat[row].copy())
        except Exception as error:
            raise ConfigError(f"The rule {rule_name(rule)!r} failed on {flat[row].tolist()}: {error!r:.200}") from error
        if not np.isfinite(found[row]):
            raise ConfigError(f"The rule {rule_name(rule)!r} must return a finite number. Found {found[row]}.")
    return found.reshape(values.shape[:-1])
