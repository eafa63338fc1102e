"""The study of discovery: its page says what its results say, its arithmetic is right, and its command runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "discovery"
MODULES = ("cases", "summary", "page", "figure", "run", "runs")


@pytest.fixture(scope="module")
def study(code, results):
    return code.summary.Study(results)


# ------------------------------------------------------------------------------------------------ the results


def test_the_results_are_of_the_one_setting_and_all_planned(code, results, study):
    assert results["setting"] == code.cases.SETTING
    assert set(results["runs"]) <= {case.key for case in code.cases.cases()}
    assert study.tasks == code.cases.TASKS


def test_no_explorer_had_more_than_the_budget_and_its_last_step(code, results):
    from pareto_align.testing.problems import get_problem

    setting = results["setting"]
    for key, run in results["runs"].items():
        name = key.split("/")[0]
        if name == "arithmetic":
            own = setting["arithmetic"]
            step = setting["population"] * own["prompts_per_step"] * own["group_size"] * 26
            assert run["train_tokens"] <= run["steps"] * step, key
        else:
            problem = get_problem(name)
            step = setting["population"] * len(problem.prompts) * setting["group_size"] * problem.T
            assert run["train_tokens"] == run["steps"] * step, key
        # the last step may begin with one token left, and what it is measured by is not cut either
        assert run["train_tokens"] < code.cases.budget(name, setting) + step, key


def test_ratios_are_what_the_published_values_give(results):
    from pareto_align.testing import exact
    from pareto_align.testing.problems import get_problem

    for key, run in results["runs"].items():
        name = key.split("/")[0]
        assert len(run["values"]) == run["members"], key
        reference, whole = np.zeros(3), 1.0
        if name != "arithmetic":
            problem = get_problem(name)
            reference = problem.reference
            whole = exact.hypervolume(exact.convex_front(problem.rewards), reference)
        values = np.reshape(run["values"], (-1, len(reference)))
        assert run["ratio"] == pytest.approx(exact.hypervolume(values, reference) / whole, abs=3e-4), key


# ------------------------------------------------------------------------------------------------ the page


def test_the_page_is_what_the_results_give(code, results):
    again = "run `python studies/discovery/run.py --page`"
    assert (STUDY / "README.md").read_text(encoding="utf-8") == code.page.report(results), again


def test_the_results_file_is_written_as_it_is_read(code, results, tmp_path):
    code.runs.write(tmp_path / "results.json", results, [case.key for case in code.cases.cases()])
    assert (tmp_path / "results.json").read_text() == (STUDY / "results.json").read_text(encoding="utf-8")


def test_the_verdicts_of_the_page_hold(results, study):
    """Counted again from the raw runs, without the study's own code."""
    text = (STUDY / "README.md").read_text(encoding="utf-8")
    for name in ("cmorl", "bayesian", "soups", "adaptive", "discover"):
        better, worse = np.zeros(2, dtype=int), np.zeros(2, dtype=int)  # surely, and with those that resampling decides
        for problem, weighting in study.tasks:
            runs = [
                [results["runs"][f"{problem}/{weighting}/{e}/{s}"]["ratio"] for s in range(5)] for e in (name, "grid")
            ]
            gain = np.subtract(*runs)
            # all 5^5 resamples of five seeds instead of some drawn ones
            means = gain[np.stack(np.meshgrid(*[range(5)] * 5), -1).reshape(-1, 5)].mean(1)
            low, high = np.quantile(means, [0.025, 0.975])
            better += [low > 1e-3, low > -1e-3]
            worse += [high < -1e-3, high < 1e-3]
        told = re.search(rf"\| `{name}` \| (\d+) / (\d+) \|", text)
        assert told is not None
        assert better[0] <= int(told[1]) <= better[1], name
        assert worse[0] <= int(told[2]) <= worse[1], name


def test_the_figure_has_a_panel_a_task_and_the_differences_in_it(code, results, study):
    panels = [axes for axes in code.figure.draw(results).axes if axes.get_visible()]
    assert [a.get_title(loc="left").splitlines()[0] for a in panels] == [f"{p}, {w}" for p, w in study.tasks]
    names = [t.get_text() for t in panels[0].get_yticklabels()]
    assert sorted(names) == sorted(code.summary.RIVALS)
    for panel, task in zip(panels, study.tasks, strict=True):
        dots = [line.get_xdata()[0] for line in panel.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dots, [study.gain(task, name).mean for name in names])


