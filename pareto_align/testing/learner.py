"""What every learner must do, as tests that a plug-in's author runs by subclassing.

Example:
    ```python
    from pareto_align.testing.learner import LearnerContract


    class TestMyLearner(LearnerContract):
        def make(self):
            return MyLearner()
    ```
    pytest then collects every check below for `MyLearner`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from pareto_align.data.prompts import PromptRow
from pareto_align.learning.learner import Context, Learner
from pareto_align.learning.rollouts import Rollouts
from pareto_align.objectives import ObjectiveSet, RewardScale
from pareto_align.policies.base import load_base
from pareto_align.policies.engine import Engine
from pareto_align.policies.optimizer import PopulationAdamW
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import SamplingParams
from pareto_align.testing.problems import get_problem

__all__ = ["LearnerContract"]

WEIGHTS = np.array([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])


class LearnerContract:
    """Subclass it, name the subclass `Test...`, implement `make`; pytest runs all checks.

    The learner works on three policies of a problem of six symbols, with two objectives.

    Attributes:
        sums: The update is the weighted sum of the objectives' gradients.
    """

    sums: bool = True

    def make(self) -> Learner:
        """A new learner."""
        raise NotImplementedError

    def prepare(self, learner: Learner, context: Context) -> Context:
        """The context that the learner is set up with; one that learns from something else puts it in here."""
        return context

    @contextmanager
    def ready(self, policies: slice = slice(0, 3)) -> Iterator[Learner]:
        """A learner set up on some of three random policies."""
        from peft import LoraConfig

        problem = get_problem("arc", V=6, hidden_size=16)
        base = load_base(problem.model(), tokenizer=problem.tokenizer(), use_chat_template=False, device="cpu")
        lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
        size = len(range(3)[policies])
        population = PolicyPopulation(base, size, lora=lora)
        try:
            rows = torch.randn(3, population.parameter_count, generator=torch.Generator().manual_seed(0))
            population.parameters.copy_(0.1 * rows[policies])
            objectives = ObjectiveSet(problem.objectives())
            scale = RewardScale.measure(np.zeros((2, objectives.M)), objectives)
            context = Context(
                Engine(population, layout="packed"),
                scale,
                list(objectives.axes),
                PopulationAdamW(population.parameters),
                objectives,
                [PromptRow(prompt, tuple(base.encode(prompt)), {}) for prompt in problem.prompts],
                prompts_per_step=2,
                group_size=6,
                params=SamplingParams(problem.T),
                seed=3,
            )
            learner = self.make()
            learner.setup(self.prepare(learner, context))
            yield learner
        finally:
            population.close()

    def test_a_step_collects_the_same_whenever_it_is_asked(self) -> None:
        """A run that was killed collects it again."""
        with self.ready() as learner:
            first = learner.collect(4)
            learner.collect(5)
            again = learner.collect(4)
            if first.rewards is not None and again.rewards is not None:
                assert np.array_equal(first.rewards, again.rewards, equal_nan=True)
            assert first.token_count == again.token_count
            assert np.array_equal(first.lengths(), again.lengths())

    def test_what_it_collects_can_be_judged_elsewhere(self) -> None:
        """In a shard it is handed no objectives; the answers are the same, and so are their rewards."""
        with self.ready() as learner:
            seen, objectives = learner.collect(2), learner.context.objectives
            if not isinstance(seen, Rollouts) or objectives is None:
                return
            learner.context = replace(learner.context, objectives=None)
            again = learner.collect(2)
            assert isinstance(again, Rollouts)
            answers = again.answers()
            assert answers.rewards is None
            answers.judge(objectives)
            assert answers.rewards is not None
            assert np.array_equal(answers.rewards, seen.rewards, equal_nan=True)

    def test_what_was_seen_has_the_shapes_of_the_letters(self) -> None:
        """`[K, M]` values, `[K]` lengths, `[K, m, P]` gradients."""
        with self.ready() as learner:
            seen = learner.collect(0)
            gradients = learner.gradients(seen)
            assert seen.values().shape == (3, len(learner.context.scale.scale))
            assert seen.lengths().shape == (3,)
            assert seen.count > 0
            assert seen.token_count > 0
            assert gradients.gradients.shape == (3, 2, learner.population.parameter_count)
            assert torch.isfinite(gradients.gradients).all()

    def test_an_update_is_what_the_policy_would_get_alone(self) -> None:
        """Up to rounding, and with the completions it has in company."""
        with self.ready() as learner:
            seen = learner.collect(0)
            learner.step(seen, WEIGHTS, 0.0)
            together = learner.population.grad.clone()
        # the seeds of what a slot samples are its own, so slot 0 alone is the only one that collects the same
        with self.ready(slice(0, 1)) as learner:
            learner.step(learner.collect(0), WEIGHTS[:1], 0.0)
            alone = learner.population.grad[0]
            error = (alone - together[0]).norm() / together[0].norm().clamp(min=1e-12)
            assert error < 1e-4

    def test_the_weighted_sum_of_its_gradients_is_its_update(self) -> None:
        """Where `exact` says so; one pass does then for weighting and step."""
        with self.ready() as learner:
            seen = learner.collect(0)
            gradients = learner.gradients(seen)
            assert gradients.exact or not self.sums
            if gradients.exact:
                learner.step(seen, WEIGHTS, 0.0)
                plain = learner.population.grad.clone()
                combined = -gradients.combine(torch.from_numpy(WEIGHTS))
                assert (combined - plain).norm() / plain.norm() < 1e-4

    def test_no_weight_is_no_step(self) -> None:
        """A row of zeros leaves its policy where it is; the others move."""
        with self.ready() as learner:
            before = learner.population.parameters.clone()
            weights = WEIGHTS.copy()
            weights[1] = 0.0
            learner.step(learner.collect(0), weights, 1e-2)
            moved = (learner.population.parameters != before).any(1)
            assert moved.tolist() == [True, False, True]

    def test_a_step_reports_one_number_a_policy(self) -> None:
        """And says that sound policies are sound."""
        with self.ready() as learner:
            report = learner.step(learner.collect(0), WEIGHTS, 1e-2)
            for found in (report.grad_norm, report.kl, report.entropy, report.spread, report.sound):
                assert found.shape == (3,)
            assert np.isfinite(report.grad_norm).all()
            assert report.sound.all()
            assert all(len(more) == 3 for more in report.more.values())

    def test_a_policy_that_is_not_stepped_has_not_moved(self) -> None:
        """Where it is known how far: the others have gone further than rounding does.

        Not for a learner with a price of KL, which is a step without any weight.
        """
        with self.ready() as learner:
            seen = learner.collect(0)
            weights = WEIGHTS.copy()
            weights[1] = 0.0
            learner.step(seen, weights, 1e-1)
            moved = learner.moved(seen)
            assert moved is None or (moved.shape == (3,) and moved[1] < 1e-6 < min(moved[0], moved[2]))

    def test_a_run_that_goes_on_makes_the_same_step(self) -> None:
        """From the state alone, in a learner that has done something else meanwhile."""
        with self.ready() as learner:
            learner.step(learner.collect(0), WEIGHTS, 1e-2)
            state = {name: value.clone() for name, value in learner.state_dict().items()}
            parameters = learner.population.parameters.clone()
            learner.step(learner.collect(1), WEIGHTS, 1e-2)
            expected = learner.population.parameters.clone()
        with self.ready() as learner:
            learner.step(learner.collect(7), WEIGHTS, 1e-2)
            learner.population.parameters.copy_(parameters)
            learner.load_state_dict(state)
            learner.step(learner.collect(1), WEIGHTS, 1e-2)
            assert torch.equal(learner.population.parameters, expected)

    def test_a_slot_that_changes_hands_is_forgotten(self) -> None:
        """It makes the step of a fresh learner; the others make theirs."""
        with self.ready() as learner:
            start = learner.population.parameters.clone()
            learner.step(learner.collect(0), WEIGHTS, 1e-2)
            learner.population.parameters.copy_(start)
            learner.reset(1)
            learner.step(learner.collect(0), WEIGHTS, 1e-2)
            again = learner.population.parameters.clone()
        with self.ready() as learner:
            learner.step(learner.collect(0), WEIGHTS, 1e-2)
            assert torch.allclose(again[1], learner.population.parameters[1], rtol=0, atol=1e-6)

    def test_setup_forgets(self) -> None:
        """A learner that is used for another run begins as a new one."""
        with self.ready() as learner:
            start = learner.population.parameters.clone()
            learner.step(learner.collect(0), WEIGHTS, 1e-2)
            first = learner.population.parameters.clone()
            learner.population.parameters.copy_(start)
            optimizer = PopulationAdamW(learner.population.parameters)
            learner.setup(self.prepare(learner, _with_optimizer(learner.context, optimizer)))
            learner.step(learner.collect(0), WEIGHTS, 1e-2)
            assert torch.equal(learner.population.parameters, first)

    def test_what_it_was_built_with_can_be_told(self) -> None:
        """As JSON: a run that goes on must have the same."""
        json.dumps(self.make().facts())


def _with_optimizer(context: Context, optimizer: PopulationAdamW) -> Context:
    from dataclasses import replace

    return replace(context, optimizer=optimizer)
