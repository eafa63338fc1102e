"""Soups: what is mixed, what is predicted of it, and what is worth measuring."""

from __future__ import annotations

import numpy as np
import pytest

from pareto_align.discovery.explorers import Discover, Soups
from pareto_align.discovery.explorers.soups import backbone_matrix, bulge, dispersion
from pareto_align.front import hypervolume
from pareto_align.testing.explorer import exploration, names_of, simulate, sphere

ANGLES = np.radians([0, 8, 16, 74, 82, 90])
ARC = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)


def begun(explorer, m=2, population=6):
    explorer.preferences(names_of(m), population, 0)
    return explorer


def mixed(explorer, state=None):
    return list(explorer.mixtures(exploration(ARC) if state is None else state))


def add_soup(state, parents, coefficients, point, stderr=0.01, **recipe):
    made = exploration([point], stderr=stderr).archive.entries["m0000"]
    name = f"s{len(state.archive.entries)}"
    provenance = {"step": 50, "parents": parents, "coefficients": coefficients, **recipe}
    state.archive.offer(name, made.estimate, provenance, "an adapter")


def test_the_first_soup_is_in_the_widest_gap():
    soup = mixed(begun(Soups(kinds=("neighbours",), measure=1)))[0]
    assert sorted(soup.parents) == ["m0002", "m0003"]
    assert list(soup.coefficients) == [0.5, 0.5]
    np.testing.assert_allclose(soup.preference, [0.5, 0.5])


def test_a_search_finds_the_same_gap_and_predicts_a_gain():
    soup = mixed(begun(Soups(kinds=("search",), measure=1)))[0]
    held = dict(zip(soup.parents, soup.coefficients, strict=True))
    assert sum(held.values()) == pytest.approx(1)
    assert min(held.values()) >= 0.1
    expected = sum(c * ARC[int(name[1:])] for name, c in held.items())
    reference = np.full(2, -0.1)
    gain = hypervolume(np.vstack([ARC, expected]), reference) - hypervolume(ARC, reference)
    middle = hypervolume(np.vstack([ARC, (ARC[2] + ARC[3]) / 2]), reference) - hypervolume(ARC, reference)
    assert gain > 0.9 * middle


def test_rewarded_soups_mix_the_corners_with_the_preference():
    soups = mixed(begun(Soups(kinds=("corners",), measure=3)), exploration(np.eye(2)))
    assert {tuple(soup.parents) for soup in soups} == {("m0000", "m0001")}
    assert sorted(soup.coefficients[0] for soup in soups) == pytest.approx([0.25, 0.5, 0.75])
    for soup in soups:
        np.testing.assert_allclose(soup.coefficients, soup.preference, atol=1e-3)


def test_bone_soup_trains_its_matrix_and_mixes_with_its_inverse():
    for m in (2, 3):
        matrix = backbone_matrix(m, 0.7)
        np.testing.assert_allclose(matrix.sum(1), 1)
        np.testing.assert_allclose(np.diag(matrix), 0.7)
        rows = begun(Soups(train="bone", beta=0.7), m=m).preferences(names_of(m), m + 2, 0)
        np.testing.assert_allclose(rows[:m], matrix)
    # backbones at .7 and .3: for (.75, .25), B^-1 w = (w - .3) / .4 = (1.125, -.125)
    points = np.stack([sphere(row) for row in backbone_matrix(2, 0.7)])
    state = exploration(points, preferences=backbone_matrix(2, 0.7))
    soups = mixed(begun(Soups(train="bone", kinds=("corners",), measure=9, least=0.0)), state)
    found = sorted(tuple(np.round(soup.coefficients, 6)) for soup in soups)
    assert found == [(-0.125, 1.125), (0.5, 0.5), (1.125, -0.125)]
    wide = next(soup for soup in soups if soup.coefficients[0] > 1)
    np.testing.assert_allclose(wide.preference, [0.75, 0.25])


