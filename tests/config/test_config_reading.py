"""YAML as it is written by hand, overrides as they are typed, and keys that do not exist."""

from __future__ import annotations

import re

import pytest

from pareto_align.config import read_config
from pareto_align.errors import ConfigError

CONFIG = """\
model: some/model
prompts: prompts.txt
objectives:
  - {name: a, reward: rewards:a}
  - {name: b, reward: rewards:b}
"""


@pytest.fixture
def write(tmp_path):
    def write(text=CONFIG):
        file = tmp_path / "run.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def test_values_are_those_of_the_file(write):
    values = read_config(write(CONFIG + "steps: 20\n"))
    assert values["steps"] == 20
    assert values["objectives"][1] == {"name": "b", "reward": "rewards:b"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("2.5E+2", 250.0), (".5e1", 5.0), ("-1e2", -100.0), ("0.1", 0.1), ("e1", "e1"), ("1e", "1e")],
)
def test_numbers_with_an_exponent_are_numbers(write, text, value):
    """PyYAML reads 1e-3 as text, for YAML 1.1 wants a dot in it."""
    assert read_config(write(f"learning_rate: {text}"))["learning_rate"] == value
    assert read_config(write(), [f"learning_rate={text}"])["learning_rate"] == value


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfsteps: 3\n")
    assert read_config(tmp_path / "bom.yaml") == {"steps": 3}


def test_an_empty_file_has_no_values(write):
    assert read_config(write("# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 1\nsteps: 2\n", r"run\.yaml, line 2: .*the key 'steps' is given twice"),
        ("lora: {r: 1, r: 2}\n", "the key 'r' is given twice"),
        ("steps: [1\n", r"run\.yaml, line \d: this is not valid YAML"),
        ("- steps\n", "must map keys to values. Found a list"),
        ("objectives: {a: b}\n", "`objectives` must be a list of objectives. Found a dict"),
        ("objectives: [a]\n", r"`objectives\.0` must map keys to values. Found 'a'"),
        ("qqq: 20\n", r"Unknown key 'qqq' in .*run\.yaml\.$"),
        ("stpes: 20\n", r"Unknown key 'stpes' in .*run\.yaml. Did you mean 'steps'\?"),
        ("lr: 1\n", "Unknown key 'lr'"),
        ("objectives: [{name: a, rewrad: x:y}]\n", r"Unknown key 'rewrad' in `objectives\.0`. Did you mean 'reward'\?"),
        ("eval_prompts: {file: x.txt}\n", r"Unknown key 'file' in `eval_prompts`. Known: path, count"),
        ("!!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("1: 2\n", "Unknown key 1 in"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(write, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(text))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read the config .*no\.yaml: No such file"):
        read_config(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes("model: münchen".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(tmp_path / "latin.yaml")


# ---- overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("steps=20", "steps", 20),
        ("lora.r=16", "lora", {"r": 16}),
        ("weighting=fixed", "weighting", "fixed"),
        ("weighting.mu=0.1", "weighting", {"name": "chebyshev", "mu": 0.1}),
        ("explorer.room=1e-1", "explorer", {"name": "discover", "room": 0.1}),
        ("eval_prompts.count=8", "eval_prompts", {"count": 8}),
        ("archive_capacity=", "archive_capacity", None),
        ("use_chat_template=false", "use_chat_template", False),
        ("output_dir=a=b", "output_dir", "a=b"),
        ("objectives=[{name: c, reward: r:c}]", "objectives", [{"name": "c", "reward": "r:c"}]),
    ],
)
def test_an_override_sets_its_key(write, override, key, value):
    values = read_config(write(), [override])
    assert values.pop(key) == value
    untouched = read_config(write())
    untouched.pop(key, None)
    assert values == untouched


def test_an_override_reaches_into_lists(write):
    values = read_config(write(), ["objectives.0.bounds=[0,1]", "objectives.1.args.max_words=7"])
    assert values["objectives"] == [
        {"name": "a", "reward": "rewards:a", "bounds": [0, 1]},
        {"name": "b", "reward": "rewards:b", "args": {"max_words": 7}},
    ]


def test_a_name_keeps_its_place_beside_a_setting(write):
    assert read_config(write("weighting: fixed"), ["weighting.gain=2"])["weighting"] == {"name": "fixed", "gain": 2}
    assert read_config(write("eval_prompts: 9"), ["eval_prompts.path=/x"])["eval_prompts"] == {"count": 9, "path": "/x"}
    held_out = read_config(write("eval_prompts: held.txt"), ["eval_prompts.count=4"])["eval_prompts"]
    assert held_out == {"path": "held.txt", "count": 4}


def test_later_overrides_win(write):
    assert read_config(write("steps: 1"), ["steps=2", "steps=3"])["steps"] == 3


def test_paths_that_are_typed_are_relative_to_the_current_folder(write, tmp_path, monkeypatch):
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    values = read_config(write(), ["prompts=mine.txt", "eval_prompts.path=held.txt", "model=./model"])
    assert values["prompts"] == str(here / "mine.txt")
    assert values["eval_prompts"] == {"path": str(here / "held.txt")}
    assert values["model"] == str(here / "model")
    assert read_config(write(), ["model=acme/model"])["model"] == "acme/model"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "written key=value, such as steps=20 or lora.r=16. Found 'steps'"),
        ("=3", "written key=value"),
        ("lora..r=3", "written key=value"),
        ("stpes=3", "Unknown key 'stpes' in .* Did you mean 'steps'"),
        ("objectives.2.bounds=[0,1]", "`objectives` has 2 entries, counted from 0; there is no '2'"),
        ("objectives.-1.bounds=[0,1]", "there is no '-1'"),
        ("objectives.a.bounds=[0,1]", "there is no 'a'"),
        ("objectives.0.nmae=x", "Unknown key 'nmae' in `objectives.0`. Did you mean 'name'"),
        ("model.name=x", "`model` is 'some/model', which has no 'name' to set"),
        ("objectives.0.name.first=x", "`objectives.0.name` is 'a', which has no 'first' to set"),
        ("steps=[1", "this is not valid YAML"),
    ],
)
def test_overrides_that_do_not_fit(write, override, message):
    with pytest.raises(ConfigError, match=re.compile(message)):
        read_config(write(), [override])
