"""Coefficients of adapters for a preference: the enclosing cell, the nearest point outside, equal anchors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import Delaunay

from pareto_align.errors import PreferenceError
from pareto_align.front.blending import coefficients_for
from pareto_align.front.preferences import grid, random, simplex_plane


def test_two_objectives_are_between_their_neighbours():
    anchors = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.75, 0.25]])
    found = coefficients_for(anchors, [0.6, 0.4])
    np.testing.assert_allclose(found.weights, [0, 0.6, 0, 0.4], atol=1e-9)
    assert found.distance == 0
    np.testing.assert_allclose(found.served, [0.6, 0.4])


@pytest.mark.parametrize("m", [3, 4])
def test_it_is_the_delaunay_cell(m):
    anchors = np.vstack([grid(m, 9), random(m, 4, seed=1)])
    plane = simplex_plane(m)
    cells = Delaunay(anchors @ plane)
    for asked in random(m, 40, seed=2):
        found = coefficients_for(anchors, asked)
        np.testing.assert_allclose(found.weights @ anchors, asked, atol=1e-6)
        assert found.weights.sum() == pytest.approx(1)
        assert (found.weights >= 0).all()
        corners = cells.simplices[cells.find_simplex(asked @ plane)]
        assert set(np.flatnonzero(found.weights)) <= set(corners.tolist())


def test_outside_the_hull_the_nearest_point_is_served():
    found = coefficients_for([[0.8, 0.2, 0.0], [0.2, 0.8, 0.0]], [0.5, 0.3, 0.2])
    np.testing.assert_allclose(found.served, [0.6, 0.4, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.weights, [2 / 3, 1 / 3], atol=1e-6)
    assert found.distance == pytest.approx(np.sqrt(0.01 + 0.01 + 0.04), abs=1e-6)
    alone = coefficients_for([[0.5, 0.5]], [1.0, 0.0])
    assert (alone.weights.tolist(), alone.served.tolist()) == ([1.0], [0.5, 0.5])


def test_of_anchors_at_one_place_the_worthier_takes_all():
    anchors = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [np.nan, np.nan]]
    found = coefficients_for(anchors, [0.3, 0.7], worth=[0.1, 0.4, 0.2, 9.0])
    np.testing.assert_allclose(found.weights, [0, 0.3, 0.7, 0], atol=1e-6)


def test_nobody_was_trained_for_a_preference():
    with pytest.raises(PreferenceError, match="No member was trained for a preference"):
        coefficients_for([[np.nan, np.nan]], [0.5, 0.5])
