"""What a LoRA config may say, in training and in a folder: an allow list, whatever PEFT's release."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, get_peft_model
from tiny_models import lora, random_population, tiny_base, tiny_model

from pareto_align.errors import ConfigError, FrontFileError, ModelError, ParetoAlignWarning
from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.policies.lora_config import check_lora, default_lora_config, plain_lora_config
from pareto_align.policies.serving import load_adapter

IDS = torch.randint(0, 12, (2, 9), generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------------------------- before training


def fields_of_peft():
    """Every field of the installed PEFT's config that a population does not honour, with a value it may hold."""
    known = {"r", "lora_alpha", "use_rslora", "alora_invocation_tokens", "task_type", "target_modules"}
    known |= {"exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"}
    known |= {"peft_type", "peft_version", "base_model_name_or_path", "inference_mode", "runtime_config"}
    return sorted({field.name for field in dataclasses.fields(LoraConfig)} - known)


@pytest.mark.parametrize("name", fields_of_peft())
def test_every_field_that_is_not_honoured_is_refused_by_name(name):
    config = lora()
    setattr(config, name, "something")
    with pytest.raises(ConfigError, match=rf"LoraConfig\({name}='something'\) cannot be trained.*default"):
        check_lora(config)


@pytest.mark.parametrize(
    "way", ["pissa", "pissa_niter_4", "olora", "corda", "eva", "lora_ga", "mica", "gaussian", "orthogonal", False]
)
def test_initialisations_that_a_population_does_not_make_are_refused(way):
    config = lora()
    config.init_lora_weights = way
    with pytest.raises(ConfigError, match="init_lora_weights"):
        PolicyPopulation(tiny_base(), 1, lora=config)


def test_a_field_of_a_future_peft_is_refused_unless_it_is_off():
    @dataclasses.dataclass
    class Future(LoraConfig):
        use_teleport: bool = False
        teleport: dict = dataclasses.field(default_factory=dict)

    check_lora(Future(r=2))
    with pytest.raises(ConfigError, match=r"LoraConfig\(use_teleport=True\)"):
        check_lora(Future(r=2, use_teleport=True))
    with pytest.raises(ConfigError, match=r"LoraConfig\(teleport="):
        check_lora(Future(r=2, teleport={"far": 1}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 0}, "`r` must be a whole number"),
        ({"r": 2.0}, "`r` must be a whole number"),
        ({"lora_alpha": 0}, "`lora_alpha` must be a number above 0"),
        ({"lora_alpha": float("nan")}, "`lora_alpha` must be"),
        ({"alora_invocation_tokens": ["a"]}, "a list of token ids"),
        ({"exclude_modules": 3}, "`exclude_modules` must be"),
        ({"task_type": "SEQ_CLS"}, "task_type='SEQ_CLS'"),
    ],
)
def test_honoured_fields_hold_what_they_should(settings, said):
    config = lora()
    for name, value in settings.items():
        setattr(config, name, value)
    with pytest.raises(ConfigError, match=said):
        check_lora(config)


def test_configs_that_are_no_plain_lora_are_refused():
    with pytest.raises(ConfigError, match=r"must be a peft\.LoraConfig\. Found a dict"):
        check_lora({"r": 2})
    with pytest.raises(ConfigError, match=r"plain LoRA adapters\. Found an AdaLoraConfig"):
        check_lora(AdaLoraConfig(total_step=10))
    custom = lora()
    custom._register_custom_module({torch.nn.Linear: torch.nn.Linear})
    with pytest.raises(ConfigError, match="custom modules"):
        check_lora(custom)


def test_values_as_good_as_the_default_pass():
    check_lora(lora(modules_to_save=[], rank_pattern={}, lora_dropout=0, fan_in_fan_out=True, inference_mode=True))
    check_lora(default_lora_config())


def test_a_config_that_cannot_be_trained_is_said_before_the_model_is_loaded():
    from pareto_align import Objective, ParetoAligner

    def length(completions, **_):
        return [float(len(text)) for text in completions]

    objectives = [Objective("a", length), Objective("b", length)]
    aligner = ParetoAligner("no/such-model", objectives, lora=LoraConfig(use_dora=True), progress=False)
    with pytest.raises(ConfigError, match="use_dora"):
        aligner.fit(["a", "b"])


# -------------------------------------------------------------------------------------------------------- targets


def adapted(**settings):
    population = PolicyPopulation(tiny_base(), 1, lora=lora(**settings))
    population.close()
    return {block.name for block in population.blocks}


@pytest.mark.parametrize(
    "settings",
    [
        {"exclude_modules": ["q_proj"]},
        {"exclude_modules": ["layers.0.self_attn.q_proj", "up_proj"]},
        {"exclude_modules": r".*\.(k|v)_proj"},
        {"targets": ["q_proj", "up_proj"], "exclude_modules": ["layers.1.mlp.up_proj"]},
        {"targets": ["q_proj", "up_proj"], "layers_to_transform": 1},
        {"targets": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["layers"]},
        {"targets": r".*\.\d+\.self_attn\.(q|k)_proj"},
    ],
    ids=str,
)
def test_the_layers_are_those_that_peft_adapts(settings):
    model = get_peft_model(tiny_model(), lora(**settings))
    theirs = {
        name.removeprefix("base_model.model.") for name, module in model.named_modules() if hasattr(module, "lora_A")
    }
    assert adapted(**settings) == theirs


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        (["q_proj", "lm_head"], "'lm_head', the model's head"),
        (["lm_head"], "'lm_head', the model's head"),
        (["q_proj", "embed_tokens"], "'model.embed_tokens', the model's embedding"),
        (r".*(q_proj|lm_head)", "'lm_head', the model's head"),
        (["q_proj", "input_layernorm"], "a LlamaRMSNorm"),
    ],
)
def test_what_carries_no_population_is_refused_by_name(targets, named):
    model = tiny_model()
    with pytest.raises(ConfigError, match=named):
        PolicyPopulation(tiny_base(), 1, lora=lora(targets=targets))
    base = load_base(model, tokenizer=tiny_base().tokenizer)
    with pytest.raises(ConfigError):
        PolicyPopulation(base, 1, lora=lora(targets=targets))
    PolicyPopulation(base, 1, lora=lora()).close()  # what was refused left no mark


