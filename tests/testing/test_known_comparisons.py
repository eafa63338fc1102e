"""Comparisons with known best policies, and that preference losses lead there: on tables, without a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pareto_align.data.agreement import ceiling, pooled_pairs
from pareto_align.learning.preferences import PairView, make_losses
from pareto_align.testing.comparisons import (
    all_pairs,
    chebyshev_places,
    conflict_comparisons,
    ipo_policy,
    label_probabilities,
    linear_places,
    loss_weighted_policy,
    mirror_steps,
    problem_comparisons,
    regularized_equilibrium,
)
from pareto_align.testing.exact import optimal_policy
from pareto_align.testing.problems import get_problem
from pareto_align.weighting import Signal, make

REFERENCE = np.array([[0.5, 0.3, 0.2]])
REWARDS = np.array([[[1.0, -1.0], [0.0, 0.5], [-1.0, 1.0]]])
BETA = 0.5
GRID = np.array([[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.0, 1.0]])


def distance(p, q):
    """Total variation."""
    return 0.5 * np.abs(np.asarray(p) - np.asarray(q)).sum(-1)


# ------------------------------------------------------------------------------------------------ golds


@pytest.mark.parametrize(
    ("weights", "losses", "rewards", "ipo"),
    [
        ((1, 0), (0.918672, 0.074597, 0.006730), (0.918672, 0.074597, 0.006730), (0.634543, 0.253199, 0.112259)),
        ((0.5, 0.5), (0.441921, 0.386456, 0.171623), (0.418544, 0.414038, 0.167418), (0.486353, 0.320533, 0.193114)),
        ((0, 1), (0.028661, 0.345403, 0.625936), (0.028661, 0.345403, 0.625936), (0.335602, 0.365315, 0.299083)),
    ],
)
def test_where_weighing_losses_rewards_and_ipo_lead(weights, losses, rewards, ipo):
    np.testing.assert_allclose(loss_weighted_policy(REFERENCE, REWARDS, weights, BETA)[0], losses, atol=2e-6)
    np.testing.assert_allclose(optimal_policy(REFERENCE, REWARDS, weights, BETA)[0], rewards, atol=2e-6)
    np.testing.assert_allclose(ipo_policy(REFERENCE, REWARDS, weights, 0.5)[0], ipo, atol=2e-6)


def test_places_on_the_front_of_a_conflict():
    grid = np.array([[0.9, 0.1], [0.75, 0.25], [0.5, 0.5]])
    np.testing.assert_allclose(linear_places(0.4, grid), [[0.939, -0.329], [0.834, 0.2], [0.6, 0.6]], atol=5e-4)
    np.testing.assert_allclose(chebyshev_places(0.4, grid), [[0.888, -0.004], [0.779, 0.338], [0.6, 0.6]], atol=1e-3)


CIRCLE = [[0.5, 0.7, 0.3], [0.3, 0.5, 0.7], [0.7, 0.3, 0.5]]
GAME = [[0.5, 0.9, 0.2], [0.1, 0.5, 0.6], [0.8, 0.4, 0.5]]


@pytest.mark.parametrize(
    ("game", "tau", "expected"),
    [
        (CIRCLE, 1.0, (0.507796, 0.282838, 0.209366)),
        (CIRCLE, 0.1, (0.446524, 0.239104, 0.314372)),
        (CIRCLE, 0.05, (0.388414, 0.266938, 0.344648)),
        (GAME, 1.0, (0.519498, 0.251039, 0.229463)),
        (GAME, 0.1, (0.297143, 0.192966, 0.509891)),
        (GAME, 0.05, (0.198277, 0.254254, 0.547468)),
    ],
)
def test_equilibria_of_games(game, tau, expected):
    found = regularized_equilibrium(game, REFERENCE[0], tau)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    residual = np.log(found) - np.log(REFERENCE[0]) - np.asarray(game) @ found / tau
    assert np.ptp(residual) < 1e-9


@pytest.mark.parametrize(
    ("rate", "plain", "ahead"),
    [(0.5, (0.4189, 0.00497), (0.3964, 0.00287)), (1.0, (0.1916, 4.4e-5), (0.1679, 5e-6)), (3.0, (0.0629,), (0.0037,))],
)
def test_looking_ahead_comes_nearer_to_the_equilibrium_the_more_so_the_larger_the_steps(rate, plain, ahead):
    """L1 distance after 10 and 100 exact steps; golds of another implementation."""
    equilibrium = regularized_equilibrium(GAME, REFERENCE[0], 0.1)
    left = {
        look: [
            np.abs(mirror_steps(GAME, REFERENCE[0], 0.1, rate, steps, look_ahead=look) - equilibrium).sum()
            for steps in (10, 100)[: len(plain)]
        ]
        for look in (False, True)
    }
    np.testing.assert_allclose(left[False], plain, rtol=0.02)
    np.testing.assert_allclose(left[True], ahead, rtol=0.15)
    if rate == 3.0:
        assert left[True][0] < left[False][0] / 10


# ------------------------------------------------------------------------------------------------ training on tables


def train(loss, labels, *, weights=None, steps=600, rate=0.05, reference=REFERENCE, repeats=1, **more):
    """Policies `[K, X, S]` that are tables of logits, trained by the loss's coefficients alone."""
    K, (X, S) = len(GRID), reference.shape
    pairs = all_pairs(S)
    r0 = torch.from_numpy(np.log(reference))[None]
    theta = r0.repeat(K, 1, 1).requires_grad_()
    view = {
        "lengths": torch.ones(X, S, dtype=torch.long),
        "pairs": torch.tensor([(x, a, b) for x in range(X) for a, b in np.repeat(pairs, repeats, axis=0)]),
        "labels": torch.from_numpy(labels.reshape(-1, labels.shape[-1])),
        "reference": r0,
        **more,
    }
    fixed = torch.ones(K, labels.shape[-1]).double() if weights is None else torch.from_numpy(weights)
    optimizer = torch.optim.Adam([theta], lr=rate)
    for step in range(steps):
        logps = theta.log_softmax(-1)
        _, slopes = loss.coefficients(PairView(logps=logps, **view))
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        ((slopes.detach() * fixed[:, None, None]).sum(-1) * logps).sum().backward()
        optimizer.step()
    return theta.detach().softmax(-1).numpy()


