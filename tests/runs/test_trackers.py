"""What a run tells trackers: real files of TensorBoard, a real store of MLflow and of trackio, and what fails."""

from __future__ import annotations

import json
import sys
import warnings

import pytest
from aligner_runs import PROBLEM, make

from pareto_align.config import load_config
from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.objectives import Objective

pytest.importorskip("accelerate")


class Recorder:
    """A tracker of accelerate's kind."""

    name = "recorder"

    def __init__(self, fails_at=None):
        self.seen, self.tables, self.ended, self.fails_at = [], [], 0, fails_at

    def log(self, values, step=None):
        if self.fails_at is not None and step >= self.fails_at:
            raise ConnectionError("the server went away")
        self.seen += [(key, step, value) for key, value in values.items()]

    def log_table(self, name, columns, data, step=None):
        self.tables.append((name, columns, data, step))

    def finish(self):
        self.ended += 1


def fit(run, report_to, **settings):
    options = {"output_dir": run, "report_to": report_to, "steps": 4, "eval_every": 2, "population": 2, **settings}
    return make(**options).fit(list(PROBLEM.prompts))


def stopped(run, report_to, after):
    """A run that a callback stops after so many steps."""

    def stop(event):
        if event["event"] == "step" and event["step"] == after:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fit(run, report_to, callbacks=[stop])


def of(tracker, key):
    return [(step, value) for name, step, value in tracker.seen if name == key]


def test_a_tracker_is_told_what_the_journal_is_told(tmp_path):
    tracker = Recorder()
    front = fit(tmp_path / "run", tracker)
    events = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert of(tracker, "policy_01/r2") == [(e["step"], e["values"][1][1]) for e in steps]
    assert of(tracker, "policy_00/weight/r1") == [(e["step"], e["weights"][0][0]) for e in steps]
    assert of(tracker, "policy_00/entropy") == [(e["step"], e["entropy"][0]) for e in steps]
    measured = [event for event in events if event["event"] == "evaluation"]
    assert of(tracker, "front/hypervolume") == [(e["step"], e["hypervolume"]) for e in measured]
    assert of(tracker, "policy_01/measured/r1") == [(e["step"], e["values"][1][0]) for e in measured]
    assert of(tracker, "report/members") == [(4, len(front))]
    name, columns, rows, step = tracker.tables[-1]
    assert (name, columns, step) == ("answers", ["member", "prompt", "answer"], 4)
    assert {row[0] for row in rows} == {member.id for member in front}
    assert tracker.ended == 1


def test_a_run_that_goes_on_tells_nothing_twice(tmp_path):
    whole, tracker = Recorder(), Recorder()
    fit(tmp_path / "whole", whole)
    run = tmp_path / "run"
    stopped(run, tracker, after=3)
    assert of(tracker, "run/seconds")[-1][0] == 2  # the callback stopped the third before the tracker was told
    make(output_dir=run, report_to=tracker, steps=4, eval_every=2, population=2).resume(run)
    numbers = lambda found: [x for x in found.seen if x[0] != "run/seconds"]  # noqa: E731
    assert numbers(tracker) == numbers(whole)


def test_what_was_told_after_the_checkpoint_is_not_told_again(tmp_path):
    """The third step is made twice, once before the stop and once after it."""
    whole, tracker = Recorder(), Recorder()
    fit(tmp_path / "whole", whole)
    run, told = tmp_path / "run", tracker.log

    def stop(values, step=None):
        told(values, step)
        if step == 3:
            raise KeyboardInterrupt

    tracker.log = stop
    with pytest.raises(KeyboardInterrupt):
        fit(run, tracker)
    tracker.log = told
    state = json.loads((run / "trackers.json").read_text())
    assert state["told"] == {"step": 2, "evaluation": 2}
    state["told"]["step"] = 3
    (run / "trackers.json").write_text(json.dumps(state))
    make(output_dir=run, report_to=tracker, steps=4, eval_every=2, population=2).resume(run)
    assert [step for step, _ in of(tracker, "policy_00/r1")] == [1, 2, 3, 4]
    assert of(tracker, "policy_00/r1") == of(whole, "policy_00/r1")


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tmp_path):
    broken, other = Recorder(fails_at=2), Recorder()
    broken.name = "broken"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        front = fit(tmp_path / "run", [broken, other])
    told = [str(w.message) for w in caught if "tracker" in str(w.message)]
    assert len(told) == 1
    assert "'broken' failed and is told no more: ConnectionError: the server went away" in told[0]
    assert len(front) > 0
    assert [step for step, _ in of(other, "policy_00/r1")] == [1, 2, 3, 4]
    assert other.ended == 1
    assert broken.ended == 0


def test_the_run_is_the_same_with_a_tracker_and_without(tmp_path):
    fit(tmp_path / "with", Recorder())
    fit(tmp_path / "without", "none")
    paths = sorted(p.relative_to(tmp_path / "without") for p in (tmp_path / "without" / "front").rglob("*"))
    assert paths == sorted(p.relative_to(tmp_path / "with") for p in (tmp_path / "with" / "front").rglob("*"))
    for path in paths:
        if (tmp_path / "with" / path).is_file():
            assert (tmp_path / "with" / path).read_bytes() == (tmp_path / "without" / path).read_bytes(), path
    assert not (tmp_path / "without" / "trackers.json").exists()


