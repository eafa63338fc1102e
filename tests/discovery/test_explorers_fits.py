"""A short whole fit with every explorer: what it proposes is trained, what it mixes is measured."""

from __future__ import annotations

import numpy as np
import pytest
from aligner_runs import events, fit

from pareto_align.discovery.explorers import (
    CMORL,
    Adaptive,
    Bayesian,
    Discover,
    Evolution,
    RandomPreferences,
    Soups,
    available_explorers,
    make_explorer,
)

EAGER = {"patience": 1, "least": 1.0, "settle": 0.0, "freeze": 1.0}
SHORT = {"steps": 6, "eval_every": 2, "resolution": 0.0}
EXPLORERS = {
    "adaptive": Adaptive(**EAGER, resolution=0.0),
    "bayesian": Bayesian(**EAGER, observations=8, candidates=8, samples=4),
    "cmorl": CMORL(share=0.3, rounds=2),
    "corner-weights": "corner-weights",
    "discover": Discover(**EAGER, resolution=0.0),
    "everywhere": "everywhere",
    "evolution": Evolution(after=0.0, children=2),
    "grid": "grid",
    "random": RandomPreferences(every=1, freeze=1.0),
    "soups": Soups(after=0.0, least=0.0, resolution=0.0),
}
MIXING = {"discover", "evolution", "soups"}
MOVING = {"adaptive", "bayesian", "cmorl", "discover", "random"}


def test_every_explorer_has_a_fit():
    shipped = [n for n in available_explorers() if type(make_explorer(n)).__module__.startswith("pareto_align.")]
    assert sorted(EXPLORERS) == shipped


@pytest.mark.parametrize("name", EXPLORERS)
def test_a_whole_fit(name, tmp_path):
    family = "blocks" if make_explorer(EXPLORERS[name]).for_families else "independent"
    priced = {"kl_coef": 0.1, "weighting": "fixed"} if make_explorer(EXPLORERS[name]).needs_kl else {}
    front, _ = fit(tmp_path / "run", explorer=EXPLORERS[name], family=family, **SHORT, **priced)
    assert len(front) >= 1
    tasks, mixtures = events(tmp_path / "run", "task"), events(tmp_path / "run", "mixtures")
    assert bool(mixtures) == (name in MIXING)
    assert name not in MOVING or tasks
    assert name in MOVING | {"evolution", "corner-weights"} or not tasks  # these two go by what they find
    for task in tasks:
        np.testing.assert_allclose(sum(task["preference"]), 1)
        assert task["reason"]
    for event in mixtures:
        assert np.isfinite(event["values"]).all()


def test_an_extension_pushes_its_objective_and_watches_its_floors(tmp_path):
    fit(tmp_path / "run", explorer=CMORL(share=0.3, rounds=1), weighting="fixed", **SHORT)
    tasks = events(tmp_path / "run", "task")
    assert len(tasks) == 3
    weights = np.array(events(tmp_path / "run", "step")[-1]["weights"])
    for task in tasks:
        axis = int(np.argmax(task["preference"]))
        assert weights[task["policy"], axis] > 0
        assert task["floors"][axis] is None
    np.testing.assert_allclose(weights.sum(1), 1)


def test_the_children_of_evolution_differ_from_their_parents(tmp_path):
    fit(tmp_path / "run", explorer=Evolution(after=0.0, children=2), **SHORT)
    values = {}
    for event in events(tmp_path / "run"):
        if event["event"] == "mixtures":
            values |= dict(zip(event["names"], event["values"], strict=True))
    assert len({tuple(v) for v in values.values()}) > 1, "the same adapter on the same prompts measures the same"


def test_an_interior_point_keeps_the_floors_where_it_is_asked_for(tmp_path, monkeypatch):
    from pareto_align.weighting import Barrier

    seen = []
    call = Barrier.__call__
    monkeypatch.setattr(Barrier, "__call__", lambda self, signal: seen.append(signal) or call(self, signal))
    fit(tmp_path / "run", explorer=CMORL(share=0.3, rounds=1, extension="barrier"), weighting="fixed", **SHORT)
    assert seen
    assert np.isfinite(seen[-1].slack).any()


def test_the_same_seed_explores_the_same_way(tmp_path):
    for folder in ("one", "two"):
        fit(tmp_path / folder, explorer=Discover(**EAGER, resolution=0.0), **SHORT)
    first, second = ([dict(e, time=0) for e in events(tmp_path / f, "task")] for f in ("one", "two"))
    assert first
    assert first == second
