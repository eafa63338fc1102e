"""Losses of tokens and how they add up."""

from __future__ import annotations

import math

import pytest
import torch

from pareto_align.errors import ConfigError
from pareto_align.learning import PolicyLoss
from pareto_align.learning.credit import make_credit

MASK = torch.tensor([[[[1, 1, 1, 0], [1, 0, 0, 0]]], [[[1, 1, 1, 1], [1, 1, 1, 1]]]], dtype=torch.bool)  # [2, 1, 2, 4]


def slope(loss, logprob, old, advantage, reference=None):
    leaf = torch.tensor([logprob], requires_grad=True)
    ref = None if reference is None else torch.tensor([reference])
    value = loss.token_loss(leaf, torch.tensor([old]), torch.tensor([advantage]), ref)
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    return float(value.detach()), float(grad)


@pytest.mark.parametrize(
    ("aggregation", "first", "second"),
    [
        ("constant", [1 / 8] * 4, [1 / 8] * 8),  # N G T = 8, whatever was said
        ("token", [1 / 4] * 4, [1 / 8] * 8),  # 4 and 8 tokens
        ("sequence", [1 / 6, 1 / 6, 1 / 6, 1 / 2], [1 / 8] * 8),
    ],
)
def test_weights_of_tokens(aggregation, first, second):
    weights = PolicyLoss(aggregation=aggregation).token_weights(MASK)
    assert weights.shape == MASK.shape
    assert (weights[~MASK] == 0).all()
    assert torch.allclose(weights[0][MASK[0]], torch.tensor(first))
    assert torch.allclose(weights[1][MASK[1]], torch.tensor(second))
    alone = PolicyLoss(aggregation=aggregation).token_weights(MASK[:1])
    assert torch.equal(alone[0], weights[0])


def test_on_policy_the_gradient_is_reinforces():
    value, grad = slope(PolicyLoss(), -2.0, -2.0, 1.5)
    assert (value, grad) == (-1.5, -1.5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.1, 1.0, True), (1.3, 1.0, False), (0.7, 1.0, True), (0.7, -1.0, False), (1.3, -1.0, True)],
)
def test_the_clip_stops_steps_that_went_far_enough(ratio, advantage, moves):
    value, grad = slope(PolicyLoss(clip=0.2), math.log(ratio), 0.0, advantage)
    assert grad == pytest.approx(-ratio * advantage if moves else 0.0, abs=1e-6)
    clipped = min(max(ratio, 0.8), 1.2)
    assert value == pytest.approx(-min(ratio * advantage, clipped * advantage), abs=1e-6)


def test_k3_is_added_to_the_token():
    value, grad = slope(PolicyLoss(kl="k3", kl_coef=0.5), -1.0, -1.0, 0.0, reference=-2.0)
    assert value == pytest.approx(0.5 * (math.exp(-1.0) + 1.0 - 1.0))
    assert grad == pytest.approx(0.5 * (1 - math.exp(-1.0)))
    assert slope(PolicyLoss(kl="k1", kl_coef=0.5), -1.0, -1.0, 0.0, reference=-2.0) == (0.0, 0.0)


def test_k1_is_charged_to_the_completion_and_centred_in_its_group():
    logprobs = torch.tensor([[[[-1.0, -1.0], [-3.0, 0.0]]]])
    reference = torch.tensor([[[[-2.0, -2.0], [-3.0, 0.0]]]])  # spent: 2 and 0
    advantages = torch.tensor([[[0.3, -0.3]]])
    found = PolicyLoss(kl_coef=0.1).charge_kl(advantages, logprobs, reference)
    assert torch.allclose(found, torch.tensor([[[0.2, -0.2]]]))
    assert PolicyLoss(kl_coef=0.0).charge_kl(advantages, logprobs, reference) is advantages
    assert PolicyLoss(kl_coef=0.1, kl="k3").charge_kl(advantages, logprobs, reference) is advantages


@pytest.mark.parametrize("learner", ["centred", "dr_grpo", "rloo"])
@pytest.mark.parametrize("group", [2, 4, 8])
def test_a_nat_costs_its_price_in_reward(learner, group):
    """A reward that is the KL itself, at a price of 1, leaves nothing."""
    credit = make_credit(learner)
    nats = torch.randn(2, 3, group, generator=torch.Generator().manual_seed(group))
    advantages = credit.combine(credit.vector(nats[..., None]), torch.ones(2, 1))
    left = PolicyLoss(kl_coef=1.0).charge_kl(
        advantages, nats[..., None], torch.zeros(2, 3, group, 1), credit.against_peers
    )
    assert left.abs().max() < 1e-6


@pytest.mark.parametrize("learner", ["grpo", "gdpo", "reinforce", "pama", "rvpo"])
def test_learners_that_divide_rewards_by_a_spread_do_not_divide_the_kl(learner):
    nats = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(make_credit(learner).against_peers(nats), nats - nats.mean(2, keepdim=True))


def test_k1_with_one_completion_a_prompt_is_centred_over_the_batch():
    """Centring a group of one would charge nothing at all."""
    logprobs, reference = torch.tensor([[[[-1.0]], [[-1.0]]]]), torch.tensor([[[[-3.0]], [[-1.0]]]])
    found = PolicyLoss(kl_coef=0.1).charge_kl(torch.zeros(1, 2, 1), logprobs, reference)
    assert torch.allclose(found, torch.tensor([[[-0.1], [0.1]]]))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kl": "k2"}, "k2"),
        ({"aggregation": "mean"}, "mean"),
        ({"kl_coef": -0.1}, "kl_coef=-0.1"),
        ({"kl_coef": math.nan}, "kl_coef=nan"),
        ({"clip": 0.0}, "clip=0.0"),
    ],
)
def test_settings_out_of_range(settings, named):
    with pytest.raises(ConfigError, match=named):
        PolicyLoss(**settings)


@pytest.mark.parametrize("learner", ["centred", "dr_grpo", "rloo"])
@pytest.mark.parametrize("group", [2, 4, 8])
def test_a_reward_that_is_the_log_ratio_cancels_a_price_of_one_without_being_told_the_credit(learner, group):
    credit = make_credit(learner)
    nats = torch.randn(1, 8, group, generator=torch.Generator().manual_seed(0))
    advantages = credit.combine(credit.vector(nats[..., None]), torch.ones(1, 1))
    left = PolicyLoss(kl_coef=1.0).charge_kl(advantages, nats[..., None], torch.zeros(1, 8, group, 1))
    assert left.norm() < 1e-5 * advantages.norm()
