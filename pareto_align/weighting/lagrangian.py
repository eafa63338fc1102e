"""Constrained weightings: multipliers keep some objectives at their thresholds while the others are traded.

A constrained objective i has a slack s_i = value - threshold, on the frozen scale, positive where the constraint holds.
The slack that the multipliers see is an exponentially weighted mean: that of one batch is mostly noise. Multipliers
move by plain steps, never by Adam, which would forget how far a constraint is from being met.

References:
    Moskovitz et al., "Confronting Reward Model Overoptimization with Constrained RLHF", arXiv 2310.04373, and its
        public code, https://github.com/tedmoskovitz/ConstrainedRL4LMs (the mu-, xi- and All-forms).
    Dai et al., "Safe RLHF: Safe Reinforcement Learning from Human Feedback", arXiv 2310.12773 (the log-multiplier).
    Stooke et al., "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods", arXiv 2007.03964 (the
        proportional term).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import numpy as np

from pareto_align.arguments import Count, Memory, NotNegative, Positive, Whole
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Part, Signal, make, register, running_mean
from pareto_align.weighting.nested import NestedWeighting

__all__ = [
    "ConstraintWeighting",
    "Lagrangian",
    "LagrangianAll",
    "LagrangianEquality",
    "LagrangianSigmoid",
    "SafeRLHF",
]


MAX_GRADIENT = 0.5
"""Longest gradient of a policy's free multiplier variables, in one step."""


class ConstraintWeighting(NestedWeighting):
    """A weighting with a multiplier for each constrained objective; a subclass says how it moves and what it weighs.

    Weights are [K, m + c]: the first m columns trade the objectives, the last c steer the constrained ones.

    Args:
        objectives: How the m optimised objectives are traded: a weighting's name, a mapping with `name` and its
            settings, or an instance.

    Raises:
        ConfigError: The weighting of the objectives has constraints of its own.
    """

    requires = frozenset({"slack"})
    # [K, c]; the subclass allocates them for as many constraints as the first signal has.
    state_names: ClassVar[tuple[str, ...]] = ("multipliers",)

    multipliers: FloatArray

    def __init__(self, *, objectives: Part) -> None:
        part = make(objectives)
        if "slack" in part.requires:
            raise ConfigError(
                f"Weighting '{self.name}' steers the constraints: `objectives` cannot be '{part.name}' too."
            )
        super().__init__([part])

    def setup(self, K: int, m: int) -> None:
        """Forget the multipliers; the number of constraints is read off the first signal."""
        super().setup(K, m)
        self._allocate(0)

    def reset(self, slot: int) -> None:
        """The multipliers of policy `slot` start again."""
        super().reset(slot)
        self._begin(slice(slot, slot + 1))

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m + c], rows of sum 1 where the weights of the objectives have it.

        Raises:
            ConfigError: The signal has no constraints, or another number of them than before.
        """
        self._check(signal)
        slack = signal.slack
        if slack is None or slack.shape[1] == 0:
            raise ConfigError(
                f"Weighting '{self.name}' needs constraints: give at least one objective role='constrain' with "
                "`at_least` or `at_most`. Found none."
            )
        if self.multipliers.shape[1] == 0:
            self._allocate(slack.shape[1])
        if slack.shape != self.multipliers.shape:
            raise ConfigError(
                f"Weighting '{self.name}' was started with {self.multipliers.shape[1]} constraints. "
                f"Found {slack.shape[1]}."
            )
        self._ascend(slack)
        trade, steer = self._shares()
        return np.hstack([trade[:, None] * self.parts[0](signal), steer])

    def _allocate(self, c: int) -> None:
        """Arrays for `c` constraints, every policy at its beginning."""
        self.multipliers = np.zeros((self.K, c))
        self._begin(slice(None))

    @abstractmethod
    def _begin(self, slots: slice) -> None:
        """Put the arrays of these policies back to the beginning."""

    @abstractmethod
    def _ascend(self, slack: FloatArray) -> None:
        """Learn this step's `slack` [K, c] (NaN: nothing seen) and move the multipliers."""

    @abstractmethod
    def _shares(self) -> tuple[FloatArray, FloatArray]:
        """Weight [K] of the objectives together, and weights [K, c] of the constrained ones."""