@pytest.fixture(scope="module")
def table():
    """A larger table: two prompts, six responses, two objectives in conflict."""
    rng = np.random.default_rng(0)
    reference = rng.dirichlet(np.full(6, 5.0), 2)
    rewards = np.clip(rng.normal(size=(2, 6, 2)), -1.5, 1.5)
    return reference, rewards, label_probabilities(rewards, all_pairs(6))


def test_a_weighted_sum_of_losses_leads_to_its_own_optimum(table):
    reference, rewards, labels = table
    found = train(make_losses("sigmoid", beta=BETA), labels, weights=GRID, reference=reference)
    for policy, w in zip(found, GRID, strict=True):
        assert distance(policy, loss_weighted_policy(reference, rewards, w, BETA)).max() < 0.002
    # and not to that of the weighted reward, except at the corners
    apart = [
        distance(policy, optimal_policy(reference, rewards, w, BETA)).max()
        for policy, w in zip(found, GRID, strict=True)
    ]
    assert apart[0] < 0.002
    assert apart[2] > 0.01
    assert apart[4] < 0.002


@pytest.mark.parametrize("margins", ["corners", "rewards"])
def test_modpo_leads_to_the_optimum_of_the_weighted_reward(table, margins):
    """All weights in one population; the margins are those of its own corner policies, or true rewards."""
    reference, rewards, labels = table
    more = {"trade": torch.from_numpy(GRID)}
    if margins == "corners":
        more["corners"] = torch.tensor([0, 4])
    else:
        pairs = all_pairs(6)
        gaps = rewards[:, pairs[:, 0]] - rewards[:, pairs[:, 1]]
        more["rewards"] = torch.from_numpy(gaps.reshape(-1, 2))
    found = train(make_losses("modpo", beta=BETA), labels, reference=reference, **more)
    for policy, w in zip(found, GRID, strict=True):
        assert distance(policy, optimal_policy(reference, rewards, w, BETA)).max() < 0.005


