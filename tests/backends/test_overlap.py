"""Shards that work while the answers of others are judged: the same bytes, in another order; and what goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from overlapped_runs import KINDS, LATE, QUICK, aligner_of, failing, fitted, judging, steps_of
from sharded_runs import SMALL, TEXTS, bytes_of, first, second
from tiny_models import lora

from pareto_align import ConfigError, Objective, ObjectiveError, ParetoAligner, ParetoAlignWarning, TrainingError
from pareto_align.discovery.hosting import Shard
from pareto_align.objectives import shared
from pareto_align.objectives.verifiable import conciseness
from pareto_align.runs.journal import read_journal
from pareto_align.weighting import Fixed

# ------------------------------------------------------------------------------------------------ the same bytes


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_shards_that_wait(kind, model, tmp_path):
    found = {}
    for overlap in ("off", "exact"):
        run = tmp_path / overlap
        aligner = fitted(model, run, overlap=overlap, **KINDS[kind])
        found[overlap] = bytes_of(run), aligner.objectives.reward_calls
        hidden = sum(step["reward_seconds"]["hidden"] for step in steps_of(run))
        assert (hidden > 0) == (overlap == "exact")
        assert (aligner.objectives.hidden_seconds > 0) == (overlap == "exact")
    assert found["off"] == found["exact"]


SELDOM = (set("abg"), set("cdh"))


@pytest.mark.parametrize("seed", [0, 4])
def test_policies_that_stall_are_started_again_at_the_same_place(model, tmp_path, seed):
    """Answers are seldom rewarded, so that in many steps nothing varies for one policy or another.

    The last shard is slow, and the others are two steps ahead of it: as far as they may be.
    """

    def judges(of):
        def judge(completions, **_):
            if threading.current_thread().name.endswith(", 3)"):
                time.sleep(0.05)
            return [float(bool(of & set(text))) for text in completions]

        return judge

    settings = {"stall_patience": 1, "weighting": "fixed", "shard_size": 1, "group_size": 2, "steps": 8, "seed": seed}
    more = {"objectives": {"thread_safe": True}}
    for overlap in ("off", "exact"):
        rewards = [judges(of) for of in SELDOM]
        fitted(model, tmp_path / overlap, rewards, overlap=overlap, eval_every=4, **settings, **more)
    assert bytes_of(tmp_path / "off") == bytes_of(tmp_path / "exact")
    events = [one for one in read_journal(tmp_path / "exact" / "journal.jsonl") if one["event"] == "stalled"]
    assert any(one["action"] == "started again" and one["step"] % 4 for one in events), "between two measurements"


def test_what_judges_a_population_as_a_whole_still_does(model, tmp_path):
    """One of two objectives, and what it says depends on all that it is given."""
    asked = []

    def ranks(completions, **_):
        asked.append(len(completions))
        order = np.argsort([len(text) for text in completions], kind="stable")
        return (np.argsort(order) / len(order)).tolist()

    for overlap in ("off", "auto"):
        asked.clear()
        objectives = [Objective("own", LATE[0], bounds=(0, 1), rowwise=True), Objective("rank", ranks)]
        run = tmp_path / overlap
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParetoAlignWarning)
            ParetoAligner(model, objectives, lora=lora(2), output_dir=run, overlap=overlap, **{**SMALL, **QUICK}).fit(
                TEXTS
            )
        assert asked.count(4 * 2 * 4) == 4, "once a step"
        assert (sum(step["reward_seconds"]["hidden"] for step in steps_of(run)) > 0) == (overlap == "auto")
    assert bytes_of(tmp_path / "off") == bytes_of(tmp_path / "auto")


# ---------------------------------------------------------------------------------------- in what order, by events


class Watched:
    """What shards did; a judge may wait for it, which comes to nothing where nobody works meanwhile."""

    def __init__(self, monkeypatch):
        self.done, self.news = [], threading.Condition()
        for method in ("collect", "step"):
            monkeypatch.setattr(Shard, method, self.watched(method, getattr(Shard, method)))

    def watched(self, method, original):
        def call(shard, *arguments):
            found = original(shard, *arguments)
            with self.news:
                self.done.append((method, shard.slots.start // 2))
                self.news.notify_all()
            return found

        return call

    def count(self, method, shard):
        return self.done.count((method, shard))

    def wait(self, method, shard, times):
        with self.news:
            assert self.news.wait_for(lambda: self.count(method, shard) >= times, 10), (method, shard, self.done)


def judged_after(watched, waits):
    """A judge that waits, in its n-th call of training (0: shard 0 in the first step), for what `waits` says."""
    calls = []

    def judge(completions, **_):
        if len(completions) == 2 * 2 * 4:
            calls.append(len(calls))
            if (wanted := waits.get(calls[-1])) is not None:
                watched.wait(*wanted)
        return first(completions)

    return judge


def test_a_shard_samples_while_another_is_judged(model, tmp_path, monkeypatch):
    watched = Watched(monkeypatch)
    # call 2 is of shard 0 in the second step, before which shard 1 is still to train in the first
    judge = judged_after(watched, {0: ("collect", 1, 1), 2: ("step", 1, 1)})
    fitted(model, tmp_path / "run", (judge, LATE[1]), steps=2, overlap="exact")
    assert watched.count("step", 1) == 2


def test_without_a_barrier_a_shard_trains_while_another_is_judged(model, tmp_path, monkeypatch):
    watched = Watched(monkeypatch)
    judge = judged_after(watched, {1: ("step", 0, 1)})
    fitted(model, tmp_path / "run", (judge, LATE[1]), steps=2, overlap="exact", weighting="fixed")
    assert watched.count("step", 0) == 2


def test_with_bounded_age_a_barrier_is_none_after_the_first_step(model, tmp_path, monkeypatch):
    watched = Watched(monkeypatch)
    judge = judged_after(watched, {3: ("step", 0, 2)})
    fitted(model, tmp_path / "run", (judge, LATE[1]), steps=2, overlap="bounded")
    assert watched.count("step", 0) == 2


@pytest.mark.parametrize("safe", [False, True])
def test_a_reward_is_called_by_one_thread_at_a_time_unless_it_says_that_it_is_safe(safe, model, tmp_path):
    under_way, most, news = [0], [0], threading.Condition()

    def judge(completions, **_):
        with news:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
            news.notify_all()
            if len(completions) == 1 * 2 * 4:  # in training: here others may come, and where they may they do
                news.wait_for(lambda: most[0] > 1, 10 if safe else 0.05)
            under_way[0] -= 1
        return first(completions)

    rewards, settings = (judge, judge), {"steps": 2, "shard_size": 1, "objectives": {"thread_safe": safe}}
    fitted(model, tmp_path / "run", rewards, overlap="exact", **settings)
    assert (most[0] > 1) == safe


def test_async_rewards_wait_for_their_servers_side_by_side(model, tmp_path):
    """Every shard's answers are with the judge before it says anything; it is always one thread that asks it."""
    arrived, threads = [], set()

    async def judge(completions, **_):
        threads.add(threading.current_thread().name)
        if len(completions) == 1 * 2 * 4:
            arrived.append(len(completions))
            for _ in range(1000):
                if len(arrived) >= 4:
                    break
                await asyncio.sleep(0.005)
            assert len(arrived) >= 4, "others were not asked meanwhile"
        return first(completions)

    fitted(model, tmp_path / "run", (judge, LATE[1]), steps=1, overlap="exact", shard_size=1)
    assert threads == {"pareto-align-rewards"}


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_an_error_in_a_thread_ends_the_step_as_ever_and_nothing_is_lost(model, tmp_path):
    def broken():
        raise TypeError("not today")

    fitted(model, tmp_path / "whole", overlap="off")
    run = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        with pytest.raises(ObjectiveError, match=r"Objective 'first' raised TypeError: not today") as e:
            aligner_of(model, (failing(6, broken), LATE[1]), output_dir=run, overlap="exact").fit(TEXTS)
        assert "found by step 2" in e.value.__notes__[0]
        assert not judging()
        aligner_of(model, overlap="exact").resume(run)
    whole, resumed = bytes_of(tmp_path / "whole"), bytes_of(run)
    assert {**whole, "journal": ""} == {**resumed, "journal": ""}


