from __future__ import annotations

import numpy as np
import pytest
from tabular_bandit import train, two_groups

from pareto_align.errors import ConfigError
from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting import CTWA, Fixed, Signal, Weighting


class TestCTWA(WeightingContract):
    def make(self) -> Weighting:
        return CTWA()


class TestCTWAAsPublished(WeightingContract):
    symmetric = False  # a target an objective

    def make(self) -> Weighting:
        return _PerObjective()


class _PerObjective(CTWA):
    name = "ctwa"

    def __init__(self) -> None:
        super().__init__(measure="covariance", lr=0.05)

    def setup(self, K: int, m: int) -> None:
        self.target = np.linspace(0.15, 0.08, m)
        super().setup(K, m)


def feed(weighting: CTWA, *covariances: object, preference: object = (0.5, 0.5), value: object = (0, 0)) -> np.ndarray:
    """The row [m] of one policy after the last of the covariance matrices."""
    wanted, level = np.asarray(preference, dtype=float)[None], np.asarray(value, dtype=float)[None]
    weighting.setup(1, wanted.shape[1])
    for step, found in enumerate(covariances):
        row = weighting(Signal(step, 10, level, wanted, covariances=np.asarray(found, dtype=float)[None]))[0]
    return row


R = np.array([[1.0, -0.5], [-0.5, 1.0]])


def test_gold_rows() -> None:
    # w = (.9, .1): R w = (.85, -.35), w.R w = .73, so c = (.994851, -.409645). The second lacks .509645 of .1.
    row = feed(CTWA(lr=0.2), R, preference=[0.9, 0.1])
    np.testing.assert_allclose(row[1] / row[0], np.exp(0.2 * 0.509645) / 9, rtol=1e-6)
    # Larger rewards, the second 10 times: the same under the correlation once the weights are 10 times smaller.
    scale = np.array([2.0, 20.0])
    scaled = feed(CTWA(lr=0.2), R * np.outer(scale, scale), preference=np.array([0.9, 0.01]) / 0.91)
    np.testing.assert_allclose(scaled[1] / scaled[0], np.exp(0.2 * 0.509645) / 90, rtol=1e-6)
    # As covariance: with 4 R the second has -.35 * 4 / sqrt(.73 * 4) = -.819289.
    published = feed(CTWA(measure="covariance", lr=0.05), 4 * R, preference=[0.9, 0.1])
    np.testing.assert_allclose(published[1] / published[0], np.exp(0.05 * 0.919289) / 9, rtol=1e-6)


def test_the_running_mean_is_what_lags() -> None:
    # First c_2 = -.409645, then (weights hardly moved) with independent rewards w_2 / |w| is about .123: the mean with
    # memory .5 is (.5 * -.409645 + .123) / 1.5, still below .1, so the weight goes on rising.
    once = feed(CTWA(lr=0.2, smoothing=0.5), R, preference=[0.9, 0.1])
    twice = feed(CTWA(lr=0.2, smoothing=0.5), R, np.eye(2), preference=[0.9, 0.1])
    forgot = feed(CTWA(lr=0.2, smoothing=0.0), R, np.eye(2), preference=[0.9, 0.1])
    second = once[1] / np.linalg.norm(once)
    lacking = 0.1 - (0.5 * -0.409645 + second) / 1.5
    np.testing.assert_allclose(np.log(twice[1] / twice[0] / (once[1] / once[0])), 0.2 * lacking, rtol=1e-5)
    np.testing.assert_allclose(forgot, once)


def test_what_has_enough_is_not_raised() -> None:
    row = feed(CTWA(enough=[1.0, 0.8]), R, preference=[0.9, 0.1], value=[0.0, 0.8])
    np.testing.assert_allclose(row, [0.9, 0.1])
    assert feed(CTWA(enough=0.9), R, preference=[0.9, 0.1], value=[0.0, 0.8])[1] > 0.1


def test_what_does_not_vary_or_was_not_seen_moves_nothing() -> None:
    for found in (np.zeros((2, 2)), np.full((2, 2), np.nan), [[1.0, np.nan], [np.nan, np.nan]]):
        np.testing.assert_allclose(feed(CTWA(lr=0.2), found, preference=[0.9, 0.1]), [0.9, 0.1])
    # An objective of preference 0 has no say, seen or not.
    np.testing.assert_allclose(feed(CTWA(lr=0.2), [[1.0, np.nan], [np.nan, np.nan]], preference=[1, 0]), [1, 0])


def test_weights_leave_the_preference_no_further_than_reach() -> None:
    row = feed(CTWA(reach=1.0, target=2.0, enough=[0.0, 1.0]), *[R] * 60, preference=[0.5, 0.5])
    np.testing.assert_allclose(row[1] / row[0], np.e, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_an_objective_that_fixed_weights_sacrifice_is_kept(seed: int) -> None:
    preference = np.array([[0.9, 0.1]])
    fixed = train(Fixed(), two_groups(), seed=seed, preferences=preference)[0][0]
    kept = train(CTWA(), two_groups(), seed=seed, preferences=preference)[0][0]
    assert fixed[1] < 0.05
    assert kept[1] > 0.45
    assert kept[0] > 0.5


def test_covariances_are_asked_for() -> None:
    weighting = CTWA()
    weighting.setup(1, 2)
    with pytest.raises(ConfigError, match="covariances"):
        weighting(Signal(0, 1, np.zeros((1, 2)), np.full((1, 2), 0.5)))


@pytest.mark.parametrize(
    "settings",
    [
        {"measure": "slope"},
        {"lr": 0.0},
        {"reach": -1.0},
        {"target": np.nan},
        {"enough": [np.nan, 1.0]},
        {"smoothing": 1.0},
    ],
)
def test_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        CTWA(**settings)


def test_settings_of_another_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="`target` must be one number or 2"):
        CTWA(target=[0.1, 0.1, 0.1]).setup(1, 2)
