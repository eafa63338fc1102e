"""What every family must do, as tests that a plug-in's author runs by subclassing.

Example:
    ```python
    from pareto_align.testing.family import FamilyContract


    class TestMyFamily(FamilyContract):
        def make(self):
            return MyFamily()
    ```
    pytest then collects every check below for `MyFamily`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pareto_align.arguments import arguments_of
from pareto_align.errors import ConfigError
from pareto_align.front import preferences as simplex
from pareto_align.messages import Instruction
from pareto_align.policies.base import load_base
from pareto_align.policies.families import Family, families, write_policy
from pareto_align.policies.optimizer import FamilyOptimizer
from pareto_align.policies.population import PolicyPopulation
from pareto_align.testing.problems import get_problem

__all__ = ["FamilyContract"]

RANK, SLOTS = 3, 4
NAMES = ("tone", "brevity", "safety", "depth", "wit")


class FamilyContract:
    """Subclass it, name the subclass `Test...`, implement `make`; pytest runs all checks.

    Attributes:
        objectives: Numbers of objectives in the checks.
    """

    objectives: tuple[int, ...] = (2, 3)

    def make(self) -> Family:
        """A new family."""
        raise NotImplementedError

    @contextmanager
    def ready(self, m: int, seed: int = 0) -> Iterator[Family]:
        """A family set up on a tiny model, with every parameter moved off its beginning."""
        from peft import LoraConfig

        problem = get_problem("arc", V=6, hidden_size=16)
        family = self.make()
        lora = family.lora(LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"), NAMES[:m])
        base, notes = load_base(problem.model(), tokenizer=problem.tokenizer()), m if family.instructs else 0
        population = PolicyPopulation(base, SLOTS, lora=lora, notes=notes)
        try:
            family.setup(population, m, seed)
            generator = torch.Generator().manual_seed(seed + 1)
            family.parameters += 0.1 * torch.randn(family.parameters.shape, generator=generator)
            yield family
        finally:
            population.close()

    def test_it_begins_as_the_reference(self) -> None:
        """Before training every preference is served by the untrained model: B is zero in all rows."""
        for m in self.objectives:
            with self.ready(m) as family:
                family.setup(family.population, m, 0)
                rows = family.rows(_preferences(m))
                for block in family.population.blocks:
                    a, b = block.split(rows)
                    assert not b.any()
                    assert a.any()

    def test_the_same_seed_is_the_same_family(self) -> None:
        """Nothing but the seed decides where it begins."""
        for m in self.objectives:
            with self.ready(m) as one, self.ready(m) as other, self.ready(m, seed=5) as third:
                assert torch.equal(one.parameters, other.parameters)
                assert not torch.equal(one.parameters, third.parameters)

    def test_the_update_scales_as_that_of_the_config(self) -> None:
        """At whatever rank, alpha / r (rsLoRA: alpha / sqrt(r)) is what the user's config says."""
        from peft import LoraConfig

        for rslora in (False, True):
            given = LoraConfig(r=4, lora_alpha=6, use_rslora=rslora)
            made = self.make().lora(given, NAMES[:3])
            power = 0.5 if rslora else 1.0
            np.testing.assert_allclose(made.lora_alpha / made.r**power, 6 / 4**power, rtol=1e-6)
            assert given.r == 4, "the user's config is not changed"

    def test_a_preference_matters(self) -> None:
        """Other preferences are other policies, and the same one always the same. Told ones are told other things."""
        for m in self.objectives:
            with self.ready(m) as family:
                rows = family.rows(_preferences(m))
                if family.instructs:
                    told = family.population.instructions(rows)
                    assert len({instruction.text for instruction in told}) == len(rows)
                    assert told == [family.instruction(preference) for preference in _preferences(m)]
                assert torch.isfinite(rows).all()
                assert torch.equal(rows, family.rows(_preferences(m)))
                gaps = torch.cdist(rows, rows) + torch.eye(len(rows))
                assert (gaps > 1e-6).all()

    def test_a_row_does_not_depend_on_its_company(self) -> None:
        """The policy of a preference is the same alone and among others."""
        for m in self.objectives:
            with self.ready(m) as family:
                together = family.rows(_preferences(m))
                for k, preference in enumerate(_preferences(m)):
                    torch.testing.assert_close(family.rows(preference[None])[0], together[k], rtol=1e-6, atol=1e-7)

    def test_gradients_are_pulled_back(self) -> None:
        """`pull` is the gradient of the mean of the policies' losses: equal to differences of a random linear loss."""
        for m in self.objectives:
            with self.ready(m) as family:
                preferences = _preferences(m)
                generator = torch.Generator().manual_seed(3)
                slopes = torch.randn(len(preferences), family.population.parameter_count, generator=generator)
                found = family.pull(preferences, slopes).double()
                along = torch.randn(family.parameters.shape, generator=generator)

                def loss(step: float, family: Family = family, along: Tensor = along, slopes: Tensor = slopes) -> float:
                    moved = family.parameters.double() + step * along.double()
                    rows = family.policies(moved, torch.as_tensor(_preferences(family.m), dtype=torch.float64))
                    return float((rows * slopes.double()).sum(1).mean())

                # in float64, so that the step can be short
                expected = (loss(1e-4) - loss(-1e-4)) / 2e-4
                np.testing.assert_allclose(float((found * along).sum()), expected, rtol=1e-4, atol=1e-4)

    def test_a_folder_is_the_policy(self) -> None:
        """What `write_policy` makes of the saved family is what the population would write for the same preference."""
        from safetensors.torch import load_file

        for m in self.objectives:
            with self.ready(m) as family, tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                family.save(folder / "family")
                again = families.make({"name": family.name, **arguments_of(family)})
                again.ranks, again.names = family.ranks, family.names
                for preference in _preferences(m):
                    write_policy(again, folder / "family", preference, folder / "one")
                    written = load_file(folder / "one" / "adapter_model.safetensors")
                    expected = family.population.adapter_tensors(family.rows(preference[None])[0])
                    assert written.keys() == expected.keys()
                    assert Instruction.read(folder / "one") == family.instruction(preference)
                    for name, tensor in expected.items():
                        torch.testing.assert_close(written[name], tensor, rtol=1e-6, atol=1e-7)

    def test_training_and_state(self) -> None:
        """A step moves the family and what the slots serve; saved and loaded elsewhere it goes on the same."""
        for m in self.objectives:
            with self.ready(m) as family, self.ready(m) as other:
                preferences = _preferences(m)
                first, second = FamilyOptimizer(family, family.population), FamilyOptimizer(other, other.population)
                for optimizer in (first, second):
                    optimizer.place(preferences)
                generator = torch.Generator().manual_seed(4)
                grads = torch.randn(3, *family.population.parameters.shape, generator=generator)
                before = family.population.parameters.clone()
                norms = first.step(grads[0], 1e-2)
                torch.testing.assert_close(norms, grads[0].norm(dim=1))
                assert not torch.equal(before, family.population.parameters)
                second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
                second.place(preferences)
                for grad in grads[1:]:
                    first.step(grad, 1e-2)
                    second.step(grad, 1e-2)
                assert torch.equal(family.population.parameters, other.population.parameters)

    def test_a_broken_gradient_is_left_out(self) -> None:
        """A policy without a finite gradient takes no part; without any the family stays as it is."""
        with self.ready(2) as family:
            optimizer = FamilyOptimizer(family, family.population)
            optimizer.place(_preferences(2))
            grad = torch.ones_like(family.population.parameters)
            grad[1] = torch.nan
            assert torch.isfinite(optimizer.step(grad, 1e-2)).tolist() == [True, False, True, True]
            assert torch.isfinite(family.parameters).all()
            before = family.parameters.clone()
            optimizer.step(torch.full_like(grad, torch.nan), 1e-2)
            assert torch.equal(before, family.parameters)

    def test_one_objective_is_refused(self) -> None:
        """There is nothing to condition on."""
        try:
            self.make().lora(None, NAMES[:1])
        except ConfigError:
            return
        raise AssertionError("Expected a ConfigError.")


def _preferences(m: int) -> np.ndarray:
    return simplex.random(m, SLOTS, seed=m)
