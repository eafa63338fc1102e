"""What a reward function is given is its own: whatever it edits, nobody else sees it."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict

import numpy as np
import pytest

from pareto_align.errors import ObjectiveError
from pareto_align.objectives import Objective, ObjectiveSet, attempts, conditioned, ensemble, of_group, shared
from pareto_align.objectives.calling import RewardCall

PROMPTS = [[{"role": "system", "content": "s"}, {"role": "user", "content": "q"}] for _ in range(2)]
COMPLETIONS = [[{"role": "assistant", "content": "thinking ANSWER 4"}] for _ in range(2)]
COLUMNS = {
    "facts": [{"tags": ["a", {"b": {1, 2}}], "pair": ([1], 2)} for _ in range(2)],
    "order": [OrderedDict(first=[1]) for _ in range(2)],
}
IDS = [[1, 2, 3], [4, 5]]


def batch():
    return copy.deepcopy((PROMPTS, COMPLETIONS, COLUMNS, IDS))


def vandal(prompts, completions, facts, order, completion_ids, **columns):
    """Edits all that it can reach."""
    for prompt, completion in zip(prompts, completions, strict=True):
        prompt.append(completion[0])
        prompt[0]["content"] = "changed"
        completion[0]["content"] = completion[0]["content"].split("ANSWER")[-1]
    for fact, first in zip(facts, order, strict=True):
        fact["tags"][1]["b"].add(3)
        fact["pair"][0].clear()
        first["first"].append(2)
        first["second"] = 0
    for ids in completion_ids:
        ids.clear()
    count = len(completions)
    prompts.clear()
    completions.reverse()
    columns.clear()
    return [1.0] * count


class Witness:
    """Takes down what it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, prompts, completions, facts, order, completion_ids, **columns):
        self.seen.append(copy.deepcopy((prompts, completions, {"facts": facts, "order": order}, completion_ids)))
        return [0.5] * len(completions)


async def async_vandal(prompts, completions, **columns):
    return vandal(prompts, completions, **columns)


@pytest.mark.parametrize("judge", [vandal, async_vandal])
@pytest.mark.parametrize("timeout_s", [None, 60])
def test_a_reward_that_edits_everything_changes_nothing_for_anybody(judge, timeout_s):
    first, last = Witness(), Witness()
    given = batch()
    objectives = ObjectiveSet(
        [Objective("first", first), Objective("v", judge, timeout_s=timeout_s), Objective("last", last)]
    )
    for _ in range(2):
        objectives.score(*given)
    assert given == batch()
    assert first.seen == last.seen == [batch(), batch()]


@pytest.mark.parametrize("kind", ["ensemble", "conditioned", "of_group", "shared"])
def test_members_of_a_composition_are_given_their_own_as_well(kind):
    witness = Witness()
    made = {
        "ensemble": lambda: ensemble([vandal, witness]),
        "conditioned": lambda: conditioned(vandal, where=witness, at_least=0.0),
        "of_group": lambda: of_group(vandal, column="order", group="x"),
        "shared": lambda: shared(vandal),
    }[kind]()
    given = batch()
    ObjectiveSet([Objective("made", made), Objective("witness", shared(witness))]).score(*given)
    assert given == batch()
    assert witness.seen == [batch()]  # and a shared one is still asked once


def test_a_further_attempt_is_given_what_the_first_was(monkeypatch):
    monkeypatch.setattr(attempts.time, "sleep", lambda seconds: None)
    witness, calls = Witness(), []

    def flaky(prompts, completions, **columns):
        calls.append(1)
        witness(prompts, completions, **columns)
        answer = vandal(prompts, completions, **columns)
        if len(calls) == 1:
            raise ConnectionError
        return answer

    ObjectiveSet([Objective("flaky", flaky)]).score(*batch())
    assert witness.seen == [batch(), batch()]


def test_rows_that_share_an_object_do_not_once_they_are_handed_over():
    prompt = [{"role": "user", "content": "q"}]
    lengths = []

    def appends(prompts, completions, **columns):
        for one in prompts:
            one.append({})
        lengths.extend(len(one) for one in prompts)
        return [0.0] * len(completions)

    ObjectiveSet([Objective("a", appends)]).score([prompt] * 4, ["c"] * 4)  # as a group of four samples has it
    assert lengths == [2, 2, 2, 2]


def test_what_is_no_json_is_handed_over_as_it_is():
    image, loop = np.zeros((4, 4)), []
    loop.append(loop)  # a list that holds itself cannot be copied, and is no data
    seen = {}
    objectives = ObjectiveSet([Objective("o", lambda completions, **columns: seen.update(columns) or [0.0])])
    objectives.score(["p"], ["c"], {"image": [image], "images": [[image]], "loop": [loop]})
    assert seen["image"][0] is image
    assert seen["images"][0][0] is image
    assert seen["loop"][0] is loop


def test_handing_over_512_conversations_takes_milliseconds():
    prompts = [[{"role": "user", "content": "q"}] * 3 for _ in range(512)]
    columns = {"facts": [{"tags": ["a", "b"], "level": 3} for _ in range(512)], "order": ["4"] * 512}
    call = RewardCall(prompts, prompts, columns, [list(range(128)) for _ in range(512)])
    started = time.perf_counter()
    call.arguments("o", vandal)
    assert time.perf_counter() - started < 0.5  # 10 ms, but machines are busy


@pytest.mark.parametrize("missing", [lambda k: k["answer"], lambda k: [len(row) for row in k["answer"]]])
def test_a_column_that_is_not_there_is_told_at_once_with_those_that_are(monkeypatch, missing):
    pauses = []
    monkeypatch.setattr(attempts.time, "sleep", pauses.append)
    objectives = ObjectiveSet([Objective("o", lambda completions, **k: missing(k))])
    expected = r"'o' raised KeyError: 'answer'\. If that is a column: .* \(they have: 'solution', 'level'\)\.$"
    with pytest.raises(ObjectiveError, match=expected):
        objectives.score(["p"], ["c"], {"solution": ["x"], "level": [1]})
    assert pauses == []


@pytest.mark.parametrize("key", ["solution", 7])
def test_a_key_that_is_no_missing_column_is_tried_again(monkeypatch, key):
    pauses = []
    monkeypatch.setattr(attempts.time, "sleep", pauses.append)

    def reward(completions, **columns):
        raise KeyError(key)

    with pytest.raises(ObjectiveError, match=r"\(3 times in a row\)\.$"):
        ObjectiveSet([Objective("o", reward)]).score(["p"], ["c"], {"solution": ["x"]})
    assert len(pauses) == 2


def test_a_function_that_has_answered_lacks_no_column_so_its_key_errors_may_pass(monkeypatch):
    monkeypatch.setattr(attempts.time, "sleep", lambda seconds: None)
    replies = [{"choices": 1.0}, {"error": "overloaded"}, {"choices": 2.0}]
    objectives = ObjectiveSet([Objective("judge", lambda completions, **k: [replies.pop(0)["choices"]])])
    assert objectives.score(["p"], ["c"]) == 1.0
    assert objectives.score(["p"], ["c"]) == 2.0
    assert objectives.retry_counts == {"judge": 1}
