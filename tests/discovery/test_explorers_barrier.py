"""The interior point keeps the contract of weightings, its closed form, and floors."""

from __future__ import annotations

import numpy as np
import pytest

from pareto_align.discovery.extension import FloorKeeper
from pareto_align.errors import ConfigError
from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting import Signal, Weighting, make
from pareto_align.weighting.barrier import Barrier


class TestBarrier(WeightingContract):
    constraints = 2

    def make(self) -> Weighting:
        return Barrier()


class TestBarrierOfChebyshev(WeightingContract):
    constraints = 1
    shares_population = True

    def make(self) -> Weighting:
        return Barrier(objectives="chebyshev")


def row(slack, **settings):
    """The row of one policy with preference (.5, .5)."""
    weighting = Barrier(smoothing=0.0, **settings)
    weighting.setup(1, 2)
    slack = np.atleast_2d(slack)
    return weighting(Signal(0, 10, np.full((1, 2), 0.5), np.full((1, 2), 0.5), slack=slack))[0]


def test_a_constraint_weighs_the_slope_of_its_barrier():
    # 1 / (20 * .1) = .5 beside the objectives' 1
    np.testing.assert_allclose(row([0.1]), np.array([0.5, 0.5, 0.5]) / 1.5)


def test_below_the_margin_the_quadratic_goes_on():
    # (2 * .05 + .15) / (20 * .05^2) = 5, where the logarithm has no value any more
    np.testing.assert_allclose(row([-0.15]), np.array([0.5, 0.5, 5.0]) / 6)


@pytest.mark.parametrize("margin", [0.01, 0.05, 0.3])
def test_value_and_curvature_meet_at_the_margin(margin):
    def weight(slack):
        found = row([slack], margin=margin, cap=1e9)
        return found[2] / (found[0] + found[1])

    h = 1e-4 * margin
    assert weight(margin - 1e-12) == pytest.approx(weight(margin + 1e-12))
    below = (weight(margin) - weight(margin - h)) / h
    above = (weight(margin + h) - weight(margin)) / h
    assert below == pytest.approx(above, rel=1e-3)
    assert below == pytest.approx(-1 / (20 * margin**2), rel=1e-3)


def test_the_weight_falls_with_the_slack_and_is_capped():
    weights = [row([slack])[2] for slack in np.linspace(-3, 3, 61)]
    assert (np.diff(weights) <= 1e-12).all()
    assert weights[-1] > 0
    assert row([-100.0])[2] == pytest.approx(20 / 21)


def test_what_was_never_seen_has_no_weight():
    np.testing.assert_allclose(row([np.nan, 0.1]), np.array([0.5, 0.5, 0.0, 0.5]) / 1.5)


@pytest.mark.parametrize("settings", [{"t": 0}, {"margin": -1}, {"cap": np.inf}, {"t": np.nan}])
def test_settings_out_of_range(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Barrier(**settings)


def test_it_is_made_by_name():
    assert isinstance(make("barrier", t=10), Barrier)


@pytest.mark.parametrize("name", ["lagrangian", "barrier"])
def test_it_keeps_floors(name):
    """Two objectives on the quarter circle; the first is pushed, the second has a floor at .6."""
    keeper = FloorKeeper(1, 2, name)
    keeper.assign(0, np.array([np.nan, 0.6]))
    angle = np.radians(60)
    preferences = np.array([[1.0, 0.0]])
    for step in range(400):
        values = np.array([[np.cos(angle), np.sin(angle)]])
        weights = keeper(preferences, Signal(step, 400, values, preferences))
        np.testing.assert_allclose(weights.sum(), 1)
        # gradient ascent along the circle
        angle += 0.05 * float(weights[0] @ [-np.sin(angle), np.cos(angle)])
    assert np.sin(angle) == pytest.approx(0.6, abs=0.08)
    assert np.sin(angle) > 0.58
