"""Preferences among a policy's own answers lead where the KL-regularised optimum is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aligner_runs import make
from tiny_models import random_population, tiny_base

from pareto_align.data.prompts import PromptRow
from pareto_align.errors import ConfigError
from pareto_align.learning import Context, make_learner
from pareto_align.objectives import Objective, ObjectiveSet, RewardScale
from pareto_align.policies import SamplingParams
from pareto_align.policies.engine import Engine
from pareto_align.policies.optimizer import PopulationAdamW
from pareto_align.testing.judging import judged_fit
from pareto_align.testing.learner import LearnerContract
from pareto_align.testing.problems import get_problem


class TestOnlineDpo(LearnerContract):
    def make(self):
        return make_learner("online-dpo")


class TestSppo(LearnerContract):
    def make(self):
        return make_learner({"name": "online-dpo", "loss_type": "sppo", "beta": 0.1})


class TestExtremes(LearnerContract):
    def make(self):
        return make_learner({"name": "online-dpo", "pairs": "extremes", "labels": "soft", "loss_type": "ipo"})


def test_labels_are_of_each_policys_own_answers_and_each_objectives_own():
    learner = make_learner("online-dpo")
    rewards = np.array([[[1.0, 0.0], [0.0, 0.0], [np.nan, 2.0]]])
    view = learner._view(rewards, torch.ones(1, 3, dtype=torch.long), torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))
    assert view.pairs.tolist() == [[0, 0, 1], [0, 0, 2], [0, 1, 2]]
    np.testing.assert_array_equal(view.labels.numpy(), [[1.0, 0.5], [np.nan, 0.0], [np.nan, 0.0]])


@pytest.mark.parametrize("learner", ["online-dpo", {"name": "online-dpo", "loss_type": "copg", "beta": 0.1}])
def test_it_finds_the_corners_and_something_between(tmp_path, learner):
    """On `arc`, where good answers for both lie between."""
    problem = get_problem("arc", V=6, hidden_size=16)
    fit = judged_fit(
        problem, tmp_path / "run", learner=learner, weighting="fixed", explorer="grid", population=3, steps=40,
        group_size=16, learning_rate=1e-2, eval_every=20,
    )  # fmt: skip
    values, best = fit.values, problem.rewards.max(axis=(0, 1))
    assert values[0, 0] > 0.8 * best[0]
    assert values[2, 1] > 0.8 * best[1]
    assert values[1].min() > values[[0, 2]].min(axis=1).max()  # for both, neither corner is as good


def test_a_reward_that_one_prompt_does_not_have_leaves_something_to_learn_from():
    population = random_population(tiny_base(), 2)
    learner = make_learner("online-dpo")
    scale = RewardScale(np.zeros(2), np.ones(2), -np.ones(2), np.ones(2))
    missing = Objective(
        "b",
        lambda completions, prompts, **_: [
            None if p == "<1>a" else 1.0 * len(c) for p, c in zip(prompts, completions, strict=True)
        ],
        bounds=(0, 9),
    )
    objectives = ObjectiveSet(
        [Objective("a", lambda completions, **_: [1.0 * c.count("a") for c in completions], bounds=(0, 9)), missing]
    )
    prompts = [PromptRow(p, tuple(population.base.encode(p)), {}) for p in ("<1>a", "<2>b")]
    learner.setup(
        Context(
            Engine(population), scale, [0, 1], PopulationAdamW(population.parameters), objectives=objectives,
            prompts=prompts, prompts_per_step=2, group_size=6, params=SamplingParams(6),
        )
    )  # fmt: skip
    seen = learner.collect(0)
    assert np.isnan(seen.rewards).any()
    told = learner.step(seen, np.full((2, 2), 0.5), 1e-3)
    assert (told.spread > 0).all()


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="compares pairs of answers"):
        make_learner({"name": "online-dpo", "loss_type": "modpo"})
    with pytest.raises(ConfigError, match="needs group_size >= 2"):
        make(learner="online-dpo", group_size=1)._plan()
    with pytest.raises(ConfigError, match="'modo' needs cross_gramians"):
        make(learner="online-dpo", weighting="modo")._plan()
