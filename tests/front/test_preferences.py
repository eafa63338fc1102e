from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pareto_align.errors import ConfigError, PreferenceError
from pareto_align.front import Preference, grid, interior, lattice, random

NAMES = ["helpful", "harmless", "brief"]


@given(st.lists(st.floats(0, 1e308), min_size=3, max_size=3).filter(any), st.floats(1e-3, 1e3))
def test_scale_does_not_matter(weights: list[float], factor: float) -> None:
    found = Preference.of(weights, NAMES).weights
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    if max(weights) < 1e300 and min(w for w in weights if w) > 1e-200:
        np.testing.assert_allclose(Preference.of([w * factor for w in weights], NAMES).weights, found, atol=1e-12)


def test_names_weights_arrays_and_preferences_say_the_same() -> None:
    named = Preference.of({"brief": 1, "helpful": 3}, NAMES)
    np.testing.assert_allclose(named.weights, [0.75, 0, 0.25])
    np.testing.assert_array_equal(Preference.of(np.array([3, 0, 1]), NAMES).weights, named.weights)
    np.testing.assert_allclose(Preference.of(named, NAMES).weights, named.weights)


def test_weights_cannot_be_changed_and_input_is_not() -> None:
    given_ = np.array([2.0, 2.0])
    preference = Preference.of(given_, ["a", "b"])
    np.testing.assert_array_equal(given_, 2)
    with pytest.raises(ValueError):
        preference.weights[0] = 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"helpfull": 1}, "Did you mean 'helpful'"),
        ({"zzz": 1}, "objectives are helpful, harmless, brief"),
        ({"brief": -1}, "'brief' must be a finite number that is not negative"),
        ({"brief": float("nan")}, "'brief'"),
        ({"brief": float("inf")}, "'brief'"),
        ({"brief": "1"}, "'brief'"),
        ({"brief": None}, "'brief'"),
        ([0, 0, 0], "All preference weights are zero"),
        ({}, "All preference weights are zero"),
        ([1, 2], "Found 2 preference weights for 3 objectives"),
        (Preference(np.ones(2)), "Found 2 preference weights for 3"),
        ("helpful", "a dict or a list"),
        (1.0, "a dict or a list"),
        ([[1, 0, 0]], "a dict or a list"),
    ],
)
def test_errors_say_what_is_wrong(value: object, message: str) -> None:
    with pytest.raises(PreferenceError, match=message):
        Preference.of(value, NAMES)  # type: ignore[arg-type]


@pytest.mark.parametrize("m", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 12])
def test_grid_covers_the_simplex(m: int, count: int) -> None:
    rows = grid(m, count)
    assert rows.shape == (count, m)
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    np.testing.assert_array_equal(grid(m, count), rows)
    if count == 1:
        np.testing.assert_allclose(rows, 1 / m)
    elif count >= m:
        assert {tuple(row) for row in np.eye(m)} <= {tuple(row) for row in rows}
        assert tuple(rows[0]) == tuple(np.eye(m)[0])
    if m > 1:
        distance = np.linalg.norm(rows[:, None] - rows[None], axis=2)[~np.eye(count, dtype=bool)]
        assert distance.min(initial=1) > 0.05


def test_more_rows_than_objectives_hold_the_centre_and_all_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    # the energy takes seconds for each; any points on the faces will do
    def directions(name: str, m: int, count: int, seed: int) -> NDArray[np.float64]:
        points = np.random.default_rng([seed, m, count]).dirichlet(np.ones(m), size=count)
        points[np.arange(count), points.argmin(axis=1)] = 0.0
        return np.asarray(points / points.sum(axis=1, keepdims=True))

    for real in (False, True):
        counts = {m: range(m + 1, 41) for m in range(3, 7)} if not real else {3: [5, 8], 4: [8]}
        with monkeypatch.context() as patched:
            if not real:
                patched.setattr("pymoo.util.ref_dirs.get_reference_directions", directions)
            for m, count in [(m, count) for m, every in counts.items() for count in every]:
                rows = grid(m, count)
                assert rows.shape == (count, m)
                assert rows.min(axis=1).max() >= 1 / m - 1e-9
                assert {tuple(row) for row in np.eye(m)} <= {tuple(row) for row in rows}
                assert tuple(rows[0]) == tuple(np.eye(m)[0])
                np.testing.assert_allclose(rows.sum(axis=1), 1)
                apart = np.linalg.norm(rows[:, None] - rows[None], axis=2)[~np.eye(count, dtype=bool)].min()
                # half of what the energy's own points keep, or more: 142 grids were looked at
                assert apart > (0.35 if real else 1e-6)


def test_two_objectives_are_equally_spaced() -> None:
    np.testing.assert_allclose(grid(2, 4), [[1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1]], atol=1e-15)


def test_grid_leaves_the_global_random_state_alone() -> None:
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    grid(3, 7)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(("m", "divisions"), [(1, 3), (2, 4), (3, 5), (5, 2)])
def test_lattice_has_every_composition_once(m: int, divisions: int) -> None:
    rows = lattice(m, divisions)
    assert rows.shape == (comb(divisions + m - 1, m - 1), m)
    assert len({tuple(row) for row in rows}) == len(rows)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    np.testing.assert_allclose(rows * divisions, np.round(rows * divisions))
    assert tuple(rows[0]) == tuple(np.eye(m)[0])


def test_random_is_uniform_and_seeded() -> None:
    rows = random(3, 4000, seed=1)
    np.testing.assert_array_equal(rows, random(3, 4000, seed=1))
    np.testing.assert_allclose(rows.mean(axis=0), 1 / 3, atol=0.02)
    np.testing.assert_allclose(rows.var(axis=0), 1 / 18, atol=0.005)  # Dirichlet(1): (m - 1) / (m^2 (m + 1))


@pytest.mark.parametrize("margin", [0.0, 0.1, 1 / 3])
def test_interior_keeps_the_sum_and_the_margin(margin: float) -> None:
    corners = np.eye(3)
    rows = interior(corners, margin)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    assert rows.min() == pytest.approx(margin)
    np.testing.assert_array_equal(corners, np.eye(3))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="margin"):
        interior([0.5, 0.5], 0.6)
    with pytest.raises(ConfigError, match="count must be at least 1"):
        grid(2, 0)
    with pytest.raises(ConfigError, match="m must be at least 1"):
        lattice(0, 3)


def test_a_grid_is_the_callers_own() -> None:
    """What was searched for is kept, and changing what was handed out does not change it."""
    found = grid(3, 7)
    expected = found.copy()
    found[:] = 0
    np.testing.assert_array_equal(grid(3, 7), expected)
