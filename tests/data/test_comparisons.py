"""Comparisons: every source format, labels of every kind, merging, refusals, and what can be done with them."""

from __future__ import annotations

import csv
import gzip
import json
import math
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest

from pareto_align.data.comparison import Comparison, Labels
from pareto_align.data.comparisons import Comparisons
from pareto_align.data.ratings import choose_pairs
from pareto_align.errors import ComparisonError, ConfigError, ParetoAlignWarning
from pareto_align.objectives import Objective

NAN = math.nan


def message(role, content):
    return {"role": role, "content": content}


def answer(text):
    return [message("assistant", text)]


def only(comparisons, name=None):
    """Labels of one objective, pair by pair."""
    column = 0 if name is None else comparisons.names.index(name)
    return comparisons.table().values[:, column].tolist()


# ------------------------------------------------------------------------------------------------ formats

TRL = [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(3)]
PKU = [
    {
        "prompt": f"p{i}", "response_0": f"a{i}", "response_1": f"b{i}", "better_response_id": better,
        "safer_response_id": safer, "is_response_0_safe": True, "is_response_1_safe": i == 0, "prompt_source": "x",
        "response_0_severity_level": 0,
    }
    for i, (better, safer) in enumerate([(0, 1), (1, 1), (0, None)])
]  # fmt: skip
ULTRA = [
    {
        "instruction": f"p{i}", "source": "evol",
        "completions": [
            {"response": f"r{g}", "annotations": {"honesty": {"Rating": honesty}, "helpfulness": {"Rating": "3"}},
             "overall_score": 7.5 - g}
            for g, honesty in enumerate(["5", "N/A", "2", "5"])
        ],
    }
    for i in range(3)
]  # fmt: skip
BINARIZED = [
    {
        "prompt": f"p{i}", "prompt_id": f"id{i}", "messages": [message("user", f"p{i}"), message("assistant", "good")],
        "chosen": [message("user", f"p{i}"), message("assistant", "good")],
        "rejected": [message("user", f"p{i}"), message("assistant", "bad")], "score_chosen": 8.5, "score_rejected": 6.0,
    }
    for i in range(3)
]  # fmt: skip
HELPSTEER2 = [
    {"prompt": f"p{i // 2}", "response": f"r{i}", "helpfulness": i, "correctness": 4, "coherence": 4, "complexity": 2,
     "verbosity": 1 + i % 2}
    for i in range(4)
]  # fmt: skip
HELPSTEER3 = [
    {"context": [message("user", f"p{i}")], "response1": "a", "response2": "b", "overall_preference": strength}
    for i, strength in enumerate([-3, 0, 2])
]
HH = [
    {
        "chosen": f"\n\nHuman: hi {i}\n\nAssistant: hello\n\nHuman: how?\n\nAssistant: well",
        "rejected": f"\n\nHuman: hi {i}\n\nAssistant: hello\n\nHuman: how?\n\nAssistant: badly",
    }
    for i in range(3)
]
NECTAR = [
    {
        "prompt": f"\n\nHuman: p{i}\n\nAssistant: ",
        "answers": [{"answer": f"r{g}", "model": "m", "rank": rank} for g, rank in enumerate([2.0, 1.0, 2.0])],
        "turns": 1, "num_responses": 3, "good_natured": True,
    }
    for i in range(3)
]  # fmt: skip
BEAVER = [{"prompt": f"p{i}", "response": "r", "category": {"x": True}, "is_safe": i > 0} for i in range(3)]
UNPAIRED = [{"prompt": f"p{i}", "completion": "r", "label": i > 0} for i in range(3)]


def test_trl_explicit():
    found = Comparisons.from_rows(TRL)
    assert found.names == ("chosen",)
    assert [row.responses for row in found] == [(f"good {i}", f"bad {i}") for i in range(3)]
    assert only(found) == [1, 1, 1]
    assert repr(found) == "<Comparisons: 3 prompts, 3 pairs, chosen>"


def test_trl_implicit_text_takes_the_space_into_the_answers():
    found = Comparisons.from_rows([{"chosen": "The sky is blue.", "rejected": "The sky is black."}])
    assert (found[0].prompt, found[0].responses) == ("The sky is bl", ("ue.", "ack."))
    found = Comparisons.from_rows([{"chosen": "The sky is blue.", "rejected": "The sky is green."}])
    assert (found[0].prompt, found[0].responses) == ("The sky is", (" blue.", " green."))


