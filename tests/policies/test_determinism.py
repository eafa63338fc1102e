"""torch's deterministic mode around the engine's own work, and nowhere else."""

from __future__ import annotations

import os

import pytest
import torch
from aligner_runs import PROBLEM, fit
from torch.utils import deterministic as mode

from pareto_align import Objective
from pareto_align.policies.determinism import VARIABLE, deterministic
from pareto_align.policies.layers.head import Head


def state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        mode.fill_uninitialized_memory,
        os.environ.get(VARIABLE),
    )


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_the_mode_is_put_back_whatever_happens(given, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    if given:
        monkeypatch.setenv(VARIABLE, given)
    before = state()
    with deterministic():
        assert state() == (True, False, False, given or ":4096:8")
    assert state() == before
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.raises(ZeroDivisionError), deterministic():
            raise ZeroDivisionError
        assert state() == (True, True, *before[2:])
    finally:
        torch.use_deterministic_algorithms(False)
    with deterministic(False):
        assert state() == before


@pytest.mark.parametrize("wanted", [False, True])
def test_sampling_and_training_run_in_it_and_rewards_do_not(wanted, tmp_path, monkeypatch):
    inside = {"sampling": set(), "training": set(), "reward": set()}

    def noted(name):
        inside[name].add(torch.are_deterministic_algorithms_enabled())

    def reward(completions, **_):
        noted("reward")
        return [float(len(text)) for text in completions]

    model, read = PROBLEM.model(), Head.read
    model.get_decoder().layers[-1].register_full_backward_hook(lambda *_: noted("training"))
    monkeypatch.setattr(Head, "read", lambda *a, **given: noted("sampling") or read(*a, **given))
    objectives = [*PROBLEM.objectives(), Objective("length", reward, role="audit")]
    fit(tmp_path / "run", objectives, model=model, deterministic=wanted, steps=2)
    assert inside == {"sampling": {wanted}, "training": {wanted}, "reward": {False}}


def test_a_deterministic_run_is_the_same_bytes_again(tmp_path):
    objectives = [
        Objective("a", lambda completions, **_: [float(text.count("a")) for text in completions]),
        Objective("length", lambda completions, **_: [float(len(text)) for text in completions], maximize=False),
    ]
    fronts = []
    for name in ("one", "other"):
        fit(tmp_path / name, objectives, deterministic=True, max_new_tokens=3, sampler="graphs")
        folder = tmp_path / name / "front"
        fronts.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")})
    assert fronts[0] == fronts[1]
    assert fronts[0]
