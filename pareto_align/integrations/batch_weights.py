"""One policy's weights, batch by batch, for a trainer that multiplies raw rewards by them.

A weighting speaks of objectives that are maximised, on one frozen scale. Another library's trainer adds up raw rewards,
in whatever units and direction its reward functions have. `BatchWeights` stands between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives import Objective, ObjectiveSet, RewardScale
from pareto_align.weighting import Signal, Weighting
from pareto_align.weighting.evidence import make_signal, mean_rewards, steered_axes

__all__ = ["BatchWeights"]

FloatArray = NDArray[np.float64]


class BatchWeights:
    """A weighting in charge of one policy (K = 1), fed with batches of raw rewards.

    The scale is frozen once: an objective's bounds where it has them, otherwise mean and standard deviation of the
    first batches. Weights for raw rewards are the weighting's divided by that scale: so a weight means a preference.

    Args:
        weighting: Who decides; one that requires nothing but `FROM_REWARDS`.
        objectives: The M objectives, a column of rewards each. Constrained ones need a weighting that requires "slack",
            and it needs them; audited ones have weight 0.
        preference: [m] what the policy is trained for, a point of the simplex over the optimised objectives.
        group_size: G, completions of a prompt, which stand next to each other in a batch.
        scale_batches: Batches to measure the scale of unbounded objectives on. Until then the row is the preference, on
            the scale seen so far, and the weighting waits.

    Attributes:
        row: [m + c] the weighting's newest weights, the optimised objectives before the constrained; None before the
            first batch.
        columns: [m + c] the objective each entry of a row belongs to.
        scale: The frozen `RewardScale`; None before it is measured.

    Raises:
        ConfigError: Constraints and weighting do not fit, or `scale_batches` is no whole number of at least 1.
    """

    def __init__(
        self,
        weighting: Weighting,
        objectives: ObjectiveSet,
        preference: FloatArray,
        *,
        group_size: int,
        scale_batches: int = 1,
    ) -> None:
        constrained = [objectives.names[column] for column, _ in objectives.constraints]
        steers = "slack" in weighting.requires
        if steers and not constrained:
            raise ConfigError(
                f"Weighting '{weighting.name}' steers constraints: give a threshold with `at_least` or `at_most`."
            )
        if constrained and not steers:
            raise ConfigError(
                f"Weighting '{weighting.name}' does not heed the thresholds of {', '.join(constrained)}: use a "
                "Lagrangian one, or leave the thresholds out."
            )
        if "audits" in weighting.requires and all(objective.role != "audit" for objective in objectives):
            raise ConfigError(f"Weighting '{weighting.name}' goes by an audited reward function: name one. Found none.")
        if isinstance(scale_batches, bool) or not isinstance(scale_batches, int) or scale_batches < 1:
            raise ConfigError(f"`scale_batches` must be a whole number of at least 1. Found {scale_batches!r}.")
        self.weighting, self.objectives, self.preference = weighting, objectives, preference
        self.group_size, self.scale_batches = group_size, scale_batches
        self.columns = list(steered_axes(objectives, weighting))
        self.setup()

    def setup(self) -> None:
        """Forget every batch."""
        self.weighting.setup(1, self.objectives.m)
        self.row: FloatArray | None = None
        self.seen, self.batches = np.empty((0, self.objectives.M)), 0
        bounded = all(objective.bounds is not None for objective in self.objectives)
        self.scale = RewardScale.measure(self.seen, self.objectives) if bounded else None

    def __call__(self, rewards: ArrayLike, *, step: int, steps: int, raw: bool = True) -> FloatArray:
        """Weights [M] for a batch, in the direction of the rewards as they come (negative: less is better).

        Args:
            rewards: [N * G, M] of one batch, in the user's units; NaN where an objective does not apply.
            step: Training steps made.
            steps: Training steps planned.
            raw: True: to multiply raw rewards. False: to multiply rewards that were brought to one scale already.

        Raises:
            ObjectiveError: Another number of columns, an infinite reward, or no way to measure a scale.
            ConfigError: The weighting returned something that is no row of weights.
        """
        maximised = self._maximised(np.asarray(rewards, dtype=np.float64))
        spans = self._measure(maximised)
        if self.scale is None:
            row = np.concatenate([self.preference, np.zeros(len(self.columns) - self.objectives.m)])
        else:
            row = self.weighting(self._signal(maximised, step, steps))[0]
        if row.shape != (len(self.columns),) or not np.isfinite(row).all():
            raise ConfigError(
                f"Weighting '{self.weighting.name}' must return {len(self.columns)} finite weights. Found "
                f"{row.tolist()} in step {step}."
            )
        self.row = row
        weights = np.zeros(self.objectives.M)
        weights[self.columns] = row
        return self.objectives.to_user(weights / spans if raw else weights)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, in JSON's own types (and NaN, which Python's JSON has)."""
        return {
            "weighting": self.weighting.name,
            "names": list(self.objectives.names),
            "state": {name: _to_json(value) for name, value in self.weighting.state_dict().items()},
            "scale": None if self.scale is None else self.scale.to_dict(),
            "seen": _to_json(self.seen),
            "batches": self.batches,
            "row": None if self.row is None else self.row.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ConfigError: It is of another weighting, or of other objectives.
        """
        found, own = (state["weighting"], state["names"]), (self.weighting.name, list(self.objectives.names))
        if found != own:
            raise ConfigError(
                f"The checkpoint was made with weighting '{found[0]}' of {', '.join(found[1])}. Found '{own[0]}' of "
                f"{', '.join(own[1])}."
            )
        self.weighting.load_state_dict({name: _from_json(value) for name, value in state["state"].items()})
        self.scale = None if state["scale"] is None else RewardScale.from_dict(state["scale"])
        self.seen, self.batches = _from_json(state["seen"]), int(state["batches"])
        self.row = None if state["row"] is None else np.array(state["row"])

    def _maximised(self, rewards: FloatArray) -> FloatArray:
        if rewards.ndim != 2 or rewards.shape[1] != self.objectives.M:
            raise ObjectiveError(
                f"A batch has rewards [n, {self.objectives.M}], a column an objective. Found shape {rewards.shape}."
            )
        for name, column in zip(self.objectives.names, rewards.T, strict=True):
            if np.isinf(column).any():
                raise ObjectiveError(f"Reward function {name!r} returned an infinite reward.")
        return self.objectives.to_user(rewards)  # the flip is its own inverse

    def _measure(self, maximised: FloatArray) -> FloatArray:
        """What one unit of the scale is worth in each objective, [M]; freezes the scale when enough was seen."""
        if self.scale is None:
            self.seen = np.vstack([self.seen, maximised])
            self.batches += 1
            if self.batches < self.scale_batches:
                return np.array([_span(o, column) for o, column in zip(self.objectives, self.seen.T, strict=True)])
            self.scale = RewardScale.measure(self.seen, self.objectives)
            self.seen = self.seen[:0]
        return self.scale.scale

    def _signal(self, rewards: FloatArray, step: int, steps: int) -> Signal:
        """What the weighting gets to see of maximised rewards [n, M] in the user's units."""
        assert self.scale is not None
        group = self.group_size if self.weighting.requires & {"covariances", "audit_covariances"} else 1
        batch = rewards.reshape(1, -1, group, self.objectives.M)
        return make_signal(
            self.weighting,
            self.objectives,
            self.scale,
            mean_rewards(batch),
            rewards=batch,
            step=step,
            steps=steps,
            preferences=self.preference[None],
        )


def _span(objective: Objective, column: FloatArray) -> float:
    """What one unit of an objective's scale is worth by the rewards [n] seen so far; 1 where nothing varies yet."""
    if objective.bounds is not None:
        return objective.bounds[1] - objective.bounds[0]
    measured = column[~np.isnan(column)]
    return float(measured.std(ddof=1)) if len(measured) > 1 and np.ptp(measured) > 0 else 1.0


def _to_json(value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    return {"shape": list(array.shape), "values": array.ravel().tolist()}  # nested lists lose the shape of (0, m)


def _from_json(entry: Mapping[str, Any]) -> np.ndarray:
    return np.array(entry["values"]).reshape(entry["shape"])
