"""Rewards made of other rewards: how their members are called, and what becomes of the answers.

A composed reward is a reward function like any other, with TRL's signature, so it can be an objective, a member of
another composition, or a reward of a TRL trainer.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives.attempts import HOPELESS
from pareto_align.objectives.background import left_by, start_async
from pareto_align.objectives.calling import (
    TRAINER_NAMES,
    RewardCall,
    RewardFunction,
    StatefulReward,
    is_async,
    raised_error,
    rewards_array,
)
from pareto_align.objectives.objective import Objective

__all__ = ["ComposedReward", "compose", "finite", "remembers", "reward_name"]


class ComposedReward(StatefulReward):
    """Base of rewards made of other rewards, their members.

    It is async where all members are. Where only some are, it is sync: its async members wait for their servers on
    the background event loop while the sync ones compute in the calling thread, which some of them need to be in.
    What members remember is remembered with it.

    Args:
        members: The rewards it is made of; each is called as `Objective` describes.
        name: What TRL and error messages call it.

    Raises:
        ObjectiveError: A member is no reward function.
    """

    hands_on = True
    """It is given the batch itself, by which `shared` knows it again, and gives each member arguments of its own."""

    def __init__(self, members: Sequence[RewardFunction], name: str) -> None:
        self.members = tuple(members)
        self.name = name
        for member in self.members:
            if isinstance(member, Objective):
                raise ObjectiveError(f"{name} is made of rewards, not of objectives; give it the objective's .reward.")
            Objective(reward_name(member), member)  # refuses what is no reward function

    @property
    def __name__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<reward {self.name}>"

    @property
    def learning(self) -> bool:  # type: ignore[override]
        """Whether members with a memory learn from the batches they judge."""
        return getattr(self, "_learning", True)

    @learning.setter
    def learning(self, value: bool) -> None:
        self._learning = value
        for member in self._memories().values():
            member.learning = value

    def _memories(self) -> dict[str, StatefulReward]:
        members: dict[str, Any] = {str(i): member for i, member in enumerate(self.members)}
        return {position: member for position, member in members.items() if isinstance(member, StatefulReward)}

    def reset(self) -> None:
        """Let the members forget what they remember."""
        for memory in self._memories().values():
            memory.reset()

    def state_dict(self) -> dict[str, Any]:
        """What the members remember, by their position."""
        return {position: memory.state_dict() for position, memory in self._memories().items() if remembers(memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give the members back what `state_dict` took down.

        Raises:
            ObjectiveError: The state is of other members.
        """
        memories = {position: memory for position, memory in self._memories().items() if remembers(memory)}
        if set(state) != set(memories):
            raise ObjectiveError(f"The state is not one of {self.name}: its members with a memory are others.")
        for position, memory in memories.items():
            memory.load_state_dict(state[position])

    def calls(self, batch: RewardCall) -> list[tuple[RewardFunction, RewardCall]]:
        """Which member is asked about which batch; by default each about the one at hand."""
        return [(member, batch) for member in self.members]

    @abstractmethod
    def combine(self, answers: Sequence[NDArray[np.float64]], batch: RewardCall) -> NDArray[np.float64]:
        """The rewards `[B]` from the answers to `calls`, in their order; NaN where the objective does not apply."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Any:
        """The reward of each completion; None where it does not apply."""
        batch = _batch(prompts, completions, columns)
        asked = _asked(self.calls(batch))
        returned: list[Any] = [None] * len(asked)
        running: dict[int, Future[Any]] = {}
        failing = 0
        try:
            for i in sorted(range(len(asked)), key=lambda i: not is_async(asked[i][0])):
                failing = i
                member, _, arguments = asked[i]
                returned[i] = member(**arguments)
                if inspect.isawaitable(returned[i]):
                    running[i] = start_async(returned[i])
            for i, future in running.items():
                failing = i
                returned[i] = future.result()
        except Exception as error:
            raise _named(error, asked[failing][0], batch) from error.__cause__
        finally:
            for future in running.values():
                future.cancel()
        return self._rewards(asked, returned, batch)

    async def _call_async(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Any:
        batch = _batch(prompts, completions, columns)
        asked = _asked(self.calls(batch))
        returned = await asyncio.gather(*(_answer(member, arguments, part) for member, part, arguments in asked))
        return self._rewards(asked, returned, batch)

    def _rewards(self, asked: Sequence[_Asked], returned: Sequence[Any], batch: RewardCall) -> list[float | None]:
        answers = []
        failed = np.zeros(len(batch.completions), dtype=bool)
        for (member, part, _), answer in zip(asked, returned, strict=True):
            answer = list(answer) if isinstance(answer, Iterator) else answer
            rewards = rewards_array(reward_name(member), answer, part.completions)
            answers.append(rewards)
            if part is batch:  # NaN is a failure and not "does not apply": it stays NaN, for whoever counts them
                failed |= np.isnan(rewards) & [value is not None for value in answer]
        return [
            (math.nan if nan else None) if math.isnan(reward) else float(reward)
            for reward, nan in zip(self.combine(answers, batch), failed, strict=True)
        ]


_Asked = tuple[RewardFunction, RewardCall, dict[str, Any]]
C = TypeVar("C", bound=ComposedReward)


def compose(kind: type[C], members: Sequence[RewardFunction], *arguments: Any, **settings: Any) -> C:
    """``kind(members, ...)``, async where every member is."""
    if isinstance(members, (str, bytes)) or not isinstance(members, Sequence):
        raise ObjectiveError(f"Give a list of reward functions. Found {members!r}.")
    if members and all(is_async(member) for member in members):
        kind = _awaiting(kind)
    return kind(members, *arguments, **settings)


@functools.cache
def _awaiting(kind: type[C]) -> type[C]:
    """`kind` with an async ``__call__``: that a function is async must be seen without calling it."""

    async def __call__(self: C, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Any:
        return await self._call_async(prompts, completions, **columns)

    awaiting: type[C] = type(kind.__qualname__, (kind,), {"__call__": __call__, "__doc__": kind.__doc__})
    return awaiting


def _batch(prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]) -> RewardCall:
    given = dict(columns)
    trainer = {name: given.pop(name) for name in TRAINER_NAMES if name in given}
    ids = given.pop("completion_ids", None)
    return RewardCall(prompts, completions, given, ids, **trainer)


def _asked(calls: Sequence[tuple[RewardFunction, RewardCall]]) -> list[_Asked]:
    return [(member, part, part.arguments(reward_name(member), member)) for member, part in calls]


async def _answer(member: RewardFunction, arguments: Mapping[str, Any], batch: RewardCall) -> Any:
    try:
        return await member(**arguments)
    except Exception as error:
        raise _named(error, member, batch) from error.__cause__
    except (SystemExit, KeyboardInterrupt) as error:  # it would end the loop that all members share
        raise raised_error(reward_name(member), left_by(error), batch) from error


def _named(error: Exception, member: RewardFunction, batch: RewardCall) -> Exception:
    """The error to raise for one that a member raised: one that may pass stays what it is, to be tried again."""
    if isinstance(error, ObjectiveError) or not isinstance(error, HOPELESS):
        return error
    named = raised_error(reward_name(member), error, batch)
    named.__cause__ = error
    return named


def reward_name(reward: Any) -> str:
    """What a reward function is called: its ``__name__``, that of what a partial wraps, or its class's."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    return str(getattr(reward, "__name__", type(reward).__name__)) or "reward"


def remembers(reward: Any) -> bool:
    """Whether `reward`, or a member of it, learns from the batches that it judges."""
    if isinstance(reward, ComposedReward):
        return any(remembers(member) for member in reward.members)
    return isinstance(reward, StatefulReward)


def finite(value: Any, what: str) -> float:
    """`value` as a float.

    Raises:
        ConfigError: It is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{what} must be a finite number. Found {value!r}.")
    return float(value)
