from __future__ import annotations

import math

import numpy as np
import pytest
from tabular_bandit import share_of_arc, train

from pareto_align.errors import ConfigError
from pareto_align.weighting import Fixed, Hypervolume, HypervolumePaper, Signal, Weighting
from pareto_align.weighting.hypervolume import meta_factor

HALF = np.array([[0.5, 0.5]])


def feed(weighting: Weighting, *measured: object) -> list[np.ndarray]:
    """Row sums after each of the measurements ([K, 2] or None)."""
    sums = []
    for step, point in enumerate(measured):
        array = None if point is None else np.atleast_2d(np.asarray(point, dtype=float))
        K = weighting.K or 1
        if weighting.K == 0:
            K = 1 if array is None else len(array)
            weighting.setup(K, 2)
        preferences = np.repeat(HALF, K, axis=0)
        weights = weighting(Signal(step, 10, np.zeros((K, 2)), preferences, array))
        np.testing.assert_allclose(weights[:, 0], weights[:, 1])  # the direction stays the preference
        sums.append(weights.sum(axis=1))
    return sums


def test_fixed_is_the_preference_and_a_copy() -> None:
    weighting = Fixed()
    weighting.setup(2, 2)
    signal = Signal(0, 1, np.zeros((2, 2)), np.array([[0.25, 0.75], [1.0, 0.0]]))
    weights = weighting(signal)
    np.testing.assert_array_equal(weights, [[0.25, 0.75], [1.0, 0.0]])
    weights[0] = 9
    assert signal.preferences[0, 0] == 0.25


def test_meta_factor_runs_from_a_half_to_two() -> None:
    assert meta_factor(0.0) == 0.5
    assert meta_factor(math.inf) == 2.0
    assert meta_factor(-1.0) == 0.5
    assert meta_factor(1.0) == pytest.approx(0.5 + 1.5 * 0.761594, abs=1e-6)  # tanh 1 = .761594


def test_growth_of_the_front_scales_the_step() -> None:
    sums = feed(Hypervolume(), None, [0.5, 0.5], [0.6, 0.5], [0.6, 0.5], [0.55, 0.5])
    # Nothing measured; a first point; growth of .1 * .5 = .05, times 20 = 1; the same measurement again; no growth.
    np.testing.assert_allclose(np.ravel(sums), [1, 1, 0.5 + 1.5 * 0.761594, 0.5 + 1.5 * 0.761594, 0.5], atol=1e-6)


def test_a_policy_earns_what_it_adds_to_the_population() -> None:
    start, moved = [[0.5, 0.5], [0.7, 0.7]], [[0.6, 0.5], [0.7, 0.7]]
    shared, own = feed(Hypervolume(), start, moved)[-1], feed(Hypervolume(share_front=False), start, moved)[-1]
    np.testing.assert_allclose(shared, [0.5, 1.0])  # dominated by the other policy; the other was not measured anew
    np.testing.assert_allclose(own, [1.642391, 1.0], atol=1e-6)


def test_policies_measured_together_are_judged_against_the_same_front() -> None:
    sums = feed(Hypervolume(), [[0.5, 0.5], [0.5, 0.5]], [[0.6, 0.5], [0.6, 0.5]])
    np.testing.assert_allclose(sums[-1], [1.642391, 1.642391], atol=1e-6)


def test_points_below_the_frame_add_nothing_and_points_above_it_count() -> None:
    np.testing.assert_allclose(np.ravel(feed(Hypervolume(), [0.5, 0.5], [-0.1, 0.9])), [1, 0.5])
    assert feed(Hypervolume(), [1.0, 1.0], [1.2, 1.0])[-1] > 1.9


def test_dominated_points_are_not_kept() -> None:
    weighting = Hypervolume()
    feed(weighting, [0.5, 0.5], [0.6, 0.6], [0.4, 0.4], [0.3, 0.7])
    np.testing.assert_allclose(weighting.points, [[0.6, 0.6], [0.3, 0.7]])


def test_a_row_not_measured_yet_keeps_factor_one() -> None:
    sums = feed(Hypervolume(), [[0.5, 0.5], [np.nan, np.nan]], [[0.6, 0.5], [np.nan, np.nan]])
    np.testing.assert_allclose(sums[-1], [1.642391, 1.0], atol=1e-6)


@pytest.mark.parametrize("gain", [0.0, -1.0, math.nan, math.inf])
def test_gain_out_of_range(gain: float) -> None:
    with pytest.raises(ConfigError, match="gain"):
        Hypervolume(gain=gain)


def test_the_papers_own_buffer() -> None:
    sums = feed(HypervolumePaper(), [0.2, 0.3], [0.4, 0.6], [0.6, 0.4], [0.3, 0.4], [0.1, 0.9])
    # p0 is the reference. Growth .2*.3 = .06, then (.6-.4)*(.4-.3) = .02, then a dominated point, then one below p0.
    expected = [1.0, 0.5 + 1.5 * math.tanh(0.06), 0.5 + 1.5 * math.tanh(0.02), 0.5, 0.5]
    np.testing.assert_allclose(np.ravel(sums), expected, rtol=1e-9)
    assert HypervolumePaper.applies_to == "reward"


def test_the_papers_raw_units_saturate() -> None:
    # 100 tokens a frame: growth .2 * 30 = 6, and tanh 6 is 1 to five digits (why ours is taken on frozen objectives).
    sums = feed(HypervolumePaper(span=[1, 100]), [0.2, 0.3], [0.4, 0.6])
    np.testing.assert_allclose(sums[-1], [0.5 + 1.5 * math.tanh(6.0)], rtol=1e-9)
    assert sums[-1] > 1.9999


@pytest.mark.parametrize("span", [[1.0], [1.0, 0.0], [1.0, math.nan]])
def test_span_out_of_range(span: list[float]) -> None:
    with pytest.raises(ConfigError, match="span"):
        HypervolumePaper(span=span).setup(1, 2)


@pytest.mark.parametrize("weighting", [Fixed(), Hypervolume()], ids=["fixed", "hypervolume"])
def test_a_curved_front_is_filled(weighting: Weighting) -> None:
    angles = np.linspace(0, np.pi / 2, 32)
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    values, history = train(weighting, arc)
    assert share_of_arc(values, arc) >= 0.93
    sums = history.sum(axis=2)
    assert sums.min() >= 0.5 - 1e-12
    assert sums.max() <= 2 + 1e-12
