from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pareto_align.errors import ConfigError
from pareto_align.learning.credit import (
    Centred,
    Credit,
    Grpo,
    Pama,
    Rvpo,
    available_credits,
    closest_to_zero,
    make_credit,
    register_credit,
)

NAMES = ["best", "centred", "dr_grpo", "gdpo", "grpo", "pama", "reinforce", "rloo", "rvpo"]
TWO_SIDED = [name for name in NAMES if name not in ("best", "pama")]  # which never push a completion down
NORMALISING = ["gdpo", "grpo", "reinforce"]
NAN = math.nan


def group(*rewards: object) -> torch.Tensor:
    """One policy, one prompt: [1, 1, G, m]."""
    return torch.tensor(rewards, dtype=torch.float64).reshape(1, 1, len(rewards), -1)


def random_rewards(K: int = 3, N: int = 4, G: int = 5, m: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(K, N, G, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found: torch.Tensor, expected: object, tolerance: float = 1e-9) -> None:
    expected = torch.as_tensor(expected, dtype=found.dtype).reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# Closed forms on one group of rewards (1, 2, 6), whose mean is 3 and whose sample variance is (4 + 1 + 9) / 2 = 7.


@pytest.mark.parametrize("name", ["centred", "dr_grpo", "grpo"])
def test_minus_the_group_mean(name: str) -> None:
    close(make_credit(name).vector(group(1, 2, 6)), [-2, -1, 3])


def test_rloo_is_minus_the_mean_of_the_others() -> None:
    # 1 - (2 + 6)/2, 2 - (1 + 6)/2, 6 - (1 + 2)/2
    close(make_credit("rloo").vector(group(1, 2, 6)), [-3, -1.5, 4.5])


def test_gdpo_is_a_z_score_per_objective() -> None:
    spread = math.sqrt(7) + 1e-4
    close(make_credit("gdpo").vector(group(1, 2, 6)), [-2 / spread, -1 / spread, 3 / spread])


def test_reinforce_is_minus_the_mean_over_the_batch_of_the_policy() -> None:
    # Two prompts with one completion each: no peers, yet the batch has a mean, 3.
    rewards = torch.tensor([1.0, 5.0]).reshape(1, 2, 1, 1)
    close(make_credit("reinforce").vector(rewards), [-2, 2])


def test_every_objective_and_prompt_has_its_own_baseline() -> None:
    rewards = torch.tensor([[[[0.0, 10.0], [2.0, 10.0]], [[5.0, 1.0], [5.0, 3.0]]]])
    close(Centred().vector(rewards), [[[[-1, 0], [1, 0]], [[0, -1], [0, 1]]]])


def test_grpo_divides_the_mix_by_its_spread_in_the_group() -> None:
    rewards = group((1, 0), (2, 0), (6, 0))
    credit = make_credit("grpo")
    # Direction (.5, .5): the mix is half the first objective, its spread sqrt(7)/2; the half cancels.
    spread = math.sqrt(7) / 2 + 1e-6
    close(
        credit.combine(credit.vector(rewards), torch.tensor([[0.5, 0.5]])), [-1 / spread, -0.5 / spread, 1.5 / spread]
    )


def test_gdpo_mix_is_whitened_over_the_batch() -> None:
    credit = make_credit("gdpo")
    vector = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]]]], dtype=torch.float64)
    # Mix (1, 0, 1, 0): mean .5, sample variance 4 * .25 / 3 = 1/3.
    value = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    close(credit.combine(vector, torch.tensor([[0.5, 0.5]])), [value, -value, value, -value])


