"""A short whole fit with every explorer: what it proposes is trained, what it mixes is measured."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from aligner_runs import PROBLEM, events, fit

from pareto_align import Objective, ParetoAligner, ParetoAlignWarning
from pareto_align.discovery.explorers import (
    CMORL,
    Adaptive,
    Bayesian,
    Discover,
    Evolution,
    Illuminate,
    Llm,
    RandomPreferences,
    Soups,
    available_explorers,
    make_explorer,
)
from pareto_align.errors import ConfigError
from pareto_align.testing.problems import get_problem

EAGER = {"patience": 1, "least": 1.0, "settle": 0.0, "freeze": 1.0}
SHORT = {"steps": 6, "eval_every": 2, "resolution": 0.0}
EXPLORERS = {
    "adaptive": Adaptive(**EAGER, resolution=0.0),
    "bayesian": Bayesian(**EAGER, observations=8, candidates=8, samples=4),
    "cmorl": CMORL(share=0.3, rounds=2),
    "corner-weights": "corner-weights",
    "discover": Discover(**EAGER, resolution=0.0),
    "everywhere": "everywhere",
    "evolution": Evolution(after=0.0, children=2),
    "grid": "grid",
    "illuminate": Illuminate(after=0.0, children=2),
    "llm": Llm(ask=lambda question: ['{"r1": 1, "r2": 3}', "{}"], **EAGER, observations=8, candidates=8, samples=4),
    "random": RandomPreferences(every=1, freeze=1.0),
    "soups": Soups(after=0.0, least=0.0, resolution=0.0),
}
MIXING = {"discover", "evolution", "illuminate", "soups"}
MOVING = {"adaptive", "bayesian", "cmorl", "discover", "llm", "random"}


def audit(bounds=(0, 1)):
    return Objective(
        "early", lambda completions, **_: [float(text < "c") for text in completions], bounds=bounds, role="audit"
    )


def test_every_explorer_has_a_fit():
    shipped = [n for n in available_explorers() if type(make_explorer(n)).__module__.startswith("pareto_align.")]
    assert sorted(EXPLORERS) == shipped


@pytest.mark.parametrize("name", EXPLORERS)
def test_a_whole_fit(name, tmp_path):
    family = "blocks" if make_explorer(EXPLORERS[name]).for_families else "independent"
    priced = {"kl_coef": 0.1, "weighting": "fixed"} if make_explorer(EXPLORERS[name]).needs_kl else {}
    front, _ = fit(
        tmp_path / "run", [*PROBLEM.objectives(), audit()], explorer=EXPLORERS[name], family=family, **SHORT, **priced
    )
    assert len(front) >= 1
    tasks, mixtures = events(tmp_path / "run", "task"), events(tmp_path / "run", "mixtures")
    assert bool(mixtures) == (name in MIXING)
    assert name not in MOVING or tasks
    assert name in MOVING | {"evolution", "corner-weights"} or not tasks  # these two go by what they find
    for task in tasks:
        np.testing.assert_allclose(sum(task["preference"]), 1)
        assert task["reason"]
    for event in mixtures:
        assert np.isfinite(event["values"]).all()


def test_an_extension_pushes_its_objective_and_watches_its_floors(tmp_path):
    fit(tmp_path / "run", explorer=CMORL(share=0.3, rounds=1), weighting="fixed", **SHORT)
    tasks = events(tmp_path / "run", "task")
    assert len(tasks) == 3
    weights = np.array(events(tmp_path / "run", "step")[-1]["weights"])
    for task in tasks:
        axis = int(np.argmax(task["preference"]))
        assert weights[task["policy"], axis] > 0
        assert task["floors"][axis] is None
    np.testing.assert_allclose(weights.sum(1), 1)


def test_the_children_of_evolution_differ_from_their_parents(tmp_path):
    fit(tmp_path / "run", explorer=Evolution(after=0.0, children=2), **SHORT)
    values = {}
    for event in events(tmp_path / "run"):
        if event["event"] == "mixtures":
            values |= dict(zip(event["names"], event["values"], strict=True))
    assert len({tuple(v) for v in values.values()}) > 1, "the same adapter on the same prompts measures the same"


def test_an_interior_point_keeps_the_floors_where_it_is_asked_for(tmp_path, monkeypatch):
    from pareto_align.weighting import Barrier

    seen = []
    call = Barrier.__call__
    monkeypatch.setattr(Barrier, "__call__", lambda self, signal: seen.append(signal) or call(self, signal))
    fit(tmp_path / "run", explorer=CMORL(share=0.3, rounds=1, extension="barrier"), weighting="fixed", **SHORT)
    assert seen
    assert np.isfinite(seen[-1].slack).any()


def test_the_same_seed_explores_the_same_way(tmp_path):
    for folder in ("one", "two"):
        fit(tmp_path / folder, explorer=Discover(**EAGER, resolution=0.0), **SHORT)
    first, second = ([dict(e, time=0) for e in events(tmp_path / f, "task")] for f in ("one", "two"))
    assert first
    assert first == second


@pytest.mark.parametrize(
    ("explorer", "audits", "said"),
    [
        ("illuminate", [], "Found none"),
        ("illuminate", [audit(bounds=None)], "Found none"),
        (Illuminate(descriptors=["late"]), [audit()], "Found early, and no late among them"),
        ("llm", [], "give it `ask`"),
        (Llm(ask="no.such:function"), [], "not to be found"),
    ],
)
def test_what_an_explorer_lacks_is_said_before_anything_is_trained(explorer, audits, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        fit(tmp_path / "run", [*PROBLEM.objectives(), *audits], explorer=explorer)
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_a_language_model_is_asked_once_and_heard_again(tmp_path):
    """Killed or not, a run with a memory hears what was said, although the model would say something else now."""
    asked = []

    def answer(question):
        asked.append(question)
        return [f'Try {{"r1": {len(asked)}, "r2": 3}}.', '{"r1": 2}', '{"r1": -1, "r2": 2}', "{r1}"]

    settings = {**EAGER, "observations": 8, "candidates": 8, "samples": 4, "memory": tmp_path / "said.jsonl"}
    fit(tmp_path / "one", explorer=Llm(ask=answer, **settings), **SHORT)
    first, told = events(tmp_path / "one", "task"), len(asked)
    assert told == 2  # two orders at the second measurement; before it too little was seen
    assert any("the language model proposed" in task["reason"] for task in first)
    assert "adds 0." in asked[0]
    assert '"r1", "r2"' in asked[0]
    fit(tmp_path / "two", explorer=Llm(ask=answer, **settings), **SHORT)
    again = events(tmp_path / "two", "task")
    assert len(asked) == told
    assert [dict(task, time=0) for task in again] == [dict(task, time=0) for task in first]


def test_a_language_model_that_says_nothing_leaves_it_to_the_gaussian_process(tmp_path):
    settings = {**EAGER, "observations": 8, "candidates": 8, "samples": 4}
    fit(tmp_path / "llm", explorer=Llm(ask=lambda question: ["I do not know."], **settings), **SHORT)
    fit(tmp_path / "gp", explorer=Bayesian(**settings), **SHORT)
    one, two = (events(tmp_path / name, "task") for name in ("llm", "gp"))
    assert one
    assert [dict(task, time=0) for task in one] == [dict(task, time=0) for task in two]
    with pytest.raises(ConfigError, match="must give a list of texts"):
        fit(tmp_path / "bad", explorer=Llm(ask=lambda question: "{}", **settings), **SHORT)


def test_elites_have_children_and_fill_cells_that_a_grid_leaves_empty(tmp_path):
    """`strings` with its longest run as what answers are like: eight cells, fifteen measurements."""
    problem = get_problem("strings")
    share, distinct, longest = problem.objectives()
    objectives = [share, distinct, Objective("run", longest.reward, bounds=(0.25, 1), role="audit")]
    filled = {}
    for name in ("grid", "illuminate"):
        aligner = ParetoAligner(
            problem.model(), objectives, tokenizer=problem.tokenizer(), explorer=name, population=4, steps=15,
            eval_every=1, group_size=16, prompts_per_step=2, learning_rate=1e-2, max_new_tokens=problem.T,
            eval_prompts=2, eval_group_size=32, weighting="fixed", family="independent", progress=False,
            output_dir=tmp_path / name, remeasure_rounds=0,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParetoAlignWarning)
            aligner.fit(list(problem.prompts) * 2)
        found = [
            row[2] for e in events(tmp_path / name) if e["event"] in ("evaluation", "mixtures") for row in e["values"]
        ]
        filled[name] = {int(min((value - 0.25) / 0.75, 0.999) * 8) for value in found}
    assert len(filled["illuminate"]) == 8  # 6 by the grid
    assert len(filled["grid"]) < 8
