"""What an explorer is: it decides what the slots of a population train, from what was measured so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from pareto_align.arguments import KeepsArguments
from pareto_align.errors import ConfigError
from pareto_align.front import Entry, Estimate, ParetoArchive
from pareto_align.registry import Registry

__all__ = ["Exploration", "Explorer", "Mixture", "Task", "available_explorers", "make_explorer", "register_explorer"]


@dataclass(frozen=True, eq=False)
class Task:
    """What a slot does from now on.

    Attributes:
        preference: `[m]` on the simplex, what the slot pursues.
        reason: Why, as a short sentence for the journal.
        parent: The archived entry whose adapter the slot goes on from, with a fresh optimizer; None: the slot's own.
        floors: `[m]` framed values that the policy must keep while it pursues its preference, NaN where it is free;
            None: no floors.
    """

    preference: np.ndarray
    reason: str
    parent: str | None = None
    floors: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Mixture:
    """A candidate that needs no training: a weighted sum of the weight updates of archived adapters.

    Attributes:
        parents: Ids of archive entries that still hold an adapter.
        coefficients: One a parent. On the simplex it is an interpolation; negative ones extrapolate.
        reason: Why, for the journal.
        preference: `[m]` it is meant to serve, for the record.
        noise: Length of a random step added to the sum, as a share of the sum's own length; a negative one is the same
            step the other way. 0 adds none.
        seed: Of the random step: the same seed gives the same direction.
    """

    parents: Sequence[str]
    coefficients: Sequence[float]
    reason: str
    preference: np.ndarray | None = None
    noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Exploration:
    """What an explorer may look at, after every measurement of the population.

    "Framed" values are maximised and on the frozen frame of the reward scale, in which 0 to 1 spans each optimised
    objective.

    Attributes:
        step: Training steps made.
        steps: Training steps planned.
        names: The m optimised objectives.
        preferences: `[K, m]` what each slot pursues now.
        measured: `[K, m]` framed means of the population, NaN rows for slots that changed hands since.
        archive: Every policy measured so far. Read only.
        frame: Takes an estimate to its `[m]` framed means.
        frame_stderr: Takes an estimate to their `[m]` standard errors.
        seed: For explorers that draw; another one at every call.
        spent: Share of the budget of tokens that is used, 0 where there is none.
        kl_coef: Price of one nat of KL, 0 for none.
        audits: The a audited objectives.
        describe: Takes an estimate to their `[a]` means, as shares of their bounds; NaN where there are none.
    """

    step: int
    steps: int
    names: Sequence[str]
    preferences: np.ndarray
    measured: np.ndarray
    archive: ParetoArchive
    frame: Callable[[Estimate], np.ndarray]
    frame_stderr: Callable[[Estimate], np.ndarray]
    seed: int
    spent: float = 0.0
    kl_coef: float = 0.0
    audits: Sequence[str] = ()
    describe: Callable[[Estimate], np.ndarray] = field(default=lambda estimate: np.zeros(0))

    @property
    def progress(self) -> float:
        """Share of the run that is behind: of its steps, or of its tokens where their budget will end it first."""
        return max(self.step / self.steps, self.spent)

    def alive(self) -> list[Entry]:
        """Entries that still hold an adapter and meet the constraints: possible parents."""
        return [e for e in self.archive.entries.values() if e.adapter is not None and str(e.status) != "infeasible"]

    def points(self, entries: Sequence[Entry]) -> np.ndarray:
        """`[n, m]` framed means of n entries."""
        return np.stack([self.frame(e.estimate) for e in entries]) if entries else np.zeros((0, len(self.names)))


class Explorer(KeepsArguments, ABC):
    """Decides the preferences that the slots of a population pursue, at the start and after every measurement.

    A subclass implements `preferences`; one that reacts to what was measured also implements `propose` or `mixtures`.
    One that remembers something implements `state_dict` and `load_state_dict`, in JSON's own types.

    Attributes:
        floor_weighting: Name of the weighting that keeps the floors of its tasks.
        moves_slots: False for one that gives no slot another task and mixes no adapters, so that a family can be
            trained under it: the slots of a family have no policies of their own.
        for_families: True for one that draws preferences, which only a family can follow.
        needs_kl: True for one that goes by the price of KL.
        needs_audits: True for one that goes by audited objectives with bounds.
        descriptors: Names of those, where only some count; None for all.
    """

    kind = "Explorer"
    name: ClassVar[str] = ""
    floor_weighting: str = "lagrangian"
    moves_slots: ClassVar[bool] = True
    for_families: ClassVar[bool] = False
    needs_kl: ClassVar[bool] = False
    needs_audits: ClassVar[bool] = False
    descriptors: Sequence[str] | None = None

    @abstractmethod
    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """Preferences `[K, m]` on the simplex to begin with; forgets an earlier run.

        Args:
            names: The m optimized objectives.
            population: K.
            seed: For explorers that draw.

        Raises:
            ConfigError: The explorer cannot work with so many objectives or policies, or a library is missing.
        """

    def propose(self, state: Exploration) -> Sequence[Task | None]:
        """What each of the K slots does next; None lets a slot go on as it is."""
        return [None] * len(state.preferences)

    def mixtures(self, state: Exploration) -> Sequence[Mixture]:
        """Candidates to be measured now without training."""
        return ()

    def read_as(self, reading: str) -> None:
        """Be told before a run how its weighting reads a preference, "place" or "rate"; by default nothing changes."""

    @property
    def satisfied(self) -> str | None:
        """Why nothing is left to be trained, as a sentence that ends the run; None: the run goes on."""
        return None

    def draw(self, seed: int) -> np.ndarray | None:
        """Preferences `[K, m]` that a family is trained on in one step; None: those of `preferences`, at every step.

        Args:
            seed: Another one at every step; nothing else decides, so that there is nothing to be saved.
        """
        return None

    def further(self, state: Exploration) -> np.ndarray:
        """Preferences `[j, m]` at which a family is measured once it is trained, beside those of `preferences`.

        Asked twice: the second time the policies that were asked for first are in the archive, with `state.step` as
        their origin's `between`.
        """
        return np.zeros((0, len(state.names)))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on where it stopped, in JSON's own types."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()` of an explorer with the same settings, after `preferences` was called."""
        if state:
            raise ConfigError(f"Explorer {self.name!r} keeps no state. Found {sorted(state)}.")


explorers: Registry[Explorer] = Registry("explorer", Explorer)  # type: ignore[type-abstract]
register_explorer = explorers.register
make_explorer = explorers.make


def available_explorers() -> list[str]:
    """Names of all registered explorers, sorted."""
    return explorers.names()