def test_trl_conversational_explicit_and_implicit():
    prompt = [message("user", "p")]
    explicit = Comparisons.from_rows([{"prompt": prompt, "chosen": answer("a"), "rejected": answer("b")}])
    implicit = Comparisons.from_rows([{"chosen": prompt + answer("a"), "rejected": prompt + answer("b")}])
    for found in (explicit, implicit):
        assert found[0].prompt == prompt
        assert found[0].responses == (answer("a"), answer("b"))


def test_trl_margin_reference_and_the_third_response():
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 0.5, "reference": "c", "ref_chosen_logps": -3.0}
    row["ref_rejected_logps"] = -4.0
    plain = Comparisons.from_rows([row])
    assert plain[0].labels.margins.tolist() == [[0.5]]
    assert plain[0].gold == 2
    assert plain[0].reference is None
    assert plain.counts["reference log-probabilities of the source not used"] == 1
    trusted = Comparisons.from_rows([row], trust_reference=True)
    np.testing.assert_array_equal(trusted[0].reference, [-3, -4, NAN])


def test_further_label_columns_beside_chosen():
    rows = [{**row, "safer": who} for row, who in zip(TRL, ["chosen", "rejected", None], strict=True)]
    found = Comparisons.from_rows(rows)
    assert found.names == ("chosen", "safer")
    np.testing.assert_array_equal(only(found, "safer"), [1, 0, NAN])


def test_pku():
    found = Comparisons.from_rows(PKU)
    assert found.names == ("better_response_id", "safer_response_id", "safe")
    np.testing.assert_array_equal(found.table().values[:, :2], [[1, 0], [0, 0], [1, NAN]])
    np.testing.assert_array_equal(found[0].marks[:, 2], [1, 1])
    np.testing.assert_array_equal(found[1].marks[:, 2], [1, 0])
    assert found[0].columns["prompt_source"] == "x"


def test_ultrafeedback_reads_ratings_as_numbers():
    found = Comparisons.from_rows(ULTRA)
    assert found.names == ("honesty", "helpfulness", "overall_score")
    np.testing.assert_array_equal(found[0].scores[:, 0], [5, NAN, 2, 5])
    assert len(found[0].labels) == 6
    honesty = dict(zip(map(tuple, found[0].labels.pairs.tolist()), found[0].labels.values[:, 0], strict=True))
    # read as text, "N/A" would win against every digit
    assert math.isnan(honesty[0, 1])
    assert honesty[0, 2] == 1
    assert honesty[0, 3] == 0.5
    assert honesty[2, 3] == 0
    margins = dict(zip(map(tuple, found[0].labels.pairs.tolist()), found[0].labels.margins[:, 2], strict=True))
    assert margins[0, 3] == 3


def test_ultrafeedback_binarized():
    found = Comparisons.from_rows(BINARIZED)
    assert found[0].prompt == [message("user", "p0")]
    assert found[0].responses == (answer("good"), answer("bad"))
    assert found[0].labels.margins.tolist() == [[2.5]]


def test_helpsteer_ratings_of_one_prompt_are_put_together():
    found = Comparisons.from_rows(HELPSTEER2)
    assert len(found) == 2
    assert found.names == ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    np.testing.assert_array_equal(found[0].labels.values, [[0, 0.5, 0.5, 0.5, 0]])


def test_helpsteer_strengths_are_signed_and_nought_is_a_tie():
    found = Comparisons.from_rows(HELPSTEER3)
    assert found.names == ("overall_preference",)
    assert only(found) == [1, 0.5, 0]
    assert found.table().margins[:, 0].tolist() == [3, 0, 2]
    rows = [{"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": -1}]
    assert only(Comparisons.from_rows(rows)) == [1]
    # who is called response_1 depends on the source: the first of HelpSteer, the second of PKU
    which = {"winner": "response_1"}
    first = Comparisons.from_rows([{"prompt": "p", "response_1": "a", "response_2": "b", **which}])
    second = Comparisons.from_rows([{"prompt": "p", "response_0": "a", "response_1": "b", **which}])
    assert (only(first), only(second)) == ([1], [0])


