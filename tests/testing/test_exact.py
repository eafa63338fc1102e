"""The judge is judged: closed forms, brute force and independent optimisers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from pareto_align.errors import ConfigError
from pareto_align.testing import exact
from pareto_align.testing.problems import PROBLEMS, get_problem


def random_case(seed: int, *, n_prompts: int = 2, size: int = 12, m: int = 3):
    """A reference policy, rewards, weights and another policy, all random."""
    rng = np.random.default_rng(seed)
    reference, other = rng.dirichlet(np.ones(size), size=(2, n_prompts))
    return reference, rng.normal(size=(n_prompts, size, m)), rng.dirichlet(np.ones(m)), other


# ------------------------------------------------------------------------------------------------ one policy


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("beta", [0.0, 0.02, 0.3, 5.0])
def test_the_optimal_policy_has_no_regret_and_every_other_has_some(seed, beta):
    reference, rewards, w, other = random_case(seed)
    best = exact.optimal_policy(reference, rewards, w, beta)
    assert np.allclose(best.sum(axis=1), 1.0)
    assert exact.regret(best, reference, rewards, w, beta) == pytest.approx(0.0, abs=1e-12)
    assert exact.missed_share(best, reference, rewards, w, beta) == pytest.approx(0.0, abs=1e-10)
    for share in (0.01, 0.5, 1.0):
        assert exact.regret((1 - share) * best + share * other, reference, rewards, w, beta) > 1e-7


@pytest.mark.parametrize("beta", [0.0, 0.02, 0.3])
def test_the_reference_policy_misses_everything(beta):
    reference, rewards, w, _ = random_case(0)
    assert exact.missed_share(reference, reference, rewards, w, beta) == pytest.approx(1.0)
    assert exact.kl_divergence(reference, reference) == 0.0


def test_the_best_value_is_what_gradient_ascent_on_tabular_logits_finds():
    reference, rewards, w, _ = random_case(3, size=16)  # 4 symbols, 2 long, 2 prompts
    beta, utility = 0.2, rewards @ w

    def loss(logits):
        logits = logits.reshape(2, 16)
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        p = np.exp(log_p)
        each = utility - beta * (log_p - np.log(reference))
        value = (p * each).sum(axis=1, keepdims=True)
        return -value.mean(), -(p * (each - value) / 2).ravel()

    found = minimize(loss, np.zeros(32), jac=True, method="BFGS", options={"gtol": 1e-9})
    policy = np.exp(found.x.reshape(2, 16))
    policy /= policy.sum(axis=1, keepdims=True)
    assert -found.fun == pytest.approx(exact.best_value(reference, rewards, w, beta), abs=1e-9)
    assert np.abs(policy - exact.optimal_policy(reference, rewards, w, beta)).max() < 1e-5
    assert exact.policy_value(policy, reference, rewards, w, beta) == pytest.approx(-found.fun, abs=1e-12)


def test_beta_zero_is_the_limit_of_small_beta():
    reference, rewards, w, _ = random_case(1)
    rewards[0, 3] = rewards[0, 7] = rewards[0].max() + 1.0  # a tie is split as the reference splits it
    limit = exact.optimal_policy(reference, rewards, w, 0.0)
    assert limit[0, 3] / limit[0, 7] == pytest.approx(reference[0, 3] / reference[0, 7])
    assert np.allclose(limit, exact.optimal_policy(reference, rewards, w, 1e-4), atol=1e-6)
    assert exact.best_value(reference, rewards, w, 0.0) == pytest.approx((rewards @ w).max(axis=1).mean())
    assert exact.best_value(reference, rewards, w, 1e-6) == pytest.approx((rewards @ w).max(axis=1).mean(), abs=1e-4)


def test_kl_by_hand():
    half, skew = np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([[1.0, 0.0], [0.5, 0.5]])
    assert exact.kl_divergence(skew, half) == pytest.approx(np.log(2.0) / 2)  # one prompt of two
    assert exact.kl_divergence(half, skew) == np.inf
    assert exact.expected_rewards(skew, np.array([[[4.0], [0.0]], [[0.0], [2.0]]])) == pytest.approx([2.5])


def test_huge_utilities_do_not_overflow():
    reference, rewards, w, _ = random_case(2)
    best = exact.optimal_policy(reference, 1e6 * rewards, w, 1e-3)
    assert np.isfinite(best).all()
    assert exact.best_value(reference, 1e6 * rewards, w, 1e-3) == pytest.approx(1e6 * (rewards @ w).max(1).mean())


def test_negative_beta_is_refused():
    reference, rewards, w, _ = random_case(2)
    with pytest.raises(ConfigError, match="beta"):
        exact.best_value(reference, rewards, w, -0.1)


def test_nothing_to_gain_is_nothing_missed():
    reference, rewards, w, other = random_case(2)
    assert exact.missed_share(other, reference, np.ones_like(rewards), w, 0.0) == 0.0


# ------------------------------------------------------------------------------------------------- the front


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_front_at_beta_zero_has_the_support_of_the_reward_table(name):
    problem = get_problem(name)
    front = exact.convex_front(problem.rewards, size=200)
    weights = np.concatenate([np.eye(problem.m), np.random.default_rng(0).dirichlet(np.ones(problem.m), 200)])
    best = (problem.rewards @ weights.T).max(axis=1).mean(axis=0)  # what any policy can have for each weight
    reached = (front @ weights.T).max(axis=0)
    assert reached == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_front_points_can_be_reached_and_not_be_beaten(name):
    # Linear programme over all policies: the largest t such that E[r] >= point + t in every objective is exactly 0.
    problem = get_problem(name)
    rewards = problem.rewards / np.ptp(problem.rewards, axis=(0, 1))
    front = exact.convex_front(rewards, size=60)
    n_prompts, size, m = rewards.shape
    flat = rewards.reshape(-1, m).T / n_prompts
    one_policy = np.c_[np.kron(np.eye(n_prompts), np.ones(size)), np.zeros(n_prompts)]
    for point in front[np.random.default_rng(0).permutation(len(front))[:6]]:
        answer = linprog(
            np.r_[np.zeros(n_prompts * size), -1.0],
            A_ub=np.c_[-flat, np.ones(m)],
            b_ub=-point,
            A_eq=one_policy,
            b_eq=np.ones(n_prompts),
            bounds=[(0, None)] * (n_prompts * size) + [(None, None)],
        )
        assert answer.fun == pytest.approx(0.0, abs=1e-8)


def test_points_of_a_front_are_attainable_and_evenly_spaced():
    front = exact.convex_front(get_problem("flat").rewards, size=101)
    assert front.sum(axis=1) == pytest.approx(1.0)  # the segment between (1, 0) and (0, 1)
    assert front[:, 0] == pytest.approx(np.linspace(1.0, 0.0, 101))
    assert exact.convex_front(get_problem("dent").rewards, size=101).sum(axis=1) == pytest.approx(1.0)
    symbols = get_problem("arc").rewards[0]
    front = exact.convex_front(symbols[None])
    assert all(np.isclose(front, symbol).all(axis=1).any() for symbol in symbols)  # every symbol is a vertex


def test_the_front_of_two_prompts_is_their_minkowski_average():
    # A square corner at (1, 1) averaged with the segment (2, 0)-(0, 2): the segment (1.5, .5)-(.5, 1.5).
    rewards = np.array([[[1.0, 1.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 2.0]]])
    front = exact.convex_front(rewards, size=11)
    assert front.sum(axis=1) == pytest.approx(2.0)
    assert (front[0], front[-1]) == (pytest.approx([1.5, 0.5]), pytest.approx([0.5, 1.5]))


def test_fronts_thinner_than_the_space():
    assert exact.convex_front(np.array([[[1.0, 2.0], [0.0, 1.0]]])) == pytest.approx(np.array([[1.0, 2.0]]))
    line = exact.convex_front(np.array([[[1.0, 0.0, 5.0], [0.0, 1.0, 5.0]]]), size=50)
    assert len(line) == 50
    assert line[:, :2].sum(axis=1) == pytest.approx(1.0)
    assert line[:, 2] == pytest.approx(5.0)


def test_units_do_not_change_the_shape_of_the_front():
    arc, scales = get_problem("arc").rewards, get_problem("scales").rewards
    assert exact.convex_front(arc) * [1.0, 0.01] == pytest.approx(exact.convex_front(scales))


def test_the_regularized_front_runs_from_the_reference_to_the_front():
    problem = get_problem("arc")
    reference = np.full((1, 32), 1 / 32)
    weights = np.stack([np.linspace(0, 1, 9), np.linspace(1, 0, 9)], axis=1)
    far = exact.regularized_front(reference, problem.rewards, weights, 1e4)
    near = exact.regularized_front(reference, problem.rewards, weights, 1e-4)
    assert far == pytest.approx(np.tile(exact.expected_rewards(reference, problem.rewards), (9, 1)), abs=1e-3)
    best = (problem.rewards[0] @ weights.T).max(axis=0)
    assert (near * weights).sum(axis=1) == pytest.approx(best, abs=1e-3)
    middle = exact.regularized_front(reference, problem.rewards, weights, 0.05)
    assert (np.diff(middle[:, 0]) > 0).all()
    assert (np.diff(middle[:, 1]) < 0).all()


# ----------------------------------------------------------------------------------------------- hypervolume


def test_hypervolume_ignores_points_below_the_reference():
    points = np.array([[0.5, 0.5], [2.0, -1.0], [0.2, 0.2]])
    assert exact.hypervolume(points, np.zeros(2)) == pytest.approx(0.25)
    assert exact.hypervolume(points[1:2], np.zeros(2)) == 0.0


@pytest.mark.parametrize("size", [1, 2, 8])
def test_attainable_hypervolume_of_a_straight_front(size):
    # n points between (0, 1) and (1, 0) cover at most n / (n + 1) of the area one half.
    front = exact.convex_front(get_problem("flat").rewards, size=1001)
    assert exact.attainable_hypervolume(front, np.zeros(2), size) == pytest.approx(0.5 * size / (size + 1), rel=1e-4)


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_attainable_hypervolume_against_all_subsets(m, seed):
    points = np.abs(np.random.default_rng(seed).normal(size=(11, m)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    low = np.full(m, -0.1)
    every = [exact.hypervolume(points[list(c)], low) for c in itertools.combinations(range(11), 4)]
    found = exact.attainable_hypervolume(points, low, 4)
    assert found == pytest.approx(max(every), rel=1e-12 if m == 2 else 0.01)
    assert exact.attainable_hypervolume(points, low, 11) == pytest.approx(exact.hypervolume(points, low))


def test_the_arc_for_eight_points():
    # Below the quarter disc, above what eight evenly spaced angles without the corners cover.
    problem = get_problem("arc")
    found = exact.attainable_hypervolume(exact.convex_front(problem.rewards), problem.reference, 8)
    angle = np.linspace(0, np.pi / 2, 10)[1:-1]
    even = exact.hypervolume(np.stack([np.cos(angle), np.sin(angle)], axis=1), np.zeros(2))
    assert even * 0.999 < found < np.pi / 4
    assert found == pytest.approx(0.7395, abs=5e-4)


@pytest.mark.parametrize("name", [n for n in PROBLEMS if n != "hacked"])
def test_more_points_attain_more(name):
    problem = get_problem(name)
    front = exact.convex_front(problem.rewards, size=150)
    values = [exact.attainable_hypervolume(front, problem.reference, n) for n in (1, 2, 4, 8)]
    assert (np.diff(values) > 0).all()
    assert values[-1] < exact.hypervolume(front, problem.reference)


def test_the_hypervolume_of_no_points_is_refused():
    with pytest.raises(ConfigError, match="size"):
        exact.attainable_hypervolume(np.eye(2), np.zeros(2), 0)


# ---------------------------------------------------------------------------------------------------- judge


def test_optimal_policies_are_judged_perfect():
    problem = get_problem("arc")
    reference = np.random.default_rng(0).dirichlet(np.full(32, 5.0), size=1)
    preferences = np.stack([np.cos(np.linspace(0.0, np.pi / 2, 8)), np.sin(np.linspace(0.0, np.pi / 2, 8))], axis=1)
    preferences /= preferences.sum(axis=1, keepdims=True)
    tables = [exact.optimal_policy(reference, problem.rewards, w, 0.01) for w in preferences]
    verdict = exact.judge(problem, tables, reference, preferences, beta=0.01)
    assert verdict.regret == pytest.approx(np.zeros(8), abs=1e-9)
    assert verdict.missed_share == pytest.approx(np.zeros(8), abs=1e-9)
    assert (verdict.kl > 0.5).all()
    assert 0.95 < verdict.hypervolume_ratio < 1.0  # corners included: a little less than the best eight points


def test_a_dense_set_of_optimal_policies_has_ratio_one():
    problem = get_problem("arc")
    angle = np.linspace(0.0, np.pi / 2, 64)
    reference = np.full((1, 32), 1 / 32)
    weights = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = exact.regularized_front(reference, problem.rewards, weights, 1e-5)
    ratio = exact.hypervolume_ratio(points, exact.convex_front(problem.rewards), problem.reference)
    assert ratio == pytest.approx(1.0, abs=0.015)


@pytest.mark.parametrize("name", ["arc", "contexts", "strings"])
def test_the_reference_policy_is_judged_untrained(name):
    problem = get_problem(name)
    size = problem.rewards.shape[1]
    reference = np.random.default_rng(0).dirichlet(np.full(size, 5.0), size=len(problem.prompts))
    verdict = exact.judge(problem, [reference] * problem.m, reference, np.eye(problem.m), beta=0.05)
    assert verdict.missed_share == pytest.approx(np.ones(problem.m))
    assert verdict.kl == pytest.approx(np.zeros(problem.m), abs=1e-12)
    assert verdict.hypervolume_ratio < 0.7


def test_the_verdict_does_not_depend_on_units():
    arc, scales = get_problem("arc"), get_problem("scales")
    rng = np.random.default_rng(0)
    tables, preferences = rng.dirichlet(np.full(32, 0.2), size=(4, 1)), rng.dirichlet(np.ones(2), size=4)
    reference = np.full((1, 32), 1 / 32)
    first, second = (exact.judge(p, tables, reference, preferences) for p in (arc, scales))
    assert first.hypervolume_ratio == pytest.approx(second.hypervolume_ratio, rel=1e-9)


def test_preferences_of_the_wrong_shape_are_refused():
    problem = get_problem("arc")
    reference = np.full((1, 32), 1 / 32)
    with pytest.raises(ConfigError, match=r"\(1, 2\).*\(2, 2\)"):
        exact.judge(problem, [reference], reference, np.eye(2))
