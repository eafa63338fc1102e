"""A front driven by hand, in memory: the same steps as `fit`, and nothing on disk."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from aligner_runs import PROBLEM, fit, make


@pytest.mark.parametrize(
    "settings",
    [{}, {"weighting": "mgda"}, {"family": {"name": "gates", "shared": 2, "each": 2}}],
    ids=["default", "gradients", "family"],
)
def test_the_steps_are_those_of_fit(tmp_path, monkeypatch, settings):
    front, aligner = fit(tmp_path / "run", **settings)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with make(**settings).by_hand(list(PROBLEM.prompts)) as discovery:
        while not discovery.trained:
            discovery.tell(discovery.ask())
        assert torch.equal(discovery.population.parameters.cpu(), aligner.policies_)
        archive = discovery.keeper.archive
        assert discovery.step == 4
        assert len(front)
        assert {entry.id for entry in archive.members()} >= {member.id for member in front}
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_whoever_drives_may_judge():
    """Rewards that are turned round lead to the opposite end of what the reward functions ask for."""
    ends = []
    for sign in (1.0, -1.0):
        with make(steps=12, population=1, weighting="fixed", explorer="grid").by_hand(
            list(PROBLEM.prompts)
        ) as discovery:
            while not discovery.trained:
                seen = discovery.ask()
                seen.rewards[...] = sign * seen.rewards
                discovery.tell(seen)
            ends.append(discovery.ask().values().sum())
    assert ends[0] > ends[1] + 0.2


def test_what_is_asked_does_not_depend_on_how_often():
    with make().by_hand(list(PROBLEM.prompts)) as discovery:
        first, again = discovery.ask(), discovery.ask()
        np.testing.assert_array_equal(first.rewards, again.rewards)
        assert discovery.step == 0


def test_the_ten_lines_of_the_contributing_page_run(capsys):
    page = (Path(__file__).parents[2] / "docs" / "contributing.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- by hand -->\n```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    found = {"aligner": make(), "prompts": list(PROBLEM.prompts)}
    exec(compile(block, "contributing.md", "exec"), found)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].isdigit()] == list("1234")
    assert found["members"]
    assert all(entry.origin.step in (2, 4) for entry in found["members"])
