"""The contracts of credits and learners hold for ours, and for a stranger's in a file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from aligner_runs import PROBLEM, events, make

from pareto_align.learning import (
    OnlineLearner,
    PolicyLoss,
    StepReport,
    available_credits,
    available_learners,
    make_credit,
    make_learner,
    register_credit,
    register_learner,
)
from pareto_align.learning.credit import Credit, credits
from pareto_align.learning.learner import Learner, learners
from pareto_align.learning.rollouts import batch_of, roll_out
from pareto_align.policies.gradients import ObjectiveGradients
from pareto_align.seeds import seed_for
from pareto_align.testing.credit import CreditContract
from pareto_align.testing.learner import LearnerContract


def contract(base, name, **members):
    made = type(f"Test{name.title().replace('_', '').replace('-', '')}", (base,), members)
    made.__module__ = __name__
    return made


for _name in [name for name in available_credits() if type(make_credit(name)).__module__.startswith("pareto_align.")]:
    _made = contract(
        CreditContract,
        _name,
        make=lambda self, name=_name: make_credit(name),
        two_sided=_name not in ("best", "pama"),
        relative=_name not in ("disco", "drpo"),
    )
    globals()[f"TestCredit{_name}"] = _made


class TestCentredLearner(LearnerContract):
    def make(self):
        return make_learner("centred")


class TestGrpoLearner(LearnerContract):
    sums = False

    def make(self):
        return make_learner("grpo")


class TestCharged(LearnerContract):
    """With a KL charge no weight is still a step, back towards the reference."""

    test_no_weight_is_no_step = test_a_policy_that_is_not_stepped_has_not_moved = None

    def make(self):
        return make_learner("rloo", PolicyLoss(kl_coef=0.1))


class TestClipped(LearnerContract):
    test_the_weighted_sum_of_its_gradients_is_its_update = None  # of the first of two updates

    def make(self):
        return OnlineLearner(make_credit("centred"), updates=2)


# ---- a stranger's ----------------------------------------------------------------------------------------------------


@pytest.fixture
def strangers():
    """A credit and a learner as a user would write them; taken out of the registries afterwards."""

    @register_credit("signs")
    class Signs(Credit):
        """Only whether a completion is above or below its peers' mean counts."""

        def _vector(self, rewards):
            return (rewards - rewards.nanmean(2, keepdim=True)).sign()

    @register_learner("imitate-the-best")
    class ImitateTheBest(Learner):
        """Best of n, then likelihood: the best completion of each prompt and objective is made more probable."""

        def __init__(self, *, strength: float = 1.0) -> None:
            self.strength = float(strength)

        def collect(self, step):
            context = self.context
            numbers = range(context.first, context.first + self.population.size)
            seeds = [seed_for(context.seed, "rollout", step, k) for k in numbers]
            rows = batch_of(context.prompts, context.prompts_per_step, step, context.seed)
            return roll_out(self.engine, context.objectives, rows, context.group_size, context.params, seeds)

        def coefficients(self, seen):
            rewards = torch.from_numpy(seen.rewards[..., self.axes])
            best = rewards == rewards.amax(2, keepdim=True)
            return self.strength * (best / best.sum(2, keepdim=True)).float()

        def gradients(self, seen, *, halves=False):
            batch = self.engine.prepare(seen.prompt_ids, seen.completions)
            weights = seen.completions.mask / seen.completions.mask[0].numel()
            found, logprobs = self.engine.ascend(batch, self.coefficients(seen), weights)
            return ObjectiveGradients(found[0], None, None, logprobs, batch, True)

        def step(self, seen, weights, learning_rate, *, applies_to="advantage", gradients=None):
            found = self.gradients(seen) if gradients is None else gradients
            self.population.grad.copy_(-found.combine(torch.from_numpy(weights)))
            norms = self.optimizer.step(self.population.grad, learning_rate).numpy()
            nothing = np.full(len(norms), np.nan)
            return StepReport(norms, nothing, nothing, np.ones(len(norms)), np.ones(len(norms), dtype=bool))

    yield Signs, ImitateTheBest
    del credits._classes["signs"], learners._classes["imitate-the-best"]


def run_contract(base, made):
    """All checks of a contract for one class, as pytest would collect them."""
    checks = contract(base, "Stranger", make=lambda self: made())
    for name in (name for name in dir(base) if name.startswith("test_")):
        getattr(checks(), name)()


def test_a_strangers_credit_and_learner_pass_the_contracts_at_once(strangers):
    signs, imitate = strangers
    contract_of_signs = contract(CreditContract, "Signs", make=lambda self: signs(), two_sided=False)
    for name in (name for name in dir(CreditContract) if name.startswith("test_")):
        getattr(contract_of_signs(), name)()
    run_contract(LearnerContract, imitate)
    assert {"signs", "imitate-the-best"} <= set(available_learners())


@pytest.mark.parametrize("weighting", ["chebyshev", "mgda"])
@pytest.mark.parametrize("learner", ["signs", {"name": "imitate-the-best", "strength": 2.0}])
def test_a_strangers_parts_fit_a_front(strangers, tmp_path, learner, weighting):
    front = make(output_dir=tmp_path / "run", learner=learner, weighting=weighting).fit(list(PROBLEM.prompts))
    assert len(front) >= 1
    steps = events(tmp_path / "run", "step")
    assert len(steps) == 4
    assert np.isfinite([step["grad_norm"] for step in steps]).all()


def test_learning_knows_no_layers():
    """Learners say coefficients; what turns them into gradients is the engine's."""
    root = Path(__file__).parents[2] / "pareto_align" / "learning"
    told = {path.name: path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    assert told
    for name, text in told.items():
        assert "policies.layers" not in text, f"{name} imports the model's layers"
