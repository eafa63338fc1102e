"""Ensembles: each rule against its formula, members without a say, one scale, and who agrees with whom."""

from __future__ import annotations

import asyncio
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pareto_align.errors import ConfigError, ObjectiveError
from pareto_align.objectives import Objective, ObjectiveSet, brevity, ensemble, shared, token_count, word_count


def member(column, name=None):
    """A reward that returns a dataset column."""

    def reward(completions, **columns):
        reward.calls += 1
        return columns[column]

    reward.calls = 0
    reward.__name__ = name or column
    return reward


def judged(rule, rows, **settings):
    """What an ensemble makes of members' rewards `[B][k]`."""
    count = len(rows[0])
    reward = ensemble([member(f"m{i}") for i in range(count)], rule, **settings)
    columns = {f"m{i}": [row[i] for row in rows] for i in range(count)}
    return reward(prompts=["p"] * len(rows), completions=["c"] * len(rows), **columns)


ROWS = [[1.0, 2.0, 6.0], [0.5, 0.5, 0.5], [-1.0, 0.0, 1.0]]


def test_the_rules_are_those_of_the_paper():
    assert judged("mean", ROWS) == [3.0, 0.5, 0.0]
    assert judged("wco", ROWS) == [1.0, 0.5, -1.0]
    # unbiased variances: ((1-3)^2 + (2-3)^2 + (6-3)^2) / 2 = 7, then 0, then 1
    assert judged("uwo", ROWS, coefficient=0.5) == [-0.5, 0.5, -0.5]
    assert judged("std", ROWS) == pytest.approx([np.sqrt(7), 0.0, 1.0])


def test_the_default_coefficient_is_the_papers_for_training():
    assert judged("uwo", ROWS) == pytest.approx([3 - 0.1 * 7, 0.5, -0.1])


@given(
    st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=1, max_size=5), st.permutations([0, 1, 2])
)
def test_members_have_no_order_and_a_pessimist_is_never_above_the_mean(rows, order):
    mixed = [[row[i] for i in order] for row in rows]
    for rule in ("mean", "wco", "uwo", "std"):
        np.testing.assert_allclose(judged(rule, rows), judged(rule, mixed), atol=1e-9)
    mean = np.array(judged("mean", rows))
    np.testing.assert_allclose(mean, [statistics.fmean(row) for row in rows], atol=1e-9)
    assert (np.array(judged("wco", rows)) <= mean + 1e-9).all()
    np.testing.assert_allclose(
        judged("uwo", rows, coefficient=2), mean - 2 * np.array([statistics.variance(row) for row in rows]), atol=1e-6
    )


def test_members_without_a_say_do_not_count():
    rows = [[1.0, None, 3.0], [None, 2.0, None], [None, None, None]]
    assert judged("mean", rows) == [2.0, 2.0, None]
    assert judged("wco", rows) == [1.0, 2.0, None]
    assert judged("uwo", rows, coefficient=1) == [0.0, None, None]  # of 1 and 3: mean 2, variance 2
    assert judged("std", rows) == [pytest.approx(np.sqrt(2)), None, None]


def test_standardized_members_weigh_alike_whatever_their_units():
    rows = [[0.0, 1000.0], [2.0, 3000.0], [4.0, 2000.0]]
    first, second = member("a"), member("b")
    batch = {"prompts": ["p"] * 3, "completions": ["x", "y", "z"]}
    columns = {"a": [row[0] for row in rows], "b": [row[1] for row in rows]}
    plain = ensemble([first, second], "wco")
    assert plain(**batch, **columns) == [0.0, 2.0, 4.0], "the small units always win"
    frozen = plain.standardized(**batch, **columns)
    # a: mean 2, population std sqrt(8/3); b: mean 2000, std 1000 sqrt(2/3)
    np.testing.assert_allclose(frozen.standardization, [(2.0, np.sqrt(8 / 3)), (2000.0, 1000 * np.sqrt(2 / 3))])
    z = np.sqrt(1.5)
    assert frozen(**batch, **columns) == pytest.approx([-z, 0.0, 0.0])
    other = {"a": [2.0, 2.0, 2.0], "b": [2000.0] * 3}
    assert frozen(**batch, **other) == [0.0] * 3, "measured once, then frozen"
    assert judged("mean", rows, standardization=frozen.standardization) == pytest.approx([-z, z / 2, z / 2])


