"""Mixtures on the command line: who takes part, folders, answers, and talking to one."""

from __future__ import annotations

import json

import numpy as np


def test_who_takes_part_and_what_is_predicted(cli, fitted, tmp_path):
    found = cli("blend", fitted, "--prefer", "friendly=0.6", "short=0.4", "--json")
    assert found.code == 0, found.err
    told = found.json()
    assert told["by"] == "logits"
    assert sum(told["coefficients"].values()) == 1
    assert set(told["predicted"]) == {"friendly", "short"}
    out = tmp_path / "soup"
    text = cli("blend", fitted, "--prefer", "friendly=0.6", "short=0.4", "--by", "soup", "--out", out).out
    assert f"Folder: {out}" in text
    assert (out / "adapter_model.safetensors").exists()


def test_a_mixture_answers(cli, fitted):
    found = cli("blend", fitted, "--prefer", "friendly=0.6", "short=0.4", "--prompt", "do you like tea")
    assert found.code == 0
    assert "Disagreement: " in found.out
    asked = "chat", fitted, "--prefer", "friendly=0.6", "short=0.4", "--prompt", "do you like tea", "--json"
    for way in ("logits", "soup"):
        said = json.loads(cli(*asked, "--by", way).out)
        assert said["member"].startswith("blend-")
        assert said["completion"]


def test_what_does_not_go_together(cli, fitted):
    found = cli("chat", fitted, "--prefer", "friendly=1", "--by", "soup", "--rule", "linear", "--prompt", "x")
    assert found.code == 2
    assert "--by mixes members for a preference" in found.err
    found = cli("blend", fitted, "--prefer", "friendly=1", "--by", "map")
    assert found.code == 2
    assert "trained as independent policies" in found.err


def test_a_gate_chooses_a_member_for_each_prompt(cli, fitted, tmp_path):
    from pareto_align import ParetoFront
    from pareto_align.front.routing import Regression
    from pareto_align.gate import Gate

    front = ParetoFront.load(fitted)
    n, width = len(front), 16
    table = np.random.default_rng(0).uniform(size=(n, 6, len(front.names)))
    flat = Regression(np.zeros(width), np.zeros((width, n * len(front.names))), table.mean(1).ravel())
    gate = Gate(front.names, tuple(member.id for member in front), flat, table, table).save(tmp_path / "gate")
    asked = ("blend", fitted, "--prefer", "friendly=0.6", "short=0.4", "--by", "routed")
    found = json.loads(cli(*asked, "--gate", gate, "--json").out)
    assert found["by"] == "routed"
    assert set(found["experts"]) <= {member.id for member in front}
    assert "gate" in cli(*asked).err
    assert "leave --out away" in cli(*asked, "--gate", gate, "--out", tmp_path / "out").err