def test_hh():
    other = {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: y\n\nAssistant: b"}
    found = Comparisons.from_rows([*HH, other])
    assert len(found) == 3
    assert found.counts["dialogues that differ before the last answer"] == 1
    assert found[0].prompt == [message("user", "hi 0"), message("assistant", "hello"), message("user", "how?")]
    assert found[0].responses == (answer("well"), answer("badly"))


def test_nectar_ranks_with_ties():
    found = Comparisons.from_rows(NECTAR)
    assert found[0].prompt == [message("user", "p0")]
    assert found.names == ("rank",)
    assert found[0].scores[:, 0].tolist() == [-2, -1, -2]
    assert found[0].labels.pairs.tolist() == [[0, 1], [1, 2]]  # two of rank 2 are not told apart
    assert found[0].labels.values[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(("rows", "name"), [(BEAVER, "is_safe"), (UNPAIRED, "label")])
def test_marks_of_single_responses(rows, name):
    found = Comparisons.from_rows(rows)
    assert found.names == (name,)
    assert [row.marks[0, 0] for row in found] == [0, 1, 1]
    assert found.pair_count == 0


def test_responses_with_lists_of_ratings():
    rows = [{"prompt": "p", "responses": ["a", "b", "c"], "tone": [1, 2, None], "short": ["3", 3, 1], "turns": 2}]
    found = Comparisons.from_rows(rows)
    assert found.names == ("tone", "short")
    np.testing.assert_array_equal(found[0].scores, [[1, 3], [2, 3], [NAN, 1]])
    assert found[0].columns == {"turns": 2}


def test_messages_with_attributes():
    kinds = {"a": 0.2, "b": NAN}
    rows = [
        {"messages": [message("user", "p"), *answer(text)], "safe": 1.0, "kind": kind} for text, kind in kinds.items()
    ]
    found = Comparisons.from_rows(rows)
    assert (len(found), found.names) == (1, ("safe", "kind"))
    np.testing.assert_array_equal(found[0].scores, [[1, 0.2], [1, NAN]])
    assert found.pair_count == 0  # nothing tells them apart


# ------------------------------------------------------------------------------------------------ labels


def two(*labels, name="x", **more):
    return [
        {"prompt": f"p{i}", "response_0": "a", "response_1": "b", name: label, **more} for i, label in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("cells", "options", "expected"),
    [
        ([0, 1, None], {}, [1, 0, NAN]),
        (["0", "1", ""], {}, [1, 0, NAN]),
        (["a", "B", "tie"], {}, [1, 0, 0.5]),
        (["response_0", "response_1", "N/A"], {}, [1, 0, NAN]),
        ([True, False, None], {}, [1, 0, NAN]),
        ([0.8, 0.0, 1], {}, [0.8, 0, 1]),
        ([1.0, 0.0, NAN], {"kinds": {"x": "which"}}, [0, 1, NAN]),
        ([1.0, 0.0, NAN], {"kinds": {"x": "probability"}}, [1, 0, NAN]),
        ([-2, 0, 3], {"kinds": {"x": "signed"}}, [1, 0.5, 0]),
        ([[3, 1], [2, 2], [None, 1]], {}, [1, 0.5, NAN]),
        ([["4.5", "5"], ["N/A", 1], [1, 0]], {}, [0, NAN, 1]),
    ],
)
def test_kinds_of_labels(cells, options, expected):
    np.testing.assert_array_equal(only(Comparisons.from_rows(two(*cells), **options)), expected)


def test_two_columns_are_ratings():
    rows = [{"prompt": "p", "response_0": "a", "response_1": "b", "tone_0": "4", "tone_1": 2.5}]
    found = Comparisons.from_rows(rows)
    assert found.names == ("tone",)
    assert only(found) == [1]
    assert found[0].scores[:, 0].tolist() == [4, 2.5]
    assert found.table().margins[0, 0] == 1.5


def test_columns_that_are_no_labels_are_passed_on_and_remembered():
    found = Comparisons.from_rows(two(0, 1, topic="law", grade=7))
    assert found.names == ("x",)
    assert found[0].columns == {"topic": "law", "grade": 7}
    with pytest.raises(ComparisonError, match=r"grade must be 0 or 1, the better response. Found 7"):
        found.for_objectives([Objective("g", prefers="grade")])
    with pytest.raises(
        ComparisonError, match=r"No column holds labels: .*x must be 0 or 1, the better response. Found 2"
    ):
        Comparisons.from_rows(two(0, 2))
    with pytest.raises(ComparisonError, match="No column holds labels: its columns are prompt, response_0, response_1"):
        Comparisons.from_rows([{"prompt": "p", "response_0": "a", "response_1": "b"}])
    picked = Comparisons.from_rows(two(0, 1, other=1), labels=["x"])
    assert picked.names == ("x",)


# ------------------------------------------------------------------------------------------------ merging, users


def test_rows_of_one_prompt_are_one_comparison():
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "b", "rejected": "c"},
    ]
    found = Comparisons.from_rows(rows)
    assert [row.prompt for row in found] == ["p", "q"]
    assert found[0].responses == ("a", "b", "c")
    assert found[0].labels.pairs.tolist() == [[0, 1], [1, 2]]


