"""Objectives that workers of their own judge, on a pretended cluster; `test_ray` has a real one."""

from __future__ import annotations

import pickle
import random
import re
import sys
import threading
import warnings
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from overlapped_runs import QUICK, aligner_of
from pretended_ray import Cluster
from sharded_runs import FAMILY, SMALL, TEXTS, bytes_of, first, second
from tiny_models import lora

from pareto_align import ConfigError, Objective, ObjectiveError, ParetoAligner, ParetoAlignWarning, TrainingError
from pareto_align.backends.ray import Ray, worker
from pareto_align.backends.ray.rewards import shared_out
from pareto_align.discovery.judging import Judge
from pareto_align.objectives import ObjectiveSet, StatefulReward, ensemble, reward_model, shared
from pareto_align.objectives.sending import belonging_together, stays_because
from pareto_align.versions import versions

KINDS = {"independent": {"weighting": "mgda", "kl_coef": 0.05}, "family": FAMILY}


def place_in_batch(completions, **_):
    """No row by itself: the share of the batch that is shorter."""
    lengths = np.array([len(text) for text in completions])
    return (lengths[:, None] > lengths).mean(axis=1)


class Newest(StatefulReward):
    """How far a length is from the mean of those before."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.seen, self.total = 0, 0.0

    def state_dict(self):
        return {"seen": self.seen, "total": self.total}

    def load_state_dict(self, state):
        self.seen, self.total = state["seen"], state["total"]

    def __call__(self, completions, **_):
        lengths = [len(text) for text in completions]
        mean = self.total / self.seen if self.seen else 0.0
        if self.learning:
            self.seen, self.total = self.seen + len(lengths), self.total + sum(lengths)
        return [abs(length - mean) for length in lengths]


async def waits(completions, **_):
    return second(completions)


@dataclass
class Cost:
    requests: int = 0


class Charging:
    def __init__(self):
        self.usage = Cost()

    def __call__(self, completions, **_):
        self.usage.requests += 1
        return first(completions)


class Scorer:
    """One model, two rewards."""

    def good(self, completions, **_):
        return first(completions)

    def brief(self, completions, **_):
        return second(completions)


def third(completions, **_):
    return [float(len(text)) for text in completions]


def broken(completions, **_):
    raise TypeError("not today")


REWARDS = {"first": first, "second": second, "place": place_in_batch}


def fit(model, run, rewards=REWARDS, more=None, **settings):
    objectives = [Objective(name, reward, **(more or {})) for name, reward in rewards.items()]
    aligner = ParetoAligner(model, objectives, output_dir=run, lora=lora(2), **{**SMALL, **QUICK, **settings})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        aligner.fit(TEXTS)
    assert aligner.objectives.elsewhere is None, "whoever judges later asks here"
    assert not [one for one in threading.enumerate() if one.name.startswith("pareto-align-reward worker")]
    return [str(one.message) for one in told if "eward worker" in str(one.message)]


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("expected"), {}
    for name, settings in KINDS.items():
        fit(model, folder / name, **settings)
        found[name] = bytes_of(folder / name)
    return found


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()
    made.install(monkeypatch)
    return made


def on(reward_workers, **more):
    return {"name": "ray", "workers": 1, "reward_workers": reward_workers, **more}


# ------------------------------------------------------------------------------------------------ the same bytes


@pytest.mark.parametrize(("kind", "count"), [("independent", 3), ("family", 1)])
def test_the_bytes_are_those_of_one_process_also_of_rewards_that_look_at_the_whole_batch(
    kind, count, model, expected, cluster, tmp_path
):
    assert not fit(model, tmp_path / "run", backend=on(count), **KINDS[kind])
    assert bytes_of(tmp_path / "run") == expected[kind]
    assert cluster.judged >= 4 * count, "at every step each of them was asked"
    assert not cluster.alive
    assert not cluster.groups


@pytest.mark.parametrize("kind", KINDS)
def test_reward_workers_that_are_lost_change_no_byte(kind, model, expected, cluster, tmp_path):
    """Three at random calls, beside a worker that trains."""
    drawn = random.Random(kind)
    fates = ["dies before", "dies after", "hangs"]
    drawn.shuffle(fates)
    cluster.verdict = dict(zip((drawn.randrange(n, n + 3) for n in (0, 4, 8)), fates, strict=True))
    cluster.fate = {25: "dies before"}
    told = fit(model, tmp_path / "run", backend=on(2, timeout_s=0.2), **KINDS[kind])
    assert cluster.struck == 4
    lost = re.compile(r"Lost reward worker [01] \(.*process \d+\) at judging by '(first|second)'")
    assert len(told) == 3
    assert all(map(lost.match, told))
    assert all("Another one is asked the same" in one for one in told)
    assert sum("did not end in time (timeout_s=0.2)" in one for one in told) == 1
    assert bytes_of(tmp_path / "run") == expected[kind]


def test_what_remembers_or_is_async_or_counts_is_asked_here_and_is_the_same(model, cluster, tmp_path):
    def rewards():
        return {"first": first, "newest": Newest(), "waits": waits, "charging": Charging()}

    fit(model, tmp_path / "local", rewards())
    assert not cluster.judged
    asked = rewards()
    fit(model, tmp_path / "ray", asked, backend=on(1))
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")
    assert cluster.judged
    assert asked["newest"].seen
    assert asked["charging"].usage.requests


@pytest.mark.parametrize("workers", [1, 4])
def test_where_steps_overlap_shards_are_judged_side_by_side(workers, model, cluster, tmp_path):
    """Two objectives and two shards: four have something to do."""
    for run, more in (("off", {"overlap": "off"}), ("ray", {"overlap": "exact", "backend": on(workers)})):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParetoAlignWarning)
            aligner_of(model, (first, second), output_dir=tmp_path / run, **more).fit(TEXTS)
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "off")
    assert cluster.judged >= 4 * 2, "for every shard of every step"


def test_chosen_objectives_go_and_others_stay(model, expected, cluster, tmp_path, monkeypatch):
    from pareto_align.backends.ray.worker import RewardWorker

    columns, judge = set(), RewardWorker.judge

    def noted(self, asked, batch, answered):
        columns.update(asked)
        return judge(self, asked, batch, answered)

    monkeypatch.setattr(RewardWorker, "judge", noted)
    fit(model, tmp_path / "run", backend=on(1, remote_rewards=["place"]), **KINDS["independent"])
    assert columns == {2}
    assert bytes_of(tmp_path / "run") == expected["independent"]


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_a_reward_that_fails_is_named_with_where_it_was_asked_and_the_trace_of_there(model, cluster, tmp_path):
    with pytest.raises(ObjectiveError, match=r"Objective 'broken' raised TypeError: not today") as e:
        fit(model, tmp_path / "run", {"first": first, "broken": broken}, backend=on(2))
    (note,) = [one for one in e.value.__notes__ if "reward worker" in one]
    assert note.startswith("judging by 'broken' on reward worker 1 (")
    assert "the worker's own traceback" in note
    assert not cluster.alive


def test_a_batch_that_costs_worker_after_worker_is_not_asked_for_ever(model, cluster, tmp_path):
    cluster.verdict = dict.fromkeys(range(6, 20), "dies before")
    with pytest.raises(TrainingError, match=r"Lost reward worker 0 .* at judging by 'first'.*has cost 3 reward work"):
        fit(model, tmp_path / "run", backend=on(1))
    assert cluster.struck == 3


def test_a_place_that_is_gone_is_waited_for_once(model, cluster, tmp_path, monkeypatch):
    original = cluster.made

    def made(actor, method, arguments):
        if method == "start" and cluster.struck:
            actor.group.state = "RESCHEDULING"
            return "never", None
        return original(actor, method, arguments)

    monkeypatch.setattr(cluster, "made", made)
    cluster.verdict = {5: "dies before"}
    with pytest.raises(TrainingError, match=r"there was no room for it \(start_timeout_s=0.2\)"):
        fit(model, tmp_path / "run", backend=on(1, start_timeout_s=0.2))


def test_reward_workers_with_other_versions_are_refused(model, cluster, tmp_path, monkeypatch):
    there = {**versions(), "torch": "1.0"}
    monkeypatch.setattr(worker, "versions", lambda: there)
    with pytest.raises(ConfigError, match=r"other versions.*torch is '1.0'"):
        fit(model, tmp_path / "run", backend=on(1))


def test_files_are_looked_for_where_the_run_is(tmp_path, monkeypatch):
    """And where a machine has no such folder, from where Ray was started."""
    for name in ("ray", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "ray")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    worker.RewardWorker([], str(tmp_path / "elsewhere"))
    assert Path.cwd() == tmp_path / "ray"
    worker.RewardWorker([], str(tmp_path / "run"))
    assert Path.cwd() == tmp_path / "run"


def test_a_module_that_is_not_there_is_said(model, cluster, tmp_path, monkeypatch):
    """Ray fails to read what was sent before the worker has its turn."""
    original = cluster.made

    def made(actor, method, arguments):
        if method == "start" and actor.number == 0:
            return "failed", RuntimeError("System error: No module named 'mine'\ntraceback: ...")
        return original(actor, method, arguments)

    monkeypatch.setattr(cluster, "made", made)
    with pytest.raises(ConfigError, match=r"reward worker 0 .*No module named 'mine'\. .*every machine has to have it"):
        fit(model, tmp_path / "run", backend=on(1))
    assert not cluster.groups


class Locked:
    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, completions, **_):
        return first(completions)


@pytest.mark.parametrize(
    ("backend", "rewards", "message"),
    [
        (on(4), REWARDS, r"4 reward workers, of which at most 3 have anything to do"),
        (on(2), {"first": first, "locked": Locked()}, r"reward of 'locked' cannot be sent.*lock.*`remote_rewards`"),
        (on(1), {"waits": waits, "newest": Newest()}, r"nothing for reward workers.*'waits' is async.*'newest' remem"),
        (on(1, remote_rewards=["frist"]), REWARDS, r"names 'frist', which is no objective. Known: 'first', 'second'"),
        (on(1, remote_rewards=["newest"]), {"first": first, "newest": Newest()}, r"'newest', which remembers"),
        (on(1, remote_rewards=[]), REWARDS, r"nothing for reward workers to judge"),
        (on(2, cpus_per_reward_worker=4), REWARDS, r"1 worker and 2 reward workers need 9 CPU, and the cluster has 8"),
        (on(2, gpus_per_reward_worker=0.5), REWARDS, r"need 3 CPU, 1 GPU, and the cluster has 8 CPU, 0 GPU"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(backend, rewards, message, model, cluster, tmp_path):
    with pytest.raises(ConfigError, match=message):
        fit(model, tmp_path / "run", rewards, backend=backend)
    assert not cluster.judged
    assert not cluster.groups


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_workers": 0}, r"`reward_workers` must be a whole number of at least 1"),
        ({"gpus_per_reward_worker": 1}, r"there are no reward workers. Set `reward_workers`"),
        ({"remote_rewards": ["a"]}, r"there are no reward workers"),
        ({"reward_workers": 1, "remote_rewards": "first"}, r"must be a list of names of objectives. Found 'first'"),
        ({"reward_workers": 1, "remote_rewards": [1]}, r"must be a list of names"),
        ({"reward_workers": 1, "gpus_per_reward_worker": -1}, r"`gpus_per_reward_worker` must be a number of at least"),
    ],
)
def test_settings_that_are_none_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Ray(**settings)


def test_a_cluster_that_others_use_is_said(model, cluster, tmp_path):
    cluster.free = 1
    with pytest.raises(ConfigError, match=r"had no room for 2 reward workers in 0.1 seconds"):
        fit(model, tmp_path / "run", backend=on(2, start_timeout_s=0.1))
    assert not cluster.groups


# ------------------------------------------------------------------------------------------------ who has what


def objectives_of(*rewards, rowwise=()):
    return [Objective(f"o{n}", reward, rowwise=n in rowwise) for n, reward in enumerate(rewards)]


def test_what_shares_something_is_together():
    scorer, one = Scorer(), shared(third)
    found = objectives_of(scorer.good, first, ensemble([one, second]), scorer.brief, one, partial(first), third)
    assert belonging_together(found, range(7)) == [(0, 3), (1, 5), (2, 4, 6)]
    assert belonging_together(found, [1, 2, 3]) == [(1,), (2,), (3,)]


def test_learned_rewards_share_their_model():
    from pareto_align.learning.rewards import LearnedReward

    class Learned:
        names = ("a", "b")

    both = Learned()
    found = objectives_of(LearnedReward(both, 0), LearnedReward(Learned(), 0), LearnedReward(both, 1))
    assert belonging_together(found, range(3)) == [(0, 2), (1,)]


@pytest.mark.parametrize(
    ("workers", "apart", "expected"),
    [
        (1, (), [(0, 1, 2)]),
        (2, (), [(0, 2), (1,)]),
        (3, (), [(0,), (1,), (2,)]),
        (5, (1, 2), [(0,), (1,), (2,), (1,), (2,)]),
        (4, (0,), [(0,), (1,), (2,), (0,)]),
    ],
)
def test_objectives_are_shared_out_evenly_and_what_is_judged_by_shards_twice(workers, apart, expected):
    found = objectives_of(first, second, third, rowwise=apart)
    assert shared_out(found, None, apart, 2, workers) == expected


def test_more_than_a_worker_for_each_shard_is_refused():
    found = objectives_of(first, second, rowwise=(0,))
    assert len(shared_out(found, None, (0,), 3, 4)) == 4
    with pytest.raises(ConfigError, match="5 reward workers, of which at most 4"):
        shared_out(found, None, (0,), 3, 5)


def test_why_an_objective_stays():
    assert stays_because(Objective("a", first)) is None
    assert "remembers" in stays_because(Objective("a", ensemble([first, Newest()])))
    assert "async" in stays_because(Objective("a", waits))
    assert "cost" in stays_because(Objective("a", ensemble([first, Charging()])))
    assert "no reward" in stays_because(Objective("a", prefers="a"))


def test_a_reward_model_is_sent_without_the_weights_that_it_has_loaded():
    reward = reward_model("org/some-model")
    reward._loaded = threading.Lock()  # stands for what cannot be sent
    assert pickle.loads(pickle.dumps(reward))._loaded is None
    assert reward._loaded is not None


# ------------------------------------------------------------------------------------------------ whoever asks


class Never:
    """Other processes that never answer."""

    columns = frozenset({0})

    def __init__(self):
        self.asked = []

    def begin(self, batch, columns, answered):
        self.asked.append(Future())
        return self.asked[-1:]


def judging(objectives):
    from pareto_align.objectives.calling import RewardCall

    class Said:
        def call(self):
            return RewardCall(["p"], ["c"])

    return Judge(objectives, tuple(range(objectives.M))), Said()


def test_a_run_that_stops_does_not_wait_for_what_is_judged_elsewhere():
    objectives = ObjectiveSet(objectives_of(first, second, rowwise=(0, 1)))
    objectives.elsewhere = Never()
    judge, said = judging(objectives)
    judge.begin((0, 0), said)
    while not objectives.elsewhere.asked or not judge._turns._under_way:
        pass
    judge.close()
    assert all(future.cancelled() for future in objectives.elsewhere.asked)


def test_where_an_objective_fails_here_nobody_waits_for_the_others():
    objectives = ObjectiveSet(objectives_of(first, broken))
    objectives.elsewhere = Never()
    with pytest.raises(ObjectiveError, match="not today"):
        objectives.score(["p"], ["c"])
    assert all(future.cancelled() for future in objectives.elsewhere.asked)
