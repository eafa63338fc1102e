"""What a dynamic reward weighting is: a signal in, one weight vector a policy out.

A weighting sees only small numbers about the population (never a token, a tensor or a model) and answers with a
matrix of weights. Two things are read off a row of it: its *direction* is the trade between the objectives, its *sum*
is the strength of that policy's step. A method that only trades returns rows that sum to 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.arguments import KeepsArguments
from pareto_align.errors import ConfigError
from pareto_align.registry import Registry

__all__ = [
    "Part",
    "Signal",
    "State",
    "Weighting",
    "available",
    "interior",
    "make",
    "normalize_rows",
    "project_simplex",
    "reading_of",
    "register",
    "running_mean",
    "softmax",
]

FloatArray: TypeAlias = NDArray[np.float64]
State: TypeAlias = dict[str, Any]
"""What a weighting must remember to go on where it stopped: named arrays and numbers, nothing else."""


@dataclass(frozen=True, eq=False)
class Signal:
    """What a weighting may look at before one training step. All objectives are maximised.

    Attributes:
        step: Training steps already made.
        steps: Training steps planned in total.
        values: [K, m] mean of each policy's rewards in this step, on the frozen scale of `RewardScale.normalize`:
            0 to 1 for an objective with bounds, standard deviations from the reference policy's mean for one
            without. NaN where every reward was missing.
        preferences: [K, m] what each policy is trained for, a point of the simplex a row.
        measured: [K, m] each policy's latest mean on the `select` prompts, framed so that 0 to 1 spans what was seen
            before training; None before the first evaluation, a NaN row for a policy not measured yet.
        gramians: [K, m, m] inner products of the objectives' gradients; only for methods whose `requires` names it.
        slack: [K, c] value minus threshold of each of the c constrained objectives, on the frozen scale and maximised:
            positive where the constraint holds, NaN where every reward was missing; None without constraints.
        spread: [K, m] standard deviation over the batch of each policy's rewards, on the frozen scale, never negative;
            NaN where every reward was missing; None where nobody asks for it.
        covariances: [K, m, m] covariances of the rewards among the completions of a prompt, mean over the prompts, on
            the frozen scale; NaN where nothing was seen; None where nobody asks for it.
        cross_gramians: [K, m, m] inner products of the objectives' gradients on two halves of the batch, entry i, j:
            objective i on the first half, j on the second. Unbiased where `gramians` are not; not symmetric; None where
            nobody asks for it.
        audits: [K, a] mean of each policy's rewards in the a audited objectives, like `values`; None without any.
        audit_covariances: [K, m, a] covariances of the rewards with the audited ones among the completions of a prompt,
            like `covariances`; None where nobody asks for it.
        audit_gramians: [K, m, a] inner products of the objectives' gradients with those of the audited objectives, each
            on one half of the batch, mean of the two ways round; None where nobody asks for it.
        spent: Share of the budget of tokens that is used, 0 where there is none.

    Raises:
        ConfigError: The shapes do not belong together.
    """

    step: int
    steps: int
    values: FloatArray
    preferences: FloatArray
    measured: FloatArray | None = None
    gramians: FloatArray | None = None
    slack: FloatArray | None = None
    spread: FloatArray | None = None
    covariances: FloatArray | None = None
    cross_gramians: FloatArray | None = None
    audits: FloatArray | None = None
    audit_covariances: FloatArray | None = None
    audit_gramians: FloatArray | None = None
    spent: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name not in ("step", "steps", "spent") and (array := getattr(self, field.name)) is not None:
                object.__setattr__(self, field.name, np.asarray(array, dtype=np.float64))
        if self.values.ndim != 2:
            raise ConfigError(f"Signal.values must have shape [K, m]. Found {self.values.shape}.")
        K, m = self.values.shape
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("preferences", "measured", "spread"), (K, m))
        shapes |= dict.fromkeys(("gramians", "covariances", "cross_gramians"), (K, m, m))
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ConfigError(f"Signal.{name} must have shape {list(shape)} like `values`. Found {array.shape}.")
        for name, letter in (("slack", "c"), ("audits", "a")):
            array = getattr(self, name)
            if array is not None and (array.ndim != 2 or len(array) != K):
                raise ConfigError(
                    f"Signal.{name} must have shape [{K}, {letter}], a row a policy. Found {array.shape}."
                )
        for name in ("audit_covariances", "audit_gramians"):
            array = getattr(self, name)
            if array is not None and (array.ndim != 3 or array.shape[:2] != (K, m)):
                raise ConfigError(f"Signal.{name} must have shape [{K}, {m}, a]. Found {array.shape}.")

    @property
    def progress(self) -> float:
        """Share of the run that is behind: 0 in the first step, 1 in the last.

        Where a budget of tokens will end the run before its steps do, it is the share of the tokens.
        """
        return max(min(self.step / max(self.steps - 1, 1), 1.0), self.spent)


class Weighting(KeepsArguments, ABC):
    """A dynamic reward weighting: turns a `Signal` into weights [K, m].

    A subclass implements `__call__`; one that remembers something also implements `setup` (allocate), names its arrays
    in `state_names` (they are then saved and loaded) and implements `reset`. The tests of
    `pareto_align.testing.weighting.WeightingContract` check all of it.

    Attributes:
        name: The name it is registered under.
        requires: Optional `Signal` fields it cannot work without: names such as "measured", "gramians" or "slack".
            "measured" may still be None before the first evaluation. A method that requires "slack" returns weights
            [K, m + c]: the last c columns steer the constrained objectives, in the order of `Signal.slack`.
        signed: True where weights may be negative, to push an objective down.
        steers_audits: True where its weights have columns for the a audited objectives, which come last:
            [K, m + a]. What has weight 0 there is seen by the learner, and not trained on.
        needs_kl: True where all of a row may fall to 0, so that nothing but the price of KL tells where to go.
        reading: What a preference asks for. "place": a point of the front, by the shortfalls from the best there;
            "rate": an exchange rate between the objectives, also where it is only what the weights start from. The
            choice from a finished front reads a preference in the same way.
        applies_to: "advantage" multiplies normalised advantages, so the row sum scales the step; "reward" mixes the
            rewards before advantages are normalised, where a common factor may cancel.
        tries_policies: True where slots try out thresholds of their own and are compared: a family, whose slots have
            no policies of their own, cannot serve it.
        compares_slots: True where neighbouring slots are compared with each other: two of them must stay what they are.
        follows_slots: True where it goes from a slot's preference and learns for that slot from then on: a family,
            whose slots have no policies of their own, cannot serve it.
        goes_by_covariance: True where it weighs a reward by what it has to do with another, on its own scale: a credit
            that rescales each prompt changes what a weight means.
        per_policy: True where a row follows from its own policy's numbers alone, to the bit: a shard of policies is
            then weighted without waiting for the others.
        state_names: Attributes (arrays or numbers) that make up the state.
    """

    kind = "Weighting"
    name: ClassVar[str] = ""
    # Not ClassVar: a weighting that is built of others takes these from its parts.
    requires: frozenset[str] = frozenset()
    signed: bool = False
    steers_audits: bool = False
    needs_kl: bool = False
    tries_policies: bool = False
    compares_slots: bool = False
    follows_slots: bool = False
    goes_by_covariance: bool = False
    per_policy: bool = False
    applies_to: Literal["advantage", "reward"] = "advantage"
    reading: Literal["place", "rate"] = "rate"
    state_names: ClassVar[tuple[str, ...]] = ()

    K: int = 0
    m: int = 0

    def setup(self, K: int, m: int) -> None:
        """Prepare for a population of `K` policies and `m` objectives, forgetting everything seen before."""
        if K < 1 or m < 1:
            raise ConfigError(f"A weighting needs at least one policy and one objective. Found K={K}, m={m}.")
        self.K, self.m = int(K), int(m)

    @abstractmethod
    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m] for this step: finite, float64, non-negative unless `signed`. Called exactly once a step."""

    def goes_by(self, audits: int) -> tuple[int, ...]:
        """Places, among that many audited objectives, of those that it goes by: these are no audits of the run."""
        return tuple(range(audits)) if "audits" in self.requires else ()

    def reset(self, slot: int) -> None:
        """Forget what belongs to policy `slot`: from now on another policy lives there."""
        self._check_slot(slot)

    def state_dict(self) -> State:
        """Everything needed to continue, as copies: `K`, `m` and the arrays of `state_names`."""
        return {"K": self.K, "m": self.m, **{name: np.array(getattr(self, name)) for name in self.state_names}}

    def load_state_dict(self, state: State) -> None:
        """Continue from `state_dict()` of a weighting with the same settings.

        Raises:
            ConfigError: An entry is missing or unknown.
        """
        expected, found = {"K", "m", *self.state_names}, set(state)
        if expected != found:
            raise ConfigError(
                f"This is no state of weighting '{self.name}': missing {sorted(expected - found)}, "
                f"unknown {sorted(found - expected)}."
            )
        self.setup(int(state["K"]), int(state["m"]))
        for name in self.state_names:
            setattr(self, name, np.array(state[name], dtype=np.asarray(getattr(self, name)).dtype))

    def _check(self, signal: Signal) -> None:
        if signal.values.shape != (self.K, self.m):
            hint = "call setup(K, m) first" if self.K == 0 else f"it was set up for {[self.K, self.m]}"
            raise ConfigError(f"Weighting '{self.name}' got values of shape {list(signal.values.shape)}: {hint}.")

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.K:
            raise ConfigError(f"Weighting '{self.name}' has slots 0 to {self.K - 1}. Found {slot}.")


