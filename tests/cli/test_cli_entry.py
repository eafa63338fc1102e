"""The program as a whole: help, exit statuses, what goes where, and what it costs to ask."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from pareto_align.cli import entry, kinds, main
from pareto_align.cli.parser import build_parser
from pareto_align.config import OBJECTIVE_KEYS, SECTIONS, settings_rows
from pareto_align.data import comparison_formats, labels, ratings
from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.front.selection import RULES
from pareto_align.objectives.learned import scores
from pareto_align.report.export import FORMATS
from pareto_align.result import ParetoFront

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = (
    "demo",
    "fit",
    "resume",
    "tune",
    "runs",
    "watch",
    "compare",
    "data",
    "rewards",
    "front",
    "select",
    "blend",
    "elicit",
    "plot",
    "page",
    "chat",
    "export",
    "push",
    "bench",
    "config",
    "completion",
    "env",
)


def commands():
    """The subparser of every command."""
    [found] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return found.choices


def fresh(*arguments, **environment):
    """Run the program in a fresh process."""
    code = "import sys; from pareto_align.cli import main; sys.exit(main())"
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env)


# ---- help ------------------------------------------------------------------------------------------------------------


def test_the_commands_are_those_that_were_promised():
    assert tuple(commands()) == COMMANDS
    assert set(entry._HOMES) == set(COMMANDS)
    for name in COMMANDS:
        assert callable(entry._command(name))


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom pareto_align.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(re.search(rf"^ +{name}( |$)", done.stdout, flags=re.MULTILINE) for name in COMMANDS)
    assert not {"torch", "transformers", "numpy", "matplotlib", "yaml"} & set(done.stderr.split())


def test_looking_at_a_front_loads_no_torch(run):
    code = (
        "import sys\nfrom pareto_align.cli import main\n"
        f"main(['select', {str(run)!r}, '--json'])\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["member"] in "abc"
    assert not {"torch", "transformers", "peft", "matplotlib"} & set(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_json_and_debug(name, cli):
    found = cli(name, "--help")
    assert found.code == 0
    assert "--json" in found.out
    assert "--debug" in found.out


def test_the_help_of_fit_lists_every_key(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")  # wide enough for every meaning to stand on one line
    text = cli("fit", "--help").out
    for name, default, meaning in settings_rows():
        assert re.search(rf"^  {name} +{re.escape(meaning)} \(default {re.escape(default)}\)$", text, re.MULTILINE)
    for key in (*SECTIONS, *OBJECTIVE_KEYS):
        assert re.search(rf"^  {key} +\S", text, re.MULTILINE), key
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, cli("fit", "--help").out.splitlines())) <= 70


def test_choices_are_those_of_the_library():
    assert kinds.RULES == RULES
    assert kinds.FORMATS == FORMATS
    assert tuple(comparison_formats.FORMATS) == kinds.SOURCES[1:]
    assert scores.KINDS == kinds.REWARDS
    assert kinds.PAIRS == ratings.PAIR_RULES
    assert kinds.LABEL_KINDS == labels.KINDS
    assert all(hasattr(ParetoFront, f"plot_{kind}" if kind != "front" else "plot") for kind in kinds.KINDS)


def test_version(cli):
    from pareto_align import __version__

    assert cli("--version").out == f"pareto-align {__version__}\n"


# ---- documentation ---------------------------------------------------------------------------------------------------


def test_every_command_and_option_is_documented_and_no_other():
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE))
    assert tuple(sections) == COMMANDS
    common = text.partition("\n## ")[0]
    for name, parser in commands().items():
        options = {string for action in parser._actions for string in action.option_strings if string[:2] == "--"}
        mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", sections[name]))
        assert options - mentioned <= {"--help", "--debug", "--json"}, name
        assert mentioned <= options, name
    for option in ("--version", "--debug", "--help", "--json"):
        assert option in common


# ---- exit statuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["fitt"], "invalid choice: 'fitt'"),
        (["front"], "required: RUN"),
        (["front", "x", "y"], "unrecognized arguments: y"),
        (["fit", "x.yaml", "--jsno"], "unrecognized arguments: --jsno"),
        (["select", "x", "--prefer", "tone"], "'tone' is not of the form name=number"),
        (["select", "x", "--prefer", "tone=a"], "'tone=a' is not of the form name=number"),
        (["select", "x", "--prefer", "tone=nan"], "'tone=nan' is not of the form"),
        (["select", "x", "--prefer", "=1"], "'=1' is not of the form"),
        (["select", "x", "--prefer", "a=1", "a=2"], "--prefer: 'a' is given twice"),
        (["select", "x", "--prefer", "a=1", "--prefer", "a=2"], "--prefer: 'a' is given twice"),
        (["select", "x", "--rule", "linaer"], "invalid choice: 'linaer'"),
        (["demo", "--steps", "0"], "'0' is not a whole number of at least 1"),
        (["chat", "x", "--temperature", "-1"], "is not a number of at least 0"),
        (["export", "x"], "required: --out"),
    ],
)
def test_wrong_usage_ends_with_2(cli, arguments, message):
    found = cli(*arguments)
    assert found.code == 2
    assert message in found.err
    assert found.out == ""


def test_an_error_of_ours_is_one_line(cli, tmp_path):
    found = cli("front", tmp_path / "nothing")
    assert found.code == 2
    assert found.out == ""
    assert re.fullmatch(r"error: There is no front\.json in .*\n", found.err)


@pytest.mark.parametrize("arguments", [("--debug", "front"), ("front", "--debug")])
def test_debug_shows_the_traceback(arguments, tmp_path):
    from pareto_align.errors import FrontFileError

    with pytest.raises(FrontFileError):
        main([*arguments, str(tmp_path / "nothing")])


def test_defects_are_not_hidden(monkeypatch):
    def broken(arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr(entry, "_command", lambda name: broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["env"])


def test_interrupted_is_130(cli, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_command", lambda name: interrupted)
    found = cli("env")
    assert (found.code, found.err) == (130, "interrupted\n")


def test_our_warnings_are_one_line_and_others_only_for_a_person(cli, monkeypatch):
    def warns(arguments):
        warnings.warn("mind the gap", ParetoAlignWarning, stacklevel=1)
        warnings.warn("internal matters", UserWarning, stacklevel=1)

    monkeypatch.setattr(entry, "_command", lambda name: warns)
    filters, show = list(warnings.filters), warnings.showwarning
    assert cli("env").err == "warning: mind the gap\n"
    assert (warnings.filters, warnings.showwarning) == (filters, show)


def test_errors_of_the_disk_are_ours_too(cli, monkeypatch):
    def full(arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(entry, "_command", lambda name: full)
    found = cli("env")
    assert found.code == 2
    assert found.err == "error: [Errno 28] No space left on device\n"


def test_a_reader_that_goes_away_is_no_error(run):
    code = "import sys; from pareto_align.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "front", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


def test_terminals_without_the_signs_get_plain_ones(run):
    done = fresh("front", str(run), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "+/-" in done.stdout
    assert "±" not in done.stdout


# ---- demo ------------------------------------------------------------------------------------------------------------


def test_demo_hands_its_options_over(cli, monkeypatch, tmp_path):
    import pareto_align.demo

    asked = []
    monkeypatch.setattr(pareto_align.demo, "run_demo", lambda *a, **k: asked.append((a, k)))
    assert cli("demo").code == 0
    assert cli("demo", "--seed", 3, "--steps", 5, "--population", 4, "--output-dir", tmp_path, "--json").code == 0
    assert asked == [
        ((None,), {"seed": 0, "steps": None, "population": None, "json": False}),
        ((tmp_path,), {"seed": 3, "steps": 5, "population": 4, "json": True}),
    ]


def test_demo_reports_what_is_missing(cli, monkeypatch):
    import pareto_align.demo

    def missing(*arguments, **options):
        raise ConfigError("Install the extra.")

    monkeypatch.setattr(pareto_align.demo, "run_demo", missing)
    found = cli("demo")
    assert (found.code, found.err) == (2, "error: Install the extra.\n")


# ---- env -------------------------------------------------------------------------------------------------------------


def test_env_says_what_the_machine_can_do(tmp_path):
    done = fresh("env", "--json", PARETO_ALIGN_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["cache"] == str(tmp_path / "cache")
    assert found["dtype"] in ("bfloat16", "float32", "float16")
    import torch

    assert found["packages"]["torch"] == torch.__version__
    assert found["device"] in ("cpu", "cuda", "mps")
    assert found["packages"]["vllm"] is None or isinstance(found["packages"]["vllm"], str)


def test_env_for_people(cli):
    found = cli("env")
    assert re.search(r"^device +\w+$", found.out, re.MULTILINE)
    assert re.search(r"^torch +\d", found.out, re.MULTILINE)