def test_several_judgements_of_a_pair_are_their_mean_with_a_weight():
    sides = [("a", "b"), ("b", "a"), ("a", "b")]
    found = Comparisons.from_rows([{"prompt": "p", "chosen": w, "rejected": l} for w, l in sides])
    assert found[0].labels.pairs.tolist() == [[0, 1]]
    assert found[0].labels.values[0, 0] == pytest.approx(2 / 3)
    assert found[0].labels.weights.tolist() == [[3]]


def test_users_keep_their_own_judgements():
    rows = [
        {"prompt": "p", "chosen": w, "rejected": l, "user": user}
        for w, l, user in [("a", "b", "eve"), ("b", "a", "adam"), ("a", "b", "eve")]
    ]
    found = Comparisons.from_rows(rows)
    assert found.users == ("eve", "adam")
    assert found[0].labels.users == ("eve", "adam")
    # of adam's pair the order is the one met first among his own
    assert found[0].labels.values[:, 0].tolist() == [1, 1]
    assert found[0].labels.pairs.tolist() == [[0, 1], [1, 0]]
    assert found[0].labels.weights.tolist() == [[2], [1]]
    named = Comparisons.from_rows([{**row, "rater": row.pop("user")} for row in map(dict, rows)], user="rater")
    assert named.users == ("eve", "adam")


def test_ratings_of_users_make_pairs_of_each():
    rows = [
        {"prompt": "p", "response": text, "tone": tone, "user": user}
        for user, tones in {"eve": (1, 2), "adam": (3, 1)}.items()
        for text, tone in zip("ab", tones, strict=True)
    ]
    found = Comparisons.from_rows(rows)
    assert found[0].labels.users == ("eve", "adam")
    assert found[0].labels.values[:, 0].tolist() == [0, 1]
    assert found[0].scores[:, 0].tolist() == [2, 1.5]


def test_equal_responses_are_left_out_and_counted():
    with pytest.warns(ParetoAlignWarning, match="1 of 3 pairs are of two equal responses"):
        found = Comparisons.from_rows([*TRL[:2], {"prompt": "z", "chosen": "a", "rejected": "a"}])
    assert len(found) == 2
    assert found.counts["pairs of two equal responses"] == 1


# ------------------------------------------------------------------------------------------------ ratings, rankings


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("all", [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
        ("adjacent", [(0, 2), (0, 3), (1, 3)]),
        ("best_worst", [(1, 2)]),
        ("best_rest", [(0, 2), (1, 2), (2, 3)]),
    ],
)
def test_rules_for_pairs(rule, expected):
    scores = np.array([[3.0], [0.5], [4.0], [1.0]])
    assert list(map(tuple, choose_pairs(scores, rule).tolist())) == expected


def test_pairs_at_random_are_disjoint_and_seeded():
    scores = np.arange(6.0)[:, None]
    found = choose_pairs(scores, "random", np.random.default_rng(1))
    assert sorted(found.flatten().tolist()) == [0, 1, 2, 3, 4, 5]
    assert found.tolist() == choose_pairs(scores, "random", np.random.default_rng(1)).tolist()


def test_auto_takes_all_pairs_of_few_responses():
    assert len(choose_pairs(np.arange(4.0)[:, None])) == 6
    assert choose_pairs(np.arange(5.0)[:, None]).tolist() == [[0, 4], [1, 4], [2, 4], [3, 4]]


def test_from_ratings_and_rankings():
    rated = Comparisons.from_ratings(["p"], [["a", "b", "c"]], {"tone": [[1, 2, 2]], "short": [[3, None, 1]]})
    assert rated.names == ("tone", "short")
    np.testing.assert_array_equal(rated[0].labels.values, [[0, NAN], [0, 1], [0.5, NAN]][:2])
    ranked = Comparisons.from_rankings(["p"], [["a", "b"]], [[2, 1]])
    assert ranked.names == ("rank",)
    assert only(ranked) == [0]
    with pytest.raises(ComparisonError, match="`tone` has 1 entries for 2 prompts"):
        Comparisons.from_ratings(["p", "q"], [["a"], ["b"]], {"tone": [[1]]})
    with pytest.raises(ComparisonError, match="tone has 1 entries for 2 responses"):
        Comparisons.from_ratings(["p"], [["a", "b"]], {"tone": [[1]]})