def test_a_member_without_a_spread_has_no_scale():
    reward = ensemble([member("a"), member("b", "flat")])
    with pytest.raises(ObjectiveError, match="the member flat does not vary over these 2 completions"):
        reward.standardized(["p", "p"], ["x", "y"], a=[1, 2], b=[3, 3])


def test_an_ensemble_and_its_disagreement_ask_each_member_once():
    members = [member("a"), member("b")]
    reward = ensemble(members, "uwo", coefficient=1.0)
    objectives = ObjectiveSet(
        [
            Objective("quality", reward),
            Objective("worst", ensemble(members, "wco")),
            Objective("disagreement", reward.disagreement(), role="audit"),
        ]
    )
    found = objectives.score(["p", "p"], ["x", "y"], {"a": [1.0, 5.0], "b": [3.0, 5.0]})
    np.testing.assert_allclose(found, [[0.0, 1.0, np.sqrt(2)], [5.0, 5.0, 0.0]])
    assert [m.calls for m in members] == [1, 1]


def test_disagreement_is_in_the_standardized_units():
    reward = ensemble([member("a"), member("b")], standardization=[(0, 1), (10, 10)])
    found = reward.disagreement()(prompts=["p"], completions=["x"], a=[1.0], b=[20.0])
    assert found == [0.0]


def test_agreement_finds_the_member_that_ranks_the_other_way():
    reward = ensemble([member("a"), member("b"), member("c", "odd")])
    columns = {"a": [1.0, 2.0, 3.0, 4.0], "b": [10.0, 40.0, 90.0, 160.0], "c": [4.0, 3.0, 2.0, 1.0]}
    found = reward.agreement(["p"] * 4, list("wxyz"), **columns)
    assert list(found) == ["0 a", "1 b", "2 odd"]
    assert found["2 odd"] == pytest.approx(-1.0)
    twins = ensemble([member("a"), member("b")]).agreement(["p"] * 4, list("wxyz"), **columns)
    assert twins == pytest.approx({"0 a": 1.0, "1 b": 1.0}), "the same order, in other units"


def test_agreement_of_a_member_that_never_varies_is_unknown():
    columns = {"a": [1.0, 2.0, 3.0], "b": [1.0, 1.0, 1.0]}
    found = ensemble([member("a"), member("b")]).agreement(["p"] * 3, list("xyz"), **columns)
    assert np.isnan(list(found.values())).all()
    with pytest.raises(ObjectiveError, match=r"at least 3 completions.*Found 2"):
        ensemble([member("a"), member("b")]).agreement(["p"] * 3, list("xyz"), a=[1, None, 2], b=[1, 2, 3])


def test_sync_and_async_members_make_one_ensemble():
    async def asked(completions, **columns):
        await asyncio.sleep(0)
        return [4.0] * len(completions)

    reward = ensemble([asked, member("a")])
    assert reward(prompts=["p"], completions=["x"], a=[2.0]) == [3.0]
    both = ensemble([asked, shared(asked)], "wco")
    assert asyncio.run(both(prompts=["p"], completions=["x"])) == [4.0]


def test_an_ensemble_is_named_for_its_rule_and_members():
    assert ensemble([brevity(), word_count()], "wco").__name__ == "wco(brevity, word_count)"
    assert ensemble([brevity(), word_count()], name="quality").__name__ == "quality"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": [brevity()]}, "at least two"),
        ({"members": brevity()}, "at least two"),
        ({"rule": "median"}, "one of mean, wco, uwo, std"),
        ({"coefficient": -0.1}, "at least 0"),
        ({"coefficient": float("nan")}, "finite number"),
        ({"standardization": [(0, 1)]}, "2 pairs"),
        ({"standardization": [(0, 1), (0, 0)]}, "above 0"),
        ({"standardization": [0, 1]}, "2 pairs"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ensemble(**{"members": [brevity(), word_count()], **settings})


def test_members_must_be_rewards():
    with pytest.raises(ObjectiveError, match=r"create one: token_count\(\)"):
        ensemble([brevity(), token_count])
    with pytest.raises(ObjectiveError, match=r"the objective's \.reward"):
        ensemble([brevity(), Objective("length", word_count())])