# ------------------------------------------------------------------------------------------------ the arithmetic


def planted(code, gains):
    """Results in which every explorer is `gains` above the grid on `flat` under fixed weights."""
    base = [0.1, 0.5, 0.2, 0.4, 0.3]
    rows = {
        f"flat/fixed/{name}/{seed}": {"ratio": base[seed] + (0 if name == "grid" else gains[seed])}
        for name in code.cases.EXPLORERS
        for seed in range(5)
    }
    return code.summary.Study({"setting": {}, "runs": rows})


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [([0.1, 0.12, 0.08, 0.1, 0.1], (1, 0)), ([-0.1] * 5, (0, 1)), ([0.5, -0.5, 0.4, -0.4, 0.0], (0, 0))],
)
def test_differences_are_paired_by_seed(code, gains, verdict):
    study = planted(code, gains)
    found = study.gain(("flat", "fixed"), "discover")
    assert found.mean == pytest.approx(np.mean(gains))
    assert study.tally("discover") == study.tally("discover", strict=True) == study.problems("discover") == verdict
    # the grid's own spread, .14, is not in the interval of the difference
    assert found.high - found.low <= max(np.ptp(gains), 1e-9)


def test_students_interval_is_wider_with_few_seeds(code):
    # closed form: t(.975, 1) = 12.706 and s / sqrt(2) = 1/2 for the numbers 0 and 1
    assert code.runs.spread([0.0, 1.0]).wide == pytest.approx(12.7062 / 2, abs=1e-3)


def test_a_task_with_a_missing_run_is_left_out(code):
    rows = {f"flat/fixed/{name}/{s}": {"ratio": 0.5} for name in code.cases.EXPLORERS for s in range(5)}
    assert code.summary.Study({"setting": {}, "runs": rows}).tasks == (("flat", "fixed"),)
    del rows["flat/fixed/soups/3"]
    assert code.summary.Study({"setting": {}, "runs": rows}).tasks == ()


def test_the_budget_pays_the_grids_steps_and_measurements(code):
    setting = {"population": 4, "steps": 150, "group_size": 32, "eval_every": 10, "arithmetic": {"max_tokens": 7}}
    assert code.cases.budget("arithmetic", setting) == 7
    assert code.cases.budget("flat", setting) == 4 * (150 * 32 + 15 * 64)
    # four prompts of two tokens
    assert code.cases.budget("contexts", setting) == 4 * 2 * (150 * 4 * 32 + 15 * 64)


# ------------------------------------------------------------------------------------------------ the command


def test_one_run_is_made_kept_and_not_repeated(code, tmp_path, capsys):
    file = tmp_path / "results.json"
    options = ["--smoke", "--problems", "arc", "--explorers", "soups", "--seeds", "0", "--results", str(file)]
    assert code.run.main(options) == 0
    assert "arc/chebyshev/soups/0" in capsys.readouterr().out
    kept = json.loads(file.read_text())
    (found,) = kept["runs"].values()
    assert 0 < found["ratio"] < 1
    assert 1 <= found["steps"] <= code.cases.SMOKE["steps"]
    assert np.shape(found["values"]) == (found["members"], 2)
    assert code.run.main(options) == 0
    assert capsys.readouterr().out == ""
    assert json.loads(file.read_text()) == kept
    adding = ["--smoke", "--problems", "arithmetic", "--explorers", "discover", "--seeds", "0", "--results", str(file)]
    assert code.run.main(adding) == 0
    assert 0 < json.loads(file.read_text())["runs"]["arithmetic/chebyshev/discover/0"]["ratio"] < 1


def test_runs_of_another_setting_are_refused(code, tmp_path):
    file = tmp_path / "results.json"
    code.runs.write(file, {"setting": {"steps": 1}, "runs": {}}, [])
    with pytest.raises(SystemExit, match="another setting"):
        code.run.main(["--smoke", "--results", str(file)])
