"""What each explorer proposes in situations whose answer is known: a hole in an arc, a flat front, negative values."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from pareto_align.discovery.explorers import (
    CMORL,
    Adaptive,
    Bayesian,
    Discover,
    Evolution,
    RandomPreferences,
    Soups,
    checks,
)
from pareto_align.discovery.explorers.adaptive import spread_apart
from pareto_align.discovery.explorers.cmorl import isolation, thresholds
from pareto_align.discovery.explorers.discover import floors_towards
from pareto_align.discovery.explorers.evolution import utilities
from pareto_align.discovery.explorers.surrogate import PreferenceModel
from pareto_align.errors import ConfigError
from pareto_align.front import hypervolume, lattice
from pareto_align.front.preferences import simplex_plane
from pareto_align.testing.explorer import exploration, names_of, simulate, sphere

# eight policies at the two ends of an arc, nothing between .85 and .15
FIRST = np.array([1.0, 0.95, 0.9, 0.85, 0.15, 0.1, 0.05, 0.0])
ASKED = np.stack([FIRST, 1 - FIRST], 1)
ARC = np.stack([sphere(p) for p in ASKED])
EAGER = {"patience": 1, "least": 0.9, "settle": 0.0, "most": 0.5}  # four of the eight are free at once


def holed(**settings):
    return exploration(ARC, preferences=ASKED, **settings)


def begun(explorer, m=2, population=8):
    explorer.preferences(names_of(m), population, 0)
    return explorer


def moves(tasks):
    return [task for task in tasks if task is not None]


# ------------------------------------------------------------------------------------------------ into the hole


@pytest.mark.parametrize("explorer", [Adaptive(**EAGER), Bayesian(**EAGER), Discover(**EAGER)], ids=lambda e: e.name)
def test_free_slots_are_sent_into_the_hole_from_its_edges(explorer):
    tasks = moves(begun(explorer).propose(holed()))
    assert len(tasks) == 4
    first = np.array([task.preference[0] for task in tasks])
    assert ((first > 0.2) & (first < 0.8)).all()
    assert np.ptp(first) > 0.1, "not all to the same place"
    assert first[0] == pytest.approx(0.5, abs=0.05), "the middle before the rest"
    # parents stand on the side of the hole that is nearer
    for task in tasks:
        parent = ASKED[int(task.parent[1:]), 0]
        assert abs(parent - task.preference[0]) <= abs((0.15 if parent > 0.5 else 0.85) - task.preference[0]) + 0.02


def test_cmorl_extends_the_edges_of_the_hole_under_floors():
    state = holed()
    tasks = begun(CMORL(beta=0.9)).propose(state)
    assert len(moves(tasks)) == 8
    # every edge of the hole is extended in both objectives, and one of these ways leads into the hole
    assert {(task.parent, int(task.preference.argmax())) for task in tasks[:4]} == {
        (name, axis) for name in ("m0003", "m0004") for axis in (0, 1)
    }
    span = np.ptp(ARC, axis=0)
    for task in tasks:
        axis = int(task.preference.argmax())
        np.testing.assert_array_equal(task.preference, np.eye(2)[axis])
        assert np.isnan(task.floors[axis])
        own = ARC[int(task.parent[1:])]
        assert task.floors[1 - axis] == pytest.approx(own[1 - axis] - 0.1 * span[1 - axis])


def test_discover_uses_floors_where_a_preference_was_tried_in_vain():
    explorer = begun(Discover(**EAGER))
    first = moves(explorer.propose(holed()))
    assert all(task.floors is None for task in first)
    again = moves(explorer.propose(holed()))
    axis = int(again[0].preference.argmax())
    start, goal = ARC[int(again[0].parent[1:])], (ARC[3] + ARC[4]) / 2
    assert goal[axis] > start[axis]
    assert start[1 - axis] > goal[1 - axis]
    assert again[0].floors[1 - axis] == pytest.approx(goal[1 - axis] - 0.1 * (start - goal)[1 - axis])


def test_floors_ask_for_no_more_than_the_way_to_the_goal_costs():
    axis, floors = floors_towards(np.array([0.9, 0.1, 0.5]), np.array([0.5, 0.6, 0.7]), 0.1)
    assert axis == 1
    # the first may fall to .5 less a tenth of .4, the third is ahead of what it has: it may lose a tenth of the way
    np.testing.assert_allclose(floors, [0.46, np.nan, 0.48])


@pytest.mark.parametrize("explorer", [Adaptive(), CMORL(), Discover(), Bayesian()], ids=lambda e: e.name)
def test_a_run_closes_the_hole_that_a_grid_leaves(explorer):
    """The preferences of the middle lead to the ends, as where linear weights meet a front with a steep bend."""

    def leads_to(p):
        sharp = p**3 / (p**3).sum()  # evenly spaced preferences crowd at the ends
        return sphere(sharp)

    def final(explorer):
        *_, last = simulate(explorer, population=6, rounds=24, leads_to=leads_to)
        points = last.state.points(last.state.archive.members())
        angles = np.sort(np.degrees(np.arctan2(points[:, 1], points[:, 0])))
        return hypervolume(points, np.zeros(2)), np.diff(angles).max()

    class Still(Adaptive):
        name = "still"

        def propose(self, state):
            return [None] * len(state.preferences)

    volume, gap = final(explorer)
    grid_volume, grid_gap = final(Still())
    assert grid_gap > 30
    assert gap < 0.75 * grid_gap
    assert volume > grid_volume + 0.005


def test_a_flat_front_is_filled_by_floors_where_every_preference_leads_to_a_corner():
    def corner(p):
        return np.eye(2)[int(p.argmax())]

    def inner(explorer):
        *_, last = simulate(explorer, population=4, rounds=14, leads_to=corner, reaches=lambda p: p)
        # where policies end, not what they pass on the way from one corner to the other
        return int((last.state.measured > 0.2).all(1).sum())

    assert inner(Adaptive(patience=1)) == 0
    assert inner(Discover(patience=1, soups=0)) > 0
    assert inner(CMORL()) > 0


# ------------------------------------------------------------------------------------------------ adaptive, random


def test_psa_parts_two_policies_that_stand_together():
    # two policies at (.6, .5) and (.5, .6): the first is ahead in the first objective, and is to go further there
    values = np.array([[0.6, 0.5], [0.5, 0.6]])
    even = np.full((2, 2), 0.5)
    found = spread_apart(values, values, even, delta=0.1, distance=0.05)
    ahead = 1.1 / (1.1 + 1 / 1.1)
    np.testing.assert_allclose(found, [[ahead, 1 - ahead], [1 - ahead, ahead]])
    np.testing.assert_array_equal(spread_apart(values, values, even, delta=0.1, distance=1.0), even)
    np.testing.assert_array_equal(spread_apart(np.full((2, 2), np.nan), values, even, delta=0.1, distance=0.0), even)


def test_psa_moves_nothing_to_a_weight_of_zero():
    for turn in simulate(Adaptive(rule="psa", delta=1.0, settle=0.0, margin=0.02), population=5, rounds=30):
        for task in moves(turn.tasks):
            assert task.preference.min() > 0
            assert task.parent is None


def test_a_random_draw_comes_every_so_often_and_from_the_nearest_parent():
    explorer = begun(RandomPreferences(every=3))
    assert moves(explorer.propose(holed(seed=1))) == []
    assert moves(explorer.propose(holed(seed=2))) == []
    tasks = moves(explorer.propose(holed(seed=3)))
    assert len(tasks) == 8
    for task in tasks:
        distance = np.abs(FIRST - task.preference[0])
        assert distance[int(task.parent[1:])] == pytest.approx(distance.min())
    assert len({task.preference[0] for task in tasks}) == 8
    cold = begun(RandomPreferences(every=1, warm_start=False))
    assert {task.parent for task in cold.propose(holed())} == {None}
    assert moves(cold.propose(holed(step=81))) == []


def test_a_small_concentration_draws_corners():
    rows = RandomPreferences(concentration=1e-3).preferences(names_of(3), 50, 0)
    assert (rows.max(1) > 0.99).mean() > 0.9
    assert RandomPreferences(concentration=1000.0).preferences(names_of(3), 50, 0).max() < 0.45


# ------------------------------------------------------------------------------------------------ cmorl


def test_the_parent_meets_its_own_thresholds_whatever_their_sign():
    values = np.array([0.8, -0.5, 0.0])
    np.testing.assert_allclose(thresholds(values, 0.9), [0.72, -0.55, 0.0])
    np.testing.assert_allclose(thresholds(values, 0.9, np.array([1.0, 2.0, 0.5])), [0.7, -0.7, -0.05])
    assert (0.9 * values > values).any(), "beta v, as published, is above a negative v"


def test_crowding_that_moves_inwards():
    # positions 0, .1, .5, .9, 1 in both objectives: .4 + .4 twice in the middle; the ends count their one gap twice
    at = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    points = np.stack([at, 1 - at], 1)
    np.testing.assert_allclose(isolation(points, np.zeros((0, 2)), 0.1), [0.4, 1.0, 1.6, 1.0, 0.4])
    # visited near the middle: it counts half, wherever exactly it was
    np.testing.assert_allclose(isolation(points, np.array([[0.52, 0.5]]), 0.1)[2], 0.8)
    np.testing.assert_allclose(isolation(points, np.array([[0.52, 0.5]] * 3), 0.1)[2], 0.4)


def test_extension_begins_after_its_share_and_comes_in_rounds():
    explorer = begun(CMORL(share=0.5, rounds=2))
    made = [len(moves(explorer.propose(holed(step=step)))) for step in (40, 50, 60, 74, 76, 90)]
    assert made == [0, 8, 0, 0, 8, 0]


def test_pairs_that_do_not_fit_wait_for_the_next_round():
    explorer = begun(CMORL(share=0.0, rounds=4), m=3, population=2)
    state = exploration(np.eye(3), population=2)
    asked = []
    for step in (0, 25, 50):
        asked += [(task.parent, int(task.preference.argmax())) for task in explorer.propose(_at(state, step))]
    assert len(asked) == 6
    assert len(set(asked)) == 6
    assert len({name for name, _ in asked}) == 2


def test_a_later_round_chooses_other_regions():
    explorer = begun(CMORL(share=0.0, rounds=2), population=2)
    state = exploration(np.stack([sphere(np.array([w, 1 - w])) for w in (1, 0.9, 0.5, 0.1, 0)]), population=2)
    first = {task.parent for task in explorer.propose(_at(state, 0))}
    second = {task.parent for task in explorer.propose(_at(state, 50))}
    assert first
    assert not first & second


def test_the_extension_says_who_keeps_its_floors():
    assert CMORL().floor_weighting == "lagrangian"
    assert CMORL(extension="barrier").floor_weighting == "barrier"


def _at(state, step):
    return dataclasses.replace(state, step=step)


# ------------------------------------------------------------------------------------------------ bayesian


def test_coordinates_of_the_simplex_keep_distances():
    for m in (2, 3, 5):
        rows = lattice(m, 3)
        flat = rows @ simplex_plane(m)
        assert flat.shape[1] == m - 1
        np.testing.assert_allclose(
            np.linalg.norm(flat[:, None] - flat[None], axis=-1),
            np.linalg.norm(rows[:, None] - rows[None], axis=-1),
            atol=1e-12,
        )


def model(variances=1e-4, **settings):
    return PreferenceModel(
        ASKED, ARC, np.broadcast_to(variances, ARC.shape), reference=np.full(2, -0.1), samples=16, seed=0, **settings
    )


def test_the_surrogate_follows_the_arc_and_expects_most_from_its_hole():
    found = model()
    np.testing.assert_allclose(found.predict(ASKED), ARC, atol=0.02)
    w = np.linspace(0, 1, 21)
    gains = found.gains(np.stack([w, 1 - w], 1))
    assert w[gains.argmax()] == pytest.approx(0.5, abs=0.051)
    assert gains[10] > gains[[0, 2, 18, 20]].max() + 2


def test_a_noisy_measurement_counts_less():
    values = ARC.copy()
    values[0] += 0.5  # a lucky one
    noise = np.full(ARC.shape, 1e-4)
    settings = {"reference": np.full(2, -0.1), "samples": 8, "seed": 0}
    trusted = PreferenceModel(ASKED, values, noise, **settings).predict(ASKED[:1])[0]
    noise[0] = 1.0
    doubted = PreferenceModel(ASKED, values, noise, **settings).predict(ASKED[:1])[0]
    assert np.abs(trusted - values[0]).max() < 0.1
    assert np.abs(doubted - ARC[0]).max() < np.abs(trusted - ARC[0]).max() / 2


def test_the_surrogate_touches_no_random_numbers_and_compiles_nothing(monkeypatch):
    import torch
    import torch.utils.cpp_extension

    def refuse(*args, **kwargs):
        raise AssertionError("a kernel was to be compiled")

    monkeypatch.setattr(torch.utils.cpp_extension, "load", refuse)
    before = torch.random.get_rng_state()
    found = model()
    first = found.best(ASKED, 2)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first, model().best(ASKED, 2))


def test_without_free_slots_no_model_is_made():
    code = (
        "import sys; import numpy as np;"
        "from pareto_align.discovery.explorers import Bayesian;"
        "from pareto_align.testing.explorer import exploration;"
        "e = Bayesian(); e.preferences(['a', 'b'], 3, 0);"
        "e.propose(exploration(np.array([[1., 0], [.7, .7], [0, 1]])));"
        "assert 'torch' not in sys.modules and 'botorch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ------------------------------------------------------------------------------------------------ evolution


def test_of_two_policies_equal_where_it_counts_the_better_one_wins():
    values = np.array([[0.5, 0.5], [0.5, 0.9], [0.4, 0.9]])
    found = utilities(values, np.array([1.0, 0.0]), np.ones(2))
    assert found.argmax() == 1
    assert found.argmin() == 2


def test_mutation_makes_children_of_the_elite():
    explorer = begun(Evolution(children=8, elite=1, sigma=0.1))
    children = explorer.mixtures(holed())
    assert len({child.seed for child in children}) == 8
    for child, preference in zip(children, ASKED, strict=True):
        worth = utilities(ARC, preference, ARC.max(0))
        assert list(child.parents) == [f"m{int(worth.argmax()):04d}"]
        assert list(child.coefficients) == [1.0]
        assert child.noise == 0.1


def test_a_consensus_is_drawn_towards_the_best():
    explorer = begun(Evolution(method="cbo", children=8, elite=3, step=1.0, alpha=1e6))
    for child, preference in zip(explorer.mixtures(holed()), ASKED, strict=True):
        assert sum(child.coefficients) == pytest.approx(1)
        best = f"m{int(utilities(ARC, preference, ARC.max(0)).argmax()):04d}"
        assert dict(zip(child.parents, child.coefficients, strict=True))[best] == pytest.approx(1)


def test_mezo_steps_along_the_measured_slope():
    explorer = begun(Evolution(method="mezo", children=3, sigma=0.1, step=0.05), population=2)
    state = exploration([[0.5, 0.5], [0.4, 0.4]], stderr=0.3)
    there, back = explorer.mixtures(state)
    assert (there.noise, back.noise) == (0.1, -0.1)
    assert there.seed == back.seed
    for child, value in ((there, 0.6), (back, 0.42)):
        provenance = {"step": 50, "noise": child.noise, "seed": child.seed, "parents": list(child.parents)}
        made = exploration([[value, value]], stderr=0.3).archive.entries["m0000"]
        state.archive.offer(f"c{value}", made.estimate, provenance, "an adapter")
    step = explorer.mixtures(state)[0]
    assert step.seed == there.seed
    preference, ideal = state.preferences[0], np.full(2, 0.6)
    better, worse = utilities(np.array([[0.6, 0.6], [0.42, 0.42]]), preference, ideal)
    assert step.noise == pytest.approx(0.05 * (better - worse) / 0.2)
    assert step.noise > 0


def test_mezo_with_two_children_measures_a_pair_and_steps_in_turn():
    explorer = begun(Evolution(method="mezo", children=2, sigma=0.1, step=0.05), population=2)
    state = exploration([[0.5, 0.5], [0.4, 0.4]], stderr=0.3)
    for turn in range(2):
        pair = explorer.mixtures(state)
        assert [child.noise for child in pair] == [0.1, -0.1]
        for child, value in zip(pair, (0.6 + turn, 0.42), strict=True):
            provenance = {"step": 50, "noise": child.noise, "seed": child.seed, "parents": list(child.parents)}
            made = exploration([[value, value]], stderr=0.3).archive.entries["m0000"]
            state.archive.offer(f"{turn} {value}", made.estimate, provenance, "an adapter")
        (step,) = explorer.mixtures(state)
        assert (step.seed, step.parents) == (pair[0].seed, pair[0].parents)
        assert step.noise > 0


def test_a_slot_goes_on_from_a_child_that_serves_it_better():
    explorer = begun(Evolution(), population=2)
    state = exploration([[0.9, 0.1], [0.2, 0.3]], preferences=[[0.9, 0.1], [0.3, 0.7]])
    child = exploration([[0.3, 0.9]]).archive.entries["m0000"]
    state.archive.offer("child", child.estimate, {"step": 50, "noise": 0.1, "seed": 1}, "an adapter")
    kept, moved = explorer.propose(state)
    assert kept is None
    assert moved.parent == "child"
    np.testing.assert_array_equal(moved.preference, state.preferences[1])


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Adaptive(rule="gaps"), r"`rule` must be .* Found 'gaps'"),
        (lambda: Adaptive(delta=-1), r"`delta` must be .* Found \-1"),
        (lambda: Adaptive(margin=0.0), r"`margin` must be .* Found 0\.0"),
        (lambda: CMORL(share=1.0), "stage 2 never begins"),
        (lambda: CMORL(beta=1.1), r"`beta` must be .* Found 1\.1"),
        (lambda: CMORL(rounds=0), r"`rounds` must be .* Found 0"),
        (lambda: CMORL(extension="ipo"), "lagrangian, barrier. Found 'ipo'"),
        (lambda: CMORL(span="all"), r"`span` must be .* Found 'all'"),
        (lambda: Bayesian(observations=2), r"`observations` must be .* Found 2"),
        (lambda: Bayesian(drift=float("nan")), r"`drift` must be .* Found nan"),
        (lambda: RandomPreferences(concentration=0), r"`concentration` must be .* Found 0"),
        (lambda: RandomPreferences(every=0.5), r"`every` must be .* Found 0\.5"),
        (lambda: Soups(kinds=("corner",)), r"`kinds` must be a list of .* Found \('corner',\)"),
        (lambda: Soups(kinds="neighbours"), "`kinds` must be a list of .* Found 'neighbours'"),
        (lambda: Soups(measure=0), r"`measure` must be .* Found 0"),
        (lambda: Soups(train="bones"), r"`train` must be .* Found 'bones'"),
        (lambda: Evolution(method="es"), r"`method` must be .* Found 'es'"),
        (lambda: Evolution(method="mezo", children=1), "at least 2 with 'mezo'. Found 1"),
        (lambda: Discover(soups=-1), r"`soups` must be .* Found \-1"),
        (lambda: Discover(settle=0.9), "settle=0.9, freeze=0.8"),
    ],
)
def test_a_setting_out_of_range_is_named(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    "explorer", [Adaptive(), CMORL(), Bayesian(), Soups(), RandomPreferences()], ids=lambda e: e.name
)
def test_one_objective_is_too_few_to_trade(explorer):
    with pytest.raises(ConfigError, match=f"'{explorer.name}' needs at least 2 optimized objectives. Found 1 .tone."):
        explorer.preferences(["tone"], 4, 0)


@pytest.mark.parametrize("explorer", [Discover(), Evolution()], ids=lambda e: e.name)
def test_with_one_objective_there_is_nothing_to_move(explorer):
    np.testing.assert_array_equal(explorer.preferences(["tone"], 3, 0), np.ones((3, 1)))
    for step in (30, 50, 70):
        state = exploration([[0.5], [0.4], [0.3]], step=step)
        assert [task for task in explorer.propose(state) if task and task.floors is not None] == []


def test_too_few_policies_are_refused_by_name():
    with pytest.raises(ConfigError, match="'soups' needs a population of at least 2"):
        Soups().preferences(names_of(2), 1, 0)
    with pytest.raises(ConfigError, match="'soups' needs a population of at least 3"):
        Soups(train="bone").preferences(names_of(3), 2, 0)
    with pytest.raises(ConfigError, match="all backbones are alike"):
        Soups(train="bone", beta=0.5).preferences(names_of(2), 2, 0)


@pytest.mark.parametrize(("explorer", "library"), [(Bayesian(), "botorch"), (Soups(), "pymoo")], ids=["gp", "nsga"])
def test_a_missing_library_is_named_before_anything_is_trained(explorer, library, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == library else object())
    with pytest.raises(ConfigError, match=f"'{explorer.name}' needs {library}.*pip install {library}"):
        explorer.preferences(names_of(2), 4, 0)
