"""Seeds as a tree, prompts as rows, and three splits that never meet."""

from __future__ import annotations

import pytest
from tiny_models import tiny_base

from pareto_align.data.prompts import read_prompts, split_prompts
from pareto_align.errors import PromptError
from pareto_align.seeds import seed_for
from pareto_align.testing.tiny import symbol_text


def test_seeds_are_a_fixed_tree():
    names = [("rollout", 0, 0), ("rollout", 0, 1), ("rollout", 1, 0), ("rollout", 10), ("rollout", 1), ("select",)]
    seeds = [seed_for(root, *name) for root in (0, 1) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # of record: another value here means that no earlier run can be repeated
    assert seed_for(0, "rollout", 3, 1) == RECORDED


RECORDED = 4469640723056124473


def texts(count):
    return [symbol_text(i % 12) * (1 + i // 12) for i in range(count)]


def rows(count):
    return read_prompts(texts(count), tiny_base(), 4)


def split_texts(splits):
    return [[row.prompt for row in part] for part in (splits.train, splits.select, splits.report)]


@pytest.mark.parametrize(("count", "wanted", "held"), [(40, 64, 10), (40, 5, 5), (4, 64, 1), (7, 64, 1), (9, 1, 1)])
def test_splits_cover_the_prompts_and_never_meet(count, wanted, held):
    train, select, report = split_texts(split_prompts(rows(count), None, wanted, 0))
    assert len(select) == len(report) == held
    assert sorted(train + select + report) == sorted(texts(count))


def test_splits_depend_on_the_seed_only():
    given = rows(40)
    assert split_texts(split_prompts(given, None, 8, 3)) == split_texts(split_prompts(given, None, 8, 3))
    assert split_texts(split_prompts(given, None, 8, 3)) != split_texts(split_prompts(given, None, 8, 4))


def test_a_handful_of_prompts_is_used_for_everything():
    for count in (1, 3):
        assert split_texts(split_prompts(rows(count), None, 8, 0)) == [texts(count)] * 3


def test_given_evaluation_prompts_are_cut_in_halves():
    given, held = rows(5), rows(20)[10:]
    train, select, report = split_texts(split_prompts(given, held, 64, 0))
    assert train == texts(5)
    assert len(select) == len(report) == 5
    assert sorted(select + report) == sorted(texts(20)[10:])
    _, select, report = split_texts(split_prompts(given, held, 2, 0))
    assert (len(select), len(report)) == (2, 2)
    assert not set(select) & set(report)
    with pytest.raises(PromptError, match="at least 2"):
        split_prompts(given, held[:1], 64, 0)


def test_rows_keep_their_columns():
    found = read_prompts([{"prompt": "ab", "answer": 1}, {"prompt": "c", "answer": 2}], tiny_base(), 4)
    assert [(row.prompt, dict(row.columns)) for row in found] == [("ab", {"answer": 1}), ("c", {"answer": 2})]
    assert list(found[0].ids) == tiny_base().encode("ab")


def test_a_dataset_is_a_list_of_rows():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"prompt": ["ab", "c"], "answer": [1, 2]})
    assert [row.columns["answer"] for row in read_prompts(table, tiny_base(), 4)] == [1, 2]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "There are no prompts"),
        ("ab", "must be a list of prompts. Found a str"),
        (None, "must be a list of prompts. Found None"),
        ({"prompt": ["ab"]}, "must be a list of prompts. Found a dict"),
        (["ab", ""], "Prompt 1: A prompt is empty"),
        (["ab", 3], "Prompt 1: A prompt must be a string"),
        ([{"text": "ab"}], "Prompt 0 is a mapping without a 'prompt'. Its keys: text"),
        ([{"prompt": "ab", "completions": "c"}], "a column 'completions'"),
        ([{"prompt": "ab", "answer": 1}, {"prompt": "c"}], "Prompt 1 has the columns"),
        (["ab", "a" * 61], "Prompt 1 has 62 tokens; with max_new_tokens=4 it exceeds the model's context of 64"),
    ],
)
def test_what_cannot_be_used_is_named(prompts, said):
    with pytest.raises(PromptError, match=said):
        read_prompts(prompts, tiny_base(), 4)


def test_the_longest_prompt_that_fits_is_taken():
    assert len(read_prompts(["a" * 59], tiny_base(), 4)[0].ids) == 60
