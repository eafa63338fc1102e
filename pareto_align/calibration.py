"""How far predictions of a front miss at preferences that nothing was fitted to: intervals whose coverage is proved."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.arguments import path_of
from pareto_align.blend import Blend
from pareto_align.errors import ConfigError, FrontFileError, ParetoAlignWarning, PreferenceError
from pareto_align.front.conformal import Quadratic, calibrated_halfwidth, least_calibration
from pareto_align.front.preferences import Preference, random
from pareto_align.report.units import measured, optimized, preferences_of

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord
    from pareto_align.policies.base import Prompt

__all__ = ["Calibration", "calibrate"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A prediction of what a mixture of a front is worth at any preference, and how far it missed where it was tried.

    Attributes:
        names: The M objectives.
        spanning: The m optimized ones, which a preference is over.
        by: How the members were mixed.
        confidence: Chance that an interval holds the next *measured* value, over users whose preferences are drawn like
            the held-out ones, evenly from the simplex; for each objective by itself.
        preferences: `[n, m]` held-out ones.
        errors: `[n, M]` measured less predicted there, in the user's units.
        quadratic: What is predicted, in the user's units.
    """

    names: tuple[str, ...]
    spanning: tuple[str, ...]
    by: str
    confidence: float
    preferences: np.ndarray
    errors: np.ndarray
    quadratic: Quadratic

    @property
    def halfwidth(self) -> np.ndarray:
        """`[M]` half the widths of the intervals, the same for every preference."""
        return calibrated_halfwidth(self.errors, self.confidence)

    def predict(self, preference: Any) -> tuple[np.ndarray, np.ndarray]:
        """Predicted values `[M]` at a preference, in the user's units, and the half-widths `[M]`.

        Raises:
            PreferenceError: The preference cannot be read.
        """
        asked = Preference.of(preference, list(self.spanning)).weights
        return self.quadratic(asked)[0], self.halfwidth

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON's own types."""
        return {
            "names": list(self.names),
            "spanning": list(self.spanning),
            "by": self.by,
            "confidence": self.confidence,
            "preferences": self.preferences.tolist(),
            "errors": self.errors.tolist(),
            "coefficients": self.quadratic.coefficients.tolist(),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Calibration:
        """What `to_dict` gave.

        Raises:
            FrontFileError: It is no calibration.
        """
        try:
            arrays = (np.array(told[name], dtype=float) for name in ("preferences", "errors", "coefficients"))
            preferences, errors, coefficients = arrays
            names, spanning = tuple(map(str, told["names"])), tuple(map(str, told["spanning"]))
            return cls(
                names,
                spanning,
                str(told["by"]),
                float(told["confidence"]),
                preferences,
                errors,
                Quadratic(coefficients),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FrontFileError(f"This is no calibration: {type(error).__name__}: {error}") from error

    def save(self, path: str | Path) -> Path:
        """Write it as JSON."""
        target = path_of(path, "path")
        target.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return target

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """What `save` wrote.

        Raises:
            FrontFileError: The file cannot be read, or holds no calibration.
        """
        target = path_of(path, "path")
        try:
            return cls.from_dict(json.loads(target.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise FrontFileError(f"Cannot read the calibration {target}: {error}") from error


def calibrate(
    record: FrontRecord,
    mixture: Callable[[list[float]], Blend],
    prompts: Sequence[Prompt],
    objectives: Sequence[Any],
    *,
    count: int,
    confidence: float,
    seed: int,
    **kw: Any,
) -> Calibration:
    """Fit the members' values, and measure mixtures at held-out preferences: see `ParetoFront.calibrate`.

    Args:
        record: The front.
        mixture: Makes the mixture for a preference.
        prompts: Held-out ones.
        objectives: The run's.
        count: Held-out preferences.
        confidence: Of the intervals.
        seed: Of preferences and answers.
        **kw: Passed to `Blend.measure`.

    Raises:
        ConfigError: Too few preferences for the confidence, or objectives that are not the front's.
        PreferenceError: No member was trained for a preference.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"`confidence` must lie between 0 and 1. Found {confidence!r}.")
    if isinstance(count, bool) or not isinstance(count, int) or count < least_calibration(confidence):
        raise ConfigError(
            f"A confidence of {confidence:g} needs `count` of at least {least_calibration(confidence)} held-out "
            f"preferences. Found count={count!r}."
        )
    places = preferences_of(record)
    known = np.isfinite(places).all(axis=1)
    if not known.any():
        raise PreferenceError("No member was trained for a preference, so nothing can be predicted from theirs.")
    table = measured(record)
    quadratic = Quadratic.fit(places[known], np.asarray(table.values)[known])
    held = random(places.shape[1], count, seed)
    errors, by = [], ""
    for number, asked in enumerate(held):
        with warnings.catch_warnings():
            # beyond the members' preferences the nearest one is served, and that is what is calibrated
            warnings.simplefilter("ignore", ParetoAlignWarning)
            blend = mixture(asked.tolist())
            found = blend.measure(prompts, objectives, seed=seed + number, rival=False, **kw)
        by = blend.by
        errors.append(found.values - quadratic(asked)[0])
    names = tuple(objective.name for objective in record.objectives)
    spanning = tuple(names[i] for i in optimized(record))
    return Calibration(names, spanning, by, confidence, held, np.array(errors), quadratic)