def test_a_hierarchy_decides_by_the_first_that_differs():
    ratings = {"safe": [[1, 1, 0]], "short": [[2, 5, 9]]}
    found = Comparisons.from_hierarchy(["p"], [["a", "b", "c"]], ratings, margins=[0.5, 1], name="both")
    assert found.names == ("both",)
    labels = dict(zip(map(tuple, found[0].labels.pairs.tolist()), found[0].labels.values[:, 0], strict=True))
    assert labels == {(0, 1): 0, (0, 2): 1, (1, 2): 1}
    with pytest.raises(ComparisonError, match="no level tells apart"):
        Comparisons.from_hierarchy(["p"], [["a", "b"]], {"safe": [[1, 1]], "short": [[1, 2]]}, margins=[0, 5])


# ------------------------------------------------------------------------------------------------ files


def test_files_of_every_kind_give_the_same(tmp_path):
    lines = "\n".join(map(json.dumps, TRL))
    (tmp_path / "a.jsonl").write_text(lines + "\n\n", encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(TRL), encoding="utf-8")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write(lines)
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(TRL[0]))
        writer.writeheader()
        writer.writerows(TRL)
    expected = Comparisons.from_rows(TRL).to_rows()
    for name in ("a.jsonl", "a.json", "a.jsonl.gz", "a.csv"):
        assert Comparisons.read(tmp_path / name).to_rows() == expected, name


def test_a_written_file_comes_back_as_it_was(tmp_path):
    rows = [{**row, "user": f"u{i % 2}"} for i, row in enumerate(PKU)]
    before = Comparisons.from_rows(rows)
    file = tmp_path / "comparisons.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in before.to_rows()), encoding="utf-8")
    after = Comparisons.read(file)
    assert after.names == before.names
    assert after.to_rows() == before.to_rows()
    np.testing.assert_array_equal(after.table().values, before.table().values)
    assert after.users == before.users


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "come from .jsonl, .jsonl.gz, .json, .csv, .parquet files"),
        ("a.jsonl", '{"prompt": ', "a.jsonl, line 1 is not valid JSON"),
        ("a.jsonl", "[1]", "a.jsonl, line 1 must hold an object"),
        ("a.jsonl", "", "no comparisons in"),
        ("a.json", "{}", "must hold a list"),
        ("a.csv", "a,a\n1,2\n", "two columns 'a'"),
        ("a.csv", "a,b\n1\n", "line 2 does not have 2 cells"),
        ("a.jsonl.gz", "no gzip", "Cannot read the comparisons"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ComparisonError, match=message):
        Comparisons.read(tmp_path / name)
    with pytest.raises(ComparisonError, match=r"Cannot read the comparisons in .*nothing.jsonl"):
        Comparisons.read(tmp_path / "nothing.jsonl")


def test_datasets_and_tables_are_rows():
    pandas = pytest.importorskip("pandas")
    expected = Comparisons.from_rows(TRL).to_rows()
    assert Comparisons.from_rows(pandas.DataFrame(TRL)).to_rows() == expected

    class Dataset:
        """What a `datasets.Dataset` looks like from outside."""

        column_names = ("prompt", "chosen", "rejected")

        def __iter__(self):
            return iter(TRL)

        def to_dict(self):
            raise AssertionError("that would give columns")

    assert Comparisons.from_rows(Dataset()).to_rows() == expected
    with pytest.raises(ComparisonError, match=r"Choose one of its splits, such as comparisons\['train'\]"):
        Comparisons.from_rows({"train": Dataset()})


