"""What a run may spend, and how much of that is behind: the one clock of schedules, explorers and weightings."""

from __future__ import annotations

from pareto_align.discovery.settings import Settings

__all__ = ["Budget"]


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
