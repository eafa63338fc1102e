"""Bad input gets its error before the first training step; what goes wrong in the middle of a run loses nothing."""

from __future__ import annotations

import errno
import math
import warnings

import pytest
import torch
from aligner_runs import PROBLEM, STEP_CALL, events, fit, lora, make
from peft import PeftModel

from pareto_align import (
    ConfigError,
    FrontFileError,
    Grid,
    ModelError,
    Objective,
    ObjectiveError,
    ParetoAligner,
    ParetoAlignWarning,
    ParetoFront,
    PreferenceError,
    PromptError,
)
from pareto_align.learning.credit import make_credit
from pareto_align.objectives import brevity, exact_match, keyword_coverage, lexicographic, numeric_answer, of_group
from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.testing.problems import get_problem
from pareto_align.tuning.sweep import _problem
from pareto_align.weighting import make as make_weighting

# --------------------------------------------------------------------------- bad input, before the first step


def refused(folder, error, said, objectives=None, *, prompts=PROBLEM.prompts, **settings):
    """The error comes before anything was trained, and the folder can be used again."""
    with pytest.raises(error, match=said):
        fit(folder, objectives, prompts=prompts, **settings)
    if folder.exists():
        assert not (folder / "run.json").exists()
        assert not (folder / "journal.jsonl").exists()
        front, _ = fit(folder, steps=1)
        assert len(front) >= 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dtype": "float64"}, "`dtype` must be one of auto, float32, bfloat16, float16. Found 'float64'"),
        ({"tokenizer": 3}, "`tokenizer` must be .* Found 3"),
        ({"trust_remote_code": "no"}, "`trust_remote_code` must be True or False. Found 'no'"),
        ({"use_chat_template": "no"}, "`use_chat_template` must be True, False or None. Found 'no'"),
        ({"output_dir": ""}, "`output_dir` must be a path, as text or a `Path`. Found ''"),
        ({"output_dir": 3}, "`output_dir` must be a path, as text or a `Path`. Found 3"),
        ({"chat_template_kwargs": "no"}, "`chat_template_kwargs` must map names to values. Found 'no'"),
        ({"num_generations": 4}, r"Unknown setting 'num_generations'. Did you mean 'group_size'\?"),
        ({"seed": "a"}, "`seed` must be a whole number of at least 0"),
        ({"weighting": {"name": "chebyshev", "mu": "a"}}, "`mu` must be a positive number. Found 'a'"),
        ({"weighting": {"name": "stch", "mu": "a"}}, "'stch': `mu` must be a positive number. Found 'a'"),
        (
            {"explorer": {"name": "grid", "margin": "a"}},
            "`margin` must be a number of at least 0 and below 1",
        ),
    ],
)
def test_values_of_another_kind_are_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        make(**settings)


def test_a_learner_with_settings_is_one_in_python_too():
    aligner = make(learner={"name": "rvpo", "k": 2.0})
    credit = aligner._plan().learner.credit
    assert credit.name == "rvpo"
    assert credit.k == 2.0
    assert _problem(aligner, PROBLEM.prompts, None)["learner"] == "rvpo"  # what a sweep compares


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        (3, "`learner` must be a name, a mapping with `name`, or an instance"),
        ({"k": 2.0}, "`learner` given as a mapping needs `name`"),
        ({"name": "rvpo", "kk": 2.0}, "'rvpo' has no setting 'kk'. Did you mean 'k'"),
        ({"name": "rvpo", "k": "a"}, "'rvpo': `k` must be a positive number. Found 'a'"),
        ("grop", "Unknown learner 'grop'. Did you mean 'grpo'"),
        ("zzz", "Unknown learner 'zzz'. Known: best, centred"),
    ],
)
def test_learners_that_are_none(learner, said):
    with pytest.raises(ConfigError, match=said):
        make_credit(learner)


def test_plain_prompts_without_a_template(tmp_path):
    said = "Prompt 0: `use_chat_template` is on, but the tokenizer has no chat template"
    refused(tmp_path / "run", PromptError, said, use_chat_template=True)


