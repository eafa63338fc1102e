"""A reward that tries to end the process, its task or its loop ends with an error that names it, and hangs nobody."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import numpy as np
import pytest

from pareto_align.errors import ObjectiveError
from pareto_align.objectives import Objective, ObjectiveSet, attempts, ensemble


class Vanished(BaseException):
    """As a library's own that is no Exception."""


ENDS = [SystemExit("misconfigured"), KeyboardInterrupt("misconfigured"), Vanished("misconfigured")]


async def healthy(completions, **columns):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


def score(*objectives):
    return ObjectiveSet([*objectives, Objective("healthy", healthy)]).score(["p", "q"], ["a", "bb"])


def assert_loop_goes_on():
    np.testing.assert_array_equal(score(), [[1], [2]])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(attempts.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
@pytest.mark.parametrize("place", ["the function", "a task of it", "a gathered task", "a callback", "a generator"])
def test_an_async_reward_that_leaves_is_an_error(end, place):
    async def leaves():
        raise end

    async def judge(completions, **columns):
        if place == "a task of it":
            await asyncio.create_task(leaves())
        elif place == "a gathered task":
            await asyncio.gather(healthy(completions), leaves())
        elif place == "a callback":  # nobody waits for it: it must not take the loop with it
            asyncio.get_running_loop().call_soon(lambda: (_ for _ in ()).throw(end))
            await asyncio.sleep(0.01)
        await leaves()

    with pytest.raises(ObjectiveError, match=f"'judge': the reward function left by {type(end).__name__}: misconf"):
        score(Objective("judge", judge))
    assert_loop_goes_on()


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_a_member_of_an_async_ensemble_that_leaves_is_named(end):
    async def judge(completions, **columns):
        raise end

    with pytest.raises(ObjectiveError, match=f"left by {type(end).__name__}: misconfigured"):
        score(Objective("both", ensemble([judge, healthy])))
    assert_loop_goes_on()


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_a_reward_with_a_time_limit_that_leaves_is_an_error(end):
    def judge(completions, **columns):
        raise end

    with pytest.raises(ObjectiveError, match=f"'judge': the reward function left by {type(end).__name__}: misconf"):
        score(Objective("judge", judge, timeout_s=60))


def test_a_sync_reward_that_exits_does_end_the_process():
    def judge(completions, **columns):
        sys.exit("misconfigured")

    with pytest.raises(SystemExit, match="misconfigured"):
        score(Objective("judge", judge))


@pytest.mark.parametrize("timeout_s", [None, 60])
def test_a_cancelled_sync_reward_is_tried_again_and_named(timeout_s):
    calls = []

    def judge(completions, **columns):
        calls.append(1)
        raise asyncio.CancelledError

    with pytest.raises(
        ObjectiveError, match=r"'judge' raised CancelledError: \(3 times in a row\)|'judge' raised Canc"
    ):
        score(Objective("judge", judge, timeout_s=timeout_s))
    assert len(calls) == 3


def test_a_reward_that_stops_the_loop_stops_nobody():
    async def stops(completions, **columns):
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return [0.0] * len(completions)

    np.testing.assert_array_equal(score(Objective("stops", stops)), [[0, 1], [0, 2]])


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("timeout_s", [None, 60])
def test_an_iterator_that_fails_is_an_error_of_its_reward(asynchronous, timeout_s):
    def numbers():
        yield 1.0
        raise ConnectionError("judge is down")

    def judge(completions, **columns):
        return numbers()

    async def async_judge(completions, **columns):
        return numbers()

    with pytest.raises(ObjectiveError, match=r"'judge' raised ConnectionError: judge is down \(3 times"):
        score(Objective("judge", async_judge if asynchronous else judge, timeout_s=timeout_s))


def test_an_iterator_without_an_end_is_refused():
    def forever():
        while True:
            yield 1.0

    with pytest.raises(ObjectiveError, match="'judge' returned 3 rewards for 2 completions"):
        score(Objective("judge", lambda completions, **columns: forever()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_a_loop_of_its_own_even_if_its_parent_was_starting_one():
    assert_loop_goes_on()
    from pareto_align.objectives import background

    held, release = threading.Event(), threading.Event()

    def hold():
        with background._loop_lock:
            held.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        os.alarm(60) if hasattr(os, "alarm") else None
        os._exit(0 if score().tolist() == [[1], [2]] else 1)
    release.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
