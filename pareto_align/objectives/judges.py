"""Rewards from judges that compare two answers: how often an answer wins.

References:
    Swamy et al., "A Minimaximalist Approach to Reinforcement Learning from Human Feedback", arXiv 2401.04056: SPO, in
        which the reward of a sample is its mean win rate against the other samples of the policy.
    Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv 2306.05685: judges favour the answer
        that they read first, so both orders are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives.calling import RewardCall, RewardFunction
from pareto_align.objectives.composed import ComposedReward, compose, remembers, reward_name
from pareto_align.objectives.text import column_values, completion_text

__all__ = ["DRAWN", "win_rate"]

DRAWN = "drawn_opponents"
"""The column in which a learner hands over the opponents that it drew, an answer each."""

Games = NDArray[
    np.intp
]  # [games, 2] numbers of the answers that meet; those of the batch first, then reference answers


class WinRate(ComposedReward):
    """How often an answer wins; made by `win_rate`."""

    def __init__(
        self,
        members: Sequence[RewardFunction],
        name: str,
        reference: str,
        against: str,
        opponents: int | None,
        both_orders: bool,
    ) -> None:
        super().__init__(members, name)
        self._reference = reference
        self.against = against
        self._opponents = opponents
        self._both_orders = both_orders

    gives = ("opponents",)

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns it reads itself."""
        return (self._reference,)

    def calls(self, batch: RewardCall) -> list[tuple[RewardFunction, RewardCall]]:
        """The judge on all games that are not tied from the start, each in both orders."""
        if "opponents" in batch.columns:
            raise ObjectiveError(f"{self.name}: the prompts' column 'opponents' would hide the judge's; rename it.")
        answers, games, _ = self._games(batch)
        if not len(games):
            return []
        if self._both_orders:
            games = np.concatenate([games, games[:, ::-1]])
        rows = games.min(axis=1)  # of two answers at least one is of the batch, and both have its prompt
        columns = {name: [values[row] for row in rows] for name, values in batch.columns.items() if name != DRAWN}
        first, second = ([answers[number] for number in side] for side in games.T)
        prompts = [batch.prompts[row] for row in rows]
        return [(self.members[0], RewardCall(prompts, first, {**columns, "opponents": second}))]

    def combine(self, answers: Sequence[NDArray[np.float64]], batch: RewardCall) -> NDArray[np.float64]:
        """The mean over an answer's games."""
        everything, games, ties = self._games(batch)
        won = np.empty(0)
        if len(games):
            won = answers[0]
            wrong = won[~np.isnan(won) & ((won < 0) | (won > 1))]
            if len(wrong):
                raise ObjectiveError(
                    f"{self.name}: a judge says how likely the completion is the better one, from 0 to 1. Found "
                    f"{wrong[0]:g}."
                )
            if self._both_orders:
                won = (won[: len(games)] + 1 - won[len(games) :]) / 2
        games, won = np.concatenate([games, ties]), np.concatenate([won, np.full(len(ties), 0.5)])
        total, count = np.zeros(len(everything)), np.zeros(len(everything))
        for side, share in ((games[:, 0], won), (games[:, 1], 1 - won)):
            judged = ~np.isnan(share)
            np.add.at(total, side[judged], share[judged])
            np.add.at(count, side[judged], 1)
        size = len(batch.completions)
        rates: NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), np.nan)[:size]
        if self._meets_peers:  # of two peers each has met the other, which counts their difference twice
            for run in _runs(batch.prompts):
                rates[run.start : run.stop] = 0.5 + (rates[run.start : run.stop] - 0.5) * (len(run) - 1) / len(run)
        return rates

    @property
    def _meets_peers(self) -> bool:
        return self.learning and self.against == "peers"

    def _games(self, batch: RewardCall) -> tuple[list[Any], Games, Games]:
        """Everybody's answers, the batch's first and then a reference answer a row; who plays whom, and who is tied.

        Two that say the same are tied from the start.
        """
        theirs = column_values(self.name, self._reference, batch.columns)
        if self.learning and self.against == "drawn":
            if DRAWN not in batch.columns:
                raise ObjectiveError(
                    f"{self.name}: against='drawn' meets opponents that learner='nash-md' draws, and no other does."
                )
            theirs = batch.columns[DRAWN]
        texts = [completion_text(completion) for completion in batch.completions]
        texts += ["" if answer is None else completion_text(answer) for answer in theirs]
        size = len(batch.completions)
        if self._meets_peers:
            games = [game for run in _runs(batch.prompts) for game in _round(run, self._opponents)]
        else:
            games = [(row, size + row) for row, answer in enumerate(theirs) if answer is not None]
        references = [
            text if isinstance(completion, str) else [{"role": "assistant", "content": text}]
            for text, completion in zip(texts[size:], batch.completions, strict=True)
        ]
        alike = np.array([texts[a] == texts[b] for a, b in games], dtype=bool)
        pairs = np.array(games, dtype=np.intp).reshape(-1, 2)
        return [*batch.completions, *references], pairs[~alike], pairs[alike]


