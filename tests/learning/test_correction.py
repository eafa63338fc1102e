"""Importance weights where the sampler's policy is not quite the trainer's: against enumerated expectations."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from test_gradients import T, setting
from tiny_models import RAGGED, lora, random_population, relative_error

from pareto_align.learning import PolicyLoss
from pareto_align.policies import load_base
from pareto_align.policies.correction import Correction, mismatch
from pareto_align.policies.drawing import Completions
from pareto_align.policies.engine import Engine
from pareto_align.testing.tiny import symbol_tokenizer, tiny_llama

V, POLICIES = 3, 2
NO_LIMIT = 1e9


def enumerated(length, *, layout="packed", tokens=10**6):
    """Everything that two policies can say to a prompt, with what they and two slightly other policies make of it."""
    base = load_base(tiny_llama(V, hidden_size=16, layers=1), tokenizer=symbol_tokenizer(V), dtype="float32")
    population = random_population(base, POLICIES, config=lora(2))
    engine = Engine(population, layout=layout, micro_batch_tokens=tokens)
    said = torch.tensor(list(itertools.product(range(V), repeat=length)))
    shape = (POLICIES, 1, *said.shape)
    done = Completions(
        [base.encode("<0>")], said.expand(shape).clone(), torch.ones(shape, dtype=torch.bool), torch.zeros(shape)
    )
    batch = engine.prepare(done.prompt_ids, done)
    noise = torch.randn(population.parameters.shape, generator=torch.Generator().manual_seed(1))
    trained = engine.logprobs(batch)
    done.logprobs = engine.logprobs(batch, population.parameters + 0.3 * noise)
    rewards = torch.rand(POLICIES, 1, len(said), 2, generator=torch.Generator().manual_seed(2))
    return engine, batch, trained, rewards


@pytest.mark.parametrize("layout", ["packed", "dense"])
@pytest.mark.parametrize("tokens", [1, 10**6])
def test_weighed_completions_of_another_policy_give_the_gradient_of_this_one(layout, tokens):
    """sum_y mu(y) r(y) pi(y)/mu(y) grad log pi(y) is the gradient of the mean reward under pi."""
    engine, batch, trained, rewards = enumerated(3, layout=layout, tokens=tokens)
    ones = torch.ones(batch.done.mask.shape)
    of_sampler, of_trainer = (x.sum(-1).exp()[..., None] for x in (batch.done.logprobs, trained))
    assert torch.allclose(of_sampler.sum(2), torch.ones(POLICIES, 1, 1), atol=1e-5), "all there is to say"
    expected, _ = engine.ascend(batch, rewards * of_trainer, ones)
    uncorrected, _ = engine.ascend(batch, rewards * of_sampler, ones)
    correction = Correction("sequence_mask", NO_LIMIT)
    found, _ = engine.ascend(batch, rewards * of_sampler, ones, correction=correction)
    assert relative_error(found, expected) < 1e-5
    assert relative_error(uncorrected, expected) > 0.05
    by_token, _ = engine.ascend(batch, rewards * of_sampler, ones, correction=Correction("token_truncate", NO_LIMIT))
    assert 1e-3 < relative_error(by_token, expected) < relative_error(uncorrected, expected)


def test_of_a_single_token_both_kinds_are_unbiased():
    engine, batch, trained, rewards = enumerated(1)
    ones = torch.ones(batch.done.mask.shape)
    expected, _ = engine.ascend(batch, rewards * trained.exp(), ones)
    for kind in ("token_truncate", "sequence_mask"):
        weighed = engine.ascend(batch, rewards * batch.done.logprobs.exp(), ones, correction=Correction(kind, NO_LIMIT))
        assert relative_error(weighed[0], expected) < 1e-5, kind


@pytest.mark.parametrize("kind", ["token_truncate", "sequence_mask"])
@pytest.mark.parametrize("tokens", [1, 10**6])
def test_a_loss_descends_with_the_same_weights(kind, tokens):
    """Against weights that are put in by hand, beyond the cap and below it."""
    engine, batch, trained, rewards = enumerated(3, tokens=tokens)
    correction, mask = Correction(kind, 1.1), batch.done.mask
    gap = trained - batch.done.logprobs
    if kind == "token_truncate":
        by_hand = torch.minimum(gap.exp(), torch.tensor(1.1))
        assert 0.02 < float((gap.exp() > 1.1).float().mean()) < 0.98
    else:
        ratio = gap.sum(-1, keepdim=True).exp()
        by_hand = torch.where(ratio > 1.1, 0.0, ratio).expand(gap.shape)
        assert 0.02 < float((ratio > 1.1).float().mean()) < 0.98
    assert torch.allclose(correction.of_completions(trained, batch.done.logprobs, mask), by_hand, atol=1e-5)
    factor = rewards[..., :1].expand(mask.shape)
    expected, _ = engine.ascend(batch, rewards[..., :1], by_hand)

    def loss(factor):
        return lambda logprob, chunk: -logprob * factor[chunk]

    found = engine.descend(batch, loss, {"factor": factor}, logprobs=True, correction=correction)
    assert relative_error(-engine.population.grad, expected[0, :, 0]) < 1e-5
    assert torch.allclose(found, trained, atol=1e-5)


# ------------------------------------------------------------------------------------------ the learner


def off_policy(learner, rollouts, beyond=(), *, scale=0.02):
    """Let the sampler have been another policy: a little everywhere, and far off for some completions."""
    done = rollouts.completions
    noise = torch.randn(done.logprobs.shape, generator=torch.Generator().manual_seed(3)) * scale
    done.logprobs = torch.where(done.mask, done.logprobs + noise, 0.0)
    for place in beyond:
        done.logprobs[place][done.mask[place]] -= 1.0


@pytest.mark.parametrize("kind", ["token_truncate", "sequence_mask"])
@pytest.mark.parametrize("aggregation", ["constant", "token", "sequence"])
@pytest.mark.parametrize("group", [5, 2])
def test_what_is_left_out_leaves_the_denominator_too(kind, aggregation, group):
    loss = PolicyLoss(aggregation=aggregation)
    population, rollouts, learner = setting(2, group=group, loss=loss, layout="auto")
    trained = rollouts.completions.logprobs.clone()
    off_policy(learner, rollouts, [(0, 0, 0), (0, 2, 1), (2, 1, 0)])
    correction = Correction(kind, 1.5)
    learner.context = dataclasses.replace(learner.context, correction=correction)
    done = rollouts.completions
    gap = torch.where(done.mask, trained - done.logprobs, 0.0)
    if kind == "token_truncate":
        weights, kept = gap.exp().clamp(max=1.5), torch.ones(done.mask.shape[:3])
    else:
        ratio = gap.sum(-1).exp()
        kept = (ratio <= 1.5).float()
        weights = (ratio * kept)[..., None]
        assert (kept[0].sum(), kept[1].sum()) == (3 * group - 2, 3 * group), "each policy its own"
    counts, lengths = kept.sum((1, 2))[:, None, None, None], done.mask.sum(3, keepdim=True)
    share = {
        "constant": 1 / (counts * T),
        "token": 1 / (lengths[..., 0] * kept).sum((1, 2))[:, None, None, None],
        "sequence": 1 / (counts * lengths),
    }[aggregation]
    by_hand = weights * share * done.mask
    vector = learner.coefficients(rollouts)
    expected, _ = learner.engine.ascend(learner._prepared(rollouts), vector, by_hand)
    found = learner.gradients(rollouts)
    assert relative_error(found.gradients, expected[0]) < 1e-5
    assert found.exact, "still linear in the weights"
    trade = np.array([[0.3, 0.7]] * 3)
    report = learner.step(rollouts, trade, 0.0)
    descended = population.grad.clone()
    assert relative_error(-descended, found.combine(torch.from_numpy(trade).float())) < 1e-5
    told = learner.step(rollouts, trade, 0.0, gradients=found)
    for name in ("mismatch", "mismatch_outside", "mismatch_kl", "mismatch_truncated"):
        assert np.allclose(report.more[name], told.more[name], atol=1e-6)
    cut = (
        1 - kept.mean((1, 2))
        if kind == "sequence_mask"
        else ((gap.exp() > 1.5) & done.mask).sum((1, 2, 3)) / (done.mask.sum((1, 2, 3)))
    )
    assert np.allclose(report.more["mismatch_truncated"], cut.numpy(), atol=1e-6)
    assert report.more["mismatch_truncated"][0] > 0


@pytest.mark.parametrize("kind", ["token_truncate", "sequence_mask"])
@pytest.mark.parametrize("aggregation", ["constant", "token"])
def test_a_later_update_has_the_weights_of_the_first(kind, aggregation):
    """At the same parameters the clipped ratio is 1, so a later update has the first one's gradient."""
    loss = PolicyLoss(aggregation=aggregation, kl="k3", kl_coef=0.2)
    population, rollouts, learner = setting(2, loss=loss)
    off_policy(learner, rollouts, [(0, 0, 0), (1, 2, 3)])
    learner.context = dataclasses.replace(learner.context, correction=Correction(kind, 1.5))
    batch = learner._prepared(rollouts)
    reference = learner.engine.reference_logprobs(batch)
    advantages = torch.randn(3, len(RAGGED), 5, generator=torch.Generator().manual_seed(0))
    old = learner._descend(batch, advantages, reference, None)
    first = population.grad.clone()
    learner._descend(batch, advantages, reference, old)
    assert relative_error(population.grad, first) < 1e-5