def test_a_judge_that_leaves_by_system_exit_is_an_error_that_says_so(model, tmp_path):
    def leave():
        raise SystemExit(3)

    with pytest.raises(ObjectiveError, match="left by SystemExit: 3"):
        fitted(model, tmp_path / "run", (failing(2, leave), LATE[1]), overlap="exact")
    assert not judging()


def test_not_one_number_is_an_error_for_a_population_and_none_for_a_shard(model, tmp_path):
    def nothing(completions, **_):
        return [float("nan")] * len(completions) if len(completions) == 2 * 2 * 4 else first(completions)

    with pytest.raises(ObjectiveError, match="NaN for all 32 completions"):
        fitted(model, tmp_path / "all", (nothing, LATE[1]), overlap="exact")
    calls = []

    def sometimes(completions, **_):
        calls.append(len(completions))
        return nothing(completions) if calls.count(2 * 2 * 4) == 1 else first(completions)

    aligner = fitted(model, tmp_path / "some", (sometimes, LATE[1]), overlap="exact", steps=2)
    assert aligner.objectives.nan_counts["first"] == 16


def test_the_first_ctrl_c_lets_the_steps_in_hand_end(model, tmp_path):
    fitted(model, tmp_path / "whole", overlap="off", weighting="fixed", eval_every=4)
    run = tmp_path / "run"
    judge = failing(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    settings = {"overlap": "exact", "weighting": "fixed", "eval_every": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        with pytest.raises(KeyboardInterrupt):
            aligner_of(model, (judge, LATE[1]), output_dir=run, **settings).fit(TEXTS)
        assert not judging()
        made = len(steps_of(run))
        assert 1 <= made <= 3, "what was begun was ended, and saved between two measurements"
        aligner_of(model, **settings).resume(run)
    steps = steps_of(run)
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    whole, resumed = bytes_of(tmp_path / "whole"), bytes_of(run)
    assert {**whole, "journal": ""} == {**resumed, "journal": ""}


def test_the_second_ctrl_c_interrupts_and_waits_for_the_judge_alone(model, tmp_path):
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        fitted(model, tmp_path / "run", (failing(3, twice), LATE[1]), overlap="exact")
    assert not judging()


def test_requests_under_way_are_stopped(model, tmp_path):
    stopped = []

    async def hangs(completions, **_):
        if len(completions) == 2 * 2 * 4:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                stopped.append(True)
                raise
        return first(completions)

    def broken():
        time.sleep(0.05)
        raise TypeError("not today")

    began = time.monotonic()
    rewards = hangs, failing(2, broken)
    with pytest.raises(ObjectiveError, match="not today"):
        fitted(model, tmp_path / "run", rewards, overlap="exact")
    assert time.monotonic() - began < 30
    assert stopped


def test_what_compares_slots_needs_numbers_of_one_step():
    objectives = [
        Objective(name, reward, bounds=(0, 1), rowwise=True, role=role)
        for name, reward, role in (("a", first, "optimize"), ("b", second, "optimize"), ("c", first, "audit"))
    ]
    settings = {**SMALL, "overlap": "bounded", "family": "independent", "explorer": "grid", "kl_coef": 0.1}
    weighting = {"name": "bilevel", "estimate": "paired"}
    with pytest.raises(ConfigError, match=r"compares slots with each other.*of one step"):
        ParetoAligner("nowhere", objectives, **{**settings, "weighting": weighting, "shard_size": 1})._plan()


def test_what_objectives_share_is_computed_once_for_each_shard(model, tmp_path):
    """Threads of several shards judge side by side, and each asks both objectives in turn."""
    batches = []

    def judge(completions, **_):
        batches.append(tuple(completions))
        time.sleep(0.002)
        return first(completions)

    both = shared(judge)
    objectives = [Objective(name, both, bounds=(0, 1), rowwise=True) for name in ("one", "other")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        settings = {**SMALL, **QUICK, "shard_size": 1, "steps": 3, "eval_every": 3}
        ParetoAligner(model, objectives, lora=lora(2), output_dir=tmp_path / "run", **settings).fit(TEXTS)
    trained = [batch for batch in batches if len(batch) == 2 * 4]  # 2 prompts x 4 completions of a shard
    assert len(trained) == 3 * 4, "steps x shards"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlap": "sometimes"}, "`overlap` must be one of auto, off, exact, bounded"),
        ({"overlap": "exact", "shard_size": None}, "there is one shard. Set `shard_size` below the population, 4"),
        ({"overlap": "exact", "objectives": {"rowwise": False}}, r"'first', 'second' may judge.*rowwise=True"),
        ({"overlap": "bounded", "objectives": {"rowwise": False}}, "rowwise=True"),
        ({"max_age": 2}, "`max_age` is for overlap='bounded'"),
        ({"max_age": 0, "overlap": "bounded"}, "at least 1"),
        ({"overlap": "exact", "deterministic": True}, "deterministic.*backend='ray'"),
    ],
)
def test_what_cannot_overlap_is_said_before_anything_is_loaded(settings, message):
    with pytest.raises((ConfigError, ObjectiveError), match=message):
        aligner_of("nowhere", **settings)._plan()


def test_a_reward_with_a_memory_judges_no_row_by_itself():
    with pytest.raises(ConfigError, match=r"'first' remembers earlier answers.*Leave rowwise out"):
        aligner_of("nowhere", (conciseness(), LATE[1]))._plan()


def test_rowwise_is_true_or_false():
    with pytest.raises(ObjectiveError, match=r"rowwise must be True or False. Found 'yes'"):
        Objective("first", first, rowwise="yes")


class Liar(Fixed):
    name = "fixed"

    def __call__(self, signal):
        return np.array(signal.preferences) * (1 + signal.values.mean())


def test_a_weighting_that_needs_others_and_does_not_say_so_is_found_out(model, tmp_path):
    with pytest.raises(TrainingError, match=r"'fixed' says that its rows need nothing.*per_policy = False"):
        fitted(model, tmp_path / "run", overlap="exact", weighting=Liar())
