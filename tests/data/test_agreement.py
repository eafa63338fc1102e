"""What labels say about the front that can be had: golds and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pareto_align.data.agreement import (
    agreement,
    ceiling,
    ceiling_hypervolume,
    ceilings,
    conflict_ceiling,
    conflict_hypervolume,
    cycle_share,
    disagreement,
    length_bias,
    pooled_pairs,
)
from pareto_align.data.comparison import Comparison, Labels
from pareto_align.data.comparisons import Comparisons
from pareto_align.report.data_report import examine, report_lines


def pairs(*labels, lengths=None):
    """One row a pair, with the labels of all objectives; the responses have the lengths given."""
    rows = []
    for n, row in enumerate(labels):
        first, second = (2, 3) if lengths is None else lengths[n]
        rows.append(Comparison(f"p{n}", ("a" * first, "b" * second), Labels([[0, 1]], [row])))
    return Comparisons(rows, [f"o{j}" for j in range(len(labels[0]))])


FIRST = [1, 1, 0, 0, 1, 1, 0, 1, 1, 0]
SECOND = [1, 0, 0, 1, 1, 1, 0, 0, 1, 0]


def test_agreement_and_kappa():
    found = agreement(pooled_pairs(pairs(*zip(FIRST, SECOND, strict=True))), 0, 1)
    assert (found.pairs, found.agree, found.kappa, found.conflict) == (10, 0.7, pytest.approx(0.4), pytest.approx(0.3))


def test_kappa_does_not_depend_on_which_response_comes_first():
    """As it stands, Cohen's kappa is 0 / 0 where every first response is the preferred one, as in TRL's columns."""
    rows = [(a, b) if a else (1 - a, 1 - b) for a, b in zip(FIRST, SECOND, strict=True)]
    found = agreement(pooled_pairs(pairs(*rows)), 0, 1)
    assert (found.agree, found.kappa) == (0.7, pytest.approx(0.4))


def test_ties_and_missing_labels_are_no_conflict():
    found = agreement(pooled_pairs(pairs((1, 1), (1, 0.5), (1, math.nan), (0, 1))), 0, 1)
    assert (found.pairs, found.conflict) == (2, 0.5)


# ------------------------------------------------------------------------------------------------ the ceiling


@pytest.mark.parametrize(("conflict", "area"), [(0.2, 0.868296), (0.4, 0.575604), (0.6, 0.283022)])
def test_the_hypervolume_of_a_conflict(conflict, area):
    assert conflict_hypervolume(conflict) == pytest.approx(area, abs=1e-6)
    # by brute force over the closed form of the front
    w = np.linspace(0, 1, 2_000_001)[1:-1]
    front = np.maximum(conflict_ceiling(conflict, w), 0)
    assert np.trapezoid(front[:, 1], front[:, 0]) == pytest.approx(area, abs=2e-6)


def test_the_hypervolume_between_none_and_all():
    assert conflict_hypervolume(0.0) == 1.0
    assert conflict_hypervolume(1.0) == 0.0
    assert conflict_hypervolume(1e-4) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("weight", "point"), [(0.5, (0.6, 0.6)), (0.75, (0.834, 0.2)), (0.9, (0.939, -0.329))])
def test_the_ceiling_of_certain_labels_is_the_closed_form(weight, point):
    labels = [(1, 1)] * 3 + [(1, 0)] * 2 + [(0, 0)] * 3 + [(0, 1)] * 2
    found = ceiling(pooled_pairs(pairs(*labels)), [[weight, 1 - weight]])[0]
    np.testing.assert_allclose(found, conflict_ceiling(0.4, [weight])[0], atol=1e-12)
    np.testing.assert_allclose(found, point, atol=5e-4)
    assert ceiling_hypervolume(pooled_pairs(pairs(*labels)), 0, 1) == pytest.approx(0.575604, abs=1e-6)


def test_a_drawn_ceiling_is_what_is_no_worse_than_the_untrained_model():
    """Of a conflict c = .4 the point of the weights w and 1 - w is (1 + c log2 w, 1 + c log2(1 - w))."""
    labels = [(1, 1)] * 3 + [(1, 0)] * 2 + [(0, 0)] * 3 + [(0, 1)] * 2
    (found,) = ceilings(pooled_pairs(pairs(*labels)), (0, 1))
    assert (found >= 0).all()
    assert found[0, 0] < 0.1
    assert found[-1, 1] < 0.1
    np.testing.assert_allclose((2 ** ((found - 1) / 0.4)).sum(1), 1, atol=1e-9)


def test_a_ceiling_counts_every_comparison_once():
    """Three pairs of one prompt, on which two objectives conflict, count as much as one pair of another, on which they
    agree: a conflict of a half, and not of three quarters."""
    rows = [
        Comparison("one", ("a", "b", "c"), Labels(np.array([[0, 1], [0, 2], [1, 2]]), np.array([[1.0, 0.0]] * 3))),
        Comparison("two", ("a", "b"), Labels(np.array([[0, 1]]), np.array([[1.0, 1.0]]))),
    ]
    (found,) = ceilings(pooled_pairs(Comparisons(rows, ("x", "y"))), (0, 1))
    np.testing.assert_allclose((2 ** ((found - 1) / 0.5)).sum(1), 1, atol=1e-9)


def test_the_ceiling_of_any_labels_is_the_best_margin_of_each_pair():
    """Against a search over every pair's z."""
    labels = np.array([(0.8, 0.3), (0.9, math.nan), (1.0, 0.0), (0.5, 0.6)])
    weights = np.array([0.7, 0.3])
    found = ceiling(pooled_pairs(pairs(*map(tuple, labels))), [weights])[0]
    known = ~np.isnan(labels)
    share = known / known.sum(0)
    grid = np.linspace(1e-6, 1 - 1e-6, 200_001)
    cost = np.zeros(2)
    for row, counts in zip(labels, share, strict=True):
        s = np.nan_to_num(row)
        each = -(s[:, None] * np.log(grid) + (1 - s[:, None]) * np.log(1 - grid)) * counts[:, None]
        best = (weights[:, None] * each).sum(0).argmin()
        cost += each[:, best]
    np.testing.assert_allclose(found, 1 - cost / math.log(2), atol=1e-5)


