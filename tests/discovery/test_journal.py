"""The journal: one event a line, in JSON that anyone reads, and a torn last line does no harm."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pareto_align.discovery.journal import Journal, read_journal
from pareto_align.discovery.progress import ProgressBar


def test_events_are_written_one_a_line_and_handed_to_the_callbacks(tmp_path):
    seen = []
    journal = Journal(tmp_path / "journal.jsonl", [seen.append])
    journal.write("start", objectives=["a"])
    journal.write("step", step=1, values=np.array([[0.5, np.nan]]), flag=np.bool_(True), count=np.int64(3))
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == seen == read_journal(journal.path)
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


def test_the_progress_bar_is_silent_where_nobody_looks(capsys):
    bar = ProgressBar(3)
    bar({"event": "step", "step": 1})  # before the start: nothing to show, nothing to break
    bar({"event": "start"})
    bar({"event": "step", "step": 1})
    bar({"event": "evaluation", "step": 1, "hypervolume": 0.5, "members": 2})
    bar({"event": "stalled", "step": 1, "policy": 0, "action": "left as it is"})
    bar({"event": "end"})
    assert capsys.readouterr() == ("", "")
