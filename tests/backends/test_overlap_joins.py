"""Workers that come and go while shards work and answers are judged, on a pretended cluster."""

from __future__ import annotations

import random
import warnings

import pytest
from overlapped_runs import KINDS, aligner_of, fitted, judging
from pretended_ray import Cluster
from sharded_runs import TEXTS, bytes_of

from pareto_align.backends.ray import backend as ray_backend
from pareto_align.backends.ray import cluster as ray_cluster
from pareto_align.backends.ray import recovery as ray_recovery

ALL_IN_ONE = {"shard_size": 1, "steps": 6, "eval_every": 6, "max_tokens": None}
"""Six steps that overlap, with no measurement between them."""
RUNS = {
    "one by one": {**KINDS["one by one"], "overlap": "exact"},
    "gradients": {**KINDS["gradients"], "overlap": "exact"},
    "family": {**KINDS["family, no barrier"], "overlap": "exact"},
    "bounded": {"overlap": "bounded", "max_age": 2},
}


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    """The bytes of runs in this process; those that are exact, of runs in which nothing overlaps."""
    folder, found = tmp_path_factory.mktemp("expected"), {}
    for kind, settings in RUNS.items():
        overlap = {} if settings["overlap"] == "bounded" else {"overlap": "off"}
        fitted(model, folder / kind, **{**settings, **ALL_IN_ONE, **overlap})
        found[kind] = bytes_of(folder / kind)
    return found


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()
    made.install(monkeypatch)
    monkeypatch.setattr(ray_cluster, "PATIENCE_S", 0)
    return made


@pytest.fixture
def seen(monkeypatch):
    """How many shards each worker had whenever one was between two steps."""
    found, rest = [], ray_backend.Ray.rest

    def look(self, shards=None):
        assert shards is not None, "no shard waits for all others"
        rest(self, shards)
        found.append(sorted(len(place.shards) for place in self._staff.there))
        idle = [place for place in self._staff.there if not self._dispatch.is_busy(place)]
        assert not any(place.left for place in idle)
        for place in self._staff.there:
            there = place.actor.instance.host.shards
            assert set(there) == {*place.shards, *place.left}, "what has moved is taken off when there is time"

    monkeypatch.setattr(ray_backend.Ray, "rest", look)
    return found


def fit(cluster, model, run, kind, joining):
    """Fit on one worker and more as machines join: so many after a step; what was said of workers."""

    def join(event):
        if event["event"] == "step":
            cluster.join(joining.get(event["step"], 0))

    settings = {**RUNS[kind], **ALL_IN_ONE, "backend": {"name": "ray", "workers": 4, "min_workers": 1}}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        aligner_of(model, output_dir=run, callbacks=[join], **settings).fit(TEXTS)
    assert not cluster.alive
    assert not cluster.groups
    assert not judging()
    return [text for one in told if "orker" in (text := str(one.message))]


@pytest.mark.parametrize("kind", ["family", "bounded"])
def test_a_worker_that_comes_takes_part_before_the_next_measurement(kind, model, expected, cluster, seen, tmp_path):
    cluster.free = 1
    assert not fit(cluster, model, tmp_path / "run", kind, {1: 1, 2: 2})
    assert list(dict.fromkeys(map(len, seen))) == [1, 2, 4], "as machines joined"
    assert seen[-1] == [1, 1, 1, 1]
    assert bytes_of(tmp_path / "run") == expected[kind]


@pytest.mark.parametrize("kind", RUNS)
def test_workers_that_come_and_go_between_measurements_change_no_byte(kind, model, expected, cluster, seen, tmp_path):
    drawn = random.Random(kind)
    cluster.free = drawn.randint(1, 3)
    moments = drawn.sample(range(20, 55), 3)
    cluster.fate = {moment: drawn.choice(["leaves", "leaves", "dies before", "dies after"]) for moment in moments}
    told = fit(cluster, model, tmp_path / "run", kind, {step: drawn.randint(1, 2) for step in (1, 2, 4)})
    assert cluster.struck == 3
    assert told
    assert max(map(len, seen)) > 1
    assert bytes_of(tmp_path / "run") == expected[kind]


def test_shards_need_not_wait_for_each_other_for_a_state_to_be_fetched(
    model, expected, cluster, seen, tmp_path, monkeypatch
):
    """Before too much would have to be gone through again where a worker is lost."""
    monkeypatch.setattr(ray_recovery, "MOST_CALLS", 3)
    longest, rest = [], ray_backend.Ray.rest

    def look(self, shards=None):
        rest(self, shards)
        longest.extend(len(self._staff.since[shard]) for shard in shards)

    monkeypatch.setattr(ray_backend.Ray, "rest", look)
    fit(cluster, model, tmp_path / "run", "bounded", {})
    assert len(longest) == 6 * 4
    assert max(longest) <= 3
    assert bytes_of(tmp_path / "run") == expected["bounded"]