def test_soft_labels_cannot_be_explained_altogether():
    pooled = pooled_pairs(pairs((0.8, 0.8), (0.2, 0.2)))
    entropy = -(0.8 * math.log2(0.8) + 0.2 * math.log2(0.2))
    np.testing.assert_allclose(ceiling(pooled, np.eye(2)), 1 - entropy)
    assert ceiling_hypervolume(pooled, 0, 1) == pytest.approx((1 - entropy) ** 2, abs=1e-6)


def test_the_area_by_integration_is_that_in_closed_form():
    labels = [(1, 1)] * 6 + [(1, 0)] * 4
    certain = pooled_pairs(pairs(*labels))
    nearly = pooled_pairs(pairs(*[(a, b) for a, b in labels], (0.5, 0.5)))  # a tie, so that it is integrated
    ties = conflict_hypervolume(0.4)
    assert ceiling_hypervolume(certain, 0, 1) == pytest.approx(ties)
    # explained of both shrinks by 10 / 11: the tie is met by z = 1/2
    w = np.linspace(0, 1, 1_000_001)[1:-1]
    front = np.maximum(conflict_ceiling(0.4, w) * 10 / 11, 0)
    assert ceiling_hypervolume(nearly, 0, 1) == pytest.approx(np.trapezoid(front[:, 1], front[:, 0]), abs=2e-6)


# ------------------------------------------------------------------------------------------------ lengths, circles


def test_the_longer_answer_and_its_interval():
    found = length_bias(pooled_pairs(pairs(*[[1]] * 8, *[[0]] * 2, [0.5], lengths=[(5, 2)] * 10 + [(9, 1)])))[0]
    assert (found.share, found.pairs) == (0.8, 10)
    # Wilson's interval of 8 of 10
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert (found.winner, found.loser) == (pytest.approx((8 * 5 + 2 * 2) / 10), pytest.approx((8 * 2 + 2 * 5) / 10))


