from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pareto_align import weighting as package
from pareto_align.errors import ConfigError
from pareto_align.weighting import Chebyshev, Fixed, Hypervolume, Signal, Weighting, available, make, register
from pareto_align.weighting.base import interior, normalize_rows, project_simplex, reading_of, running_mean, softmax


def test_names() -> None:
    assert {"fixed", "chebyshev", "hypervolume", "hypervolume-paper"} <= set(available())
    assert type(make("chebyshev")) is Chebyshev
    assert make("hypervolume", gain=3.0).gain == 3.0
    instance = Fixed()
    assert make(instance) is instance


def test_everything_public_is_there() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make("chebychev"), "Did you mean 'chebyshev'"),
        (lambda: make("chebyshev", mue=1), "no setting 'mue'. Did you mean 'mu'"),
        (lambda: make("fixed", mu=1), "no setting"),
        (lambda: make(Fixed(), mu=1), "built already"),
        (lambda: make(3), "a name, a mapping with `name`, or an instance"),
        (lambda: Fixed().setup(0, 2), "K=0"),
        (lambda: Fixed()(Signal(0, 1, np.zeros((1, 2)), np.ones((1, 2)))), "call setup"),
        (lambda: Signal(0, 1, np.zeros(2), np.zeros(2)), r"\[K, m\]"),
        (lambda: Signal(0, 1, np.zeros((2, 2)), np.zeros((1, 2))), "preferences"),
        (lambda: Signal(0, 1, np.zeros((2, 2)), np.zeros((2, 2)), gramians=np.zeros((2, 2))), "gramians"),
        (lambda: Signal(0, 1, np.zeros((2, 2)), np.zeros((2, 2)), spread=np.zeros((2, 3))), "spread"),
        (lambda: Signal(0, 1, np.zeros((2, 2)), np.zeros((2, 2)), slack=np.zeros((3, 1))), r"slack .*\[2, c\]"),
        (lambda: Signal(0, 1, np.zeros((2, 2)), np.zeros((2, 2)), slack=np.zeros(2)), "slack"),
    ],
)
def test_what_is_wrong_is_named(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_a_call_with_another_population_is_refused() -> None:
    weighting = Fixed()
    weighting.setup(3, 2)
    with pytest.raises(ConfigError, match=r"set up for \[3, 2\]"):
        weighting(Signal(0, 1, np.zeros((2, 2)), np.ones((2, 2))))


def test_state_of_another_method_is_refused() -> None:
    chebyshev, hypervolume = Chebyshev(), Hypervolume()
    chebyshev.setup(2, 2)
    with pytest.raises(ConfigError, match=r"missing \['factor'.*unknown \['count'"):
        hypervolume.load_state_dict(chebyshev.state_dict())


def test_registering() -> None:
    try:

        @register("test-only")
        class Mine(Weighting):
            def __call__(self, signal: Signal) -> np.ndarray:
                return signal.preferences

        assert isinstance(make("test-only"), Mine)
        assert Mine.name == "test-only"
        assert register("test-only")(Mine) is Mine  # the same class again is no clash
        with pytest.raises(ConfigError, match="exists already"):
            register("test-only")(Fixed)
    finally:
        from pareto_align.weighting import base

        base.weightings._classes.pop("test-only", None)


def test_progress_runs_from_the_first_step_to_the_last() -> None:
    found = [Signal(step, 5, np.zeros((1, 2)), np.zeros((1, 2))).progress for step in range(6)]
    assert found == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert Signal(0, 1, np.zeros((1, 2)), np.zeros((1, 2))).progress == 0.0


def test_running_mean_starts_at_the_first_value_and_skips_what_is_missing() -> None:
    total, count = np.zeros(2), np.zeros(2)
    means = []
    for values in ([np.nan, 1.0], [0.2, np.nan], [0.8, 0.0]):
        total, count, mean = running_mean(total, count, np.array(values), 0.5)
        means.append(mean)
    # .2 then .8 at keep .5: (.25 * .2 + .5 * .8) / .75 = .6; 1 then 0: .25 / .75.
    np.testing.assert_allclose(means, [[np.nan, 1.0], [0.2, 1.0], [0.6, 1 / 3]])
    np.testing.assert_array_equal(count, [2, 2])
    # With keep w the mean of n values weighs the last one (1 - w) / (1 - w^n).
    total, count = np.zeros(1), np.zeros(1)
    for value in (0.0, 0.0, 1.0):
        total, count, mean = running_mean(total, count, np.array([value]), 0.9)
    np.testing.assert_allclose(mean, 0.1 / (1 - 0.9**3))


def test_a_nested_state_belongs_to_its_parts() -> None:
    outer = make("psa", scalarization="chebyshev")
    outer.setup(2, 2)
    state = outer.state_dict()
    assert {"points", "part0.payoff", "part0.K"} <= set(state)
    del state["part0.payoff"]
    with pytest.raises(ConfigError, match=r"weighting 'chebyshev': missing \['payoff'\]"):
        make("psa", scalarization="chebyshev").load_state_dict(state)
    with pytest.raises(ConfigError, match="unknown"):
        make("psa").load_state_dict(outer.state_dict())


def test_project_simplex_gold_values() -> None:
    # Inside: unchanged. (2, 0): tau = 1, the corner. (1, .5): both positive, tau = .25. (-1, -1): even.
    points = [[0.3, 0.7], [2.0, 0.0], [1.0, 0.5], [-1.0, -1.0]]
    np.testing.assert_allclose(project_simplex(points), [[0.3, 0.7], [1, 0], [0.75, 0.25], [0.5, 0.5]])


def test_project_simplex_is_the_nearest_point() -> None:
    rng = np.random.default_rng(0)
    points, simplex = rng.normal(size=(20, 4)), rng.dirichlet(np.ones(4), 4000)
    found = project_simplex(points)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    nearest = np.linalg.norm(points[:, None] - simplex, axis=2).min(axis=1)
    assert (np.linalg.norm(points - found, axis=1) <= nearest + 1e-12).all()


def test_simplex_rows() -> None:
    np.testing.assert_allclose(softmax([[0.0, np.log(3.0)], [1e9, -1e9]]), [[0.25, 0.75], [1, 0]])
    np.testing.assert_allclose(
        normalize_rows([[1.0, 3.0], [0.0, 0.0], [1e308, 1e308]]), [[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]
    )
    np.testing.assert_allclose(interior([[1.0, 0.0]], 0.1), [[0.9, 0.1]])
    with pytest.raises(ConfigError, match="floor"):
        interior([[1.0, 0.0]], 0.5)


def test_weighting_needs_no_torch() -> None:
    code = "import sys, pareto_align.weighting; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_preference_means_is_what_the_table_of_the_documentation_says() -> None:
    rows = re.findall(r"^\| (.*) \| (.*) \| .* \|$", (Path(__file__).parents[2] / "docs/index.md").read_text(), re.M)
    told = {name: meaning for names, meaning in rows for name in re.findall(r"`([\w-]+)`", names)}
    own = set(available()) & told.keys()  # tests register further ones
    assert own == {name for name in available() if type(make(name)).__module__.startswith("pareto_align.")}
    assert {name for name in own if make(name).reading == "place"} == {
        name for name in own if told[name] == "a place on the front"
    }
    assert {reading_of(name) for name in ("chebyshev", "epo")} == {"place"}
    assert {reading_of(name) for name in ("fixed", "lagrangian", "nobody's")} == {"rate"}


@pytest.mark.parametrize(
    ("nested", "reading"),
    [
        (make("lagrangian", objectives="chebyshev"), "place"),
        (make("lagrangian"), "rate"),
        (make("proxy-points", constraints={"name": "lagrangian-equality", "objectives": "stch"}), "place"),
        (make("psa", scalarization="tchebycheff"), "place"),
        (make("schedule", points=[(0.0, "fixed"), (0.5, "chebyshev")]), "place"),
        (make("schedule", points=[(0.0, "chebyshev"), (0.5, "fixed")]), "rate"),
        (make("schedule", points=[(0.0, "chebyshev"), (1.0, [1.0, 1.0])], multiply=True), "rate"),
        (make("schedule", function=lambda step, steps: [1.0, 1.0]), "rate"),
    ],
)
def test_a_weighting_built_of_others_reads_a_preference_as_the_last_of_them(nested: Weighting, reading: str) -> None:
    assert nested.reading == reading
