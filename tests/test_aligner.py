"""`ParetoAligner.fit` as a user meets it: the run folder, the journal, the front, whatever is plugged in."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from aligner_runs import PROBLEM, STEP_CALL, events, fit, lora, make
from filelock import FileLock
from peft import PeftModel

from pareto_align import (
    ConfigError,
    FrontFileError,
    Objective,
    ObjectiveError,
    ParetoAlignWarning,
    ParetoFront,
    PromptError,
)
from pareto_align.front import grid
from pareto_align.objectives import ObjectiveSet, StatefulReward, shared
from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.policies.serving import recorded_base
from pareto_align.testing.problems import get_problem


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run that others look at."""
    folder = tmp_path_factory.mktemp("aligner") / "run"
    model = PROBLEM.model()
    keys = list(model.state_dict())
    seen = []
    front, aligner = fit(folder, model=model, kl_coef=0.05, callbacks=[seen.append])
    return {"folder": folder, "front": front, "aligner": aligner, "model": model, "keys": keys, "seen": seen}


# ------------------------------------------------------------------------------------------------ a run that ends


def test_the_run_folder_holds_the_settings_the_journal_and_the_front(finished):
    folder = finished["folder"]
    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["population"] == 3
    assert record["config"]["weighting"] == "chebyshev"
    assert record["versions"]["torch"] == torch.__version__
    assert (folder / "front" / "front.json").is_file()
    assert (folder / "front" / "README.md").is_file()


def test_the_journal_tells_the_story(finished):
    told = [event["event"] for event in events(finished["folder"]) if event["event"] != "stalled"]
    assert told == ["start", "step", "step", "evaluation", "step", "step", "evaluation", "report", "end"]
    stages = [event["stage"] for event in finished["seen"] if event["event"] == "stage"]
    assert stages == [
        "loading the model", "measuring the untrained model", "measuring the front on the report prompts",
    ]  # fmt: skip
    assert [event for event in finished["seen"] if event["event"] != "stage"] == events(finished["folder"])
    start = events(finished["folder"], "start")[0]
    assert start["objectives"] == ["r1", "r2"]
    assert np.allclose(start["preferences"], grid(2, 3))
    for step in events(finished["folder"], "step"):
        assert np.shape(step["values"]) == np.shape(step["weights"]) == (3, 2)
        assert len(step["kl"]) == len(step["entropy"]) == len(step["grad_norm"]) == len(step["length"]) == 3
        assert step["length"] == [1.0, 1.0, 1.0]
        assert min(step["grad_norm"]) > 0
    assert [step["step"] for step in events(finished["folder"], "step")] == [1, 2, 3, 4]
    for evaluation in events(finished["folder"], "evaluation"):
        assert evaluation["hypervolume_low"] <= evaluation["hypervolume"] <= evaluation["hypervolume_high"]
        assert len(evaluation["statuses"]) == 3
    cost = events(finished["folder"], "end")[0]["cost"]
    assert cost["rollouts"] == cost["train_tokens"] == 4 * STEP_CALL
    # one prompt, 8 samples of one token: the base twice, the population twice, the members once, the contested again
    evaluations = events(finished["folder"], "evaluation")
    again = [sum(len(batch) for batch in evaluation["remeasured"]) for evaluation in evaluations]
    assert [evaluation["remeasure_tokens"] for evaluation in evaluations] == [8 * n for n in again]
    assert all(n <= 3 for n in again), "at most as much as the evaluation itself took"
    assert cost["eval_tokens"] == 8 * (2 + 2 * 3 + sum(again) + evaluations[-1]["members"])
    assert cost["reward_calls"] == 2 * (cost["rollouts"] + cost["eval_tokens"])


def test_the_front_is_what_the_folder_says(finished):
    front = finished["front"]
    assert len(front) >= 1
    assert front.record.split == "report"
    loaded = ParetoFront.load(finished["folder"])
    assert np.array_equal(loaded.values, front.values)
    assert [member.id for member in loaded] == [member.id for member in front]
    fallen = {entry["id"] for entry in front.record.fallen}
    assert len(fallen) + len(front) == 6  # two measurements of three policies, and each is accounted for
    assert all(entry["reason"] for entry in front.record.fallen)
    for member in front:
        assert {"step", "policy", "preference", "spread"} <= member.provenance.keys()