def test_a_real_dataset_and_parquet(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{**row, "safer": who} for row, who in zip(TRL, ["chosen", None, "rejected"], strict=True)]
    expected = Comparisons.from_rows(rows).to_rows()
    dataset = datasets.Dataset.from_list(rows)
    assert Comparisons.from_rows(dataset).to_rows() == expected
    with pytest.raises(ComparisonError, match=r"such as comparisons\['train'\]"):
        Comparisons.from_rows(datasets.DatasetDict({"train": dataset}))
    dataset.to_parquet(str(tmp_path / "a.parquet"))
    assert Comparisons.read(tmp_path / "a.parquet").to_rows() == expected
    nested = datasets.Dataset.from_list(ULTRA)
    assert Comparisons.from_rows(nested).to_rows() == Comparisons.from_rows(ULTRA).to_rows()


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "There are no comparisons"),
        ([{"prompt": "p", "completion": "r"}], {}, "Comparison 0 has one response and no `label`"),
        ([{"prompt": "p", "response": "r"}], {}, "Comparison 0 has one response and no `label`"),
        ([{"prompt": "p", "responses": ["r"]}], {}, "Comparison 0 has one response and no `label`"),
        ([{"chosen": "abc", "rejected": "xyz"}], {}, "chosen and rejected share no beginning"),
        ([{"chosen": answer("a"), "rejected": answer("b")}], {}, "share no beginning"),
        ([{"prompt": "p"}], {}, "has the columns prompt. Known are: `chosen`"),
        (two(0, 2, name="better_response_id"), {}, "Comparison 1: better_response_id must be 0 or 1.*Found 2"),
        (two(0, "2", name="x"), {"labels": ["x"]}, "Comparison 1: x must be 0 or 1.*Found '2'"),
        (two(0, 2), {"labels": ["x"]}, r"Found 2\. Where negative.*kinds=\{'x': 'signed'\}"),
        (two(1.0, 0.0), {"labels": ["x"]}, r"may say which response is better or how probable.*kinds=\{'x': 'which'\}"),
        (two(1.5, 0.5), {"kinds": {"x": "probability"}}, "x must be a probability from 0 to 1. Found 1.5"),
        (two([1], [2]), {"kinds": {"x": "scores"}}, "scores of the two responses"),
        (two(0), {"labels": ["safr"]}, "No comparison has the column 'safr'"),
        (two(0), {"user": "rater"}, "no column 'rater'"),
        ([{**TRL[0], "margin": -1}], {}, "margin must not be negative"),
        ([{"prompt": "p", "chosen": "a", "rejected": answer("b")}], {}, "must both be texts"),
        ([{"prompt": "p", "chosen": "a", "rejected": None}], {}, "`rejected` is missing"),
        ([{"prompt": "p", "chosen": [message("user", "a")], "rejected": answer("b")}], {}, "must end with the"),
        ([{"prompt": "p", "completion": "r", "label": 3}], {}, "label must be true or false. Found 3"),
        ([{"instruction": "p", "completions": "x"}], {}, "`completions` must be a list of mappings"),
        ([{"prompt": "p", "response": "r", "good": "x"}], {"labels": ["good"]}, "good must be a number. Found 'x'"),
        ([{"prompt": "p", "response_0": "a", "x": 1, "response_1": 4}], {}, "must be a string or a list"),
        ([{"response_0": "a", "response_1": "b", "x": 1}], {}, "has no `prompt`"),
        ([TRL[0], {**TRL[1], "prompt": "  "}], {}, "Comparison 1: A prompt is empty"),
        ([{**TRL[0], "chosen": "half \ud83d"}], {}, "Comparison 0: a response holds half of a surrogate pair"),
    ],
)  # fmt: skip
def test_what_is_refused_is_said_with_its_row(rows, options, message):
    with pytest.raises(ComparisonError, match=message):
        Comparisons.from_rows(rows, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "ultrafedback"}, "Did you mean 'ultrafeedback'"),
        ({"pairs": "best"}, "`pairs` must be one of auto, all"),
        ({"kinds": {"x": "signd"}}, "must be one of which, probability"),
        ({"lables": ["x"]}, "Did you mean 'labels'"),
    ],
)
def test_options_that_do_not_exist(options, message):
    with pytest.raises(ConfigError, match=message):
        Comparisons.from_rows(two(0, 1), **options)


def test_what_is_no_list_is_refused():
    for given, said in (("file.jsonl", "read by Comparisons.read"), ({1, 2}, "must have an order"), (3, "Found a int")):
        with pytest.raises(ComparisonError, match=said):
            Comparisons.from_rows(given)
    with pytest.raises(ComparisonError, match="Comparison 1 must be a mapping"):
        Comparisons.from_rows([TRL[0], "x"])


# ------------------------------------------------------------------------------------------------ objectives


