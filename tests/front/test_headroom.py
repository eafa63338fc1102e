"""What routing could gain, with chance taken off."""

from __future__ import annotations

import numpy as np
import pytest

from pareto_align.errors import ConfigError
from pareto_align.front.headroom import headroom


def seen(truth: np.ndarray, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    one, two = (truth + noise * rng.normal(size=truth.shape) for _ in range(2))
    return one, two


def test_nothing_to_route_is_reported_as_nothing() -> None:
    """Members that are the same for every prompt, 200 seeds: one measurement alone claims a gain in all of them."""
    truth = np.tile(np.linspace(0.4, 0.5, 8)[:, None], 64)
    found = [headroom(*seen(truth, 0.3, seed), draws=300) for seed in range(200)]
    # what is chosen for each prompt is mostly not the best member, so the truth lies below 0
    assert np.mean([one.low <= 0 for one in found]) >= 0.95
    assert all(one.naive > 0.1 for one in found)


def test_all_members_alike_have_a_headroom_of_zero() -> None:
    truth = np.full((6, 64), 0.5)
    found = [headroom(*seen(truth, 0.3, seed), draws=300) for seed in range(200)]
    assert abs(np.mean([one.value for one in found])) < 0.06  # less the luck of the best single member
    assert np.mean([one.low <= 0 <= one.high or one.high < 0 for one in found]) >= 0.95


def test_members_that_are_good_at_different_prompts() -> None:
    # two members, each worth .9 on its half of the prompts and .1 on the other: the best single one has .5
    truth = np.where((np.arange(64) % 2 == 0) == np.array([True, False])[:, None], 0.9, 0.1)
    exact = headroom(truth, truth)
    assert exact.value == pytest.approx(0.4)
    assert exact.naive == pytest.approx(0.4)
    noisy = headroom(*seen(truth, 0.1, 0))
    assert noisy.worthwhile
    assert noisy.low < 0.4 < noisy.high + 0.05
    assert noisy.value == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("second", [np.zeros((2, 3)), np.full((2, 4), np.nan)])
def test_tables_that_do_not_belong_together(second: np.ndarray) -> None:
    with pytest.raises(ConfigError):
        headroom(np.zeros((2, 4)), second)