def test_held_out_prompts_that_are_none_are_named(tmp_path):
    refused(tmp_path / "run", PromptError, "There are no prompts: `eval_prompts` is empty", eval_prompts=[])


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "There are no prompts"),
        ([" "], "Prompt 0: A prompt is empty"),
        (["<0>", None], "Prompt 1"),
        (["<0>" * 255], "exceeds the model's context of 256"),
    ],
)
def test_unusable_prompts(prompts, said, tmp_path):
    refused(tmp_path / "run", PromptError, said, prompts=prompts)


def raising(completions, **_):
    raise RuntimeError("the judge is out")


REWARDS = {
    "wrong count": (lambda completions, **_: [0.0] * (len(completions) - 1), "'bad' returned 7 rewards for 8"),
    "string": (lambda completions, **_: ["good"] * len(completions), "'bad'"),
    "nan": (lambda completions, **_: [math.nan] * len(completions), "'bad'"),
    "inf": (lambda completions, **_: [math.inf] * len(completions), "'bad'"),
    "all none": (lambda completions, **_: [None] * len(completions), "'bad' returned None for all"),
    "raises": (raising, "'bad'.*the judge is out"),
    "no list": (lambda completions, **_: None, "'bad'"),
}


@pytest.mark.parametrize("reward", REWARDS)
def test_rewards_that_misbehave(reward, tmp_path):
    function, said = REWARDS[reward]
    refused(tmp_path / "run", ObjectiveError, said, [*PROBLEM.objectives(), Objective("bad", function)])


def test_objectives_that_make_no_problem():
    first = PROBLEM.objectives()[0]
    with pytest.raises(ObjectiveError, match="'r1'"):
        make([first, first])
    with pytest.raises(ObjectiveError, match="bounds"):
        Objective("n", first.reward, bounds=(1, 0))
    with pytest.raises(ObjectiveError, match="role 'optimize'"):
        make([Objective("n", first.reward, role="audit")])
    with pytest.raises(ObjectiveError):
        make([])


def test_a_constant_objective_is_a_warning(tmp_path):
    same = Objective("same", lambda completions, **_: [0.5] * len(completions), bounds=(0, 1))
    with pytest.warns(ParetoAlignWarning, match="'same' is 0.5 for all 8 completions.*cannot be traded"):
        make([*PROBLEM.objectives(), same], output_dir=tmp_path / "run", steps=1).fit(list(PROBLEM.prompts))


@pytest.mark.parametrize(
    ("preference", "said"),
    [
        ({"r1": 1, "r3": 1}, "r3"),
        ({"r1": 1, "r2": -1}, "r2"),
        ({"r1": 0, "r2": 0}, ""),
        ([1, 1, 1], ""),
        ([1, math.nan], ""),
    ],
)
def test_preferences_that_are_none(preference, said, tmp_path):
    refused(tmp_path / "run", PreferenceError, said or None, explorer=Grid([preference, preference, preference]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"population": 0}, "population=0"),
        ({"group_size": 1}, "'centred' .*group_size >= 2"),
        ({"group_size": 1, "learner": "grpo"}, "'grpo' .*group_size >= 2"),
        ({"learner": "grop"}, "grop"),
        ({"weighting": "chebishev"}, "chebyshev"),
        ({"explorer": "gird"}, "grid"),
        ({"explorer": Grid([[1, 0]])}, "Found 1 for a population of 3"),
        ({"kl": "k2"}, "k2"),
        ({"kl_coef": -1.0}, "kl_coef"),
        ({"clip": 0.0}, "clip"),
        ({"aggregation": "mean"}, "mean"),
        ({"lora": lora(use_dora=True)}, "use_dora"),
        ({"lora": lora(lora_dropout=0.1)}, "lora_dropout"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_settings_that_make_no_sense(settings, said, tmp_path):
    refused(tmp_path / "run", ConfigError, said, **settings)


def untouched(folder, error, said, objectives=None, *, prompts=PROBLEM.prompts, **settings):
    """The error comes before a model is looked for, and before anybody is told that one is loaded."""
    told = []
    with pytest.raises(error, match=said):
        fit(folder, objectives, prompts=prompts, model="no/such/model", callbacks=[told.append], **settings)
    assert told == []
    assert not folder.exists()


@pytest.mark.parametrize(
    "reward",
    [
        lambda completions, answer: [0.0] * len(completions),
        exact_match(column="answer"),
        lexicographic([brevity(), numeric_answer(column="answer")]),
        keyword_coverage(column="answer"),
        of_group(brevity(), column="answer", group="x"),
    ],
    ids=["parameter", "ready-made", "composed", "keywords", "group"],
)
def test_a_column_that_a_reward_reads_is_missed_before_a_model_is_loaded(reward, tmp_path):
    objectives = [*PROBLEM.objectives(), Objective("right", reward, role="audit")]
    untouched(
        tmp_path / "run", ObjectiveError, r"Objective 'right' needs the column 'answer', .* \(they have: 'topic'\)",
        objectives, prompts=[{"prompt": prompt, "topic": "x"} for prompt in PROBLEM.prompts],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"explorer": Grid([[1, 0]])}, "Found 1 for a population of 3"),
        ({"learner": "grop"}, "Did you mean 'grpo'"),
        ({"weighting": {"name": "chebyshev", "ideal": [0, 0], "nadir": [1, 1]}}, "`ideal` must lie above `nadir`"),
        ({"eval_group": "topic"}, "'topic'"),
    ],
)
def test_nobody_is_told_of_a_model_that_is_not_needed_to_see_the_error(settings, said, tmp_path):
    untouched(tmp_path / "run", (ConfigError, PromptError), said, **settings)


