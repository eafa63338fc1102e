"""Tuning from a config, on a model of a few thousand parameters."""

from __future__ import annotations

import json
import sys

import pytest

from pareto_align.result import ParetoFront
from pareto_align.tuning.space import TUNABLE

SMALL = ("steps=1", "eval_group_size=4", "group_size=4", "tuning.trials=2", "tuning.seeds=[5]", "tuning.engine=sobol")


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("rewards", None)


def test_tune_prints_json_and_a_table_of_the_same_sweep(cli, project, tmp_path):
    arguments = [
        "tune",
        project / "run.yaml",
        *SMALL,
        "tuning.confirm_seeds=[6, 7]",
        f"output_dir={tmp_path / 'sweep'}",
    ]
    found = cli(*arguments, "--json")
    assert found.code == 0, found.err
    result = found.json()
    assert result == json.loads((tmp_path / "sweep" / "result.json").read_text())
    assert [trial["status"] for trial in result["trials"]] == ["finished"] * 2
    assert result["default"]["settings"] == {"learning_rate": 0.02, "kl_coef": 0.0, "temperature": 1.0}
    front = ParetoFront.load(tmp_path / "sweep" / "trials" / "001" / "seed_5")
    assert front.record.config["temperature"] == result["trials"][1]["settings"]["temperature"]
    found = cli(*arguments)  # it has ended: nothing is fitted again
    assert found.code == 0, found.err
    assert "by final hypervolume: 2 trials, seeds 5, by a random search" in found.out
    assert f"Budget: {result['cost']['runs']} fits" in found.out
    assert f"Trials: {tmp_path / 'sweep'}" in found.out


def test_a_fit_of_a_sweep_can_be_resumed_by_itself(cli, project, tmp_path):
    arguments = ["tune", project / "run.yaml", *SMALL, f"output_dir={tmp_path / 'sweep'}"]
    assert cli(*arguments).code == 0
    run = tmp_path / "sweep" / "trials" / "001" / "seed_5"
    trial = json.loads((run.parent / "trial.json").read_text())
    overrides = [f"{name}={value}" for name, value in trial["settings"].items()]
    found = cli("resume", run, "--config", project / "run.yaml", *SMALL, *overrides, "seed=5", "--json")
    assert found.code == 0, found.err
    assert [member["id"] for member in found.json()["members"]] == [member.id for member in ParetoFront.load(run)]
    origin = json.loads((run / "run.json").read_text())["origin"]["config"]
    assert {**trial["settings"], "seed": 5}.items() <= origin.items()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tuning.trails=3", "Unknown key 'trails' in `tuning`. Did you mean 'trials'?"),
        ("tuning=3", "`tuning` must map keys to values. Found 3."),
        ("tuning.trials=1", "`trials` must be a whole number of at least 2"),
        ("tuning.confirm_seeds=[5]", "`seeds` and `confirm_seeds` must have none in common"),
        ("tuning.space.steps.low=3", "`space`: 'steps' cannot be tuned."),
        ("tuning.space={}", "`space` must name at least one setting"),
    ],
)
def test_wrong_keys_are_refused_before_anything_is_loaded(cli, project, tmp_path, override, message):
    found = cli("tune", project / "run.yaml", *SMALL, f"output_dir={tmp_path / 'sweep'}", override)
    assert found.code == 2
    assert found.err.startswith(f"error: {message}")
    assert not (tmp_path / "sweep").exists()


def test_the_help_lists_what_can_be_tuned(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = cli("tune", "--help").out
    assert all(name in text for name in TUNABLE)


def test_the_section_is_passed_over_by_fit(cli, project, tmp_path):
    found = cli("fit", project / "run.yaml", *SMALL, f"output_dir={tmp_path / 'run'}")
    assert found.code == 0, found.err
