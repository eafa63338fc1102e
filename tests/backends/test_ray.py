"""A real Ray cluster on this machine: the bytes of one process, also where workers are killed or stopped in a step, and
where machines come and go."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import threading
import time
import warnings

import pytest
from amount import ALL
from sharded_runs import FAMILY, TEXTS, bytes_of, fit, make

from pareto_align import ConfigError, ParetoAlignWarning

ray = pytest.importorskip("ray")
WEIGHED = {"weighting": "mgda", "kl_coef": 0.05}
KINDS = {"independent": WEIGHED, "family": FAMILY | WEIGHED}
STRIKES = {
    1: (2, signal.SIGKILL, 0.02 * random.random()),
    2: (0, signal.SIGKILL, 0.02 * random.random()),
    3: (1, signal.SIGSTOP, 0.0),
}
"""After a step: which worker gets what signal, seconds later. The third one judges."""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for all tests of this file: it takes seconds to start. Its workers would let everything else go first."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 3, "object_store_memory": 100 * 2**20, "_system_config": {"worker_niceness": 0}}
    made = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
    ray.init(made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def lost_in_a_run(model, run, settings, backend):
    """Fit with two workers, of which one is killed in the third step and one stopped in the fourth, and one that
    judges, which is killed in the second; what was said."""
    aligner = make(model, output_dir=run, backend=backend, **settings)

    def strike(place, number, moment):
        time.sleep(moment)
        there = [*aligner.backend._staff.places, *aligner.backend._reward_places]
        os.kill(int(re.search(r"process (\d+)", there[place].where)[1]), number)

    def after(event):
        if event["event"] == "step" and event["step"] in STRIKES:
            threading.Thread(target=strike, args=STRIKES[event["step"]]).start()

    aligner.callbacks.append(after)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        aligner.fit(TEXTS)
    return [str(one.message) for one in told if "Lost " in str(one.message)]


@pytest.mark.parametrize("kind", KINDS if ALL else ["family"])
def test_a_worker_that_is_killed_and_one_that_stands_still_change_no_byte(kind, model, tmp_path):
    """Both in one run, of a family, for a worker takes seconds to import what it needs; with PARETO_ALIGN_ALL_TESTS of
    independent policies too."""
    fit(model, tmp_path / "local", **KINDS[kind])
    backend = {"name": "ray", "workers": 2, "reward_workers": 1, "timeout_s": 5}
    lost = lost_in_a_run(model, tmp_path / "ray", KINDS[kind], backend)
    judging = [one for one in lost if one.startswith("Lost reward worker 0")]
    assert len(judging) == 1, lost
    late = [one for one in lost if "did not end in time (timeout_s=5)" in one]
    assert late, "on a busy machine another call may be late as well"
    assert len(lost) - len(late) - len(judging) == 1
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")


@pytest.mark.skipif(not ALL, reason="half a minute; on a pretended cluster the same is always tried")
def test_a_machine_that_joins_has_shards_and_so_has_the_next_one_when_it_has_left(model, cluster, tmp_path):
    settings = {**KINDS["family"], "steps": 7}
    fit(model, tmp_path / "local", **settings)
    others = ray.util.placement_group([{"CPU": 2}])  # another run, which leaves room for one worker
    assert others.wait(30)
    seen, machines = [], []

    def after(event):
        if event["event"] != "step":
            return
        first, second = aligner.backend._staff.places
        seen.append((len(first.shards), len(second.shards)))
        if event["step"] == 1:
            machines.append(cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20))
            assert second.group.wait(30)
        elif event["step"] in (2, 5):  # between this step and the one before it has begun to load the model
            assert ray.wait([second.coming], timeout=60)[0]
        elif event["step"] == 3:
            cluster.remove_node(machines.pop())
        elif event["step"] == 4:
            ray.util.remove_placement_group(others)
            assert second.group.wait(30)

    backend = {"name": "ray", "workers": 2, "min_workers": 1}
    aligner = make(model, output_dir=tmp_path / "ray", backend=backend, callbacks=[after], **settings)
    try:
        with pytest.warns(ParetoAlignWarning, match="there is no room for it now. Its shards move"):
            aligner.fit(TEXTS)
    finally:
        for machine in machines:
            cluster.remove_node(machine)
        ray.util.remove_placement_group(others)
    assert seen == [(2, 0), (2, 0), (1, 1), (2, 0), (2, 0), (1, 1), (1, 1)]
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")


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
    with pytest.raises(ConfigError, match=r"2 workers need 2 CPU, 2 GPU, and the cluster has 3 CPU, 0 GPU"):
        fit(model, tmp_path / "run", backend=backend)
