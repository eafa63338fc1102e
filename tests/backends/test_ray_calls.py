"""What the backend for Ray does where workers die, hang or fail, on a pretended cluster; `test_ray` has a real one."""

from __future__ import annotations

import random
import sys
import warnings
from contextlib import chdir
from functools import partial
from pathlib import Path

import pytest
import torch
from pretended_ray import Cluster
from sharded_runs import FAMILY, TEXTS, bytes_of, fit, make

from pareto_align import ConfigError, ObjectiveError, ParetoAlignWarning, TrainingError
from pareto_align.backends.ray import backend as ray_backend
from pareto_align.backends.ray import cluster as ray_cluster
from pareto_align.backends.ray import recovery as ray_recovery
from pareto_align.backends.ray.calls import ATTEMPTS
from pareto_align.backends.ray.recovery import Staff


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    """The bytes of runs in this process, by what is trained."""
    folder = tmp_path_factory.mktemp("expected")
    found = {}
    for name, settings in KINDS.items():
        fit(model, folder / name, **settings)
        found[name] = bytes_of(folder / name)
    return found


LIMITED = {"max_step_kl": 1e-5}  # far below what a step of these runs does, so that every one is made shorter
KINDS = {"independent": {"weighting": "mgda", "kl_coef": 0.05} | LIMITED, "family": FAMILY | LIMITED}


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()
    made.install(monkeypatch)
    return made