def test_reinforce_mix_is_whitened_over_the_batch() -> None:
    credit = make_credit("reinforce")
    rewards = torch.tensor([1.0, 5.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    # Centred (-2, 2), sample variance 8.
    value = 2 / math.sqrt(8 + 1e-8)
    close(credit.combine(credit.vector(rewards), torch.ones(1, 1)), [-value, value])


@pytest.mark.parametrize("name", ["centred", "dr_grpo", "rloo"])
def test_without_normalisation_the_mix_is_linear_in_the_weights(name: str) -> None:
    credit, rewards = make_credit(name), random_rewards()
    vector = credit.vector(rewards)
    one, two = torch.rand(3, 2, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)
    close(credit.combine(vector, one + two), credit.combine(vector, one) + credit.combine(vector, two))


def test_mixing_first_or_comparing_first_is_the_same_for_a_linear_credit() -> None:
    credit, rewards, weights = Centred(), random_rewards(), torch.tensor([[0.3, 0.7]] * 3, dtype=torch.float64)
    mixed = (rewards * weights[:, None, None]).sum(-1, keepdim=True)
    close(credit.combine(credit.vector(rewards), weights), credit.vector(mixed)[..., 0])


# What a row's sum does: algorithms that scale the reward lose it, those that scale the advantage keep it.


@pytest.mark.parametrize("name", NAMES)
def test_the_row_sum_scales_the_advantage(name: str) -> None:
    credit, vector = make_credit(name), make_credit(name).vector(random_rewards())
    weights = torch.tensor([[0.3, 0.7], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    factor = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    plain = credit.combine(vector, weights)
    scaled = credit.combine(vector, weights * factor[:, None], applies_to="advantage")
    close(scaled, plain * factor[:, None, None], 1e-12)
    assert plain.abs().max() > 0.1


@pytest.mark.parametrize("name", NORMALISING)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_common_reward_factor_cancels_where_the_mix_is_normalised(name: str, factor: float) -> None:
    # So a published method that multiplies the reward by its meta factor is close to a no-op under these estimators.
    credit, rewards = make_credit(name), random_rewards()
    weights = torch.tensor([[0.3, 0.7]] * 3, dtype=torch.float64)
    plain = credit.combine(credit.vector(rewards), weights, applies_to="reward")
    by_weight = credit.combine(credit.vector(rewards), factor * weights, applies_to="reward")
    by_reward = credit.combine(credit.vector(factor * rewards), weights, applies_to="reward")
    for scaled in (by_weight, by_reward):
        close(scaled, plain, 2e-3)


@pytest.mark.parametrize("name", ["centred", "dr_grpo", "rloo"])
def test_a_common_reward_factor_survives_where_nothing_is_normalised(name: str) -> None:
    credit, rewards = make_credit(name), random_rewards()
    weights = torch.tensor([[0.3, 0.7]] * 3, dtype=torch.float64)
    plain = credit.combine(credit.vector(rewards), weights, applies_to="reward")
    close(credit.combine(credit.vector(rewards), 2 * weights, applies_to="reward"), 2 * plain)


def test_a_row_of_zeros_is_a_step_of_zero() -> None:
    for name in NAMES:
        credit, vector = make_credit(name), make_credit(name).vector(random_rewards())
        weights = torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
        advantages = credit.combine(vector, weights)
        assert torch.isfinite(advantages).all()
        assert (advantages[0] == 0).all()
        assert (advantages[1] != 0).any()


# Every policy by itself.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("applies_to", ["advantage", "reward"])
def test_policies_do_not_see_each_other(name: str, applies_to: str) -> None:
    credit, rewards = make_credit(name), random_rewards()
    rewards[1, 2, 3, 0] = NAN
    rewards[2] *= 1000
    weights = torch.tensor([[0.3, 0.7], [0.9, 0.6], [0.1, 0.1]], dtype=torch.float64)
    together = credit.combine(credit.vector(rewards), weights, applies_to=applies_to)
    for k in range(3):
        one = slice(k, k + 1)
        alone = credit.combine(credit.vector(rewards[one]), weights[one], applies_to=applies_to)
        close(together[one], alone, 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_advantages_do_not_depend_on_the_origin_of_the_rewards(name: str) -> None:
    credit, rewards = make_credit(name), random_rewards()
    close(credit.vector(rewards + torch.tensor([5.0, -3.0])), credit.vector(rewards), 1e-9)


@pytest.mark.parametrize("name", TWO_SIDED)
def test_the_mean_advantage_is_zero(name: str) -> None:
    credit = make_credit(name)
    weights = torch.tensor([[0.3, 0.7]] * 3, dtype=torch.float64)
    advantages = credit.combine(credit.vector(random_rewards()), weights)
    close(advantages.mean(dim=(1, 2)), torch.zeros(3), 1e-12)


# Missing rewards.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("centred", [-1, 0, 1, 0]),  # mean of 1 and 3 is 2
        ("dr_grpo", [-1, 0, 1, 0]),
        ("grpo", [-1, 0, 1, 0]),
        ("reinforce", [-1, 0, 1, 0]),
        ("rloo", [-2, 0, 2, 0]),  # the only other one is 3, or 1
        ("gdpo", [-1 / (math.sqrt(2) + 1e-4), 0, 1 / (math.sqrt(2) + 1e-4), 0]),  # sample variance of 1 and 3 is 2
    ],
)
def test_a_missing_reward_is_left_out_and_contributes_nothing(name: str, expected: list[float]) -> None:
    close(make_credit(name).vector(group(1, NAN, 3, NAN)), expected)


@pytest.mark.parametrize("name", TWO_SIDED)
def test_an_objective_without_any_or_with_one_reward_gives_zeros(name: str) -> None:
    credit = make_credit(name)
    vector = credit.vector(group((NAN, 1.0, 1.0), (NAN, NAN, 2.0)))
    close(vector[..., :2], torch.zeros(1, 1, 2, 2))
    advantages = credit.combine(vector, torch.tensor([[0.5, 0.3, 0.2]]))
    assert torch.isfinite(advantages).all()
    assert advantages[0, 0, 1] > 0 > advantages[0, 0, 0]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_reward_leaves_the_other_objectives_alone(name: str) -> None:
    credit, rewards = make_credit(name), random_rewards()
    full = credit.vector(rewards)
    rewards[0, 0, 0, 1] = NAN
    close(credit.vector(rewards)[..., 0], full[..., 0], 1e-12)


# Collapses that are no weighted sum.


@pytest.mark.parametrize(
    ("advantages", "expected"),
    [((0.2, 0.5), 0.2), ((-0.1, 0.5), 0.0), ((-0.2, -0.5), -0.2), ((0.0, 0.5), 0.0), ((0.7,), 0.7)],
)
def test_the_closed_form_of_pama(advantages: tuple[float, ...], expected: float) -> None:
    # min over the simplex of (sum_i c_i a_i)^2: all values between the smallest and the largest can be had.
    values = torch.tensor(advantages, dtype=torch.float64)
    close(closest_to_zero(values, torch.ones_like(values, dtype=torch.bool)), expected)
    for share in torch.linspace(0, 1, 11, dtype=torch.float64):
        mixture = share * values[0] + (1 - share) * values[-1]
        assert mixture.abs() >= abs(expected) - 1e-12


def test_values_that_do_not_count_leave_the_closed_form_alone() -> None:
    values, counted = torch.tensor([[0.2, 0.5], [0.0, 0.5], [0.1, 0.1]]), torch.tensor([[1, 1], [0, 1], [0, 0]])
    close(closest_to_zero(values, counted.bool()), [0.2, 0.5, 0.0], 1e-7)


EVEN = torch.tensor([[0.5, 0.5]], dtype=torch.float64)


def test_pama_reinforces_what_gains_in_every_objective() -> None:
    # Rewards (0, 3), (1, 0), (2, 3): the first objective has mean 1 and deviation 1, the second mean 2, deviation
    # sqrt(3). Only the third completion is above both means: z = (1, 1 / sqrt(3)), of which the second is smaller.
    credit, rewards = Pama(), group((0, 3), (1, 0), (2, 3))
    close(credit.combine(credit.vector(rewards), EVEN), [0, 0, 1 / (math.sqrt(3) + 1e-4)])
    # Negatives kept: (-1, .577) and (0, -1.155) are closest to 0 at 0.
    kept = Pama(noon=False)
    close(kept.combine(kept.vector(rewards), EVEN), [0, 0, 1 / (math.sqrt(3) + 1e-4)])
    # A completion that is worst in both is pushed down by its smaller loss, only there.
    worse = group((0, 0), (1, 3), (2, 3))
    close(kept.combine(kept.vector(worse), EVEN), [-1 / (1 + 1e-4), 0, 1 / (math.sqrt(3) + 1e-4)])
    close(credit.combine(credit.vector(worse), EVEN), [0, 0, 1 / (math.sqrt(3) + 1e-4)])


def test_pama_over_the_batch_gives_every_completion_the_same() -> None:
    # The positive parts are (0, 0, 1) and (.577, 0, .577): means 1/3 and .385, of which the first is closer to 0.
    credit, rewards = Pama(granularity="batch"), group((0, 3), (1, 0), (2, 3))
    close(credit.combine(credit.vector(rewards), EVEN), [1 / 3 / (1 + 1e-4)] * 3)


def test_a_saturated_objective_blocks_pama_unless_left_out() -> None:
    rewards = group((0, 1), (1, 1), (2, 1))
    blocked, left_out = Pama(saturated="block"), Pama()
    assert (blocked.combine(blocked.vector(rewards), EVEN) == 0).all()
    close(left_out.combine(left_out.vector(rewards), EVEN), [0, 0, 1 / (1 + 1e-4)])
    batch = Pama(saturated="block", granularity="batch")
    assert (batch.combine(batch.vector(rewards), EVEN) == 0).all()


def test_under_pama_a_weight_says_who_counts_and_not_how_much() -> None:
    credit, rewards = Pama(), random_rewards(K=1, m=3)
    vector = credit.vector(rewards)
    two = credit.combine(vector[..., :2], EVEN)
    close(credit.combine(vector, torch.tensor([[0.9, 0.1, 0.0]], dtype=torch.float64)), two)
    # A negative weight turns an objective round.
    turned = torch.cat([vector[..., :1], -vector[..., 1:2]], -1)
    close(credit.combine(vector[..., :2], torch.tensor([[0.5, -0.5]])), credit.combine(turned, EVEN))


@given(st.integers(0, 10_000), st.integers(2, 4))
@example(7752, 2)
@settings(max_examples=30, deadline=None)
def test_pama_is_the_worst_gain_whatever_the_scales(seed: int, m: int) -> None:
    rewards = random_rewards(K=2, m=m, seed=seed)
    credit, weights = Pama(), torch.full((2, m), 1 / m, dtype=torch.float64)
    advantages = credit.combine(credit.vector(rewards), weights)
    z = make_credit("gdpo").vector(rewards)
    close(advantages, z.amin(-1).clamp(min=0))
    # Upwards only: the epsilon beside the standard deviation shows in rewards that hardly differ.
    scaled = credit.combine(credit.vector(rewards * torch.logspace(0, 3, m)), weights)
    close(scaled, advantages, 2e-2)


def test_rvpo_is_the_soft_minimum_of_the_z_scores() -> None:
    # z = (1, -1), k = 1: -log(.5 (e^-1 + e^1)) = -.433781. With weights (.9, .1): -log(.9 e^-1 + .1 e) = .505971.
    vector = torch.tensor([[[[1.0, -1.0]]]], dtype=torch.float64)
    close(Rvpo(k=1.0)._collapse(vector, EVEN), -0.433781, 1e-6)
    close(Rvpo(k=1.0)._collapse(vector, torch.tensor([[0.9, 0.1]], dtype=torch.float64)), 0.505971, 1e-6)
    close(Rvpo(k=1e-6)._collapse(vector, EVEN), 0.0, 1e-5)
    close(Rvpo(k=200.0)._collapse(vector, EVEN), -1 + math.log(2) / 200)
    # Turned round, both are -1, and so is every soft minimum of them.
    close(Rvpo(k=3.0)._collapse(vector, torch.tensor([[-0.5, 0.5]], dtype=torch.float64)), -1.0)


def test_rvpo_without_risk_is_gdpo() -> None:
    rewards, weights = random_rewards(), torch.tensor([[0.3, 0.7], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    plain, soft = make_credit("gdpo"), Rvpo(k=1e-5)
    close(soft.combine(soft.vector(rewards), weights), plain.combine(plain.vector(rewards), weights), 1e-4)


def test_rvpo_prefers_the_even_completion() -> None:
    # Both sums are 1, and gdpo sees no difference; the even one has no objective that fails.
    rewards = group((1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (0.5, 0.5))
    credit = Rvpo()
    advantages = credit.combine(credit.vector(rewards), EVEN).flatten()
    assert (advantages[[1, 3]] > 0.8).all()
    assert (advantages[[0, 2]] < -0.8).all()
    plain = make_credit("gdpo")
    close(plain.combine(plain.vector(rewards), EVEN), torch.zeros(1, 1, 4))


def test_best_is_one_hot_at_the_largest_mix() -> None:
    """Rewards (3, 0), (0, 2), (2, 2), (2, 2): with even weights the last two share it, at (.9, .1) the first has it."""
    credit, rewards = make_credit("best"), group((3, 0), (0, 2), (2, 2), (2, 2))
    close(credit.combine(credit.vector(rewards), EVEN), [0, 0, 0.5, 0.5])
    close(credit.combine(credit.vector(rewards), torch.tensor([[1.8, 0.2]], dtype=torch.float64)), [2, 0, 0, 0])
    cancelling = torch.cat([rewards[..., :1], 0.7 - rewards[..., :1]], -1)
    assert not credit.combine(credit.vector(cancelling), EVEN).any()


def test_collapses_that_are_no_weighted_sum_are_not_linear() -> None:
    assert {name: make_credit(name).linear for name in NAMES} == {
        "best": False,
        "centred": True,
        "dr_grpo": True,
        "gdpo": False,
        "grpo": False,
        "pama": False,
        "reinforce": False,
        "rloo": True,
        "rvpo": False,
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Pama(granularity="token"), "sample, batch"),
        (lambda: Pama(saturated="keep"), "leave_out, block"),
        (lambda: Rvpo(k=0.0), "`k`"),
        (lambda: Rvpo(k=math.nan), "`k`"),
    ],
)
def test_settings_of_a_collapse_out_of_range(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


# A group that agrees has nothing to say.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_rewards_give_exact_zeros(name: str, dtype: torch.dtype) -> None:
    # .1 is not a binary fraction: a mean of seven of them is off by a rounding error, which must not be blown up.
    credit, rewards = make_credit(name), torch.full((1, 1, 7, 2), 0.1, dtype=dtype)
    vector = credit.vector(rewards)
    assert (vector == 0).all()
    assert (credit.combine(vector, torch.tensor([[0.5, 0.5]])) == 0).all()


def test_objectives_that_cancel_leave_no_advantage_under_grpo() -> None:
    first = torch.rand(1, 3, 5, 1, generator=torch.Generator().manual_seed(0))
    credit, rewards = Grpo(), torch.cat([first, 0.7 - first], dim=-1)
    assert (credit.combine(credit.vector(rewards), torch.tensor([[0.5, 0.5]])) == 0).all()


def test_the_pull_of_an_objective_under_grpo_is_its_weight_times_its_spread() -> None:
    # Why "centred" on a frozen scale is the default: equal weights, yet nine tenths of the signal are one objective's.
    rewards = group((0, 0), (9, 0), (0, 1), (9, 1))
    advantages = Grpo().combine(Grpo().vector(rewards), torch.tensor([[0.5, 0.5]])).flatten()
    first, second = advantages[1] - advantages[0], advantages[2] - advantages[0]
    assert first / second == pytest.approx(9)
    advantages = make_credit("gdpo").combine(make_credit("gdpo").vector(rewards), torch.tensor([[0.5, 0.5]])).flatten()
    assert (advantages[1] - advantages[0]) / (advantages[2] - advantages[0]) == pytest.approx(1, abs=1e-3)


# Names, types, errors.


def test_names() -> None:
    assert set(NAMES) <= set(available_credits())
    instance = Centred()
    assert make_credit(instance) is instance
    assert not make_credit("reinforce").needs_group
    assert all(make_credit(name).needs_group for name in NAMES if name != "reinforce")


def test_rewards_of_low_precision_are_compared_in_float32() -> None:
    rewards = torch.rand(1, 2, 4, 2).to(torch.bfloat16)
    assert Centred().vector(rewards).dtype == torch.float32
    assert Centred().combine(Centred().vector(rewards), torch.ones(1, 2, dtype=torch.float64)).dtype == torch.float32


def test_inputs_are_not_changed() -> None:
    for name in NAMES:
        rewards, weights = random_rewards(), torch.tensor([[2.0, 0.0]] * 3)
        rewards[0, 0, 0, 0] = NAN
        before, vector = rewards.clone(), make_credit(name).vector(rewards)
        kept = vector.clone()
        make_credit(name).combine(vector, weights)
        np.testing.assert_array_equal(rewards, before)
        np.testing.assert_array_equal(vector, kept)
        assert (weights == torch.tensor([[2.0, 0.0]] * 3)).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reinforce"])
def test_a_group_of_one_has_no_peers(name: str) -> None:
    with pytest.raises(ConfigError, match="group_size must be at least 2"):
        make_credit(name).vector(torch.zeros(1, 3, 1, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_credit("centered"), "Did you mean 'centred'"),
        (lambda: make_credit(None), "`learner` must be a name, a mapping with `name`, or an instance"),
        (lambda: Centred().vector(torch.zeros(2, 3, 4)), r"\[K, N, G, m\]"),
        (lambda: Centred().combine(torch.zeros(2, 1, 2, 3), torch.ones(3, 2)), r"\[2, 3\]"),
        (lambda: Centred().combine(torch.zeros(1, 1, 2, 2), torch.ones(1, 2), applies_to="loss"), "applies_to"),
        (lambda: register_credit("centred")(Grpo), "exists already"),
    ],
)
def test_what_is_wrong_is_named(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
    assert Grpo.name == "grpo"


def test_a_credit_of_ones_own() -> None:
    from pareto_align.learning import credit

    try:

        @register_credit("test-only")
        class Raw(Credit):
            needs_group = False

            def _vector(self, rewards: torch.Tensor) -> torch.Tensor:
                return rewards

        found = make_credit("test-only")
        assert isinstance(found, Raw)
        close(found.combine(found.vector(group(1, NAN)), torch.tensor([[2.0]])), [2, 0])
    finally:
        credit.credits._classes.pop("test-only", None)


def test_signed_weights_keep_their_direction_and_strength():
    """Rows may sum to 0 or less: where nothing is normalised after mixing, the result is the plain weighted sum."""
    vector = torch.randn(3, 2, 4, 2, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([[1.0, -1.0], [-0.5, 0.2], [0.3, 0.7]])
    expected = (vector * weights[:, None, None]).sum(-1)
    assert torch.allclose(make_credit("centred").combine(vector, weights), expected, atol=1e-6)
    turned = make_credit("grpo").combine(vector, -weights)
    assert torch.allclose(turned, -make_credit("grpo").combine(vector, weights), atol=1e-6)
