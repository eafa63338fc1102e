"""The study of known fronts supports what is claimed, its pages say what its results say, and its command runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "known_fronts"
MODULES = ("cases", "summary", "page", "figure", "run")
PAGE = ROOT / "docs" / "choosing-a-weighting.md"


@pytest.fixture(scope="module")
def study(code, results):
    return code.summary.Study(results)


# ------------------------------------------------------------------------------------------------ the claims


def test_the_results_are_of_the_one_setting_and_enough_for_the_claims(code, results, study):
    assert results["setting"] == code.cases.SETTING
    assert set(results["runs"]) <= {case.key for case in code.cases.cases()}
    full = [("hacked", m) for m in code.cases.CONSTRAINED] + [("groups", m) for m in code.cases.SHARED]
    full += [
        (problem, method)
        for problem in ("arc", "flat", "dent", "scales", "groups", "noisy")
        for method in code.cases.FEW
    ]
    assert {pair: len(study.runs[pair]) for pair in full} == dict.fromkeys(full, 5)
    for problem in ("arc", "flat", "scales"):
        assert all(len(study.runs[problem, method]) >= 3 for method in study.methods), problem


def test_the_methods_are_those_of_the_registry_and_nobody_elses(code, study):
    from pareto_align.weighting import Weighting, register
    from pareto_align.weighting.base import weightings

    @register("a-strangers")
    class Strangers(Weighting):
        def __call__(self, signal):
            return signal.preferences

    try:
        assert "a-strangers" not in code.cases.traders()
    finally:
        del weightings._classes["a-strangers"]
    assert {"fixed", "chebyshev", "mgda"} <= set(code.cases.METHODS)
    assert not {"schedule", "lagrangian", "bilevel"} & set(code.cases.METHODS)
    assert set(study.methods) <= set(code.cases.METHODS)


def test_on_flat_linear_weights_stay_in_two_corners(study):
    assert study.from_a_corner() < 0.05
    assert study.ratio("flat", "fixed") < 0.1


def test_on_flat_at_least_three_methods_reach_ninety_percent(study):
    full = [method for method in study.fillers(0.9) if len(study.runs["flat", method]) == 5]
    assert len(full) >= 3


def test_every_default_survives_the_factor_of_a_hundred(code, study):
    kept = study.survival()
    assert set(kept) == set(study.methods)
    assert min(kept.values()) > 0.75, kept


def test_equality_constraints_end_at_the_proxy_points_while_the_sum_overshoots(study):
    held = study.proxies("lagrangian-equality")
    assert held["near"] == held["policies"] == 40
    assert held["largest"] <= 0.03
    assert study.proxies("lagrangian-all")["median"] <= 0.03
    overshot = study.proxies("sum")
    assert overshot["near"] == 0
    assert overshot["median"] > 0.3
    assert overshot["gold"].high < study.proxies("lagrangian-equality")["gold"].low


def test_maxmin_serves_the_worse_group_better_than_the_average_does(study):
    maxmin, average = study.worst_group("maxmin-shares"), study.worst_group("average")
    assert maxmin.low > average.high + 0.3


def test_nothing_reported_on_noisy_is_above_the_truth_by_more_than_its_interval(study):
    report = study.reported("report")
    assert report["values"] >= 100
    assert report["beyond"] == 0
    # of so many values a fortieth may lie above their own intervals
    allowed = report["values"] / 40 + 3 * math.sqrt(report["values"] / 40)
    assert report["above"] <= allowed
    assert abs(report["mean"]) < abs(study.reported("select")["mean"])


def test_the_recommended_default_has_the_best_mean_and_is_the_aligners(study):
    from pareto_align.defaults import usual_parts

    assert {"arc", "flat", "dent", "scales", "groups", "noisy"} <= set(study.wide)
    assert study.few()[0] == usual_parts("independent")[0] == "chebyshev"
    assert min(study.ratios("chebyshev")) > 0.8


# ------------------------------------------------------------------------------------------------ the pages


def test_the_pages_are_what_the_results_give(code, results):
    again = "run `python studies/known_fronts/run.py --page`"
    assert (STUDY / "README.md").read_text(encoding="utf-8") == code.page.report(results), again
    assert PAGE.read_text(encoding="utf-8") == code.page.choosing(results), again


def test_the_results_file_is_written_as_it_is_read(code, results, tmp_path):
    code.run.write(tmp_path / "results.json", results)
    assert (tmp_path / "results.json").read_text() == (STUDY / "results.json").read_text(encoding="utf-8")


def test_the_figure_has_a_panel_a_problem_and_a_row_a_method(code, results, study):
    axes = code.figure.draw(results).axes
    assert [a.get_title(loc="left") for a in axes] == list(study.core)
    assert [t.get_text() for t in axes[0].get_yticklabels()] == study.ranking[::-1]
    for panel, problem in zip(axes, study.core, strict=True):
        dots = [line.get_xdata()[0] for line in panel.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dots, [study.ratio(problem, method) for method in study.ranking[::-1]])


# ------------------------------------------------------------------------------------------------ the arithmetic


def test_the_interval_is_of_the_mean_over_seeds(code):
    found = code.summary.bootstrap([0.0, 0.0, 1.0, 1.0])
    assert found.mean == 0.5
    # the mean of four resampled halves: 0 and 1 each have a chance of 1/16, so 95 % reach from end to end
    assert (found.low, found.high, found.seeds) == (0.0, 1.0, 4)
    assert code.summary.bootstrap([0.3] * 5).low == pytest.approx(0.3)


def test_a_weight_counts_the_range_of_a_reward_without_bounds(code):
    from pareto_align.testing.problems import get_problem

    half = np.array([[0.5, 0.5]])
    np.testing.assert_allclose(code.cases.weights_of(get_problem("arc"), half), half)
    np.testing.assert_allclose(code.cases.weights_of(get_problem("scales"), half), [[0.5, 50.0]])
    np.testing.assert_allclose(code.cases.weights_of(get_problem("arc"), np.ones((1, 1))), half)


def test_a_method_is_compared_with_itself_on_the_seeds_that_ran_on_both(code):
    runs = {f"arc/fixed/{seed}": {"ratio": ratio} for seed, ratio in enumerate([0.8, 0.9, 0.1])}
    runs |= {f"scales/fixed/{seed}": {"ratio": ratio} for seed, ratio in enumerate([0.4, 0.45])}
    assert code.summary.Study({"setting": {}, "runs": runs}).survival() == {"fixed": pytest.approx(0.5)}


def test_beyond_two_objectives_a_policy_may_give_one_up(code):
    np.testing.assert_allclose(code.cases.problem_of("strings").reference, [-0.1, 0.175, 0.175])
    np.testing.assert_allclose(code.cases.problem_of("arc").reference, [0, 0])


def test_values_above_the_truth_are_counted_in_standard_errors(code):
    def row(off):
        return {"truth": [0.5], "report": [0.5 + off], "report_stderr": [0.1], "select": [0.5], "select_stderr": [0.1]}

    run = {"published": [row(off) for off in (-0.3, 0.0, 0.1, 0.2, 0.5)]}
    found = code.summary.Study({"setting": {}, "runs": {"noisy/fixed/0": run}}).reported("report")
    assert (found["members"], found["values"], found["above"], found["beyond"]) == (5, 5, 2, 1)
    assert found["inside"] == pytest.approx(2 / 5)
    assert found["largest"] == pytest.approx(5.0)
    assert found["bound"] == pytest.approx(2.5758, abs=1e-4)  # the quantile at 1 - .025 / 5


# ------------------------------------------------------------------------------------------------ the command


def test_one_run_is_made_kept_and_not_repeated(code, tmp_path, capsys):
    file = tmp_path / "results.json"
    options = ["--smoke", "--problems", "noisy", "--methods", "fixed", "--seeds", "0", "--results", str(file)]
    assert code.run.main(options) == 0
    assert "noisy/fixed/0" in capsys.readouterr().out
    kept = json.loads(file.read_text())
    found = kept["runs"]["noisy/fixed/0"]
    assert np.shape(found["values"]) == (code.cases.SMOKE["population"], 2)
    assert 0 < found["ratio"] < 1
    assert len(found["published"]) == found["members"] >= 1
    for row in found["published"]:
        # measured apart: the same numbers on both splits would mean that one was read twice
        assert row["select"] != row["report"]
        assert 0 < min(row["truth"]) <= max(row["truth"]) < 1
    assert code.run.main(options) == 0
    assert capsys.readouterr().out == ""
    assert json.loads(file.read_text()) == kept


def test_constrained_and_shared_runs_are_set_up_as_claimed(code, tmp_path):
    smoke = code.cases.SMOKE
    constrained = code.cases.measure(code.cases.Case("hacked", "lagrangian-equality", 0), smoke)
    assert len(constrained["gold"]) == smoke["population"]
    from pareto_align.testing.problems import get_problem

    objectives = code.cases.constrained_objectives(get_problem("hacked"))
    assert [(o.name, o.role, o.at_least) for o in objectives] == [
        ("sum", "optimize", None), ("r1", "constrain", 0.5), ("r2", "constrain", 0.3), ("gold", "audit", None),
    ]  # fmt: skip
    grid = code.cases.shared_grid(get_problem("groups"), 3)
    np.testing.assert_allclose(grid.preferences(["majority", "minority"], 3, 0), [[10 / 11, 1 / 11]] * 3)


def test_runs_of_another_setting_are_refused(code, tmp_path):
    file = tmp_path / "results.json"
    code.run.write(file, {"setting": {"steps": 1}, "runs": {}})
    with pytest.raises(SystemExit, match="another setting"):
        code.run.main(["--smoke", "--results", str(file)])
