from __future__ import annotations

import numpy as np
import pytest

from pareto_align.weighting.evidence import reward_covariances

NAN = np.nan


def test_gold_values() -> None:
    # Prompt 1: (0, 1), (2, 0): means 1 and .5; variances 1 and .25, covariance (-1 * .5 + 1 * -.5) / 2 = -.5.
    # Prompt 2: (1, 1), (1, 3): variances 0 and 1, covariance 0. The mean of the two matrices.
    rewards = [[[[0, 1], [2, 0]], [[1, 1], [1, 3]]]]
    np.testing.assert_allclose(reward_covariances(rewards), [[[0.5, -0.25], [-0.25, 0.625]]])


def test_it_is_what_numpy_finds_prompt_by_prompt() -> None:
    rewards = 1e4 + np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    plain = [np.mean([np.cov(group.T, bias=True) for group in policy], axis=0) for policy in rewards]
    np.testing.assert_allclose(reward_covariances(rewards), plain, rtol=1e-9, atol=1e-12)


def test_missing_rewards_are_left_out_pair_by_pair() -> None:
    rng = np.random.default_rng(1)
    rewards = rng.standard_normal((1, 2, 6, 2))
    rewards[0, 0, 0, 1] = rewards[0, 1, :5, 0] = NAN
    found = reward_covariances(rewards)[0]
    # The second prompt has one completion left with a first reward: no covariance there.
    first = np.cov(rewards[0, 0, 1:].T, bias=True)
    np.testing.assert_allclose(found[0, 0], rewards[0, 0, :, 0].var())
    np.testing.assert_allclose(found[0, 1], first[0, 1])
    np.testing.assert_allclose(found[1, 1], (np.nanvar(rewards[0, 0, :, 1]) + rewards[0, 1, :, 1].var()) / 2)
    assert np.isnan(reward_covariances(np.full((1, 2, 3, 2), NAN))).all()


def test_with_one_completion_a_prompt_the_batch_is_the_group() -> None:
    rewards = np.random.default_rng(2).standard_normal((2, 6, 1, 3))
    np.testing.assert_allclose(reward_covariances(rewards), reward_covariances(rewards.transpose(0, 2, 1, 3)))
    assert np.isfinite(reward_covariances(rewards)).all()


@pytest.mark.parametrize("seed", range(3))
def test_covariances_with_the_mixed_advantage(seed: int) -> None:
    """R w is the covariance of every reward with the centred advantages mixed by w."""
    import torch

    from pareto_align.learning.credit import make_credit

    rewards = np.random.default_rng(seed).random((2, 3, 6, 3))
    weights = np.random.default_rng([seed, 1]).dirichlet(np.ones(3), 2)
    credit = make_credit("centred")
    advantage = credit.combine(credit.vector(torch.from_numpy(rewards)), torch.from_numpy(weights)).numpy()
    centred = rewards - rewards.mean(2, keepdims=True)
    direct = (centred * advantage[..., None]).mean((1, 2))
    np.testing.assert_allclose(np.einsum("kij,kj->ki", reward_covariances(rewards), weights), direct, rtol=1e-9)
