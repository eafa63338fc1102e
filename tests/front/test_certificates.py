"""Bounds and intervals at unseen preferences, against truths that can be enumerated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog

from pareto_align.errors import PreferenceError
from pareto_align.front import certificates
from pareto_align.front.certificates import Bounds, Ceiling, bounds_at, ceiling_of
from pareto_align.front.conformal import Quadratic, calibrated_halfwidth, least_calibration
from pareto_align.front.preferences import grid
from pareto_align.testing import exact
from pareto_align.testing.problems import KnownFrontProblem, get_problem

BETA = 0.05


class Distorted:
    """A front of policies that are not the best ones: each answers as if asked for something else, and too softly."""

    def __init__(self, problem: KnownFrontProblem, K: int, seed: int) -> None:
        self.rewards, self.m = problem.rewards, problem.m
        self.reference = np.full(self.rewards.shape[:2], 1 / self.rewards.shape[1])
        self.rng = np.random.default_rng(seed)
        self.skew = 0.15 * self.rng.normal(size=(self.m, self.m))
        self.anchors = np.unique(np.vstack([np.eye(self.m), grid(self.m, K)]).round(9), axis=0)
        self.policies = [self.answer(w) for w in self.anchors]

    def answer(self, w: np.ndarray) -> np.ndarray:
        shown = np.log(w + 0.02) + self.skew @ w
        asked = np.exp(shown - np.logaddexp.reduce(shown))
        softer = BETA * (1 + 0.5 * (1 - (w**2).sum()))
        return exact.optimal_policy(self.reference, self.rewards, asked, softer)

    def drawn(self, policy: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rewards [n, m], log ratios [n] and prompts [n] of `count` answers to each prompt."""
        said = np.stack([self.rng.choice(policy.shape[1], size=count, p=row) for row in policy])
        prompts = np.repeat(np.arange(len(policy)), count)
        places = prompts, said.ravel()
        return self.rewards[places], np.log(policy[places] / self.reference[places]), prompts

    def worth(self, policy: np.ndarray, w: np.ndarray) -> float:
        return exact.policy_value(policy, self.reference, self.rewards, w, BETA)

    def best(self, w: np.ndarray) -> float:
        return exact.best_value(self.reference, self.rewards, w, BETA)


def measured_ceilings(front: Distorted, answers: int = 128) -> list[Ceiling]:
    """What each policy's own answers tell."""
    pairs = zip(front.policies, front.anchors, strict=True)
    found = [ceiling_of(*front.drawn(policy, answers), w, BETA) for policy, w in pairs]
    assert all(one.trusted for one in found)
    return found


@pytest.mark.parametrize("m", [2, 3])
def test_both_bounds_hold_for_policies_that_are_not_the_best(m: int) -> None:
    """Of 1,000 unseen preferences (m = 2; 250 of three objectives).

    As published, with the policies taken for optimal, the upper one fails.
    """
    problem = get_problem("contexts", m=m)
    lower_holds, upper_holds, plain_holds, widths = [], [], [], []
    for seed in range(20 if m == 2 else 5):
        front = Distorted(problem, 8, seed)
        told = measured_ceilings(front)
        own = [front.worth(policy, w) for policy, w in zip(front.policies, front.anchors, strict=True)]
        as_if_best = [replace(one, value=value, stderr=0.0) for one, value in zip(told, own, strict=True)]
        for w in np.random.default_rng([seed, 1]).dirichlet(np.ones(m), size=50):
            truth, found = front.best(w), bounds_at(w, front.anchors, told, BETA)
            lower_holds.append(found.lower <= truth)
            upper_holds.append(found.upper >= truth)
            plain_holds.append(bounds_at(w, front.anchors, as_if_best, BETA).upper >= truth)
            widths.append((found.gain, truth - front.worth(front.reference, w)))
    assert np.mean(lower_holds) >= 0.99
    assert np.mean(upper_holds) >= 0.95
    if m == 2:
        assert np.mean(plain_holds) < 0.75
        gain, possible = np.sum(widths, axis=0)
        assert gain < 0.25 * possible


