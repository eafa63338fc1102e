"""A stranger's front may be called anything: nothing that is shown of it drives a terminal or turns text round."""

from __future__ import annotations

import io
import json
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # the builders that tests/report has, too

from front_records import estimate, objective, record

from pareto_align.cli import main
from pareto_align.cli.output import print_json
from pareto_align.errors import ParetoAlignError, ParetoAlignWarning, PreferenceError
from pareto_align.front import FrontRecord, write_front
from pareto_align.printable import one_line, printable
from pareto_align.report.front_plot import draw_front, front_info
from pareto_align.report.tradeoff_plot import draw_tradeoff, tradeoff_info
from pareto_align.result import ParetoFront

# a colour, a bell, one byte that begins an escape, backspace, delete, right-to-left override, isolate, zero-width space
EVIL = "\x1b[31mred\x07\x9b2J\x08\x7f\u202eltr\u2066\u200b"
HIDDEN = set(EVIL) - set("[31mred2Jltr")


def hostile(**more: object) -> FrontRecord:
    fields = {"fallen": [{"id": EVIL, "values": [0.1, 0.1], "stderr": [0.1, 0.1], "reason": EVIL, "split": "report"}]}
    return record(
        [objective(EVIL), objective(f"b{EVIL}")],
        [estimate([0.9, 0.1]), estimate([0.5, 0.6]), estimate([0.1, 0.9])],
        [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]],
        ids=[f"{k}{EVIL}" for k in "xyz"],
        base={"name": f"base{EVIL}"},
        **{**fields, **more},
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    def adapter(name: str, folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(bytes(16))

    write_front(tmp_path / "front", hostile(), adapter)
    return tmp_path


def assert_shown(text: str) -> None:
    found = HIDDEN & set(text)
    assert not found, f"{found} in {text!r}"
    assert "red" in text


def test_nothing_that_python_shows_of_it_carries_a_control_character(run: Path) -> None:
    front = ParetoFront.load(run)
    name = front.names[0]
    choice = front.select({name: 0.6, front.names[1]: 0.4})
    texts = [str(front), front.summary(), front.summary(unicode=False), front.card(), front._repr_html_()]
    texts += [repr(front[0]), repr(choice), choice.reason]
    for asked in (
        lambda: front.select({name: 1}, at_least={name: 1e9}),
        lambda: front.select({"none": 1}),
        lambda: front.select([1, 1], at_least={"none": 1}),
        lambda: front.select([1, 1], at_most={name: 1}),
        lambda: front.plot_tradeoff(gain="none"),
    ):
        with pytest.raises(ParetoAlignError) as caught:
            asked()
        texts.append(str(caught.value))
    with pytest.raises(KeyError) as missing:
        front["none"]
    texts.append(str(missing.value))
    for text in texts:
        assert_shown(text)
    assert front.select({name: 1}).member.id == f"x{EVIL}"  # it is asked by the names that are there


def test_nor_does_what_the_command_line_prints(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["front", str(run)],
        ["front", str(run), "--json"],
        ["select", str(run)],
        ["select", str(run), "--json"],
        ["select", str(run), "--prefer", "none=1"],
        ["chat", str(run), "--member", "none", "--prompt", "hello"],
    ):
        main(arguments)
        said = capfd.readouterr()
        assert_shown(said.out + said.err)
    (run / "front" / "members").rename(run / "front" / "gone")
    main(["front", str(run)])
    assert_shown(capfd.readouterr().err)


def test_figures_show_names_as_they_are_and_draw_them() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a control character is a glyph that no font has
        for made in (
            hostile(),
            record([objective("$\\bad{$")], [estimate([0.5]), estimate([0.4])], ids=["$\\x{$", "$"]),
        ):
            draw_front(front_info(made)).savefig(io.BytesIO())
        draw_tradeoff(tradeoff_info(hostile(), gain=EVIL)).savefig(io.BytesIO())
    assert not HIDDEN & set("".join(front_info(hostile()).ids) + front_info(hostile()).title)


def test_json_stays_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": EVIL + "\U000e0041é"})
    said = capsys.readouterr().out
    assert not HIDDEN & set(said)
    assert "é" in said
    assert json.loads(said) == {"name": EVIL + "\U000e0041é"}


def test_errors_and_warnings_keep_their_lines() -> None:
    assert str(PreferenceError("a\n\tb\x1b")) == "a\n\tb�"
    assert str(ParetoAlignWarning("\u202e")) == "�"


@pytest.mark.parametrize(
    "text", ["長さ 😀", "👨\u200d👩\u200d👧", "می\u200cخواهم", "a\u00a0b\u3000c", "naïve\nline\ttab"]
)
def test_text_in_any_script_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text
    assert "�" not in one_line(text)