def test_modpo_stays_bounded_where_a_weight_is_small():
    """Hard labels, weights of .02 and .98: a response's slope stays within beta m, where the published loss of one set
    of labels, which divides by its weight, goes beyond ten times that."""
    grid = np.array([[1.0, 0.0], [0.02, 0.98], [0.5, 0.5], [0.98, 0.02], [0.0, 1.0]])
    labels = np.array([[[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 1.0]]])  # of one pair of each of three prompts
    loss, seen = make_losses("modpo", beta=BETA), []

    class Watched:
        def coefficients(self, view):
            values, slopes = loss.coefficients(view)
            seen.append(3 * slopes.detach()[:, :, 0])  # [K, prompts, m]; the batch's loss is the mean of the prompts'
            assert torch.isfinite(values[1:4]).all()
            return values, slopes

    more = {"trade": torch.from_numpy(grid), "corners": torch.tensor([0, 4])}
    found = train(Watched(), labels, steps=200, reference=np.full((3, 2), 0.5), **more)
    assert np.isfinite(found).all()
    slopes = torch.stack(seen)
    assert slopes.sum(-1).abs().max() <= BETA * 2
    published = slopes[:, 1:4] / torch.from_numpy(grid[1:4])[:, None]
    assert published.abs().max() > 10 * BETA * 2


def test_pooled_logits_lead_there_too(table):
    reference, rewards, labels = table
    found = train(make_losses("logit_pool", beta=BETA), labels, reference=reference, trade=torch.from_numpy(GRID))
    for policy, w in zip(found, GRID, strict=True):
        assert distance(policy, optimal_policy(reference, rewards, w, BETA)).max() < 0.005


def test_ipo_leads_to_least_squares(table):
    reference, rewards, labels = table
    found = train(make_losses("ipo", beta=BETA, normalize="none"), labels, weights=GRID, reference=reference)
    for policy, w in zip(found, GRID, strict=True):
        assert distance(policy, ipo_policy(reference, rewards, w, BETA)).max() < 0.002


def test_rewards_as_targets_lead_to_the_optimum_of_the_reward(table):
    reference, rewards, labels = table
    loss = make_losses("copg", beta=BETA)
    found = train(loss, labels, weights=GRID, reference=reference, scores=torch.from_numpy(rewards))
    # a sum of squares with weights is one square of the weighted reward, so here both ways of weighing agree
    for policy, w in zip(found, GRID, strict=True):
        assert distance(policy, optimal_policy(reference, rewards, w, BETA)).max() < 0.002


def test_smoothing_and_flips_undo_each_other():
    """cDPO's optimum has the smoothed odds; rDPO's on flipped labels is DPO's on clean ones."""
    labels = np.array([[[0.8, 0.8]]])
    two = np.array([[0.5, 0.5]])
    e = 0.2

    def odds(policy):
        return np.log(policy[0, 0, 0] / policy[0, 0, 1])

    smoothed = train(make_losses("cdpo", beta=BETA, label_smoothing=e), labels, weights=GRID, reference=two)
    target = (1 - e) * 0.8 + e * 0.2
    assert odds(smoothed) == pytest.approx(np.log(target / (1 - target)) / BETA, abs=1e-2)
    # 68 of 100 labels are flipped versions of 80 of 100
    many = np.concatenate([np.ones((68, 2)), np.zeros((32, 2))])
    pairs = torch.zeros(100, 3, dtype=torch.long)
    pairs[:, 2] = 1
    view = PairView(
        logps=torch.log(torch.tensor([[[0.8, 0.2]]], dtype=torch.float64)),
        reference=torch.log(torch.tensor([[[0.5, 0.5]]], dtype=torch.float64)),
        lengths=torch.ones(1, 2, dtype=torch.long),
        pairs=pairs,
        labels=torch.from_numpy(many),
    )
    # at the clean optimum, D = logit(.8) / beta with beta 1, the corrected loss is flat on the flipped labels
    _, slopes = make_losses("robust", beta=1.0, label_smoothing=e).coefficients(view)
    assert slopes.abs().max() < 1e-10


