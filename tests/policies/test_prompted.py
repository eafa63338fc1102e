"""Families that say the preference before the prompt: the words, the rewards to ask for, where they stand."""

from __future__ import annotations

import numpy as np
import pytest

from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.messages import INSTRUCTION_FILE, Instruction
from pareto_align.policies.families import Directions, Rewards, Weights, make_family, spoken
from pareto_align.testing.family import FamilyContract

USER = {"role": "user", "content": "Hi"}


class TestDirections(FamilyContract):
    def make(self):
        return Directions()


class TestWeights(FamilyContract):
    def make(self):
        return Weights()


class TestRewards(FamilyContract):
    def make(self):
        return Rewards(target="linear", low=-3, high=3)


def told(family, preference, names=("friendly", "short")):
    family.lora(None, list(names))
    return family.instruction(preference).text


@pytest.mark.parametrize(
    ("family", "preference", "text"),
    [
        # w / ||w|| times 100: (.8, .2) / .8246 = (.9701, .2425), an angle of 14 degrees
        (Directions(), [0.8, 0.2], "Your response should maximize weighted rating = friendly*97 + short*24"),
        (Directions(), [0.5, 0.5], "Your response should maximize weighted rating = friendly*71 + short*71"),
        (Weights(), [0.6, 0.4], "Priorities: friendly 60 %, short 40 %."),
        (Weights(), [1.0, 0.0], "Priorities: friendly 100 %, short 0 %."),
        (Rewards(low=[-1, -2], high=[2, 3]), [0.25, 0.75], "<friendly> 0.5 <short> 3.0"),
        (Rewards(low=-1, high=1), [0.5, 0.5], "<friendly> 1.0 <short> 1.0"),
        (Rewards(target="linear", low=-0.04, high=1), [0.0, 1.0], "<friendly> 0.0 <short> 1.0"),
    ],
)
def test_the_words(family, preference, text):
    assert told(family, preference) == text


@pytest.mark.parametrize(("target", "expected"), [("linf", (0.5, 3.0)), ("l2", (-0.1, 2.7)), ("linear", (-0.2, 1.8))])
def test_the_rewards_to_ask_for(target, expected):
    """lo = (-1, -2), hi = (2, 3), w = (.25, .75). linf: min(2 * .25, 1) 3 - 1 = .5, and the heaviest at 3.

    l2: w / ||w|| = (.3162, .9487), so -.051 and 2.743. linear: -.25 and 1.75, of which a half goes to the even digit.
    """
    found = Rewards(target=target, low=[-1, -2], high=[2, 3]).targets(np.array([0.25, 0.75]))
    np.testing.assert_allclose(found, expected)


def test_a_preference_with_more_digits_is_said_as_a_row_holds_it():
    """.145 in float64 is below itself, and in float32 above: 14 or 15 percent, but one of them everywhere."""
    for weight in np.random.default_rng(0).integers(0, 1000, 200) / 1000 + 0.005:
        exact = [weight, 1 - weight]
        assert told(Weights(), exact) == told(Weights(), np.float32(exact))


def test_what_is_minimised_is_called_low():
    assert [spoken("length", True), spoken("length", False)] == ["length", "low length"]


def test_where_it_stands():
    system, user = Instruction("Be brief."), Instruction("Be brief.", "user")
    assert system.before("Hi", templated=False) == "Be brief.\nHi"
    assert system.before("Hi", templated=True) == [{"role": "system", "content": "Be brief."}, USER]
    assert user.before("Hi", templated=True) == [{"role": "user", "content": "Be brief.\n\nHi"}]
    given = [{"role": "system", "content": "You cook."}, USER]
    assert system.before(given, templated=True) == [{"role": "system", "content": "Be brief.\n\nYou cook."}, USER]
    assert user.before(given, templated=True)[1]["content"] == "Be brief.\n\nHi"
    assert given == [{"role": "system", "content": "You cook."}, USER], "what was given is not changed"


def test_beside_an_adapter(tmp_path):
    assert Instruction.read(tmp_path) is None
    made = Instruction("höflich <b> 60 %", "user")
    made.write(tmp_path)
    assert Instruction.read(tmp_path) == made
    for damaged in ("{", "[]", '{"text": 1, "place": "user"}', '{"text": "a", "place": "behind"}'):
        (tmp_path / INSTRUCTION_FILE).write_text(damaged)
        with pytest.raises(FrontFileError, match="cannot be read"):
            Instruction.read(tmp_path)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ({"name": "weights", "place": "behind"}, "`place` must be one of system, user"),
        ({"name": "weights", "shared": 2}, "no setting 'shared'"),
        ({"name": "rewards", "target": "l1"}, "`target` must be one of linf, l2, linear"),
        ({"name": "rewards", "low": 1.0, "high": 0.0}, "`low` below `high`"),
        ({"name": "rewards", "low": "deep"}, "must be numbers"),
        ({"name": "rewards", "high": float("nan")}, "must be numbers"),
    ],
)
def test_settings_that_are_none(family, words):
    with pytest.raises(ConfigError, match=words.replace("`", ".")):
        make_family(family)


def test_one_reward_an_objective():
    with pytest.raises(ConfigError, match="one for each of the 3 objectives"):
        Rewards(low=[-1, -1]).lora(None, ["a", "b", "c"])
