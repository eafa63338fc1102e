"""Before a front is published, a member is loaded by stock PEFT and compared; the model is left as it was."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel
from tiny_models import lora, random_population, relative_error, tiny_base, tiny_model

from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.policies.parity import compare_with_peft
from pareto_align.testing.tiny import symbol_tokenizer, tiny_llama

TURN = [3, 7]
PROMPT = [1, 2, 3, 7, 4, 5, 6]


def described(population):
    model = population.base.model
    return (
        {name: id(module) for name, module in model.named_modules()},
        [p.requires_grad for p in model.parameters()],
        model.config._attn_implementation,
        hasattr(model, "peft_config"),
        model.training,
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma2", "gpt_neox", "phi"])
@pytest.mark.parametrize("config", [lora(), lora(use_rslora=True), lora(alora_invocation_tokens=TURN)], ids=str)
def test_a_saved_member_is_the_policy_and_the_population_goes_on(family, config, tmp_path):
    if config.alora_invocation_tokens and family in ("mistral", "gemma2"):
        pytest.skip("only generate can sample these beyond their window")
    population = random_population(tiny_base(family), 2, config=config)
    before, state, ids = described(population), torch.random.get_rng_state(), torch.tensor([PROMPT] * 2)
    with population.serving(), torch.no_grad():
        logits = population.base.model(ids).logits
    population.save_adapter(population.parameters[1], tmp_path)
    found = compare_with_peft(population, population.parameters[1], tmp_path, PROMPT)
    assert found["largest_difference"] < 1e-5
    assert found["largest_difference"] < found["allowed"]
    assert described(population) == before
    assert torch.equal(torch.random.get_rng_state(), state)
    with population.serving(), torch.no_grad():
        assert torch.equal(population.base.model(ids).logits, logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_half_types_is_allowed_and_another_adapter_is_not(dtype, tmp_path):
    population = random_population(tiny_base(dtype=dtype), 2)
    population.save_adapter(population.parameters[1], tmp_path)
    same = compare_with_peft(population, population.parameters[1], tmp_path, PROMPT)
    assert 0 < same["largest_difference"] < 0.5 * same["allowed"]
    other = compare_with_peft(population, population.parameters[0], tmp_path, PROMPT)
    assert other["largest_difference"] > other["allowed"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", ["tiny family", "forbidden tokens"])
def test_adapters_that_learnt_nothing_are_the_base_and_no_alarm(make, dtype, tmp_path):
    base = tiny_base(dtype=dtype) if make == "tiny family" else symbol_base(dtype=dtype)
    population = PolicyPopulation(base, 2, lora=lora())
    prompt = PROMPT if make == "tiny family" else [9, 11]
    population.save_adapter(population.parameters[1], tmp_path)
    found = compare_with_peft(population, population.parameters[1], tmp_path, prompt)
    assert found["largest_difference"] <= found["allowed"]
    assert 0 < found["allowed"] < (0.5 if dtype == torch.bfloat16 else 1e-3)


def symbol_base(dtype=torch.float32, bias=0.0):
    """A base that forbids tokens at -1e4, and may have a constant in all logits."""
    model = tiny_llama(8, 4)
    model.lm_head.bias += bias
    return load_base(model, tokenizer=symbol_tokenizer(8, 4), dtype=str(dtype).removeprefix("torch."))


@pytest.mark.parametrize(("dtype", "bias"), [(torch.float32, 0.0), (torch.float32, -1e4), (torch.bfloat16, 0.0)])
def test_large_logits_hide_no_adapter_that_is_another(dtype, bias, tmp_path):
    population = random_population(symbol_base(dtype, bias), 2)
    population.save_adapter(population.parameters[1], tmp_path)
    same = compare_with_peft(population, population.parameters[1], tmp_path, [9, 11])
    assert same["largest_difference"] <= 0.5 * same["allowed"]
    other = compare_with_peft(population, population.parameters[0], tmp_path, [9, 11])
    assert other["largest_difference"] > 2 * other["allowed"]


def test_an_adapter_that_moved_the_base_by_little_is_told_from_the_base(tmp_path):
    population = random_population(tiny_base(), 2)
    population.parameters *= 0.01  # A and B: what they say is moved by the square
    population.save_adapter(torch.zeros_like(population.parameters[0]), tmp_path)
    nothing = compare_with_peft(population, population.parameters[0], tmp_path, PROMPT)
    assert nothing["largest_difference"] > nothing["allowed"]
    population.save_adapter(population.parameters[0], tmp_path)
    same = compare_with_peft(population, population.parameters[0], tmp_path, PROMPT)
    assert same["largest_difference"] <= same["allowed"]


def test_numbers_that_are_none_are_no_agreement(tmp_path):
    population = random_population(tiny_base(), 1)
    population.save_adapter(population.parameters[0], tmp_path)
    row = population.parameters[0].clone()
    row[:] = torch.nan
    found = compare_with_peft(population, row, tmp_path, PROMPT)
    assert not found["largest_difference"] <= found["allowed"]


def test_a_folder_that_does_not_load_leaves_the_population_as_it_was(tmp_path):
    population, narrow = random_population(tiny_base(), 1), random_population(tiny_base(hidden_size=16), 1)
    narrow.save_adapter(narrow.parameters[0], tmp_path)
    before = described(population)
    with pytest.raises(Exception, match="cannot be put on"):
        compare_with_peft(population, population.parameters[0], tmp_path, PROMPT)
    assert described(population) == before


SHAPES = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "rslora": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "all-linear, some left out": {
        "target_modules": "all-linear",
        "exclude_modules": ["q_proj", "layers.1.mlp.up_proj"],
    },
    "all-linear, left out by a pattern": {"target_modules": "All-Linear", "exclude_modules": r".*\.(k|v)_proj"},
    "a pattern": {"target_modules": r"model\.layers\.\d+\.(self_attn\.(q|k)|mlp\.gate)_proj"},
    "one layer": {"target_modules": ["o_proj", "up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "full names": {"target_modules": ["model.layers.0.mlp.up_proj", "layers.1.self_attn.v_proj"]},
    "rank above alpha": {"target_modules": "all-linear", "r": 6, "lora_alpha": 3},
    "alpha is no whole number": {"target_modules": ["v_proj"], "lora_alpha": 2.5},
    "the model's own": {"target_modules": None},
    "activated": {"target_modules": "all-linear", "alora_invocation_tokens": TURN},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_that_is_permitted_is_the_same_under_stock_peft(shape, tmp_path):
    """Training, out, and in again without this package, the config file read by PEFT itself."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **SHAPES[shape]})
    population = random_population(tiny_base(), 2, config=config)
    with population.serving(training=True):
        population.base.model(torch.tensor([PROMPT] * 2), use_cache=False).logits.square().mean().backward()
    population.parameters -= 0.5 * population.grad
    population.save_adapter(population.parameters[1], tmp_path)
    found = compare_with_peft(population, population.parameters[1], tmp_path, PROMPT)
    assert found["largest_difference"] < 1e-5
    if shape == "activated":
        return  # needs to be told where the turn begins, which `compare_with_peft` does
    with population.serving(population.parameters[1:]), torch.no_grad():
        ours = population.base.model(torch.tensor([PROMPT])).logits
    theirs = PeftModel.from_pretrained(tiny_model(), str(tmp_path)).eval()(torch.tensor([PROMPT])).logits
    assert relative_error(theirs, ours) < 1e-5
    assert relative_error(ours, tiny_model()(torch.tensor([PROMPT])).logits) > 1e-2


def test_a_fresh_population_can_move_out_and_in(tmp_path):
    population = PolicyPopulation(tiny_base(), 1, lora=lora())
    with population.moved_out():
        assert not hasattr(population.base.model.model.layers[0].self_attn.q_proj, "served")
    assert hasattr(population.base.model.model.layers[0].self_attn.q_proj, "served")
    population.close()
