from __future__ import annotations

import numpy as np
import pytest
from tabular_bandit import flat_front, share_of_attainable, train

from pareto_align.errors import ConfigError
from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting import SAW, Fixed, Signal, Weighting


class TestSAW(WeightingContract):
    def make(self) -> Weighting:
        return SAW()


class TestSAWWithMemory(WeightingContract):
    def make(self) -> Weighting:
        return SAW(smoothing=0.7, lowest=-0.5)


def weigh(weighting: SAW, values: object, spread: object, preferences: object = (0.5, 0.5)) -> np.ndarray:
    values, spread, wanted = (np.atleast_2d(np.asarray(x, dtype=float)) for x in (values, spread, preferences))
    weighting.setup(*values.shape)
    return weighting(Signal(0, 10, values, wanted, spread=spread))[0]


def test_gold_rows() -> None:
    # cv = (.1 / .5, .2 / .25) = (.2, .8)
    np.testing.assert_allclose(weigh(SAW(), [0.5, 0.25], [0.1, 0.2]), [0.2, 0.8], atol=1e-7)
    # times the preference: (.75 * .2, .25 * .8) / .35
    np.testing.assert_allclose(weigh(SAW(), [0.5, 0.25], [0.1, 0.2], [0.75, 0.25]), [3 / 7, 4 / 7], atol=1e-7)
    # Counted from -.5 and 0: cv = (.1 / 1, .2 / .25).
    np.testing.assert_allclose(weigh(SAW(lowest=[-0.5, 0]), [0.5, 0.25], [0.1, 0.2]), [1 / 9, 8 / 9], atol=1e-7)
    # A mean of 0 would have no bound: cv = (.2, 10).
    np.testing.assert_allclose(weigh(SAW(), [0.5, 0.0], [0.1, 0.2]), [0.2 / 10.2, 10 / 10.2], atol=1e-7)


def test_what_is_learnt_hands_on_its_weight() -> None:
    np.testing.assert_allclose(weigh(SAW(), [1.0, 0.3], [0.0, 0.4]), [0, 1])
    # Nothing varies, or something was never seen: the preference.
    np.testing.assert_allclose(weigh(SAW(), [1.0, 0.3], [0.0, 0.0], [0.8, 0.2]), [0.8, 0.2])
    np.testing.assert_allclose(weigh(SAW(), [1.0, np.nan], [0.1, np.nan], [0.8, 0.2]), [0.8, 0.2])
    np.testing.assert_allclose(weigh(SAW(), [1.0, 0.3], [0.0, 0.4], [1.0, 0.0]), [1, 0])


def test_the_units_of_an_objective_do_not_matter() -> None:
    plain = weigh(SAW(), [0.5, 0.25], [0.1, 0.2])
    np.testing.assert_allclose(weigh(SAW(), [50.0, 0.25], [10.0, 0.2]), plain, atol=1e-6)


def test_without_a_spread_it_says_so() -> None:
    assert SAW().requires == {"spread"}
    weighting = SAW()
    weighting.setup(1, 2)
    with pytest.raises(ConfigError, match=r"Signal.spread \[K, m\]"):
        weighting(Signal(0, 1, np.zeros((1, 2)), np.full((1, 2), 0.5)))


@pytest.mark.parametrize("settings", [{"largest": 0.0}, {"smoothing": 1.0}])
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SAW(**settings)


@pytest.mark.parametrize("lowest", [[0.0], [0.0, float("inf")]])
def test_a_lowest_that_does_not_fit(lowest: list[float]) -> None:
    with pytest.raises(ConfigError, match="lowest"):
        SAW(lowest=lowest).setup(1, 2)


@pytest.mark.parametrize("seed", range(2))
def test_it_holds_a_mixture_on_a_straight_front(seed: int) -> None:
    # Where a policy neglects an objective its mean falls faster than its spread, so its weight comes back.
    assert share_of_attainable(train(SAW(), flat_front(), seed=seed)[0]) >= 0.9
    assert share_of_attainable(train(Fixed(), flat_front(), seed=seed)[0]) <= 0.6
