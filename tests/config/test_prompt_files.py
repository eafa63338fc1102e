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
        ("p.xml", b"<p/>", r"Prompts come from \.txt, \.jsonl, \.json, \.csv files. Found .*p\.xml"),
        ("p.jsonl", b'"One"\n{"prompt": \n', r"p\.jsonl, line 2 is not valid JSON"),
        ("p.jsonl", b'{"promt": "One"}', r"line 1 has no `prompt`. Its keys: promt"),
        ("p.jsonl", b"{}", "Its keys: none"),
        ("p.jsonl", b"17", "line 1 is neither a text nor an object"),
        ("p.json", b'{"prompt": "One"}', "must hold a list of prompts. Found a dict"),
        ("p.json", b'["One", 3]', "prompt 1 is neither"),
        ("p.json", b"[\n1,,\n]", "line 2 is not valid JSON"),
        ("p.json", b"[]", "There are no prompts"),
        ("p.csv", b"question,answer\nOne,1\n", "has no column `prompt`. Its columns: question, answer"),
        ("p.csv", b"", "Its columns: none"),
        ("p.csv", b"prompt,answer\nOne\n", "line 2 does not have 2 cells"),
        ("p.csv", b"prompt\nOne,2\n", "line 2 does not have 1 cells"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PromptError, match=message):
        read_prompt_file(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PromptError, match=r"Cannot read the prompts in .*: No such file"):
        read_prompt_file(tmp_path / "none.txt")
