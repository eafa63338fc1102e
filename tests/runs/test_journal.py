"""The journal: one event a line, in JSON that anyone reads, and a torn last line does no harm."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pareto_align.runs import journal as journal_module
from pareto_align.runs.journal import Journal, read_journal, scan_journal


def test_events_are_written_one_a_line_and_handed_to_the_callbacks(tmp_path):
    seen = []
    journal = Journal(tmp_path / "journal.jsonl", [seen.append])
    journal.write("start", objectives=["a"])
    journal.write("step", step=1, values=np.array([[0.5, np.nan]]), flag=np.bool_(True), count=np.int64(3))
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    assert all(event.pop("crc") for event in written)
    assert written == seen == read_journal(journal.path)
    assert seen[1]["values"] == [[0.5, None]]
    assert seen[1]["flag"] is True
    assert seen[1]["count"] == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_json_has_no_word_for_what_is_not_finite(value, tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("step", kl=[1.0, value], deep={"x": (value,)})
    event = json.loads(journal.path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert event["kl"] == [1.0, None]
    assert event["deep"] == {"x": [None]}


def test_an_event_is_on_disk_before_a_callback_sees_it(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path, [lambda event: read_journal(path)[-1] == event or pytest.fail("not on disk")]).write("step", step=1)


def test_a_torn_last_line_is_left_out(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(3):
        journal.write("step", step=step)
    whole = journal.path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1])):
        journal.path.write_bytes(whole[: -cut - 1])
        assert [event["step"] for event in read_journal(journal.path)] == [0, 1]
    journal.path.write_bytes(whole[:-1])  # only the line feed is missing
    assert [event["step"] for event in read_journal(journal.path)] == [0, 1, 2]


def test_a_line_in_which_a_digit_changed_is_passed_over_and_named(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(3):
        journal.write("step", step=step, values=[[0.25]])
    journal.path.write_text(
        journal.path.read_text().replace('"step": 1, "values": [[0.25]]', '"step": 1, "values": [[0.35]]')
    )
    events, problems = scan_journal(journal.path)
    assert [event["step"] for event in events] == [0, 2]
    assert "line 2" in problems[0]


def test_what_was_done_again_after_a_resumption_counts_once(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(4):
        journal.write("step", step=step, first=True)
    with journal.path.open("a") as file:
        file.write('{"event": "step", "st')  # torn by the kill
    again = Journal(journal.path)
    again.resume(2, step=2)
    again.write("step", step=2, first=False)
    events, problems = scan_journal(journal.path)
    assert problems == []
    assert [(e["event"], e["step"], e.get("first")) for e in events] == [
        ("step", 0, True),
        ("step", 1, True),
        ("resumed", 2, None),
        ("step", 2, False),
    ]
    assert again.events == len(events)


def test_a_damaged_line_does_not_move_what_a_resumption_keeps(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(4):
        journal.write("step", step=step, first=True)
    again = Journal(journal.path)
    again.resume(2, step=2)
    again.write("step", step=2, first=False)
    journal.path.write_bytes(journal.path.read_bytes().replace(b'"step": 0', b'"step": 9'))
    events, problems = scan_journal(journal.path)
    assert [(e["step"], e.get("first")) for e in events] == [(1, True), (2, None), (2, False)]
    assert "line 1" in problems[0]


def test_a_reader_reads_only_what_is_new_and_finds_what_a_whole_reading_finds(tmp_path, monkeypatch):
    """Grown byte by byte: torn lines, damaged ones, and a resumed run that takes events back."""
    lines = [{"event": "start"}, *({"event": "step", "step": s} for s in (1, 2, 3)), {"event": "resumed", "kept": 2}]
    text = "".join(json.dumps(line) + "\n" for line in lines[:3]) + "{no event\n"
    text += "".join(json.dumps(line) + "\n" for line in [*lines[3:], {"event": "step", "step": 2}])
    path, parsed = tmp_path / "journal.jsonl", []
    parse = journal_module._event
    monkeypatch.setattr(journal_module, "_event", lambda line: parsed.append(line) or parse(line))
    reader = journal_module.JournalReader(path)
    assert reader.read() == ([], [])
    for end in range(0, len(text) + 1, 7):
        path.write_text(text[:end])
        whole = scan_journal(path)
        parsed.clear()
        assert reader.read() == whole
        assert len(parsed) <= 2
    path.write_text(text)
    assert [event.get("step") for event in reader.read()[0]] == [None, 1, None, 2]
    path.write_text(json.dumps({"event": "start", "of": "another run"}) + "\n")
    assert reader.read()[0] == [{"event": "start", "of": "another run"}]
