"""Prompts of data sets and Parquet files, with columns of any name."""

from __future__ import annotations

from typing import Any

import pytest

from pareto_align.config import load_config, read_prompt_file
from pareto_align.config.prompt_sets import read_prompt_set
from pareto_align.errors import ConfigError, PromptError

ROWS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n), "level": n} for n in range(10)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set in a folder with two splits, the same rows as Parquet and CSV, and no cache of the user's."""
    datasets = pytest.importorskip("datasets", reason="datasets (extra `datasets`) is not installed")
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    home = tmp_path / "sums"
    home.mkdir()
    datasets.Dataset.from_list(ROWS).to_parquet(home / "train-00000.parquet")
    datasets.Dataset.from_list(ROWS[:3]).to_parquet(home / "test-00000.parquet")
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "sums.parquet")
    (tmp_path / "sums.csv").write_text("question,answer\nOne?,1\n")
    return tmp_path


def read(folder, **spec: Any) -> list[Any]:
    return read_prompt_set(spec, "prompts", folder)


def test_a_split_of_a_data_set_with_a_column_of_another_name(folder):
    found = read(folder, dataset="./sums", split="train[:4]", column="question")
    assert found == [{"prompt": row["question"], "answer": row["answer"], "level": row["level"]} for row in ROWS[:4]]
    assert len(read(folder, dataset="./sums", split="train", column="question", limit=3)) == 3


def test_columns_are_chosen_and_renamed(folder):
    listed = read(folder, dataset="./sums", split="test", column="question", columns=["level"])
    assert listed[1] == {"prompt": "What is 1 + 1?", "level": 1}
    named = read(folder, path="sums.parquet", column="question", columns={"solution": "answer"})
    assert named[2] == {"prompt": "What is 2 + 2?", "solution": "4"}
    assert read(folder, path="sums.csv", column="question") == [{"prompt": "One?", "answer": "1"}]
    assert read_prompt_file(folder / "sums.parquet", column="question")[0]["answer"] == "0"


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"dataset": "./sums", "column": "question"}, PromptError, "has the splits .*train.*: say which one"),
        ({"dataset": "./sums", "split": "dev", "column": "question"}, PromptError, "Cannot load the data set"),
        ({"dataset": "./nowhere", "split": "train"}, PromptError, "Cannot load the data set './nowhere'"),
        ({"dataset": "./sums", "split": "train"}, PromptError, "without a 'prompt'. Its keys: question"),
        (
            {"dataset": "./sums", "split": "train", "column": "qestion"},
            PromptError,
            "no column 'qestion'. Its columns: q",
        ),
        ({"path": "sums.parquet", "column": "question", "columns": ["x"]}, PromptError, "row 0 has no column 'x'"),
        ({"path": "sums.csv", "column": "x"}, PromptError, "has no column `x`. Its columns: question, answer"),
        ({"path": "sums.csv", "split": "train"}, ConfigError, "`prompts.split` is for a `dataset`"),
        ({}, ConfigError, "needs either `path`"),
        ({"path": "a.txt", "dataset": "b"}, ConfigError, "needs either `path`"),
        ({"dataset": "b", "colunm": "q"}, ConfigError, "Did you mean 'column'"),
        ({"dataset": 3}, ConfigError, "`prompts.dataset` must be text"),
        ({"dataset": "b", "columns": 3}, ConfigError, "`prompts.columns` must be a list"),
        ({"dataset": "b", "limit": 0}, ConfigError, "`prompts.limit` must be a whole number"),
    ],
)
def test_what_is_wrong_is_said(folder, spec, error, message):
    with pytest.raises(error, match=message):
        read(folder, **spec)


def test_without_datasets_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("pareto_align.config.prompt_sets.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pareto-align\[datasets\]"):
        read(tmp_path, dataset="openai/gsm8k")


def test_a_config_takes_them_for_training_and_for_holding_out(folder):
    (folder / "run.yaml").write_text(
        "model: some/model\n"
        "prompts: {dataset: ./sums, split: train, column: question, columns: [answer]}\n"
        "eval_prompts: {dataset: ./sums, split: test, column: question, columns: [answer], count: 2}\n"
        "objectives:\n  - {name: right, reward: 'pareto_align.objectives:numeric_answer', bounds: [0, 1]}\n"
        "  - {name: brief, reward: 'pareto_align.objectives:brevity', bounds: [0, 1]}\n"
    )
    found = load_config(folder / "run.yaml")
    assert len(found.prompts) == 10
    assert found.eval_prompts == [{"prompt": row["question"], "answer": row["answer"]} for row in ROWS[:3]]
    assert found.aligner.settings.eval_prompts == 2
    other = load_config(folder / "run.yaml", ["eval_prompts={path: sums.parquet, column: question, columns: [answer]}"])
    assert len(other.eval_prompts) == 10
    with pytest.raises(ConfigError, match="Did you mean 'split'"):
        load_config(folder / "run.yaml", ["prompts.splt=train"])
