"""docs/examples/by_hand.py explains the package in one file: each of its functions is held to the package's own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pareto_align.front import Preference, grid, hypervolume, nondominated_mask, select
from pareto_align.learning.credit import make_credit
from pareto_align.testing import exact
from pareto_align.testing.judging import judged_fit
from pareto_align.testing.problems import KnownFrontProblem
from pareto_align.weighting import Chebyshev, Signal
from pareto_align.weighting.base import interior

FILE = Path(__file__).parents[2] / "docs" / "examples" / "by_hand.py"


@pytest.fixture(scope="module")
def by_hand():
    spec = importlib.util.spec_from_file_location("by_hand", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_it_is_short_and_knows_nothing_of_the_package():
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    assert [line for line in lines if line.startswith(("import ", "from "))] == ["import numpy as np", "import torch"]


def test_advantages_are_those_of_the_centred_credit(by_hand, rng):
    rewards = rng.random((4, 6, 2))
    ours = make_credit("centred").vector(torch.tensor(rewards[:, None]))[:, 0]
    np.testing.assert_allclose(by_hand.advantages(rewards), ours, atol=1e-12)


def test_the_preferences_are_the_grid(by_hand):
    found = by_hand.grid()
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(grid(2, by_hand.K), axis=0), atol=1e-12)


def test_weights_are_those_of_chebyshev(by_hand, rng):
    values = rng.random((8, 2))
    theirs = Chebyshev(ideal=[1.0, 1.1], nadir=[0.0, 0.3])
    theirs.setup(8, 2)
    expected = theirs(Signal(0, 10, values, by_hand.grid()))
    preferences = interior(by_hand.grid(), theirs.floor)
    found = by_hand.chebyshev_weights(preferences, values, np.array([1.0, 1.1]), np.array([1.0, 0.8]))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_every_policy_begins_as_the_frozen_model(by_hand):
    model = by_hand.frozen_model(3)
    prompt, layer, head = model
    expected = (head @ torch.tanh(layer @ prompt)).log_softmax(-1).expand(by_hand.K, -1)
    torch.testing.assert_close(by_hand.log_probabilities(model, by_hand.fresh_adapters(4)), expected)


def test_the_loss_is_reinforce(by_hand, rng):
    """Its gradient in the log-probabilities, by a loop: minus advantage over G at each token that was said."""
    K, G, V = 3, 5, 4
    logprobs = torch.randn(K, V, requires_grad=True)
    tokens = torch.tensor(rng.integers(0, V, (K, G)))
    advantage, weights = rng.random((K, G, 2)), rng.random((K, 2))
    by_hand.loss_of(logprobs, tokens, advantage, weights).backward()
    expected = np.zeros((K, V))
    for k in range(K):
        for g in range(G):
            expected[k, tokens[k, g]] -= advantage[k, g] @ weights[k] / G
    np.testing.assert_allclose(logprobs.grad.numpy(), expected, atol=1e-6)


def test_dominance_hypervolume_and_choice(by_hand, rng):
    for _ in range(20):
        values = rng.random((12, 2))
        kept = by_hand.not_dominated(values)
        np.testing.assert_array_equal(kept, nondominated_mask(values))
        assert by_hand.hypervolume(values) == pytest.approx(hypervolume(values, np.zeros(2)))
        wish = rng.dirichlet(np.ones(2))
        for place, rule in ((False, "linear"), (True, "chebyshev")):
            span = np.ptp(values, axis=0)
            found = select(
                values, np.zeros_like(values), Preference(wish), rule=rule, lower=np.zeros(2), upper=np.ones(2),
                span=span if place else None,
            )  # fmt: skip
            assert by_hand.choose(values, wish, place) == found.index


def test_it_finds_the_front_that_the_package_finds(by_hand, tmp_path):
    """The same rewards, policies, rollouts and steps on another model: both fill the front. Found: .97 and .88."""
    table = by_hand.rewards()
    reference = np.zeros(2)
    problem = KnownFrontProblem(
        "by-hand", V=by_hand.V, T=1, rewards=table[None], reference=reference, bounds=((0.0, 1.0),) * 2
    )
    theirs = judged_fit(
        problem, tmp_path / "run", population=by_hand.K, group_size=by_hand.G, steps=by_hand.STEPS,
        learning_rate=by_hand.RATE, weighting="chebyshev", eval_every=by_hand.STEPS,
    )  # fmt: skip
    ours, _ = by_hand.fit(table)
    last = ours[-by_hand.K :]
    most = exact.attainable_hypervolume(exact.convex_front(problem.rewards), reference, by_hand.K)
    shares = [
        exact.hypervolume(last, reference) / most,
        exact.hypervolume(problem_values(problem, theirs.policies), reference) / most,
    ]
    assert min(shares) > 0.85
    assert abs(shares[0] - shares[1]) < 0.12


def problem_values(problem, policies):
    return np.stack([exact.expected_rewards(policy, problem.rewards) for policy in policies])


def test_the_command_prints_a_front(by_hand):
    done = subprocess.run([sys.executable, str(FILE)], capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert "on the front, hypervolume 0." in lines[0]
    assert lines[-1].startswith("a user who wants (0.5, 0.5) gets [")