def test_each_answer_is_kept_with_its_own_rewards_the_untrained_models_too(finished):
    front, objectives = finished["front"], ObjectiveSet(PROBLEM.objectives())
    asked = {json.dumps(row["prompt"]) for row in front.record.reference_sample}
    assert asked
    for rows in (front.record.reference_sample, *(member.samples for member in front)):
        assert {json.dumps(row["prompt"]) for row in rows} == asked
        assert {row["prompt_id"] for row in rows} <= set(front.record.reference_policy.prompt_ids)
        for row in rows:
            scored = objectives.to_user(objectives.score([row["prompt"]], [row["completion"]], {}))
            np.testing.assert_array_equal(row["rewards"], scored[0])


def test_a_front_has_answers_at_every_measurement_and_not_only_at_the_end(tmp_path):
    """Of the members and of the untrained model, to prompts that they were measured on."""
    run, seen = tmp_path / "run", {}

    def look(event):
        if event["event"] in ("evaluation", "report"):
            seen[event["step"], event["event"]] = ParetoFront.load(run).record

    fit(run, eval_prompts=PROBLEM.prompts * 8, samples_kept=3, callbacks=[look])
    objectives = ObjectiveSet(PROBLEM.objectives())
    assert [kind for _, kind in seen] == ["evaluation", "evaluation", "report"]
    for (_, kind), record in seen.items():
        assert record.split == {"evaluation": "select", "report": "report"}[kind]
        assert record.members
        for rows in (record.reference_sample, *(member.sample for member in record.members)):
            assert [row["prompt_id"] for row in rows] == [0, 1, 2]
            for row in rows:
                scored = objectives.to_user(objectives.score([row["prompt"]], [row["completion"]], {}))
                np.testing.assert_array_equal(row["rewards"], scored[0])


def test_who_wants_no_answers_kept_has_none_in_the_folder(tmp_path):
    front, _ = fit(tmp_path / "run", samples_kept=0)
    assert [member.samples for member in front] == [[]] * len(front)
    assert "completion" not in (tmp_path / "run" / "front" / "front.json").read_text()


def test_the_model_is_given_back_as_it_was(finished):
    assert list(finished["model"].state_dict()) == finished["keys"]
    fresh = PROBLEM.model()
    ids = torch.tensor(PROBLEM.prompts_ids())
    assert torch.equal(finished["model"](ids).logits, fresh(ids).logits)


def test_a_member_is_a_stock_adapter_of_that_policy(finished):
    """A member of the last measurement, loaded by PEFT alone, is the population's own row."""
    front, aligner = finished["front"], finished["aligner"]
    last = [member for member in front if member.provenance["step"] == 4]
    ids = torch.tensor(PROBLEM.prompts_ids())

    for member in last or list(front):
        theirs = PeftModel.from_pretrained(PROBLEM.model(), str(member.adapter_path)).eval()(ids).logits
        base = load_base(PROBLEM.model(), tokenizer=PROBLEM.tokenizer())
        population = PolicyPopulation(base, 1, lora=lora())
        row = population.read_adapter(member.adapter_path)
        if member.provenance["step"] == 4:
            assert torch.equal(row, aligner.policies_[member.provenance["policy"]])
        with population.serving(row[None]), torch.no_grad():
            assert torch.allclose(base.model(ids).logits, theirs, atol=1e-5)


def test_the_seed_decides_everything(tmp_path, finished):
    _, again = fit(tmp_path / "again", kl_coef=0.05)
    _, other = fit(tmp_path / "other", kl_coef=0.05, seed=1)
    assert torch.equal(again.policies_, finished["aligner"].policies_)
    assert not torch.equal(other.policies_, again.policies_)
    assert np.array_equal(ParetoFront.load(tmp_path / "again").values, finished["front"].values)


def test_one_aligner_fits_twice(tmp_path):
    aligner = make(model=PROBLEM.model())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = aligner.fit(list(PROBLEM.prompts), output_dir=tmp_path / "first")
        policies = aligner.policies_
        second = aligner.fit(list(PROBLEM.prompts), output_dir=tmp_path / "second")
    assert torch.equal(aligner.policies_, policies)
    assert np.array_equal(first.values, second.values)
    assert first.record.cost["reward_calls"] == second.record.cost["reward_calls"]


