"""How often an answer wins, by judges that compare two."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import numpy as np
import pytest

from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives import Objective, ObjectiveSet, completion_text, conciseness, win_rate
from pareto_align.testing.objective import RewardContract

# rock, paper and scissors: no reward of single answers says who beats whom
BEATS = {"rock": "scissors", "paper": "rock", "scissors": "paper"}


def referee(prompts, completions, opponents, **_):
    """1 for who wins; 0.7 for the longer of two that are not in the game."""
    texts = [(completion_text(a), completion_text(b)) for a, b in zip(completions, opponents, strict=True)]
    return [
        1.0 if BEATS.get(a) == b else 0.0 if BEATS.get(b) == a else 0.7 if len(a) > len(b) else 0.3 for a, b in texts
    ]


def test_in_training_it_is_the_mean_over_the_others_of_the_group():
    reward = win_rate(referee, reference="gold")
    said = ["rock", "paper", "scissors", "rock", "rock", "paper"]
    prompts, gold = ["a"] * 3 + ["b"] * 3, ["paper"] * 6
    # among the three each wins one and loses one; then two rocks tie, and paper beats both: 1/4, 1/4, 1, drawn to 1/2
    assert reward(prompts, said, gold=gold) == pytest.approx([0.5, 0.5, 0.5, 1 / 3, 1 / 3, 5 / 6])


def test_a_policys_answers_are_not_compared_with_those_of_another():
    """Of two policies' answers to two prompts, those that stand side by side are one policy's."""
    reward = win_rate(referee, reference="gold")
    prompts = ["a", "a", "b", "b"] * 2
    said = ["rock", "paper", "x", "xx"] + ["rock", "scissors", "x", "x"]
    assert reward(prompts, said, gold=["paper"] * 8) == pytest.approx([0.25, 0.75, 0.4, 0.6, 0.75, 0.25, 0.5, 0.5])


def test_measured_it_is_against_the_reference_answers():
    reward = win_rate(referee, reference="gold")
    reward.learning = False
    said = ["rock", "paper", "scissors", "rock"]
    assert reward(["a"] * 4, said, gold=["paper", "paper", "paper", None]) == [0.0, 0.5, 1.0, None]
    trained = win_rate(referee, reference="gold", against="reference")
    assert trained(["a"] * 4, said, gold=["paper", "paper", "paper", None]) == [0.0, 0.5, 1.0, None]


def test_a_judge_that_favours_what_it_reads_first_is_asked_both_ways():
    def lazy(prompts, completions, opponents, **_):
        return [0.9 for _ in completions]

    asked = ["a"] * 2
    assert win_rate(lazy, reference="gold")(asked, ["x", "y"], gold=asked) == pytest.approx([0.5, 0.5])
    once = win_rate(lazy, reference="gold", both_orders=False)
    assert once(asked, ["x", "y"], gold=asked) == pytest.approx([0.7, 0.3])


def test_the_judge_is_called_once_with_columns_and_not_for_what_is_the_same():
    calls = []

    def judge(prompts, completions, opponents, topic):
        calls.append((prompts, completions, opponents, topic))
        return [None if t == "unknown" else 1.0 for t in topic]

    reward = win_rate(judge, reference="gold", both_orders=False)
    found = reward(["a", "a", "b", "b"], ["x", "x", "y", "z"], gold=["g"] * 4, topic=["t", "t", "unknown", "unknown"])
    assert found == [0.5, 0.5, None, None]
    assert calls == [(["b"], ["y"], ["z"], ["unknown"])]
    assert reward(["a", "a"], ["x", "x"], gold=["g"] * 2, topic=["t"] * 2) == [0.5, 0.5]
    assert len(calls) == 1  # there was nothing to ask


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("opponents", [None, 2, 4])
def test_everybody_meets_as_many(size, opponents):
    met = {str(number): set() for number in range(size)}

    def judge(completions, opponents, prompts):
        for a, b in zip(completions, opponents, strict=True):
            assert b not in met[a]
            met[a].add(b)
            met[b].add(a)
        return [0.5] * len(completions)

    reward = win_rate(judge, reference="gold", opponents=opponents, both_orders=False)
    reward(["p"] * size, list(met), gold=["g"] * size)
    expected = size - 1 if opponents is None else min(opponents, size - 1)
    assert {len(others) for others in met.values()} == {expected}


def test_an_async_judge_and_chat_messages():
    async def judge(prompts, completions, opponents, **_):
        await asyncio.sleep(0)
        return referee(prompts, completions, opponents)

    reward = win_rate(judge, reference="gold")
    said = [[{"role": "assistant", "content": text}] for text in ("rock", "paper")]
    objectives = ObjectiveSet([Objective("wins", reward, bounds=(0, 1))])
    prompts = [[{"role": "user", "content": "play"}]] * 2
    assert objectives.score(prompts, said, {"gold": ["scissors"] * 2}).ravel().tolist() == [0.25, 0.75]
    measured = objectives.score(prompts, said, {"gold": ["scissors"] * 2}, training=False)
    assert measured.ravel().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_difference_of_two_peers_is_right_on_average(size):
    """Over groups drawn from a policy, the sum of differences to the peers is that of the exact win rates."""
    rng, names, policy = np.random.default_rng(0), list(BEATS), np.array([0.5, 0.3, 0.2])
    game = np.array([[0.5 + 0.5 * (BEATS[a] == b) - 0.5 * (BEATS[b] == a) for b in names] for a in names])
    exact, reward = game @ policy, win_rate(referee, reference="gold")
    draws = rng.choice(3, (4000, size), p=policy)
    said = [names[i] for i in draws.ravel()]
    prompts = [str(i // size) for i in range(len(said))]
    found = np.array(reward(prompts, said, gold=["x"] * len(said))).reshape(draws.shape)
    slopes = (found[:, :1] - found[:, 1:]).sum(1)  # of the first answer against its peers
    expected = (exact[draws[:, :1]] - exact[draws[:, 1:]]).sum(1)
    for answer in range(3):
        of = draws[:, 0] == answer
        assert slopes[of].mean() == pytest.approx((size - 1) * (exact[answer] - 0.5), abs=0.06)
        assert expected[of].mean() == pytest.approx((size - 1) * (exact[answer] - 0.5), abs=0.06)


def test_a_reference_may_be_messages_and_nothing_else():
    reward = win_rate(referee, reference="gold")
    reward.learning = False
    assert reward(["a"], ["rock"], gold=[[{"role": "assistant", "content": "scissors"}]]) == [1.0]
    with pytest.raises(ObjectiveError):
        reward(["a"], ["rock"], gold=[3])


def test_what_it_cannot_be_made_of_is_refused():
    for settings in ({"reference": ""}, {"reference": 3}):
        with pytest.raises(ConfigError, match="name of a column"):
            win_rate(referee, **settings)
    with pytest.raises(ConfigError, match="'peers', 'reference' or 'drawn'"):
        win_rate(referee, reference="gold", against="all")
    for opponents in (0, 3, True, 2.0):
        with pytest.raises(ConfigError, match="even number of at least 2"):
            win_rate(referee, reference="gold", opponents=opponents)
    with pytest.raises(ConfigError, match="a judge must not"):
        win_rate(conciseness(), reference="gold")
    with pytest.raises(ObjectiveError, match="reads the column 'gold'"):
        win_rate(referee, reference="gold")(["a"], ["x"])
    with pytest.raises(ObjectiveError, match="column 'opponents' would hide"):
        win_rate(referee, reference="gold")(["a"], ["x"], gold=["g"], opponents=["y"])
    with pytest.raises(ObjectiveError, match=r"from 0 to 1. Found 7"):
        win_rate(lambda prompts, completions, opponents: [7.0] * len(prompts), reference="gold")(
            ["a"] * 2, ["x", "y"], gold=["g"] * 2
        )


class TestWinRateContract(RewardContract):
    columns: ClassVar = {"gold": ["an answer"] * len(RewardContract.answers)}
    alone = False

    def make(self):
        return win_rate(referee, reference="gold")
