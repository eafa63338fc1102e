"""Reward functions that hang, fail now and then, or return NaN: what the user sees, and what goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from pareto_align.errors import ObjectiveError, ParetoAlignWarning
from pareto_align.objectives import Objective, ObjectiveSet, StatefulReward, attempts

PROMPTS = ["p", "q", "r"]
COMPLETIONS = ["a", "bb", "ccc"]


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were made, without making them."""
    made = []
    monkeypatch.setattr(attempts.time, "sleep", made.append)
    return made


def lengths(completions, **columns):
    return [float(len(text)) for text in completions]


class Flaky:
    """Raises at its first calls, then answers."""

    def __init__(self, times, error=ConnectionError):
        self.times, self.error, self.calls = times, error, 0

    def __call__(self, completions, **columns):
        self.calls += 1
        completions.pop()  # its own list, so that the next attempt sees them all
        if self.calls <= self.times:
            raise self.error("judge is down")
        return [1.0] * (len(completions) + 1)


class AsyncFlaky(Flaky):
    async def __call__(self, completions, **columns):
        await asyncio.sleep(0)
        return super().__call__(completions, **columns)


# ---- raises now and then ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Flaky, AsyncFlaky])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_reward_that_fails_twice_is_asked_a_third_time(pauses, kind, times):
    reward = kind(times)
    objectives = ObjectiveSet([Objective("judge", reward), Objective("length", lengths)])
    rewards = objectives.score(PROMPTS, COMPLETIONS)
    np.testing.assert_array_equal(rewards, [[1, 1], [1, 2], [1, 3]])
    assert reward.calls == times + 1
    assert pauses == [0.5, 1.0][:times]
    assert objectives.retry_counts == {"judge": times, "length": 0}


@pytest.mark.parametrize("kind", [Flaky, AsyncFlaky])
def test_a_reward_that_goes_on_failing_stops_with_its_own_error(pauses, kind):
    reward = kind(99)
    objectives = ObjectiveSet([Objective("judge", reward)])
    expected = r"^Objective 'judge' raised ConnectionError: judge is down \(3 times in a row\)\.$"
    with pytest.raises(ObjectiveError, match=expected) as caught:
        objectives.score(PROMPTS, COMPLETIONS)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert reward.calls == 3
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize("error", [TypeError, NameError, AttributeError, ImportError, ObjectiveError])
def test_wrong_code_is_not_tried_again(pauses, error):
    reward = Flaky(1, error)
    with pytest.raises(ObjectiveError, match=r"^Objective 'judge'.*judge is down\.?$"):
        ObjectiveSet([Objective("judge", reward)]).score(PROMPTS, COMPLETIONS)
    assert reward.calls == 1
    assert pauses == []


def test_the_number_of_retries_is_a_setting(pauses):
    reward = Flaky(5)
    ObjectiveSet([Objective("judge", reward, retries=5)]).score(PROMPTS, COMPLETIONS)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0]
    with pytest.raises(ObjectiveError, match=r"raised ConnectionError: judge is down\.$"):
        ObjectiveSet([Objective("judge", Flaky(1), retries=0)]).score(PROMPTS, COMPLETIONS)


def test_one_that_fails_for_good_cancels_the_others(pauses):
    stopped = threading.Event()

    async def endless(completions, **columns):
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    objectives = ObjectiveSet([Objective("endless", endless), Objective("judge", AsyncFlaky(99))])
    with pytest.raises(ObjectiveError, match="'judge' raised ConnectionError"):
        objectives.score(PROMPTS, COMPLETIONS)
    assert stopped.wait(5)


class Counting(StatefulReward):
    """Remembers how many completions it has learned from; fails halfway at its first call."""

    def __init__(self):
        self.seen, self.failed = 0, False

    def __call__(self, completions, **columns):
        self.seen += len(completions)
        if not self.failed:
            self.failed = True
            raise ConnectionError("lost")
        return [float(self.seen)] * len(completions)

    def reset(self):
        self.seen = 0

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_a_memory_does_not_learn_a_batch_twice(pauses):
    reward = Counting()
    rewards = ObjectiveSet([Objective("counting", reward)]).score(PROMPTS, COMPLETIONS)
    assert reward.seen == 3
    assert rewards[0, 0] == 3.0


# ---- hangs -----------------------------------------------------------------------------------------------------------


def test_a_sync_reward_that_hangs_is_left_and_named():
    release = threading.Event()

    def hangs(completions, **columns):
        release.wait()
        return [0.0] * len(completions)

    objectives = ObjectiveSet([Objective("slow judge", hangs, timeout_s=0.05), Objective("length", lengths)])
    expected = (
        r"Objective 'slow judge' did not answer within its time limit of 0.05 s for 3 completions\. "
        r"The call cannot be stopped: it goes on in its thread"
    )
    with pytest.raises(ObjectiveError, match=expected):
        objectives.score(PROMPTS, COMPLETIONS)
    left = [thread for thread in threading.enumerate() if thread.name == "pareto-align-reward-slow judge"]
    assert [thread.daemon for thread in left] == [True]
    release.set()
    left[0].join(5)
    assert not left[0].is_alive()
    np.testing.assert_array_equal(objectives.score(PROMPTS, COMPLETIONS)[:, 1], [1, 2, 3])