@pytest.mark.parametrize("anchors", [1, 20])
def test_the_ends_hold_though_the_luckiest_of_many_policies_is_taken(anchors: int) -> None:
    """40 policies at 2 preferences (20 at each): without sharing the error the upper end holds in few cases."""
    rng, m = np.random.default_rng(0), 2
    places = np.repeat(np.eye(m), anchors, axis=0)
    holds = []
    for _ in range(400):
        told = [
            Ceiling(1 + 0.1 * up, 0.1, 50.0, 0.0, 0.0, values=tuple(row @ np.eye(m)), errors=(0.1,) * m)
            for up, row in zip(rng.normal(size=len(places)), 1 + 0.1 * rng.normal(size=(len(places), m)), strict=True)
        ]
        found = [bounds_at(w, places, told, BETA) for w in np.eye(m)]
        holds.append([(one.lower <= 1, one.upper >= 1) for one in found])
    # a standard error is .011
    assert np.mean(holds, axis=0).min() >= 0.93


def test_a_ceiling_is_the_value_of_the_best_policy() -> None:
    """From a good policy's answers and from a poor one's alike; the best policy's own say it without noise."""
    front = Distorted(get_problem("contexts"), 2, 0)
    w = np.array([0.3, 0.7])
    best = exact.optimal_policy(front.reference, front.rewards, w, BETA)
    told = ceiling_of(*front.drawn(best, 50), w, BETA)
    assert told.value == pytest.approx(front.best(w), abs=1e-9)
    assert told.stderr == pytest.approx(0, abs=1e-9)
    assert told.effective == pytest.approx(50)
    off = ceiling_of(*front.drawn(front.answer(w), 2000), w, BETA)
    assert abs(off.value - front.best(w)) < 3 * off.stderr
    assert off.kl == pytest.approx(exact.kl_divergence(front.answer(w), front.reference), abs=4 * off.kl_stderr)


def test_a_policy_far_from_the_best_is_refused() -> None:
    front = Distorted(get_problem("strings"), 2, 0)
    # the untrained model's answers, of which one in a thousand is good
    told = ceiling_of(*front.drawn(front.reference, 64), np.array([1.0, 0.0, 0.0]), 0.01)
    assert not told.trusted
    few = ceiling_of(*front.drawn(front.policies[0], 4), front.anchors[0], BETA)
    assert not few.trusted
    with pytest.raises(PreferenceError, match="kl_coef above 0"):
        ceiling_of(*front.drawn(front.reference, 4), np.array([1.0, 0, 0]), 0.0)


def test_what_a_policy_never_says_it_knows_nothing_of() -> None:
    """The limit of any bound from a policy's own answers: here it always says the same, for another preference."""
    front = Distorted(get_problem("strings"), 2, 0)
    far = exact.optimal_policy(front.reference, front.rewards, np.array([1.0, 0, 0]), 0.01)
    w = np.array([0.0, 1.0, 0.0])
    told = ceiling_of(*front.drawn(far, 64), w, BETA)
    assert told.value < front.best(w)
    assert told.covered < 0.01


def test_a_collapsed_policy_is_not_trusted() -> None:
    """32 equal answers have even weights and no noise, and know nothing of what else the untrained model says."""
    told = ceiling_of(np.ones((32, 2)), np.ones(32), np.zeros(32), [0.5, 0.5], BETA)
    assert told.covered == pytest.approx(np.exp(-1))
    assert (told.effective, told.stderr) == (1, pytest.approx(0))
    assert not told.trusted
    assert bounds_at([0.5, 0.5], [[0.5, 0.5]], [told], BETA).upper == np.inf
    # one prompt of two is enough; equal answers are no collapse where the untrained model says nothing else either
    half = ceiling_of(np.ones((64, 2)), np.repeat([1.0, 0.05], 32), np.repeat([0, 1], 32), [0.5, 0.5], BETA)
    assert not half.trusted
    sure = ceiling_of(np.ones((32, 2)), np.full(32, 0.05), np.zeros(32), [0.5, 0.5], BETA)
    assert sure.trusted
    assert sure.effective == pytest.approx(32)