weightings: Registry[Weighting] = Registry("weighting", Weighting)  # type: ignore[type-abstract]
register = weightings.register

Part: TypeAlias = str | Mapping[str, Any] | Weighting
"""A weighting as a user gives it: a name, a mapping with `name` and its settings, or an instance."""


def make(weighting: Part, **settings: Any) -> Weighting:
    """The weighting of that name, built with `settings`, or what a mapping describes; an instance is handed back.

    Raises:
        ConfigError: Unknown name or setting, a value of the wrong kind, or settings beside an instance.
    """
    if isinstance(weighting, Weighting) and settings:
        raise ConfigError(f"Settings {sorted(settings)} cannot be applied to a weighting that is built already.")
    return weightings.make({"name": weighting, **settings} if settings else weighting)


def available() -> list[str]:
    """Names of all registered weightings, sorted."""
    return weightings.names()


def reading_of(name: str) -> str:
    """How the weighting of that name reads a preference, as far as its name tells; "rate" for an unknown one."""
    return (weightings.get(name) or Weighting).reading


def softmax(logits: ArrayLike) -> FloatArray:
    """Softmax over the last axis [..., m]; finite for every finite input."""
    x = np.asarray(logits, dtype=np.float64)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def normalize_rows(weights: ArrayLike) -> FloatArray:
    """Non-negative rows [..., m] divided by their sums; an all-zero row becomes uniform."""
    w = np.asarray(weights, dtype=np.float64)
    # Dividing by the maximum first keeps sums of huge or subnormal entries finite.
    top = w.max(axis=-1, keepdims=True)
    w = np.where(top > 0, w / np.where(top > 0, top, 1.0), 1.0)
    return np.asarray(w / w.sum(axis=-1, keepdims=True))


