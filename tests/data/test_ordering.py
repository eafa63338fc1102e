"""The order in which comparisons are learned from, and their splits."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from pareto_align.data.comparison import Comparison, Labels
from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.data.comparisons import Comparisons
from pareto_align.data.ordering import ComparisonOrder, curriculum, warn_of_sparse
from pareto_align.data.prompts import PromptRow
from pareto_align.errors import ComparisonError, ConfigError, ParetoAlignWarning


def labelled(n, share, m=2):
    """The first objective is labelled in every row, the others in a share of them."""
    found = np.ones((n, m), dtype=bool)
    found[:, 1:] = (np.arange(n) < share * n)[:, None]
    return found


def test_a_pass_holds_everything_once_and_the_seed_decides():
    order = ComparisonOrder(labelled(40, 0.3), seed=3)
    assert sorted(order.one_pass(0).tolist()) == list(range(40))
    assert order.one_pass(0).tolist() != order.one_pass(1).tolist()
    assert order.one_pass(5).tolist() == ComparisonOrder(labelled(40, 0.3), seed=3).one_pass(5).tolist()
    assert order.one_pass(0).tolist() != ComparisonOrder(labelled(40, 0.3), seed=4).one_pass(0).tolist()


def test_batches_are_passes_cut_in_pieces():
    order = ComparisonOrder(labelled(10, 0.5), seed=0)
    drawn = np.concatenate([order.batch(step, 4) for step in range(5)])
    assert drawn[:10].tolist() == order.one_pass(0).tolist()
    assert drawn[10:].tolist() == order.one_pass(1).tolist()


def test_every_batch_holds_a_rare_objective():
    """One in ten: a batch of ten drawn at random has none of it in 35 % of the cases."""
    found = labelled(200, 0.1)
    order = ComparisonOrder(found, seed=1)
    counts = [int(found[order.batch(step, 20), 1].sum()) for step in range(10)]
    assert set(counts) <= {1, 2, 3}
    assert sum(counts) == 20


def test_it_wants_rows():
    with pytest.raises(ConfigError, match=r"shape \[n, m\]"):
        ComparisonOrder(np.ones(3), seed=0)


def test_easy_pairs_come_first():
    ratings = {"x": [[4, 3, 2, 1]], "y": [[4, 3, 2, 1]]}
    found = curriculum(Comparisons.from_ratings(["p"], [list("abcd")], ratings), 3)
    pairs = [list(map(tuple, stage[0].labels.pairs.tolist())) for stage in found]
    # gaps of 3 and 2, then 2 and 1, then 1 and 1
    assert pairs == [[(0, 2), (0, 3)], [(0, 1), (1, 3)], [(1, 2), (2, 3)]]
    assert [stage.names for stage in found] == [("x", "y")] * 3


def test_gaps_may_be_given_and_unknown_ones_are_hard():
    rows = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(4)]
    found = curriculum(Comparisons.from_rows(rows), 2, gaps=[0.1, math.nan, 5, 2])
    assert [[row.prompt for row in stage] for stage in found] == [["p2", "p3"], ["p0", "p1"]]
    with pytest.raises(ComparisonError, match="needs margins"):
        curriculum(Comparisons.from_rows(rows), 2)
    with pytest.raises(ComparisonError, match=r"1 to 4 stages. Found 5"):
        curriculum(Comparisons.from_rows(rows), 5)
    with pytest.raises(ComparisonError, match=r"shape \[4\]"):
        curriculum(Comparisons.from_rows(rows), 2, gaps=[1])


def rows(count, start=0):
    comparison = Comparison("p", ("a", "b"), Labels([[0, 1]], [[1.0]]))
    return [ComparisonRow(PromptRow(f"p{n}", (n,), {}), ((1,), (2,)), comparison) for n in range(start, start + count)]


def test_sparse_labels_are_warned_of():
    data = [
        {"prompt": f"p{n}", "response_0": "a", "response_1": "b", "x": 0, "y": 1 if n < 5 else None} for n in range(100)
    ]
    found = Comparisons.from_rows(data)
    with pytest.warns(
        ParetoAlignWarning, match="5.0% of the comparisons have a label of 'y': 44% of the batches of 16"
    ):
        warn_of_sparse(found, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_sparse(found, 64)