class Growing(StatefulReward):
    """A sound reward that counts for more the more it has judged in training."""

    def __init__(self, reward):
        self.reward = reward
        self.reset()

    def __call__(self, prompts, completions, **_):
        values = [value * (1 + self.judged) for value in self.reward(prompts, completions)]
        self.judged += len(values) if self.learning else 0
        return values

    def reset(self):
        self.judged = 0

    def state_dict(self):
        return {"judged": self.judged}

    def load_state_dict(self, state):
        self.judged = state["judged"]


@pytest.mark.parametrize("wrap", [lambda reward: reward, shared], ids=["itself", "shared"])
def test_a_reward_with_a_memory_begins_every_fit_afresh(wrap, tmp_path):
    growing = Growing(PROBLEM.objectives()[0].reward)
    objectives = [Objective("r1", wrap(growing)), PROBLEM.objectives()[1]]
    found = []
    for number in range(2):
        front, aligner = fit(tmp_path / f"{number}", objectives, steps=2)
        assert growing.judged == 2 * STEP_CALL
        found.append((front.values, aligner.policies_))
    assert np.array_equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("learner", ["centred", "rloo", "grpo", "dr_grpo", "gdpo", "reinforce"])
def test_every_learner_runs(learner, tmp_path):
    front, aligner = fit(tmp_path / "run", learner=learner, steps=2, kl_coef=0.01, updates_per_rollout=2)
    assert len(front) >= 1
    assert torch.isfinite(aligner.policies_).all()


@pytest.mark.parametrize("weighting", ["fixed", "chebyshev", "hypervolume", "hypervolume-paper"])
def test_every_weighting_runs(weighting, tmp_path):
    front, aligner = fit(tmp_path / "run", weighting=weighting, steps=3, eval_every=1)
    assert len(front) >= 1
    assert torch.isfinite(aligner.policies_).all()


def test_one_completion_a_prompt_is_enough_for_a_learner_without_groups(tmp_path):
    """Nothing varies within a group of one, but that is no stall."""
    fit(
        tmp_path / "run", learner="reinforce", group_size=1, prompts_per_step=8, steps=6, stall_patience=2, kl_coef=0.01
    )
    assert events(tmp_path / "run", "stalled") == []


def test_a_policy_alone_and_one_objective_alone(tmp_path):
    front, _ = fit(tmp_path / "alone", population=1, steps=2)
    assert len(front) >= 1
    front, _ = fit(tmp_path / "one", PROBLEM.objectives()[:1], steps=2)
    assert tuple(front.names) == ("r1",)


def test_audits_are_measured_and_constraints_decide_who_enters(tmp_path):
    problem = get_problem("hacked", hidden_size=16)
    first, second, gold = problem.objectives()
    cap = Objective("cap", first.reward, role="constrain", at_most=0.5)
    front, _ = fit(
        tmp_path / "run",
        [gold, first, second, cap],
        model=problem.model(),
        tokenizer=problem.tokenizer(),
        prompts=problem.prompts,
    )
    assert list(front.names) == ["gold", "r1", "r2", "cap"]
    assert front.values.shape[1] == 4
    assert np.shape(events(tmp_path / "run", "step")[0]["values"]) == (3, 4)
    assert np.shape(events(tmp_path / "run", "step")[0]["weights"]) == (3, 2)
    assert (front.values[:, 3] <= 0.5).all()
    assert np.allclose(front.values[:, 3], front.values[:, 1])  # at_most: less is better, yet told in the user's units


def test_nobody_within_the_constraint_leaves_an_empty_front_that_loads(tmp_path):
    never = Objective("never", lambda completions, **_: [0.0] * len(completions), role="constrain", at_least=1.0)
    front, _ = fit(tmp_path / "run", [*PROBLEM.objectives(), never])
    assert len(front) == 0
    assert len(ParetoFront.load(tmp_path / "run")) == 0
    assert {entry["status"] for entry in front.record.fallen} == {"infeasible"}


