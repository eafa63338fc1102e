"""A weighting, a credit, an explorer and a learner of somebody else's, in one file of theirs, fit a front by name."""

from __future__ import annotations

import importlib
import sys
import textwrap

import numpy as np
import pytest
from aligner_runs import PROBLEM, events, make

from pareto_align.discovery.explorers.base import explorers
from pareto_align.learning.credit import credits
from pareto_align.learning.learner import learners
from pareto_align.testing.credit import CreditContract
from pareto_align.testing.explorer import ExplorerContract
from pareto_align.testing.learner import LearnerContract
from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting.base import weightings

THEIRS = '''
"""Everything that somebody adds from outside: one file."""

import numpy as np
import torch

from pareto_align.arguments import Positive
from pareto_align.discovery.explorers import Explorer, register_explorer
from pareto_align.front import random
from pareto_align.learning import Credit, OnlineLearner, make_credit, register_credit, register_learner
from pareto_align.weighting import Weighting, register


@register("softened")
class Softened(Weighting):
    """Preferences drawn towards equal weights as the run goes on."""

    def __init__(self, *, power: Positive = 2.0):
        self.power = float(power)

    def __call__(self, signal):
        self._check(signal)
        share = 1 - signal.progress**self.power
        return share * signal.preferences + (1 - share) / self.m


@register_credit("halves")
class Halves(Credit):
    """The better half of the answers is pushed up, the other down."""

    def _vector(self, rewards):
        middle = rewards.nanmedian(2, keepdim=True).values
        return (rewards - middle).sign() * (rewards.amax(2, keepdim=True) > rewards.amin(2, keepdim=True))


@register_explorer("scattered")
class Scattered(Explorer):
    """Preferences drawn once and for all."""

    def preferences(self, names, population, seed):
        return random(len(names), population, seed=seed)


@register_learner("twice")
class Twice(OnlineLearner):
    """Policy gradients with coefficients twice as large."""

    def __init__(self):
        super().__init__(make_credit("centred"))
        self.name = "twice"

    def coefficients(self, seen):
        return 2 * super().coefficients(seen)
'''


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    (tmp_path / "their_parts.py").write_text(textwrap.dedent(THEIRS))
    monkeypatch.syspath_prepend(str(tmp_path))
    kept = [(registry, dict(registry._classes)) for registry in (weightings, credits, explorers, learners)]
    yield importlib.import_module("their_parts")
    for registry, classes in kept:
        registry._classes.clear()
        registry._classes.update(classes)
    sys.modules.pop("their_parts", None)


@pytest.mark.parametrize(
    ("contract", "name", "more"),
    [
        (WeightingContract, "Softened", {}),
        (CreditContract, "Halves", {"two_sided": False}),
        (ExplorerContract, "Scattered", {"reacts": False}),
        (LearnerContract, "Twice", {}),
    ],
)
def test_their_contracts_are_green_at_once(theirs, contract, name, more):
    made = getattr(theirs, name)
    checks = type(name, (contract,), {"make": lambda self: made(), **more})
    tests = [name for name in dir(contract) if name.startswith("test_")]
    assert len(tests) >= 8
    for test in tests:
        getattr(checks(), test)()


@pytest.mark.filterwarnings("ignore::pareto_align.ParetoAlignWarning")
def test_they_fit_a_front_together_and_are_told_in_its_record(theirs, tmp_path):
    given = {"weighting": {"name": "softened", "power": 3.0}, "explorer": "scattered"}
    for learner in ("halves", "twice"):
        run = tmp_path / learner
        front = make(output_dir=run, learner=learner, **given).fit(list(PROBLEM.prompts))
        assert len(front) >= 1
        assert front.record.config["weighting"] == "softened"
        assert front.record.config["learner"] == learner
        assert np.isfinite([step["grad_norm"] for step in events(run, "step")]).all()
        make(output_dir=run, learner=learner, **given).resume(run)  # a run that has ended is loaded, and knows them


def test_one_of_ours_stands_where_contributing_says():
    """A weighting's name is in its file, in no other module, in its page and in the index, and nowhere in a study."""
    from pathlib import Path

    root = Path(__file__).parents[1]
    name = '"softmin"'
    told = [p for p in (root / "pareto_align").rglob("*.py") if name in p.read_text(encoding="utf-8")]
    assert [p.name for p in told] == ["scalarizations.py"]
    studies = list((root / "studies").rglob("*.py"))
    assert studies
    assert [p for p in studies if name in p.read_text(encoding="utf-8")] == []
    for page in ("weightings/tchebycheff.md", "configuration.md"):
        assert "`softmin`" in (root / "docs" / page).read_text(encoding="utf-8"), page
