"""The gradients of all objectives from one backward pass, against one plain backward pass an objective."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import RAGGED, lora, online_learner, random_population, relative_error, tiny_base

from pareto_align.errors import ConfigError
from pareto_align.learning import PolicyLoss, PromptRow, Rollouts, roll_out
from pareto_align.objectives import Objective, ObjectiveSet, RewardScale
from pareto_align.policies import SamplingParams
from pareto_align.policies.engine import Engine

T, TEMPERATURE = 7, 0.9


def share_of(letters):
    def reward(completions, **_):
        return [sum(c in letters for c in text) / T for text in completions]

    return reward


def objectives_of(count):
    found = [Objective(f"o{i}", share_of("abcdefghijklabcdef"[i : i + 6]), bounds=(0, 1)) for i in range(count)]
    return ObjectiveSet(found)


def setting(count=3, *, family="llama", group=5, loss=None, credit="centred", size=3, config=None, **settings):
    """A population of random policies, what it said, and its learner."""
    objectives = objectives_of(count)
    scale = RewardScale.measure(np.zeros((2, count)), objectives)
    base = tiny_base(family, **({"sliding_window": 64} if family in ("mistral", "gemma2") else {}))
    population = random_population(base, size, config=config)
    rows = [PromptRow(prompt, tuple(base.encode(prompt)), {}) for prompt in RAGGED]
    params = SamplingParams(T, temperature=TEMPERATURE)
    rollouts = roll_out(Engine(population), objectives, rows, group, params, range(size))
    settings = {"temperature": TEMPERATURE, **settings}
    learner = online_learner(population, scale, objectives.axes, credit=credit, loss=loss, **settings)
    return population, rollouts, learner


def one_by_one(population, rollouts, learner, count):
    """The direction of ascent of each objective `[K, m, M]`: its own loss, its own backward pass."""
    found = []
    for i in range(count):
        weights = np.zeros((population.size, count))
        weights[:, i] = 1
        learner.step(rollouts, weights, 0.0)
        found.append(-population.grad.clone())
    return torch.stack(found, 1)


FAMILIES = ["llama", "qwen2", "qwen3", "gpt_neox", "phi", "mistral", "gemma2"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["packed", "dense"])
def test_one_pass_gives_what_a_pass_for_each_objective_gives(family, layout):
    population, rollouts, learner = setting(3, family=family, layout=layout)
    expected = one_by_one(population, rollouts, learner, 3)
    before = population.parameters.clone()
    found = learner.gradients(rollouts)
    assert found.gradients.shape == (3, 3, population.parameter_count)
    for k in range(3):
        for i in range(3):
            assert relative_error(found.gradients[k, i], expected[k, i]) < 1e-5
    plain = torch.einsum("kip,kjp->kij", expected.double(), expected.double()).numpy()
    assert np.allclose(found.gramians, plain, rtol=1e-5, atol=1e-5 * plain.max())
    assert torch.equal(population.parameters, before)


@pytest.mark.parametrize(
    ("count", "group", "packed"), [(1, 5, True), (2, 5, True), (4, 5, True), (5, 5, False), (6, 3, False)]
)
def test_rows_are_dense_where_copies_of_the_prompt_would_be_more_work(count, group, packed):
    population, rollouts, learner = setting(count, group=group)
    expected = one_by_one(population, rollouts, learner, count)
    found = learner.gradients(rollouts)
    assert found.batch.packed is packed
    for k in range(3):
        for i in range(count):
            assert relative_error(found.gradients[k, i], expected[k, i]) < 1e-5


@pytest.mark.parametrize("tokens", [1, 200, 10**6])
def test_micro_batches_change_no_gradient(tokens):
    _, rollouts, learner = setting(2, micro_batch_tokens=tokens)
    found = learner.gradients(rollouts)
    expected = setting(2)[2].gradients(rollouts)
    for k in range(3):
        assert relative_error(found.gradients[k], expected.gradients[k]) < 1e-5


WEIGHTS = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 1.3]])


@pytest.mark.parametrize(
    ("loss", "credit", "exact"),
    [
        (PolicyLoss(), "centred", True),
        (PolicyLoss(kl_coef=0.3), "rloo", True),
        (PolicyLoss(kl_coef=0.3, aggregation="sequence"), "centred", True),
        (PolicyLoss(kl_coef=0.3, kl="k3"), "centred", False),
        (PolicyLoss(), "gdpo", False),
        (PolicyLoss(), "pama", False),
        (PolicyLoss(kl_coef=0.3), "rvpo", False),
    ],
)
@pytest.mark.parametrize("updates", [1, 3])
def test_a_step_from_the_gradients_is_the_plain_step(loss, credit, exact, updates):
    """Signed and unequal strengths included; where mixing is not linear the plain backward pass is made."""
    settings = {"loss": loss, "credit": credit, "updates": updates}
    plain, rollouts, learner = setting(2, **settings)
    report = learner.step(rollouts, WEIGHTS, 1e-3)
    other, rollouts, learner = setting(2, **settings)
    found = learner.gradients(rollouts)
    assert found.exact is exact
    shown = learner.step(rollouts, WEIGHTS, 1e-3, gradients=found)
    for k in range(3):
        assert relative_error(other.grad[k], plain.grad[k]) < 2e-5 * updates**2
    assert np.allclose(shown.grad_norm, report.grad_norm, rtol=1e-4)
    assert np.allclose(shown.kl, report.kl, equal_nan=True, rtol=1e-5)


def test_a_policys_gradients_do_not_hear_its_neighbours():
    _, rollouts, learner = setting(2)
    together = learner.gradients(rollouts).gradients
    rollouts.rewards[1:] = 0.0
    alone = learner.gradients(rollouts).gradients
    assert torch.equal(alone[1:], torch.zeros_like(alone[1:]))
    assert torch.equal(alone[0], together[0])


def test_the_gradients_of_a_bfloat16_model_point_the_same_way():
    population, rollouts, learner = setting(2)
    expected = learner.gradients(rollouts).gradients
    population.base.model.to(torch.bfloat16)
    half = dataclasses.replace(population.base, dtype=torch.bfloat16)
    rows = population.parameters.clone()
    population.close()
    rough = random_population(half, 3, config=lora())
    rough.parameters.copy_(rows)
    learner = online_learner(rough, learner.context.scale, learner.axes, temperature=TEMPERATURE)
    found = learner.gradients(rollouts).gradients
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=-1)
    assert found.dtype == torch.float32
    assert cosine.min() > 0.98


# Two halves of the batch.


def part_of(rollouts, prompts=slice(None), completions=slice(None)):
    """Some of the prompts, or some of each prompt's completions, as a batch of its own."""
    done = rollouts.completions
    where = (slice(None), prompts, completions)
    fields = {name: getattr(done, name)[where] for name in ("tokens", "mask", "logprobs")}
    done = dataclasses.replace(done, prompt_ids=done.prompt_ids[prompts], **fields)
    return Rollouts(rollouts.prompts[prompts], done, [], rollouts.rewards[where])