def test_without_its_backbones_bone_soup_mixes_nothing():
    assert mixed(begun(Soups(train="bone", kinds=("corners",)))) == []


def test_extrapolation_goes_beyond_a_corner_away_from_its_neighbour():
    # the corner of the first objective is flat: a step on promises a longer first objective
    soups = mixed(begun(Soups(kinds=(), extrapolate=0.5, measure=9, least=0.0)), exploration([[0.8, 0.2], [0.6, 0.5]]))
    assert {tuple(soup.coefficients) for soup in soups} == {(1.5, -0.5)}
    assert {tuple(soup.parents) for soup in soups} == {("m0000", "m0001"), ("m0001", "m0000")}


def test_dispersion_is_the_sum_over_pairs():
    values = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    c = np.array([0.5, 0.3, 0.2])
    pairs = sum(c[i] * c[j] * ((values[i] - values[j]) ** 2).sum() for i in range(3) for j in range(i))
    assert dispersion(c, values) == pytest.approx(pairs)
    assert dispersion(np.array([0.0, 1.0, 0.0]), values) == 0


def test_without_soups_interpolation_is_linear_and_a_measured_bulge_is_learnt():
    state = exploration(ARC)
    np.testing.assert_array_equal(bulge(state), [0, 0])
    parents, half = ["m0002", "m0003"], [0.5, 0.5]
    middle = (ARC[2] + ARC[3]) / 2
    spread = ((ARC[2] - ARC[3]) ** 2).sum() / 4
    add_soup(state, parents, half, middle + [0.1, 0.06], stderr=1e-4)
    precision = 1 / (1e-8 + 2 * 0.25 * 0.01**2 + 1e-4)
    ridge = precision * spread**2 / (1 + precision * spread**2)
    np.testing.assert_allclose(bulge(state), np.array([0.1, 0.06]) / spread * ridge, rtol=1e-6)


def test_a_perturbed_child_says_nothing_about_soups():
    state = exploration(ARC)
    add_soup(state, ["m0002", "m0003"], [0.5, 0.5], [0.9, 0.9], noise=0.1)
    np.testing.assert_array_equal(bulge(state), [0, 0])


def test_soups_that_sank_are_not_made_again_and_not_made_elsewhere():
    state = exploration(ARC)
    explorer = begun(Soups())
    assert len(mixed(explorer, state)) == 3
    add_soup(state, ["m0003", "m0002"], [0.5, 0.5], [0.1, 0.1], stderr=0.001)
    # soups in this region lose a unit of value: nothing that is mixed is expected to add anything
    assert mixed(explorer, state) == []


def test_the_same_soup_is_not_measured_twice():
    state = exploration(ARC)
    explorer = begun(Soups(kinds=("neighbours",), measure=9))
    first = mixed(explorer, state)
    for soup in first:
        point = sum(c * ARC[int(name[1:])] for name, c in zip(soup.parents, soup.coefficients, strict=True))
        add_soup(state, list(soup.parents), list(soup.coefficients), point)
    again = {tuple(sorted(soup.parents)) for soup in mixed(explorer, state)}
    assert not again & {tuple(sorted(soup.parents)) for soup in first}


def test_fewer_than_two_parents_make_no_soup():
    explorer = begun(Soups())
    assert mixed(explorer, exploration(ARC[:1])) == []
    assert mixed(explorer, exploration(ARC, held=[True] + [False] * 5)) == []


def test_soups_wait_for_their_share_of_the_run():
    explorer = begun(Soups(after=0.5))
    assert mixed(explorer, exploration(ARC, step=49)) == []
    assert mixed(explorer, exploration(ARC, step=50)) != []


def test_no_more_is_measured_than_allowed():
    for turn in simulate(Discover(soups=2), population=6, rounds=12):
        assert len(turn.mixtures) <= 2


def test_discover_without_soups_makes_none():
    assert mixed(begun(Discover(soups=0))) == []
    assert len(mixed(begun(Discover(soups=1)))) == 1
