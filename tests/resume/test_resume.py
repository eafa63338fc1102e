"""A run that was killed and resumed gives the front of the run that was not, byte for byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from aligner_runs import PROBLEM, contents, events, lora, make
from amount import ALL
from filelock import FileLock

import pareto_align
from pareto_align import ConfigError, FrontFileError, Objective, ParetoAlignWarning, ParetoFront
from pareto_align.discovery.explorers import RandomPreferences
from pareto_align.learning.credit import Rvpo
from pareto_align.runs.checkpoint import Checkpoint, CheckpointWriter, has_checkpoint, read_checkpoint
from pareto_align.runs.journal import read_journal
from pareto_align.weighting import Chebyshev, Schedule

HERE = Path(__file__).parent


class Warm:
    """A process that has torch and has made a run already; what it is asked for is done in processes forked from it."""

    def __init__(self, folder: Path) -> None:
        package = Path(pareto_align.__file__).parents[1]  # the one under test, wherever another may be installed
        here = os.pathsep.join([str(HERE.parent), str(package)])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here, "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(HERE / "killed_run.py"), str(folder / "first")]
        self.errors = folder / "errors"
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, mode: str, run: Path, *arguments: str) -> int:
        """The exit status of a process of its own; the signal that ended it is negative."""
        self.errors.unlink(missing_ok=True)
        self.process.stdin.write(json.dumps([str(self.errors), mode, str(run), *arguments]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def told(self) -> str:
        return self.errors.read_text()


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    found = Warm(tmp_path_factory.mktemp("warm"))
    yield found
    found.process.stdin.close()
    assert found.process.wait(60) == 0


@pytest.fixture(scope="module")
def undisturbed(warm, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert warm.ask("fit", run) == 0, warm.told()
    return run


def test_killed_at_every_event_and_resumed_it_is_the_same_front(warm, undisturbed, tmp_path):
    whole = read_journal(undisturbed / "journal.jsonl")
    assert {"start", "step", "evaluation", "task", "mixtures", "report", "end"} <= {event["event"] for event in whole}
    assert warm.ask("kill-all", tmp_path, "--count", str(len(whole))) == 0, warm.told()
    expected = contents(undisturbed)
    for number, event in enumerate(whole):
        run = tmp_path / f"{number}"
        killed = json.loads((tmp_path / f"{number}.json").read_text())
        assert killed["signal"] == signal.SIGKILL, killed
        assert killed["events"] == number + 1, "the kill came right after this event was on disk"
        assert contents(run) == expected, f"killed after event {number}: {event['event']}"
        resumed = read_journal(run / "journal.jsonl")
        timeless = [{k: v for k, v in e.items() if k not in CLOCK} for e in resumed if e["event"] != "resumed"]
        assert timeless == [{k: v for k, v in e.items() if k not in CLOCK} for e in whole]


CLOCK = ("time", "seconds", "reward_seconds")


def test_killed_within_every_write_of_a_checkpoint_it_is_the_same_front(warm, tmp_path):
    """One write of each kind; with PARETO_ALIGN_ALL_TESTS set those of every member."""
    every = ["--every"] if ALL else []
    assert warm.ask("kill-writes", tmp_path, *every) == 0, warm.told()
    calls, killed = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("calls", "kills"))
    assert {calls[number][3] for number in killed} == {kind for *_, kind in calls}
    assert len(killed) >= 25
    assert ALL or len(calls) > len(killed)
    for number in killed:
        assert contents(tmp_path / f"{number}") == contents(tmp_path / "all"), f"killed before {calls[number][3]}"


def test_killed_twice_it_is_the_same_front(warm, undisturbed, tmp_path):
    run = tmp_path / "run"
    assert warm.ask("fit", run, "--kill-after", "6") == -signal.SIGKILL
    assert warm.ask("resume", run, "--kill-after", "3") == -signal.SIGKILL
    assert warm.ask("resume", run) == 0, warm.told()
    assert contents(run) == contents(undisturbed)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_end_and_saves_it(number, status, warm, undisturbed, tmp_path):
    run = tmp_path / "run"
    assert warm.ask("fit", run, "--signal-after", "3", "--signal", str(int(number))) == status, warm.told()
    journal = read_journal(run / "journal.jsonl")
    assert journal[-1]["event"] == "stopped"
    assert has_checkpoint(run)
    assert warm.ask("resume", run) == 0, warm.told()
    steps = [event["step"] for event in read_journal(run / "journal.jsonl") if event["event"] == "step"]
    assert steps == sorted(set(steps))
    assert contents(run) == contents(undisturbed)


def fit_and_stop(run, after=2, **settings):
    """A run that its callback stops after so many steps."""

    def stop(event):
        if event["event"] == "step" and event["step"] == after:
            raise RuntimeError("enough")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        aligner = make(output_dir=run, callbacks=[stop], **settings)
        with pytest.raises(RuntimeError, match="enough"):
            aligner.fit(list(PROBLEM.prompts))


def test_stages_that_follow_a_budget_of_tokens_are_the_same_after_a_resume(tmp_path):
    """Learning rate, weighting and explorer all read the tokens, which the checkpoint holds."""

    def settings():
        points = [(0.0, "fixed"), (1.0, "chebyshev")]
        explorer = RandomPreferences(every=1, freeze=0.7)
        return {
            "steps": 500, "max_tokens": 1000, "eval_every": 2, "weighting": Schedule(points), "explorer": explorer,
        }  # fmt: skip

    whole, run = tmp_path / "whole", tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(output_dir=whole, **settings()).fit(list(PROBLEM.prompts))
    assert events(whole, "task")
    assert 6 <= len(events(whole, "step")) < 100
    fit_and_stop(run, after=5, **settings())
    make(**settings()).resume(run)
    assert contents(run) == contents(whole)


class Troubled:
    """Raises the first time it is asked about a batch, and has no number for the first completion of each."""

    def __init__(self, reward):
        self.reward, self.refused = reward, None

    def __call__(self, prompts, completions, **_):
        if self.refused != (batch := (tuple(prompts), tuple(completions))):
            self.refused = batch
            raise ConnectionError("busy")
        self.refused = None
        return [float("nan"), *self.reward(prompts, completions)[1:]]


def test_what_rewards_did_wrong_is_counted_across_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr("pareto_align.objectives.attempts.BACK_OFF_S", 0.0)

    def objectives():
        first, second = PROBLEM.objectives()
        return [Objective("r1", Troubled(first.reward), bounds=(0, 1)), second]

    whole, run = tmp_path / "whole", tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(objectives(), output_dir=whole).fit(list(PROBLEM.prompts))
        fit_and_stop(run, after=3, objectives=objectives())
        make(objectives()).resume(run)
    (end,), (again,) = events(whole, "end"), events(run, "end")
    assert end["nan_rewards"]["r1"] > 4
    assert end["repeated_calls"]["r1"] > 4
    assert (again["nan_rewards"], again["repeated_calls"]) == (end["nan_rewards"], end["repeated_calls"])


def test_the_front_of_every_measurement_has_the_same_answers_after_a_resume(tmp_path):
    """Of members that were measured before the kill as well: a checkpoint keeps what they said."""
    fronts: dict[str, list] = {"whole": [], "run": []}

    def kept(name):
        def look(event):
            if event["event"] == "evaluation":
                found = json.loads((tmp_path / name / "front" / "front.json").read_text())
                told = [(member["id"], member["sample"]) for member in found["members"]], found["reference_sample"]
                fronts[name].append(told)

        return look

    steps = {"steps": 6, "archive_capacity": 50, "resolution": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(output_dir=tmp_path / "whole", callbacks=[kept("whole")], **steps).fit(list(PROBLEM.prompts))
        fit_and_stop(tmp_path / "run", after=3, **steps)
        make(callbacks=[kept("run")], **steps).resume(tmp_path / "run")
    assert fronts["run"] == fronts["whole"][1:]
    members, untrained = fronts["run"][0]
    assert any(name < "m0003" for name, _ in members), "one that was measured before the kill"
    assert all(rows for _, rows in members)
    assert untrained


def test_a_run_that_ended_is_loaded_as_it_is(tmp_path):
    run = tmp_path / "run"
    front = make(output_dir=run).fit(list(PROBLEM.prompts))
    before = contents(run)
    assert not has_checkpoint(run), "what only serves to go on is removed at the end"
    assert len(make().resume(run)) == len(front)
    assert contents(run) == before
    assert not events(run, "resumed")


def test_another_aligner_is_refused_and_told_in_what_it_differs(tmp_path):
    run = tmp_path / "run"
    fit_and_stop(run)
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.01, is 0\.02"):
        make(learning_rate=0.02).resume(run)
    with pytest.raises(ConfigError, match="weighting was 'chebyshev', is 'fixed'"):
        make(weighting="fixed").resume(run)
    with pytest.raises(ConfigError, match="objectives was"):
        make(PROBLEM.objectives()[::-1]).resume(run)
    assert len(make().resume(run)) >= 1


@pytest.mark.parametrize(
    ("begun", "now", "told"),
    [
        ({"lora": lora(r=2)}, {"lora": lora(r=4)}, "lora.r was 2, is 4"),
        ({"lora": lora()}, {"lora": lora(target_modules=["q_proj"])}, "lora.target_modules was 'all-linear', is"),
        ({"weighting": Chebyshev(mu=0.2)}, {"weighting": "chebyshev"}, "weighting.mu was 0.2, is 0.05"),
        ({"learner": Rvpo(k=2.0)}, {"learner": Rvpo(k=3.0)}, "learner.k was 2.0, is 3.0"),
        (
            {"explorer": {"name": "random", "every": 3}},
            {"explorer": {"name": "random", "freeze": 0.5}},
            "explorer.every was 3, is 2; explorer.freeze was 0.8, is 0.5",
        ),
        (
            {"weighting": Schedule([(0.0, Chebyshev(mu=0.2))])},
            {"weighting": Schedule([(0.0, Chebyshev(mu=0.3))])},
            "weighting.points was .*0.2.* is .*0.3",
        ),
        ({"dtype": "float32"}, {"dtype": "bfloat16"}, "dtype was 'float32', is 'bfloat16'"),
    ],
    ids=["rank", "targets", "weighting", "learner", "explorer", "nested", "dtype"],
)
def test_other_adapters_precision_or_arguments_are_refused_and_told(begun, now, told, tmp_path):
    run = tmp_path / "run"
    fit_and_stop(run, **begun)
    journal = (run / "journal.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=told):
        make(**now).resume(run)
    assert (run / "journal.jsonl").read_bytes() == journal
    assert len(make(**begun).resume(run)) >= 1


def test_another_quantization_is_refused_before_the_model_is_loaded(tmp_path):
    run = tmp_path / "run"
    fit_and_stop(run)
    with pytest.raises(ConfigError, match="quantization was None, is '4bit'"):
        make(quantization="4bit").resume(run)


def test_other_variables_of_the_chat_template_are_refused_before_the_model_is_loaded(tmp_path):
    run = tmp_path / "run"
    fit_and_stop(run)
    with pytest.raises(ConfigError, match=r"chat_template_kwargs was {}, is {'enable_thinking': False}"):
        make(chat_template_kwargs={"enable_thinking": False}).resume(run)


def test_another_kind_of_device_is_allowed_and_said(tmp_path):
    run = tmp_path / "run"
    fit_and_stop(run)
    record = json.loads((run / "run.json").read_text())
    assert record["base"] == {"dtype": "float32", "device": "cpu"}
    record["base"]["device"] = "cuda"
    (run / "run.json").write_text(json.dumps(record))
    with pytest.warns(ParetoAlignWarning, match=r"begun on the device 'cuda' and goes on on 'cpu'.*not the same bytes"):
        assert len(make().resume(run)) >= 1


def test_a_run_of_an_older_release_that_took_less_down_is_resumed(tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    fit_and_stop(run, after=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(output_dir=whole).fit(list(PROBLEM.prompts))
        record = json.loads((run / "run.json").read_text())
        for fact in ("arguments", "loading", "base"):
            del record[fact]
        del record["config"]["reading"]
        for objective in record["objectives"]:
            del objective["tolerance"]
        (run / "run.json").write_text(json.dumps(record))
        kept = read_checkpoint(run)
        added = ("nan_rewards", "repeated_calls", "blind", "plateau")
        with CheckpointWriter(run) as old:
            old.write(Checkpoint({k: v for k, v in kept.record.items() if k not in added}, kept.tensors, kept.adapters))
        make().resume(run)
    assert contents(run) == contents(whole)


def test_a_front_that_stood_still_before_a_stop_still_does_after_it(tmp_path):
    still = {"learning_rate": 1e-12, "steps": 12, "eval_every": 1, "remeasure_rounds": 0, "stop_patience": 3}
    seen = []

    def stop(event):
        seen.append(event["event"])
        if seen.count("step") == 4:
            raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        with pytest.raises(KeyboardInterrupt):
            make(output_dir=tmp_path / "run", callbacks=[stop], **still).fit(list(PROBLEM.prompts))
        assert events(tmp_path / "run", "settled") == []
        make(**still).resume(tmp_path / "run")
        make(output_dir=tmp_path / "whole", **still).fit(list(PROBLEM.prompts))
    assert events(tmp_path / "run", "settled")[0]["step"] == 4
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def resumed_warnings(run, **settings):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make(**settings).resume(run)
    return [str(one.message) for one in told if "other conditions" in str(one.message)]


def change(run, **facts):
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_other_versions_and_another_machine_are_allowed_and_said(tmp_path):
    run = tmp_path / "run"
    fit_and_stop(run)
    record = json.loads((run / "run.json").read_text())
    assert set(record["versions"]) == {"python", "pareto-align", "torch", "transformers", "peft", "numpy"}
    assert set(record["machine"]) == {"processor", "accelerator", "threads", "ranks"}
    then = {"versions": record["versions"] | {"torch": "0.0.1", "python": "3.0"}}
    change(run, **then, machine=record["machine"] | {"threads": 999, "processor": "abacus"})
    (said,) = resumed_warnings(run)
    for told in ("torch was '0.0.1', is '", "python was '3.0'", "threads was 999", "processor was 'abacus'"):
        assert told in said
    assert "numpy" not in said
    assert "not the same bytes" in said


@pytest.mark.parametrize("facts", [{}, {"versions": {"numpy": None}, "machine": "?"}, {"versions": None}])
def test_versions_that_were_not_taken_down_are_not_compared(tmp_path, facts):
    run = tmp_path / "run"
    fit_and_stop(run)
    record = json.loads((run / "run.json").read_text())
    if facts:
        change(run, **facts)
    else:
        del record["machine"], record["versions"]["python"]  # as 0.1.0 wrote it at first
        (run / "run.json").write_text(json.dumps(record))
    said = resumed_warnings(run)
    assert said == [] or (len(said) == 1 and "numpy was None" in said[0])


def test_a_run_in_which_0_1_0_was_killed_goes_on(tmp_path):
    """`tests/fixtures/run-0.1.0` is as that release left it in step 5 of 6; younger settings are as they were then."""
    run = tmp_path / "run"
    shutil.copytree(HERE.parent / "fixtures" / "run-0.1.0", run)
    told = r"run: learner was 'centred', is 'grpo'; optimizer was 'adamw', is 'lion'\. Build"
    with pytest.raises(ConfigError, match=told):
        make(steps=6, learner="grpo", optimizer="lion").resume(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        front = make(steps=6).resume(run)
    assert [event["step"] for event in events(run, "step")] == [1, 2, 3, 4, 5, 6]
    assert front.record.split == "report"
    assert {member.provenance["step"] for member in front} <= {2, 4, 6}
    assert all(member.samples for member in front)


def test_what_a_run_killed_right_after_its_end_left_is_removed(tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("pareto_align.discovery.loop.remove_checkpoint", lambda folder: None)
        make(output_dir=run).fit(list(PROBLEM.prompts))
    # `fit` loads what it found, which removes it too: put it back
    fit_and_stop(tmp_path / "other")
    shutil.copytree(tmp_path / "other" / "checkpoint", run / "checkpoint")
    make().resume(run)
    assert not (run / "checkpoint").exists()
    shutil.copytree(tmp_path / "other" / "checkpoint", run / "checkpoint")
    ParetoFront.load(run / "front")
    assert not (run / "checkpoint").exists()
    ParetoFront.load(tmp_path / "other")
    assert has_checkpoint(tmp_path / "other"), "that of a run which has not ended stays"


def test_a_missing_number_in_a_column_forbids_no_resume(tmp_path):
    prompts = [{"prompt": p, "score": float("nan") if i % 2 else 1.0} for i, p in enumerate(PROBLEM.prompts)]

    def stop(event):
        if event["event"] == "step" and event["step"] == 2:
            raise KeyboardInterrupt

    whole, run = tmp_path / "whole", tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(output_dir=whole).fit(prompts)
        with pytest.raises(KeyboardInterrupt):
            make(output_dir=run, callbacks=[stop]).fit(prompts)
        make().resume(run)
    assert contents(run) == contents(whole)


@pytest.mark.parametrize("value", [(1, 2), {1: "a"}, {1, 2}, [{"a": (1,)}]])
def test_a_run_whose_prompts_could_not_be_kept_says_why_and_before_the_model_is_loaded(tmp_path, value):
    run = tmp_path / "run"

    def stop(event):
        if event["event"] == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pytest.warns(ParetoAlignWarning, match="cannot be resumed"):
        make(output_dir=run, callbacks=[stop]).fit([{"prompt": p, "odd": value} for p in PROBLEM.prompts])
    with pytest.raises(FrontFileError, match=r"could not be kept .* columns must be text.* Found \{'odd': "):
        make(model="no/such-model").resume(run)


def test_prompts_that_are_gone_are_asked_for(tmp_path):
    run = tmp_path / "run"
    fit_and_stop(run)
    (run / "prompts.jsonl").unlink()
    with pytest.raises(FrontFileError, match=r"prompts\.jsonl, in which its prompts .* is missing\. Put it back"):
        make().resume(run)


@pytest.mark.parametrize("call", ["aligner.resume(folder)", "aligner.fit(['a'], output_dir=folder)"])
def test_a_folder_in_use_is_refused_before_torch_is_imported(tmp_path, call):
    code = f"""
