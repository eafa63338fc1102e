r"""Rewards that can be verified: answers, numbers, JSON, patterns, and the three of arXiv 2509.11452."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives import (
    Objective,
    ObjectiveSet,
    boxed_answer,
    clarity,
    conciseness,
    exact_match,
    json_valid,
    numeric_answer,
    regex_match,
)
from pareto_align.objectives.verifiable import boxed_content, normalize_latex

PER_ROW = [exact_match(), numeric_answer(), boxed_answer("answer")]


@pytest.mark.parametrize("reward", PER_ROW)
def test_rows_without_an_answer_get_none(reward):
    assert reward(["x", r"\boxed{7}"], answer=[None, math.nan]) == [None, None]


@pytest.mark.parametrize("reward", PER_ROW)
def test_a_missing_column_is_named(reward):
    objectives = ObjectiveSet([Objective("right", reward)])
    with pytest.raises(ObjectiveError, match=r"'right': .* reads the column 'answer'.*they have: 'solution'"):
        objectives.score(["p"], ["c"], {"solution": ["7"]})


@pytest.mark.parametrize("reward", PER_ROW)
def test_strings_and_chat_messages_are_worth_the_same(reward):
    texts = [r"\boxed{7}", "7", "8"]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    assert reward(texts, answer=["7"] * 3) == reward(messages, answer=["7"] * 3)


def test_exact_match():
    reward = exact_match()
    assert reward([" Paris\n", "New  York", "It is Paris"], answer=["paris", "new york", "Paris"]) == [1.0, 1.0, 0.0]
    assert exact_match(ignore_case=False)(["paris"], answer=["Paris"]) == [0.0]
    assert reward(["grey", "7", "x"], answer=[["gray", "grey"], 7, []]) == [1.0, 1.0, None]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}} done", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{x}", "x"),
        (r"\boxed{}", ""),
        (r"\boxed{3} and \boxed{4", "3"),
        (r"\boxed{4", None),
        ("boxed{4}", None),
    ],
)
def test_boxed_content_is_the_last_complete_box(text, content):
    assert boxed_content(text) == content


@pytest.mark.parametrize(
    "spellings",
    [
        [r"\frac{1}{2}", r"\dfrac{1}{2}", r"\tfrac12", r"\frac1{2}", "1/2", "0.5", ".5", " 0.5. "],
        ["5", "x=5", "x = 5", r"5\text{ cm}", r"\$5", "5."],
        [r"\sqrt{2}", r"\sqrt2", r"\sqrt 2"],
        ["50", r"50\%", "50%", r"50^\circ", r"50^{\circ}"],
        [r"(1,2)", r"\left( 1,\,2 \right)", "(1, 2)"],
        ["Monday", r"\text{Monday}"],
        ["-3/4", r"-\frac{3}{4}", r"-\frac 3 4"],
    ],
)
def test_spellings_of_one_answer_are_one_text(spellings):
    assert {normalize_latex(spelling) for spelling in spellings} == {normalize_latex(spellings[0])}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "2"),
        ("12", "1/2"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        ("-1", "1"),
        ("x^{2}=1", "1"),
        (r"\leftarrow", "arrow"),
    ],
)
def test_different_answers_stay_different(one, other):
    assert normalize_latex(one) != normalize_latex(other)


@given(st.text(alphabet=r"\{}fracsqtbode12x=./ ,%$", max_size=40))
def test_normalizing_takes_any_text(text):
    assert normalize_latex(text) == normalize_latex(f" {text} ")
    boxed_content(text)


def test_boxed_answer():
    texts = [r"so \boxed{0.5}", r"\boxed{1/3}", "1/2", r"\boxed{9} no, \boxed{\frac12}"]
    assert boxed_answer()(texts, solution=[r"\frac{1}{2}"] * 4) == [1.0, 0.0, 0.0, 1.0]
    worked = r"We add and get \boxed{\dfrac{1}{2}}."
    assert boxed_answer()(texts, solution=[worked] * 4) == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "expected", "reward"),
    [
        ("It costs $1,234.50 in all.", "1234.5", 1.0),
        ("7", 7, 1.0),
        ("3 and 4 make 7", "a hint\n#### 7", 1.0),
        ("#### 7 (not 8)", 7, 1.0),
        (r"\boxed{7} rather than 8", 7, 1.0),
        ("minus: -7", -7, 1.0),
        ("\u22127", -7, 1.0),
        ("from 10-7", 7, 1.0),
        ("1e3", 1000, 1.0),
        ("0.3333333", 1 / 3, 1.0),
        ("0.333", 1 / 3, 0.0),
        ("7.5", 7, 0.0),
        ("seven", 7, 0.0),
        ("", 7, 0.0),
        ("x7", 7, 0.0),
        ("7", "seven", None),
    ],
)
def test_numeric_answer(text, expected, reward):
    assert numeric_answer()([text], answer=[expected]) == [reward]


def test_the_tolerance_is_relative_above_one():
    reward = numeric_answer(tolerance=0.01)
    assert reward(["1009", "1011", "0.009", "0.011"], answer=[1000, 1000, 0, 0]) == [1.0, 0.0, 1.0, 0.0]


@given(st.integers(-(10**9), 10**9))
def test_every_whole_number_is_found_with_and_without_separators(number):
    assert numeric_answer()([f"The answer is {number:,}.", f"= {number}"], answer=[number] * 2) == [1.0, 1.0]


def ids(*lengths):
    return [[0] * length for length in lengths]


def concise(reward, *lengths):
    return reward(completions=["c"] * len(lengths), completion_ids=ids(*lengths))


def test_conciseness_compares_with_the_mean_of_everything_seen():
    reward = conciseness(memory=None)
    assert concise(reward, 2, 4, 6) == [1.0, 0.0, 0.0]  # mean 4; equal is not fewer
    assert concise(reward, 7, 5, 12) == [0.0, 1.0, 0.0]  # mean of all six: 6
    assert (reward.mean, reward.seen) == (6.0, 6)


def test_conciseness_by_default_forgets():
    lagging, forgetting = conciseness(memory=None), conciseness(memory=0.5)
    for reward in (lagging, forgetting):
        for _ in range(8):
            concise(reward, 100, 100)
        for _ in range(8):
            concise(reward, 10, 10)
    assert lagging.mean == pytest.approx(55.0)
    assert forgetting.mean == pytest.approx(10 + 90 * 0.5**8)
    assert concise(conciseness(memory=0.0), 1, 3) == [1.0, 0.0]


def test_conciseness_that_does_not_learn_judges_by_what_it_knows():
    reward = conciseness()
    reward.learning = False
    assert concise(reward, 2, 4) == [1.0, 0.0], "knowing nothing, the batch is its own measure"
    assert reward.seen == 0
    reward.learning = True
    concise(reward, 10, 10)
    reward.learning = False
    assert concise(reward, 9, 11) == [1.0, 0.0]
    assert (reward.mean, reward.seen) == (10.0, 2)
    assert concise(reward) == []


def test_conciseness_travels_with_its_memory():
    reward = conciseness()
    concise(reward, 4, 8)
    again = pickle.loads(pickle.dumps(reward))
    assert (again.mean, again.seen, again.__name__) == (6.0, 2, "conciseness")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. add\n2. halve\n\\boxed{3}", 1.0),
        ("a) add\nb) halve\n\\boxed{3}", 1.0),
        ("i. add\nii. halve\n\\boxed{3}", 1.0),
        ("**Step 1:** add\n**Step 2:** halve\n\\boxed{3}", 1.0),
        ("- add\n- halve\n\\boxed{3}", 1.0),
        ("\u2022 add\n* halve\n\\boxed{3}", 1.0),
        ("First add, then halve: \\boxed{3}", 1.0),
        ("Next. Next. \\boxed{3}", 1.0),
        ("1. add\n2. halve", 0.0),
        ("1. add\n2. halve\n\\boxed{ }", 0.0),
        ("1. add \\boxed{3}", 0.0),
        ("First add \\boxed{3}", 0.0),
        ("We seek x. It is not y. \\boxed{3}", 0.0),
        ("3.14 is pi\n2.71 is e\n\\boxed{3}", 0.0),
        ("strengthen, authentic \\boxed{3}", 0.0),
        ("", 0.0),
    ],
)
def test_clarity_needs_a_box_and_two_steps(text, expected):
    assert clarity()([text]) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', 1.0),
        (" [1, 2]\n", 1.0),
        ('```json\n{"a": 1}\n```', 1.0),
        ('```\n"x"\n```\n', 1.0),
        ("{'a': 1}", 0.0),
        ('{"a": 1} done', 0.0),
        ('{"a": NaN}', 0.0),
        ("", 0.0),
        ("[" * 100_000, 0.0),
        ("9" * 10_000, 0.0),
    ],
)
def test_json_valid(text, expected):
    assert json_valid()([text]) == [expected]


def test_json_valid_with_required_keys():
    reward = json_valid(required=["name", "age"])
    assert reward(['{"name": 1, "age": null}', '{"name": 1}', '["name", "age"]']) == [1.0, 0.0, 0.0]
    assert json_valid("name")(['{"name": 1}']) == [1.0]


def test_regex_match():
    assert regex_match(r"\d{3}")(["call 555 now", "55"]) == [1.0, 0.0]
    assert regex_match(r"\d{3}", full=True)(["555", "call 555"]) == [1.0, 0.0]
    assert regex_match("YES", flags=2)(["oh yes"]) == [1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: regex_match("("),
        lambda: regex_match(3),
        lambda: conciseness(memory=1.0),
        lambda: conciseness(memory=-0.1),
        lambda: numeric_answer(tolerance=-1),
        lambda: numeric_answer(tolerance=math.nan),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ConfigError):
        make()
