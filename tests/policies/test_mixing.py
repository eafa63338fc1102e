"""Random steps from mixed adapters: seeded, as long as asked for, the same way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aligner_runs import PROBLEM, lora

from pareto_align.errors import ConfigError
from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.policies.mixing import mix


@pytest.fixture(scope="module")
def population():
    made = PolicyPopulation(load_base(PROBLEM.model(), tokenizer=PROBLEM.tokenizer()), 2, lora=lora(r=3))
    yield made
    made.close()


@pytest.fixture
def rows(population):
    return torch.randn(2, population.parameter_count, generator=torch.Generator().manual_seed(0))


def test_a_seed_stands_for_a_step_and_its_sign_for_the_way_back(population, rows):
    plain, _ = mix(population, rows, [0.4, 0.6])
    there, _ = mix(population, rows, [0.4, 0.6], noise=0.1, seed=7)
    again, _ = mix(population, rows, [0.4, 0.6], noise=0.1, seed=7)
    back, _ = mix(population, rows, [0.4, 0.6], noise=-0.1, seed=7)
    other, _ = mix(population, rows, [0.4, 0.6], noise=0.1, seed=8)
    assert torch.equal(there, again)
    assert not torch.allclose(there, other, atol=1e-3)
    torch.testing.assert_close(there - plain, plain - back, atol=1e-5, rtol=1e-4)


def test_a_step_is_a_share_of_each_factors_own_length(population, rows):
    for block in population.blocks:
        block.split(rows)[1].mul_(1e-3)  # B is much smaller than A, as after little training
    moved, _ = mix(population, rows[:1], [1.0], noise=0.05, seed=1)
    for block in population.blocks:
        for before, after in zip(block.split(rows[:1]), block.split(moved[None]), strict=True):
            share = float((after - before).norm() / before.norm())
            assert share == pytest.approx(0.05, rel=5 / np.sqrt(before.numel()))


def test_the_archived_adapter_stays_as_it_is(population, rows):
    kept = rows.clone()
    mix(population, rows[:1], [1.0], noise=0.5, seed=1)
    assert torch.equal(rows, kept)


def test_an_untrained_adapter_does_not_move_away_from_the_base_model(population):
    rows = torch.randn(1, population.parameter_count)
    for block in population.blocks:
        block.split(rows)[1].zero_()
    moved, _ = mix(population, rows, [1.0], noise=0.5, seed=1)
    assert all((block.split(moved[None])[1] == 0).all() for block in population.blocks)


def test_noise_is_a_number(population, rows):
    with pytest.raises(ConfigError, match=r"noise of a mixture must be finite\. Found nan"):
        mix(population, rows, [0.5, 0.5], noise=float("nan"))
