"""The schema of configs says what configs are checked by, and a printed config is the config."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from pareto_align.cli import main
from pareto_align.config import (
    OBJECTIVE_KEYS,
    PROMPT_KEYS,
    SECTIONS,
    TUNING_KEYS,
    as_yaml,
    config_schema,
    read_config,
    resolved_config,
)
from pareto_align.errors import ConfigError
from pareto_align.runs.settings import Settings, settings_help

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "fit.yaml"
KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def complaints(value, schema, at="config"):
    """What a validator would say, for the words of JSON Schema that the schema uses."""
    if "anyOf" in schema:
        tried = [complaints(value, one, at) for one in schema["anyOf"]]
        return [] if any(not found for found in tried) else [f"{at} is none of {len(tried)}: {tried}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at} is none of {schema['enum']}")
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind in ("integer", "number"):
            fits = number and (kind == "number" or isinstance(value, int))
        else:
            fits = isinstance(value, KINDS[kind])
        if fits:
            break
    else:
        if kinds:
            found.append(f"{at} is no {kinds}: {value!r}")
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        found.append(f"{at} has no {schema['pattern']}")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        found += [f"{at} lacks {key}" for key in schema.get("required", []) if key not in value]
        for key, inner in value.items():
            if key in known:
                found += complaints(inner, known[key], f"{at}.{key}")
            elif schema.get("additionalProperties") is False:
                found.append(f"{at} has no {key}")
    if isinstance(value, list):
        found += [say for i, one in enumerate(value) for say in complaints(one, schema.get("items", {}), f"{at}.{i}")]
    return found


def test_every_key_is_in_the_schema_with_its_meaning_and_default():
    schema = config_schema()
    assert set(schema["properties"]) == {*SECTIONS, *settings_help()}
    for name, field in settings_help().items():
        if name != "eval_prompts":
            told = schema["properties"][name]
            assert (told["description"], told["default"]) == (field.metadata["help"], field.default)
    one = schema["properties"]["objectives"]["items"]
    assert set(one["properties"]) == set(OBJECTIVE_KEYS)
    assert set(schema["properties"]["prompts"]["anyOf"][-1]["properties"]) == set(PROMPT_KEYS)
    assert set(schema["properties"]["tuning"]["properties"]) == set(TUNING_KEYS)
    assert "chebyshev" in schema["properties"]["weighting"]["anyOf"][0]["enum"]
    json.dumps(schema)


def test_the_example_and_what_is_resolved_of_it_fit_the_schema():
    schema = config_schema()
    assert complaints(read_config(EXAMPLE), schema) == []
    assert complaints(resolved_config(EXAMPLE), schema) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stepz": 3}, "config has no stepz"),
        ({"steps": "many"}, "config.steps is no integer"),
        ({"objectives": []}, ""),
        ({"objectives": [{"reward": "a:b"}]}, "config.objectives.0 lacks name"),
        ({"objectives": [{"name": "a", "role": "judge"}]}, "config.objectives.0.role is none of"),
        ({"weighting": "chebychev"}, "config.weighting is none of"),
        ({"prompts": {"datset": "x"}}, "config.prompts is none of"),
        ({"top_k": None, "top_p": 0.9, "eval_prompts": 32, "learner": {"name": "dpo", "beta": 0.1}}, None),
        ({"eval_prompts": {"path": "a.txt", "count": 3}, "weighting": "mine:Own", "report_to": ["wandb"]}, None),
    ],
)
def test_an_editor_sees_what_reading_refuses(change, said):
    values = {**read_config(EXAMPLE), **change}
    found = complaints(values, config_schema())
    if said is None:
        assert found == []
    elif said:
        assert any(said in one for one in found), found


def test_a_resolved_config_is_the_same_run():
    values = resolved_config(EXAMPLE, ["steps=7", "lora.r=3"])
    assert values["steps"] == 7
    assert values["lora"]["r"] == 3
    assert set(settings_help()) <= set(values)
    assert yaml.safe_load(as_yaml(values)) == json.loads(json.dumps(values))


def test_a_printed_config_reads_as_itself(tmp_path, capsys):
    assert main(["config", str(EXAMPLE), "--print", "steps=7", "learning_rate=1e-3"]) == 0
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
    assert resolved_config(tmp_path / "again.yaml") == resolved_config(EXAMPLE, ["steps=7", "learning_rate=1e-3"])
    assert main(["config", str(EXAMPLE), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["population"] == resolved_config(EXAMPLE)["population"]
    assert main(["config", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == config_schema()


def test_held_out_prompts_as_a_number_or_a_file(tmp_path):
    text = "model: m\nprompts: [a]\nobjectives:\n  - {name: a, reward: 'x:y'}\n"
    (tmp_path / "a.yaml").write_text(text)
    assert resolved_config(tmp_path / "a.yaml")["eval_prompts"] == Settings().eval_prompts
    assert resolved_config(tmp_path / "a.yaml", ["eval_prompts=9"])["eval_prompts"] == 9
    held = resolved_config(tmp_path / "a.yaml", ["eval_prompts=held.txt"])["eval_prompts"]
    assert Path(held).name == "held.txt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give a CONFIG to print"),
        (["--schema", str(EXAMPLE)], "give no CONFIG"),
        ([str(EXAMPLE), "stepz=3"], "Did you mean 'steps'"),
        ([str(EXAMPLE), "steps=0"], "at least 1"),
        ([str(EXAMPLE), "steps=many"], "must be a whole number"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(arguments, message, capsys):
    assert main(["config", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_settings_out_of_range_are_config_errors():
    with pytest.raises(ConfigError, match="temperature"):
        resolved_config(EXAMPLE, ["temperature=-1"])


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_options_and_files(shell, capsys):
    pytest.importorskip("shtab", reason="shtab (extra `completion`) is not installed")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("pareto-align", "export", "--merge", "tradeoff", "bash"):
        assert word in script


def test_completion_without_its_package(monkeypatch, capsys):
    monkeypatch.setattr("pareto_align.cli.configuring.find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 2
    assert "pareto-align[completion]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("weighting=chebishev", "Did you mean 'chebyshev'"),
        ("explorer.name=grids", "Did you mean 'grid'"),
        ("learner=grop", "Did you mean 'grpo'"),
        ("family=gate", "Did you mean 'gates'"),
        ("explorer.margn=0.1", "margin"),
    ],
)
def test_a_part_that_does_not_exist_is_told(override, words):
    with pytest.raises(ConfigError, match=words):
        resolved_config(EXAMPLE, [override])


def test_a_class_of_the_users_own_is_not_looked_at():
    assert resolved_config(EXAMPLE, ["weighting=missing:Own"])["weighting"] == "missing:Own"