def test_an_async_reward_that_hangs_is_cancelled():
    cancelled = threading.Event()

    async def hangs(completions, **columns):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    objectives = ObjectiveSet([Objective("judge", hangs, timeout_s=0.05)])
    with pytest.raises(ObjectiveError, match=r"'judge' did not answer within .* It was cancelled"):
        objectives.score(PROMPTS, COMPLETIONS)
    assert cancelled.wait(5)


def test_an_async_reward_that_never_awaits_does_not_hold_up_the_next():
    release = threading.Event()

    async def blocks(completions, **columns):
        release.wait()
        return [0.0] * len(completions)

    with pytest.raises(ObjectiveError, match="did not answer within"):
        ObjectiveSet([Objective("judge", blocks, timeout_s=0.05)]).score(PROMPTS, COMPLETIONS)
    healthy = ObjectiveSet([Objective("judge", AsyncFlaky(0), timeout_s=30)])
    np.testing.assert_array_equal(healthy.score(PROMPTS, COMPLETIONS), [[1], [1], [1]])
    release.set()


def test_a_reward_within_its_limit_is_none_the_wiser():
    threads = []

    def reward(completions, **columns):
        threads.append(threading.current_thread())
        return lengths(completions)

    for limit in (None, 30):
        rewards = ObjectiveSet([Objective("length", reward, timeout_s=limit)]).score(PROMPTS, COMPLETIONS)
        np.testing.assert_array_equal(rewards[:, 0], [1, 2, 3])
    assert threads[0] is threading.main_thread()  # without a limit it is called as ever
    assert threads[1] is not threading.main_thread()


def test_a_time_limit_that_passed_is_not_tried_again(pauses):
    calls = []
    release = threading.Event()

    def hangs(completions, **columns):
        calls.append(1)
        release.wait()

    with pytest.raises(ObjectiveError, match="did not answer"):
        ObjectiveSet([Objective("judge", hangs, timeout_s=0.05, retries=5)]).score(PROMPTS, COMPLETIONS)
    release.set()
    assert calls == [1]
    assert pauses == []


def test_a_timeout_of_the_reward_itself_is_an_error_like_any_other(pauses):
    reward = Flaky(1, TimeoutError)
    ObjectiveSet([Objective("judge", reward, timeout_s=30)]).score(PROMPTS, COMPLETIONS)
    assert reward.calls == 2


def test_a_function_that_hangs_does_not_keep_the_process_from_ending():
    code = """
import threading
from pareto_align.errors import ObjectiveError
from pareto_align.objectives import Objective, ObjectiveSet

def hangs(completions, **columns):
    threading.Event().wait()

try:
    ObjectiveSet([Objective("judge", hangs, timeout_s=0.05)]).score(["p"], ["c"])
except ObjectiveError:
    print("left")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "left\n"


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "soon"])
def test_a_time_limit_is_a_positive_number(value):
    with pytest.raises(ObjectiveError, match="'judge': timeout_s must be"):
        Objective("judge", lengths, timeout_s=value)


@pytest.mark.parametrize("value", [-1, 1.5, True, "twice"])
def test_retries_are_a_whole_number(value):
    with pytest.raises(ObjectiveError, match="'judge': retries must be a whole number"):
        Objective("judge", lengths, retries=value)


# ---- NaN -------------------------------------------------------------------------------------------------------------


def test_nan_rewards_are_left_out_like_none_and_counted():
    def sometimes(completions, **columns):
        return [1.0, float("nan"), None]

    objectives = ObjectiveSet([Objective("judge", sometimes, maximize=False), Objective("length", lengths)])
    with pytest.warns(ParetoAlignWarning, match="'judge' returned NaN for 1 of 3 completions"):
        rewards = objectives.score(PROMPTS, COMPLETIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said
        objectives.score(PROMPTS, COMPLETIONS)
    np.testing.assert_array_equal(rewards, [[-1, 1], [np.nan, 2], [np.nan, 3]])
    assert objectives.nan_counts == {"judge": 2, "length": 0}  # None is no fault
    objectives.reset_counts()
    assert objectives.nan_counts == {"judge": 0, "length": 0}


@pytest.mark.parametrize("kind", [list, np.array, tuple, iter])
def test_nan_is_counted_whatever_the_list_is(kind):
    objectives = ObjectiveSet([Objective("judge", lambda completions, **columns: kind([1.0, np.nan, np.nan]))])
    with pytest.warns(ParetoAlignWarning, match="NaN for 2 of 3"):
        objectives.score(PROMPTS, COMPLETIONS)
    assert objectives.nan_counts == {"judge": 2}


def test_nothing_but_nan_is_an_error():
    objectives = ObjectiveSet([Objective("judge", lambda completions, **columns: [float("nan")] * 3)])
    with pytest.raises(ObjectiveError, match="'judge' returned NaN for all 3 completions, such as 'a'"):
        objectives.score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_an_infinite_reward_is_still_an_error(value):
    objectives = ObjectiveSet([Objective("judge", lambda completions, **columns: [1.0, value, 2.0])])
    with pytest.raises(ObjectiveError, match="for completion 1 of 3"):
        objectives.score(PROMPTS, COMPLETIONS)


def test_a_hanging_reward_stops_in_time():
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(ObjectiveError):
        ObjectiveSet([Objective("judge", lambda completions, **c: release.wait(), timeout_s=0.1)]).score(["p"], ["c"])
    assert time.monotonic() - started < 30
    release.set()