def test_the_prompt_with_fewest_effective_answers_counts() -> None:
    """One prompt has even weights, in the other one answer has nearly all of them."""
    rewards = np.concatenate([np.zeros(32), [5.0], np.zeros(31)])[:, None]
    told = ceiling_of(rewards, np.zeros(64), np.repeat([0, 1], 32), [1.0], BETA)
    assert told.effective == pytest.approx(1)
    assert told.covered == 1
    assert not told.trusted


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_the_cheapest_mixture_of_two_objectives_is_that_of_the_linear_programme(count: int) -> None:
    rng = np.random.default_rng(count)
    found, expected = [], []
    for trial in range(60):
        first = rng.random(count).round(1 + trial % 3)  # some are alike, and some what is asked for
        places, asked = np.column_stack([first, 1 - first]), rng.random() if trial % 4 else first[0]
        costs = rng.normal(1.0, 0.5, count)
        question = np.array([asked, 1 - asked])
        plain = linprog(costs, A_eq=places.T, b_eq=question, bounds=(0, None))
        found.append(certificates._cheapest(costs, places, question))
        expected.append(plain.fun if plain.status == 0 else np.inf)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.isfinite(expected).any()
    assert count > 5 or np.isinf(expected).any()


def test_beyond_the_ceilings_there_is_no_upper_bound() -> None:
    one = Ceiling(1.0, 0.0, 50.0, 0.0, 0.0, values=(1.0, 0.0), errors=(0.0, 0.0))
    anchors = np.array([[0.8, 0.2], [0.4, 0.6]])
    found = bounds_at([0.1, 0.9], anchors, [one, one], BETA)
    assert found.upper == found.gain == np.inf
    assert found.lower == pytest.approx(0.1)
    assert bounds_at([0.6, 0.4], anchors, [one, one], BETA).upper == pytest.approx(1.0)
    # a ceiling that few answers bear is none, and its policy is still worth what it is
    few = replace(one, effective=3.0, values=(1.0, 2.0))
    assert bounds_at([0.6, 0.4], anchors, [one, few], BETA) == Bounds(1.4, np.inf, 1)
    with pytest.raises(PreferenceError, match="No measured policy"):
        bounds_at([0.5, 0.5], np.zeros((0, 2)), [], BETA)


# Split-conformal intervals.


def test_conformal_intervals_cover_what_they_say() -> None:
    """1,000 held-out users: nothing is assumed of the front, which the quadratic does not fit."""
    problem = get_problem("contexts", m=3)
    covered: dict[float, list[np.ndarray]] = {0.9: [], 0.95: []}
    for seed in range(10):
        front = Distorted(problem, 8, seed)
        spread = front.rewards.reshape(-1, 3).std(0) / 8

        def measured(asked: np.ndarray, front: Distorted = front, spread: np.ndarray = spread) -> np.ndarray:
            truth = np.stack([exact.expected_rewards(front.answer(w), front.rewards) for w in asked])
            return truth + front.rng.normal(size=truth.shape) * spread

        predict = Quadratic.fit(front.anchors, measured(front.anchors))
        held, users = (front.rng.dirichlet(np.ones(3), size=count) for count in (19, 100))
        errors, next_errors = measured(held) - predict(held), measured(users) - predict(users)
        for confidence, found in covered.items():
            found.append(np.abs(next_errors) <= calibrated_halfwidth(errors, confidence))
    for confidence, found in covered.items():
        # 10 calibrations of 19, three objectives each: the mean coverage has a standard error of about .015
        assert confidence - 0.03 <= np.mean(found) <= min(confidence + 0.06, 1.0)
    assert np.mean(covered[0.95]) > np.mean(covered[0.9])


def test_the_rank_of_the_half_width() -> None:
    errors = np.arange(1.0, 20.0)[:, None] * [1, -1]
    assert calibrated_halfwidth(errors, 0.9).tolist() == [18.0, 18.0]
    assert calibrated_halfwidth(errors, 0.95).tolist() == [19.0, 19.0]
    assert [least_calibration(c) for c in (0.5, 0.8, 0.9, 0.95)] == [1, 4, 9, 19]
    with pytest.raises(PreferenceError, match="needs 9 held-out preferences"):
        calibrated_halfwidth(errors[:8], 0.9)


def test_a_quadratic_is_found_and_a_plane_where_points_are_few() -> None:
    rng = np.random.default_rng(0)
    asked = rng.dirichlet(np.ones(3), size=12)
    values = asked @ [1.0, 2.0, 3.0] + 2 * asked[:, 0] * asked[:, 1]
    found = Quadratic.fit(asked, values[:, None], ridge=1e-9)
    np.testing.assert_allclose(found([[0.5, 0.5, 0.0]]), [[1.5 + 0.5]], atol=1e-5)
    corners = Quadratic.fit(np.eye(3), np.array([[1.0], [2.0], [3.0]]))
    np.testing.assert_allclose(corners([[1 / 3] * 3]), [[2.0]], atol=1e-6)
