"""Sweeps of real fits of a fraction of a second each: scores are those of the fronts on disk, a kill costs nothing."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
from aligner_runs import PROBLEM, make

from pareto_align import ParetoAlignWarning, ParetoFront, tune
from pareto_align.front import hypervolume
from pareto_align.testing.problems import get_problem
from pareto_align.tuning.fits import framed_hypervolume

SPACE = {"learning_rate": {"low": 1e-3, "high": 3e-2, "log": True}, "temperature": {"low": 0.5, "high": 1.5}}


def sweep(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        options = {"space": SPACE, "trials": 2, "seeds": (10,), "confirm_seeds": (0, 1), "engine": "sobol", **options}
        aligner = options.pop("aligner", None) or make(explorer="grid")
        return tune(aligner, list(PROBLEM.prompts), output_dir=folder, **options)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("swept"))


def test_the_scores_are_the_published_hypervolumes(swept):
    assert [trial.status for trial in swept.trials] == ["finished"] * 2
    for trial in swept.trials:
        front = ParetoFront.load(swept.folder / "trials" / f"{trial.number:03d}" / "seed_10")
        assert front.record.split == "report"
        assert trial.score == pytest.approx(front.hypervolume())  # the objectives have bounds, so the frame is the same
        assert trial.runs[0].members == len(front)
        assert {name: front.record.config[name] for name in trial.settings} == trial.settings
        assert front.record.config["seed"] == 10


def test_the_budget_is_that_of_all_fits(swept):
    fronts = [ParetoFront.load(file.parent) for file in swept.folder.glob("**/run.json")]
    assert swept.cost["runs"] == len(fronts) == (2 if swept.comparison is None else 6)
    names = set(swept.cost) - {"runs"}
    assert len(names) == 4
    assert all(swept.cost[name] == sum(front.record.cost[name] for front in fronts) for name in names)


def test_the_result_is_plain_json(swept):
    assert json.loads(json.dumps(swept.to_dict(), allow_nan=False))["best"]["settings"] == swept.best.settings


def test_a_fit_that_was_interrupted_goes_on_from_its_checkpoint(swept, tmp_path):
    steps = []

    def watch(event):
        if event["event"] == "step":
            steps.append(event["step"])
            if len(steps) == 7:  # in the second fit, after its first measurement
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, aligner=make(explorer="grid", callbacks=[watch]))
    steps.clear()
    again = sweep(tmp_path, aligner=make(explorer="grid", callbacks=[lambda e: steps.append(e["event"] == "step")]))
    confirming = 0 if again.comparison is None else 4
    assert sum(steps) == 2 + 4 * confirming  # steps 3 and 4 of the fit in hand, and those of the fits after it
    assert [trial.to_dict() for trial in again.trials] == [trial.to_dict() for trial in swept.trials]


def test_a_fit_that_ended_before_a_kill_is_not_made_again(swept, tmp_path):
    """Killed after the front was published, and before the sweep had taken it down."""
    shutil.copytree(swept.folder, tmp_path / "sweep")
    file = tmp_path / "sweep" / "trials" / "001" / "trial.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "status": "running", "runs": []}))
    (tmp_path / "sweep" / "result.json").unlink()
    seen = []
    again = sweep(tmp_path / "sweep", aligner=make(explorer="grid", callbacks=[seen.append]))
    assert seen == []
    assert {**again.to_dict(), "folder": ""} == {**swept.to_dict(), "folder": ""}


def test_without_bounds_all_fronts_are_valued_in_the_first_ones_frame(tmp_path):
    problem = get_problem("noisy", V=6, hidden_size=16)
    aligner = make(problem.objectives(), model=problem.model(), tokenizer=problem.tokenizer(), explorer="grid")
    result = sweep(tmp_path, aligner=aligner, seeds=(10, 11))
    records = {
        (trial.number, run.seed): ParetoFront.load(tmp_path / f"trials/{trial.number:03d}/seed_{run.seed}").record
        for trial in result.trials
        for run in trial.runs
    }
    first = records[0, 10]
    assert result.frame == {o.name: (o.lower, o.upper) for o in first.objectives}
    assert any(record.objectives[1].upper != first.objectives[1].upper for record in records.values()), "it does move"
    lower, upper = ([getattr(o, end) for o in first.objectives] for end in ("lower", "upper"))
    for trial in result.trials:
        for run in trial.runs:
            members = records[trial.number, run.seed].members
            framed = [(m.estimate.mean - lower) / [u - v for u, v in zip(upper, lower, strict=True)] for m in members]
            assert run.hypervolume == pytest.approx(hypervolume(framed, [0.0, 0.0]))


def test_a_front_without_members_is_worth_nothing(swept):
    record = ParetoFront.load(swept.folder / "trials" / "000" / "seed_10").record
    record.members.clear()
    assert framed_hypervolume(record, swept.frame) == 0.0
