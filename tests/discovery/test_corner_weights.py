"""The explorer that trains where the certified possible gain is largest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pareto_align import ParetoFront
from pareto_align.discovery.explorers import CornerWeights
from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.testing import exact
from pareto_align.testing.explorer import exploration, names_of, sphere
from pareto_align.testing.judging import judged_fit
from pareto_align.testing.problems import get_problem

BETA = 0.1


def begun(m: int = 2, population: int = 2, **settings: float) -> CornerWeights:
    explorer = CornerWeights(**settings)
    explorer.preferences(names_of(m), population, 0)
    return explorer


def test_between_two_corners_the_middle_comes_next() -> None:
    """On a circle the ends reach 1 each; of what lies between, V* = |w|, the ends know least in the middle."""
    state = exploration(np.eye(2), preferences=np.eye(2), stderr=1e-4)
    explorer = begun(epsilon=0.01)
    first, second = explorer.propose(state)
    assert first is not None
    # at (.5, .5) the bound is 1, and an end is worth .5
    np.testing.assert_allclose(first.preference, [0.5, 0.5], atol=0.01)
    assert first.parent in ("m0000", "m0001")
    # the other slot keeps away from it
    assert second is None or np.linalg.norm(second.preference - first.preference) >= 0.05
    assert explorer.satisfied is None


def test_with_policies_all_along_there_is_nothing_to_gain() -> None:
    asked = np.column_stack([np.linspace(0, 1, 41), 1 - np.linspace(0, 1, 41)])
    state = exploration(np.array([sphere(p) for p in asked]), preferences=asked, stderr=1e-5, resolution=0.0)
    explorer = begun(population=41, epsilon=0.01)
    assert explorer.propose(state) == [None] * 41
    assert explorer.satisfied is not None
    assert "no policy under this price of KL is worth more than" in explorer.satisfied
    resumed = begun(population=41, epsilon=0.01)
    resumed.load_state_dict(json.loads(json.dumps(explorer.state_dict())))
    assert resumed.satisfied == explorer.satisfied


def test_a_slot_that_is_not_done_goes_on() -> None:
    state = exploration(np.eye(2), preferences=np.eye(2), stderr=1e-4)
    for entry in state.archive.entries.values():
        assert entry.origin.ceiling is not None
        entry.origin = replace(entry.origin, ceiling=replace(entry.origin.ceiling, value=1.5))
    assert begun(epsilon=0.01).propose(state) == [None, None]


def test_a_slot_is_judged_by_its_newest_policy_although_it_fell_and_for_its_own_preference_only() -> None:
    """The newest of slot 0 is dominated and holds no adapter; before that the slot had finished another preference."""
    asked, points = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.4], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0], [0.2, 0.1], [0.0, 1.0]]
    held = [True, True, False, True]
    state = exploration(points, preferences=asked, population=2, stderr=1e-4, held=held)
    new = state.archive.entries["m0002"]
    assert new.origin.ceiling is not None
    new.origin = replace(new.origin, ceiling=replace(new.origin.ceiling, value=0.8))
    assert new not in state.alive()
    assert CornerWeights._latest(0, state) == new.origin.ceiling
    assert begun(epsilon=0.01).propose(state)[0] is None
    # its ceiling bounds what is left to gain: without it .4 could be added at its preference
    new.origin = replace(new.origin, ceiling=replace(new.origin.ceiling, value=0.61))
    done = begun(epsilon=0.3)
    done.propose(state)
    assert done.satisfied is not None
    # of a policy for another preference nothing is taken to be known
    new.origin = replace(new.origin, preference=(1.0, 0.0))
    assert CornerWeights._latest(0, state) is None


def test_bounds_that_nothing_bears_are_said_and_move_nothing() -> None:
    state = exploration(np.eye(2), preferences=np.eye(2))
    for entry in state.archive.entries.values():
        assert entry.origin.ceiling is not None
        entry.origin = replace(entry.origin, ceiling=replace(entry.origin.ceiling, effective=1.0))
    with pytest.warns(ParetoAlignWarning, match=r"effective answers to every prompt \(at most 1\.0\)"):
        assert begun().propose(state) == [None, None]


def test_it_needs_a_price_of_kl_and_a_policy_for_each_objective(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Set kl_coef above 0"):
        judged_fit(get_problem("arc"), tmp_path, explorer="corner-weights", population=2, steps=2)
    with pytest.raises(ConfigError, match="at least 3 policies"):
        begun(m=3, population=2)


def test_a_run_ends_with_a_guarantee_that_is_true(tmp_path: Path) -> None:
    """From policies to bounds through the whole pipeline, and against the enumerated truth."""
    problem = get_problem("arc", V=8)
    fit = judged_fit(
        problem,
        tmp_path / "run",
        weighting="fixed",
        explorer={"name": "corner-weights", "epsilon": 0.08, "candidates": 21, "settle": 0.1},
        population=2,
        kl_coef=BETA,
        steps=120,
        eval_every=20,
        learning_rate=1e-2,
        eval_group_size=256,
    )
    events = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    moved = [event for event in events if event["event"] == "task"]
    assert moved, "two corners are not enough for epsilon"
    (satisfied,) = [event for event in events if event["event"] == "satisfied"]
    assert satisfied["step"] < 120
    front = ParetoFront.load(tmp_path / "run" / "front")
    for w in ([1.0, 0.0], [0.5, 0.5], [0.2, 0.8]):
        truth = exact.best_value(fit.reference, problem.rewards, w, BETA)
        found = front.bounds(dict(zip(front.names, w, strict=True)))
        assert found.lower <= truth <= found.upper
        assert found.gain < 0.12


def test_a_front_without_ceilings_has_no_bounds(tmp_path: Path) -> None:
    fit = judged_fit(get_problem("arc", V=8), tmp_path, weighting="fixed", population=2, steps=2, eval_every=2)
    with pytest.raises(ConfigError, match="kl_coef above 0"):
        fit.front.bounds([0.5, 0.5])
