"""Rewards made of other rewards in a config: described in the arguments, or named after an objective above."""

from __future__ import annotations

import sys
import textwrap

import pytest

from pareto_align.config import load_config
from pareto_align.errors import ConfigError

REWARDS = '''\
calls = {"right": 0}


def right(completions, **columns):
    calls["right"] += 1
    return [float("right" in text) for text in completions]


def length(completions, scale=1.0, **columns):
    return [scale * len(text) for text in completions]


class Noted:
    """A reward of the user's own with a mapping and a list as plain arguments."""

    def __init__(self, weights, names):
        self.weights, self.names = weights, names

    def __call__(self, completions, **columns):
        return [0.0 for _ in completions]
'''
RIGHT = "  - {name: right, reward: rewards_here:right}\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    (tmp_path / "rewards_here.py").write_text(REWARDS)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def load(objectives):
        text = "model: some/model\nprompts: [One, Two]\nobjectives:\n" + objectives
        (tmp_path / "run.yaml").write_text(text)
        return load_config(tmp_path / "run.yaml").aligner.objectives

    yield load
    sys.modules.pop("rewards_here", None)


def objective(text):
    return textwrap.indent(textwrap.dedent(text).strip(), "  ") + "\n"


def scores(objectives, completions=("right", "wrong!", "ri")):
    return objectives.score(["p"] * len(completions), list(completions)).T.tolist()


def test_an_argument_may_be_a_reward_with_arguments_of_its_own(load):
    found = load(
        objective("""
        - name: long if right
          reward: pareto_align.objectives:conditioned
          args:
            reward: {reward: "rewards_here:length", args: {scale: 2}}
            where: {reward: "rewards_here:right"}
            at_least: 1
        """)
    )
    assert scores(found) == [[10.0, 0.0, 0.0]]


def test_an_objective_above_serves_by_its_name_and_is_asked_once_for_all(load):
    found = load(
        RIGHT
        + objective("""
        - name: long if right
          reward: pareto_align.objectives:conditioned
          args: {reward: {reward: "rewards_here:length"}, where: {objective: right}, at_least: 1}
        - name: ranked
          reward: pareto_align.objectives:lexicographic
          args: {rewards: [{objective: right}, {reward: "rewards_here:length"}], maximize: [true, false]}
        - name: pessimist
          reward: pareto_align.objectives:ensemble
          args: {members: [{objective: right}, {objective: long if right}], rule: wco}
        """)
    )
    assert scores(found) == [[1, 0, 0], [5, 0, 0], [1.0, 0.0, 0.5], [1, 0, 0]]
    assert sys.modules["rewards_here"].calls["right"] == 1


def test_compositions_nest(load):
    inner = '{reward: "pareto_align.objectives:ensemble", args: {members: [{objective: right}, {objective: right}]}}'
    found = load(
        RIGHT
        + objective(f"""
        - name: nested
          reward: pareto_align.objectives:conditioned
          args: {{reward: {{reward: "rewards_here:length"}}, where: {inner}, at_most: 0.5}}
        """)
    )
    assert scores(found)[1] == [0.0, 6.0, 2.0]
    assert sys.modules["rewards_here"].calls["right"] == 1


def test_plain_mappings_and_lists_stay_what_they_are(load):
    found = load(
        objective("""
        - name: noted
          reward: rewards_here:Noted
          args: {weights: {reward: 1, objective: 2}, names: [a, {objective: 3}]}
        """)
    )
    assert (found[0].reward.weights, found[0].reward.names) == ({"reward": 1, "objective": 2}, ["a", {"objective": 3}])


def test_a_reward_model_is_described_and_not_loaded(load):
    found = load(
        objective("""
        - name: judged
          reward: pareto_align.objectives:reward_model
          args: {model: some/judge, label: good, form: pair, device: cpu}
        """)
    )
    reward = found[0].reward
    assert (reward.model, reward.label, reward.form, reward.device) == ("some/judge", "good", "pair", "cpu")
    assert not reward.trust_remote_code


CONDITIONED = "- {name: b, reward: 'pareto_align.objectives:conditioned', args: %s}"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("{reward: {objective: right}, where: {objective: wrong}, at_least: 1}", "above this one. Above it are: right"),
        (
            "{reward: {objective: b}, where: {objective: right}, at_least: 1}",
            "`objective: b` must name an objective above",
        ),
        ("{reward: {reward: 'rewards_here:lenght'}, where: {objective: right}, at_least: 1}", "Did you mean 'length'"),
        ("{reward: {objective: right}, where: {objective: right}}", "Objective 'b': .*conditioned.*one threshold"),
        ("{reward: {objective: right}, wher: {objective: right}}", "has no setting 'wher'. Did you mean 'where'"),
        ("{reward: right, where: {objective: right}, at_least: 1}", "must be a function"),
        (
            "{reward: {reward: 'rewards_here:Noted', args: {nmaes: 2}}, where: {objective: right}, at_least: 1}",
            "Did you mean 'names'",
        ),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(load, args, message):
    with pytest.raises(ConfigError, match=message):
        load(RIGHT + objective(CONDITIONED % args))


def test_the_first_objective_has_none_above_it(load):
    with pytest.raises(ConfigError, match="There is none above it"):
        load(objective(CONDITIONED % "{reward: {objective: a}, where: {objective: a}, at_least: 1}"))
