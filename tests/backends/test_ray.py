"""A real Ray cluster on this machine, of several nodes: the bytes of one process, also where workers are killed or
stopped in a step, and where machines come and go."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
from amount import ALL
from sharded_runs import FAMILY, TEXTS, bytes_of, fit, make

from pareto_align import ConfigError, ParetoAlignWarning

ray = pytest.importorskip("ray")
WEIGHED = {"weighting": "mgda", "kl_coef": 0.05}
KINDS = {"independent": WEIGHED, "family": FAMILY | WEIGHED}
STORE = {"object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for all tests of this file: it takes seconds to start. Its workers would let everything else go first, and it
    would take fifteen seconds to see that a machine is gone."""
    from ray.cluster_utils import Cluster

    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
    head = {"num_cpus": 2, "include_dashboard": False, "_system_config": {"worker_niceness": 0, **health}}
    made = Cluster(initialize_head=True, head_node_args=head | STORE)
    ray.init(made.address, log_to_driver=False, logging_level="FATAL")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def joined(cluster, tmp_path):
    """Lets a machine of one CPU join: a node of its own, where Python takes it for one of that name, and begins as it
    is told."""

    def join(name, begin=""):
        (folder := tmp_path / name).mkdir()
        named = f"import platform, socket\nplatform.node = socket.gethostname = lambda: {name!r}\n"
        (folder / "sitecustomize.py").write_text(named + begin)
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        nodes.append(cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": path}, **STORE))
        return nodes[-1]

    nodes = []
    yield join
    for node in cluster.worker_nodes & set(nodes):
        cluster.remove_node(node)


@contextmanager
def others(cpus):
    """Another run, which has so many CPUs of the machine that is always there."""
    group = ray.util.placement_group([{"CPU": cpus}])
    assert group.wait(30)
    try:
        yield group
    finally:
        ray.util.remove_placement_group(group)


def node_of(place):
    return ray.util.placement_group_table(place.group)["bundles_to_node_id"][0]


def lost_in_a_run(model, run, settings, signals, cluster):
    """Fit with two workers and one that judges, each on a node of its own. After a step the one that judges gets a
    signal, after the next one a worker does, and then the node of the other worker is killed.

    Returns:
        What was said, the places that were struck and who was there.
    """
    backend = {"name": "ray", "workers": 2, "reward_workers": 1, "timeout_s": 5}
    aligner = make(model, output_dir=run, backend=backend, **settings)
    nodes = {node.node_id: node for node in cluster.list_all_nodes()}
    struck = []

    def strike(place, number):
        time.sleep(0.02 * random.random())
        if number is None:
            cluster.remove_node(nodes[node_of(place)], allow_graceful=False)
        else:
            os.kill(int(re.search(r"process (\d+)", place.where)[1]), number)

    def after(event):
        if event["event"] != "step" or event["step"] > 3:
            return
        workers, (judge,) = aligner.backend._staff.places, aligner.backend._reward_places
        if event["step"] == 1:
            assert len({node_of(place) for place in (judge, *workers)}) == 3
        stays, goes = sorted(workers, key=lambda place: node_of(place) != cluster.head_node.node_id)
        place, number = [(judge, signals[0]), (stays, signals[1]), (goes, None)][event["step"] - 1]
        struck.append((place, str(place)))
        threading.Thread(target=strike, args=(place, number)).start()

    aligner.callbacks.append(after)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        aligner.fit(TEXTS)
    return [str(one.message) for one in told if "Lost " in str(one.message)], struck


TRIED = [("family", signal.SIGSTOP, signal.SIGKILL), ("independent", signal.SIGKILL, signal.SIGSTOP)]


@pytest.mark.parametrize(("kind", "judge", "worker"), TRIED if ALL else TRIED[:1])
def test_a_worker_that_is_killed_one_that_stands_still_and_a_node_that_is_gone_change_no_byte(
    kind, judge, worker, model, cluster, joined, tmp_path, monkeypatch
):
    """All in one run, of a family, for a worker takes seconds to import what it needs; with PARETO_ALIGN_ALL_TESTS of
    independent policies too, with the signals the other way round. The model is named from a folder that the nodes were
    not started in."""
    monkeypatch.chdir(Path(model).parent)
    model = Path(model).name
    fit(model, tmp_path / "local", **KINDS[kind])
    with others(1):
        joined("node-1"), joined("node-2")
        lost, struck = lost_in_a_run(model, tmp_path / "ray", KINDS[kind], (judge, worker), cluster)
    late = [one for one in lost if "did not end in time (timeout_s=5)" in one]
    meant = [next(one for one in lost if one.startswith(f"Lost {whom} at ")) for _, whom in struck]
    assert [one in late for one in meant] == [judge == signal.SIGSTOP, worker == signal.SIGSTOP, False]
    assert set(lost) == {*meant, *late}, "on a busy machine another call may be late as well"
    assert re.match(r"worker \d \(node-[12], process \d+\)", struck[2][1])
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")


@pytest.mark.skipif(not ALL, reason="half a minute; on a pretended cluster the same is always tried")
def test_a_machine_that_joins_has_shards_and_so_has_the_next_one_when_it_has_left(model, cluster, joined, tmp_path):
    settings = {**KINDS["family"], "steps": 7}
    fit(model, tmp_path / "local", **settings)
    seen, machines = [], []

    def after(event):
        if event["event"] != "step":
            return
        first, second = aligner.backend._staff.places
        seen.append((len(first.shards), len(second.shards)))
        if event["step"] == 1:
            machines.append(joined("node-1"))
            assert second.group.wait(30)
        elif event["step"] in (2, 5):  # between this step and the one before it has begun to load the model
            assert ray.wait([second.coming], timeout=60)[0]
        elif event["step"] == 3:
            cluster.remove_node(machines.pop())
        elif event["step"] == 4:
            ray.util.remove_placement_group(busy)
            assert second.group.wait(30)

    backend = {"name": "ray", "workers": 2, "min_workers": 1}
    aligner = make(model, output_dir=tmp_path / "ray", backend=backend, callbacks=[after], **settings)
    with others(1) as busy, pytest.warns(ParetoAlignWarning, match="there is no room for it now. Its shards move"):
        aligner.fit(TEXTS)
    assert seen == [(2, 0), (2, 0), (1, 1), (2, 0), (2, 0), (1, 1), (1, 1)]
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")


@pytest.mark.skipif(not ALL, reason="two workers that begin; on a pretended cluster the same is always tried")
@pytest.mark.parametrize("differs", ["folder", "versions"])
def test_a_node_that_is_not_like_the_others_is_named(differs, model, joined, tmp_path):
    """One has the folder that this process has as its file 200, and the other one has not; or another release of PEFT
    is found there first."""
    opened = f"import os\nos.dup2(os.open({model!r}, os.O_RDONLY), 200)\n"
    if differs == "folder":
        os.dup2(held := os.open(model, os.O_RDONLY), 200)
        os.close(held)
        model, told = "/proc/self/fd/200", r"A worker on node-2 cannot load the model.*Every machine has to find it"
    else:
        told = r"other versions.*: on node-2 peft is '0\.0\.1', here '\d[^;]*'\. Install the same on all machines"
    try:
        with others(2):
            joined("node-1", opened), joined("node-2")
            if differs == "versions":
                (record := tmp_path / "node-2" / "peft-0.0.1.dist-info").mkdir()
                (record / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n")
            with pytest.raises(ConfigError, match=told):
                fit(model, tmp_path / "run", backend={"name": "ray", "workers": 2})
    finally:
        if differs == "folder":
            os.close(200)
    assert not (tmp_path / "run" / "journal.jsonl").exists()
    assert all(group["state"] == "REMOVED" for group in ray.util.placement_group_table().values())


DRIVER = """
import os, signal, sys
from sharded_runs import FAMILY, fit

def after(event):
    if event["event"] == "step" and event["step"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)

backend = {"name": "ray", "workers": 1, "address": sys.argv[3]}
fit(sys.argv[1], sys.argv[2], backend=backend, callbacks=[after], weighting="mgda", kl_coef=0.05, **FAMILY)
"""


@pytest.mark.skipif(
    not ALL, reason="a process and a worker that begin; on a pretended cluster the same is always tried"
)
def test_a_process_of_a_run_that_is_killed_leaves_nothing_there_and_its_run_goes_on(model, cluster, tmp_path):
    fit(model, tmp_path / "local", **KINDS["family"])
    command = [sys.executable, "-c", DRIVER, model, tmp_path / "ray", cluster.address]
    path = os.pathsep.join(folder for folder in sys.path if folder)
    killed = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(model, **KINDS["family"]).resume(tmp_path / "ray")
    found, expected = (bytes_of(tmp_path / run) | {"journal": ""} for run in ("ray", "local"))
    assert found == expected
    with others(2):
        pass  # all that the run had reserved is free


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_folder_that_only_this_process_sees_is_said(model, tmp_path):
    held = os.open(model, os.O_RDONLY)
    try:
        with pytest.raises(ConfigError, match=r"A worker on .* cannot load the model.*Every machine has to find it"):
            fit(f"/proc/self/fd/{held}", tmp_path / "run", backend={"name": "ray", "workers": 1})
    finally:
        os.close(held)
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_more_than_the_cluster_has_is_said(model, tmp_path):
    backend = {"name": "ray", "workers": 2, "gpus_per_worker": 1}
    with pytest.raises(ConfigError, match=r"2 workers need 2 CPU, 2 GPU, and the cluster has 2 CPU, 0 GPU"):
        fit(model, tmp_path / "run", backend=backend)