def test_within_its_tolerance_a_constraint_lets_policies_in(tmp_path):
    nearly = Objective(
        "nearly", lambda completions, **_: [0.45] * len(completions), role="constrain", at_least=0.5, tolerance=0.1
    )
    front, _ = fit(tmp_path / "run", [*PROBLEM.objectives(), nearly])
    assert len(front) >= 1
    assert ParetoFront.load(tmp_path / "run").record.objectives[2].tolerance == 0.1
    assert "at least 0.5, with a tolerance of 0.1" in (tmp_path / "run" / "front" / "README.md").read_text()


def test_constraints_come_with_a_word_on_what_they_do():
    cap = Objective("cap", lambda completions, **_: [0.0], role="constrain", at_most=0.5)
    with pytest.warns(ParetoAlignWarning, match="does not push policies towards thresholds"):
        make([*PROBLEM.objectives(), cap], weighting="chebyshev")


def test_less_is_better_where_the_user_says_so(tmp_path):
    """The mirrored problem in the user's units: the same run, told with the other sign."""
    mirrored = [
        Objective(
            o.name,
            lambda prompts, completions, reward=o.reward, **c: [-r for r in reward(prompts, completions)],
            maximize=False,
            bounds=(-1, 0),
        )
        for o in PROBLEM.objectives()
    ]
    front, aligner = fit(tmp_path / "mirrored", mirrored)
    straight, plain = fit(tmp_path / "straight")
    assert torch.equal(aligner.policies_, plain.policies_)
    assert np.allclose(front.values, -straight.values)


def test_runs_without_a_folder_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in ("001", "002"):
        fit(None, steps=1)
        assert (tmp_path / "pareto_runs" / number / "run.json").is_file()


def test_a_run_folder_may_be_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    front, _ = fit("~/run", steps=1)
    assert front.path == tmp_path / "home" / "run"
    assert not (tmp_path / "~").exists()
    assert len(ParetoFront.load("~/run")) == len(make(steps=1).resume("~/run")) == len(front)
    assert front.save("~/saved").parent == front.export("~/out").parent == tmp_path / "home"
    with pytest.raises(FrontFileError, match="already holds a run"):
        make().fit(list(PROBLEM.prompts), output_dir=Path("~/run"))


def test_variables_of_the_chat_template_are_kept_with_the_front_and_served(tmp_path, monkeypatch):
    front, _ = fit(tmp_path / "run", steps=1, chat_template_kwargs={"enable_thinking": False})
    assert front.record.base["chat_template_kwargs"] == {"enable_thinking": False}
    assert ParetoFront.load(tmp_path / "run").record.base == front.record.base
    loaded = []
    monkeypatch.setattr("pareto_align.policies.serving.load_base", lambda name, **load: loaded.append(load))
    recorded_base({**front.record.base, "name": "some/model"})
    assert loaded[0]["chat_template_kwargs"] == {"enable_thinking": False}


def test_prompts_are_looked_at_before_a_folder_is_made_or_a_model_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("pareto_align.policies.base.load_base", lambda *_, **__: pytest.fail("loaded"))
    prompts = [{"prompt": text, "answer": 1} for text in PROBLEM.prompts]
    for given, held_out in (([*prompts, {"prompt": "", "answer": 1}], None), (prompts, ["a", "b"]), ({"a"}, None)):
        with pytest.raises(PromptError):
            make(output_dir=tmp_path / "run").fit(given, eval_prompts=held_out)
    assert not (tmp_path / "run").exists()


def test_a_prompt_may_be_called_otherwise(tmp_path):
    rows = [{"prompt": text, "answer": number} for number, text in enumerate(PROBLEM.prompts)]
    asked = [{"question": row["prompt"], "answer": row["answer"], "prompt": "left out"} for row in rows]
    fronts = [
        make(output_dir=tmp_path / name).fit(given, eval_prompts=given * 2, **more)
        for name, given, more in (("plain", rows, {}), ("named", asked, {"prompt_column": "question"}))
    ]
    assert (fronts[0].values == fronts[1].values).all()
    assert fronts[0][0].samples == fronts[1][0].samples
    with pytest.raises(ConfigError, match="`prompt_column` must be the name of a column"):
        make().fit(rows, prompt_column=3)
    goals = [Objective("a", prefers="a"), Objective("b", prefers="b")]
    with pytest.raises(ConfigError, match="'dpo' learns from comparisons, whose prompts are called 'prompt'"):
        make(goals, learner="dpo", weighting="fixed", explorer="grid").fit([], prompt_column="question")


