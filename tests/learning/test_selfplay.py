"""Preferences among a policy's own answers lead where the KL-regularised optimum is."""

from __future__ import annotations

import numpy as np
import pytest
from aligner_runs import PROBLEM, make

from pareto_align.errors import ConfigError
from pareto_align.learning import make_learner
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
    import torch

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


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="compares pairs of answers"):
        make_learner({"name": "online-dpo", "loss_type": "modpo"})
    with pytest.raises(ConfigError, match="needs group_size >= 2"):
        make(learner="online-dpo", group_size=1)._plan()
    with pytest.raises(ConfigError, match="'modo' needs cross_gramians"):
        make(learner="online-dpo", weighting="modo")._plan()
    assert PROBLEM.m == 2