def test_pairs_of_one_prompt_say_less_than_as_many_prompts():
    apart = pairs(*[[1]] * 60, *[[0]] * 40, lengths=[(5, 2)] * 100)
    rows = []
    for n, side in enumerate([1, 1, 1, 0, 0] * 4):  # twenty prompts whose five pairs agree
        texts = ["a" * 9] + ["b" * (g + 1) for g in range(5)]
        labels = Labels([[0, g + 1] for g in range(5)], [[side]] * 5)
        rows.append(Comparison(f"p{n}", texts, labels))
    together = Comparisons(rows, ["x"])
    wide, narrow = (length_bias(pooled_pairs(found))[0] for found in (together, apart))
    assert wide.share == narrow.share == 0.6
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_circles():
    circle = Comparison("p", ("a", "b", "c"), Labels([[0, 1], [1, 2], [0, 2]], [[1, 1], [1, 1], [0, 1]]))
    four = list(itertools.combinations(range(4), 2))
    order = Comparison("q", ("a", "b", "c", "d"), Labels(four, [[1, math.nan]] * 6))
    found = Comparisons([circle, order], ["x", "y"])
    assert cycle_share(pooled_pairs(found), [3, 4]) == [(1, 5), (0, 1)]


def test_judges_of_one_pair():
    rows = [
        {"prompt": "p", "chosen": w, "rejected": l, "user": u}
        for w, l, u in [("a", "b", 1), ("b", "a", 2), ("a", "b", 3)]
    ]
    found = Comparisons.from_rows(rows)
    pooled = pooled_pairs(found)
    assert pooled.values.tolist() == [[pytest.approx(2 / 3)]]
    assert disagreement(pooled) == [pytest.approx(2 / 3)]  # two of three pairs of judges
    nameless = Comparisons.from_rows([{k: v for k, v in row.items() if k != "user"} for row in rows])
    assert disagreement(pooled_pairs(nameless)) == [pytest.approx(2 / 3)]
    assert math.isnan(disagreement(pooled_pairs(pairs([1])))[0])
    alike = Comparison("p", ("a", "b"), Labels([[0, 1], [0, 1]], [[0.5], [0.5]], users=(1, 2)))
    assert math.isnan(disagreement(pooled_pairs(Comparisons([alike], ["x"])))[0])  # both say it


# ------------------------------------------------------------------------------------------------ the report


def test_the_report_says_what_there_is():
    found = examine(pairs((1, 1), (1, 0), (0.8, math.nan), (0.5, 0), lengths=[(3, 2)] * 4))
    first, second = found.objectives
    assert (first.labelled, first.ties, first.soft, first.missing) == (4, 1, 1, 0)
    assert (second.labelled, second.missing) == (3, 1)
    assert found.conflicts[0].agreement.pairs == 2
    assert found.to_dict()["conflicts"][0]["agreement"]["conflict"] == 0.5
    text = "\n".join(report_lines(found))
    assert text.startswith("4 prompts, 8 responses, 4 pairs")
    assert "o0 / o1" in text


def test_it_says_that_there_is_little_to_trade():
    found = examine(pairs(*[(1, 1)] * 99, (1, 0)))
    assert "o0 and o1 conflict on 1.0% of the pairs that both decide: there is little to trade" in found.advice[0]
    assert not examine(pairs(*[(1, 1)] * 9, (1, 0))).advice


def test_it_warns_of_length():
    found = examine(pairs(*[[1]] * 90, *[[0]] * 10, lengths=[(5, 2)] * 100))
    assert "the longer answer is preferred in 90% of the pairs" in found.advice[0]
    # with ten pairs it may be chance
    assert not examine(pairs(*[[1]] * 6, *[[0]] * 4, lengths=[(5, 2)] * 10)).advice


def test_marks_alone_make_a_report():
    rows = [{"prompt": f"p{i}", "response": "r", "category": {}, "is_safe": True} for i in range(3)]
    text = "\n".join(report_lines(examine(Comparisons.from_rows(rows))))
    assert "marked one by one: is_safe 3 responses" in text


def test_independent_values_conflict_in_half_of_the_pairs():
    rng = np.random.default_rng(0)
    names = [f"o{j}" for j in range(4)]
    rows = [
        {
            "prompt": f"p{n}", "responses": [f"{'x' * int(k)} {n} {g}" for g, k in enumerate(rng.integers(1, 50, 4))],
            **{name: rng.normal(size=4).round(1).tolist() for name in names},
        }
        for n in range(10_000)
    ]  # fmt: skip
    found = examine(Comparisons.from_rows(rows))
    assert found.pairs == 60_000
    assert len(found.conflicts) == 6
    assert all(two.agreement.conflict == pytest.approx(0.5, abs=0.02) for two in found.conflicts)
