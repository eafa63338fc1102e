"""Train where the certified possible gain is largest, and stop when there is nowhere much left to gain.

References:
    Roijers, Whiteson and Oliehoek, "Computing Convex Coverage Sets for Faster Multi-objective Coordination", JAIR 52,
        2015 (optimistic linear support), as in https://github.com/LucasAlegre/morl-baselines. There a trained policy is
        taken for the best one of its weights; here its own answers say how far from it it is (`front.certificates`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from pareto_align.arguments import Count, Positive, Share
from pareto_align.discovery.explorers.base import Exploration, Explorer, Task, register_explorer
from pareto_align.discovery.explorers.checks import check_keys, require
from pareto_align.errors import ParetoAlignWarning
from pareto_align.front import preferences as simplex
from pareto_align.front.certificates import LEAST_EFFECTIVE, Bounds, Ceiling, bounds_at
from pareto_align.front.entries import Entry

__all__ = ["CornerWeights"]


@register_explorer("corner-weights")
class CornerWeights(Explorer):
    """Optimistic linear support that heeds noise and policies that are not the best ones.

    After every measurement the two-sided bound of `front.certificates` is taken at many preferences. A slot whose
    policy is within `epsilon` of the best one for its own preference goes on from the best archived policy for the
    preference where the bounds are farthest apart. Where they are nowhere farther apart than `epsilon` the run ends:
    for none of those preferences, so the bounds say, could training add more.

    It needs a price of KL (`kl_coef` above 0), several answers to a prompt when measuring (`eval_group_size` of about
    20 or more, for 10 effective ones), and means what it says under linear weights, `weighting="fixed"`.

    Args:
        epsilon: Gain in scaled reward that is not worth training for.
        candidates: About how many preferences the bounds are taken at: the finest lattice of no more, and its centre.
        settle: Share of the run before anything moves.
        apart: Least distance of a slot's new preference from those that others pursue.

    Raises:
        ConfigError: A setting is out of range.
    """

    needs_kl: ClassVar[bool] = True

    def __init__(
        self, *, epsilon: Positive = 0.02, candidates: Count = 128, settle: Share = 0.2, apart: Share = 0.05
    ) -> None:
        self.epsilon, self.candidates = float(epsilon), int(candidates)
        self.settle, self.apart = float(settle), float(apart)
        self.reason: str | None = None

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        """A grid with the corners: between its own ceilings only is there an upper bound."""
        # without a policy for each objective alone no preference lies between ceilings
        require(self.name, names, population, objectives=2, policies=len(names))
        self.reason = None
        return simplex.grid(len(names), population)

    def propose(self, state: Exploration) -> Sequence[Task | None]:
        """See `Explorer.propose`."""
        tasks: list[Task | None] = [None] * len(state.preferences)
        # what was measured stays true of a policy whose adapter was let go, or that breaks a constraint
        known = _with_ceilings(state.archive.entries.values())
        if not known or state.kl_coef == 0:
            return tasks
        ceilings = [e.origin.ceiling for e in known if e.origin.ceiling is not None]
        asked = _spread(len(state.names), self.candidates)
        found = [_bounds(preference, known, state.kl_coef) for preference in asked]
        gains = np.array([one.gain for one in found])
        if gains.max() <= self.epsilon:
            self.reason = (
                f"At {len(asked)} preferences no policy under this price of KL is worth more than {gains.max():.4f} "
                f"beyond the best that was measured (epsilon={self.epsilon:g})."
            )
            return tasks
        if not any(one.trusted for one in ceilings):
            effective = max(one.effective for one in ceilings)
            warnings.warn(
                f"Explorer {self.name!r} trusts no bound: no policy has {LEAST_EFFECTIVE:g} effective answers to every "
                f"prompt (at most {effective:.1f}). Raise eval_group_size, or kl_coef where answers are all alike; "
                "until then nothing moves.",
                ParetoAlignWarning,
                stacklevel=2,
            )
        if state.progress < self.settle:
            return tasks
        pursued = np.array(state.preferences)
        for slot in range(len(tasks)):
            own = self._latest(slot, state)
            if own is None or own.value - self._worth(own, pursued[slot], state.kl_coef) > self.epsilon:
                continue
            others = np.delete(pursued, slot, axis=0)
            free = np.array([np.linalg.norm(others - w, axis=1).min() >= self.apart for w in asked])
            open_gains = np.where(free & (gains > self.epsilon) & np.isfinite(gains), gains, -np.inf)
            place = int(open_gains.argmax())
            if not np.isfinite(open_gains[place]):
                continue
            # from an infeasible policy, or one whose adapter was let go, nothing goes on
            parents = _with_ceilings(state.alive())
            if not parents:
                continue
            parent = parents[_bounds(asked[place], parents, state.kl_coef).best].id
            reason = f"Training for it may add up to {gains[place]:.4f}, more than elsewhere; from {parent!r}."
            tasks[slot] = Task(asked[place], reason, parent)
            pursued[slot] = asked[place]
        return tasks

    @property
    def satisfied(self) -> str | None:
        """The guarantee, once there is one."""
        return self.reason

    @staticmethod
    def _worth(ceiling: Ceiling, preference: np.ndarray, beta: float) -> float:
        return float(np.dot(ceiling.values, preference)) - beta * ceiling.kl

    @staticmethod
    def _latest(slot: int, state: Exploration) -> Ceiling | None:
        """What the slot's policy was found to be for its preference when last measured; None where nothing is known.

        A newest policy that is dominated holds no adapter any more and is still the slot's last word: an older one may
        have been trained for another preference.
        """
        own = [e.origin for e in state.archive.entries.values() if e.origin.policy == slot]
        last = max(own, key=lambda origin: origin.step or 0, default=None)
        if last is None or last.ceiling is None or last.preference is None or not last.ceiling.trusted:
            return None
        return last.ceiling if np.allclose(last.preference, state.preferences[slot], rtol=0, atol=1e-9) else None

    def state_dict(self) -> dict[str, Any]:
        """Whether it is satisfied."""
        return {"reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Explorer.load_state_dict`."""
        check_keys(self.name, state, {"reason"})
        self.reason = state["reason"]


def _with_ceilings(entries: Iterable[Entry]) -> list[Entry]:
    return [e for e in entries if e.origin.ceiling is not None and e.origin.preference is not None]


def _bounds(preference: np.ndarray, entries: Sequence[Entry], beta: float) -> Bounds:
    """At a preference, from entries that all have a ceiling."""
    anchors = np.array([e.origin.preference for e in entries], dtype=float)
    return bounds_at(preference, anchors, [e.origin.ceiling for e in entries if e.origin.ceiling is not None], beta)


def _spread(m: int, count: int) -> np.ndarray:
    """The finest lattice on the simplex of at most `count` preferences, corners included, and the centre `[j, m]`."""
    divisions = 1
    while math.comb(divisions + m, m - 1) <= count:
        divisions += 1
    points = simplex.lattice(m, divisions)
    return points if divisions % m == 0 else np.vstack([points, np.full(m, 1 / m)])
