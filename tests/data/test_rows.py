"""Prompts in every container that people keep them in: read row by row, or refused with a word on what to do."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pareto_align.data.rows import list_prompts, read_rows
from pareto_align.errors import PromptError

ROWS = [{"prompt": "What is rain?", "answer": 1}, {"prompt": "Why?", "answer": 2}]
TALK = [{"role": "user", "content": "Hi"}]


def plain(rows):
    return [{"prompt": row.prompt, **row.columns} for row in rows]


class Frame:
    """A table of a library that is not installed, by the names it has there."""

    columns = ()

    def __init__(self, columns, **methods):
        self.columns = columns
        for name, method in methods.items():
            setattr(self, name, method)

    def __iter__(self):
        return iter(self.columns)


class Lazy:
    """A frame that warns where it is asked for its columns, as polars's LazyFrame does."""

    @property
    def columns(self):
        raise AssertionError("asked")


def tables():
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    arrow = pyarrow.Table.from_pylist(ROWS)
    return {
        "pandas": pandas.DataFrame(ROWS),
        "pandas, indexed": pandas.DataFrame(ROWS, index=[7, 7]),
        "pyarrow Table": arrow,
        "pyarrow RecordBatch": arrow.to_batches()[0],
        "pyarrow array": arrow.to_struct_array(),
        "polars": Frame(["prompt", "answer"], to_dicts=lambda: ROWS),
    }


def test_tables_are_read_row_by_row():
    for name, table in tables().items():
        assert plain(read_rows(table)) == ROWS, name
        assert list_prompts(table) == ROWS, name


def test_a_prompt_may_be_called_otherwise():
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    asked = [{"prompt": "left out", "question": row["prompt"], "answer": row["answer"]} for row in ROWS]
    for rows in (asked, pandas.DataFrame(asked), datasets.Dataset.from_list(asked)):
        assert plain(read_rows(rows, column="question")) == ROWS
    with pytest.raises(PromptError, match=r"Its keys: prompt, answer. Rename .* or name it: `prompt_column` of `fit`"):
        read_rows(ROWS, column="question")
    with pytest.raises(PromptError, match=r"Found pandas's DataFrame .* the columns prompt, answer. Rename"):
        read_rows(pandas.DataFrame(ROWS), column="question")
    with pytest.raises(PromptError, match="Prompt 0 has no column 'question': it is a str"):
        read_rows(["What is rain?"], column="question")


def test_the_numbers_of_a_frame_are_those_of_python():
    pandas = pytest.importorskip("pandas")
    assert type(read_rows(pandas.DataFrame(ROWS))[0].columns["answer"]) is int


def test_a_frame_of_conversations_is_read_however_it_holds_them():
    pandas = pytest.importorskip("pandas")
    cells = pandas.Series([TALK, np.array(TALK, dtype=object), tuple(TALK)])
    assert [row.prompt for row in read_rows(pandas.DataFrame({"prompt": cells}))] == [TALK] * 3


def test_anything_with_an_order_is_read():
    texts = ["One?", "Two?"]
    for prompts in (
        texts,
        tuple(texts),
        (text for text in texts),
        np.array(texts),
        dict.fromkeys(texts).keys(),
        map(str, texts),
    ):
        assert [row.prompt for row in read_rows(prompts)] == texts
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    for prompts in (pandas.Series(texts), pandas.Index(texts), pyarrow.array(texts), pyarrow.chunked_array([texts])):
        assert [row.prompt for row in read_rows(prompts)] == texts


def test_datasets_are_read():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    for prompts in (table, table.to_iterable_dataset(), table.with_format("numpy")):
        assert [row.prompt for row in read_rows(prompts)] == ["What is rain?", "Why?"]
    with pytest.raises(PromptError, match=r"Found a DatasetDict. Choose one of its splits, such as prompts\['train'\]"):
        read_rows(datasets.DatasetDict(train=table, test=table))


def frame(**columns):
    return pytest.importorskip("pandas").DataFrame(columns)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: frame(question=["a"]), "no column 'prompt'. Found pandas's DataFrame with the columns question"),
        (lambda: frame(prompt=["a"], b=["c"]).set_axis(["prompt", "prompt"], axis=1), "the column 'prompt' twice"),
        (lambda: frame(prompt=["a"], b=["c"]).set_axis(["prompt", 3], axis=1), "the column 3; names of columns"),
        (lambda: frame(prompt=["a", None]), "Prompt 1: A prompt must be a string"),
        (lambda: frame(prompt=["a"]).iterrows(), "Prompt 0: .* Found a tuple"),
        (lambda: frame(prompt=["a"]).itertuples(), "Prompt 0: .* Found a Pandas"),
        (lambda: {"sheet": frame(prompt=["a"])}, r"Choose one of its splits, such as prompts\['sheet'\]"),
        (lambda: Frame(["prompt"], compute=lambda: None), "Frame, which is not read: turn it into"),
        (lambda: Lazy(), "Lazy, which is not read"),
        (lambda: {"prompt": ["a"]}, "Found a dict. Give a list with one mapping a prompt"),
        (lambda: {"a", "b"}, "must have an order, or no run could be repeated. Found a set"),
        (lambda: frozenset("ab"), "Found a frozenset"),
        (lambda: "prompts.txt", "Found a str. A file of prompts is read by .*read_prompt_file"),
        (lambda: Path("prompts.txt"), "Found a .*Path. A file of prompts is read by"),
        (lambda: io.StringIO("a\nb\n"), "Found a StringIO. A file of prompts is read by"),
        (lambda: b"ab", "Found a bytes"),
        (lambda: np.array("ab"), "must be a list of prompts. Found a ndarray"),
        (lambda: np.array([["a"]]), "Prompt 0: A prompt must be a string or a list of chat messages"),
        (lambda: None, "must be a list of prompts. Found None"),
        (lambda: SimpleNamespace(), "Found a SimpleNamespace"),
        (lambda: TALK, "Prompt 0: A prompt is a single chat message. Put it in a list"),
        (lambda: ["a", TALK, TALK], "Prompt 1 is a conversation, the first one is text"),
        (lambda: [TALK, TALK, "a"], "Prompt 2 is text, the first one is a conversation"),
        (lambda: [{"prompt": "a", 3: 4}], "Prompt 0 has the column 3; names of columns must be text"),
        (lambda: [{"prompt": "a", "log_metric": 4}], "a column 'log_metric', a name that reward functions already use"),
        (lambda: [{"prompt": "a", "chat_template_kwargs": "no"}], "Prompt 0: `chat_template_kwargs` must map names"),
        (lambda: [{3: "a"}], "Prompt 0 is a mapping without a 'prompt'. Its keys: 3"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_prompts_is_refused(make, said):
    with pytest.raises(PromptError, match=said):
        read_rows(make())


@pytest.mark.parametrize(
    ("held_out", "said"),
    [
        (["a", "b"], r"`eval_prompts`, prompt 0 has the columns \[\], `prompts` have \['answer'\]"),
        ([{**row, "level": 3} for row in ROWS], r"has the columns \['answer', 'level'\], `prompts` have \['answer'\]"),
        ([{**row, "prompt": TALK} for row in ROWS], "`eval_prompts`, prompt 0 is a conversation, `prompts` are text"),
        ([], "There are no prompts: `eval_prompts` is empty"),
    ],
)
def test_held_out_prompts_are_like_those_to_train_on(held_out, said):
    with pytest.raises(PromptError, match=said):
        read_rows(held_out, "eval_prompts", like=read_rows(ROWS))