@pytest.mark.parametrize("model", ["no/such/folder/at/all", "my model", "./none"])
def test_a_model_that_can_be_nowhere_is_said_at_once(model, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)  # nobody is asked
    with pytest.raises(ModelError, match="there is no such folder or file"):
        fit(tmp_path / "run", model=model, tokenizer=None)


def test_who_waits_for_the_hub_is_told_so(tmp_path, monkeypatch):
    def unreachable(*args, **keywords):
        raise OSError("no network")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", unreachable)
    told = []
    with pytest.raises(ModelError, match="Cannot load the model 'no/such': no network"):
        fit(tmp_path / "run", model="no/such", callbacks=[told.append])
    assert [event["stage"] for event in told] == ["loading the model no/such, which the Hugging Face Hub is asked for"]


@pytest.mark.parametrize("folder", [None, 3, b"run"])
def test_resume_needs_a_folder(folder):
    with pytest.raises(ConfigError, match="`output_dir` must be a path"):
        make().resume(folder)
    with pytest.raises(ConfigError, match="Call `resume` of an aligner"):
        ParetoAligner.resume(folder)


def test_resume_takes_the_folder_of_the_constructor(tmp_path):
    with pytest.raises(FrontFileError, match=r"run holds no run"):
        make(output_dir=tmp_path / "run").resume()


def test_words_on_devices_and_targets(tmp_path):
    with pytest.raises(ModelError, match=r"Unknown device 'gpu'. Use 'auto', 'cpu', 'cuda'"):
        fit(tmp_path / "run", device="gpu")
    for given, meant in (("q_proj", r"\['q_proj'\]"), ("q_proj, v_proj", r"\['q_proj', 'v_proj'\]")):
        with pytest.raises(ModelError, match=f"give a list, target_modules={meant}"):
            fit(tmp_path / "run", lora=lora(target_modules=given))


@pytest.mark.parametrize("given", ["ab", {"r1": 1}, 3])
def test_a_grid_that_is_none_is_named(given):
    with pytest.raises(ConfigError, match="Explorer 'grid': `preferences` must be a list of preferences, one for each"):
        make(explorer=Grid(given))


def test_of_a_grid_the_preference_that_is_none_is_numbered(tmp_path):
    said = "Explorer 'grid', preference 2: Found 1"
    refused(tmp_path / "run", PreferenceError, said, explorer=Grid([[1, 0], [0, 1], [1]]))


@pytest.mark.parametrize(
    ("weighting", "said"),
    [
        ("lagrangian", r"`weighting` 'lagrangian' steers constrained objectives, and `objectives` has none"),
        (make_weighting("schedule", points=[(0.0, "fixed"), (0.5, "safe-rlhf")]), "`weighting` 'schedule' steers"),
        ("barrier", "`weighting` 'barrier' steers constrained objectives"),
    ],
    ids=["by name", "within another", "barrier"],
)
def test_a_weighting_that_steers_constraints_is_refused_where_there_are_none(weighting, said):
    with pytest.raises(ConfigError, match=said):
        make(weighting=weighting)


