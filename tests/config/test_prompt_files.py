"""Prompts from files: every kind, and what is wrong with a line."""

from __future__ import annotations

import json

import pytest

from pareto_align.config import read_prompt_file
from pareto_align.errors import PromptError

CHAT = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("p.txt", "One?\n\n  Two \r\nThree", ["One?", "Two", "Three"]),
        ("p.TXT", "\ufeffOne", ["One"]),
        ("p.txt", "a\u2028b\n", ["a\u2028b"]),
        ("p.jsonl", '"One"\n\n{"prompt": "Two", "answer": 2}\n', ["One", {"prompt": "Two", "answer": 2}]),
        ("p.jsonl", json.dumps({"prompt": "a\u2028b"}, ensure_ascii=False), [{"prompt": "a\u2028b"}]),
        ("p.jsonl", json.dumps({"prompt": CHAT}), [{"prompt": CHAT}]),
        ("p.jsonl", json.dumps(CHAT), [CHAT]),
        ("p.json", json.dumps(["One", {"prompt": "Two"}]), ["One", {"prompt": "Two"}]),
        ("p.csv", 'prompt,answer\n"One,\ntwo",2\nThree,4\n', [
            {"prompt": "One,\ntwo", "answer": "2"}, {"prompt": "Three", "answer": "4"},
        ]),
        ("p.csv", "\ufeffprompt\nOne\n", [{"prompt": "One"}]),
    ],
)  # fmt: skip
def test_every_kind(tmp_path, name, text, prompts):
    (tmp_path / name).write_bytes(text.encode())
    assert read_prompt_file(tmp_path / name) == prompts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"\n \n", r"There are no prompts in .*p\.txt"),
        ("p.txt", b"caf\xe9", "not UTF-8"),
        ("p.xml", b"<p/>", r"Prompts come from \.txt, \.jsonl, \.json, \.csv, \.parquet files. Found .*p\.xml"),
        ("p.jsonl", b'"One"\n{"prompt": \n', r"p\.jsonl, line 2 is not valid JSON"),
        ("p.jsonl", b'{"promt": "One"}', r"line 1 is a mapping without a 'prompt'. Its keys: promt"),
        ("p.jsonl", b"{}", "Its keys: none"),
        ("p.jsonl", b"17", "line 1: A prompt must be a string or a list of chat messages. Found an int: 17"),
        ("p.json", b'{"prompt": "One"}', "must hold a list of prompts. Found a dict"),
        ("p.json", b'["One", 3]', "prompt 1: A prompt must be a string"),
        ("p.jsonl", b'{"prompt": "One", "prompt": "Two"}', "line 1: the key 'prompt' is given twice in one object"),
        ("p.json", b'[{"prompt": "One", "info": {"a": 1, "a": 2}}]', r"p\.json: the key 'a' is given twice"),
        ("p.jsonl", b'"One"\n{"prompt": null}', "line 2: A prompt must be a string.*Found None"),
        ("p.jsonl", b'"One"\n{"prompt": " "}', "line 2: A prompt is empty"),
        ("p.json", b'["One", ""]', "prompt 1: A prompt is empty"),
        ("p.jsonl", b'{"prompt": {"role": "user", "content": "One"}}', "a single chat message. Put it in a list"),
        ("p.jsonl", b'{"prompt": [{"from": "human", "value": "One"}]}', "line 1: Message 0 has ShareGPT's keys"),
        ("p.jsonl", b'{"prompt": "\\ud83d"}', r"line 1: The text holds half of a surrogate pair \(\\ud83d\)"),
        ("p.jsonl", b'{"prompt": "One", "completions": "Two"}', "line 1 has a column 'completions'"),
        ("p.jsonl", b'[{"prompt": "One"}, {"prompt": "Two"}]', r"line 1 holds a list of prompts. Save it as a \.json"),
        ("p.jsonl", b'["One", "Two"]', r"line 1 holds a list of prompts"),
        ("p.jsonl", b'{"prompt": "One", "n": ' + b"9" * 5000 + b"}", "line 1 holds a whole number with too many"),
        ("p.json", b"[" * 100_000, r"p\.json: its values are nested too deeply"),
        ("p.json", b"[\n1,,\n]", "line 2 is not valid JSON"),
        ("p.json", b"[]", "There are no prompts"),
        ("p.csv", b"question,answer\nOne,1\n", "has no column `prompt`. Its columns: question, answer"),
        ("p.csv", b"", "Its columns: none"),
        ("p.csv", b"prompt,answer\nOne\n", "line 2 does not have 2 cells"),
        ("p.csv", b"prompt\nOne,2\n", "line 2 does not have 1 cells"),
        ("p.csv", b"prompt,answer,answer\nOne,1,2\n", r"p\.csv has two columns 'answer'"),
        ("p.csv", b"prompt,answer\nOne,1\n,2\n", "line 3: A prompt is empty"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PromptError, match=message):
        read_prompt_file(tmp_path / name)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.txt").write_text("One?")
    assert read_prompt_file("~/p.txt") == ["One?"]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PromptError, match=r"Cannot read the prompts in .*: No such file"):
        read_prompt_file(tmp_path / "none.txt")
