"""Questions in the terminal: replies that are piped, a session that is kept, and what is refused."""

from __future__ import annotations

import io
import json

import pytest


@pytest.fixture
def replies(monkeypatch):
    """What is typed, line by line."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_replies_lead_to_a_member(cli, fitted, replies):
    replies("1\n2\n=\n1\n1\n1\n")
    found = cli("elicit", fitted)
    assert found.code == 0
    assert "Question 1 of at most 6\nPrompt: do you like" in found.err
    assert "(1)" in found.err
    assert "is best by" in found.out
    assert found.out.splitlines()[-1].startswith("Adapter: ")


def test_as_json_each_question_and_the_choice_are_a_line(cli, run, replies):
    replies("1\nq\n")
    found = cli("elicit", run, "--show", "values", "--json")
    lines = [json.loads(line) for line in found.out.splitlines()]
    assert [line.get("question") for line in lines] == [1, 2, None]
    assert set(lines[0]["first_values"]) == {"tone", "length", "toxicity"}
    assert lines[-1]["member"] in "abc"
    assert sum(lines[-1]["weights"].values()) == pytest.approx(1)
    assert 0 <= lines[-1]["stated_regret"] < 1


def test_a_session_is_kept_and_gone_on_with(cli, run, replies, tmp_path):
    kept = tmp_path / "me.json"
    replies("1\n")
    assert cli("elicit", run, "--show", "values", "--session", kept).code == 0
    assert len(json.loads(kept.read_text())["history"]) == 1
    replies("2\n")
    assert "Question 2 of" in cli("elicit", run, "--session", kept).err
    assert len(json.loads(kept.read_text())["history"]) == 2


def test_what_is_no_reply_is_refused(cli, run, replies):
    replies("maybe\n")
    found = cli("elicit", run, "--show", "values")
    assert found.code == 2
    assert "A reply is 1, 2 or =, and q to end. Found 'maybe'" in found.err


def test_the_same_answers_of_all_leave_nothing_to_ask(cli, run, replies):
    replies("")
    record = json.loads((run / "front" / "front.json").read_text())
    assert len({m["sample"][0]["prompt"] for m in record["members"]}) == 1
    assert cli("elicit", run).code == 0


def test_limits_hold(cli, run, replies):
    replies("1\n1\n")
    found = cli("elicit", run, "--show", "values", "--at-most", "length=40", "--json")
    assert json.loads(found.out.splitlines()[-1])["member"] in "bc"
