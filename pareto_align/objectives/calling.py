"""How a reward function is called: TRL's convention, sync and async, and what its answer must look like.

The convention is that of ``trl.GRPOTrainer``: keyword arguments ``prompts``, ``completions``, ``completion_ids``,
every further dataset column by name (a list with one entry a row), and the trainer's own ``trainer_state``,
``log_extra`` and ``log_metric``. We differ in one way only: a function without ``**kwargs`` is given just the
parameters it names, where TRL would fail. So a function that runs in TRL runs here, unchanged.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ObjectiveError
from pareto_align.printable import kind_of

__all__ = [
    "RewardCall",
    "StatefulReward",
    "all_nan_error",
    "checked_rewards",
    "is_async",
    "lacks_column",
    "raised_error",
    "reads_rollouts",
    "rewards_array",
]

RewardFunction = Callable[..., Any]

#: Names that hold the rollouts themselves. A dataset column of one of these names would hide them.
ROLLOUT_NAMES = ("prompts", "completions", "completion_ids")
#: What TRL's trainer hands to every reward function beside the rollouts and the dataset columns.
TRAINER_NAMES = ("trainer_state", "log_extra", "log_metric")
#: Columns TRL holds back, because the rollouts replace them.
REPLACED_COLUMNS = ("prompt", "completion", "completion_ids")


def is_async(reward: RewardFunction) -> bool:
    """Whether calling `reward` gives a coroutine: an async function, a partial of one, or an async ``__call__``."""
    reward = _unwrapped(reward)
    call = getattr(reward, "__call__", None)  # noqa: B004 - the bound method is what says whether it is async
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(call)


def _unwrapped(reward: Any) -> Any:
    """`reward`, or what a partial wraps."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    return reward


def _parameters(reward: RewardFunction) -> tuple[tuple[inspect.Parameter, ...], bool] | None:
    """The parameters of `reward` and whether it takes ``**kwargs``; None where Python cannot tell (some builtins)."""
    try:
        parameters = tuple(inspect.signature(reward).parameters.values())
    except (TypeError, ValueError):
        return None
    return parameters, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def reads_rollouts(reward: RewardFunction) -> bool:
    """Whether `reward` takes any of the prompts, completions or token ids, so that it can judge an answer at all."""
    found = _parameters(reward)
    if found is None:
        return True
    parameters, takes_all = found
    return takes_all or any(p.name in ROLLOUT_NAMES for p in parameters)


class StatefulReward(ABC):
    """Base of reward functions that remember earlier batches, such as one that compares with a running mean.

    Measuring must not move what is remembered, every fit must begin with nothing remembered, and a resumed run must
    remember the same; so the memory is only changed while `learning` is true, is cleared by `reset` at the beginning
    of a fit, and is part of a checkpoint.
    """

    learning: bool = True

    @abstractmethod
    def reset(self) -> None:
        """Forget everything: a new fit begins."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain numbers, strings and lists."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` took down."""


