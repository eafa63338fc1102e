"""All objectives of a run: the scoring of completions under them, and what it has cost so far."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pareto_align.errors import ObjectiveError, ParetoAlignWarning
from pareto_align.objectives.attempts import Turns
from pareto_align.objectives.calling import RewardCall, StatefulReward, all_nan_error
from pareto_align.objectives.objective import Objective
from pareto_align.objectives.sending import parts_of, usage_of
from pareto_align.objectives.verdicts import Elsewhere, Verdict, verdicts

__all__ = ["ObjectiveSet"]


class ObjectiveSet(Sequence[Objective]):
    """All objectives of a run, in the user's order, and the scoring of completions under them.

    Args:
        objectives: M objectives, at least one of role "optimize", no two of one name.

    Attributes:
        reward_calls: Completions judged so far, counted once an objective.
        reward_seconds: Wall-clock seconds in which answers were judged so far.
        hidden_seconds: Those of them in which other work went on.
        nan_counts: By objective, the rewards so far that were NaN and were left out like None.
        retry_counts: By objective, how often its function raised and was called again so far.
        elsewhere: Other processes that are asked for what some objectives say; None: none are.

    Raises:
        ObjectiveError: No objectives, something that is no `Objective`, a name twice, one that a column of the front's
            table has, or none to optimize.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        if isinstance(objectives, Objective):
            raise ObjectiveError("Give a list of objectives, also for a single one.")
        self._objectives = tuple(objectives)
        for position, objective in enumerate(self._objectives):
            if not isinstance(objective, Objective):
                raise ObjectiveError(
                    f"Objective {position} is {objective!r}; wrap it as Objective(name, reward_function)."
                )
        names = [objective.name for objective in self._objectives]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ObjectiveError(f"Two objectives are called {twice[0]!r}; names must differ.")
        columns = [*names, *(f"{name}_stderr" for name in names), *(f"preference_{names[i]}" for i in self.axes)]
        if taken := sorted({column for column in columns if columns.count(column) > 1}):
            raise ObjectiveError(
                f"Two columns of the front's table would be called {taken[0]!r}: beside each objective stand its "
                "standard error, `NAME_stderr`, and the preference for it, `preference_NAME`. Rename an objective."
            )
        if not self.axes:
            raise ObjectiveError("At least one objective must have role 'optimize'; otherwise nothing is trained.")
        self.elsewhere: Elsewhere | None = None
        self.reset_counts()
        self._warned_bounds: set[str] = set()
        self._warned_left: set[str] = set()
        self._answered: set[str] = set()

    def __len__(self) -> int:
        return len(self._objectives)

    @overload
    def __getitem__(self, index: int) -> Objective: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Objective, ...]: ...

    def __getitem__(self, index: int | slice) -> Objective | tuple[Objective, ...]:
        return self._objectives[index]

    def __iter__(self) -> Iterator[Objective]:
        return iter(self._objectives)

    def __repr__(self) -> str:
        return f"ObjectiveSet({list(self._objectives)!r})"

    @property
    def names(self) -> tuple[str, ...]:
        """The M names, in the user's order."""
        return tuple(objective.name for objective in self._objectives)

    @property
    def axes(self) -> tuple[int, ...]:
        """The m columns that are optimized, among all M."""
        return tuple(i for i, objective in enumerate(self._objectives) if objective.role == "optimize")

    @property
    def M(self) -> int:
        """The number of all objectives."""
        return len(self._objectives)

    @property
    def m(self) -> int:
        """The number of optimized objectives."""
        return len(self.axes)

    @property
    def maximize(self) -> NDArray[np.bool_]:
        """[M], whether more is better in the user's units."""
        return np.array([objective.maximize for objective in self._objectives], dtype=bool)

    @property
    def constraints(self) -> tuple[tuple[int, float], ...]:
        """(column, what it must at least reach) of each constrained objective, maximized units."""
        pairs = ((i, objective.maximized_threshold) for i, objective in enumerate(self._objectives))
        return tuple((i, threshold) for i, threshold in pairs if threshold is not None)

    @property
    def admitted(self) -> tuple[tuple[int, float], ...]:
        """(column, least mean with which a policy may enter the front) of each constrained objective: `constraints`
        less their tolerances, maximized units."""
        return tuple((i, threshold - self._objectives[i].tolerance) for i, threshold in self.constraints)

    def to_user(self, values: ArrayLike) -> NDArray[np.float64]:
        """Flip the minimized columns of maximized values [..., M], giving the user's units. Its own inverse.

        Standard errors have no sign and stay as they are.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 0 or array.shape[-1] != self.M:
            raise ObjectiveError(f"Values must have {self.M} columns, one an objective. Found shape {array.shape}.")
        return np.where(self.maximize, array, -array) + 0.0  # + 0.0 turns -0.0 into 0.0

    def check_columns(self, columns: Iterable[str]) -> None:
        """Whether prompts with these columns have what the rewards say they read. Nothing is judged for it.

        Raises:
            ObjectiveError: A reward needs a column that is not among them.
        """
        batch = RewardCall([""], [""], {name: [None] for name in columns}, [[]])
        for objective in self:
            if objective.reward is not None:
                batch.check_columns(objective.name, objective.reward)

    def reset(self) -> None:
        """Begin a new run: counts from 0, and rewards with a memory that remember nothing."""
        self.reset_counts()
        self._answered.clear()
        for memory in self._memories().values():
            memory.reset()

    def reset_counts(self) -> None:
        """Start counting anew; what rewards remember stays."""
        self.reward_calls = 0
        self.reward_seconds = self.hidden_seconds = 0.0
        self.nan_counts: dict[str, int] = dict.fromkeys(self.names, 0)
        self.retry_counts: dict[str, int] = dict.fromkeys(self.names, 0)
        self._judged_before = {name: -count for name, count in self._judged().items()}

    def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: Mapping[str, Sequence[Any]] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        training: bool = True,
        trainer_state: Any = None,
        log_extra: Callable[..., Any] | None = None,
        log_metric: Callable[..., Any] | None = None,
    ) -> NDArray[np.float64]:
        """Score B completions under all objectives.

        Async rewards run concurrently with each other and with the sync ones, which run one after the other in the
        calling thread (some, such as math_verify's, need the main thread), unless they have a time limit. Works inside
        a running event loop too.

        Args:
            prompts: B prompts, strings or lists of chat messages.
            completions: B completions, strings or lists of chat messages.
            columns: Further dataset columns by name, B entries each.
            completion_ids: B lists of token ids.
            training: False when measuring: rewards with a memory (`conciseness`) then judge but do not learn.
            trainer_state: Passed on to the reward functions under TRL's name.
            log_extra: Passed on likewise.
            log_metric: Passed on likewise.

        Returns:
            Rewards [B, M], maximized; NaN where an objective returned None or NaN.

        Raises:
            ObjectiveError: A reward function kept raising, did not answer in time, or returned anything but B numbers
                or None: the wrong count, an infinite number, NaN for every completion.

        Warns:
            ParetoAlignWarning: For the first time, an objective returned NaN for a completion, or a reward outside its
                bounds, or left torch's state changed, which is put back.
        """
        batch = RewardCall(
            prompts,
            completions,
            columns,
            completion_ids,
            trainer_state=trainer_state,
            log_extra=log_extra,
            log_metric=log_metric,
        )
        if not batch.completions:
            return np.empty((0, self.M))
        started = time.perf_counter()
        memories = self._memories().values()
        learning = [memory.learning for memory in memories]
        try:
            for memory, was in zip(memories, learning, strict=True):
                memory.learning = was and training
            found = self.judge(batch)
        finally:
            for memory, was in zip(memories, learning, strict=True):
                memory.learning = was
            self.reward_seconds += time.perf_counter() - started
        return self.take(found, batch.completions)

    def judge(
        self, batch: RewardCall, columns: Sequence[int] | None = None, turns: Turns | None = None
    ) -> dict[int, Verdict]:
        """What some objectives say to a batch, before it counts: `take` takes it down. May be called in a thread.

        Args:
            batch: What is judged.
            columns: The objectives; by default all.
            turns: Shared by the threads that judge.

        Raises:
            ObjectiveError: As `score`, but for NaN.
        """
        asked = range(self.M) if columns is None else columns
        away = frozenset[int]() if self.elsewhere is None else self.elsewhere.columns.intersection(asked)
        here = [column for column in asked if column not in away]
        begun: list[Future[dict[int, Verdict]]] = []
        try:
            if self.elsewhere is not None and away:  # first: they judge while others do here
                begun = self.elsewhere.begin(batch, sorted(away), self._answered)
                if turns is not None:
                    for future in begun:
                        turns.began(future)
            own = verdicts([self[column] for column in here], batch, self._answered, turns) if here else []
            found = dict(zip(here, own, strict=True))
            for future in begun:
                found |= future.result()
        finally:
            for future in begun:
                future.cancel()  # no effect on one that is there
        return {column: found[column] for column in asked}

    def take(self, found: Mapping[int, Verdict], completions: Sequence[Any]) -> NDArray[np.float64]:
        """Rewards [B, M], maximized, of what all objectives said to B completions; it counts from now on.

        Raises:
            ObjectiveError: One returned NaN for every completion.

        Warns:
            ParetoAlignWarning: As `score`.
        """
        for column, objective in enumerate(self):
            if found[column].not_numbers == len(completions):
                raise all_nan_error(objective.name, completions)
        rewards = np.stack([found[column].rewards for column in range(self.M)], axis=1)
        self.reward_calls += rewards.size
        for column, objective in enumerate(self):
            self._count_nan(objective.name, found[column].not_numbers, len(completions))
            self._warn_left(objective.name, found[column].left)
            self.retry_counts[objective.name] += found[column].failures
            self._answered.add(objective.name)
        self._warn_outside_bounds(rewards)
        return self.to_user(rewards)  # the flip is its own inverse

    def check(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: Mapping[str, Sequence[Any]] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> NDArray[np.float64]:
        """Score once before training, where a useless objective is still cheap to find; nothing is learned from it.

        Returns:
            Rewards [B, M] as `score` gives them.

        Raises:
            ObjectiveError: As `score`; also when an objective applies to none of the completions.

        Warns:
            ParetoAlignWarning: An optimized objective is the same for all completions.
        """
        rewards = self.score(prompts, completions, columns, completion_ids, training=False)
        if len(rewards) == 0:
            raise ObjectiveError("There are no completions to check the objectives on.")
        for objective, column in zip(self, rewards.T, strict=True):
            measured = column[~np.isnan(column)]
            if len(measured) == 0:
                raise ObjectiveError(
                    f"Objective {objective.name!r} returned None for all {len(column)} completions: it applies to "
                    "none of these prompts. Check the dataset columns it reads, or leave it out."
                )
            if objective.role == "optimize" and len(measured) > 1 and np.ptp(measured) == 0:
                value = measured[0] if objective.maximize else -measured[0]
                warnings.warn(
                    f"Objective {objective.name!r} is {value:g} for all {len(measured)} completions; while it does "
                    "not vary it cannot be traded against the others.",
                    ParetoAlignWarning,
                    stacklevel=2,
                )
        return rewards

    def counts(self) -> dict[str, Any]:
        """What was asked of the rewards so far, and what came of it; of judges behind a server also what they cost."""
        return {
            "reward_calls": self.reward_calls,
            "reward_seconds": self.reward_seconds,
            "hidden_seconds": self.hidden_seconds,
            "nan_rewards": dict(self.nan_counts),
            "repeated_calls": dict(self.retry_counts),
            **self.judged(),
        }

    def judged(self) -> dict[str, int]:
        """What judges behind a server have cost so far, as `judge_requests` and the like; nothing without one.

        A resumed run counts on from where the checkpoint was taken.
        """
        return {name: count + self._judged_before.get(name, 0) for name, count in self._judged().items()}

    def load_counts(self, counts: Mapping[str, Any]) -> None:
        """Go on counting from `counts()`; what else the mapping holds is passed over."""
        self.reward_calls, self.reward_seconds = int(counts["reward_calls"]), float(counts["reward_seconds"])
        # checkpoints of the first runs lack the others
        self.hidden_seconds = float(counts.get("hidden_seconds", 0.0))
        self.nan_counts |= {name: int(count) for name, count in counts.get("nan_rewards", {}).items()}
        self.retry_counts |= {name: int(count) for name, count in counts.get("repeated_calls", {}).items()}
        self._judged_before = {name: int(counts.get(name, 0)) - now for name, now in self._judged().items()}

    def _judged(self) -> dict[str, int]:
        """What all judges have cost in the life of this process, as `judge_requests` and the like; nothing without one.

        A judge says so by a `usage` of whole numbers, wherever it stands in what an objective is made of.
        """
        parts = (part for objective in self for part in parts_of(objective.reward))
        found = {id(usage): usage for part in parts if (usage := usage_of(part)) is not None}
        total: dict[str, int] = {}
        for usage in found.values():
            for name, count in vars(usage).items():
                total[f"judge_{name}"] = total.get(f"judge_{name}", 0) + int(count)
        return total

    def state_dict(self) -> dict[str, Any]:
        """What the rewards with a memory have learned, by objective name; plain numbers."""
        return {name: memory.state_dict() for name, memory in self._memories().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give the rewards with a memory back what `state_dict` took down.

        Raises:
            ObjectiveError: The state is of other objectives.
        """
        memories = self._memories()
        if set(state) != set(memories):
            raise ObjectiveError(
                f"The state is of the objectives {sorted(state)}, but those with a memory are {sorted(memories)}."
            )
        for name, memory in memories.items():
            memory.load_state_dict(state[name])

    def _memories(self) -> dict[str, StatefulReward]:
        rewards: dict[str, Any] = {objective.name: objective.reward for objective in self}
        return {name: reward for name, reward in rewards.items() if isinstance(reward, StatefulReward)}

    def _count_nan(self, name: str, found: int, count: int) -> None:
        """Take down NaN rewards, and warn at an objective's first."""
        if found and not self.nan_counts[name]:
            warnings.warn(
                f"Objective {name!r} returned NaN for {found} of {count} completions. They are left out, as if it had "
                "returned None, and counted; this is said once.",
                ParetoAlignWarning,
                stacklevel=4,
            )
        self.nan_counts[name] += found

    def _warn_left(self, name: str, left: Sequence[str]) -> None:
        """Warn, once an objective, of what it left changed in torch."""
        if left and name not in self._warned_left:
            self._warned_left.add(name)
            warnings.warn(
                f"Objective {name!r} left torch's state changed: {'; '.join(left)}. It was put back, and is so after "
                "every call; this is said once. Change it in a `with` block.",
                ParetoAlignWarning,
                stacklevel=4,
            )

    def _warn_outside_bounds(self, rewards: NDArray[np.float64]) -> None:
        """Warn, once an objective, of rewards [B, M] (user's units) outside its bounds; they are used as they are."""
        for objective, column in zip(self, rewards.T, strict=True):
            if objective.bounds is None or objective.name in self._warned_bounds:
                continue
            low, high = objective.bounds
            slack = 1e-6 * (high - low)  # rewards computed in float32 may miss a bound by rounding
            outside = column[(column < low - slack) | (column > high + slack)]  # comparisons with NaN are false
            if len(outside):
                self._warned_bounds.add(objective.name)
                warnings.warn(
                    f"Objective {objective.name!r} returned {outside[0]:g}, outside its bounds ({low:g}, {high:g}). "
                    "Rewards are not clipped; correct the bounds, which set this objective's scale.",
                    ParetoAlignWarning,
                    stacklevel=4,
                )
