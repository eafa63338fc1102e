"""What a run may spend, what it has spent, how much of it is behind, and whether the front still moves.

The one clock of schedules and explorers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from pareto_align.errors import ConfigError
from pareto_align.objectives import ObjectiveSet
from pareto_align.runs.settings import Settings

__all__ = ["Budget", "PlateauMonitor", "Spending"]


class CountsTokens(Protocol):
    """Whatever measures policies and counts what it sampled for that."""

    tokens: int


class Budget:
    """Steps, tokens and seconds of a run. Whatever is used up first ends the training.

    Steps and tokens also tell how far a run has come. Seconds do not: a run would then be another one on a busy machine
    and after every resume.

    Args:
        settings: `steps`, `max_tokens`, `max_seconds`.
    """

    def __init__(self, settings: Settings) -> None:
        self.steps, self.max_tokens, self.max_seconds = settings.steps, settings.max_tokens, settings.max_seconds

    def spent(self, tokens: int) -> float:
        """Share of the tokens that is used, at most 1; 0 where they are not limited."""
        return 0.0 if self.max_tokens is None else min(tokens / self.max_tokens, 1.0)

    def progress(self, step: int, tokens: int) -> float:
        """Share of the run that is behind after `step` steps: of its steps or of its tokens, whichever is larger."""
        return max(min(step / self.steps, 1.0), self.spent(tokens))

    def used_up(self, step: int, tokens: int, seconds: float) -> bool:
        """Whether training ends here."""
        return self.progress(step, tokens) >= 1 or (self.max_seconds is not None and seconds >= self.max_seconds)


class Spending:
    """What a run has spent so far.

    Args:
        select: Counts the tokens of measuring on the select split.
        objectives: Count their calls and their time.

    Attributes:
        train_tokens: Tokens sampled to train on.
        report_tokens: Tokens sampled for the report.
        rollouts: Completions sampled to train on.
        started: When the run would have begun by this process's clock, had it never been interrupted.
    """

    def __init__(self, select: CountsTokens, objectives: ObjectiveSet) -> None:
        self.select = select
        self.objectives = objectives
        self.train_tokens = self.report_tokens = self.rollouts = 0
        self.started = time.monotonic()

    @property
    def tokens(self) -> int:
        """What counts for `max_tokens`: everything sampled so far, in training and measuring."""
        return self.train_tokens + self.select.tokens

    @property
    def seconds(self) -> float:
        """Wall-clock seconds at work."""
        return time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        """As JSON's own types."""
        return {"train_tokens": self.train_tokens, "rollouts": self.rollouts, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; what else the mapping holds is passed over."""
        self.train_tokens, self.rollouts = int(state["train_tokens"]), int(state["rollouts"])
        self.started -= float(state["seconds"])

    def cost(self) -> dict[str, Any]:
        """For the record of the front."""
        return {
            "train_tokens": self.train_tokens,
            "eval_tokens": self.select.tokens + self.report_tokens,
            "rollouts": self.rollouts,
            "reward_calls": self.objectives.reward_calls,
            **self.objectives.judged(),
        }

    def clock(self) -> dict[str, float]:
        """Wall-clock seconds. They stay out of the front folder, which is the same whenever a run is made."""
        return {"reward_seconds": round(self.objectives.reward_seconds, 2), "seconds": round(self.seconds, 1)}


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
