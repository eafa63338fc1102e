"""Weights of bounded age: how old numbers are, and that a run comes to the same bytes again, on lost workers too."""

from __future__ import annotations

import json
import os
import signal
import warnings

import numpy as np
import pytest
from overlapped_runs import KINDS, LATE, aligner_of, failing, fitted, judging, steps_of
from pretended_ray import Cluster
from sharded_runs import FAMILY, TEXTS, bytes_of

from pareto_align import ConfigError, ParetoAlignWarning
from pareto_align.discovery.extension import FloorKeeper
from pareto_align.discovery.weights import AgedWeights
from pareto_align.weighting import Signal, Weighting

# ------------------------------------------------------------------------------------------------ bounded ages


class Mean(Weighting):
    """Every row is what all policies have in the first objective, so that it says whose numbers came from when."""

    state_names = ("resets",)

    def setup(self, K, m):
        super().setup(K, m)
        self.resets = np.zeros(K)

    def reset(self, slot):
        self.resets[slot] += 1

    def __call__(self, signal):
        return np.tile(signal.values[:, 0], (self.K, 1))


def told(step, rows, value):
    """Numbers of some slots that say which step they are of."""
    values = np.array([[value * 10 + row] for row in rows], dtype=float)
    return Signal(step, 9, values, np.ones((len(rows), 1)))


def aged(age):
    weighting = Mean()
    weighting.setup(4, 1)
    return AgedWeights(weighting, FloorKeeper(4, 1), (range(2), range(2, 4)), age)


@pytest.mark.parametrize("age", [1, 2])
def test_numbers_of_others_are_as_old_as_is_said(age):
    weights, found = aged(age), {}
    for step in range(5):
        for shard, rows in enumerate((range(2), range(2, 4))):
            for who, at, row in weights.enter(shard, told(step, rows, step)):
                found[at, who] = row[0]
    for step in range(5):
        then = max(step - age, 0)
        np.testing.assert_array_equal(found[step, 0], [step * 10, step * 10 + 1, then * 10 + 2, then * 10 + 3])
        np.testing.assert_array_equal(found[step, 1], [then * 10, then * 10 + 1, step * 10 + 2, step * 10 + 3])
    assert len(weights.seen) == age, "what nobody needs any more is let go"


def test_a_shard_that_is_ahead_waits_for_numbers_that_are_due():
    weights = aged(1)
    weights.enter(0, told(0, range(2), 0))
    assert [one[:2] for one in weights.enter(1, told(0, range(2, 4), 0))] == [(0, 0), (1, 0)]
    assert [one[:2] for one in weights.enter(0, told(1, range(2), 1))] == [(0, 1)]
    assert weights.enter(0, told(2, range(2), 2)) == [], "the other's first step is two behind"
    assert [one[:2] for one in weights.enter(1, told(1, range(2, 4), 1))] == [(1, 1), (0, 2)]


def test_a_tenant_is_forgotten_where_the_next_numbers_come_in():
    weights = aged(1)
    for shard, rows in enumerate((range(2), range(2, 4))):
        weights.enter(shard, told(0, rows, 0))
    weights.reset(1)
    resets = [one.weighting.resets[1] for one in weights.copies]
    assert resets == [0, 0]
    for step, expected in ((1, [1, 0]), (2, [1, 1])):
        for shard, rows in enumerate((range(2), range(2, 4))):
            weights.enter(shard, told(step, rows, step))
        assert [one.weighting.resets[1] for one in weights.copies] == expected


def test_bounded_weights_go_on_from_their_state():
    signals = [[told(step, rows, step) for rows in (range(2), range(2, 4))] for step in range(6)]
    kept = aged(2)

    def play(weights, steps):
        return [
            (who, at, row.tolist())
            for step in steps
            for n in (0, 1)
            for who, at, row in weights.enter(n, signals[step][n])
        ]

    play(kept, range(3))
    kept.reset(2, floors=True)
    resumed = aged(2)
    resumed.load_state_dict({name: np.array(value) for name, value in kept.state_dict().items()})
    assert play(resumed, range(3, 6)) == play(kept, range(3, 6))
    assert [one.weighting.resets[2] for one in resumed.copies] == [one.weighting.resets[2] for one in kept.copies]


@pytest.fixture(scope="module")
def bounded(model, tmp_path_factory):
    """Bytes of runs of bounded age, by what is trained."""
    folder, found = tmp_path_factory.mktemp("bounded"), {}
    for name, settings in AGED.items():
        fitted(model, folder / name, **settings)
        found[name] = bytes_of(folder / name)
        ages = [step["age"] for step in steps_of(folder / name)]
        assert ages == [min(step, settings["max_age"]) for step in range(len(ages))]
    return found


AGED = {
    "independent": {"overlap": "bounded", "max_age": 2, "eval_every": 4},
    "family": {"overlap": "bounded", "max_age": 1, **FAMILY},
}


@pytest.mark.parametrize("kind", AGED)
def test_a_run_of_bounded_age_goes_on_to_the_same_bytes(kind, model, bounded, tmp_path):
    run = tmp_path / "run"
    judge = failing(5, lambda: os.kill(os.getpid(), signal.SIGINT))  # between two measurements, where that can be
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        with pytest.raises(KeyboardInterrupt):
            aligner_of(model, (judge, LATE[1]), output_dir=run, **AGED[kind]).fit(TEXTS)
        aligner_of(model, **AGED[kind]).resume(run)
    assert {**bytes_of(run), "journal": ""} == {**bounded[kind], "journal": ""}
    assert [step["age"] for step in steps_of(run)] == [min(step, AGED[kind]["max_age"]) for step in range(4)]


def test_another_age_is_another_run(model, bounded, tmp_path):
    run = tmp_path / "run"
    fitted(model, run, overlap="exact", eval_every=4)
    assert bytes_of(run)["journal"] != bounded["independent"]["journal"]
    assert "overlap" not in json.loads((run / "run.json").read_text(encoding="utf-8"))["config"]
    with pytest.raises(ConfigError, match=r"overlap was .*bounded"):
        aligner_of(model, **AGED["independent"]).resume(run)


# ------------------------------------------------------------------------------------------------ on workers


@pytest.mark.parametrize("kind", [*AGED, "barrier", "gradients"])
def test_on_workers_that_are_lost_too(kind, model, bounded, tmp_path, monkeypatch):
    cluster = Cluster()
    cluster.install(monkeypatch)
    settings = AGED.get(kind) or {"overlap": "exact", **KINDS[kind]}
    if kind in AGED:
        expected = bounded[kind]
    else:
        fitted(model, tmp_path / "local", **{**settings, "overlap": "off"})
        expected = bytes_of(tmp_path / "local")
    cluster.fate = {22: "dies before", 50: "dies after"}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = tmp_path / "run"
        aligner_of(model, output_dir=run, backend={"name": "ray", "workers": 2}, **settings).fit(TEXTS)
    assert len([one for one in said if "Lost worker" in str(one.message)]) == 2
    assert bytes_of(run) == expected
    assert not cluster.alive
    assert not judging()