class _Smoothed(ConstraintWeighting):
    """Multipliers that see an exponentially weighted mean of the slack."""

    state_names: ClassVar[tuple[str, ...]] = (*ConstraintWeighting.state_names, "smoothed", "count")

    def __init__(self, *, objectives: Part, lr: Positive, gain: NotNegative, smoothing: Memory) -> None:
        super().__init__(objectives=objectives)
        self.lr, self.gain, self.smoothing = float(lr), float(gain), float(smoothing)

    def _allocate(self, c: int) -> None:
        self.smoothed, self.count = np.zeros((self.K, c)), np.zeros((self.K, c))
        super()._allocate(c)

    def _begin(self, slots: slice) -> None:
        self.smoothed[slots] = 0.0
        self.count[slots] = 0.0

    def _mean_slack(self, slack: FloatArray) -> FloatArray:
        """Running mean [K, c] of the slack; 0, which moves nothing, where this step has no news."""
        self.smoothed, self.count, means = running_mean(self.smoothed, self.count, slack, self.smoothing)
        return np.where(np.isnan(slack), 0.0, means)


@register("lagrangian")
class Lagrangian(_Smoothed):
    """Projected ascent on the Lagrangian: objectives as good as can be, subject to value_i >= threshold_i.

        I_i   <- clip( I_i - lr * slack_i, 0, cap )                 the integral
        lam_i  = clip( I_i - gain * slack_i, 0, cap )               gain > 0: proportional-integral control
        row    = ( p, lam ) / ( 1 + sum lam )                       p: the row of `objectives`

    A multiplier grows while its constraint is violated and falls to 0 once there is room. Dividing by 1 + sum lam keeps
    the step as long as it is without constraints (Safe RLHF). With `gain` 0 it is the plain rule, which swings around
    the threshold and may end a run far from it; the proportional term answers a violation at once and damps the swing.

    Args:
        lr: Step of the integral, per unit of slack on the frozen scale.
        gain: Strength of the proportional term; 0 is plain projected ascent.
        init: Multiplier at the start.
        cap: Largest multiplier. With an infeasible constraint the multiplier ends here: the objectives keep a weight of
            1 / (1 + cap).
        smoothing: Memory of the running mean of the slack.
        objectives: How the optimised objectives are traded (a weighting's name, mapping or instance).

    Raises:
        ConfigError: A setting out of range.
    """

    state_names: ClassVar[tuple[str, ...]] = (*_Smoothed.state_names, "integral")

    def __init__(
        self,
        *,
        lr: float = 1.0,
        gain: float = 20.0,
        init: NotNegative = 0.5,
        cap: Positive = 20.0,
        smoothing: float = 0.5,
        objectives: Part = "fixed",
    ) -> None:
        super().__init__(objectives=objectives, lr=lr, gain=gain, smoothing=smoothing)
        if init > cap:
            raise ConfigError(f"Lagrangian `init` must be between 0 and `cap`. Found {init} and {cap}.")
        self.init, self.cap = float(init), float(cap)

    def _allocate(self, c: int) -> None:
        self.integral = np.zeros((self.K, c))
        super()._allocate(c)

    def _begin(self, slots: slice) -> None:
        super()._begin(slots)
        self.integral[slots] = self.multipliers[slots] = self.init

    def _ascend(self, slack: FloatArray) -> None:
        means = self._mean_slack(slack)
        self.integral = np.clip(self.integral - self.lr * means, 0.0, self.cap)
        moved = np.clip(self.integral - self.gain * means, 0.0, self.cap)
        self.multipliers = np.where(np.isnan(slack), self.multipliers, moved)

    def _shares(self) -> tuple[FloatArray, FloatArray]:
        return _normalized(self.multipliers)


class _Squashed(_Smoothed):
    """Multipliers lam = squash(u - gain * slack), u <- u - lr * squash'(u) * slack: arXiv 2310.04373 for gain 0."""

    state_names: ClassVar[tuple[str, ...]] = (*_Smoothed.state_names, "free")

    def __init__(
        self, *, lr: float = 1.0, gain: float = 20.0, smoothing: float = 0.5, objectives: Part = "fixed"
    ) -> None:
        super().__init__(objectives=objectives, lr=lr, gain=gain, smoothing=smoothing)

    def _allocate(self, c: int) -> None:
        self.free = np.zeros((self.K, c))
        super()._allocate(c)

    def _begin(self, slots: slice) -> None:
        super()._begin(slots)
        self.free[slots] = 0.0
        self.multipliers[slots] = self._squash(self.free[slots])

    def _ascend(self, slack: FloatArray) -> None:
        means = self._mean_slack(slack)
        slope = self._slope(self._squash(self.free)) * means
        # The published code clips the gradient of a policy's multipliers to this length: one wild batch must not push
        # u to where squash is flat.
        length = np.abs(slope).max(axis=1, keepdims=True)
        safe = np.where(length > 0, length, 1.0)
        length = safe * np.linalg.norm(slope / safe, axis=1, keepdims=True)
        self.free = self.free - self.lr * slope * np.minimum(1.0, MAX_GRADIENT / np.maximum(length, MAX_GRADIENT))
        moved = self._squash(self.free - self.gain * means)
        self.multipliers = np.where(np.isnan(slack), self.multipliers, moved)

    @abstractmethod
    def _squash(self, free: FloatArray) -> FloatArray:
        """Multipliers of the free variables."""

    @abstractmethod
    def _slope(self, multipliers: FloatArray) -> FloatArray:
        """squash'(u), as a function of the multiplier."""


