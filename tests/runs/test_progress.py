"""What a run shows: lines in a log, a bar on a terminal, one output in a notebook, and nothing where nobody asked."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from aligner_runs import PROBLEM, events, fit

from pareto_align.runs import pace, progress
from pareto_align.runs.notebook import Live, NotebookView
from pareto_align.runs.pace import duration
from pareto_align.runs.progress import PlainLines, ProgressBar, follow

EVALUATION = {
    "event": "evaluation", "step": 10, "hypervolume": 0.5041, "hypervolume_low": 0.4, "hypervolume_high": 0.6,
    "members": 2, "front": [[0.1, 0.9], [0.8, 0.2]],
}  # fmt: skip
START = {"event": "start", "reference": [0.2, 0.3]}
STORY = [
    {"event": "stage", "stage": "loading the model"},
    {"event": "stage", "stage": "measuring the untrained model"},
    START,
    *({"event": "step", "step": step} for step in range(1, 11)),
    EVALUATION,
    {"event": "stalled", "policy": 1, "step": 10, "action": "left as it is"},
    {"event": "end"},
]


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


class Terminal(io.StringIO):
    def isatty(self):
        return True


# ---- a log -----------------------------------------------------------------------------------------------------------


def test_a_log_gets_a_line_for_each_stage_and_each_evaluation(capsys, clock):
    lines = PlainLines(100)
    for event in STORY:
        clock.now += 7.0
        lines(event)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "pareto-align: loading the model",
        "pareto-align: measuring the untrained model",
        "pareto-align: step 10 of 100: hypervolume 0.504 (0.400 to 0.600), 2 members, 1 min 38 s, "
        "about 11 min 33 s left",
        "pareto-align: policy 1 stalled at step 10: left as it is",
    ]


def test_what_a_family_is_measured_at_afterwards_is_shown_as_well(capsys):
    """The front of a family is published at the end, from what is measured after the last evaluation."""
    lines, view = PlainLines(10), NotebookView(10, ["a", "b"], [0, 1], Display())
    for event in [*STORY[:-1], {**EVALUATION, "event": "further", "hypervolume": 0.7, "members": 9}]:
        lines(event)
        view(event)
    told = "step 10 of 10, further preferences: hypervolume 0.700 (0.400 to 0.600), 9 members"
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert "hypervolume 0.700 (0.400 to 0.600), 9 members" in view.page()


def test_a_resumed_run_is_timed_from_where_it_goes_on(capsys, clock):
    lines = PlainLines(100)
    lines({"event": "resumed", "step": 90})
    clock.now = 5.0
    lines({"event": "step", "step": 91})
    lines({**EVALUATION, "step": 91, "members": 1, "hypervolume_low": None})
    assert capsys.readouterr().err.splitlines() == [
        "pareto-align: going on from step 90 of 100",
        "pareto-align: step 91 of 100: hypervolume 0.504, 1 member, 5 s, about 45 s left",
    ]


def test_an_evaluation_whose_hypervolume_is_not_known_is_shown(capsys):
    PlainLines(10)({**EVALUATION, "hypervolume": None})
    assert "step 10 of 10: hypervolume not known, 2 members, 0 s\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.6, "1 min 00 s"), (600, "10 min 00 s"), (7260, "2 h 01 min")]
)
def test_durations_are_in_two_units(seconds, text):
    assert duration(seconds) == text


def test_a_run_in_a_pipe_says_what_it_does_on_stderr_only(tmp_path, capsys):
    fit(tmp_path / "run", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("pareto-align: ")]
    assert lines[:2] == ["pareto-align: loading the model", "pareto-align: measuring the untrained model"]
    measured = [event["step"] for event in events(tmp_path / "run", "evaluation")]
    assert [int(re.search(r"step (\d+) of 4: hypervolume \d", line)[1]) for line in lines[2:4]] == measured == [2, 4]


def test_a_run_that_is_to_be_silent_is(tmp_path, capsys):
    fit(tmp_path / "run", progress=False)
    assert capsys.readouterr() == ("", "")


# ---- a terminal ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bars(monkeypatch):
    made = []

    class Bar:
        def __init__(self, total, unit, file):
            self.n, self.initial, self.total, self.said, self.open = 0, 0, total, [], True
            made.append(self)

        def reset(self, total):
            self.n, self.total = 0, total

        def update(self):
            self.n += 1

        def set_description(self, text):
            self.said.append(text)

        set_postfix_str = set_description

        def write(self, text, file):
            self.said.append(text)

        def close(self):
            self.open = False

    monkeypatch.setattr(progress, "tqdm", Bar)
    return made


def test_the_bar_of_a_resumed_run_begins_where_the_run_goes_on(bars):
    for begun in ([("resumed", 6)], [("start", None)], [("resumed", 0), ("start", None)]):
        show = ProgressBar(8)
        for kind, step in begun:
            show({"event": kind} | ({} if step is None else {"step": step}))
        show({"event": "step", "step": 1})
        show({"event": "end"})
    assert [(bar.initial, bar.n, bar.total, bar.open) for bar in bars] == [
        (6, 7, 8, False), (0, 1, 8, False), (0, 1, 8, False),
    ]  # fmt: skip


def test_the_bar_stands_before_the_model_is_loaded_and_says_what_goes_on(bars):
    show = ProgressBar(10)
    show(STORY[0])
    assert [bar.said for bar in bars] == [["loading the model"]]
    for event in STORY[1:]:
        show(event)
    assert bars[0].said[1:] == [
        "measuring the untrained model",
        "fitting the front",
        "hypervolume 0.504 (0.400 to 0.600), 2 members",
        "policy 1 stalled at step 10: left as it is",
    ]
    assert (bars[0].n, bars[0].open) == (10, False)


def test_a_bar_is_closed_where_loading_fails(bars, monkeypatch, tmp_path):
    from pareto_align import ModelError

    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(ModelError):
        fit(tmp_path / "run", model="./no-such-folder", progress=True)
    assert [bar.open for bar in bars] == [False]


def test_a_real_bar_draws_on_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    show = follow(10, ["a", "b"], [0, 1])
    assert isinstance(show, ProgressBar)
    for event in STORY:
        show(event)
    drawn = sys.stderr.getvalue()
    assert "loading the model" in drawn
    assert "fitting the front: 100%" in drawn


# ---- a notebook ------------------------------------------------------------------------------------------------------


class Display:
    """Stands in for IPython's: keeps what is shown, and what it is updated to."""

    def __init__(self):
        self.shown = []

    def __call__(self, shown, display_id):
        assert display_id
        self.shown.append(shown._repr_html_())
        return self

    def update(self, shown):
        self.shown[-1] = shown._repr_html_()
        ElementTree.fromstring(f"<div>{self.shown[-1]}</div>")  # well-formed, whatever the names are