import sys
from pareto_align import Objective, ParetoAligner, FrontFileError
folder = sys.argv[1]
aligner = ParetoAligner("some/model", [Objective("a", lambda completions: completions)])
try:
    {call}
except FrontFileError as error:
    print(error)
print(sorted({{"torch", "transformers", "peft"}} & set(sys.modules)))
"""
    (tmp_path / "run.json").write_text('{"schema_version": 1, "model": "m", "objectives": [], "config": {}}')
    with FileLock(tmp_path / ".lock"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": str(Path(pareto_align.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.stdout == f"Another process is running in {tmp_path}.\n[]\n", done.stderr


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FrontFileError, match=r"no run\.json"):
        make().resume(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "altered", "garbage"])
def test_a_damaged_checkpoint_is_refused_by_name(damage, tmp_path):
    run = tmp_path / "run"
    fit_and_stop(run, after=3)
    (state,) = (run / "checkpoint").glob("state-*")
    path = state / ("state.json" if damage == "garbage" else "tensors.safetensors")
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-9], "altered": data[:-1] + bytes([data[-1] ^ 1]), "garbage": b"{"}[damage])
    with pytest.raises(FrontFileError, match="state-"):
        make().resume(run)


def test_prompts_that_cannot_be_kept_are_said_at_the_start(tmp_path):
    prompts = [{"prompt": prompt, "when": {1, 2}} for prompt in PROBLEM.prompts]
    with pytest.warns(ParetoAlignWarning, match="cannot be resumed"):
        make(output_dir=tmp_path / "run", steps=1).fit(prompts)


@pytest.mark.parametrize("place", [("step", 3), ("evaluation", 4), ("further", 6)])
def test_a_family_is_the_same_after_a_resume(place, tmp_path):
    """Its parameters, their moments and the preferences drawn; the folder of the family included."""
    settings = {"family": "pblora", "weighting": "chebyshev", "steps": 6, "eval_every": 2, "resolution": 0.0}
    whole, run = tmp_path / "whole", tmp_path / "run"

    def stop(event):
        if (event["event"], event.get("step")) == place:
            raise RuntimeError("enough")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(output_dir=whole, **settings).fit(list(PROBLEM.prompts))
        with pytest.raises(RuntimeError, match="enough"):
            make(output_dir=run, callbacks=[stop], **settings).fit(list(PROBLEM.prompts))
        with pytest.raises(ConfigError, match="family was 'pblora'"):
            make(**{**settings, "family": "blocks"}).resume(run)
        make(**settings).resume(run)
    assert any(name.startswith("family/") for name in contents(run))
    assert contents(run) == contents(whole)
