"""Objectives ranked by importance: completions compared level by level, and a reward from who wins.

References:
    Bukharin et al. (2023), Deep Reinforcement Learning from Hierarchical Preference Design (arXiv 2309.02632): HERON,
        whose comparison of two trajectories by factors in order of importance this is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.objectives.calling import RewardCall, RewardFunction
from pareto_align.objectives.composed import ComposedReward, compose, finite, remembers, reward_name
from pareto_align.objectives.text import column_values

__all__ = ["lexicographic"]

UNITS = ("reward", "std")


class Lexicographic(ComposedReward):
    """Ranked rewards turned into one; made by `lexicographic`."""

    def __init__(
        self,
        members: Sequence[RewardFunction],
        name: str,
        margins: NDArray[np.float64],
        signs: NDArray[np.float64],
        unit: str,
        reference: str | None,
    ) -> None:
        super().__init__(members, name)
        self._margins = margins
        self._signs = signs
        self._unit = unit
        self._reference = reference
        self._warned = False

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns it reads itself."""
        return () if self._reference is None else (self._reference,)

    def calls(self, batch: RewardCall) -> list[tuple[RewardFunction, RewardCall]]:
        """Every member on the batch, then, where there are reference answers, every member on those."""
        calls = super().calls(batch)
        if self._reference is not None:
            answers, _ = self._answers(batch)
            if answers.completions:
                calls += [(member, answers) for member in self.members]
        return calls

    def combine(self, answers: Sequence[NDArray[np.float64]], batch: RewardCall) -> NDArray[np.float64]:
        """The share of comparisons won, a tie being worth half."""
        levels = len(self.members)
        scores = np.stack(answers[:levels], axis=1) * self._signs  # [B, levels]
        margins = self._margins
        if self._unit == "std":
            margins = margins * [_std(column) for column in scores.T]
        if self._reference is None:
            self._warn_when_measured()
            return self._among_themselves(scores, margins, batch.prompts)
        _, opponents = self._answers(batch)
        found = answers[levels:]
        theirs = np.stack(found, axis=1) * self._signs if found else np.empty((0, levels))
        rewards = np.full(len(scores), np.nan)
        for row, numbers in enumerate(opponents):
            rewards[row] = share_won(scores[row : row + 1], theirs[numbers], margins)[0]
        return rewards

    def _among_themselves(
        self, scores: NDArray[np.float64], margins: NDArray[np.float64], prompts: Sequence[Any]
    ) -> NDArray[np.float64]:
        groups: dict[str, list[int]] = {}
        for row, prompt in enumerate(prompts):
            groups.setdefault(prompt if isinstance(prompt, str) else repr(prompt), []).append(row)
        rewards = np.full(len(scores), np.nan)
        for rows in groups.values():
            rewards[rows] = share_won(scores[rows], scores[rows], margins, themselves=True)
        return rewards

    def _answers(self, batch: RewardCall) -> tuple[RewardCall, list[list[int]]]:
        """The reference answers as a batch of their own, and for each of the B rows the numbers of its answers.

        The samples of a prompt share their dataset row, so each row's answers are judged once.
        """
        assert self._reference is not None
        column = column_values(self.name, self._reference, batch.columns)
        rows: list[int] = []
        completions: list[Any] = []
        known: dict[tuple[int, ...], list[int]] = {}
        opponents: list[list[int]] = []
        for row, completion in enumerate(batch.completions):
            key = (id(batch.prompts[row]), *(id(values[row]) for values in batch.columns.values()))
            if key not in known:
                texts = _texts(column[row])
                known[key] = list(range(len(rows), len(rows) + len(texts)))
                rows += [row] * len(texts)
                as_text = isinstance(completion, str)
                completions += [t if as_text else [{"role": "assistant", "content": t}] for t in texts]
            opponents.append(known[key])
        columns = {name: [values[row] for row in rows] for name, values in batch.columns.items()}
        return RewardCall([batch.prompts[row] for row in rows], completions, columns), opponents

    def _warn_when_measured(self) -> None:
        if self.learning or self._warned:
            return
        self._warned = True
        warnings.warn(
            f"{self.name} compares the completions of a prompt with each other, so its mean is 0.5 for a policy "
            "measured alone, however good, and depends on the others measured with it. As an objective of a front, "
            "give it reference=..., a column of answers to compare with.",
            ParetoAlignWarning,
            stacklevel=2,
        )