def test_a_sampler_that_is_the_trainer_is_not_corrected_and_tells_nothing():
    population, rollouts, learner = setting(2)
    trade = np.full((3, 2), 0.5)
    report = learner.step(rollouts, trade, 0.0)
    plain = population.grad.clone()
    assert report.more == {}
    learner.context = dataclasses.replace(learner.context, correction=Correction("token_truncate"))
    report = learner.step(rollouts, trade, 0.0)
    assert relative_error(population.grad, plain) < 1e-4, "where it is asked for, the weights are 1"
    assert (report.more["mismatch"] < 1e-5).all()


def test_two_halves_of_a_batch_are_weighed_as_well():
    _, rollouts, learner = setting(2, group=6)
    off_policy(learner, rollouts)
    learner.context = dataclasses.replace(learner.context, correction=Correction("token_truncate", 1.01))
    halves, whole = learner.gradients(rollouts, halves=True), learner.gradients(rollouts)
    assert halves.cross_gramians is not None
    assert halves.gradients.shape == whole.gradients.shape
    learner.context = dataclasses.replace(learner.context, correction=Correction())
    assert relative_error(learner.gradients(rollouts, halves=True).gradients, halves.gradients) > 1e-3


# ------------------------------------------------------------------------------------------ what is told


def test_figures_of_a_mismatch():
    mask = torch.tensor([[[[True, True, False], [True, False, False]]]])
    sampled = torch.tensor([[[[-1.0, -2.0, 0.0], [-0.5, 0.0, 0.0]]]])
    gap = torch.tensor([[[[0.05, -0.2, 99.0], [1.0, 99.0, 99.0]]]])
    found = mismatch(sampled + gap, sampled, mask, Correction("token_truncate", 2.0))
    assert np.allclose(found["mismatch"], (0.05 + 0.2 + 1.0) / 3)
    assert np.allclose(found["mismatch_outside"], 2 / 3), "exp(-0.2) and e; exp(0.05) is near"
    expected = sum(np.exp(d) - 1 - d for d in (0.05, -0.2, 1.0)) / 3
    assert np.allclose(found["mismatch_kl"], expected)
    assert np.allclose(found["mismatch_truncated"], 1 / 3)
    found = mismatch(sampled + gap, sampled, mask, Correction("sequence_mask", 2.0))
    assert np.allclose(found["mismatch_truncated"], 1 / 2), "exp(-0.15) is kept, e is not"
    assert np.allclose(mismatch(sampled + gap, sampled, mask, Correction())["mismatch_truncated"], 0)


def test_probabilities_that_are_no_numbers_are_not_hidden():
    """A policy that is lost goes back; a weight of 0 in its place would let it go on."""
    for kind in ("token_truncate", "sequence_mask"):
        assert torch.isnan(Correction(kind).weights(torch.tensor([float("nan")]))).all()
    assert Correction("sequence_mask").weights(torch.tensor([1e4])) == 0
    assert Correction("token_truncate").weights(torch.tensor([1e4])) == 2
