"""Names that other libraries have for what this one has as well: what is said, and that it is true."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from pareto_align import ConfigError, Objective, ObjectiveError, ParetoAligner, ParetoAlignWarning
from pareto_align.objectives import as_objectives, brevity, reward_model
from pareto_align.spelling import ELSEWHERE, MEANT, hint

DOCS = Path(__file__).parents[1] / "docs"
KEYWORDS = inspect.signature(ParetoAligner).parameters


def right(completions, **columns):
    return [1.0 for _ in completions]


def short(completions, **columns):
    return [-float(len(text)) for text in completions]


def test_unknown_keywords_are_told_what_was_meant():
    for name, said in (
        ("num_generations", r"Unknown setting 'num_generations'. Did you mean 'group_size'\?"),
        ("max_completion_length", "Did you mean 'max_new_tokens'"),
        ("beta", "Did you mean 'kl_coef'"),
        ("lr", "Did you mean 'learning_rate'"),
        ("epsilon", "Did you mean 'clip'"),
        ("peft_config", "Did you mean 'lora'"),
        ("stpes", "Did you mean 'steps'"),
        ("reward_weights", "Unknown setting 'reward_weights'. Weights are not given: every policy has its own"),
        ("log_completions", "Members carry samples"),
        ("qqq", "Unknown setting 'qqq'.$"),
    ):
        with pytest.raises(ConfigError, match=said):
            ParetoAligner("some/model", [right, short], **{name: 1})


def test_the_signature_is_still_the_constructors():
    assert KEYWORDS["group_size"].default == 8
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in KEYWORDS.values())
    with pytest.raises(TypeError, match="objectives"):
        ParetoAligner("some/model")


def test_every_name_leads_to_one_that_exists():
    ours = {*KEYWORDS, "r", "lora_alpha", "lora_dropout"}
    assert set(MEANT.values()) <= ours
    assert not {*MEANT, *ELSEWHERE} & {*KEYWORDS}
    assert hint("rank", ["r", "lora_alpha"]) == " Did you mean 'r'?"


def test_trl_knows_these_names_and_the_page_has_them():
    trl = pytest.importorskip("trl")
    theirs = {*inspect.signature(trl.GRPOConfig).parameters, *inspect.signature(trl.GRPOTrainer).parameters}
    elsewhere = {"rank", "alpha", "dropout", "lr", "load_in_4bit", "load_in_8bit", "max_prompt_length"}
    assert {*MEANT, *ELSEWHERE} - theirs <= elsewhere
    page = (DOCS / "trl.md").read_text(encoding="utf-8")
    for name in {*MEANT, *ELSEWHERE} - {"rank", "alpha", "dropout", "lr"}:
        assert f"| `{name}` | " + (f"`{MEANT[name]}` |" if name in MEANT else "") in page, name


# ---- objectives as TRL takes them ------------------------------------------------------------------------------------


def test_functions_mappings_and_names_of_reward_models_are_objectives(tmp_path):
    aligner = ParetoAligner("some/model", [right, Objective("brief", short, role="audit"), brevity(20), "org/helpful"])
    assert aligner.objectives.names == ("right", "brief", "brevity", "helpful")
    assert aligner.objectives[0] == Objective("right", right)
    assert aligner.objectives[3].reward.model == "org/helpful"
    named = ParetoAligner("some/model", {"a": right, "b": lambda completions: [0.0] * len(completions), "c": "x/y"})
    assert named.objectives.names == ("a", "b", "c")
    assert type(named.objectives[2].reward) is reward_model
    with pytest.warns(ParetoAlignWarning, match="only objective"):
        assert ParetoAligner("some/model", right).objectives.names == ("right",)
    (tmp_path / "helpful").mkdir()
    assert [objective.name for objective in as_objectives(f"{tmp_path}/helpful/")] == ["helpful"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([right, 3], "Objective 1 is 3; give an Objective"),
        (3, "`objectives` must be a list of objectives. Found 3"),
        ([lambda completions: [0.0]], "Objective 0 is a lambda, which has no name"),
        (Objective("a", right), "Give a list of objectives, also for a single one"),
        ({"a": Objective("b", right)}, "'b' is given under the name 'a'"),
        ({"a": 3}, "the reward must be a function"),
        ([brevity], "the reward is the class brevity itself; create one"),
        ([right, right], "Two objectives are called 'right'"),
        ([], "At least one objective"),
    ],
)
def test_what_is_no_objective_is_refused(given, said):
    with pytest.raises(ObjectiveError, match=said):
        ParetoAligner("some/model", given)


def test_a_loaded_model_is_no_reward_function():
    from tiny_models import tiny_model

    with pytest.raises(ObjectiveError, match=r"is a model. Give `reward_model\(model, tokenizer=...\)`"):
        ParetoAligner("some/model", [tiny_model()])


@pytest.mark.parametrize("callbacks", [[3], ["wandb"], [dict], dict, "wandb", 3])
def test_callbacks_that_cannot_be_called_are_refused_at_once(callbacks):
    with pytest.raises(ConfigError, match="`callbacks` must be functions"):
        ParetoAligner("some/model", [right, short], callbacks=callbacks)
    assert ParetoAligner("some/model", [right, short], callbacks=print).callbacks == [print]