class RewardCall:
    """One batch as reward functions see it: the arguments of a call, chosen for each function.

    Args:
        prompts: B prompts, strings or lists of chat messages.
        completions: B completions, strings or lists of chat messages.
        columns: Further dataset columns, each a sequence of B entries.
        completion_ids: B lists of token ids, or None where nothing was tokenized.
        trainer_state: What TRL calls ``trainer_state``; passed on as it is.
        log_extra: ``log_extra(column, values)`` as in TRL; without one, what is logged is dropped.
        log_metric: ``log_metric(name, value)`` as in TRL; without one, what is logged is dropped.

    Raises:
        ObjectiveError: The lists differ in length, or a column has the name of something that is always passed.
    """

    def __init__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: Mapping[str, Sequence[Any]] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        trainer_state: Any = None,
        log_extra: Callable[..., Any] | None = None,
        log_metric: Callable[..., Any] | None = None,
    ) -> None:
        self.prompts = list(prompts)
        self.completions = list(completions)
        self.completion_ids = None if completion_ids is None else list(completion_ids)
        self.columns = {name: list(v) for name, v in (columns or {}).items() if name not in REPLACED_COLUMNS}
        self._trainer: dict[str, Any] = {
            "trainer_state": trainer_state,
            "log_extra": log_extra or _drop,
            "log_metric": log_metric or _drop,
        }
        count = len(self.completions)
        if len(self.prompts) != count:
            raise ObjectiveError(
                f"There are {len(self.prompts)} prompts but {count} completions; give each completion its prompt."
            )
        if self.completion_ids is not None and len(self.completion_ids) != count:
            raise ObjectiveError(
                f"There are {len(self.completion_ids)} lists of completion ids but {count} completions."
            )
        for name, values in self.columns.items():
            if name in (*ROLLOUT_NAMES, *TRAINER_NAMES):
                raise ObjectiveError(
                    f"The dataset column {name!r} has the name of an argument every reward function is given; "
                    "rename the column."
                )
            if len(values) != count:
                raise ObjectiveError(f"Column {name!r} has {len(values)} entries for {count} completions.")

    def arguments(self, name: str, reward: RewardFunction) -> dict[str, Any]:
        """The keyword arguments for `reward`, the function of the objective called `name`.

        They are its own at every call, messages and columns with all that is in them: whatever it edits, no other
        function, no further attempt and no later batch sees it. Only what is neither text, a number, a list nor a
        mapping, such as an image, is the same object for all. A reward that hands the batch on to others is given the
        batch as it is: what it hands it to is given its own.

        Raises:
            ObjectiveError: The function requires something that this batch does not have.
        """
        own = list if getattr(_unwrapped(reward), "hands_on", False) is True else _own_list
        wanted = self.wanted(name, reward)
        return {key: given if key in TRAINER_NAMES else own(given) for key, given in wanted.items()}

    def wanted(self, name: str, reward: RewardFunction) -> dict[str, Any]:
        """What `arguments` hands to `reward`, as the batch holds it.

        Raises:
            ObjectiveError: The function requires something that this batch does not have.
        """
        given: dict[str, Any] = {"prompts": self.prompts, "completions": self.completions}
        if self.completion_ids is not None:
            given["completion_ids"] = self.completion_ids
        given |= self.columns | self._trainer

        found = _parameters(reward)
        if found is None:
            return given
        parameters, takes_all = found
        for parameter in parameters:
            variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if variable or parameter.default is not parameter.empty:
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise ObjectiveError(
                    f"Objective {name!r}: the reward function takes {parameter.name!r} by position only, but "
                    "reward functions are called with keyword arguments; drop the '/' from its signature."
                )
            if parameter.name not in given:
                raise ObjectiveError(self._missing(name, parameter.name))
        if takes_all:
            return given
        by_keyword = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        return {key: value for key, value in given.items() if key in by_keyword}

    def check_columns(self, name: str, reward: RewardFunction) -> None:
        """Whether the columns are there that `reward` requires, as far as it says so: by its parameters, in `reads`, a
        tuple of names, or by what its members say, to whom it `gives` columns of its own.

        Raises:
            ObjectiveError: One is not.
        """
        self.wanted(name, reward)
        reward = _unwrapped(reward)
        reads, members = getattr(reward, "reads", ()), getattr(reward, "members", ())
        for column in reads if isinstance(reads, tuple) else ():
            if column not in self.columns:
                raise ObjectiveError(self._missing(name, column))
        gives = getattr(reward, "gives", ())
        own = {column: [None] * len(self.completions) for column in gives if isinstance(gives, tuple)}
        within = RewardCall(self.prompts, self.completions, self.columns | own, self.completion_ids)
        for member in members if isinstance(members, tuple) else ():
            if callable(member):
                within.check_columns(name, member)

    @property
    def columns_told(self) -> str:
        """Which columns there are, for an error."""
        return f"they have: {', '.join(map(repr, self.columns)) or 'no further columns'}"

    def _missing(self, name: str, argument: str) -> str:
        if argument == "completion_ids":
            return f"Objective {name!r} needs completion_ids, but the completions came without token ids."
        return (
            f"Objective {name!r} needs the column {argument!r}, which the prompts do not have ({self.columns_told}). "
            "A reward function is given prompts, completions, completion_ids and the dataset's columns, by name."
        )


def _own_list(values: list[Any]) -> list[Any]:
    try:
        return [_own(value) for value in values]
    except RecursionError:  # a list that holds itself, say, is no data
        return list(values)


def _own(value: Any) -> Any:
    """`value` with lists, mappings and sets of its own, however deep; what else is in it stays the same objects."""
    kind = type(value)
    if kind is str or kind is int or kind is float or value is None:
        return value
    if kind is list:
        return [_own(item) for item in value]
    if kind is dict:
        return {key: _own(item) for key, item in value.items()}
    if kind is tuple:
        return tuple([_own(item) for item in value])
    if isinstance(value, dict):  # an OrderedDict, say
        own = copy.copy(value)
        own.update((key, _own(item)) for key, item in value.items())
        return own
    if isinstance(value, list):
        items = copy.copy(value)
        items[:] = [_own(item) for item in value]
        return items
    return copy.copy(value) if isinstance(value, set | bytearray) else value


def _drop(*_args: Any, **_kwargs: Any) -> None:
    """Stand-in for TRL's ``log_extra`` and ``log_metric`` where nobody asked for them."""


