"""Policies whose numbers went wrong, and where each of them was when they were last right."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pareto_align.errors import TrainingError
from pareto_align.learning.learner import StepReport

__all__ = ["Recovery"]

UNSOUND_STEPS = 3
"""Steps in a row without a finite gradient after which a policy goes back."""
BLIND_STEPS = 2 * UNSOUND_STEPS
"""Steps in a row in which no policy had one after which the run stops: by then all have gone back, in vain."""


class Recovery:
    """Watches the steps of K policies.

    The optimizer passes over a step whose gradient is not finite; UNSOUND_STEPS of them in a row, or a policy whose own
    probabilities are no numbers, will not mend by themselves.

    Args:
        parameters: `[K, P]` the policies at the beginning.

    Attributes:
        good: `[K, P]` each policy when it was last measured with its numbers right, on the CPU.
        unsound: `[K]` steps in a row without a finite gradient.
        blind: Steps in a row in which no policy had one.
    """

    def __init__(self, parameters: Tensor) -> None:
        self.good = parameters.detach().to("cpu", copy=True)
        self.unsound = np.zeros(len(parameters), dtype=int)
        self.blind = 0
        self._sound = np.ones(len(parameters), dtype=bool)

    def note(self, report: StepReport) -> list[int]:
        """Note a step; returns the policies that have to go back to `good`.

        Raises:
            TrainingError: No policy had a finite gradient for BLIND_STEPS in a row.
        """
        finite = np.isfinite(report.grad_norm)
        self.blind = 0 if finite.any() else self.blind + 1
        if self.blind >= BLIND_STEPS:
            raise TrainingError(
                f"No policy had a finite gradient in {self.blind} steps in a row, although they went back to where "
                "they were last sound. Lower the learning rate, or look for rewards that explode."
            )
        self.unsound = np.where(finite, 0, self.unsound + 1)
        lost = (self.unsound >= UNSOUND_STEPS) | ~report.sound
        self.unsound[lost] = 0
        self._sound = finite & ~lost
        return [int(slot) for slot in np.flatnonzero(lost)]

    def keep(self, parameters: Tensor) -> None:
        """The policies `[K, P]` are being measured: those whose last step was sound are what to go back to."""
        kept = torch.from_numpy(self._sound)
        self.good = torch.where(kept[:, None], parameters.detach().cpu(), self.good)

    def adopt(self, slot: int, policy: Tensor) -> None:
        """Another policy `[P]` lives in a slot now."""
        self.good[slot] = policy.detach().cpu()
