"""Reference log-probabilities are kept with what they are of."""

from __future__ import annotations

import warnings

import pytest
import torch

from pareto_align.data.comparison import Comparison, Labels
from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.data.prompts import PromptRow
from pareto_align.errors import ParetoAlignWarning
from pareto_align.learning.references import REFERENCES_FILE, fingerprint, read_references, write_references


def rows(*tokens):
    comparison = Comparison("p", ("a", "b"), Labels([[0, 1]], [[1.0]]))
    return [ComparisonRow(PromptRow("p", (1, 2), {}), found, comparison) for found in tokens]


SETTING = {"model": "some/model", "dtype": torch.float32, "layout": "packed"}
ROWS = rows(((3,), (4, 5)), ((6,), (7,), (8,)))


def test_they_come_back_bit_for_bit(tmp_path):
    key = fingerprint(ROWS, **SETTING)
    logps = [torch.tensor([-1.25, -3.1]), torch.tensor([-0.1, -0.2, -0.3])]
    write_references(tmp_path, logps, key)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_references(tmp_path, key)
    assert [row.tolist() for row in found] == [row.tolist() for row in logps]


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        (ROWS, {**SETTING, "model": "another/model"}),
        (ROWS, {**SETTING, "dtype": torch.bfloat16}),
        (ROWS, {**SETTING, "layout": "dense"}),
        (ROWS[::-1], SETTING),
        (rows(((3,), (4, 6)), ((6,), (7,), (8,))), SETTING),
        (rows(((3, 4), (5,)), ((6,), (7,), (8,))), SETTING),
    ],
)
def test_what_is_of_something_else_is_not_taken(tmp_path, given, setting):
    write_references(tmp_path, [torch.zeros(2), torch.zeros(3)], fingerprint(ROWS, **SETTING))
    with pytest.warns(ParetoAlignWarning, match=r"of another model, dtype, layout or other comparisons.*computed anew"):
        assert read_references(tmp_path, fingerprint(given, **setting)) is None


def test_no_file_is_no_news_and_a_damaged_one_is(tmp_path):
    key = fingerprint(ROWS, **SETTING)
    assert read_references(tmp_path, key) is None
    write_references(tmp_path, [torch.zeros(2), torch.full((3,), torch.nan)], key)
    with pytest.warns(ParetoAlignWarning, match="is damaged"):
        assert read_references(tmp_path, key) is None
    (tmp_path / REFERENCES_FILE).write_bytes(b"no tensors")
    with pytest.warns(ParetoAlignWarning, match="cannot be read"):
        assert read_references(tmp_path, key) is None
