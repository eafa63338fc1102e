"""A sampler that no longer draws from the policies that are trained: noticed before it costs the run."""

from __future__ import annotations

import numpy as np

from pareto_align.errors import TrainingError
from pareto_align.learning.learner import StepReport

__all__ = ["MismatchGuard"]

MOST_NATS = 0.05
"""Mean difference a token beyond which sampler and trainer do not run the same policy: kernels and batches of a half
type come to a thirtieth of it."""
STEPS = 5
"""Steps in a row after which that is no chance."""


class MismatchGuard:
    """Watches, per policy, how far the sampler's log-probabilities are from the trainer's."""

    def __init__(self) -> None:
        self._steps: np.ndarray | None = None

    def note(self, report: StepReport) -> None:
        """Note a step; one whose sampler is exact tells nothing.

        Raises:
            TrainingError: A policy's mean difference was beyond MOST_NATS for STEPS in a row.
        """
        found = report.more.get("mismatch")
        if found is None:
            return
        before = np.zeros(len(found), dtype=int) if self._steps is None else self._steps
        self._steps = np.where(found > MOST_NATS, before + 1, 0)
        if (self._steps >= STEPS).any():
            worst = int(np.argmax(np.where(self._steps >= STEPS, found, -np.inf)))
            raise TrainingError(
                "The sampler does not draw from the policies that are trained: the log-probabilities of policy "
                f"{worst} differ by {found[worst]:.3g} nats a token (more than {MOST_NATS} for {STEPS} steps in a "
                "row; rounding makes some .001). An adapter that is not loaded does that, and so does a layer that "
                "the sampler leaves out. Begin a new run with another sampler, or look at how vLLM runs this model."
            )
