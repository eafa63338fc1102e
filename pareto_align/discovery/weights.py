"""The weights of a step: from the numbers of all policies at once, or shard by shard.

A weighting is called with all K policies, whoever they are of. Where only some of their numbers are known, it is a copy
that is called: one a shard, which has its own row of numbers right and takes its own rows of weights. What stands for
the others decides what kind of copies they are.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pareto_align.discovery.extension import FloorKeeper
from pareto_align.errors import TrainingError
from pareto_align.weighting import Signal, Weighting

__all__ = ["AgedWeights", "ApartWeights", "Found", "Weights"]

Found = tuple[int, int, np.ndarray]
"""A shard, a step, and the shard's weights `[k, s]` of it."""
ARRAYS = tuple(field.name for field in dataclasses.fields(Signal) if field.name not in ("step", "steps", "spent"))


class Weights:
    """A weighting, and the floors that some slots keep under it.

    Args:
        weighting: Set up for all K slots.
        floors: Likewise.

    Attributes:
        followers: Copies that forget a tenant when it does.
    """

    def __init__(self, weighting: Weighting, floors: FloorKeeper) -> None:
        self.weighting, self.floors = weighting, floors
        self.followers: list[Weights] = []

    def __call__(self, signal: Signal) -> np.ndarray:
        """Weights `[K, s]` of the m objectives and of what else is steered."""
        weights = np.array(self.weighting(signal))
        m = signal.values.shape[1]
        held = np.isfinite(self.floors.floors).any(1, keepdims=True)
        left = np.maximum(1 - np.abs(weights[:, m:]).sum(1, keepdims=True), 0.0)  # what real constraints do not take
        weights[:, :m] = np.where(held, left, 1.0) * self.floors(weights[:, :m], signal)
        return weights

    def reset(self, slot: int, *, floors: bool = False) -> None:
        """Forget what belongs to the tenant of a slot, and where asked for how hard its floors were to keep."""
        for one in (self, *self.followers):
            one.weighting.reset(slot)
            if floors:
                one.floors.weighting.reset(slot)

    def assign(self, slot: int, floors: np.ndarray | None) -> None:
        """Give a slot floors `[m]` (NaN: free), or none."""
        self.floors.assign(slot, floors)

    def state_dict(self) -> dict[str, Any]:
        """As arrays and numbers."""
        return {
            **{f"weighting.{name}": value for name, value in self.weighting.state_dict().items()},
            **{f"floors.{name}": value for name, value in self.floors.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from `state_dict()`; other keys are left alone."""
        self.weighting.load_state_dict(_part(state, "weighting."))
        self.floors.load_state_dict(_part(state, "floors."))


class ApartWeights:
    """Weights of one shard at a time, under a weighting whose rows need nothing of other policies.

    Args:
        weights: Of all; where it stands now, the copies begin. It goes on by itself, step by step.
        slots: The policies of each shard.
    """

    def __init__(self, weights: Weights, slots: Sequence[range]) -> None:
        self.weights, self.slots = weights, slots
        weights.followers = [copy.deepcopy(Weights(weights.weighting, weights.floors)) for _ in slots]

    def enter(self, shard: int, rows: Signal) -> list[Found]:
        """A shard's numbers of a step; its weights, at once."""
        own = self.slots[shard]
        places = np.zeros(self.weights.weighting.K, dtype=int)  # somebody has to be there: its own first policy
        places[own.start : own.stop] = np.arange(len(own))
        weights = self.weights.followers[shard](_taken(rows, places))
        return [(shard, rows.step, weights[own.start : own.stop])]

    def check(self, signal: Signal, used: np.ndarray) -> None:
        """Let the weights of all go on by a step `[K, s]` that was made.

        Raises:
            TrainingError: They are not those that were used, so the weighting is not what it says.
        """
        if not np.array_equal(self.weights(signal), used, equal_nan=True):
            raise TrainingError(
                f"The weighting {self.weights.weighting.name!r} says that its rows need nothing of other policies "
                f"(per_policy), and gave a shard other weights alone than among all, in step {signal.step + 1}. Set "
                "per_policy = False in its class, or overlap='off'."
            )

    def close(self) -> None:
        """Nobody goes on by himself any more."""
        self.weights.followers = []


class AgedWeights(Weights):
    """Weights from a shard's own numbers and those of the others as they were some steps ago.

    Every shard has a copy of the weighting for the whole of a run. The age is a matter of the step's number, not of the
    clock: `age` steps, and in the first steps of a run as many as there are behind. So a run that is made again, or
    goes on, comes to the same. What a slot's new tenant does not have of the old one is forgotten in every copy where
    the first numbers of the new one come in.

    Args:
        weighting: Set up for all K slots.
        floors: Likewise.
        slots: The policies of each shard.
        age: Steps, at least 1.
    """

    def __init__(self, weighting: Weighting, floors: FloorKeeper, slots: Sequence[range], age: int) -> None:
        super().__init__(weighting, floors)
        self.slots, self.age = slots, age
        self.copies = [copy.deepcopy(Weights(weighting, floors)) for _ in slots]
        self.seen: dict[int, dict[int, tuple[Signal, np.ndarray]]] = {}
        self.waiting: list[tuple[int, int]] = []
        self.pending = np.zeros(weighting.K, dtype=np.int64)  # 1: forget a tenant, 2: its floors too

    def age_of(self, step: int) -> int:
        """How old the others' numbers are in a step."""
        return min(step, self.age)

    def enter(self, shard: int, rows: Signal) -> list[Found]:
        """A shard's numbers of a step; the weights, of this shard or others, that can be told now."""
        own = self.slots[shard]
        mine = slice(own.start, own.stop)
        self.seen.setdefault(rows.step, {})[shard] = rows, self.pending[mine].copy()
        self.pending[mine] = 0
        self.waiting.append((rows.step, shard))
        found = [one for one in sorted(self.waiting) if self._known(*one)]
        self.waiting = [one for one in self.waiting if one not in found]
        told = [(who, step, self._weights(step, who)) for step, who in found]
        whole = [step for step, known in self.seen.items() if len(known) == len(self.slots)]
        for step in [step for step in self.seen if step <= max(whole, default=-1) - self.age]:
            if all(step < wanted - self.age_of(wanted) for wanted, _ in self.waiting):
                del self.seen[step]
        return told

    def _known(self, step: int, shard: int) -> bool:
        others = self.seen.get(step - self.age_of(step), {})
        return all(other in others for other in range(len(self.slots)) if other != shard)

    def _weights(self, step: int, shard: int) -> np.ndarray:
        then = self.seen[step - self.age_of(step)]
        parts = [self.seen[step][n] if n == shard else then[n] for n in range(len(self.slots))]
        mine = self.copies[shard]
        for own, (_, forget) in zip(self.slots, parts, strict=True):
            for slot, kind in zip(own, forget, strict=True):
                if kind:
                    mine.reset(slot, floors=kind > 1)
        own = self.slots[shard]
        now = self.seen[step][shard][0]
        return mine(_joined([signal for signal, _ in parts], now))[own.start : own.stop]

    def __call__(self, signal: Signal) -> np.ndarray:
        """Weights `[K, s]` of a step that all shards make at once; the ages are the same."""
        found: dict[int, np.ndarray] = {}
        for shard, own in enumerate(self.slots):
            for who, _, weights in self.enter(shard, _taken(signal, np.arange(own.start, own.stop))):
                found[who] = weights
        return np.concatenate([found[shard] for shard in range(len(self.slots))])

    def reset(self, slot: int, *, floors: bool = False) -> None:
        """See `Weights.reset`; copies forget when the tenant's next numbers come to them."""
        self.pending[slot] = max(self.pending[slot], 2 if floors else 1)

    def assign(self, slot: int, floors: np.ndarray | None) -> None:
        """Give a slot floors `[m]` (NaN: free), or none; between two steps of all shards."""
        for one in (self, *self.copies):
            one.floors.assign(slot, floors)

    def state_dict(self) -> dict[str, Any]:
        """As arrays and numbers, between two steps of all shards."""
        state: dict[str, Any] = {"aged.pending": self.pending.copy(), "aged.floors": self.floors.floors.copy()}
        for n, one in enumerate(self.copies):
            state |= {f"aged.copy{n}.{name}": value for name, value in one.state_dict().items()}
        for step, known in self.seen.items():
            parts = [known[n] for n in range(len(self.slots))]
            state[f"aged.seen{step}.forget"] = np.concatenate([forget for _, forget in parts])
            joined = _joined([signal for signal, _ in parts], parts[0][0])
            state |= {f"aged.seen{step}.{name}": array for name, array in _arrays(joined).items()}
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from `state_dict()`; other keys are left alone."""
        own = _part(state, "aged.")
        self.pending = np.array(own["pending"], dtype=np.int64)
        self.floors.floors = np.array(own["floors"], dtype=float)
        for n, one in enumerate(self.copies):
            one.load_state_dict(_part(own, f"copy{n}."))
        self.seen, self.waiting = {}, []
        for name in own:
            if name.startswith("seen") and name.endswith(".forget"):
                step = int(name.removeprefix("seen").removesuffix(".forget"))
                arrays = _part(own, f"seen{step}.")
                forget = np.array(arrays.pop("forget"), dtype=np.int64)
                whole = Signal(step, step + 1, **arrays)
                self.seen[step] = {
                    n: (_taken(whole, np.arange(s.start, s.stop)), forget[s.start : s.stop])
                    for n, s in enumerate(self.slots)
                }


def _part(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _arrays(signal: Signal) -> dict[str, np.ndarray]:
    return {name: array for name in ARRAYS if (array := getattr(signal, name)) is not None}


def _taken(signal: Signal, rows: np.ndarray) -> Signal:
    """Some rows of a signal, or the same one several times."""
    changed: dict[str, Any] = {name: array[rows] for name, array in _arrays(signal).items()}
    return dataclasses.replace(signal, **changed)


def _joined(parts: Sequence[Signal], now: Signal) -> Signal:
    """The rows of several signals as those of one, which is of the step of `now`; NaN for what was not known then."""
    changed: dict[str, Any] = {}
    for name in ARRAYS:
        arrays = [getattr(part, name) for part in parts]
        known = [array for array in arrays if array is not None]
        changed[name] = None
        if known:
            shape = known[0].shape[1:]
            unknown = [np.full((len(part.values), *shape), np.nan) for part in parts]
            pairs = zip(arrays, unknown, strict=True)
            changed[name] = np.concatenate([nan if array is None else array for array, nan in pairs])
    return dataclasses.replace(now, **changed)
