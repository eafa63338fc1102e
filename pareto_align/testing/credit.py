"""What every credit must do, as tests that a plug-in's author runs by subclassing.

Example:
    ```python
    from pareto_align.testing.credit import CreditContract


    class TestMyCredit(CreditContract):
        def make(self):
            return MyCredit()
    ```
    pytest then collects every check below for `MyCredit`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pareto_align.arguments import arguments_of
from pareto_align.learning.credit import Credit

__all__ = ["CreditContract", "random_rewards"]


def random_rewards(K: int = 3, N: int = 4, G: int = 5, m: int = 2, *, missing: float = 0.0, seed: int = 0) -> Tensor:
    """Rewards `[K, N, G, m]` on the frozen scale, in float64, a share of them missing."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.rand(K, N, G, m, generator=generator, dtype=torch.float64)
    gone = torch.rand(K, N, G, m, generator=generator) < missing
    return rewards.masked_fill(gone, torch.nan)


class CreditContract:
    """Subclass it, name the subclass `Test...`, implement `make`; pytest runs all checks.

    Attributes:
        two_sided: A completion that is worse than its peers is pushed down, so the advantages of a policy have mean 0.
        relative: Only differences between completions count; False where a reward says by itself what is right.
    """

    two_sided: bool = True
    relative: bool = True

    def make(self) -> Credit:
        """A new credit."""
        raise NotImplementedError

    def test_advantages_have_the_rewards_shape_and_are_finite(self) -> None:
        """Also where rewards are missing, are all the same, or are huge."""
        credit = self.make()
        for rewards in (
            random_rewards(missing=0.3),
            torch.full((2, 3, 4, 2), 0.5),
            random_rewards() * 1e6,
            torch.full((1, 2, 3, 2), torch.nan),
        ):
            found = credit.vector(rewards)
            assert found.shape == rewards.shape
            assert torch.isfinite(found).all()

    def test_a_missing_reward_contributes_nothing(self) -> None:
        """Its own advantage is 0."""
        rewards = random_rewards(missing=0.3)
        assert (self.make().vector(rewards)[rewards.isnan()] == 0).all()

    def test_peers_that_are_all_alike_give_no_advantage(self) -> None:
        """Exactly 0, and not a rounding error divided by another."""
        for value in (0.1, 1 / 3, 1e6):
            assert not self.make().vector(torch.full((2, 3, 4, 2), value)).any()

    def test_the_origin_of_the_rewards_does_not_matter(self) -> None:
        """Only differences between completions count."""
        if not self.relative:
            return
        credit, rewards = self.make(), random_rewards()
        assert torch.allclose(credit.vector(rewards + 3.0), credit.vector(rewards), rtol=0, atol=1e-6)

    def test_policies_do_not_see_each_other(self) -> None:
        """A policy's advantages are what it would get alone, before and after mixing."""
        credit, rewards = self.make(), random_rewards(missing=0.2)
        weights = torch.tensor([[0.7, 0.3], [0.2, 0.8], [1.0, 0.0]], dtype=torch.float64)
        vector = credit.vector(rewards)
        mixed = credit.combine(vector, weights)
        for k in range(3):
            alone = credit.vector(rewards[k : k + 1])
            assert torch.equal(alone[0], vector[k])
            assert torch.equal(credit.combine(alone, weights[k : k + 1])[0], mixed[k])

    def test_the_order_of_completions_does_not_matter(self) -> None:
        """Every completion keeps its advantage."""
        credit, rewards = self.make(), random_rewards(missing=0.2)
        order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
        found = credit.vector(rewards[:, :, order])
        assert torch.allclose(found, credit.vector(rewards)[:, :, order], rtol=0, atol=1e-9)

    def test_it_says_truly_whether_mixing_is_a_weighted_sum(self) -> None:
        """`linear` decides whether an update may be put together from the objectives' own gradients."""
        credit = self.make()
        vector = credit.vector(random_rewards(seed=2))
        weights = torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]], dtype=torch.float64)
        plain = (vector * weights[:, None, None]).sum(-1)
        same = torch.allclose(credit.combine(vector, weights), plain, rtol=1e-9, atol=1e-9)
        assert same or not credit.linear, "it says that it is linear, and is not"

    def test_the_sum_of_a_row_is_the_strength_of_the_step(self) -> None:
        """Twice the weights are twice the advantages, and a row of zeros is none."""
        credit = self.make()
        vector = credit.vector(random_rewards())
        weights = torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]], dtype=torch.float64)
        once, twice = credit.combine(vector, weights), credit.combine(vector, 2 * weights)
        assert torch.allclose(twice, 2 * once, rtol=1e-6, atol=1e-9)
        assert not credit.combine(vector, 0 * weights).any()

    def test_a_completion_that_is_worse_in_everything_is_pushed_down(self) -> None:
        """And one that is better in everything is pushed up; the mean is 0 where `two_sided`."""
        credit, rewards = self.make(), random_rewards(G=6)
        rewards[:, :, 0], rewards[:, :, 1] = 2.0, -2.0
        found = credit.combine(credit.vector(rewards), torch.full((3, 2), 0.5, dtype=torch.float64))
        assert (found[:, :, 0] >= found[:, :, 1]).all()
        assert (found[:, :, 0] > 0).all()
        if self.two_sided:
            assert (found[:, :, 1] < 0).all()
            assert torch.allclose(found.mean((1, 2)), torch.zeros(3, dtype=found.dtype), atol=1e-6)

    def test_inputs_are_left_alone(self) -> None:
        """Neither rewards nor advantages are written into."""
        credit, rewards = self.make(), random_rewards(missing=0.2)
        kept = rewards.clone()
        vector = credit.vector(rewards)
        before = vector.clone()
        credit.combine(vector, torch.full((3, 2), 0.5, dtype=torch.float64))
        assert torch.equal(rewards.nan_to_num(7.0), kept.nan_to_num(7.0))
        assert torch.equal(vector, before)

    def test_what_it_was_built_with_can_be_told(self) -> None:
        """As JSON: a run that goes on must have the same."""
        import json

        json.dumps(arguments_of(self.make()))
