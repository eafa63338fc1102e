"""Random steps from mixed adapters: seeded, as long as asked for, the same way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aligner_runs import PROBLEM, lora

from pareto_align.errors import ConfigError
from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.policies.mixing import AdapterMixture, mix, mix_all


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


def plain_mixture(population, adapters, coefficients):
    """One mixture, one layer after the other, from the whole sum of the updates."""
    mixed, lost, whole = torch.zeros(1, population.parameter_count), 0.0, 0.0
    for block in population.blocks:
        a, b = (part.double() for part in block.split(adapters))
        update = sum(c * b_k @ a_k for c, a_k, b_k in zip(coefficients, a, b, strict=True))
        u, s, v = torch.linalg.svd(update, full_matrices=False)
        into_a, into_b = block.split(mixed)
        root = s[: block.r].sqrt()
        into_a[0] = v[: block.r] * root[:, None]
        into_b[0] = u[:, : block.r] * root
        lost, whole = lost + float((s[block.r :] ** 2).sum()), whole + float((s**2).sum())
    return mixed, (lost / whole) ** 0.5


def updates(population, row):
    return [b[0] @ a[0] for a, b in (block.split(row.reshape(1, -1)) for block in population.blocks)]


def test_mixtures_solved_together_are_each_ones_own(population):
    rows = torch.randn(3, population.parameter_count, generator=torch.Generator().manual_seed(3))
    asked = [
        AdapterMixture(rows, [0.2, 0.3, 0.5]),
        AdapterMixture(rows[:2], [0.4, 0.6]),
        AdapterMixture(rows, [1.5, -0.5, 0.0]),
        AdapterMixture(rows, [0.6, 0.3, 0.1], noise=0.1, seed=3),
        AdapterMixture(rows, [0.0, 1.0, 0.0]),
        AdapterMixture(rows, [0.0, 0.0, 0.0]),
    ]
    together = mix_all(population, asked)
    for mixture, (row, error) in zip(asked, together, strict=True):
        alone, alone_error = mix(
            population, mixture.adapters, mixture.coefficients, noise=mixture.noise, seed=mixture.seed
        )
        torch.testing.assert_close(row, alone)
        assert error == pytest.approx(alone_error)
    for mixture, (row, error) in zip(asked[:3], together, strict=False):
        plain, plain_error = plain_mixture(population, mixture.adapters, mixture.coefficients)
        assert error == pytest.approx(plain_error, rel=1e-6)
        for found, expected in zip(updates(population, row), updates(population, plain), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(together[4][0], rows[1])
    assert (together[5][0] == 0).all()


def test_layers_of_one_shape_are_solved_in_one_call(population, rows, monkeypatch):
    calls, svd = [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda x: calls.append(x.shape[:2]) or svd(x))
    mix_all(population, [AdapterMixture(rows, [0.5, 0.5]), AdapterMixture(rows, [0.1, 0.9])])
    shapes = {(block.layer.linear.in_features, block.layer.linear.out_features) for block in population.blocks}
    assert len(calls) == len(shapes) < len(population.blocks)
    assert sum(layers for layers, _ in calls) == len(population.blocks)
    assert {mixtures for _, mixtures in calls} == {2}