def test_given_evaluation_prompts_are_used(tmp_path):
    problem = get_problem("contexts", hidden_size=16)
    asked = []

    def watch(prompts, completions, **_):
        asked.append(set(prompts))
        return problem.objectives()[0].reward(prompts, completions)

    objectives = [Objective("r1", watch, bounds=(0, 1)), problem.objectives()[1]]
    fit(
        tmp_path / "run",
        objectives,
        model=problem.model(),
        tokenizer=problem.tokenizer(),
        max_new_tokens=2,
        prompts=problem.prompts[:2],
        eval_prompts=problem.prompts[2:],
    )
    learned, measured = set(problem.prompts[:2]), set(problem.prompts[2:])
    assert all(call <= learned or call <= measured for call in asked)
    selected, reported = asked[0], asked[-1]
    assert selected | reported == measured
    assert not selected & reported


# ---------------------------------------------------------------------------------------------- the run folder


def test_an_error_before_anything_was_written_leaves_no_folder(tmp_path):
    def broken(completions, **columns):
        raise RuntimeError("no such thing")

    for there in (False, True):
        if there:
            (tmp_path / "run").mkdir()
        with pytest.raises(ObjectiveError, match="no such thing"):
            fit(tmp_path / "run", [Objective("broken", broken), *PROBLEM.objectives()])
        assert (tmp_path / "run").exists() == there, "a folder of the user's own stays"


def test_a_folder_that_holds_a_run_is_refused(finished, tmp_path):
    before = (finished["folder"] / "front" / "front.json").read_bytes()
    for folder in (finished["folder"], finished["folder"] / "front"):
        with pytest.raises(FrontFileError, match="already holds a run"):
            fit(folder)
    assert (finished["folder"] / "front" / "front.json").read_bytes() == before
    half = tmp_path / "half"
    shutil.copytree(finished["folder"], half)
    lines = (half / "journal.jsonl").read_text().splitlines(keepends=True)
    (half / "journal.jsonl").write_text("".join(line for line in lines if '"event": "end"' not in line))
    with pytest.raises(FrontFileError, match="pareto-align resume"):
        fit(half)
    (tmp_path / "file").write_text("")
    with pytest.raises(FrontFileError, match="is a file"):
        fit(tmp_path / "file")
    with pytest.raises(FrontFileError, match="cannot be made"):
        fit(tmp_path / "file" / "below")


def test_a_folder_in_which_another_process_runs_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    model = PROBLEM.model()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(FrontFileError, match="Another process"):
        fit(tmp_path / "run", model=model)
    assert list(model.state_dict()) == list(PROBLEM.model().state_dict())  # given back here too
    assert len(fit(tmp_path / "run", steps=1)[0]) >= 1


def test_a_run_that_has_measured_nothing_yet_says_so(tmp_path):
    seen = []

    def look(event):
        if event["event"] == "stage" and event["stage"] == "measuring the untrained model":
            with pytest.raises(FrontFileError) as caught:
                ParetoFront.load(tmp_path / "run")
            seen.append(str(caught.value))
        if event["event"] == "step" and event["step"] == 1:
            seen.append(len(ParetoFront.load(tmp_path / "run")))

    fit(tmp_path / "run", callbacks=[look], steps=1)
    assert seen == [
        f"The run in {tmp_path / 'run'} goes on, and has measured nothing yet: it loads the model, or measures it "
        "untrained. There is a front after that.",
        0,
    ]
    with pytest.raises(FrontFileError, match=r"There is no front\.json"):
        ParetoFront.load(tmp_path)  # nobody works there


def test_nothing_that_we_call_is_deprecated(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(output_dir=tmp_path / "run", steps=2, kl_coef=0.1).fit(list(PROBLEM.prompts))


def test_a_damaged_member_is_named_and_the_rest_loads(finished, tmp_path):
    import shutil

    shutil.copytree(finished["folder"], tmp_path / "run")
    whole = ParetoFront.load(tmp_path / "run")
    weights = whole[0].adapter_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.warns(ParetoAlignWarning, match=whole[0].id):
        rest = ParetoFront.load(tmp_path / "run")
    assert [member.id for member in rest] == [member.id for member in whole][1:]