def test_tensorboards_files(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    stopped(run, "tensorboard", after=3)
    make(output_dir=run, report_to="tensorboard", steps=4, eval_every=2, population=2).resume(run)
    found = accumulator.EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    value = {event["step"]: event["values"][0][0] for event in events if event["event"] == "step"}
    scalars = found.Scalars("policy_00/r1")
    assert [event.step for event in scalars] == [1, 2, 3, 4]
    assert [event.value for event in scalars] == pytest.approx([value[step] for step in (1, 2, 3, 4)], rel=1e-6)
    assert {"front/hypervolume", "front/hypervolume_low", "report/hypervolume"} <= set(found.Tags()["scalars"])
    assert "answers/text_summary" in found.Tags()["tensors"]


def test_mlflows_store(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    run = tmp_path / "run"
    stopped(run, "mlflow", after=3)
    make(output_dir=run, report_to="mlflow", steps=4, eval_every=2, population=2).resume(run)
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'pareto_align'")
    (found,) = client.search_runs([experiment.experiment_id])  # one run, gone on with
    assert found.info.run_name.startswith("run-")
    assert found.data.params["learning_rate"]
    assert [metric.step for metric in client.get_metric_history(found.info.run_id, "policy_00/r1")] == [1, 2, 3, 4]


def test_trackios_store(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    for module in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, module)  # it reads where its store is when it is imported
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    run = tmp_path / "run"
    stopped(run, "trackio", after=3)
    make(output_dir=run, report_to="trackio", steps=4, eval_every=2, population=2).resume(run)
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("pareto_align")
    logs = SQLiteStorage.get_logs("pareto_align", name)
    assert [log["step"] for log in logs if "policy_00/r1" in log] == [1, 2, 3, 4]
    assert any("report/hypervolume" in log for log in logs)


@pytest.mark.parametrize(
    "settings",
    [
        {"family": "blocks", "explorer": "everywhere", "weighting": "fixed"},
        {"weighting": {"name": "bilevel", "estimate": "gramian"}, "prompts_per_step": 2},
        {"explorer": {"name": "cmorl", "share": 0.3}, "weighting": "fixed"},
    ],
    ids=["family", "audits steered", "floors"],
)
def test_whatever_the_run_is_made_of(tmp_path, settings):
    """A tracker that is handed rows which fit no names would fail, and be left out with a warning."""
    tracker = Recorder()
    seen = Objective("seen", lambda completions, **_: [1.0 * len(c) for c in completions], role="audit", bounds=(0, 9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        warnings.filterwarnings("error", "The tracker .* failed", ParetoAlignWarning)
        make([*PROBLEM.objectives(), seen], output_dir=tmp_path / "run", report_to=tracker, steps=4, eval_every=2,
             population=3, **settings).fit(list(PROBLEM.prompts))  # fmt: skip
    assert [step for step, _ in of(tracker, "policy_02/seen")] == [1, 2, 3, 4]
    assert tracker.ended == 1


def test_a_run_from_comparisons(tmp_path):
    tracker, rows = Recorder(), [{"prompt": PROBLEM.prompts[0], "chosen": a, "rejected": b} for a, b in ("ab", "ca")]
    objectives = [Objective("one", prefers="chosen"), Objective("two", prefers="chosen", maximize=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        warnings.filterwarnings("error", "The tracker .* failed", ParetoAlignWarning)
        make(objectives, output_dir=tmp_path / "run", report_to=tracker, steps=2, eval_every=2, population=2,
             learner="dpo", weighting="fixed", explorer="grid", prompts_per_step=2).fit(rows * 4)  # fmt: skip
    assert [step for step, _ in of(tracker, "policy_01/two")] == [1, 2]


def test_none_is_none():
    assert make().report_to == make(report_to=None).report_to == make(report_to="none").report_to == []
    assert make(report_to=["none", "tensorboard"]).report_to == ["tensorboard"]


def test_two_trackers_of_one_name_are_both_started_and_told(tmp_path):
    class Started(Recorder):
        def start(self):
            self.begun = True

    first, second = Started(), Started()
    fit(tmp_path / "run", [first, second])
    assert first.begun
    assert first.seen == second.seen != []
    assert first.ended == second.ended == 1


def test_multipliers_are_told_by_the_name_of_their_constraint(tmp_path):
    """An audit stands before the constraint, and has no multiplier."""

    def nothing(completions, **_):
        return [0.0] * len(completions)

    tracker = Recorder()
    objectives = [
        *PROBLEM.objectives(),
        Objective("seen", lambda completions, **_: [0.0] * len(completions), role="audit", bounds=(0, 1)),
        Objective(
            "held", lambda completions, **_: [0.0] * len(completions), role="constrain", at_least=0.5, bounds=(0, 1)
        ),
    ]
    make(objectives=objectives, weighting="lagrangian", output_dir=tmp_path / "run", report_to=tracker, steps=3,
         eval_every=2, population=2).fit(list(PROBLEM.prompts))  # fmt: skip
    assert of(tracker, "policy_00/multiplier/held")[-1][1] > 0
    assert not of(tracker, "policy_00/multiplier/seen")


def test_what_is_no_tracker_is_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match="must be the name of a tracker"):
        make(report_to=3)
    with pytest.raises(ConfigError, match=r"Unknown tracker 'tensorbord' in `report_to`. Did you mean 'tensorboard'"):
        fit(tmp_path / "run", "tensorbord")
    assert not (tmp_path / "run").exists()
    from accelerate import tracking

    missing = sorted(set(map(str, tracking.LOGGER_TYPE_TO_CLASS)) - set(map(str, tracking.get_available_trackers())))
    if missing:
        with pytest.raises(ConfigError, match=f"the package of the tracker '{missing[0]}' is not installed"):
            fit(tmp_path / "run", missing[0])


def test_a_config_names_trackers(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(
        json.dumps(
            {
                "model": "some/model",
                "objectives": [{"name": "brief", "reward": "pareto_align.objectives:brevity", "args": {}}],
                "prompts": ["a", "b"],
                "report_to": ["tensorboard", "mlflow"],
            }
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        assert load_config(config).aligner.report_to == ["tensorboard", "mlflow"]