def test_a_weighting_that_goes_by_audits_is_refused_where_there_are_none():
    first, second = PROBLEM.objectives()
    held = Objective("held", second.reward, role="constrain", at_least=0.1)
    with pytest.raises(ConfigError, match="`weighting` 'nelder-mead-thresholds' goes by audited objectives"):
        make([first, held], weighting="nelder-mead-thresholds")


def test_a_weighting_that_does_not_fit_the_objectives_says_so_before_a_model_is_loaded(tmp_path):
    three = make_weighting("schedule", points=[(0.0, [1.0, 0.0, 0.0])])
    with pytest.raises(ConfigError, match="must be 2 finite numbers"):
        fit(tmp_path / "run", model="a model that is nowhere", tokenizer=None, weighting=three)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_locked_is_said_and_the_model_given_back(tmp_path, monkeypatch):
    def refuse(self, **_):
        raise OSError(errno.EROFS, "Read-only file system")

    model = PROBLEM.model()
    with monkeypatch.context() as patch:
        patch.setattr("pareto_align.runs.folder.FileLock.acquire", refuse)
        with pytest.raises(FrontFileError, match=r"cannot be locked.*Read-only file system"):
            fit(tmp_path / "run", model=model)
    assert list(model.state_dict()) == list(PROBLEM.model().state_dict())
    assert len(fit(tmp_path / "run", model=model, steps=1)[0]) >= 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weighting": {"name": "chebyshev", "mu": 0.2}}, None),
        ({"explorer": {"name": "random", "every": 3}}, None),
        ({"weighting": {"name": "chebyshev", "mew": 0.2}}, "'chebyshev' has no setting 'mew'"),
        ({"weighting": {"mu": 0.2}}, "needs `name`. Found {'mu': 0.2}"),
        ({"weighting": {}}, "`weighting` given as a mapping needs `name`. Found {}"),
        (
            {"explorer": {"name": "random", "evry": 3}},
            "'random' has no setting 'evry'. Did you mean 'every'",
        ),
        ({"explorer": {"every": 3}}, "needs `name`"),
        ({"explorer": {"name": "radnom"}}, "Did you mean 'random'"),
        ({"explorer": 3}, "`explorer` must be a name, a mapping with `name`, or an instance of Explorer. Found 3"),
        ({"weighting": 3}, "`weighting` must be a name, a mapping with `name`, or an instance"),
    ],
)
def test_a_mapping_names_what_it_sets_as_in_a_config(settings, said):
    if said is not None:
        with pytest.raises(ConfigError, match=said):
            make(**settings)
        return
    aligner = make(**settings)
    for part, spec in settings.items():
        built = getattr(aligner, part)
        assert built.name == spec["name"]
        assert all(getattr(built, name) == value for name, value in spec.items() if name != "name")


def test_few_held_out_prompts_are_said_where_more_were_asked_for(tmp_path):
    problem = get_problem("contexts", hidden_size=16)
    parts = {"model": problem.model(), "tokenizer": problem.tokenizer(), "max_new_tokens": 2, "steps": 1}
    prompts = list(problem.prompts) * 3

    def said(name, prompts, **more):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            make(problem.objectives(), output_dir=tmp_path / name, **parts, **more).fit(prompts)
        return [str(w.message) for w in found if "Most differences between policies will be noise" in str(w.message)]

    assert len(prompts) >= 8
    each = len(prompts) // 4
    assert said("few", prompts)[0].startswith(f"Only {each} prompts are held out to select on, and {each} to report on")
    assert said("none", prompts[:2])[0].startswith("There are too few prompts to hold any out: all 2 serve")
    assert said("meant", prompts, eval_prompts=2) == []
    assert said("enough", prompts * 16) == []


def topics(count, each):
    problem = get_problem("contexts", hidden_size=16)
    texts = list(problem.prompts)
    return problem, [{"prompt": texts[i % len(texts)], "topic": f"topic {i // each}"} for i in range(count)]


