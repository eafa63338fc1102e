"""`front.elicit`: questions on real answers, the choice they lead to, going on later, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "report"))  # the builders that tests/report has, too

from front_records import estimate, objective, record

from pareto_align.errors import ConfigError, FrontFileError, PreferenceError
from pareto_align.front.elicitation import Users
from pareto_align.interview import Pair
from pareto_align.result import Choice, ParetoFront

PLACES = np.linspace(0, np.pi / 2, 7)


def arc(*, samples: int = 8, stderr: float = 1e-6) -> ParetoFront:
    """Seven members on a quarter circle, whose answers name them; length is minimized."""
    objectives = [objective("tone"), objective("length", maximize=False, bounds=(0.0, 1.0))]
    points = [[np.sin(a), np.cos(a) - 1] for a in PLACES]
    made = record(objectives, [estimate(p, stderr) for p in points], [[0.5, 0.5]] * 7, ids=list("abcdefg"))
    for member in made.members:
        member.sample = [
            {"prompt": [{"role": "user", "content": f"ask {i}"}], "completion": f"{member.id} says {i}"}
            for i in range(samples)
        ]
    return ParetoFront(made, "/nowhere")


def likes(pair: Pair, angle: float) -> str:
    """A user for whom one direction is best, and who looks at who said it."""
    ids = list("abcdefg")
    first, second = (np.cos(PLACES[ids.index(name)] - angle) for name in pair.members)
    return "first" if first > second else "second"


@pytest.mark.parametrize("row", [0, 2, 5])
def test_answers_lead_to_the_members_own_user(row):
    front = arc()
    session = front.elicit(questions=12, utilities=["linear"], ask=lambda pair: likes(pair, PLACES[row]))
    choice = session.choice
    assert isinstance(choice, Choice)
    assert abs("abcdefg".index(choice.member.id) - row) <= 1
    assert choice.rule == "elicited"
    assert choice.regret == session.stated_regret < 0.1
    assert sum(session.preference.values()) == pytest.approx(1)
    assert session.preference["tone"] == pytest.approx(
        np.sin(PLACES[row]) / np.sum([np.sin(PLACES[row]), np.cos(PLACES[row])]), abs=0.2
    )
    assert f"best by {len(session.history)} answers" in choice.reason
    assert session.kinds == {"linear": pytest.approx(1.0)}
    assert choice.member.id in choice.explain()


def test_a_question_is_chosen_for_as_many_as_are_left(monkeypatch):
    left = []
    ask = Users.ask
    monkeypatch.setattr(Users, "ask", lambda self, askable, then: left.append(then) or ask(self, askable, then))
    session = arc().elicit(questions=3, enough=0.0)
    while session.next() is not None:
        session.answer("same")
    assert left == [2, 1, 0]
    del left[:]
    pairs = len(arc()) * (len(arc()) - 1) // 2
    session = arc().elicit(questions=pairs + 5, enough=0.0, show="values")
    while session.next() is not None:
        session.answer("same")
    assert left[:-1] == list(range(pairs))[::-1], "two are not compared by their numbers twice"


def test_a_question_shows_two_answers_to_one_prompt():
    session = arc().elicit()
    pair = session.next()
    assert session.next() == pair  # until it is answered
    (prompt,) = {text[-1] for text in (pair.first, pair.second)}
    assert pair.prompt == [{"role": "user", "content": f"ask {prompt}"}]
    assert (pair.first[0], pair.second[0]) == pair.members
    assert pair.first_values == {}
    assert str(pair).splitlines()[0] == f"Prompt: ask {prompt}"
    assert "<table>" in pair._repr_html_()
    session.answer("same")
    other = session.next()
    assert other.number == 2
    assert other.prompt != pair.prompt  # prompts take turns


def test_answers_that_are_the_same_are_not_asked_about():
    front = arc()
    for member in front.record.members:
        for sample in member.sample:
            sample["completion"] = "x" if member.id in "bcdefg" else "a"
    session = front.elicit(questions=50, enough=0.0)
    while (pair := session.next()) is not None:
        assert "a" in pair.members
        session.answer("first")
    assert len(session.history) == 48  # six pairs on eight prompts each
    for member in front.record.members:
        for sample in member.sample:
            sample["completion"] = "x"
    assert front.elicit().next() is None


def test_numbers_are_shown_in_the_users_units_and_each_pair_once():
    front = arc(samples=0)
    session = front.elicit(show="values", questions=100, enough=0.0)
    pairs = []
    while (pair := session.next()) is not None:
        assert pair.prompt is None
        assert float(pair.first_values["length"]) >= 0
        pairs.append(frozenset(pair.members))
        session.answer("same")
    assert len(pairs) == len(set(pairs)) == 21
    assert "21 of 100" in repr(session)
    both = arc().elicit(show="both").next()
    assert both.first
    assert set(both.first_values) == {"tone", "length"}


def test_a_session_goes_on_where_it_was_left(tmp_path):
    front = arc()
    whole = front.elicit(questions=7, enough=0.0, seed=3)
    part = front.elicit(questions=7, enough=0.0, seed=3)
    for number in range(7):
        if number == 3:
            stored = json.loads(json.dumps(part.to_dict()))
            part = front.elicit(resume=stored)
            part = front.elicit(resume=part.save(tmp_path / "session.json"))
        assert whole.next() == part.next()
        verdict = likes(whole.next(), 0.4)
        whole.answer(verdict)
        part.answer(verdict)
    assert whole.to_dict() == part.to_dict()
    assert whole.stated_regret == part.stated_regret
    assert whole.choice.reason == part.choice.reason
    with pytest.raises(ConfigError, match="no question to answer"):
        whole.answer("first")


def test_a_question_that_is_shown_when_a_session_is_kept_is_the_one_that_is_answered():
    front = arc()
    session = front.elicit(seed=3)
    shown = session.next()
    state = json.loads(json.dumps(session.to_dict()))
    state["asked"]["members"].reverse()  # as another version, or another machine, might not have asked
    resumed = front.elicit(resume=state)
    resumed.answer("first")
    assert resumed.history[0]["members"] == list(shown.members)[::-1]
    assert "asked" not in resumed.to_dict()
    for wrong in ({"members": ["m1"], "prompt": 0}, {"members": state["asked"]["members"], "prompt": 99}, 3):
        with pytest.raises(FrontFileError, match="damaged"):
            front.elicit(resume=state | {"asked": wrong})


def test_what_cannot_be_resumed(tmp_path):
    front = arc()
    session = front.elicit()
    session.next()
    session.answer("first")
    state = session.to_dict()
    with pytest.raises(ConfigError, match="another front"):
        arc(stderr=0.1, samples=4).elicit(resume=state)
    with pytest.raises(FrontFileError, match=r"must be what a session's"):
        front.elicit(resume={})
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(FrontFileError, match="no session of questions"):
        front.elicit(resume=tmp_path / "x.json")
    for damaged in ({"members": ["a", "zz"]}, {"prompt": 99}, {"answer": "maybe"}):
        broken = {**state, "history": [{**state["history"][0], **damaged}]}
        with pytest.raises(FrontFileError, match="damaged"):
            front.elicit(resume=broken)


def test_a_front_without_answers_says_which_setting_keeps_them():
    with pytest.raises(PreferenceError, match=r"`samples_kept` above 0 .* elicit\(show='values'\)"):
        arc(samples=0).elicit()


def test_limits_leave_members_out():
    session = arc().elicit(at_least={"tone": 0.8}, questions=20, enough=0.0)
    while (pair := session.next()) is not None:
        assert set(pair.members) <= set("efg")
        session.answer("same")
    assert session.history
    assert session.choice.feasible
    with pytest.raises(PreferenceError, match="No member keeps tone at least 2"):
        arc().elicit(at_least={"tone": 2.0})


def test_a_front_of_one_asks_nothing():
    front = arc(samples=0)
    alone = ParetoFront(replace(front.record, members=front.record.members[:1]), "/nowhere")
    session = alone.elicit()
    assert session.next() is None
    assert (session.choice.member.id, session.choice.regret, session.choice.runner_up) == ("a", 0.0, None)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"questions": 0}, "`questions` must be a whole number of at least 1. Found 0"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0. Found -1"),
        ({"show": "texts"}, "`show` must be one of answers, values, both. Found 'texts'"),
        ({"enough": 2}, "`enough` must be a share"),
        ({"utilities": []}, "`utilities` must be some of linear, chebyshev"),
    ],
)
def test_wrong_settings(setting, message):
    with pytest.raises(ConfigError, match=message):
        arc().elicit(**setting)


def test_one_kind_of_user_may_be_named_alone():
    session = arc().elicit(utilities="linear")
    session.next()
    session.answer("first")
    again = arc().elicit(resume=session.to_dict())
    assert again.kinds == {"linear": pytest.approx(1.0)}
    assert len(again.history) == 1