def on(workers, **more):
    return {"name": "ray", "workers": workers, **more}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_are_those_of_one_process(kind, workers, model, expected, cluster, tmp_path):
    aligner = fit(model, tmp_path / "run", backend=on(workers), **KINDS[kind])
    assert bytes_of(tmp_path / "run") == expected[kind]
    assert torch.isfinite(aligner.policies_).all()
    assert not cluster.alive, "no worker is left"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_workers_that_are_lost_change_no_byte(kind, seed, model, expected, cluster, tmp_path):
    """Two of them at random calls, one of which hangs."""
    drawn = random.Random(seed)
    first, second = sorted(drawn.sample(range(12, 40), 2))
    cluster.fate = {first: drawn.choice(["dies before", "dies after"]), second + 20: "hangs"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make(model, output_dir=tmp_path / "run", backend=on(2, timeout_s=0.2), **KINDS[kind]).fit(TEXTS)
    lost = [str(one.message) for one in told if "Lost worker" in str(one.message)]
    assert len(lost) == 2, lost
    assert "The actor died unexpectedly" in lost[0]
    assert "did not end in time (timeout_s=0.2)" in lost[1]
    assert bytes_of(tmp_path / "run") == expected[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_began_as_is_with_a_worker_that_comes_later(kind, model, cluster, tmp_path):
    """A shard that is lost before its first checkpoint goes through what it began as again."""
    fit(model, tmp_path / "before", **KINDS[kind])
    settings = {**KINDS[kind], "start_from": tmp_path / "before"}
    fit(model, tmp_path / "here", **settings)
    cluster.fate = {14: "dies before", 22: "dies after"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make(model, output_dir=tmp_path / "there", backend=on(2), **settings).fit(TEXTS)
    assert sum("Lost worker" in str(one.message) for one in told) == 2
    assert bytes_of(tmp_path / "there") == bytes_of(tmp_path / "here")


def test_where_no_worker_can_be_started_its_shards_move(model, expected, cluster, tmp_path):
    cluster.fate, cluster.broken = {20: "dies before"}, {0}
    fit(model, tmp_path / "run", backend=on(2), **KINDS["independent"])
    assert bytes_of(tmp_path / "run") == expected["independent"]


def test_where_a_machine_is_gone_its_shards_move_and_nobody_waits_for_it(model, expected, cluster, tmp_path):
    cluster.fate, cluster.free = {20: "leaves"}, 2
    fit(model, tmp_path / "run", backend=on(2), **KINDS["independent"])
    assert cluster.started == 2, "nobody was sent to where there is nothing"
    assert bytes_of(tmp_path / "run") == expected["independent"]


def test_a_machine_that_is_gone_while_its_worker_begins_again_is_not_waited_for(
    model, expected, cluster, tmp_path, monkeypatch
):
    """Ray learns that a worker is gone before it learns that its machine is."""
    original = cluster.made

    def made(actor, method, arguments):
        if method == "start" and cluster.struck == 1:
            cluster.fate[cluster.calls] = "leaves"
            original(actor, method, arguments)
            return "never", None
        return original(actor, method, arguments)

    monkeypatch.setattr(cluster, "made", made)
    cluster.fate, cluster.free = {20: "dies before"}, 2
    fit(model, tmp_path / "run", backend=on(2), **KINDS["independent"])
    assert cluster.struck == 2
    assert cluster.started == 3
    assert bytes_of(tmp_path / "run") == expected["independent"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_does_not_start_in_time_is_waited_for_once(
    workers, model, expected, cluster, tmp_path, monkeypatch
):
    """What was reserved for it is still there."""
    original, waited = cluster.made, []

    def made(actor, method, arguments):
        if method == "start" and actor.number in cluster.lost_at:
            waited.append(actor)
            return "never", None
        return original(actor, method, arguments)

    monkeypatch.setattr(cluster, "made", made)
    cluster.fate = {20: "dies before"}
    run = partial(fit, model, tmp_path / "run", backend=on(workers, start_timeout_s=0.2), **KINDS["independent"])
    if workers == 1:
        with pytest.raises(
            TrainingError, match=r"No worker is left.*'start' did not end in time \(start_timeout_s=0.2"
        ):
            run()
        assert len(waited) == 1
    else:
        run()
        assert bytes_of(tmp_path / "run") == expected["independent"]
        assert waited


def test_without_any_worker_the_run_stops_and_says_so(model, cluster, tmp_path):
    cluster.fate, cluster.broken = {20: "dies before"}, {0, 1}
    with pytest.raises(TrainingError, match=r"Lost worker 0 .* of shard 0.*No worker is left"):
        fit(model, tmp_path / "run", backend=on(1))


def test_a_call_that_costs_worker_after_worker_is_not_made_for_ever(model, cluster, tmp_path, monkeypatch):
    original = cluster.made

    def made(actor, method, arguments):
        if method == "do" and arguments[1] == "step":
            cluster.fate[cluster.calls] = "dies before"
        return original(actor, method, arguments)

    monkeypatch.setattr(cluster, "made", made)
    with pytest.raises(TrainingError, match=r"'step' of shard 0.*3 workers"):
        fit(model, tmp_path / "run", backend=on(1))


def test_what_fails_on_a_worker_says_where_and_has_its_traceback(model, cluster, tmp_path, monkeypatch):
    from pareto_align.discovery.hosting import Shard

    def broken(self, *arguments):
        raise ZeroDivisionError("no such kernel")

    monkeypatch.setattr(Shard, "collect", broken)
    with pytest.raises(
        TrainingError, match=r"'collect' of shard 0 failed on worker 0 \(.*process \d+\).*no such ker"
    ) as e:
        fit(model, tmp_path / "run", backend=on(2))
    assert any("the worker's own traceback" in note for note in e.value.__notes__)


def test_a_reward_that_fails_is_told_as_ever(model, cluster, tmp_path):
    def broken(completions, **_):
        raise TypeError("not today")

    from sharded_runs import SMALL
    from tiny_models import lora

    from pareto_align import Objective, ParetoAligner

    aligner = ParetoAligner(model, [Objective("broken", broken), Objective("other", broken)], lora=lora(2),
                            backend=on(2), **SMALL)  # fmt: skip
    with pytest.raises(ObjectiveError, match="broken"):
        aligner.fit(TEXTS, output_dir=tmp_path / "run")
    assert not cluster.alive


def test_a_run_on_workers_goes_on_in_this_process_and_the_other_way_round(model, expected, cluster, tmp_path):
    def stop(event):
        if event["event"] == "step" and event["step"] == 3:
            raise RuntimeError("enough")

    for name, begun, resumed in (("one", on(2), "local"), ("other", "local", on(1))):
        run = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParetoAlignWarning)
            with pytest.raises(RuntimeError, match="enough"):
                make(model, output_dir=run, callbacks=[stop], backend=begun, **KINDS["family"]).fit(TEXTS)
            make(model, backend=resumed, **KINDS["family"]).resume(run)
        found = bytes_of(run)
        assert {**found, "journal": ""} == {**expected["family"], "journal": ""}


@pytest.mark.parametrize(("limit", "most"), [("MOST_CALLS", 4), ("MOST_BYTES", 100)])
def test_states_are_fetched_before_too_much_would_have_to_be_gone_through(
    limit, most, model, cluster, tmp_path, monkeypatch
):
    """Calls, or what they hold: a family's gradient is 4 bytes a parameter."""
    monkeypatch.setattr(ray_recovery, limit, most)
    longest = []
    original = Staff.note

    def note(self, job, result):
        original(self, job, result)
        longest.append(max(map(len, self.since.values()), default=0))

    monkeypatch.setattr(Staff, "note", note)
    settings = {**KINDS["family"], "eval_every": 5, "steps": 8}
    fit(model, tmp_path / "local", **settings)
    cluster.fate = dict.fromkeys((40, 100, 120), "dies before")
    fit(model, tmp_path / "run", backend=on(2), **settings)
    assert max(longest) <= 8
    assert cluster.struck == 3
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "local"), "a state is all there is of a shard"


# ------------------------------------------------------------------------------------------------ who comes and goes


@pytest.fixture
def seen(cluster, monkeypatch):
    """How many shards each worker has at the beginning of a step, where none was lost just then; no room that is not
    there is waited for."""
    monkeypatch.setattr(ray_cluster, "PATIENCE_S", 0)
    found, rest = [], ray_backend.Ray.rest

    def look(self, shards=None):
        struck = cluster.struck
        rest(self, shards)
        there = self._staff.there
        for place in there:
            assert set(place.actor.instance.host.shards) == set(place.shards), "and nothing of those that moved"
        if cluster.struck == struck:
            found.append(sorted(len(place.shards) for place in there))

    monkeypatch.setattr(ray_backend.Ray, "rest", look)
    return found


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory):
    """The bytes of runs of four shards in this process."""
    folder = tmp_path_factory.mktemp("alone")
    for name in KINDS:
        fit(model, folder / name, **changing(name))
    return {name: bytes_of(folder / name) for name in KINDS}


def changing(kind):
    return {**KINDS[kind], "shard_size": 1, "steps": 6, "eval_every": 3}


def fit_with(cluster, model, run, settings, joining, backend):
    """Fit on four workers or fewer, where so many machines join after a step; what was warned of workers."""

    def join(event):
        if event["event"] == "step":
            cluster.join(joining.get(event["step"], 0))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make(model, output_dir=run, backend=on(4, min_workers=1) | backend, callbacks=[join], **settings).fit(TEXTS)
    assert not cluster.alive
    assert not cluster.groups, "all is given back"
    return [text for one in told if "orker" in (text := str(one.message)) or "shards" in text]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_workers_that_come_and_go_change_no_byte(kind, seed, model, alone, cluster, seen, tmp_path):
    """One to three at the beginning, three machines that join after random steps, four losses at random calls."""
    drawn = random.Random(seed)
    cluster.free = begun = drawn.randint(1, 3)
    joining = {step: drawn.randint(1, 2) for step in drawn.sample(range(1, 6), 3)}
    moments = [drawn.randrange(first, first + 25) for first in (begun * 8 + 17, 70, 110, 150)]
    cluster.fate = {moment: drawn.choice(["leaves", "leaves", "dies before", "dies after"]) for moment in moments}
    told = fit_with(cluster, model, tmp_path / "run", changing(kind), joining, {})
    assert bytes_of(tmp_path / "run") == alone[kind]
    assert cluster.struck == 4
    assert told
    assert max(map(len, seen)) > 1
    assert all(sum(each) == 4 and each[-1] - each[0] <= 1 for each in seen), "evenly, at every step"


def test_a_call_that_was_made_where_its_shard_is_no_more_is_made_again(model, alone, cluster, tmp_path, monkeypatch):
    """A worker makes a call and is lost over a shard that is brought to it, before anybody has looked at the call."""
    original, brought = cluster.made, []

    def made(actor, method, arguments):
        if cluster.lost_at == {0} and actor.number == 1 and arguments[1:2] == ("open",) and not brought:
            brought.append(cluster.calls)
            cluster.fate[cluster.calls] = "dies before"
        if method == "do" and arguments[:2] == (0, "gradients") and not cluster.lost_at:
            cluster.fate[cluster.calls] = "leaves"
        return original(actor, method, arguments)

    monkeypatch.setattr(cluster, "made", made)
    cluster.free = 2
    fit(model, tmp_path / "run", backend=on(2), **changing("independent"))
    assert brought
    assert bytes_of(tmp_path / "run") == alone["independent"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_begins_with_those_there_is_room_for_and_takes_more(kind, model, alone, cluster, seen, tmp_path):
    cluster.free = 1
    told = fit_with(cluster, model, tmp_path / "run", changing(kind), {1: 1, 3: 3}, {})
    assert seen == [[4], [2, 2], [2, 2], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert not told
    assert bytes_of(tmp_path / "run") == alone[kind]


@pytest.mark.parametrize("least", [{}, {"min_workers": 1}])
def test_where_a_machine_was_gone_another_takes_its_place(least, model, alone, cluster, seen, tmp_path):
    """Whether or not the run could have begun without."""
    cluster.free, cluster.fate = 2, {40: "leaves"}
    backend = {"workers": 2, "min_workers": None, **least}
    told = fit_with(cluster, model, tmp_path / "run", changing("family"), {4: 1}, backend)
    assert seen[0] == [2, 2]
    assert seen[3] == [4]
    assert seen[-1] == [2, 2]
    assert ["Lost worker" in told[0], "Its shards move to others" in told[1]] == [True, True], told
    assert bytes_of(tmp_path / "run") == alone["family"]


def test_nobody_waits_for_a_worker_that_loads_the_model(model, alone, cluster, seen, tmp_path, monkeypatch):
    original = cluster.made

    def made(actor, method, arguments):
        if method == "start" and actor.number > 0:
            cluster.fate[cluster.calls] = 2  # it is there when one looks for the third time
        return original(actor, method, arguments)

    monkeypatch.setattr(cluster, "made", made)
    cluster.free = 1
    assert not fit_with(cluster, model, tmp_path / "run", changing("independent"), {1: 1}, {})
    assert seen == [[4], [4], [4], [2, 2], [2, 2], [2, 2]]
    assert bytes_of(tmp_path / "run") == alone["independent"]


def test_a_worker_that_is_not_like_the_others_takes_no_part(model, alone, cluster, seen, tmp_path, monkeypatch):
    from pareto_align.discovery import hosting

    there = hosting.versions()
    monkeypatch.setattr(hosting, "versions", lambda: {**there, "torch": "1.0"} if cluster.asked_of == 1 else there)
    cluster.free = 1
    (told,) = fit_with(cluster, model, tmp_path / "run", changing("family"), {1: 1}, {"workers": 2})
    assert "Worker 1 (" in told
    assert "cannot take part: The workers have other versions" in told
    assert "torch is '1.0'" in told
    assert "It is not tried again." in told
    assert seen == [[4]] * 6
    assert bytes_of(tmp_path / "run") == alone["family"]


def test_a_place_where_nobody_can_be_started_is_not_tried_for_ever(model, alone, cluster, seen, tmp_path):
    cluster.free, cluster.broken, cluster.lost_at = 1, {1}, {1}
    told = fit_with(cluster, model, tmp_path / "run", changing("independent"), {1: 1}, {"workers": 2})
    assert len(told) == ATTEMPTS
    assert all("cannot take part: The actor died unexpectedly" in one for one in told)
    assert ["not tried again" in one for one in told] == [False, False, True]
    assert seen == [[4]] * 6
    assert bytes_of(tmp_path / "run") == alone["independent"]


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": on(3)}, r"3 workers for 2 shards.*smaller `shard_size`"),
        ({"backend": on(2), "shard_size": None}, "2 workers for 1 shard;"),
        ({"backend": on(2, cpus_per_worker=5)}, r"2 workers need 10 CPU, and the cluster has 8 CPU"),
        ({"backend": on(2, gpus_per_worker=1)}, r"need 2 CPU, 2 GPU, and the cluster has 8 CPU, 0 GPU"),
        ({"backend": on(2, address=5)}, "`address` must be text"),
        ({"backend": on(2, min_workers=3)}, r"`min_workers` is at most `workers`.*min_workers=3 and workers=2"),
        ({"backend": on(2, min_workers=1, cpus_per_worker=9)}, r"1 worker needs 9 CPU, and the cluster has 8 CPU\."),
    ],
)
def test_too_little_for_what_is_asked_is_said_before_the_first_step(settings, message, model, cluster, tmp_path):
    with pytest.raises(ConfigError, match=message):
        fit(model, tmp_path / "run", **settings)
    assert not (tmp_path / "run" / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("machines", "backend", "message"),
    [
        ([4, 4], {"workers": 1, "cpus_per_worker": 5}, r"a worker needs 5 CPU on one machine.*have room for none\."),
        ([5, 3], {"workers": 2, "cpus_per_worker": 4}, r"a worker needs 4 CPU on one machine.*have room for 1 of 2\."),
        (
            [4, 4],
            {"workers": 1, "reward_workers": 1, "cpus_per_reward_worker": 5},
            r"a reward worker needs 5 CPU on one machine",
        ),
    ],
)
def test_machines_that_are_too_small_for_one_worker_are_said(machines, backend, message, model, cluster, tmp_path):
    """Together they have enough, so nothing would come of waiting."""
    cluster.machines = machines
    with pytest.raises(ConfigError, match=message):
        fit(model, tmp_path / "run", backend={"name": "ray", **backend})
    assert not cluster.groups
    cluster.machines = [5, 5]
    fit(model, tmp_path / "run", backend={"name": "ray", **backend, "cpus_per_worker": 2})


def test_a_worker_that_cannot_begin_is_named_with_its_machine(model, cluster, tmp_path):
    cluster.machines, cluster.fate = [2, 2], {1: "dies before"}
    with pytest.raises(ConfigError, match=r"worker 1 \(host-1, not started\) cannot be started: The actor died unexp"):
        fit(model, tmp_path / "run", backend=on(2))
    assert not cluster.groups


def test_where_the_only_machine_is_gone_it_is_not_said_to_be_slow(model, cluster, tmp_path, monkeypatch):
    """Of a place that was reserved, before its worker begins."""
    original = cluster.made

    def made(actor, method, arguments):
        if method == "start":
            actor.group.state = "RESCHEDULING"
        return original(actor, method, arguments)

    monkeypatch.setattr(cluster, "made", made)
    cluster.free = 1
    with pytest.raises(ConfigError, match=r"worker 0 .* cannot be started: there is no room for it now \(start_timeo"):
        fit(model, tmp_path / "run", backend=on(1, start_timeout_s=0.2))


@pytest.mark.parametrize(("least", "needed"), [({}, "2 workers"), ({"min_workers": 1}, "1 worker")])
def test_a_cluster_that_others_use_is_said(least, needed, model, cluster, tmp_path):
    cluster.free = 1 - len(least)
    with pytest.raises(ConfigError, match=rf"had no room for {needed} in 0.1 seconds\. Others use it"):
        fit(model, tmp_path / "run", backend=on(2, start_timeout_s=0.1, **least))
    assert not cluster.groups


def test_a_cluster_that_is_not_there_is_said(model, cluster, tmp_path):
    sys.modules["ray"].is_initialized = lambda: False
    with pytest.raises(
        ConfigError, match=r"no cluster at '127.0.0.1:1' that this process could join.*ray start --head"
    ):
        fit(model, tmp_path / "run", backend=on(2, address="127.0.0.1:1"))


def test_a_cluster_of_another_version_is_said(model, cluster, tmp_path):
    def refuse(*_, **__):
        raise RuntimeError("Version mismatch: The cluster was started with Ray: 2.1.0")

    sys.modules["ray"].is_initialized, sys.modules["ray"].init = (lambda: False), refuse
    with pytest.raises(ConfigError, match=r"'auto'.*Version mismatch.*same versions of Ray and Python"):
        fit(model, tmp_path / "run", backend=on(2, address="auto"))


def test_a_model_in_memory_cannot_be_loaded_elsewhere(model, cluster, tmp_path):
    from tiny_models import tiny_model

    with pytest.raises(ConfigError, match=r"load it by name.*save_pretrained"):
        fit(tiny_model(), tmp_path / "run", backend=on(2), tokenizer=model)


def test_ray_that_is_not_installed_is_said_with_what_to_install(model, monkeypatch, tmp_path):
    monkeypatch.setattr(ray_backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'pareto-align\[ray\]'"):
        fit(model, tmp_path / "run", backend=on(2))


def test_workers_with_other_versions_are_refused(model, cluster, monkeypatch, tmp_path):
    from pareto_align.discovery import hosting

    there = {**hosting.versions(), "torch": "1.0", "pareto-align": "0.0.9"}
    monkeypatch.setattr(hosting, "versions", lambda: there)
    with pytest.raises(ConfigError, match=r"other versions.*pareto-align is '0.0.9', here.*torch is '1.0'"):
        fit(model, tmp_path / "run", backend=on(2))


def test_workers_of_several_kinds_are_said(model, cluster, monkeypatch, tmp_path):
    from pareto_align.discovery import hosting

    kinds = iter(["one", "other", *["one"] * 9])
    monkeypatch.setattr(hosting, "processor", lambda: next(kinds))
    with pytest.warns(ParetoAlignWarning, match="workers are of several kinds"):
        make(model, output_dir=tmp_path / "run", backend=on(2)).fit(TEXTS)


def test_a_folder_is_the_one_that_the_run_means_wherever_ray_was_started(model, cluster, tmp_path, monkeypatch):
    original = cluster.made

    def made(actor, method, arguments):
        with chdir(tmp_path):
            return original(actor, method, arguments)

    monkeypatch.chdir(Path(model).parent)
    monkeypatch.setattr(cluster, "made", made)
    fit(Path(model).name, tmp_path / "here", tokenizer=Path(model).name)
    fit(Path(model).name, tmp_path / "there", tokenizer=Path(model).name, backend=on(1))
    assert bytes_of(tmp_path / "there") == bytes_of(tmp_path / "here")


def test_a_model_that_a_worker_cannot_see_is_said(model, cluster, tmp_path):
    with pytest.raises(ConfigError, match=r"A worker on .* cannot load the model.*Every machine has to find it"):
        fit(str(tmp_path / "not-mounted"), tmp_path / "run", backend=on(2))