def test_a_notebook_shows_one_output_with_the_front_in_it():
    display = Display()
    view = NotebookView(10, ["tone <b>", "size & co"], [0, 1], display)
    for event in STORY:
        view(event)
    view.close()
    (page,) = display.shown
    assert "<b>done</b>, step 10 of 10" in page
    assert "hypervolume 0.504 (0.400 to 0.600), 2 members, measured at step 10" in page
    assert page.count("<circle") == 2
    assert page.count("<title>untrained</title>") == 1
    assert "<td>2</td><td>0.8</td><td>0.2</td>" in page  # the numbers too
    view({**EVALUATION, "hypervolume": 0.9})
    view({**EVALUATION, "hypervolume": None})
    assert 'title="hypervolume at each measurement">▁█ </span>' in display.shown[0]
    assert "tone &lt;b&gt;" in page
    assert "size &amp; co" in page


@pytest.mark.parametrize("axes", [[0], [0, 1, 2]])
def test_other_than_two_objectives_are_a_table(axes):
    display = Display()
    view = NotebookView(10, ["a", "b", "c<"], axes, display)
    view({"event": "start", "reference": [0.1, 0.2, None]})
    view({**EVALUATION, "front": [[0.12345, 0.5, 0.25]]})
    (page,) = display.shown
    assert "<th>c&lt;</th>" in page
    assert "<td>1</td><td>0.1235</td><td>0.5</td><td>0.25</td>" in page
    assert "<td>untrained</td><td>0.1</td><td>0.2</td><td></td>" in page


@pytest.mark.parametrize("front", [[], None, [[0.5, 0.5]], [[0.5, None]]])
def test_a_front_of_none_or_one_is_shown(front):
    display = Display()
    view = NotebookView(10, ["a", "b"], [0, 1], display)
    view({"event": "resumed", "step": 4})
    view({**EVALUATION, "front": front})
    assert display.shown[0].count("<circle") == (1 if front == [[0.5, 0.5]] else 0)


@pytest.mark.parametrize(("kernel", "kind"), [(object(), NotebookView), (None, PlainLines)])
def test_a_notebook_is_told_from_ipython_in_a_terminal(monkeypatch, kernel, kind):
    class Shell:
        pass

    class IPython:
        @staticmethod
        def get_ipython():
            shell = Shell()
            shell.kernel = kernel
            return shell

    class Module:
        display = print

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    monkeypatch.setitem(sys.modules, "IPython.display", Module)
    assert isinstance(follow(10, ["a"], [0]), kind)


def test_without_stderr_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    show = follow(10, ["a"], [0])
    show(STORY[0])
    show.close()


# ---- the callback ----------------------------------------------------------------------------------------------------


def test_the_callback_shows_each_run_in_an_output_of_its_own_and_nothing_is_shown_twice(tmp_path, capsys):
    display = Display()
    live = Live(display)
    front, aligner = fit(tmp_path / "run", progress=True, callbacks=[live])
    (page,) = display.shown
    assert "<b>done</b>, step 4 of 4" in page
    assert all(f"<th>{name}</th>" in page for name in front.names)
    (*_, measured) = events(tmp_path / "run", "evaluation")
    assert page.count("<circle") == measured["members"] > 0
    aligner.fit(PROBLEM.prompts, output_dir=tmp_path / "again")
    assert len(display.shown) == 2
    assert display.shown[0] == page
    assert capsys.readouterr().err == ""  # no lines beside it


def test_the_callback_is_shown_where_the_run_is_silent(tmp_path, capsys):
    display = Display()
    fit(tmp_path / "run", progress=False, callbacks=[Live(display)])
    assert len(display.shown) == 1
    assert capsys.readouterr() == ("", "")


def test_outside_of_a_notebook_the_callback_leaves_the_run_its_lines(tmp_path, capsys):
    live = Live()
    fit(tmp_path / "run", progress=True, callbacks=[live])
    assert live.view is None
    assert "pareto-align: loading the model\n" in capsys.readouterr().err


def test_in_a_notebook_the_callback_finds_the_display_and_is_the_only_output(tmp_path, monkeypatch):
    display = Display()

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    fit(tmp_path / "run", progress=True, callbacks=[Live()])
    assert len(display.shown) == 1
    fit(tmp_path / "other", progress=True)  # without it the run shows itself
    assert len(display.shown) == 2