def _runs(prompts: Sequence[Any]) -> list[range]:
    """Rows that stand one after another for the same prompt."""
    edges = [row for row in range(1, len(prompts)) if prompts[row] != prompts[row - 1]]
    return [range(start, stop) for start, stop in zip([0, *edges], [*edges, len(prompts)], strict=True)]


def _round(rows: range, opponents: int | None) -> list[tuple[int, int]]:
    """Games in which everybody meets as many others, at most `opponents`: those who stand nearest in a circle."""
    size = len(rows)
    reach = size // 2 if opponents is None else min(opponents // 2, size // 2)
    pairs = {
        tuple(sorted((rows[place], rows[(place + distance) % size])))
        for distance in range(1, reach + 1)
        for place in range(size)
    }
    return sorted((a, b) for a, b in pairs if a != b)


def win_rate(
    judge: RewardFunction,
    *,
    reference: str,
    against: Literal["peers", "reference", "drawn"] = "peers",
    opponents: int | None = None,
    both_orders: bool = True,
    name: str | None = None,
) -> ComposedReward:
    """How often an answer wins, by a judge that compares two, in [0, 1].

    While a policy is measured its answers meet the `reference` answers, so that all policies are compared alike. In
    training they meet each other: those that stand side by side for one prompt, which are a policy's own where a step
    has two prompts or more, and all policies' where it has one. A learner of games (`egpo`, `inpo`, `sppo`) then looks
    for answers that no other beats, also where preferences go in circles, which no reward of single answers can say;
    with a policy gradient it is SPO.

    Among G peers a win rate is drawn towards 1/2 by (G - 1) / G, as if each had also met itself: two peers have met
    each other, so the plain difference of their win rates would be too large by that much.

    The judge is called like a reward function, sync or async, once a batch, with one more argument: `opponents`, an
    answer for each completion. It says how likely the completion is the better one. Two answers that are the same are
    tied without asking.

    Args:
        judge: `judge(prompts, completions, opponents, **columns)` -> B probabilities; None where it cannot tell.
        reference: A column with an answer a row, text or chat messages. A row with None is not measured.
        against: Whom training answers meet: their "peers", the same "reference" as when measured, or opponents "drawn"
            by the learner `nash-md`.
        opponents: How many peers each answer meets at most, an even number; by default all of them.
        both_orders: Ask twice, with the answers changing places, and take the mean. Off for a judge that says
            P(a, b) = 1 - P(b, a) by itself.
        name: What to call it; by default `<judge>_wins`.

    Returns:
        A reward function; give its objective `bounds=(0, 1)`.

    Raises:
        ConfigError: `reference` is no name, `against` is unknown, `opponents` is no even number of at least 2, or the
            judge remembers earlier batches.
        ObjectiveError: The judge is no function that can be called so; when it is called, it says something outside
            0 to 1.
    """
    if not isinstance(reference, str) or not reference:
        raise ConfigError(f"win_rate needs the name of a column with reference answers. Found {reference!r}.")
    if against not in ("peers", "reference", "drawn"):
        raise ConfigError(f"against must be 'peers', 'reference' or 'drawn'. Found {against!r}.")
    if opponents is not None and not (type(opponents) is int and opponents >= 2 and opponents % 2 == 0):
        raise ConfigError(
            "opponents must be an even number of at least 2: an answer meets as many before it as behind it. Found "
            f"{opponents!r}."
        )
    if remembers(judge):
        raise ConfigError(f"{reward_name(judge)} remembers earlier batches, and a judge must not.")
    name = name or f"{reward_name(judge)}_wins"
    return compose(WinRate, [judge], name, reference, against, opponents, bool(both_orders))