def test_objectives_take_their_columns_in_their_order():
    found = Comparisons.from_rows(PKU).for_objectives(
        [
            Objective("safe", prefers="safer_response_id"),
            Objective("harm", prefers="safer_response_id", maximize=False),
            Objective("unsafe", prefers="safe", maximize=False),
            Objective("length", lambda completions: [0.0], role="audit"),
        ]
    )
    assert found.names == ("safe", "harm", "unsafe", "length")
    np.testing.assert_array_equal(found.table().values[:, 0], [0, 0, NAN])
    np.testing.assert_array_equal(found.table().values[:, 1], [1, 1, NAN])
    assert np.isnan(found.table().values[:, 2:]).all()
    assert found[0].marks[:, 2].tolist() == [0, 0]
    assert found[1].marks[:, 2].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("prefers", "message"),
    [
        ("safer_respnse_id", "no comparison has the column 'safer_respnse_id'. Did you mean 'safer_response_id'"),
        ("prompt_source", "the column 'prompt_source' holds no labels. Found labels in better_response_id"),
    ],
)
def test_a_column_that_is_not_there(prefers, message):
    with pytest.raises(ComparisonError, match=message):
        Comparisons.from_rows(PKU).for_objectives([Objective("safe", prefers=prefers)])


def test_labels_that_prefer_nothing_are_refused():
    with pytest.raises(
        ComparisonError, match="'x' has nothing to learn: of 3 pairs, 1 are ties in the column 'x' and 2"
    ):
        Comparisons.from_rows(two("tie", None, None, other=1)).for_objectives([Objective("x", prefers="x")])


def test_users_are_asked_for():
    with pytest.raises(ComparisonError, match=r"'mixdpo' needs to know who judged.*user='COLUMN'"):
        Comparisons.from_rows(TRL).require_users("'mixdpo'")


# ------------------------------------------------------------------------------------------------ choosing, changing


def test_slices_filters_and_summary():
    found = Comparisons.from_rows(PKU)
    assert len(found[1:]) == 2
    assert isinstance(found[0], Comparison)
    assert [row.prompt for row in found.filter([True, False, True])] == ["p0", "p2"]
    assert [row.prompt for row in found.filter(lambda row: row.prompt == "p1")] == ["p1"]
    with pytest.raises(ComparisonError, match="3 entries"):
        found.filter([True])
    with pytest.raises(ComparisonError, match="no comparisons"):
        found.filter([False] * 3)
    lines = found.summary().splitlines()
    assert lines[0] == "3 prompts, 6 responses, 3 pairs"
    assert lines[2] == "safer_response_id: 2 labelled, 0 ties, 1 without a label"


def test_comparisons_cannot_be_changed():
    found = Comparisons.from_rows(TRL)
    with pytest.raises(ValueError, match="read-only"):
        found[0].labels.values[0, 0] = 0
    with pytest.raises(AttributeError):
        found[0].gold = 1


def test_soft_labels_of_margins():
    found = Comparisons.from_ratings(["p", "q"], [["a", "b"]] * 2, {"x": [[3, 1], [0, 2]]}).soften(tau=2.0)
    assert only(found) == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))])
    # the default: the standard deviation of the gaps 2 and -2
    default = Comparisons.from_ratings(["p", "q"], [["a", "b"]] * 2, {"x": [[3, 1], [0, 2]]}).soften()
    assert only(default) == pytest.approx(only(found))
    with pytest.raises(ComparisonError, match="No pair has a margin"):
        Comparisons.from_rows(TRL).soften()


def test_pairs_become_marks():
    found = Comparisons.from_rows(TRL).unpaired()
    assert found.pair_count == 0
    assert found[0].marks[:, 0].tolist() == [1, 0]
    tied = Comparisons.from_rows(two("tie", 0)).unpaired()
    assert np.isnan(tied[0].marks).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairs": [[0, 1]], "values": [[2.0]]}, "from 0 to 1"),
        ({"pairs": [[0, 1]], "values": [1.0]}, r"shape \[pairs, m\]"),
        ({"pairs": [[1, 1]], "values": [[1.0]]}, "compared with itself"),
        ({"pairs": [[0, 1]], "values": [[1.0]], "margins": [[-1.0]]}, "not be negative"),
        ({"pairs": [[0, 1]], "values": [[1.0]], "users": ("a", "b")}, "2 users for 1 pairs"),
    ],
)
def test_labels_made_by_hand_are_checked(arguments, message):
    with pytest.raises(ComparisonError, match=message):
        Labels(**arguments)