def test_few_groups_of_held_out_prompts_are_said(tmp_path):
    problem, prompts = topics(64, 16)
    with pytest.warns(ParetoAlignWarning, match="16 prompts held out to select on have only 4 values of 'topic'"):
        make(
            problem.objectives(), model=problem.model(), tokenizer=problem.tokenizer(), max_new_tokens=2, steps=1,
            eval_group="topic", output_dir=tmp_path / "run",
        ).fit(prompts)  # fmt: skip


def test_groups_are_of_a_column_that_the_held_out_prompts_have(tmp_path):
    problem, prompts = topics(16, 2)
    parts = {"model": problem.model(), "tokenizer": problem.tokenizer(), "max_new_tokens": 2}
    aligner = make(problem.objectives(), eval_group="topics", **parts)
    with pytest.raises(PromptError, match=r"names the column 'topics', which the held-out prompts lack.*'topic'"):
        aligner.fit(prompts, output_dir=tmp_path / "run")
    with pytest.raises(PromptError, match="They have none"):
        aligner.fit(list(problem.prompts) * 4, output_dir=tmp_path / "other")
    for wrong in (3, ""):
        with pytest.raises(ConfigError, match="`eval_group` must be the name of a column"):
            make(eval_group=wrong)


def test_a_front_over_groups_says_so(tmp_path):
    problem, prompts = topics(64, 4)
    parts = {"model": problem.model(), "tokenizer": problem.tokenizer(), "max_new_tokens": 2, "steps": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        aligner = make(problem.objectives(), eval_group="topic", output_dir=tmp_path / "run", **parts)
        front = aligner.fit(prompts, eval_prompts=prompts)
    estimates = [member.estimate for member in front.record.members]
    assert all(estimate.n < len(estimate.samples) == 32 for estimate in estimates)
    assert {len(set(estimate.groups)) for estimate in estimates} == {estimates[0].n}
    assert front.record.config["eval_group"] == "topic"
    assert f"over {estimates[0].n} groups (topic) of held-out prompts" in front.card()
    assert events(tmp_path / "run", "start")[0]["units"] <= 16
    with pytest.raises(ConfigError, match="eval_group was 'topic', is None"):
        make(problem.objectives(), **parts).resume(tmp_path / "run")


def test_a_front_that_is_empty_says_so(tmp_path):
    never = Objective("never", lambda completions, **_: [0.0] * len(completions), role="constrain", at_least=1.0)
    with pytest.warns(ParetoAlignWarning, match="The front is empty: no policy .* meets the constraints on 'never'"):
        make([*PROBLEM.objectives(), never], output_dir=tmp_path / "run", steps=1).fit(list(PROBLEM.prompts))
    assert "is empty" in events(tmp_path / "run", "report")[0]["warning"]


def test_an_empty_front_names_the_closest_policy_and_its_worst_violation(tmp_path):
    nearly = Objective("nearly", lambda completions, **_: [0.6] * len(completions), role="constrain", at_most=0.5)
    off = Objective("off", lambda completions, **_: [0.2] * len(completions), role="constrain", at_least=0.9)
    told = r"has 'off' at 0\.2, which should be at least 0\.9: it misses by 0\.7\."
    with pytest.warns(ParetoAlignWarning, match=told):
        make([*PROBLEM.objectives(), nearly, off], output_dir=tmp_path / "run", steps=1).fit(list(PROBLEM.prompts))
    told = r"has 'nearly' at 0\.6, which should be at most 0\.5: it misses by 0\.1\."
    with pytest.warns(ParetoAlignWarning, match=told):
        make([*PROBLEM.objectives(), nearly], output_dir=tmp_path / "other", steps=1).fit(list(PROBLEM.prompts))


def test_a_weighting_with_one_objective_to_trade_says_that_it_has_nothing_to_do():
    (only, other) = PROBLEM.objectives()
    with pytest.warns(ParetoAlignWarning, match="'r1' is the only objective to optimize: the weighting 'mgda'"):
        make([only], weighting="mgda")
    held = Objective("held", other.reward, role="constrain", at_least=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ParetoAlignWarning)
        make([only], weighting="fixed")
        make([only, held], weighting="lagrangian")
        make([only, other], weighting="mgda")


def test_a_run_that_improved_nothing_says_so_and_one_that_did_does_not(tmp_path):
    still = {"learning_rate": 1e-12, "steps": 1, "eval_every": 1}
    with pytest.warns(ParetoAlignWarning, match="No member of the front is better than the untrained model"):
        make(output_dir=tmp_path / "still", **still).fit(list(PROBLEM.prompts))
    problem = get_problem("contexts", hidden_size=16)
    learns = {"steps": 30, "eval_every": 30, "learning_rate": 3e-2, "eval_group_size": 16, "max_new_tokens": 2}
    fit(
        tmp_path / "learns",
        problem.objectives(),
        model=problem.model(),
        tokenizer=problem.tokenizer(),
        prompts=list(problem.prompts) * 8,
        **learns,
    )
    assert "warning" not in events(tmp_path / "learns", "report")[0]


def test_models_that_cannot_carry_a_population(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    refused(tmp_path / "conv1d", ModelError, "no nn.Linear.*Conv1D", model=model, lora=None)
    refused(tmp_path / "targets", ModelError, "nowhere", lora=lora(target_modules=["nowhere"]))
    tokenizer = PROBLEM.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    refused(tmp_path / "pad", ModelError, "pad token", tokenizer=tokenizer)
    refused(tmp_path / "dtype", ConfigError, "float99", dtype="float99")
    refused(tmp_path / "device", ModelError, "abacus", device="abacus")


def test_a_tokenizer_without_a_pad_token_is_helped(tmp_path):
    tokenizer = PROBLEM.tokenizer()
    tokenizer.pad_token = None
    front, _ = fit(tmp_path / "run", tokenizer=tokenizer, steps=1)
    assert len(front) >= 1


# -------------------------------------------------------------------------------------- stops in the middle


class Fails:
    """A sound reward that goes wrong in training step number `step`."""

    def __init__(self, step, how):
        self.step, self.how, self.steps = step, how, 0
        self.reward = PROBLEM.objectives()[0].reward

    def __call__(self, prompts, completions, **_):
        values = self.reward(prompts, completions)
        self.steps += len(completions) == STEP_CALL
        return self.how(values) if len(completions) == STEP_CALL and self.steps >= self.step else values


def out_of_order(values):
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (out_of_order, "'r1'.*out of order"),
        (lambda values: [math.nan for _ in values], "'r1' returned NaN for all 36"),
        (lambda values: values[1:], "'r1' returned 35 rewards for 36"),
    ],
    ids=["raises", "nan", "count"],
)
def test_a_reward_that_fails_in_the_middle_loses_nothing(how, said, tmp_path):
    model = PROBLEM.model()
    objectives = [Objective("r1", Fails(4, how), bounds=(0, 1)), PROBLEM.objectives()[1]]
    with pytest.raises(ObjectiveError, match=said) as caught:
        fit(tmp_path / "run", objectives, model=model)
    assert any(str(tmp_path / "run" / "front") in note for note in caught.value.__notes__)
    told = events(tmp_path / "run")
    assert [event["event"] for event in told if event["event"] != "stalled"] == [
        "start", "step", "step", "evaluation", "step", "stopped",
    ]  # fmt: skip
    assert told[-1]["step"] == 3
    assert "ObjectiveError" in told[-1]["error"]
    front = ParetoFront.load(tmp_path / "run")
    assert len(front) >= 1
    assert front.record.split == "select"
    for member in front:
        PeftModel.from_pretrained(PROBLEM.model(), str(member.adapter_path))
    assert list(model.state_dict()) == list(PROBLEM.model().state_dict())


