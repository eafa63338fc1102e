"""Questions in the terminal: replies that are piped, a session that is kept, and what is refused."""

from __future__ import annotations

import io
import json

import pytest

from pareto_align.front.storage import content_digest


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
    refused = cli("elicit", run, "--session", kept, "--questions", "9", "--at-most", "length=40")
    assert refused.code == 2
    assert "goes on with its own settings. Leave out --questions, --at-most." in refused.err


def test_what_is_no_reply_is_refused(cli, run, replies):
    replies("maybe\n")
    found = cli("elicit", run, "--show", "values")
    assert found.code == 2
    assert "A reply is 1, 2 or =, and q to end. Found 'maybe'" in found.err


def test_the_same_answers_of_all_leave_nothing_to_ask(cli, run, replies):
    file = run / "front" / "front.json"
    record = json.loads(file.read_text())
    record.pop("sha256")
    for member in record["members"]:
        for said in member["sample"]:
            said["completion"] = "Hello."
    file.write_text(json.dumps({**record, "sha256": content_digest(record)}))
    replies("")
    found = cli("elicit", run)
    assert found.code == 0
    assert "Question" not in found.err


def test_limits_hold(cli, run, replies):
    replies("1\n1\n")
    found = cli("elicit", run, "--show", "values", "--at-most", "length=40", "--json")
    lines = [json.loads(line) for line in found.out.splitlines()]
    assert lines[-1]["member"] in "bc"
    shown = [line[side]["length"] for line in lines[:-1] for side in ("first_values", "second_values")]
    assert shown
    assert all(float(value) <= 40 for value in shown)
