"""The slots of a population: what each pursues, what is known of its tenant, what is forgotten when it moves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pareto_align.discovery.recovery import Recovery
from pareto_align.discovery.shards import Shards
from pareto_align.discovery.stalls import StallMonitor
from pareto_align.discovery.weights import Weights
from pareto_align.learning.learner import StepReport

__all__ = ["Slots"]


class Slots:
    """What belongs to a slot, in one place: nothing of an old tenant may reach a new one.

    Args:
        shards: K policies, with what the learner and its optimizer keep of each.
        weights: Have running means of each, and the floors of some.
        preferences: `[K, m]` what each slot pursues at first.
        patience: Steps without anything to learn from after which a policy counts as stalled.

    Attributes:
        preferences: `[K, m]` what each slot pursues.
        measured: `[K, m]` framed means of the tenants, NaN rows for those that moved in since; None at first.
        spread: `[K]` how much each had to learn from in the last step.
        recovery: Where each was when it was last right.
        stalls: Who has stood still, and for how long.
    """

    def __init__(
        self,
        shards: Shards,
        weights: Weights,
        preferences: np.ndarray,
        patience: int,
    ) -> None:
        self.shards, self.weights = shards, weights
        self.preferences = np.array(preferences, dtype=float)
        self.measured: np.ndarray | None = None
        self.spread = np.ones(len(self.preferences))
        self.recovery = Recovery(shards.trained)
        self.stalls = StallMonitor(len(self.preferences), patience)

    def adopt(self, slot: int, adapter: torch.Tensor) -> None:
        """Let another policy `[P]` move in; nothing that belonged to the old tenant is kept."""
        self.shards.adopt(slot, adapter)
        self.recovery.adopt(slot, adapter)
        self.weights.reset(slot, floors=True)
        self.stalls.reset(slot)
        if self.measured is not None:
            self.measured[slot] = np.nan

    def assign(
        self, slot: int, preference: np.ndarray, floors: np.ndarray | None, adapter: torch.Tensor | None
    ) -> None:
        """Give a slot another task.

        Args:
            slot: Which.
            preference: `[m]` what it pursues from now on.
            floors: `[m]` on the frozen scale what it keeps of each objective (NaN: free), or None.
            adapter: `[P]` the policy that it goes on from; None: its own.
        """
        if adapter is None:
            self.weights.reset(slot)
        else:
            self.adopt(slot, adapter)
        self.preferences[slot] = preference
        self.weights.assign(slot, floors)

    def go_back(self, row: int, slots: list[int]) -> None:
        """Take a policy (or a family, as row 0 of all slots) back to where it was when it was last right."""
        self.shards.put_back(row, self.recovery.good[row])
        for slot in slots:
            self.shards.forget(slot)  # what it remembers of the policy is of the one that went wrong
            self.weights.reset(slot)

    def note(self, report: StepReport) -> None:
        """A step was made."""
        self.spread = report.spread

    def state_dict(self) -> dict[str, Any]:
        """As arrays and tensors."""
        return {
            "preferences": self.preferences,
            "measured": self.measured,
            "spread": self.spread,
            "still": self.stalls.still,
            "unsound": self.recovery.unsound,
            "good": self.recovery.good,
            **self.weights.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor], blind: int) -> None:
        """Go on from `state_dict()`, as tensors; other keys are left alone.

        Args:
            state: What `state_dict` returned, without what was None.
            blind: Steps in a row in which no policy had a finite gradient.
        """

        def array(name: str) -> np.ndarray:
            found: np.ndarray = state[name].numpy().copy()
            return found

        of_weights = ("weighting.", "floors.", "aged.")
        self.weights.load_state_dict({k: v.numpy() for k, v in state.items() if k.startswith(of_weights)})
        self.recovery.good, self.recovery.blind = state["good"].clone(), blind
        self.recovery.unsound, self.stalls.still = array("unsound"), array("still")
        self.preferences, self.spread = array("preferences"), array("spread")
        self.measured = array("measured") if "measured" in state else None
