"""Credits for right and wrong answers, the limit on a step, and decorrelated rewards."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_align import Objective, ParetoAligner
from pareto_align.errors import ConfigError
from pareto_align.learning import Disco, Drpo, PolicyLoss, Rdpo
from pareto_align.testing.credit import random_rewards
from pareto_align.testing.judging import judged_fit
from pareto_align.testing.problems import KnownFrontProblem

NAN = math.nan
RIGHT = [1.0, 1.0, 0.0, 0.0]
SCORES = torch.tensor([-0.5, -0.8, -0.4, -1.0], dtype=torch.float64).reshape(1, 1, 4)
SHORT = [0.75, 0.25, 0.5, 0.5]  # 1 - L / L_max of lengths .25, .75, .5, .5
EVEN = torch.tensor([[0.5, 0.5]], dtype=torch.float64)


def answers(*columns: object) -> torch.Tensor:
    """Rewards [1, 1, G, m] by objective."""
    return torch.tensor(columns, dtype=torch.float64).T[None, None]


def mixed(
    credit: Disco, rewards: torch.Tensor, weights: torch.Tensor = EVEN, logprobs: object = SCORES
) -> torch.Tensor:
    """Advantages [G] of one group, as a share of the loss's mean over it."""
    return credit.combine(credit.vector(rewards), weights, logprobs=logprobs)[0, 0] / rewards.shape[2]


# Values of the objective's own gradient on four answers, two right; derived in the module's formulas by hand:
# softmax of (-.04, -.1) is (.514995, .485005), of (-4, -10) (.997527, .002473).
@pytest.mark.parametrize(
    ("tau", "wrong"), [(10.0, [-0.514995, -0.485005]), (0.1, [-0.997527, -0.002473]), (None, [-0.5, -0.5])]
)
def test_disco_gold(tau: float | None, wrong: list[float]) -> None:
    found = mixed(Disco(tau=tau), answers(RIGHT, SHORT))
    np.testing.assert_allclose(found, [0.5, 0.5, *wrong], atol=1e-6)


# The weight of shortness is .5 of the row: lam = .05 there is the published .1 with a weight of 1.
@pytest.mark.parametrize(("lam", "shares"), [(0.05, [0.993307, 0.006693]), (0.5, [0.622459, 0.377541])])
def test_drpo_gold(lam: float, shares: list[float]) -> None:
    found = mixed(Drpo(lam=lam), answers(RIGHT, SHORT))
    np.testing.assert_allclose(found, [*shares, -0.514995, -0.485005], atol=1e-6)


@pytest.mark.parametrize("tau", [10.0, 0.1])
@pytest.mark.parametrize("lam", [0.1, 1.0])
def test_the_advantages_are_the_gradient_of_the_published_objective(tau: float, lam: float) -> None:
    """Of any scores, by autograd: mean over two prompts, of which one has no wrong answer."""
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(1, 2, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    right = torch.tensor([[1, 0, 1, 0, 0, 1], [1] * 6], dtype=torch.float64)
    short = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    shares = (short[0] / lam).exp()[right[0] > 0]
    raised = scores[0, 0][right[0] > 0] @ (shares / shares.sum())
    lowered = tau * (torch.logsumexp(scores[0, 0][right[0] == 0] / tau, 0) - math.log(3))
    (slope,) = torch.autograd.grad((raised - lowered) / 2, scores)
    credit = Drpo(lam=lam, tau=tau)
    rewards = torch.stack([right, short], -1)[None]
    weights = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    found = credit.combine(credit.vector(rewards), weights, logprobs=scores.detach())
    # the loss takes the mean over prompts and completions
    np.testing.assert_allclose(found / found.numel(), slope, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.02, 2.0), st.floats(0.0, 1.0))
def test_a_right_answer_is_never_pushed_down(seed: int, lam: float, weight: float) -> None:
    rewards = random_rewards(G=6, m=3, missing=0.1, seed=seed)
    credit = Drpo(lam=lam)
    weights = torch.tensor([[weight, (1 - weight) / 2, (1 - weight) / 2]] * 3, dtype=torch.float64)
    found = credit.combine(credit.vector(rewards), weights, logprobs=-torch.rand(3, 4, 6, dtype=torch.float64))
    primary = rewards[..., 0]
    assert (found[primary > 0.5] >= 0).all()
    assert (found[primary <= 0.5] <= 0).all()
    assert (found[primary.isnan()] == 0).all()
    # what is given is what is taken, prompt by prompt
    assert torch.allclose(found.sum(2), torch.zeros(3, 4, dtype=found.dtype), atol=1e-9)


