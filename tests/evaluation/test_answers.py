"""Paired measurement: the same prompts and random numbers for everyone, whoever is measured with whom."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import random_population, tiny_base

from pareto_align.data.prompts import read_prompts
from pareto_align.errors import ParetoAlignWarning
from pareto_align.evaluation.answers import Evaluator
from pareto_align.front import pool
from pareto_align.objectives import Objective, ObjectiveSet
from pareto_align.policies import SamplingParams
from pareto_align.testing.tiny import symbol_text

OBJECTIVES = ObjectiveSet(
    [
        Objective("a", lambda completions, **_: [float(text.count("a")) for text in completions]),
        Objective("length", lambda completions, **_: [float(len(text)) for text in completions], maximize=False),
    ]
)
PROMPTS = [symbol_text(i % 12) * (1 + i % 5) for i in range(20)]  # more than one batch of prompts


def evaluator(population, group_size=2, objectives=OBJECTIVES, prompts=PROMPTS, **settings):
    rows = read_prompts(prompts, population.base, 6)
    return Evaluator(population, objectives, rows, group_size, SamplingParams(6), 5, **settings)


@pytest.fixture(scope="module")
def population():
    return random_population(tiny_base(), 3)


def test_the_same_policy_scores_the_same_beside_anyone(population):
    rows = population.parameters
    measuring = evaluator(population)
    twice = measuring.measure(rows[[1, 1, 0, 2, 1]])
    alone = measuring.measure(rows[1:2])[0]
    for k in (0, 1, 4):
        assert np.array_equal(twice[k].rewards, alone.rewards)
        assert twice[k].texts == alone.texts
        assert np.array_equal(twice[k].estimate.mean, alone.estimate.mean)
        assert twice[k].length == alone.length
    assert not np.array_equal(twice[2].rewards, alone.rewards)


def test_how_many_run_at_once_changes_nothing(population):
    together = evaluator(population).measure(population.parameters)
    in_turn = evaluator(population, rows_at_once=1).measure(population.parameters)
    for one, other in zip(together, in_turn, strict=True):
        assert np.array_equal(one.rewards, other.rewards)


def test_all_prompts_are_measured_in_one_batch_with_the_same_numbers(population):
    """64 prompts took four batches of 16; what a prompt draws does not depend on which prompts stand beside it."""
    rows, batches, tokens = [], [], 6

    def counted(module, arguments, keywords):
        batches.append(keywords["input_ids"].shape)

    prompts = [symbol_text(i % 12) * (1 + i % 5) for i in range(64)]
    handle = population.base.model.get_decoder().register_forward_pre_hook(counted, with_kwargs=True)
    try:
        for at_once in (3 * 16 * 2, 256, 1000):
            batches.clear()
            found = evaluator(population, prompts=prompts, rows_at_once=at_once).measure(population.parameters)
            rows.append((found, sum(shape[1] == 1 for shape in batches), max(shape[0] for shape in batches)))
    finally:
        handle.remove()
    (apart, many, _), (halves, fewer, widest), (together, few, _) = rows
    assert widest <= 256
    assert few <= tokens - 1
    assert many >= 3.5 * few
    assert many >= 1.8 * fewer
    for one, other, third in zip(apart, halves, together, strict=True):
        assert np.array_equal(one.rewards, other.rewards)
        assert np.array_equal(one.rewards, third.rewards)
        assert one.texts == other.texts == third.texts
        assert one.length == third.length


def test_estimates_have_one_unit_a_group(population):
    topics = [{"prompt": prompt, "topic": ["a", "b", 3, "3", None][i % 5]} for i, prompt in enumerate(PROMPTS)]
    found = evaluator(population, prompts=topics, group="topic").measure(population.parameters[:1])[0]
    plain = evaluator(population).measure(population.parameters[:1])[0]
    assert found.estimate.n == 4 + 4  # prompts without a topic stand alone
    np.testing.assert_allclose(found.estimate.mean, plain.estimate.mean)
    assert plain.estimate.groups is None


def test_estimates_have_one_unit_a_prompt(population):
    found = evaluator(population, group_size=3).measure(population.parameters[:1])[0]
    assert found.rewards.shape == (20, 3, 2)
    assert found.estimate.n == 20
    means = found.rewards.mean(1)
    assert np.allclose(found.estimate.mean, means.mean(0))
    assert np.allclose(found.estimate.stderr, means.std(0, ddof=1) / np.sqrt(20))
    assert len(found.texts) == 20
    assert (found.rewards[..., 1] <= 0).all()  # maximised inside


def test_the_reference_is_measured_by_its_name(population):
    measuring = evaluator(population)
    reference = measuring.measure_reference()
    fresh = measuring.measure(population.fresh(3)[None])[0]  # B is zero: the reference policy
    assert np.array_equal(reference.rewards, fresh.rewards)
    assert measuring.tokens == round(2 * 20 * 2 * fresh.length)


def test_the_check_warns_of_what_cannot_be_traded(population):
    objectives = ObjectiveSet([*OBJECTIVES, Objective("same", lambda completions, **_: [1.0] * len(completions))])
    with pytest.warns(ParetoAlignWarning, match="'same' is 1 for all 40 completions"):
        evaluator(population, objectives=objectives).measure_reference(check=True)


def test_the_seed_is_part_of_the_measurement(population):
    rows = read_prompts(PROMPTS, population.base, 6)
    one, other = (Evaluator(population, OBJECTIVES, rows, 2, SamplingParams(6), seed) for seed in (1, 2))
    row = population.parameters[:1]
    assert not np.array_equal(one.measure(row)[0].rewards, other.measure(row)[0].rewards)
    assert torch.equal(row, population.parameters[:1])


def test_a_repeat_asks_the_same_prompts_with_new_random_numbers(population):
    measuring = evaluator(population)
    rows = population.parameters[:2]
    first, again, third = measuring.measure(rows), measuring.measure(rows, repeat=1), measuring.measure(rows, repeat=2)
    alone = evaluator(population).measure(rows[1:], repeat=1)[0]
    assert np.array_equal(again[1].rewards, alone.rewards)  # paired with whoever shares the repeat
    assert np.array_equal(first[0].rewards, evaluator(population).measure(rows, repeat=0)[0].rewards)
    for one, other in ((first, again), (again, third)):
        assert not np.array_equal(one[0].rewards, other[0].rewards)
    pooled = pool([first[0].estimate, again[0].estimate, third[0].estimate])
    together = np.concatenate([m[0].rewards for m in (first, again, third)], axis=1)  # [n, 3 G, M]
    assert pooled.n == 20
    assert np.allclose(pooled.mean, together.mean((0, 1)))
    assert np.allclose(pooled.stderr, together.mean(1).std(0, ddof=1) / np.sqrt(20))


def test_the_cost_of_a_measurement_is_known_beforehand(population):
    measuring = evaluator(population, group_size=3)
    found = measuring.measure(population.parameters[:1])[0]
    assert measuring.tokens_for(found.length) == pytest.approx(measuring.tokens)
    assert measuring.tokens_for(None) == 20 * 3 * 6
