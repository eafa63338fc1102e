"""What every engine must do, as tests that the author of another one runs by subclassing.

Example:
    ```python
    from pareto_align.testing.engine import EngineContract


    class TestMyEngine(EngineContract):
        def make(self, population):
            return MyEngine(population)
    ```
    pytest then collects every check below for `MyEngine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pareto_align.policies.base import load_base
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import Completions, SamplingParams
from pareto_align.testing.problems import get_problem

__all__ = ["EngineContract"]

PROMPTS, GROUP, LENGTH = 3, 4, 3
CLOSE = 1e-4
"""Relative error of a gradient in float32 that is summed in another order."""


class EngineContract:
    """Subclass it, name the subclass `Test...`, implement `make`; pytest runs all checks.

    The engine runs three policies of a problem of six symbols.
    """

    def make(self, population: PolicyPopulation) -> Any:
        """A new engine on this population."""
        raise NotImplementedError

    @contextmanager
    def ready(self, size: int = 3) -> Iterator[Any]:
        """An engine on the first `size` of three random policies."""
        from peft import LoraConfig

        problem = get_problem("strings", n_prompts=PROMPTS)
        base = load_base(problem.model(), tokenizer=problem.tokenizer(), use_chat_template=False, device="cpu")
        lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
        population = PolicyPopulation(base, size, lora=lora)
        try:
            rows = torch.randn(3, population.parameter_count, generator=torch.Generator().manual_seed(0))
            population.parameters.copy_(0.1 * rows[:size])
            engine = self.make(population)
            engine.prompts = [base.encode(prompt) for prompt in problem.prompts]
            yield engine
        finally:
            population.close()

    def drawn(self, engine: Any, seeds: list[int] | None = None) -> Completions:
        """What the policies say."""
        seeds = list(range(engine.population.size)) if seeds is None else seeds
        found: Completions = engine.sample(engine.prompts, GROUP, SamplingParams(LENGTH), seeds)
        return found

    def read(self, engine: Any, done: Completions) -> Any:
        """The same, ready to be read."""
        return engine.prepare(engine.prompts, done)

    def test_samples_have_the_shape_of_the_letters(self) -> None:
        """`[K, N, G, T]` tokens, with 0 where there is none."""
        with self.ready() as engine:
            done = self.drawn(engine)
            assert done.tokens.shape[:3] == (3, PROMPTS, GROUP)
            assert (done.logprobs[~done.mask] == 0).all()

    def test_a_policy_says_the_same_alone(self) -> None:
        """With its own seed, whoever else is sampled."""
        with self.ready() as engine:
            together = self.drawn(engine)
        with self.ready(1) as engine:
            assert torch.equal(self.drawn(engine).tokens[0], together.tokens[0])

    def test_log_probabilities_are_those_that_were_sampled(self) -> None:
        """Of the policies, and the reference's are those of policies that do nothing."""
        with self.ready() as engine:
            done = self.drawn(engine)
            batch = self.read(engine, done)
            assert torch.allclose(engine.logprobs(batch), done.logprobs, atol=1e-4)
            nothing = torch.zeros_like(engine.population.parameters)
            assert torch.allclose(engine.logprobs(batch, nothing), engine.reference_logprobs(batch), atol=1e-5)

    def test_gradients_add_up_over_completions(self) -> None:
        """A sum's gradient is that of each of its completions alone, added up."""
        with self.ready() as engine:
            batch = self.read(engine, done := self.drawn(engine))
            weights = done.mask.float()
            factors = torch.randn(3, PROMPTS, GROUP, 1, generator=torch.Generator().manual_seed(1))
            whole, _ = engine.ascend(batch, factors, weights)
            parts = 0.0
            for n in range(PROMPTS):
                for g in range(GROUP):
                    alone = torch.zeros_like(factors)
                    alone[:, n, g] = factors[:, n, g]
                    parts = parts + engine.ascend(batch, alone, weights)[0]
            assert _error(parts, whole) < CLOSE

    def test_several_sums_are_each_its_own(self) -> None:
        """Two sums from one pass are the two from a pass each."""
        with self.ready() as engine:
            batch = self.read(engine, done := self.drawn(engine))
            weights = done.mask.float()
            factors = torch.randn(3, PROMPTS, GROUP, 2, generator=torch.Generator().manual_seed(2))
            both, _ = engine.ascend(batch, factors, weights)
            for i in range(2):
                one, _ = engine.ascend(batch, factors[..., i : i + 1], weights)
                assert _error(both[0, :, i], one[0, :, 0]) < CLOSE

    def test_parts_of_a_batch_add_up_to_it(self) -> None:
        """Members split it; every part has its own gradients."""
        with self.ready() as engine:
            batch = self.read(engine, done := self.drawn(engine))
            weights, factors = done.mask.float(), torch.ones(3, PROMPTS, GROUP, 1)
            first = torch.zeros(PROMPTS, GROUP, dtype=torch.bool)
            first[::2] = True
            halves, _ = engine.ascend(batch, factors, weights, torch.stack([first, ~first]))
            whole, _ = engine.ascend(batch, factors, weights)
            assert _error(halves.sum(0), whole[0]) < CLOSE

    def test_policies_do_not_see_each_other(self) -> None:
        """Coefficients of one policy move that policy's gradient only."""
        with self.ready() as engine:
            batch = self.read(engine, done := self.drawn(engine))
            factors = torch.zeros(3, PROMPTS, GROUP, 1)
            factors[1] = 1.0
            found, _ = engine.ascend(batch, factors, done.mask.float())
            assert found[0, 1].any()
            assert not found[0, [0, 2]].any()

    def test_coefficients_that_depend_on_log_probabilities_are_asked_for_once(self) -> None:
        """`respond` with slopes that are known beforehand is `ascend` with them; they see summed log-probabilities."""
        with self.ready() as engine:
            batch = self.read(engine, done := self.drawn(engine))
            factors = torch.randn(3, PROMPTS, GROUP, 2, generator=torch.Generator().manual_seed(3))
            seen = torch.full((3, PROMPTS, GROUP), torch.nan)

            def slopes(part: Any, logps: Tensor) -> tuple[Tensor, Tensor]:
                seen[part.index] = logps
                return torch.ones(logps.shape), factors[part.index]

            found, logprobs = engine.respond(batch, 2, slopes, rank_one=False)
            expected, _ = engine.ascend(batch, factors, done.mask.float())
            assert _error(found, expected[0]) < CLOSE
            assert torch.allclose(seen, logprobs.sum(-1), atol=1e-5)

    def test_what_all_sums_share_and_what_each_has_of_its_own_are_multiplied(self) -> None:
        """The rank-one form: one copy of the prompt, whatever the number of sums."""
        with self.ready() as engine:
            batch = self.read(engine, done := self.drawn(engine))
            generator = torch.Generator().manual_seed(4)
            common = torch.randn(3, PROMPTS, GROUP, generator=generator)
            own = torch.randn(3, PROMPTS, 1, 3, generator=generator)
            found, _ = engine.respond(
                batch, 3, lambda part, logps: (common[part.index], own[part.policies][:, part.prompts]), rank_one=True
            )
            expected, _ = engine.ascend(batch, common[..., None] * own, done.mask.float())
            assert _error(found, expected[0]) < CLOSE

    def test_a_loss_descends_as_its_coefficients_ascend(self) -> None:
        """`descend` with a loss of slope -c leaves in the buffer what `ascend` returns, turned round."""
        with self.ready() as engine:
            batch = self.read(engine, done := self.drawn(engine))
            factors = torch.randn(3, PROMPTS, GROUP, generator=torch.Generator().manual_seed(5))
            each = factors[..., None].expand(done.mask.shape)

            def loss(factor: Tensor) -> Any:
                return lambda logprob, chunk: -factor[chunk] * logprob

            engine.descend(batch, loss, {"factor": each})
            expected, _ = engine.ascend(batch, factors[..., None], done.mask.float())
            assert _error(-engine.population.grad, expected[0, :, 0]) < CLOSE


def _error(found: Any, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))
