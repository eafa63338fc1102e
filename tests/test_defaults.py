"""What a run is made of where nothing was said."""

import subprocess
import sys

import numpy as np
import pytest
from aligner_runs import PROBLEM, lora

from pareto_align import ConfigError, Objective, ParetoAligner
from pareto_align.defaults import chosen_parts, usual_parts
from pareto_align.discovery.explorers import Everywhere

FAMILY = ("gates", "steady-chebyshev", "everywhere")
OWN = ("independent", "chebyshev", "discover")
PLAIN = {"family": None, "weighting": None, "explorer": None, "learner": "grpo", "m": 2, "population": 8}


def named(parts):
    return parts.family, parts.weighting.name, parts.explorer.name


def chosen(**said):
    return named(chosen_parts(**{**PLAIN, "offline": False, **said}))


def test_nothing_said_is_one_family():
    assert chosen() == FAMILY
    assert chosen(m=5) == FAMILY
    assert chosen(weighting="fixed") == ("gates", "fixed", "everywhere")
    assert chosen(explorer={"name": "everywhere", "dense": 2}) == FAMILY
    assert chosen(learner="centred") == FAMILY
    assert chosen(learner={"name": "rvpo", "k": 2.0}) == FAMILY
    assert chosen(family="panacea") == ("panacea", "steady-chebyshev", "everywhere")


@pytest.mark.parametrize("family", ["independent", {"name": "independent"}])
def test_independent_policies_have_their_own_however_they_are_said(family):
    assert chosen(family=family) == OWN


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"m": 1}, OWN),
        ({"population": 1}, OWN),
        ({"offline": True}, OWN),
        ({"explorer": "grid"}, ("independent", "chebyshev", "grid")),
        ({"explorer": "discover"}, OWN),
        ({"weighting": "proxy-points"}, ("independent", "proxy-points", "discover")),
        ({"weighting": "bilevel"}, ("independent", "bilevel", "discover")),
        ({"learner": "egpo"}, OWN),
    ],
)
def test_what_needs_policies_of_its_own_has_them(said, found):
    assert chosen(**said) == found


@pytest.mark.parametrize("explorer", [None, "everywhere", {"name": "everywhere", "dense": 2}])
def test_places_are_read_off_the_ends_so_the_ends_are_held_however_the_explorer_is_said(explorer):
    def often(weighting, K=4, m=2):
        parts = chosen_parts(**{**PLAIN, "explorer": explorer, "weighting": weighting, "m": m}, offline=False)
        found = parts.explorer
        found.read_as(parts.weighting.reading)
        found.preferences("abc"[:m], K, 0)
        return np.mean([(found.draw(seed).max(axis=1) == 1).sum() for seed in range(200)])

    assert often(None) == often("chebyshev") == 2
    assert 0.3 < often("fixed") < 0.7
    assert 0.3 < often(None, K=2) < 0.7, "two cells of two corners have something between them"
    assert 0.4 < often(None, K=3, m=3) < 1.1


def test_an_explorer_that_serves_two_runs_is_told_by_each():
    shared = Everywhere()
    plans = [aligner(explorer=shared, weighting=weighting)._plan() for weighting in ("fixed", None)]
    found = []
    for plan in plans:
        plan.preferences()
        found.append(shared.usual_corners)
    assert found == [0.25, 1.0]


def test_one_preference_a_step_is_no_family():
    with pytest.raises(ConfigError, match="at least 2 policies"):
        aligner(family="gates", population=1).fit(list(PROBLEM.prompts))


@pytest.mark.parametrize("family", ["none", "independant", ""])
def test_an_unknown_family_is_told_of_independent_ones(family):
    with pytest.raises(ConfigError, match="independent"):
        aligner(family=family)._plan()


def test_a_family_that_was_asked_for_stays_and_is_refused_where_it_cannot_be():
    assert chosen(family="gates", explorer="grid") == ("gates", "steady-chebyshev", "grid")
    with pytest.raises(ConfigError, match="discover"):
        aligner(family="gates", explorer="discover")._plan()


def test_labels_lie_between_nought_and_one():
    weighting = chosen_parts(**PLAIN, offline=True).weighting
    assert (weighting.ideal.tolist(), weighting.nadir.tolist()) == ([1.0, 1.0], [0.0, 0.0])


def test_thresholds_are_kept_by_multipliers_and_the_usual_weighting_trades_the_rest():
    for family, m, inner in ((None, 2, "steady-chebyshev"), ("independent", 2, "chebyshev"), (None, 1, "fixed")):
        weighting = chosen_parts(**{**PLAIN, "family": family, "m": m}, offline=False, constrained=True).weighting
        assert (weighting.name, weighting.parts[0].name) == ("lagrangian", inner)
    assert chosen(constrained=True, weighting="fixed") == ("gates", "fixed", "everywhere")
    assert chosen(constrained=True, offline=True) == OWN
    assert chosen(constrained=True, explorer="everywhere") == ("gates", "lagrangian", "everywhere")


def test_names_are_those_that_are_made():
    assert usual_parts("independent", constrained=True) == ("lagrangian", "discover")
    assert usual_parts("independent") == OWN[1:]
    assert usual_parts({"name": "blocks"}) == FAMILY[1:]


def aligner(**settings):
    settings = {"lora": lora(), "population": 3, "device": "cpu", "use_chat_template": False, **settings}
    return ParetoAligner(PROBLEM.model(), PROBLEM.objectives(), tokenizer=PROBLEM.tokenizer(), **settings)


def test_the_aligner_says_what_is_not_usual():
    assert "gates" not in repr(aligner())
    assert "explorer" not in repr(aligner())
    assert "family='independent'" in repr(aligner(family="independent"))
    assert "family='independent', explorer='grid'" in repr(aligner(explorer="grid"))


def test_comparisons_are_learned_from_by_policies_of_their_own():
    offline = ParetoAligner("a-model", [Objective("a", prefers="a"), Objective("b", prefers="b")], learner="dpo")
    assert named(offline) == OWN


def test_a_front_by_default(tmp_path):
    """Model, objectives and prompts are enough: members that were measured, and an adapter for any preference."""
    run = aligner(
        steps=2, prompts_per_step=2, group_size=4, max_new_tokens=1, eval_group_size=4, output_dir=tmp_path / "run",
        progress=False,
    )  # fmt: skip
    front = run.fit(list(PROBLEM.prompts))
    assert front.record.family.name == "gates"
    found = front.mixture({"r1": 0.3, "r2": 0.7})
    assert found.adapter_path.is_dir()
    assert "'gates'" in found.reason
    measured = found.measure(list(PROBLEM.prompts), PROBLEM.objectives())
    assert measured.values.shape == measured.predicted.shape == (2,)


def test_torch_is_not_loaded_to_choose():
    code = (
        "import sys; from pareto_align import ParetoAligner\n"
        "ParetoAligner('a-model', {'a': lambda completions, **k: [0.0], 'b': lambda completions, **k: [0.0]})\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