def test_names_that_match_nothing_are_warned_about():
    with pytest.warns(ParetoAlignWarning, match=r"target_modules=.*'query', 'wq'"):
        adapted(targets=["q_proj", "wq", "query"])
    with pytest.warns(ParetoAlignWarning, match=r"exclude_modules=.*'gate'"):
        adapted(exclude_modules=["gate", "q_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ParetoAlignWarning)
        PolicyPopulation(tiny_base(), 1).close()  # our own default names the layers of several kinds of model


# --------------------------------------------------------------------------------------------------------- folders


def saved(folder, **changes):
    population = random_population(tiny_base(), 1)
    population.save_adapter(population.parameters[0], folder)
    with population.serving(), torch.no_grad():
        logits = population.base.model(IDS).logits
    population.close()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return logits


def test_a_member_says_what_a_population_honours_and_no_more(tmp_path):
    saved(tmp_path)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (said["peft_type"], said["task_type"], said["inference_mode"]) == ("LORA", "CAUSAL_LM", True)
    assert said["init_lora_weights"] is True
    assert said["exclude_modules"] is None
    names = {field.name for field in dataclasses.fields(LoraConfig)}
    assert set(said) <= names  # no release of PEFT warns of a key it does not know
    assert len(said) == 16


HOSTILE = [
    {"megatron_config": {"a": 1}},
    {"megatron_core": "members.m0000.extra"},
    {"megatron_core": "megatron.extra"},
    {"megatron_config": {"a": 1}, "megatron_core": "megatron.extra"},
    {"auto_mapping": {"base_model_class": "X", "parent_library": "extra"}},
    {"peft_type": "XLORA"},
    {"peft_type": "PROMPT_TUNING"},
    {"peft_type": ["LORA"]},
    {"peft_type": None},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "olora"},
    {"use_dora": True},
    {"bias": "all"},
    {"modules_to_save": ["lm_head"]},
    {"layer_replication": [[0, 2]]},
    {"arrow_config": {"top_k": 2}},
    {"loftq_config": {"loftq_bits": 4}},
    {"use_teleport": True},
    {"r": "4"},
    {"r": True},
    {"lora_alpha": "__import__"},
    {"target_modules": {"a": 1}},
    {"alora_invocation_tokens": "ab"},
    {"rank_pattern": {"q_proj": "x"}},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_a_folder_that_says_more_is_refused_before_peft_sees_it(changes, tmp_path, monkeypatch):
    saved(tmp_path, **changes)

    def never(*args, **kwargs):
        raise AssertionError("PEFT read the file")

    monkeypatch.setattr(PeftConfig, "from_pretrained", never)
    monkeypatch.setattr(PeftConfig, "from_json_file", never)
    model = tiny_model()
    with pytest.raises(FrontFileError, match=r"cannot be loaded: its adapter_config\.json"):
        load_adapter({}, tmp_path, "m", model)
    population = random_population(load_base(model, tokenizer=tiny_base().tokenizer), 1)  # nothing was put on it
    with pytest.raises(FrontFileError):
        population.read_adapter(tmp_path)


def test_a_folder_of_an_earlier_release_is_loaded_and_peft_does_not_read_it(tmp_path, monkeypatch):
    """With all fields of a PEFT that was installed then, and some that this one does not know, all of them off."""
    whole = {name: value for name, value in lora().to_dict().items() if name not in ("target_modules", "peft_type")}
    former = {**whole, "a_former_switch": False, "a_former_config": None, "init_lora_weights": "gaussian"}
    logits = saved(tmp_path, **{**former, "lora_dropout": 0.05, "peft_version": "0.17.0"})
    monkeypatch.setattr(PeftConfig, "from_json_file", None)
    first = load_adapter({}, tmp_path, "m", tiny_model())
    assert torch.allclose(first(IDS).logits, logits, atol=1e-5)
    other = tmp_path / "other"
    again = saved(other)
    assert torch.allclose(load_adapter({}, other, "n", first)(IDS).logits, again, atol=1e-5)


def test_a_config_that_selects_other_layers_than_were_saved_is_an_error_and_leaves_the_model_bare(tmp_path):
    saved(tmp_path, exclude_modules=["q_proj"])  # what releases before wrote of all-linear
    model = tiny_model()
    with pytest.raises(ModelError, match="its tensors are not those of the layers that its config selects"):
        load_adapter({}, tmp_path, "m", model)
    assert torch.equal(model(IDS).logits, tiny_model()(IDS).logits)
    assert not any("lora" in name for name, _ in model.named_modules())


@pytest.mark.parametrize("text", ["", "[]", "{", "\ud83d", "[" * 100_000])
def test_a_file_that_is_no_config_is_refused(text, tmp_path):
    saved(tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(FrontFileError, match="adapter"):
        load_adapter({}, tmp_path, "m", tiny_model())


def test_a_plain_config_has_room_for_the_largest_rank_of_a_pattern():
    assert plain_lora_config(LoraConfig(r=2, rank_pattern={"q_proj": 4, "v_proj": 1})).r == 4
    assert plain_lora_config(LoraConfig(r=2, rank_pattern={"q_proj": 1})).r == 2
