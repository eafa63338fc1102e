from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from front_records import estimate, objective, record, tone_and_length

from pareto_align.errors import ConfigError, PreferenceError
from pareto_align.front import Estimate
from pareto_align.front.preferences import Preference
from pareto_align.front.selection import Limit, keeping
from pareto_align.report.request import answer, limits_of, rows_within, serves_better
from pareto_align.report.units import axes_of, measured

AXES = axes_of(tone_and_length())
MEMBERS = measured(tone_and_length())


@pytest.mark.parametrize(
    ("at_least", "at_most", "rows"),
    [
        ({}, {}, [0, 1, 2]),
        ({"tone": 0.6}, {}, [0, 1]),
        ({}, {"length": 30.0}, [1, 2]),
        ({"tone": 0.5}, {"length": 40}, [1]),
        ({}, {"toxicity": 0.02}, [0, 2]),
    ],
)
def test_rows_within_limits(at_least, at_most, rows):
    assert rows_within(MEMBERS, limits_of(AXES, at_least, at_most)) == rows


def test_nobody_within_limits_names_the_nearest():
    # a misses by a fifth of the span on both, b by three fifths on tone
    with pytest.raises(PreferenceError) as caught:
        rows_within(MEMBERS, limits_of(AXES, {"tone": 0.9}, {"length": 50}))
    assert str(caught.value) == (
        "No member keeps tone at least 0.9 and length at most 50. The nearest is a with tone 0.8, length 60."
    )


def test_the_nearest_is_named_though_a_member_was_not_measured_on_it():
    """The spans are of those that were."""
    values = np.array([[0.1, 0.0], [0.6, 0.0], [np.nan, 0.0]])
    assert keeping(values, [Limit(0, 0.7)])[1] == 1
    assert keeping(values[[2, 0]], [Limit(0, 0.7)])[1] == 1


def alike(samples):
    """A front of two objectives over the samples [n, N, 2] of members on the same prompts."""
    return record(
        [objective("a"), objective("b")], [Estimate.from_samples(one, tuple(range(len(one)))) for one in samples]
    )