def test_comparisons_made_by_hand_are_checked():
    labels = Labels([[0, 1]], [[1.0]])
    assert Comparison("p", ["a", "b"], labels).G == 2
    with pytest.raises(ComparisonError, match="does not exist: there are 1"):
        Comparison("p", ["a"], labels)
    with pytest.raises(ComparisonError, match=r"`scores` must have shape \[2, 1\]"):
        Comparison("p", ["a", "b"], labels, scores=[[1.0]])
    with pytest.raises(ComparisonError, match="labels of 1 objectives, not 2"):
        Comparisons([Comparison("p", ["a", "b"], labels)], ["x", "y"])


def test_reading_loads_no_torch():
    code = "import sys\nfrom pareto_align import Comparisons\nComparisons.from_rows([{'prompt': 'p', 'chosen': 'a', "
    code += "'rejected': 'b'}])\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_mappings_of_any_kind_are_rows():
    class Row(Mapping):
        def __init__(self, found):
            self.found = found

        def __getitem__(self, key):
            return self.found[key]

        def __iter__(self):
            return iter(self.found)

        def __len__(self):
            return len(self.found)

    assert Comparisons.from_rows([Row(row) for row in TRL]).to_rows() == Comparisons.from_rows(TRL).to_rows()


@pytest.mark.parametrize("nobody", ["", None, math.nan])
def test_where_nobody_is_named_nobody_judged(nobody):
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    found = Comparisons.from_rows([{**row, "user": "ann"}, {**row, "prompt": "q", "user": nobody}])
    assert found.users == ("ann",)
    rated = Comparisons.from_rows(
        [{"prompt": "p", "responses": ["a", "b"], "helpful": [1, 2], "user": user} for user in ("ann", nobody)]
    )
    assert rated.users == ("ann",)


def test_only_the_labels_that_are_asked_for_are_read():
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "helpful": 1}
    assert set(Comparisons.from_rows([row]).names) == {"chosen", "helpful"}
    assert Comparisons.from_rows([row], labels=["helpful"]).names == ("helpful",)
    with pytest.raises(ComparisonError, match=r"There is no column 'helpfull' of labels\. Did you mean 'helpful'"):
        Comparisons.from_rows([row], kinds={"helpfull": "which"})


def test_pairs_that_no_level_of_a_hierarchy_tells_apart_are_counted():
    found = Comparisons.from_hierarchy(["p", "q"], [["a", "b", "c"], ["a", "b", "c"]], {"x": [[1, 1, 2], [0, 1, 2]]})
    assert [len(row.labels) for row in found] == [2, 3]
    assert found.counts["pairs that no level tells apart"] == 1


def judged_by(*users, label=0):
    rows = [
        {"prompt": f"p{n}", "response_0": "x", "response_1": "y", "better": label, "who": user}
        for n, user in enumerate(users)
    ]
    return Comparisons.from_rows(rows, labels=["better"], user="who")


def test_groups_of_users_become_columns_of_labels():
    data = judged_by("ann", "bob", "cy")
    parted = data.by_group({"ann": "warm", "bob": "dry"})
    assert parted.names == ("dry", "warm")
    table = parted.table()
    np.testing.assert_array_equal(table.values, [[np.nan, 1.0], [1.0, np.nan], [np.nan, np.nan]])
    shared = data.by_group({"ann": [0.25, 0.75], "bob": [0.0, 1.0], "cy": [1.0, 0.0]}, ["dry", "warm"])
    np.testing.assert_array_equal(shared.table().values, [[1.0, 1.0], [np.nan, 1.0], [1.0, np.nan]])
    labels = [row.labels.weights.tolist()[0] for row in shared]
    assert labels == [[0.25, 0.75], [0.0, 1.0], [1.0, 0.0]]
    assert shared.users == data.users
    assert Comparisons.from_rows(shared.to_rows()).names == ("dry", "warm")


def test_what_is_no_group():
    data = judged_by("ann", "bob")
    with pytest.raises(ConfigError, match="Found dry"):
        data.by_group({"ann": "dry"}, ["warm"])
    for share in ([1.0], [-1.0, 1.0], [np.nan, 1.0]):
        with pytest.raises(ConfigError, match="User 'ann' needs a group"):
            data.by_group({"ann": share}, ["dry", "warm"])
    with pytest.raises(ComparisonError, match="Nobody who judged"):
        data.by_group({"eve": "dry"})
    with pytest.raises(ComparisonError, match="who judged"):
        Comparisons.from_rows([{"prompt": "p", "chosen": "x", "rejected": "y"}]).by_group({"ann": "dry"})
    with pytest.raises(ComparisonError, match="one column of labels"):
        data.by_group({"ann": "a", "bob": "b"}).by_group({"ann": "a"})
