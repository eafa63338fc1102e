"""Where a family's preferences are drawn, and where the trained family is measured."""

from __future__ import annotations

import numpy as np
import pytest

from pareto_align.discovery.explorers import Everywhere
from pareto_align.discovery.explorers.everywhere import cells, fill_in
from pareto_align.errors import ConfigError
from pareto_align.front import preferences as simplex
from pareto_align.testing.explorer import exploration, names_of


@pytest.mark.parametrize("m", [2, 3, 5])
def test_cells_have_about_the_same_size(m):
    homes = cells(m, 8)
    points = simplex.random(m, 20_000, seed=7)
    owner = ((points[:, None] - homes[None]) ** 2).sum(-1).argmin(1)
    shares = np.bincount(owner, minlength=8) / len(points)
    assert shares.min() > 0.6 / 8
    assert shares.max() < 1.6 / 8


def test_two_objectives_have_equal_pieces_of_the_segment():
    np.testing.assert_allclose(cells(2, 4)[:, 0], [0.875, 0.625, 0.375, 0.125])


@pytest.mark.parametrize("m", [2, 3, 5])
def test_every_step_sees_one_preference_of_each_cell(m):
    explorer = Everywhere(corners=0.0)
    explorer.preferences(names_of(m), 8, 0)
    drawn = np.stack([explorer.draw(step) for step in range(50)])
    assert drawn.shape == (50, 8, m)
    np.testing.assert_allclose(drawn.sum(-1), 1)
    owner = ((drawn[:, :, None] - explorer.homes[None, None]) ** 2).sum(-1).argmin(-1)
    assert (owner == np.arange(8)).mean() > 0.999
    assert len(np.unique(drawn[:, 0], axis=0)) == 50
    np.testing.assert_array_equal(explorer.draw(3), drawn[3])


@pytest.mark.parametrize("m", [2, 4])
def test_corners_are_drawn_as_often_as_asked(m):
    explorer = Everywhere(corners=0.25)
    explorer.preferences(names_of(m), 8, 0)
    drawn = np.stack([explorer.draw(step) for step in range(400)])
    for corner in np.eye(m):
        share = (drawn == corner).all(-1).any(1).mean()
        assert 0.15 < share < 0.35


@pytest.mark.parametrize("m", [2, 3])
def test_the_grid_it_is_measured_on_lies_in_the_cells_that_it_is_drawn_from(m):
    explorer = Everywhere()
    rows = explorer.preferences(names_of(m), 8, 0)
    expected = simplex.grid(m, 8)
    assert sorted(map(tuple, rows.round(9))) == sorted(map(tuple, expected.round(9)))
    owner = ((rows[:, None] - explorer.homes[None]) ** 2).sum(-1).argmin(1)
    assert (owner == np.arange(8)).mean() >= 0.75


def test_further_preferences_halve_the_widest_gap_and_what_it_leaves():
    preferences = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    points = np.array([[1.0, 0.0], [0.9, 0.2], [0.0, 1.0]])  # the second gap is far wider
    found = fill_in(preferences, points, 3)
    np.testing.assert_allclose(found, [[0.25, 0.75], [0.125, 0.875], [0.375, 0.625]])


def test_with_three_objectives_gaps_are_edges_of_the_triangulation():
    preferences = np.vstack([np.eye(3), np.full((1, 3), 1 / 3)])
    points = np.vstack([np.eye(3), [[0.1, 0.45, 0.45]]])
    (found,) = fill_in(preferences, points, 1)
    np.testing.assert_allclose(found, [0.5, 0.5, 0.0], atol=1e-9)


def test_it_asks_for_what_it_was_told_in_two_rounds_and_for_nothing_where_nothing_was_measured():
    explorer = Everywhere(dense=5)
    rows = explorer.preferences(names_of(2), 4, 0)
    state = exploration(np.stack([p / np.linalg.norm(p) for p in rows]), preferences=rows)
    first = explorer.further(state)
    assert len(first) == 3
    frugal = Everywhere(dense=0)
    frugal.preferences(names_of(2), 4, 0)
    assert len(frugal.further(state)) == 0
    nothing = exploration(np.zeros((1, 2)))
    nothing.archive.entries.clear()
    assert explorer.further(nothing).shape == (0, 2)


@pytest.mark.parametrize("settings", [{"corners": 1.5}, {"corners": "a"}, {"dense": -1}, {"dense": 1.5}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Everywhere(**settings)


def test_one_objective_is_refused():
    with pytest.raises(ConfigError, match="objectives"):
        Everywhere().preferences(["a"], 4, 0)
