"""Answers shared: a reward that several objectives are made of is computed once a batch."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pareto_align.objectives.calling import TRAINER_NAMES, RewardCall, RewardFunction
from pareto_align.objectives.composed import ComposedReward, compose, reward_name

__all__ = ["shared"]


@dataclass(frozen=True, eq=False)
class _Known:
    """One batch a shared reward was asked about, by the very objects it held, and what came of it."""

    objects: Mapping[str, tuple[Any, ...]]
    learning: bool
    answer: Any

    def is_of(self, objects: Mapping[str, tuple[Any, ...]], learning: bool) -> bool:
        # Identity, not equality: arrays and images do not compare, and a sampled judge may answer a new batch anew.
        return (
            self.learning == learning
            and self.objects.keys() == objects.keys()
            and all(
                len(known) == len(objects[name]) and all(a is b for a, b in zip(known, objects[name], strict=True))
                for name, known in self.objects.items()
            )
        )


class SharedReward(ComposedReward):
    """A reward that answers about one batch once, however many objectives ask; made by `shared`."""

    REMEMBERED = 32
    """Batches: a comparison with reference answers asks about two in turn, shards that are judged side by side about as
    many as there are."""

    def __init__(self, members: Sequence[RewardFunction]) -> None:
        super().__init__(members, reward_name(members[0]))
        self._known: deque[_Known] = deque(maxlen=self.REMEMBERED)

    def combine(self, answers: Sequence[NDArray[np.float64]], batch: RewardCall) -> NDArray[np.float64]:
        """The only member's answer."""
        return answers[0]

    def reset(self) -> None:
        """Let the member forget what it remembers, and forget its answers."""
        super().reset()
        self._known.clear()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give the member back what it remembered; what it answered since then is asked again."""
        super().load_state_dict(state)
        if state:
            self._known.clear()

    def _find(self, objects: Mapping[str, tuple[Any, ...]]) -> _Known | None:
        return next((known for known in tuple(self._known) if known.is_of(objects, self.learning)), None)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """The reward of each completion, from memory where this very batch was judged before."""
        objects = _objects(prompts, completions, columns)
        known = self._find(objects)
        if known is None:
            answer = super().__call__(prompts, completions, **columns)
            known = _Known(objects, self.learning, answer)
            self._known.append(known)
        return list(known.answer)

    async def _call_async(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Any:
        objects = _objects(prompts, completions, columns)
        known = self._find(objects)
        here = asyncio.get_running_loop()
        # A task that failed or was stopped is no answer; one that is under way can be awaited in its own loop only.
        if known is None or not (_succeeded(known.answer.task) or _pending(known.answer.task, here)):
            if known is not None:
                self._known.remove(known)
            task = here.create_task(super()._call_async(prompts, completions, **columns))
            known = _Known(objects, self.learning, _Waiting(task))
            self._known.append(known)
        return list(await known.answer.result())


class _Waiting:
    """A task that several wait for: it is stopped when the last of them is, and not before."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiting = 0

    async def result(self) -> Any:
        if self.task.done():
            return self.task.result()
        self.waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self.waiting -= 1
            if not self.waiting:
                self.task.cancel()  # no effect once done


def _succeeded(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _pending(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> bool:
    return not task.done() and not task.cancelling() and task.get_loop() is loop


def _objects(
    prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> dict[str, tuple[Any, ...]]:
    lists = {name: values for name, values in columns.items() if name not in TRAINER_NAMES and values is not None}
    return {name: tuple(v) for name, v in {"prompts": prompts, "completions": completions, **lists}.items()}


_shared: weakref.WeakValueDictionary[int, SharedReward] = weakref.WeakValueDictionary()


def shared(reward: RewardFunction) -> RewardFunction:
    """`reward`, computed once a batch however many objectives and compositions ask for it.

    Use what is returned everywhere in place of `reward`. It is the same object for the same `reward`, so conditions
    on one reward share it without being told to; only an objective of that reward alone has to be given it shared.
    A reward with a memory that serves twice should be shared, or it counts each batch twice.

    Args:
        reward: Any reward function, sync or async.

    Raises:
        ObjectiveError: It is no reward function.
    """
    if isinstance(reward, SharedReward):
        return reward
    known = _shared.get(id(reward))  # it holds its reward, so the id is of no other object
    if known is None:
        known = compose(SharedReward, [reward])
        _shared[id(reward)] = known
    return known