def test_an_objective_with_few_labels_keeps_its_optimum(table):
    """Seven of ten labels of one objective are missing at random, and its pull on the mixed policies is what it was."""
    reference, rewards, labels = table
    many = np.repeat(labels, 60, axis=1)
    bare = many.copy()
    bare[np.random.default_rng(1).random(many.shape[:2]) < 0.7, 1] = np.nan
    found = train(make_losses("sigmoid", beta=BETA), bare, weights=GRID, reference=reference, repeats=60)
    for policy, w in zip(found, GRID, strict=True):
        assert distance(policy, loss_weighted_policy(reference, rewards, w, BETA)).max() < 0.015
    # a mean over all pairs would have made it as weak as a weight of .15
    weak = loss_weighted_policy(reference, rewards, [0.5, 0.15], BETA)
    assert distance(found[2], weak).min() > 0.03


# ------------------------------------------------------------------------------------------------ weightings


@pytest.mark.parametrize(
    ("weighting", "places", "tolerance"),
    [
        ({"name": "fixed"}, linear_places, 0.01),
        ({"name": "chebyshev", "ideal": [1, 1], "nadir": [0, 0], "smoothing": 0.0, "mu": 0.05}, chebyshev_places, 0.06),
        ({"name": "maxmin"}, None, 0.02),
    ],
)
def test_weightings_stand_at_their_places_on_the_front_that_labels_allow(weighting, places, tolerance):
    """Ten pairs, four of them in conflict; values are what is explained of each objective's labels."""
    grid = np.array([[0.9, 0.1], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.1, 0.9]])
    comparisons = conflict_comparisons([f"<{n}>" for n in range(10)], 4)
    labels = torch.from_numpy(comparisons.table().values)
    loss, rule = make_losses("sigmoid", beta=1.0), make(weighting)
    rule.setup(5, 2)
    theta = torch.zeros(5, 10, 2, dtype=torch.float64, requires_grad=True)
    pairs = torch.tensor([(n, 0, 1) for n in range(10)])
    reference = torch.full((1, 10, 2), float(np.log(0.5)), dtype=torch.float64)
    optimizer = torch.optim.Adam([theta], lr=0.2)
    steps, late = 600, []
    for step in range(steps):
        logps = theta.log_softmax(-1)
        view = PairView(logps=logps, reference=reference, lengths=torch.ones(10, 2), pairs=pairs, labels=labels)
        losses, slopes = loss.coefficients(view)
        values = 1 - losses.numpy() / np.log(2)
        weights = torch.from_numpy(rule(Signal(step, steps, values, grid)))
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / steps)
        optimizer.zero_grad()
        ((slopes * weights[:, None, None]).sum(-1) * logps).sum().backward()
        optimizer.step()
        late.append(values)
    found = late[-1]
    if places is None:
        np.testing.assert_allclose(found[1:4], 0.6, atol=tolerance)  # the worst objective is best at (.6, .6)
    else:
        np.testing.assert_allclose(found, places(0.4, grid), atol=tolerance)
    # nobody is above the ceiling, and all are near it
    w = np.linspace(0.001, 0.999, 4001)
    front = ceiling(pooled_pairs(comparisons), np.column_stack([w, 1 - w]))
    for point in found:
        assert np.abs(front - point).max(1).min() < 0.02


# ------------------------------------------------------------------------------------------------ problems


def test_comparisons_of_a_problem_are_its_rewards():
    problem = get_problem("contexts")
    found = problem_comparisons(problem)
    assert found.names == problem.names
    assert len(found) == len(problem.prompts)
    assert len(found[0].labels) == 64 * 63 // 2
    expected = label_probabilities(problem.rewards[0], found[0].labels.pairs)
    np.testing.assert_allclose(found[0].labels.values, expected)
    few = problem_comparisons(problem, pairs=50, hard=True, missing=0.3, seed=1)
    assert len(few[0].labels) == 50
    values = few.table().values
    assert set(np.unique(values[~np.isnan(values)])) == {0.0, 1.0}
    assert np.isnan(values).mean() == pytest.approx(0.3, abs=0.1)
    again = problem_comparisons(problem, pairs=50, hard=True, missing=0.3, seed=1)
    np.testing.assert_array_equal(values, again.table().values)
