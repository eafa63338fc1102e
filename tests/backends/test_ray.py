"""A real Ray cluster on this machine: the bytes of one process, also where workers are killed or stopped in a step."""

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
from sharded_runs import FAMILY, TEXTS, bytes_of, fit, make, saved_model

from pareto_align import ConfigError

ray = pytest.importorskip("ray")
INDEPENDENT = {"weighting": "mgda", "kl_coef": 0.05}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for all tests of this file: it takes seconds to start."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


def lost_in_a_run(model, run, number, moment, settings, backend):
    """Fit, and send a worker a signal `moment` seconds after the second step; what was said of lost workers."""
    aligner = make(model, output_dir=run, backend=backend, **settings)

    def strike():
        time.sleep(moment)
        os.kill(int(re.search(r"process (\d+)", aligner.backend._places[0].where)[1]), number)

    def after(event):
        if event["event"] == "step" and event["step"] == 2:
            threading.Thread(target=strike).start()

    aligner.callbacks.append(after)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        aligner.fit(TEXTS)
    return [str(one.message) for one in told if "Lost worker" in str(one.message)]


def test_a_worker_that_is_killed_in_a_step_changes_no_byte(model, tmp_path):
    fit(model, tmp_path / "local", **INDEPENDENT)
    moment = 0.02 * random.random()
    lost = lost_in_a_run(model, tmp_path / "ray", signal.SIGKILL, moment, INDEPENDENT, {"name": "ray", "workers": 2})
    assert len(lost) == 1
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")


def test_a_worker_that_stands_still_is_replaced_and_a_family_is_the_same(model, tmp_path):
    fit(model, tmp_path / "local", **FAMILY)
    backend = {"name": "ray", "workers": 1, "timeout_s": 5}
    lost = lost_in_a_run(model, tmp_path / "ray", signal.SIGSTOP, 0.0, FAMILY, backend)
    assert lost, "on a busy machine another call may be late as well"
    assert all("did not end in time (timeout_s=5)" in one for one in lost)
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
    with pytest.raises(ConfigError, match=r"2 workers need 2 CPU, 2 GPU, and the cluster has 2 CPU, 0 GPU"):
        fit(model, tmp_path / "run", backend=backend)
