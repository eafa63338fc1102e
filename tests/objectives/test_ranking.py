"""Ranked objectives: who wins by which level, against the same prompt's completions and against reference answers."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pareto_align.errors import ConfigError, ObjectiveError, ParetoAlignWarning
from pareto_align.objectives import (
    Objective,
    ObjectiveSet,
    brevity,
    conciseness,
    conditioned,
    lexicographic,
    shared,
    token_count,
    word_count,
)
from pareto_align.objectives.ranking import share_won

NAN = np.nan


def level(position):
    """A reward that reads number `position` of a completion such as '1 0.5'; '-' is None."""

    def reward(completions, **columns):
        parts = [text.split()[position] for text in completions]
        return [None if part == "-" else float(part) for part in parts]

    reward.__name__ = f"level{position}"
    return reward


def rank(completions, *, prompts=None, levels=2, columns=None, **settings):
    reward = lexicographic([level(i) for i in range(levels)], **settings)
    return reward(prompts=prompts or ["p"] * len(completions), completions=completions, **(columns or {}))


def plain_share_won(scores, margins):
    """The definition, pair by pair."""
    shares = []
    for i, own in enumerate(scores):
        points = []
        for j, other in enumerate(scores):
            if i == j or np.isnan(own).all() or np.isnan(other).all():
                continue
            point = 0.5
            for a, b, margin in zip(own, other, margins, strict=True):
                if abs(a - b) > margin:
                    point = float(a > b)
                    break
            points.append(point)
        shares.append(sum(points) / len(points) if points else NAN)
    return shares


def test_a_lower_level_decides_only_where_the_higher_one_ties():
    # right beats wrong whatever the length; among the right ones the shorter (second level) wins
    assert rank(["1 0.2", "1 0.9", "0 1.0"]) == [0.5, 1.0, 0.0]


def test_a_margin_must_be_exceeded():
    assert rank(["1.0 0", "0.5 1"], margins=[0.5, 0]) == [0.0, 1.0]
    assert rank(["1.0 0", "0.4 1"], margins=[0.5, 0]) == [1.0, 0.0]
    assert rank(["1.0 0", "0.4 1"], margins=1) == [0.5, 0.5]


def test_a_cycle_of_wins_gives_everyone_half():
    # the first beats the third on level 0; the third beats the second and the second the first on level 1
    assert rank(["2 0", "1 1", "0 2"], margins=[1.5, 0]) == [0.5, 0.5, 0.5]


def test_prompts_are_groups_of_their_own_wherever_they_stand():
    prompts = ["p", "q", "p", "q", "r"]
    assert rank(["1 0", "5 0", "2 0", "4 0", "9 9"], prompts=prompts) == [0.0, 1.0, 1.0, 0.0, None]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    assert rank(["1 0", "5 0", "2 0", "4 0", "9 9"], prompts=chats) == [0.0, 1.0, 1.0, 0.0, None]


def test_a_missing_level_decides_nothing_and_a_completion_without_any_is_left_out():
    assert rank(["- 1", "5 0", "- -"]) == [1.0, 0.0, None]
    assert rank(["- 1", "- -"]) == [None, None]


def test_less_is_better_on_a_level_that_says_so():
    assert rank(["1 30", "1 20", "0 1"], maximize=[True, False]) == [0.5, 1.0, 0.0]
    assert rank(["1 30", "2 20"], maximize=False) == [1.0, 0.0]


def test_margins_in_standard_deviations_do_not_change_with_the_units():
    # standard deviation of 0, 1, 2, 3 is 1.118: neighbours tie within one of it, and level 1 has the last word
    plain = ["0 9", "1 8", "2 7", "3 6"]
    scaled = [f"{100 * float(text.split()[0])} {text.split()[1]}" for text in plain]
    expected = plain_share_won(np.array([[0, 9], [1, 8], [2, 7], [3, 6.0]]), [np.sqrt(1.25)] * 2)
    assert rank(plain, margins=1, unit="std") == rank(scaled, margins=1, unit="std") == pytest.approx(expected)
    assert expected != plain_share_won(np.array([[0, 9], [1, 8], [2, 7], [3, 6.0]]), [0, 0])


SCORES = st.lists(st.lists(st.sampled_from([NAN, 0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=2), min_size=1, max_size=6)


@given(SCORES, st.lists(st.sampled_from([0.0, 0.25, 0.6]), min_size=2, max_size=2))
def test_the_shares_are_those_of_the_definition(scores, margins):
    scores = np.array(scores)
    found = share_won(scores, scores, np.array(margins), themselves=True)
    np.testing.assert_allclose(found, plain_share_won(scores, margins))
    judged = found[~np.isnan(found)]
    assert not len(judged) or judged.mean() == pytest.approx(0.5), "one's win is another's loss"


@given(st.permutations(range(5)))
def test_the_order_of_the_batch_does_not_matter(order):
    completions, prompts = ["1 0", "1 2", "0 5", "3 1", "2 2"], ["p", "p", "p", "q", "q"]
    whole = rank(completions, prompts=prompts)
    assert rank([completions[i] for i in order], prompts=[prompts[i] for i in order]) == [whole[i] for i in order]


# ---- reference answers -----------------------------------------------------------------------------------------------


def test_reference_answers_are_opponents_that_do_not_change():
    columns = {"gold": [["1 5", "0 5"], ["1 5", "0 5"], "2 2", None]}
    found = rank(["1 6", "0 5", "2 2", "9 9"], prompts=["p", "p", "q", "r"], columns=columns, reference="gold")
    assert found == [1.0, 0.25, 0.5, None]  # 0.25: loses to the first, ties with the second
    alone = rank(["0 5"], columns={"gold": [["1 5", "0 5"]]}, reference="gold")
    assert alone == [0.25]


def test_members_judge_reference_answers_with_their_own_row_and_form():
    seen = []

    def spy(prompts, completions, **columns):
        seen.append((prompts, completions, columns["level"]))
        return [1.0] * len(completions)

    chat = [{"role": "assistant", "content": "said"}]
    reward = lexicographic([spy], reference="gold")
    gold, shared_row = ["ours", ["theirs", "others"]], ["p", "q"]
    reward(
        prompts=[shared_row[0], shared_row[1], shared_row[1]],
        completions=["text", chat, chat],
        gold=[gold[0], gold[1], gold[1]],
        level=[1, 2, 2],
    )
    theirs = [[{"role": "assistant", "content": text}] for text in gold[1]]
    assert seen[1] == (["p", "q", "q"], ["ours", *theirs], [1, 2, 2]), "the row that occurs twice is judged once"


def test_a_batch_without_any_reference_answer_is_none_throughout():
    assert rank(["1 1"], columns={"gold": [None]}, reference="gold") == [None]


def test_errors_of_reference_answers_say_what_is_missing():
    with pytest.raises(ObjectiveError, match="reads the column 'gold'"):
        rank(["1 1"], reference="gold")
    reward = lexicographic([token_count()], reference="gold")
    with pytest.raises(ObjectiveError, match="needs completion_ids"):
        reward(prompts=["p"], completions=["a"], completion_ids=[[1]], gold=["b"])
    for member in (conciseness(), shared(conciseness()), conditioned(brevity(), where=conciseness(), at_least=1)):
        with pytest.raises(ConfigError, match="would learn from the reference answers"):
            lexicographic([member], reference="gold")


def test_measuring_a_comparison_within_the_group_is_warned_about_once():
    def objectives(**settings):
        return ObjectiveSet([Objective("ranked", lexicographic([word_count()], **settings), bounds=(0, 1))])

    batch = (["p", "p"], ["a", "b c"], {"gold": ["x y", "x y"]})
    ranked = objectives()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranked.score(*batch)
        objectives(reference="gold").score(*batch, training=False)
    with pytest.warns(ParetoAlignWarning, match=r"word_count compares.*reference=") as caught:
        ranked.score(*batch, training=False)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranked.score(*batch, training=False)


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rewards": []}, "needs a list of reward functions"),
        ({"rewards": brevity()}, "needs a list of reward functions"),
        ({"margins": [1]}, "margins must be one value or 2"),
        ({"margins": -1}, "at least 0. Found -1"),
        ({"margins": [0, float("nan")]}, "margin must be a finite number"),
        ({"maximize": [True]}, "maximize must be one value or 2"),
        ({"unit": "sigma"}, "one of reward, std"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        lexicographic(**{"rewards": [brevity(), word_count()], **settings})


def test_a_level_must_be_a_reward():
    with pytest.raises(ObjectiveError, match=r"create one: brevity\(\)"):
        lexicographic([word_count(), brevity])


def test_levels_in_sequence_name_it():
    assert lexicographic([brevity(), word_count()]).__name__ == "brevity > word_count"
    assert lexicographic([brevity()], name="ranked").__name__ == "ranked"


def test_every_order_of_importance_gives_another_reward():
    texts = ["1 2 3", "2 3 1", "3 1 2"]
    found = set()
    for order in itertools.permutations(range(3)):
        reward = lexicographic([level(i) for i in order])
        found.add(tuple(reward(prompts=["p"] * 3, completions=texts)))
    assert found == {(0.0, 0.5, 1.0), (0.5, 1.0, 0.0), (1.0, 0.0, 0.5)}, "the first level never ties here"