def interior(preferences: ArrayLike, floor: float) -> FloatArray:
    """Rows of the simplex [..., m] pulled away from its border: every entry at least `floor`, sums kept at 1.

    Raises:
        ConfigError: `floor` is negative or leaves no room (m * floor >= 1).
    """
    w = normalize_rows(preferences)
    m = w.shape[-1]
    if not 0 <= floor * m < 1:
        raise ConfigError(f"`floor` must be at least 0 and below 1/m = {1 / m:.3g}. Found {floor}.")
    return np.asarray(w * (1 - m * floor) + floor)


def running_mean(
    total: FloatArray, count: FloatArray, values: FloatArray, keep: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Exponentially weighted mean of what was seen, entry by entry; NaN in `values` is nothing seen.

    Args:
        total: [...] decayed sum so far, zeros at the start.
        count: [...] how often each entry was seen, zeros at the start.
        values: [...] of this step.
        keep: Share of the old mean that a step keeps; 0 has no memory.

    Returns:
        The new `total`, the new `count`, and the mean [...], NaN where nothing was ever seen.
    """
    seen = ~np.isnan(values)
    count = count + seen
    total = np.where(seen, keep * total + (1 - keep) * np.nan_to_num(values), total)
    # Adam's bias correction: the first mean is the first value, not a tenth of it.
    weight = np.where(count > 0, 1 - keep**count, np.nan)
    return total, count, np.asarray(total / weight)


def project_simplex(points: ArrayLike) -> FloatArray:
    """Euclidean projection of each row [..., m] onto the simplex. O(m log m) a row.

    References:
        Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions", ICML 2008.
    """
    v = np.asarray(points, dtype=np.float64)
    u = -np.sort(-v, axis=-1)
    ks = np.arange(1, v.shape[-1] + 1)
    taus = (np.cumsum(u, axis=-1) - 1) / ks
    # The last k whose entry stays positive; k = 1 always does, so the count is at least 1.
    k = np.maximum((u - taus > 0).sum(axis=-1, keepdims=True), 1)
    return np.asarray(np.maximum(v - np.take_along_axis(taus, k - 1, axis=-1), 0.0))
