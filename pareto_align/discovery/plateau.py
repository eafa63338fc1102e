"""Whether the front still moves: a run may end once the interval of its hypervolume stands still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pareto_align.errors import ConfigError

__all__ = ["PlateauMonitor"]


class PlateauMonitor:
    """Counts the measurements in a row that did not take the hypervolume out of the interval that it had.

    The interval is the one at the last move. A front that grows a little at every measurement leaves it in the end, one
    that only wavers does not, whichever of its measurements was the lucky one.

    Args:
        patience: Measurements in a row after which the front counts as standing still; None: it never does.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.still = 0
        self.interval: tuple[float, float] | None = None

    @property
    def reached(self) -> bool:
        """Whether the front has stood still long enough."""
        return self.patience is not None and self.still >= self.patience

    def note(self, value: float, low: float, high: float) -> None:
        """Note one measurement of the hypervolume and its interval."""
        if self.interval is None or not self.interval[0] <= value <= self.interval[1]:
            self.interval, self.still = (low, high), 0
        else:
            self.still += 1

    def state_dict(self) -> dict[str, Any]:
        """As JSON's own types."""
        return {"still": self.still, "interval": None if self.interval is None else list(self.interval)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ConfigError: It is no state of this.
        """
        try:
            interval = state["interval"]
            self.still = int(state["still"])
            self.interval = None if interval is None else (float(interval[0]), float(interval[1]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"This is no state of a plateau monitor: {state!r}.") from error
