"""What is being optimized: objectives, their direction, bounds and role.

An `Objective` is a named reward function; an `ObjectiveSet` scores a batch of completions under several. Inside the
package everything is maximized: a minimized objective is negated by the set, at the door, and `ObjectiveSet.to_user`
turns values back into the user's own units.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from pareto_align.errors import ObjectiveError
from pareto_align.objectives.calling import reads_rollouts

__all__ = ["Objective"]

ROLES = ("optimize", "constrain", "audit")


@dataclass(frozen=True)
class Objective:
    """One thing to care about: a named reward function, its direction, its range and its role.

    Args:
        name: How it is called in results, figures and preferences.
        reward: ``reward(prompts, completions, **columns) -> list[float | None]``, TRL's signature, sync or async.
            It is called with keyword arguments; None means that the objective does not apply to that completion.
            With `prefers` it may be left out: then there is nothing that judges answers, and the objective is learned
            and measured on comparisons.
        maximize: Whether more is better.
        bounds: The lowest and highest reward possible, in the user's units. Known bounds give the objective a scale
            that does not depend on the model at hand.
        role: "optimize" (traded against the others), "constrain" (kept at its threshold) or "audit" (measured and
            reported, never optimized).
        at_least: With role "constrain": the mean reward must not fall below this, in the user's units.
        at_most: With role "constrain": the mean reward must not rise above this. The side of the threshold is the
            direction, so `maximize` becomes False.
        tolerance: With role "constrain": how far a measured mean may miss the threshold and its policy still enter the
            front, in the user's units. A policy that is held *at* a threshold is measured short of it half of the time.
        timeout_s: Seconds that one call, which judges a whole batch, may take; by default as long as it likes. With a
            limit a sync function runs in a thread of its own, which cannot be stopped: one that hangs is left there.
        retries: How often the function is called again after it raised, with pauses of 0.5 s, 1 s and so on. Errors
            that say the code is wrong (TypeError, NameError, AttributeError, ImportError) are not tried again, nor is
            a time limit that passed.
        prefers: The column of the comparisons that says which answer is better under this objective. Less being better
            (`maximize=False`) turns it round. A reward beside it measures what was learned from the labels.
        rowwise: Whether a reward depends on its own row alone (prompt, completion, columns), and the function may be
            called in a thread, beside other work in this process: it handles no signals, and leaves torch's global
            settings alone, for a moment too. Then the answers of one shard are judged while others are sampled.
        thread_safe: Whether several threads may call the function at a time. An async one is always called by one.

    Raises:
        ObjectiveError: Any of these is not of the form above.
    """

    name: str
    reward: Callable[..., Any] | None = None
    _: KW_ONLY
    maximize: bool = True
    bounds: tuple[float, float] | None = None
    role: str = "optimize"
    at_least: float | None = None
    at_most: float | None = None
    tolerance: float = 0.0
    timeout_s: float | None = None
    retries: int = 2
    prefers: str | None = None
    rowwise: bool = False
    thread_safe: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ObjectiveError(f"An objective's name must be a non-empty string. Found {self.name!r}.")
        if self.prefers is not None and (not isinstance(self.prefers, str) or not self.prefers):
            raise ObjectiveError(
                f"Objective {self.name!r}: prefers must be the name of a column of the comparisons. Found "
                f"{self.prefers!r}."
            )
        self._check_reward()
        if not isinstance(self.maximize, bool):
            raise ObjectiveError(f"Objective {self.name!r}: maximize must be True or False. Found {self.maximize!r}.")
        for field in ("rowwise", "thread_safe"):
            if not isinstance(getattr(self, field), bool):
                found = getattr(self, field)
                raise ObjectiveError(f"Objective {self.name!r}: {field} must be True or False. Found {found!r}.")
        if self.role not in ROLES:
            raise ObjectiveError(
                f"Objective {self.name!r}: role must be one of {', '.join(ROLES)}. Found {self.role!r}."
            )
        if self.bounds is not None:
            object.__setattr__(self, "bounds", self._checked_bounds(self.bounds))
        for field in ("at_least", "at_most"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, self._finite(value, field))
        self._check_threshold()
        object.__setattr__(self, "tolerance", self._finite(self.tolerance, "tolerance"))
        if self.tolerance < 0:
            raise ObjectiveError(
                f"Objective {self.name!r}: tolerance must not be negative. Found {self.tolerance:g}; a stricter "
                "threshold is another at_least or at_most."
            )
        if self.tolerance and self.role != "constrain":
            raise ObjectiveError(f"Objective {self.name!r}: tolerance needs role='constrain' and a threshold.")
        if self.timeout_s is not None:
            object.__setattr__(self, "timeout_s", self._finite(self.timeout_s, "timeout_s"))
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise ObjectiveError(
                f"Objective {self.name!r}: timeout_s must be positive, or None for no limit. Found {self.timeout_s:g}."
            )
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise ObjectiveError(
                f"Objective {self.name!r}: retries must be a whole number, 0 or more. Found {self.retries!r}."
            )

    def _check_reward(self) -> None:
        if self.reward is None:
            if self.prefers is None:
                raise ObjectiveError(
                    f"Objective {self.name!r}: the reward must be a function (prompts, completions, **columns) -> list "
                    "of numbers, or `prefers` must name the column of the comparisons that says which answer is "
                    "better. Found neither."
                )
            return
        if inspect.isclass(self.reward):
            raise ObjectiveError(
                f"Objective {self.name!r}: the reward is the class {self.reward.__name__} itself; create one: "
                f"{self.reward.__name__}()."
            )
        if not callable(self.reward):
            raise ObjectiveError(
                f"Objective {self.name!r}: the reward must be a function (prompts, completions, **columns) -> list "
                f"of numbers. Found {self.reward!r}."
            )
        if not reads_rollouts(self.reward):
            raise ObjectiveError(
                f"Objective {self.name!r}: the reward function takes none of prompts, completions, completion_ids, "
                "so it cannot judge a completion. Arguments are passed by these names; if the function makes "
                "reward functions, call it first."
            )

    def _finite(self, value: Any, what: str) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, str | bool | np.bool_) or not math.isfinite(number):
            raise ObjectiveError(f"Objective {self.name!r}: {what} must be a finite number. Found {value!r}.")
        return number

    def _checked_bounds(self, bounds: Any) -> tuple[float, float]:
        try:
            low, high = bounds
        except (TypeError, ValueError):
            raise ObjectiveError(
                f"Objective {self.name!r}: bounds must be a pair (lowest, highest). Found {bounds!r}."
            ) from None
        low, high = self._finite(low, "the lower bound"), self._finite(high, "the upper bound")
        if not low < high:
            hint = f"did you mean ({high:g}, {low:g})?" if high < low else "an objective of one value cannot be traded."
            raise ObjectiveError(
                f"Objective {self.name!r}: bounds must be (lowest, highest), also where less is better. "
                f"Found ({low:g}, {high:g}); {hint}"
            )
        return low, high

    def _check_threshold(self) -> None:
        thresholds = {f: v for f in ("at_least", "at_most") if (v := getattr(self, f)) is not None}
        if self.role != "constrain":
            if thresholds:
                raise ObjectiveError(
                    f"Objective {self.name!r}: {' and '.join(thresholds)} needs role='constrain'. To ask for a "
                    "minimum only when choosing from the finished front, use front.select(..., at_least=...)."
                )
            return
        if not thresholds:
            raise ObjectiveError(f"Objective {self.name!r}: role 'constrain' needs a threshold, at_least or at_most.")
        if len(thresholds) == 2:
            raise ObjectiveError(
                f"Objective {self.name!r}: give at_least or at_most, not both; for a band, define two objectives "
                "with the same reward function."
            )
        ((field, value),) = thresholds.items()
        if self.bounds is not None and not self.bounds[0] <= value <= self.bounds[1]:
            raise ObjectiveError(
                f"Objective {self.name!r}: {field}={value:g} lies outside the bounds {self.bounds}, so it is "
                "either always or never met."
            )
        if field == "at_least" and not self.maximize:
            raise ObjectiveError(
                f"Objective {self.name!r}: maximize=False contradicts at_least={value:g}; a minimized quantity is "
                "constrained with at_most."
            )
        if field == "at_most":
            object.__setattr__(self, "maximize", False)

    @property
    def maximized_bounds(self) -> tuple[float, float] | None:
        """The bounds in the units used inside, where more is better."""
        if self.bounds is None or self.maximize:
            return self.bounds
        return -self.bounds[1], -self.bounds[0]

    @property
    def maximized_threshold(self) -> float | None:
        """What a constrained objective must at least reach, in the units used inside; None without a constraint."""
        if self.at_least is not None:
            return self.at_least
        return None if self.at_most is None else -self.at_most