def test_a_stop_before_the_first_measurement_leaves_an_empty_front_that_loads(tmp_path):
    objectives = [Objective("r1", Fails(1, out_of_order), bounds=(0, 1)), PROBLEM.objectives()[1]]
    with pytest.raises(ObjectiveError):
        fit(tmp_path / "run", objectives)
    assert len(ParetoFront.load(tmp_path / "run")) == 0
    assert events(tmp_path / "run", "stopped")


def test_ctrl_c_is_a_stop_too(tmp_path):
    def interrupt(event):
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", callbacks=[interrupt])
    assert events(tmp_path / "run")[-1]["event"] == "stopped"
    assert len(ParetoFront.load(tmp_path / "run")) >= 1


# ------------------------------------------------------------------------------------------------------ stalls


class StuckPolicy:
    """A sound reward, except that policy number 1 gets 0 for everything: nothing varies in it."""

    def __init__(self, reward, sizes):
        self.reward, self.sizes = reward, sizes

    def __call__(self, prompts, completions, **_):
        values = self.reward(prompts, completions)
        if len(completions) in self.sizes:
            third = len(completions) // 3
            values[third : 2 * third] = [0.0] * third
        return values


@pytest.mark.parametrize(
    ("patience", "eval_every", "noticed"),
    [(3, 2, [3]), (1, 4, [1, 2, 3, 4])],  # in the second, nothing is archived yet when the stall is first noticed
)
def test_a_policy_that_stopped_varying_starts_again_from_a_neighbour(patience, eval_every, noticed, tmp_path):
    sizes = {STEP_CALL, 3 * 8}
    objectives = [Objective(o.name, StuckPolicy(o.reward, sizes), bounds=(0, 1)) for o in PROBLEM.objectives()]
    front, aligner = fit(
        tmp_path / "run", objectives, steps=6, stall_patience=patience, eval_every=eval_every, eval_group_size=8
    )
    stalled = [event for event in events(tmp_path / "run", "stalled") if event["policy"] == 1]
    assert {event["policy"] for event in events(tmp_path / "run", "stalled")} == {1}
    assert [event["step"] for event in stalled][: len(noticed)] == noticed
    restarts = [event for event in stalled if event["action"] == "started again"]
    assert restarts[0]["step"] == noticed[-1]
    assert all("left as it is" in event["action"] for event in stalled if event not in restarts)
    known = {member.id for member in front} | {entry["id"] for entry in front.record.fallen}
    assert {event["parent"] for event in restarts} <= known
    assert [step["spread"][1] for step in events(tmp_path / "run", "step")] == [0.0] * 6
    # policy 1 learns nothing, so that at the end it is what it was last started from, and that had learned: B is not 0
    base = load_base(PROBLEM.model(), tokenizer=PROBLEM.tokenizer())
    population = PolicyPopulation(base, 1, lora=lora())
    ups = [block.split(aligner.policies_)[1] for block in population.blocks]
    assert all((up[1] != 0).any() for up in ups)
    for member in front:
        if member.id == restarts[-1]["parent"]:
            assert torch.equal(population.read_adapter(member.adapter_path), aligner.policies_[1])


