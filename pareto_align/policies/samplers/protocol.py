"""What draws the completions that policies learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from pareto_align.policies.drawing import Completions, SamplingParams

__all__ = ["Sampler"]


class Sampler(Protocol):
    """Draws from policies that it is handed. In order: `wake`, `push`, `draw` as often as wanted, `rest`.

    Attributes:
        name: What `sampler=` calls it.
        exact: Whether its log-probabilities are the trainer's own, up to rounding, and the same seeds draw the same
            completions again, whatever else is drawn beside them.
    """

    name: str
    exact: bool

    def wake(self) -> None:
        """Take up the memory that drawing needs."""

    def push(self, rows: Tensor, version: int) -> None:
        """Draw from these policies from now on.

        Args:
            rows: `[K, P]`.
            version: Another number at every call; nothing of an earlier one is drawn from.
        """

    def draw(
        self,
        prompt_ids: Sequence[Sequence[int]],
        group: int,
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        own: bool = False,
    ) -> Completions:
        """Completions `[K, N, G, T]` from the policies that were pushed.

        Args:
            prompt_ids: N prompts as token ids, or K*N of them, policy-major.
            group: G.
            params: Temperature and length.
            seeds: One a policy.
            own: Whether each policy has N prompts of its own.
        """

    def rest(self) -> None:
        """Leave the memory to the trainer."""

    def close(self) -> None:
        """The run is over."""
