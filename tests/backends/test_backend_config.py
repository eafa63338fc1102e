"""A backend in a config file, on the command line, and in the folder of a run that is gone on with."""

from __future__ import annotations

import pytest

from pareto_align import ConfigError
from pareto_align.backends import Local, Ray
from pareto_align.config import load_config
from pareto_align.config.building import load_origin

CONFIG = """
model: org/model
prompts: [one, two]
population: 4
objectives:
  - {name: brevity, reward: "pareto_align.objectives.text:brevity", args: {max_words: 20}, bounds: [0, 1]}
"""


@pytest.fixture
def load(tmp_path):
    (tmp_path / "fit.yaml").write_text(CONFIG, encoding="utf-8")
    return lambda *overrides: load_config(tmp_path / "fit.yaml", overrides)


def test_it_is_this_process_unless_it_is_said(load):
    assert isinstance(load().aligner.backend, Local)


def test_workers_are_set_one_by_one(load):
    run = load("shard_size=2", "backend.name=ray", "backend.workers=2", "backend.timeout_s=60")
    found = run.aligner.backend
    assert isinstance(found, Ray)
    assert (found.workers, found.timeout_s, found.address) == (2, 60, None)
    assert run.aligner.settings.shard_size == 2
    assert run.aligner.origin["config"]["backend"] == {"name": "ray", "workers": 2, "timeout_s": 60}
    again = load_origin(run.aligner.origin, "run")
    assert isinstance(again.aligner.backend, Ray)
    assert again.aligner.backend.workers == 2


def test_workers_that_judge_are_set_like_the_others(load):
    found = load(
        "shard_size=2",
        "backend.name=ray",
        "backend.reward_workers=1",
        "backend.gpus_per_reward_worker=0.5",
        "backend.remote_rewards=[brevity]",
    ).aligner.backend
    assert (found.reward_workers, found.reward_needs.gpus, found.remote_rewards) == (1, 0.5, ["brevity"])


def test_ranks_need_no_other_name(load):
    found = load("shard_size=2", "backend.ranks=2", "backend.base_sharding=fsdp").aligner.backend
    assert isinstance(found, Local)
    assert (found.ranks, found.sharding, found.remote) == (2, "fsdp", True)
    assert load("backend.ranks=2").aligner.backend.sharding == "tensor"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backend=cluster"], "Unknown backend 'cluster'"),
        (["backend.name=ray", "backend.wokers=2"], "has no setting 'wokers'"),
        (["backend.name=ray", "backend.workers=1.5"], "`workers` must be a whole number"),
        (["backend.workers=2"], "'local' has no setting 'workers'"),
    ],
)
def test_what_is_wrong_is_said(overrides, message, load):
    with pytest.raises(ConfigError, match=message):
        load(*overrides)