def test_groups_that_agree() -> None:
    right = answers([1.0, 1.0, 1.0], [0.9, 0.1, 0.1])
    weights = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    for credit in (Disco(), Drpo()):
        assert not mixed(credit, right, weights, None).any()
    # exp(.8 / .1) = 2980.96 beside 1 and 1: shares .999330 and .000335, less a third
    found = mixed(Drpo(alone="rank"), right, weights, None)
    np.testing.assert_allclose(found, [0.999330 - 1 / 3, 0.000335 - 1 / 3, 0.000335 - 1 / 3], atol=1e-5)
    for alike in (answers([1.0, 1.0], [0.3, 0.3]), answers([0.0, 0.0], [0.9, 0.1])):
        assert not mixed(Drpo(alone="rank"), alike, weights, None).any()
    # an answer whose rightness is not known cannot be ranked with the others
    assert not mixed(Drpo(alone="rank"), answers([1.0, 1.0, NAN], [0.9, 0.1, 0.1]), weights, None).any()


def objectives(bounds: tuple[float, float] | None = (0.0, 1.0)) -> list[Objective]:
    def score(completions: list[str]) -> list[float]:
        return [0.0 for _ in completions]

    return [Objective("short", score, bounds=(0, 10), maximize=False), Objective("correct", score, bounds=bounds)]


def test_the_primary_objective_goes_by_its_name() -> None:
    credit = Drpo(primary="correct")
    credit.check(objectives())
    swapped = answers(SHORT, RIGHT)
    plain = mixed(Drpo(), answers(RIGHT, SHORT))
    np.testing.assert_allclose(mixed(credit, swapped), plain)
    with pytest.raises(ConfigError, match=r"`primary` must be an optimized objective: short, correct\. Found 'right'"):
        Drpo(primary="right").check(objectives())
    with pytest.raises(ConfigError, match="Give it bounds"):
        Disco(primary="correct").check(objectives(bounds=None))


def test_a_run_refuses_a_primary_objective_without_bounds_before_a_model_is_loaded() -> None:
    aligner = ParetoAligner("no such model", objectives(bounds=None), learner={"name": "drpo", "primary": "correct"})
    with pytest.raises(ConfigError, match="Give it bounds"):
        aligner._plan()


