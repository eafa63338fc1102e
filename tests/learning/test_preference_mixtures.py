"""Experts of a mixture part where users want opposite things, on a table and without a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pareto_align.errors import ConfigError
from pareto_align.learning.preferences import (
    PairView,
    make_preference,
    random_assignment,
    responsibilities,
    updated_shares,
)
from pareto_align.testing.comparisons import all_pairs
from pareto_align.testing.exact import optimal_policy
from pareto_align.testing.preferences import random_view

BETA, S, USERS, EACH = 0.5, 4, 40, 12
REFERENCE = np.full((1, S), 1 / S)
REWARDS = np.array([1.5, 0.5, -0.5, -1.5])


def comparisons(seed=0):
    """Half of the users judge by the reward, half by its opposite; `EACH` pairs a user, drawn by Bradley and Terry."""
    rng = np.random.default_rng(seed)
    sign = np.where(np.arange(USERS) % 2 == 0, 1.0, -1.0)
    users = np.repeat(np.arange(USERS), EACH)
    pairs = all_pairs(S)[rng.integers(0, S * (S - 1) // 2, len(users))]
    gap = sign[users] * (REWARDS[pairs[:, 0]] - REWARDS[pairs[:, 1]])
    labels = (rng.random(len(users)) < 1 / (1 + np.exp(-gap))).astype(float)
    return sign, torch.from_numpy(users), torch.from_numpy(pairs), torch.from_numpy(labels)[:, None]


def test_two_experts_find_the_two_groups_of_users():
    sign, users, pairs, labels = comparisons()
    K, loss = 2, make_preference({"name": "sigmoid", "beta": BETA})
    theta = torch.zeros(K, 1, S, dtype=torch.float64, requires_grad=True)
    view = PairView(
        logps=theta.detach(),
        reference=torch.full((1, 1, S), float(np.log(1 / S)), dtype=torch.float64),
        lengths=torch.ones(1, S, dtype=torch.long),
        pairs=torch.column_stack([torch.zeros(len(pairs), dtype=torch.long), pairs]),
        labels=labels,
    )
    optimizer, shares, found = torch.optim.Adam([theta], lr=0.05), torch.full((K,), 0.5), random_assignment(K, users, 0)
    steps = 600
    for step in range(steps):
        logps = theta.log_softmax(-1)
        if step >= 20:
            heat = max(1.0, 5 - 4 * step / (0.2 * steps))
            found = responsibilities(replace(view, logps=logps.detach()), BETA, shares, users, temperature=heat)
            shares = updated_shares(shares, found)
        _, slopes = loss.coefficients(replace(view, logps=logps, shares=found))
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        optimizer.zero_grad()
        (slopes[..., 0] * logps).sum().backward()
        optimizer.step()
    of_user = found[:, ::EACH].argmax(0).numpy()
    right = (of_user == (sign < 0)).mean()
    assert max(right, 1 - right) > 0.95
    assert shares.tolist() == pytest.approx([0.5, 0.5], abs=0.1)
    experts = theta.detach().softmax(-1).numpy()[:, 0]
    best = [optimal_policy(REFERENCE, REWARDS[None, :, None] * side, [1.0], BETA)[0] for side in (1, -1)]
    if right < 0.5:
        best = best[::-1]
    for expert, truth in zip(experts, best, strict=True):
        assert 0.5 * np.abs(expert - truth).sum() < 0.08  # of 240 comparisons each


def test_one_policy_for_both_learns_nothing():
    _, _, pairs, _ = comparisons()
    both = torch.full((len(pairs), 1), 0.5, dtype=torch.float64)  # what the two groups say on average
    view = PairView(
        logps=torch.log_softmax(torch.zeros(1, 1, S, dtype=torch.float64), -1),
        reference=torch.full((1, 1, S), float(np.log(1 / S)), dtype=torch.float64),
        lengths=torch.ones(1, S, dtype=torch.long),
        pairs=torch.column_stack([torch.zeros(len(pairs), dtype=torch.long), pairs]),
        labels=both,
    )
    _, slopes = make_preference("sigmoid").coefficients(view)
    assert slopes.abs().max() < 1e-12


def test_responsibilities_are_bayes_rule():
    """Two users with log-likelihoods -1 and -3 under two experts of equal shares."""
    x = np.log(np.array([1 / (np.e - 1), 1 / (np.e**3 - 1)]))  # logits whose log sigmoid is -1 and -3
    view = PairView(
        logps=torch.from_numpy(np.column_stack([x, np.zeros(2)]))[:, None],
        reference=torch.zeros(1, 1, 2, dtype=torch.float64),
        lengths=torch.ones(1, 2, dtype=torch.long),
        pairs=torch.tensor([[0, 0, 1], [0, 0, 1]]),
        labels=torch.ones(2, 1, dtype=torch.float64),
    )
    half = torch.tensor([0.5, 0.5])
    alone = responsibilities(view, 1.0, half)
    expected = np.exp([-1, -3]) / np.exp([-1, -3]).sum()
    np.testing.assert_allclose(alone, np.column_stack([expected, expected]))
    # two pairs of one user are as much evidence as there is in both
    together = responsibilities(view, 1.0, half, torch.tensor([0, 0]))
    np.testing.assert_allclose(together[:, 0], np.exp([-2, -6]) / np.exp([-2, -6]).sum())
    cool = responsibilities(view, 1.0, half, torch.tensor([0, 0]), temperature=2.0)
    np.testing.assert_allclose(cool, alone)
    np.testing.assert_allclose(responsibilities(view, 1.0, torch.tensor([1.0, 0.0]))[0], [1, 1], atol=1e-9)
    with pytest.raises(ConfigError, match=r"`shares` must have shape \[2\]"):
        responsibilities(view, 1.0, torch.tensor([1.0]))


def test_shares_weigh_pairs_policy_by_policy():
    view = replace(random_view(0, m=1, missing=0.0), weights=None)
    loss = make_preference("sigmoid")
    shares = torch.zeros(3, len(view.pairs), dtype=torch.float64)
    shares[0], shares[1, :2], shares[2, 3] = 1, 0.5, 0.2
    values, slopes = loss.coefficients(replace(view, shares=shares))
    each = loss.losses(view)[..., 0]
    expected = [each[0].mean(), each[1, :2].mean(), each[2, 3]]
    np.testing.assert_allclose(values[:, 0], expected)
    assert (slopes[1, 2:] == 0).all()
    again, margins, factors = loss.slopes(replace(view, shares=shares))
    torch.testing.assert_close(again, values)
    torch.testing.assert_close(margins[..., 0] * factors[:, :, 0], slopes[:, :, 0, 0])
    with pytest.raises(ConfigError, match="no form for shares"):
        make_preference("sft").values(replace(view, shares=shares))


def test_users_are_dealt_evenly():
    found = random_assignment(3, torch.arange(30).repeat_interleave(2), seed=1)
    assert found.shape == (3, 60)
    assert found.sum(1).tolist() == [20, 20, 20]
    assert (found.sum(0) == 1).all()
    assert (found[:, ::2] == found[:, 1::2]).all()