def rewards_array(name: str, returned: Any, completions: Sequence[Any]) -> NDArray[np.float64]:
    """The array [B] of `checked_rewards`."""
    return checked_rewards(name, returned, completions)[0]


def checked_rewards(
    name: str, returned: Any, completions: Sequence[Any], *, refuse: bool = True
) -> tuple[NDArray[np.float64], int]:
    """Check what a reward function returned and bring it to an array [B]; None becomes NaN.

    A NaN among numbers is a reward that could not be computed: it is kept out like None, and counted.

    Args:
        name: The objective's name, for the error.
        returned: What the function returned: a list, tuple, array or tensor of B numbers or None.
        completions: The B completions it was given.
        refuse: Whether nothing but NaN is an error; not where they are part of what is judged.

    Returns:
        The rewards, and how many of them were NaN when they came.

    Raises:
        ObjectiveError: Not a list of B numbers or None, an infinite number, or nothing but NaN.
    """
    count = len(completions)
    if isinstance(returned, (str, bytes, Mapping)) or not isinstance(returned, Iterable):
        hint, shown = "", "" if returned is None else f" ({_excerpt(returned)})"
        if callable(returned):
            hint = " The function given seems to make reward functions: call it once when defining the objective."
        raise ObjectiveError(
            f"Objective {name!r} returned {kind_of(returned)}{shown}; expected a list of {count} numbers, one a "
            f"completion.{hint}"
        )
    if getattr(returned, "ndim", 1) == 0:  # a 0-d array or tensor calls itself iterable and is not
        raise ObjectiveError(f"Objective {name!r} returned a single number; expected a list of {count} numbers.")
    values = list(returned)
    if len(values) != count:
        raise ObjectiveError(f"Objective {name!r} returned {len(values)} rewards for {count} completions.")

    rewards = np.full(count, np.nan)
    not_numbers = 0
    for row, value in enumerate(values):
        if value is None:
            continue
        number = _number(value)
        if number is None:
            raise ObjectiveError(
                f"Objective {name!r} returned {_excerpt(value)} ({kind_of(value)}) for completion {row} of "
                f"{count}; a reward is a number, or None where the objective does not apply."
            )
        if math.isnan(number):
            not_numbers += 1
            continue
        if math.isinf(number):
            raise ObjectiveError(
                f"Objective {name!r} returned {number} for completion {row} of {count}, "
                f"{_excerpt(completions[row])}; return a finite number, or None where the objective does not apply."
            )
        rewards[row] = number
    if refuse and not_numbers == count:
        raise all_nan_error(name, completions)
    return rewards, not_numbers


def all_nan_error(name: str, completions: Sequence[Any]) -> ObjectiveError:
    """The error to raise where every one of B completions got NaN."""
    return ObjectiveError(
        f"Objective {name!r} returned NaN for all {len(completions)} completions, such as "
        f"{_excerpt(completions[0])}; return a finite number, or None where the objective does not apply."
    )


def _number(value: Any) -> float | None:
    """`value` as a float, or None if it is not one number. Text that reads like a number is still text."""
    if isinstance(value, (str, bytes)) or getattr(value, "ndim", 0) != 0:
        return None
    if hasattr(value, "detach"):  # a tensor still in an autograd graph warns when it is turned into a number
        value = value.detach()
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf


def _excerpt(value: Any, length: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def raised_error(name: str, error: BaseException, batch: RewardCall, times: int = 1) -> ObjectiveError:
    """The error to raise from one that a reward function raised, the last of so many in a row."""
    if isinstance(error, ObjectiveError):
        return ObjectiveError(f"Objective {name!r}: {error}")
    hint = ""
    if isinstance(error, TypeError) and "string indices" in str(error) and isinstance(batch.completions[0], str):
        hint = (
            " The function seems to expect chat messages, and these completions are plain text, because the prompts "
            "are; give the prompts as lists of messages."
        )
    if lacks_column(error, batch):
        hint = f" If that is a column: the prompts do not have it ({batch.columns_told})."
    again = f" ({times} times in a row)" if times > 1 else ""
    return ObjectiveError(f"Objective {name!r} raised {type(error).__name__}: {error}{again}.{hint}")


def lacks_column(error: BaseException, batch: RewardCall) -> bool:
    """Whether an error may come from a function that looked for a column, in its ``**kwargs``, that is not there."""
    if not isinstance(error, KeyError) or len(error.args) != 1 or not isinstance(error.args[0], str):
        return False
    return error.args[0] not in (*ROLLOUT_NAMES, *TRAINER_NAMES, *batch.columns)