def lexicographic(
    rewards: Sequence[RewardFunction],
    *,
    margins: float | Sequence[float] = 0.0,
    unit: str = "reward",
    maximize: bool | Sequence[bool] = True,
    reference: str | None = None,
    name: str | None = None,
) -> ComposedReward:
    """Ranked rewards as one: a completion earns the share of comparisons that it wins, in [0, 1].

    Two completions are compared by the most important reward; where they differ by no more than its margin, by the
    next, and so on. One that wins earns 1, one that loses 0, and both 0.5 where no level tells them apart. What is
    returned is the mean over all opponents. Margins make the comparison intransitive (a may beat b, b beat c and c
    beat a), and the share won stays defined; the wider a margin, the more the lower levels decide.

    Opponents are the other completions of the same prompt in the batch, by default: equal `prompts` are one group, of
    whichever policy. That is a training signal. It is no measurement, since the mean over a group is always 0.5; for
    an objective of a front name a column of `reference` answers, with which every policy is compared alike.

    HERON trains a reward model on such comparisons and drops ties. Here the comparisons are the reward, which needs
    no model, and a tie is worth half, so that all completions of a group have the same number of comparisons.

    Args:
        rewards: L reward functions, the most important first.
        margins: For each level the difference that must be exceeded to decide, at least 0; one number serves all.
        unit: "reward" for margins in the units of each reward, "std" for multiples of its standard deviation over
            the batch (HERON takes 1 of its data set's).
        maximize: For each level, whether more is better; one value serves all.
        reference: A column with an answer, or a list of answers, a row. Rows without one get None.
        name: What to call it; by default made of the names of the rewards.

    Returns:
        A reward function. A level on which a completion has no reward decides none of its comparisons; it gets None
        where it has no reward on any level, or no opponent.

    Raises:
        ConfigError: No rewards, a margin or a direction too many or too few, a negative margin, or an unknown unit;
            `reference` together with a reward that remembers earlier batches, which would learn from the answers.
        ObjectiveError: One of the rewards is no reward function.
    """
    if not isinstance(rewards, Sequence) or not rewards:
        raise ConfigError(
            f"lexicographic needs a list of reward functions, the most important first. Found {rewards!r}."
        )
    if unit not in UNITS:
        raise ConfigError(f"unit must be one of {', '.join(UNITS)}. Found {unit!r}.")
    wide = np.array([finite(margin, "A margin") for margin in _each(margins, len(rewards), "margins")])
    if (wide < 0).any():
        raise ConfigError(f"A margin must be at least 0. Found {wide.min():g}.")
    signs = np.array([1.0 if up else -1.0 for up in _each(maximize, len(rewards), "maximize")])
    learning = [reward_name(reward) for reward in rewards if remembers(reward)]
    if reference is not None and learning:
        raise ConfigError(
            f"{learning[0]} remembers the batches that it judges and would learn from the reference answers as well; "
            "leave it out, or compare without reference."
        )
    name = name or " > ".join(map(reward_name, rewards))
    return compose(Lexicographic, rewards, name, wide, signs, unit, reference)


def share_won(
    scores: NDArray[np.float64],
    opponents: NDArray[np.float64],
    margins: NDArray[np.float64],
    *,
    themselves: bool = False,
) -> NDArray[np.float64]:
    """The share of its comparisons that each completion wins, a tie being worth half.

    Args:
        scores: `[n, L]` completions on L levels, the most important first, maximized; NaN decides nothing.
        opponents: `[k, L]` those they are compared with.
        margins: `[L]` differences that must be exceeded to decide.
        themselves: Whether the opponents are the completions themselves, none of which is its own opponent.

    Returns:
        `[n]` in [0, 1]; NaN for a completion without a score on any level, or without an opponent that has one.
    """
    outcome = np.zeros((len(scores), len(opponents)))
    for level in reversed(range(scores.shape[1])):  # the most important one has the last word
        difference = scores[:, None, level] - opponents[None, :, level]
        outcome = np.where(np.abs(difference) > margins[level], np.sign(difference), outcome)
    judged, comparable = ~np.isnan(scores).all(axis=1), ~np.isnan(opponents).all(axis=1)
    counted = np.outer(judged, comparable)
    if themselves:
        np.fill_diagonal(counted, False)
    number = counted.sum(axis=1)
    won = np.where(counted, (outcome + 1) / 2, 0.0).sum(axis=1)
    return np.where(number > 0, won / np.maximum(number, 1), np.nan)


def _each(value: Any, count: int, what: str) -> list[Any]:
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * count
    if len(values) != count:
        raise ConfigError(f"{what} must be one value or {count}, one a reward. Found {len(values)}.")
    return values


def _std(column: NDArray[np.float64]) -> float:
    measured = column[~np.isnan(column)]
    return float(measured.std()) if len(measured) else 0.0


def _texts(answers: Any) -> list[str]:
    """The reference answers of one row; none where the table has a gap."""
    if answers is None or (isinstance(answers, float) and np.isnan(answers)):
        return []
    return [answers] if isinstance(answers, str) else [str(answer) for answer in answers]