class _Sigmoid(_Squashed):
    def _squash(self, free: FloatArray) -> FloatArray:
        return np.asarray(0.5 * (1 + np.tanh(free / 2)))

    def _slope(self, multipliers: FloatArray) -> FloatArray:
        return multipliers * (1 - multipliers)


@register("lagrangian-sigmoid")
class LagrangianSigmoid(_Sigmoid):
    """The mu-form: value_i >= threshold_i, with multipliers in (0, 1) that take their weight from the objectives.

        u <- u - lr * sigmoid'(u) * slack      lam = sigmoid(u - gain * slack)
        row = ( (c - sum lam) p, lam ) / c

    Objectives and constraints share one budget: the row always sums to 1, and a multiplier can at most take the whole
    of it. The price is that a constraint which needs more than that is missed.

    Args:
        lr: Step of u, per unit of slack on the frozen scale.
        gain: Strength of the proportional term; 0 as published.
        smoothing: Memory of the running mean of the slack.
        objectives: How the optimised objectives are traded (a weighting's name, mapping or instance).

    Raises:
        ConfigError: A setting out of range.
    """

    def _shares(self) -> tuple[FloatArray, FloatArray]:
        return 1 - self.multipliers.mean(axis=1), self.multipliers / self.multipliers.shape[1]


@register("lagrangian-all")
class LagrangianAll(_Sigmoid):
    """The All-form: constrained objectives are maximised as well, but not past their points: value_i <= threshold_i.

        u <- u + lr * sigmoid'(u) * slack      lam = sigmoid(u + gain * slack)
        row = ( (c - sum lam) p, c - sum lam - lam ) / sum of their magnitudes

    The threshold of `at_least` (`at_most` for a minimised objective) is read as the point past which the objective is
    not to be pushed, from its worse side. A weight can be negative: that objective is pushed down.

    Args:
        lr: Step of u, per unit of slack on the frozen scale.
        gain: Strength of the proportional term; 0 as published.
        smoothing: Memory of the running mean of the slack.
        objectives: How the optimised objectives are traded (a weighting's name, mapping or instance).

    Raises:
        ConfigError: A setting out of range.
    """

    signed = True

    def _ascend(self, slack: FloatArray) -> None:
        super()._ascend(-slack)

    def _shares(self) -> tuple[FloatArray, FloatArray]:
        left = self.multipliers.shape[1] - self.multipliers.sum(axis=1)
        steer = left[:, None] - self.multipliers
        # Never 0: where left is, every lam is 1 and so is every |steer|.
        total = left + np.abs(steer).sum(axis=1)
        return left / total, steer / total[:, None]


