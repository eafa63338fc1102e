"""Every shipped explorer keeps the contract that plug-ins are held to, with two, three and five objectives.

The two with a Gaussian process have some of these numbers each; all of them with PARETO_ALIGN_ALL_TESTS set.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from amount import ALL

from pareto_align.discovery.explorers import (
    CMORL,
    Adaptive,
    Bayesian,
    CornerWeights,
    Discover,
    Everywhere,
    Evolution,
    Explorer,
    Grid,
    Illuminate,
    Llm,
    RandomPreferences,
    Soups,
    Task,
    available_explorers,
    make_explorer,
)
from pareto_align.front import preferences
from pareto_align.testing.explorer import ExplorerContract


@pytest.fixture(autouse=True, scope="module")
def one_grid_each():
    """The grid of three and more objectives takes pymoo a while; here it is asked for hundreds of times."""
    made = functools.cache(preferences.grid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preferences, "grid", lambda *arguments: made(*arguments).copy())
        yield


class TestGrid(ExplorerContract):
    reacts = False
    symmetric = True

    def make(self) -> Explorer:
        return Grid()


class TestRandom(ExplorerContract):
    def make(self) -> Explorer:
        return RandomPreferences()


class TestAdaptive(ExplorerContract):
    symmetric = True

    def make(self) -> Explorer:
        return Adaptive(patience=1, least=0.01)


class TestAdaptivePSA(ExplorerContract):
    symmetric = True

    def make(self) -> Explorer:
        return Adaptive(rule="psa")


class TestAdaptiveBoth(ExplorerContract):
    def make(self) -> Explorer:
        return Adaptive(rule="both", patience=1)


class TestCornerWeights(ExplorerContract):
    def make(self) -> Explorer:
        return CornerWeights(candidates=32, epsilon=0.02)


class TestCMORL(ExplorerContract):
    def make(self) -> Explorer:
        return CMORL()


class TestCMORLBarrier(ExplorerContract):
    def make(self) -> Explorer:
        return CMORL(extension="barrier", span="value", share=0.2, rounds=5)


class TestBayesian(ExplorerContract):
    rounds = 4
    objectives = (2, 3, 5) if ALL else (2, 5)  # a Gaussian process takes a while

    def make(self) -> Explorer:
        return Bayesian(patience=1, least=0.2, settle=0.5, most=0.4, observations=8, candidates=16, samples=4)


def said(question: str) -> list[str]:
    """A language model that proposes by a rule: nonsense first, then a preference that depends on the question."""
    keys = question.rpartition("keys ")[2].rstrip(".").split(", ")
    weight = 1 + len(question) % 7
    return ["I would try more of everything.", "{" + ", ".join(f"{k}: {weight + i}" for i, k in enumerate(keys)) + "}"]


class TestLlm(ExplorerContract):
    rounds = 4
    objectives = (2, 3, 5) if ALL else (3,)  # what is not said, the same Gaussian process proposes

    def make(self) -> Explorer:
        return Llm(ask=said, patience=1, least=0.2, settle=0.5, most=0.4, observations=8, candidates=16, samples=4)


class TestIlluminate(ExplorerContract):
    def make(self) -> Explorer:
        return Illuminate()


class TestSoups(ExplorerContract):
    rounds = 5

    def make(self) -> Explorer:
        return Soups()


class TestSoupsExtrapolating(ExplorerContract):
    rounds = 6

    def make(self) -> Explorer:
        return Soups(train="bone", kinds=("corners",), extrapolate=0.3)


class TestEvolution(ExplorerContract):
    def make(self) -> Explorer:
        return Evolution()


class TestEvolutionCBO(ExplorerContract):
    def make(self) -> Explorer:
        return Evolution(method="cbo")


class TestEvolutionMeZO(ExplorerContract):
    def make(self) -> Explorer:
        return Evolution(method="mezo")


class TestDiscover(ExplorerContract):
    def make(self) -> Explorer:
        return Discover(patience=1, least=0.01)


class TestEverywhere(ExplorerContract):
    reacts = False

    def make(self) -> Explorer:
        return Everywhere()


def test_every_shipped_explorer_is_held_to_the_contract():
    held = {type(cls().make()) for cls in ExplorerContract.__subclasses__() if cls.__module__ == __name__}
    shipped = {type(make_explorer(name)) for name in available_explorers()}
    assert {cls for cls in shipped if cls.__module__.startswith("pareto_align.")} <= held


class _Broken(Explorer):
    name = "broken"

    def preferences(self, names, population, seed):
        self.calls = 0
        return np.full((population, len(names)), 1 / len(names))


class _OffTheSimplex(_Broken):
    def propose(self, state):
        return [Task(2 * p, "too much") for p in state.preferences]


class _UnknownParent(_Broken):
    def propose(self, state):
        return [Task(p, "where from", "nobody") for p in state.preferences]


class _Forgetful(_Broken):
    def propose(self, state):
        self.calls += 1
        return [Task(np.eye(p.size)[self.calls % p.size], "by turns") for p in state.preferences]


class _Lasting(_Broken):
    turns = 0

    def propose(self, state):
        self.turns += 1
        return [Task(np.eye(p.size)[self.turns % p.size], "by turns") for p in state.preferences]


class _Meddling(_Broken):
    def propose(self, state):
        state.archive.entries.clear()
        return super().propose(state)


class _Biased(_Broken):
    def propose(self, state):
        return [Task(np.eye(p.size)[0], "the first") for p in state.preferences]


class _Unfounded(_Broken):
    def propose(self, state):
        return [Task(p, "no floor", state.alive()[0].id, p + 10) for p in state.preferences]


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (_OffTheSimplex, "test_a_run_holds_together"),
        (_UnknownParent, "test_a_run_holds_together"),
        (_Unfounded, "test_a_run_holds_together"),
        (_Broken, "test_a_run_holds_together"),
        (_Forgetful, "test_state_round_trip"),
        (_Lasting, "test_a_second_run_starts_anew"),
        (_Meddling, "test_what_it_is_shown_stays_as_it_is"),
        (_Biased, "test_permuting_objectives_permutes_tasks"),
    ],
)
def test_the_contract_catches(broken, check):
    class Contract(ExplorerContract):
        symmetric = True

        def make(self) -> Explorer:
            return broken()

    with pytest.raises(AssertionError):
        getattr(Contract(), check)()