def test_held_out_prompts_that_are_no_unseen_ones_are_told_of(tmp_path):
    problem = get_problem("contexts", hidden_size=16)
    parts = {"model": problem.model(), "tokenizer": problem.tokenizer(), "steps": 1, "max_new_tokens": 2}

    def said(name, prompts, **more):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            make(problem.objectives(), output_dir=tmp_path / name, **parts).fit(prompts, **more)
        here = [w for w in found if "held-out prompts are" in str(w.message)]
        assert all(w.filename == __file__ for w in found if issubclass(w.category, ParetoAlignWarning))
        return [str(w.message) for w in here]

    own = list(problem.prompts)
    assert said("same", [own[0]] * 12)[0].startswith("6 of 6 held-out prompts are training prompts as well")
    assert said("given", own[:2], eval_prompts=own[1:3])[0].startswith("1 of 2 held-out prompts are training prompts")
    assert said("twice", own[:2], eval_prompts=own[2:] * 2)[0].startswith("2 of 4 held-out prompts are there more than")
    assert said("apart", own[:2], eval_prompts=own[2:]) == []
    rows = [{"prompt": own[0], "user": str(i)} for i in range(8)]
    assert said("others", rows) == []


def test_a_front_that_cannot_be_read_is_refused_before_a_run_goes_on(tmp_path):
    class Stop(Exception):
        pass

    def stop(event):
        if event["event"] == "evaluation":
            raise Stop

    with pytest.raises(Stop):
        make(output_dir=tmp_path / "run", callbacks=[stop]).fit(list(PROBLEM.prompts))
    front = tmp_path / "run" / "front" / "front.json"
    front.write_text("{")
    with pytest.raises(FrontFileError, match="cannot be read"):
        make().resume(tmp_path / "run")
    assert [e for e in events(tmp_path / "run") if e["event"] == "resumed"] == []
