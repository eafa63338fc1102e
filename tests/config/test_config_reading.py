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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"), ("-010", "-010"), ("01.50", "01.50"), ("12:30", "12:30"), ("1:30:00.5", "1:30:00.5"),
        ("2024-01-01", "2024-01-01"), ("2024-13-45", "2024-13-45"), ("2001-12-14t21:59:43.10-05:00",) * 2,
        ("1_000", "1_000"), ("0b11", "0b11"), ("no", "no"), ("Yes", "Yes"), ("ON", "ON"), ("off", "off"), ("y", "y"),
        ("!!str 10", "10"), ("=", "="), ("0o17", 15), ("0x1F", 31), ("0", 0), ("-0", 0), ("+12", 12), ("12", 12),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), (".5", 0.5), ("-1.", -1.0),
        (".inf", float("inf")), ("-.INF", float("-inf")), ("!!int 7", 7), ("!!float 7", 7.0), ("!!bool TRUE", True),
    ],
)  # fmt: skip
def test_columns_of_inline_prompts_have_the_values_of_yaml_1_2(write, text, value):
    """PyYAML reads YAML 1.1, where no is false (ISO's Norway), 010 is 8, 12:30 is 750 and 2024-01-01 a date."""
    found = read_config(write(f"prompts:\n- {{prompt: a, column: {text}}}\n"))["prompts"][0]["column"]
    assert (found, type(found)) == (value, type(value))
    override = read_config(write(), [f"prompts=[{{prompt: a, column: {text}}}]"])["prompts"][0]["column"]
    assert (override, type(override)) == (value, type(value))


def test_yes_and_no_are_truths_where_one_is_wanted(write):
    values = read_config(
        write(
            "use_chat_template: no\ngradient_checkpointing: Yes\ntuning: {prune: off, space: {clip: {log: yes}}}\n"
            "objectives: [{name: a, maximize: on}]\n"
        ),
        ["trust_remote_code=yes"],
    )
    assert values["use_chat_template"] is False
    assert values["gradient_checkpointing"] is True
    assert values["trust_remote_code"] is True
    assert values["tuning"] == {"prune": False, "space": {"clip": {"log": True}}}
    assert values["objectives"][0]["maximize"] is True


@pytest.mark.parametrize(
    "text",
    [
        "objectives:\n- {name: a, reward: 'x:y', args: {group: no}}\n",
        "\nlora: {use_rslora: no}\n",
        "\nlearner: {name: no}\n",
        "\nmodel: no\n",
    ],
)
def test_a_word_that_may_mean_two_things_is_refused(write, text):
    with pytest.raises(ConfigError, match=r'line 2: no may be a truth or a word\. Write false, or "no" in'):
        read_config(write(text))


def test_anchors_and_merged_mappings_are_read(write):
    values = read_config(
        write("objectives:\n- &a {name: a, reward: 'x:y', role: audit}\n- &b {<<: *a, name: b}\n- {<<: *b, name: c}\n")
    )
    assert values["objectives"][2] == {"name": "c", "reward": "x:y", "role": "audit"}


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
        ("eval_prompts: {file: x.txt}\n", r"Unknown key 'file' in `eval_prompts`. Known: path, dataset, .*, count"),
        ("!!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("1: 2\n", "Unknown key 1 in"),
        ("steps: !!timestamp x\n", "line 1: this is not valid YAML: could not determine a constructor"),
        ("steps: !!binary ä\n", "could not determine a constructor"),
        ("prompts: !!set {a, b}\n", "could not determine a constructor"),
        ("steps: !!int x\n", r"run\.yaml, line 1: 'x' cannot be read as int"),
        ("steps: !!int 010\n", "'010' cannot be read as int"),
        ("steps: !!float x\n", "'x' cannot be read as float"),
        ("trust_remote_code: !!bool x\n", "'x' cannot be read as bool"),
        ("seed: " + "9" * 5000 + "\n", "'9999.* cannot be read as int"),
        ("prompts: [{prompt: a, prompt: b}]\n", "the key 'prompt' is given twice"),
        ("prompts: " + "[" * 5000 + "]" * 5000, r"run\.yaml: its values are nested too deeply"),
        ("prompts: &a [*a]\n", "an alias stands within what it names"),
        ("steps: \x00\n", "this is not valid YAML"),
        ("num_generations: 4\n", r"Unknown key 'num_generations' in .*Did you mean 'group_size'\?"),
        ("reward_weights: [1, 2]\n", "Unknown key 'reward_weights' in .*every policy has its own"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(write, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(text))


@pytest.mark.parametrize("value", ["[*a, *a, *a, *a, *a, *a, *a, *a]", "{<<: [*a, *a, *a, *a, *a, *a, *a, *a]}"])
def test_a_small_file_that_unfolds_to_a_large_one_is_refused(write, value):
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{level}: &a{level} " + value.replace("*a", f"*a{level - 1}") for level in range(1, 12)]
    with pytest.raises(ConfigError, match="its aliases unfold to more than 1,000,000 values"):
        read_config(write("\n".join(lines)))


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