def test_one_missing_reward_does_not_unpair_the_others():
    """Members that share what is hard about prompts: the better one is surely so, whatever is missing of a third."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 0.2, size=(64, 2))
    means = np.array([[0.60, 0.5], [0.58, 0.5], [0.3, 0.6]])
    samples = means[:, None] + hard + rng.normal(0, 0.01, size=(3, 64, 2))
    sure = answer(alike(samples), Preference([0.9, 0.1]), rule="linear").probability_best
    assert sure > 0.95
    holed = samples.copy()
    holed[2, 5, 1] = np.nan
    told = answer(alike(holed), Preference([0.9, 0.1]), rule="linear")
    assert told.row == 0
    assert told.probability_best == pytest.approx(sure, abs=0.03)
    further = np.concatenate([samples, np.full((3, 40, 2), np.nan)], axis=1)  # questions of a benchmark
    assert answer(alike(further), Preference([0.9, 0.1]), rule="linear").probability_best == pytest.approx(
        sure, abs=0.03
    )


def test_each_answer_by_the_knee_passes_over_a_member_without_a_mean():
    rng = np.random.default_rng(0)
    samples = np.array([[0.9, 0.1], [0.7, 0.7], [0.1, 0.9], [0.5, np.nan]])[:, None] + rng.normal(0, 0.01, (4, 32, 2))
    found = answer(alike(samples), Preference([0.5, 0.5]), rule="knee", criterion="esr")
    assert found.row == 1


def test_the_wrong_side_is_named():
    with pytest.raises(PreferenceError, match=r"'length' is minimized, so less is better: limit it with `at_most`"):
        limits_of(AXES, {"length": 10}, {})
    with pytest.raises(PreferenceError, match=r"'tone' is maximized, so more is better: limit it with `at_least`"):
        limits_of(AXES, {}, {"tone": 0.5})


def test_unknown_names_and_numbers():
    with pytest.raises(PreferenceError, match=r"Unknown objective 'tonne' in `at_least`\. Did you mean 'tone'"):
        limits_of(AXES, {"tonne": 1}, {})
    with pytest.raises(PreferenceError, match="must be a finite number"):
        limits_of(AXES, {"tone": float("nan")}, {})
    for value in ("much", True, None):
        with pytest.raises(PreferenceError, match="must be a finite number"):
            limits_of(AXES, {"tone": value}, {})
    assert limits_of(AXES, {"tone": np.float32(0.5)}, {})[0].bound == 0.5


def test_sure_only_beyond_the_noise():
    (limit,) = limits_of(AXES, {}, {"length": 30})
    for n, reach in ((1000, 1.962), (3, 4.303), (2, 12.706)):  # Student's
        assert not limit.surely(table_of(estimate([0.6, -30 + 1.99 * reach, 0.0], [0.0, 2.0, 0.0], n)), 0)
        assert limit.surely(table_of(estimate([0.6, -30 + 2.01 * reach, 0.0], [0.0, 2.0, 0.0], n)), 0)
    assert not limit.surely(table_of(estimate([0.6, -1.0, 0.0], 0.0, n=1)), 0)


def table_of(*estimates):
    """What `measured` makes of members of the same objectives."""
    record = tone_and_length()
    record.members = [replace(record.members[0], id=f"m{k}", estimate=e) for k, e in enumerate(estimates)]
    return measured(record)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_surely_is_said_at_the_limit_in_one_of_forty_cases(n):
    (limit,) = limits_of(AXES, {"tone": 0.0}, {})
    drawn = np.random.default_rng(n).normal(size=(2000, n, 3))
    table = table_of(*(Estimate.from_samples(rows) for rows in drawn))
    assert np.mean([limit.surely(table, row) for row in range(2000)]) == pytest.approx(0.025, abs=0.012)


def test_a_mean_at_the_limit_up_to_rounding_is_at_the_limit():
    record = tone_and_length()
    record.members[0].estimate = estimate([np.mean([0.7] * 10) - 1e-16, -60.0, 0.0])
    assert record.members[0].estimate.mean[0] < 0.7
    assert rows_within(measured(record), limits_of(AXES, {"tone": 0.7}, {})) == [0]


def test_one_measurement_is_not_known_to_be_the_best():
    record = tone_and_length()
    for member in record.members:
        member.estimate = Estimate.from_samples(member.estimate.mean[None], [0])
    found = answer(record, [1, 1], at_least={"tone": 0.5})
    assert np.isnan([found.regret, found.probability_best]).all()
    assert not found.feasible
    assert "is not known: one measurement" in found.reason
    alone = answer(record, [1, 1], at_least={"tone": 0.7})
    assert (alone.regret, alone.probability_best, alone.runner_up) == (0.0, 1.0, None)


@pytest.mark.parametrize("declared", [True, False])
def test_a_few_equal_rewards_are_not_known_to_be_the_best(declared):
    """Four prompts on which each member always earned the same."""
    record = tone_and_length()
    record.objectives[0].bounds = (0.0, 1.0) if declared else None
    for member, tone in zip(record.members, (0.8, 0.6, 0.3), strict=True):
        rows = np.tile([tone, -30.0, -0.02], (4, 1))
        member.estimate = Estimate.from_samples(rows, range(4))
    found = answer(record, {"tone": 1}, at_least={"tone": 0.5})
    if declared:
        assert 0.5 < found.probability_best < 0.95
        assert found.regret > 0.01
    else:
        assert np.isnan([found.regret, found.probability_best]).all()
        assert "a few all equal" in found.reason
    assert not found.feasible


def test_a_noise_that_is_known_to_be_none_is_no_chance_of_a_few_prompts():
    record = tone_and_length()
    for member in record.members:
        member.estimate = estimate(member.estimate.mean, 0.0, n=4)
    assert answer(record, {"tone": 1}).probability_best > 0.999


def test_the_knee_decides_nothing_on_an_axis_that_is_equal_up_to_rounding():
    rng = np.random.default_rng(0)
    differ = 0
    for _ in range(40):
        rewards = rng.choice([0.1, 0.2, 0.3, 0.7], size=20)
        rows = [
            np.stack([a + 0.01 * rng.normal(size=20), -rng.permutation(rewards), np.zeros(20)], 1)
            for a in (0.4, 0.6, 0.8)
        ]
        record = tone_and_length()
        for member, samples in zip(record.members, rows, strict=True):
            member.estimate = Estimate.from_samples(samples, range(20))
        differ += len({member.estimate.mean[1] for member in record.members}) > 1
        found = answer(record, [1, 1], rule="knee")
        assert found.row == 2
        assert found.regret < 1e-6
    assert differ > 5


def test_a_missing_measurement_keeps_no_limit():
    values = MEMBERS.values.copy()
    values[0, 0] = np.nan
    rows = rows_within(replace(MEMBERS, values=values), limits_of(AXES, {"tone": 0.1}, {}))
    assert rows == [1, 2]


# ---- utilities of the means, and of each answer ----------------------------------------------------------------------


def alternating():
    """Member a answers (1, 0) and (0, 1) in turns, member b always (.45, .45)."""
    from front_records import objective, record

    turns = np.array([[1.0, 0.0], [0.0, 1.0]] * 32)
    estimates = [Estimate.from_samples(rows, range(64)) for rows in (turns, np.full_like(turns, 0.45))]
    return record([objective("tone"), objective("short")], estimates, ids=["a", "b"])


def test_a_utility_of_the_means_and_one_of_each_answer_choose_differently():
    on_average = answer(alternating(), None, rule=min)
    each = answer(alternating(), None, rule=min, criterion="esr")
    assert (on_average.row, each.row) == (0, 1)  # min is .5 against .45, and 0 against .45
    assert each.rule == "min"
    assert each.reason.startswith("b is best for the utility min, in the mean over the prompts")
    assert (each.regret, each.probability_best) == (0, 1)  # the same prompts: there is no noise in the difference
    assert answer(alternating(), [1, 1], rule="linear", criterion="esr").row == 0
    assert answer(alternating(), [1, 1], rule="chebyshev", criterion="esr").row == 1


def test_an_order_is_said_in_words():
    found = answer(tone_and_length(), {"length": 2, "tone": 1}, rule="lexicographic")
    assert found.row == 2
    assert found.reason.startswith("c is best for length before tone, before b")


def test_what_goes_with_no_criterion():
    with pytest.raises(PreferenceError, match="leave the preference out"):
        answer(alternating(), [1, 1], rule=min)
    with pytest.raises(ConfigError, match=r"`criterion` must be one of ser, esr\. Found 'each'"):
        answer(alternating(), None, criterion="each")
    with pytest.raises(ConfigError, match=r"Unknown selection rule 'chebychev'\. Did you mean 'chebyshev'"):
        answer(alternating(), [1, 1], rule="chebychev", criterion="esr")
    with pytest.raises(ConfigError, match="criterion='ser' only"):
        answer(alternating(), None, rule="lexicographic", criterion="esr")
    with pytest.raises(PreferenceError, match="a has no rewards of single prompts"):
        answer(tone_and_length(), None, criterion="esr")


# ---- the untrained model, and what is expected between ---------------------------------------------------------------


def test_where_the_untrained_model_is_better_it_is_said():
    found = tone_and_length()  # the best tone is .8, the fewest words are 10
    words = "The untrained model serves it better than any of them"
    worse = replace(found, reference_policy=estimate([0.1, -90.0, 0.0]))
    brief = replace(found, reference_policy=estimate([0.1, -2.0, 0.0]))
    for rule in ("linear", "chebyshev"):
        assert words not in answer(worse, {"length": 1}, rule=rule).reason
        assert words not in answer(brief, {"tone": 1}, rule=rule).reason
    assert words in answer(brief, {"length": 1}, rule="linear").reason
    assert words not in answer(brief, {"length": 1}, rule="knee").reason, "a rule that goes by the members' range"
    told = answer(brief, {"length": 1}, rule="linear", at_least={"tone": 0.25}).reason
    assert words not in told, "it does not keep the limit itself"
    told = answer(brief, {"length": 1}, rule="linear", at_least={"tone": 0.05}).reason
    assert words in told
    held = replace(brief, objectives=[*brief.objectives])
    held.objectives[0] = replace(held.objectives[0], at_least=0.25)
    assert words not in answer(held, {"length": 1}, rule="linear").reason, "nor that of the run"


def test_who_serves_a_preference_better_is_read_as_the_run_did():
    found = tone_and_length()
    asked = Preference.of({"tone": 1, "length": 1}, ["tone", "length"])
    row = answer(found, asked).row
    own = np.asarray(found.members[row].estimate.mean, dtype=float)
    assert not serves_better(found, row, own, asked), "as good is not better"
    assert serves_better(found, row, own - [0.1, 5.0, 0.0], asked)
    assert not serves_better(found, row, own + [0.1, 5.0, -9.0], asked), "what is audited does not count"