@pytest.mark.parametrize(
    ("credit", "setting"),
    [
        (Disco, {"tau": 0.0}),
        (Drpo, {"lam": 0.0}),
        (Drpo, {"alone": "keep"}),
        (Rdpo, {"magnitude": 1.5}),
        (Rdpo, {"shrink": -1}),
    ],
)  # fmt: skip
def test_settings_out_of_range(credit: type, setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        credit(**setting)


def spelled(V: int = 8) -> KnownFrontProblem:
    """Two symbols are right, one of them short; short wrong ones tempt whoever sums the rewards."""
    right = np.zeros(V)
    right[:2] = 1.0
    short = np.array([1.0, 0.2, *np.ones(V - 2)])
    table = np.stack([right, short], axis=1)
    return KnownFrontProblem("spelled", V, 1, table[None], np.zeros(2), names=("right", "short"), bounds=((0, 1),) * 2)


def test_training_keeps_right_answers_and_prefers_the_short_one(tmp_path: Path) -> None:
    """At a preference that is nearly all for shortness, where a sum of rewards says short and wrong as well."""
    from pareto_align import Grid

    settings = {"population": 1, "explorer": Grid([[0.1, 0.9]]), "steps": 60, "eval_every": 60, "learning_rate": 1e-2}
    fit = judged_fit(spelled(), tmp_path, weighting="fixed", learner={"name": "drpo", "alone": "rank"}, **settings)
    table = fit.policies[0, 0]
    assert table[:2].sum() > 0.95
    assert table[0] > 5 * table[1]


# The limit on how far an update may go.


def test_the_bracket_of_the_limit() -> None:
    # A mean divergence of 3e-4 over four tokens, limit 1e-4 and coefficient 1000: the bracket is .2, the loss 6e-5.
    old, new = torch.zeros(1, 1, 2, 3), torch.full((1, 1, 2, 3), -3e-4)
    mask = torch.tensor([[[[True, True, True], [True, False, False]]]])
    loss = PolicyLoss(kl_limit=1e-4, kl_limit_coef=1000.0)
    back = loss.pull_back(old * mask, new * mask, mask)
    assert torch.allclose(back, 0.2 * mask / 4, atol=1e-6)
    assert float((back * (old - new)).sum()) == pytest.approx(6e-5, rel=1e-3)
    assert not loss.pull_back(old, new / 4, mask).any()


def test_the_limit_holds_a_policy_back_from_the_second_update_on(tmp_path: Path) -> None:
    def moved(name: str, updates: int, **more: object) -> np.ndarray:
        from pareto_align import Grid

        settings = {"population": 1, "explorer": Grid([[0.5, 0.5]]), "steps": 2, "eval_every": 2, "learning_rate": 2e-2}
        fit = judged_fit(
            spelled(), tmp_path / name, weighting="fixed", clip=100.0, updates_per_rollout=updates, **settings, **more
        )
        return np.abs(fit.policies[0] - fit.reference).sum()

    free, held = moved("free", 8), moved("held", 8, kl_limit=1e-4)
    assert held < 0.7 * free


@pytest.mark.parametrize("setting", [{"kl_limit": -1.0}, {"kl_limit_coef": 0.0}])
def test_limits_out_of_range(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        PolicyLoss(**setting)
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ParetoAligner("tiny", objectives(), **setting)


# Decorrelated rewards.


def test_ranks_and_distances_at_unit_size() -> None:
    rewards = answers([0.0, 1.0, 10.0])
    # quantiles at 1/6, 1/2, 5/6 are -.967422, 0, .967422, of size .789897; distances -3.6667, -2.6667, 6.3333 of 4.4969
    ranks = np.array([-1.224745, 0.0, 1.224745])
    far = np.array([-0.815374, -0.592999, 1.408373])
    for magnitude in (0.0, 0.5, 1.0):
        found = Rdpo(magnitude=magnitude).vector(rewards)[0, 0, :, 0]
        blend = (1 - magnitude) * ranks + magnitude * far
        np.testing.assert_allclose(found, blend / np.sqrt((blend**2).mean()), atol=1e-5)


def repeated(noise: float) -> torch.Tensor:
    """Rewards [1, 6, 8, 3], of which the second repeats the first but for some noise."""
    first, own, third = torch.randn(3, 1, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.stack([first, first + noise * own, third], -1)


def test_what_two_rewards_say_alike_counts_once() -> None:
    flat = Rdpo(shrink=0.0).vector(repeated(0.5)).reshape(-1, 3)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(3), atol=0.03)

    rewards = repeated(1e-3)
    plain = Rdpo(shrink=1.0).vector(rewards).reshape(-1, 3)
    own = float((plain[:, 0] @ plain[:, 2]) / len(plain))  # what the third says like the first, by chance
    weights = torch.full((1, 3), 1 / 3, dtype=torch.float64)

    def pull(credit: Rdpo) -> float:
        """How much the mix follows the repeated reward, beside the one that stands alone."""
        mix = credit.combine(credit.vector(rewards), weights).flatten()
        return float((mix @ plain[:, 0]) / (mix @ plain[:, 2]))

    assert pull(Rdpo(shrink=1.0)) == pytest.approx((2 + own) / (1 + 2 * own), abs=0.02)
    # the root of the pair's correlations, all ones, halves each: sqrt(2) of one reward in the place of two
    assert pull(Rdpo(shrink=0.0)) < 0.85 * pull(Rdpo(shrink=1.0))
    uncorrelated = Rdpo(shrink=0.0).vector(rewards).reshape(-1, 3)
    np.testing.assert_allclose((uncorrelated[:, :2].sum(1) ** 2).mean(), 2.0, atol=0.1)


def test_a_reward_that_does_not_vary_leaves_the_others_alone() -> None:
    rewards = random_rewards(K=1, N=3, G=8, m=2)
    third = torch.full((1, 3, 8, 1), 0.1, dtype=torch.float64)
    both = Rdpo().vector(rewards)
    found = Rdpo().vector(torch.cat([rewards, third], -1))
    assert torch.allclose(found[..., :2], both, atol=1e-12)
    assert not found[..., 2].any()