@register("lagrangian-equality")
class LagrangianEquality(_Squashed):
    """The xi-form: value_i = threshold_i, with multipliers in (-1, 1) that push an objective up or down to its point.

        u <- u - lr * (1 - tanh(u)^2) * slack      lam = tanh(u - gain * slack)
        row = ( (c - sum |lam|) p, lam ) / c                                     published: (c - sum lam) p

    For objectives that are proxies: past its proxy point a reward model no longer says what people prefer, so it is
    held there (the threshold is read as the point itself, from either side). The row's magnitudes sum to 1; a weight on
    a constrained objective is negative where it is to come down.

    In the published budget the objectives gain weight, up to twice their own, while proxies are pushed down. That is
    meant for a KL penalty, which pulls the same way; an objective that pulls the proxies up wins against it.

    Args:
        lr: Step of u, per unit of slack on the frozen scale.
        gain: Strength of the proportional term; 0 as published.
        budget: "magnitude": the multipliers take their magnitude from the objectives. "signed": as published.
        smoothing: Memory of the running mean of the slack.
        objectives: How the optimised objectives are traded (a weighting's name, mapping or instance).

    Raises:
        ConfigError: A setting out of range.
    """

    signed = True

    def __init__(
        self,
        *,
        lr: float = 3.0,
        gain: float = 100.0,
        budget: Literal["magnitude", "signed"] = "magnitude",
        smoothing: float = 0.5,
        objectives: Part = "fixed",
    ) -> None:
        super().__init__(lr=lr, gain=gain, smoothing=smoothing, objectives=objectives)
        if budget not in ("magnitude", "signed"):
            raise ConfigError(f"LagrangianEquality `budget` must be 'magnitude' or 'signed'. Found {budget!r}.")
        self.budget = budget

    def _squash(self, free: FloatArray) -> FloatArray:
        return np.asarray(np.tanh(free))

    def _slope(self, multipliers: FloatArray) -> FloatArray:
        return 1 - multipliers**2

    def _shares(self) -> tuple[FloatArray, FloatArray]:
        taken = np.abs(self.multipliers) if self.budget == "magnitude" else self.multipliers
        return 1 - taken.mean(axis=1), self.multipliers / self.multipliers.shape[1]


@register("safe-rlhf")
class SafeRLHF(ConstraintWeighting):
    """Safe RLHF: value_i >= threshold_i, with the logarithm of the multiplier as the trained variable.

        log lam_i <- log lam_i - lr * lam_i * (mean slack of the last `window` steps)          not in the first `delay`
        row        = ( p, lam ) / ( 1 + sum lam )

    Steps are proportional to lam: it reacts slowly when small and fast when large, hence the two ends. A cost C <= d is
    the reward -C >= -d.

    Args:
        lr: Step of log lam, per unit of slack and of lam.
        init: Multiplier at the start; below 1 it hardly moves.
        cap: Largest multiplier.
        floor: Smallest multiplier, from which there is a way back.
        window: Steps in the mean of the slack. Published: 128 episodes, which are two steps of 8 prompts with groups
            of 8.
        delay: Steps in which the multipliers stay where they are.
        objectives: How the optimised objectives are traded (a weighting's name, mapping or instance).

    Raises:
        ConfigError: A setting out of range.
    """

    state_names: ClassVar[tuple[str, ...]] = (*ConstraintWeighting.state_names, "recent", "age")

    def __init__(
        self,
        *,
        lr: Positive = 0.1,
        init: Positive = 1.0,
        cap: Positive = 20.0,
        floor: Positive = 0.01,
        window: Count = 2,
        delay: Whole = 0,
        objectives: Part = "fixed",
    ) -> None:
        super().__init__(objectives=objectives)
        if not floor <= init <= cap:
            raise ConfigError(f"SafeRLHF needs `floor` <= `init` <= `cap`. Found {floor}, {init}, {cap}.")
        self.lr, self.init, self.cap, self.floor = float(lr), float(init), float(cap), float(floor)
        self.window, self.delay = int(window), int(delay)

    def _allocate(self, c: int) -> None:
        self.recent = np.full((self.K, self.window, c), np.nan)
        self.age = np.zeros(self.K, dtype=np.int64)
        super()._allocate(c)

    def _begin(self, slots: slice) -> None:
        # A newcomer's slack has nothing to do with that of the policy it replaces.
        self.recent[slots] = np.nan
        self.age[slots] = 0
        self.multipliers[slots] = self.init

    def _ascend(self, slack: FloatArray) -> None:
        self.recent = np.concatenate([self.recent[:, 1:], slack[:, None]], axis=1)
        self.age = self.age + 1
        counts = np.maximum((~np.isnan(self.recent)).sum(axis=1), 1)
        means = np.nansum(self.recent / counts[:, None], axis=1)
        # One step never multiplies or divides by more than e: the rule overshoots where lam is large.
        step = np.clip(-self.lr * self.multipliers * means, -1.0, 1.0)
        moved = np.clip(self.multipliers * np.exp(step), self.floor, self.cap)
        self.multipliers = np.where((self.age > self.delay)[:, None], moved, self.multipliers)

    def _shares(self) -> tuple[FloatArray, FloatArray]:
        return _normalized(self.multipliers)


def _normalized(multipliers: FloatArray) -> tuple[FloatArray, FloatArray]:
    """1 and the multipliers [K, c], divided by their sum."""
    total = 1 + multipliers.sum(axis=1)
    return 1 / total, multipliers / total[:, None]