def plain_cross(population, learner, first, second, count):
    """`[K, m, m]` from one backward pass an objective and half."""
    a, b = (one_by_one(population, half, learner, count).double() for half in (first, second))
    return torch.einsum("kip,kjp->kij", a, b).numpy()


@pytest.mark.parametrize("layout", ["packed", "dense"])
@pytest.mark.parametrize("credit", ["centred", "reinforce"])
@pytest.mark.parametrize("prompts", [2, 3])
def test_cross_gramians_are_inner_products_of_the_halves_own_gradients(layout, credit, prompts):
    """Unequal halves and a baseline over the batch included: each half is what it would be as a batch of its own."""
    population, rollouts, learner = setting(2, layout=layout, credit=credit)
    rollouts = part_of(rollouts, slice(prompts))
    halves = [part_of(rollouts, slice(start, None, 2)) for start in (0, 1)]
    found = learner.gradients(rollouts, halves=True)
    # the whitening of "reinforce" is no part of an objective's gradient: rows of weights keep their own direction
    expected = plain_cross(population, learner, *halves, 2) if credit == "centred" else whole_cross(learner, halves)
    assert np.allclose(found.cross_gramians, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert found.exact is (credit == "centred")
    whole = learner.gradients(rollouts)
    assert whole.cross_gramians is None
    if credit == "centred":
        for k in range(3):
            assert relative_error(found.gradients[k], whole.gradients[k]) < 1e-5
        assert torch.allclose(found.logprobs, whole.logprobs, atol=1e-5)


def whole_cross(learner, halves):
    a, b = (learner.gradients(half).gradients.double() for half in halves)
    return torch.einsum("kip,kjp->kij", a, b).numpy()


@pytest.mark.parametrize("layout", ["packed", "dense"])
@pytest.mark.parametrize("tokens", [1, 10**6])
def test_every_completion_goes_through_one_backward_pass_for_both_halves(layout, tokens, monkeypatch):
    _, rollouts, learner = setting(2, layout=layout, micro_batch_tokens=tokens)
    seen, plain = [], learner.engine._backward

    def counted(batch, part, *args, factors):
        seen.extend(part.prompts)
        assert factors.shape[-1] == 2, "one sum an objective, not one an objective and half"
        return plain(batch, part, *args, factors=factors)

    monkeypatch.setattr(learner.engine, "_backward", counted)
    learner.gradients(rollouts, halves=True)
    assert sorted(seen) == list(range(len(RAGGED)))


def test_a_single_prompt_is_halved_by_its_completions():
    population, rollouts, learner = setting(2, group=6)
    rollouts = part_of(rollouts, slice(1))
    halves = [part_of(rollouts, completions=slice(start, None, 2)) for start in (0, 1)]
    found = learner.gradients(rollouts, halves=True)
    expected = plain_cross(population, learner, *halves, 2)
    assert np.allclose(found.cross_gramians, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    # The halves have baselines of their own, so their sum is not the whole batch's gradient, and says so.
    assert not found.exact


def test_cross_gramians_have_no_noise_on_their_diagonal():
    """A reward that is a coin's toss has no gradient: that of a batch is noise, and its square is never small."""
    _, rollouts, learner = setting(1, group=8, size=2)
    noise, plain, cross = np.random.default_rng(0), [], []
    for _ in range(40):
        rollouts.rewards[:] = noise.integers(0, 2, rollouts.rewards.shape)
        found = learner.gradients(rollouts, halves=True)
        plain.append(found.gramians[:, 0, 0])
        cross.append(found.cross_gramians[:, 0, 0])
    scatter = np.std(cross, axis=0) / np.sqrt(len(cross))
    assert (np.abs(np.mean(cross, axis=0)) < 3.5 * scatter).all()
    assert (np.mean(plain, axis=0) > 5 * scatter).all()


def test_a_step_from_halved_gradients_is_the_plain_step():
    settings = {"loss": PolicyLoss(kl_coef=0.3), "credit": "rloo"}
    plain, rollouts, learner = setting(2, **settings)
    learner.step(rollouts, WEIGHTS, 1e-3)
    other, rollouts, learner = setting(2, **settings)
    learner.step(rollouts, WEIGHTS, 1e-3, gradients=learner.gradients(rollouts, halves=True))
    for k in range(3):
        assert relative_error(other.grad[k], plain.grad[k]) < 2e-5


@pytest.mark.parametrize(
    ("credit", "group", "fits"), [("centred", 3, False), ("centred", 4, True), ("reinforce", 2, True)]
)
def test_a_batch_too_small_to_be_halved_is_refused(credit, group, fits):
    _, rollouts, learner = setting(2, group=group, credit=credit)
    rollouts = part_of(rollouts, slice(1))
    if fits:
        assert np.isfinite(learner.gradients(rollouts, halves=True).cross_gramians).all()
        return
    with pytest.raises(ConfigError, match="prompts_per_step=1, group_size=3"):
        learner.gradients(rollouts, halves=True)
