"""One population at a time on a model object, and only on a bare one."""

from __future__ import annotations

import threading

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tiny_models import lora, random_population, tiny_base, tiny_model

from pareto_align.errors import ConfigError, ModelError
from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.policies.serving import load_adapter


def test_a_second_population_on_a_model_is_refused_until_the_first_is_closed(tmp_path):
    base = tiny_base()
    first = random_population(base, 1)
    first.save_adapter(first.parameters[0], tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    with first.serving(), torch.no_grad():
        logits = base.model(ids).logits
    for again in (
        lambda: PolicyPopulation(base, 1, lora=lora()),
        lambda: load_base(base),
        lambda: load_base(base.model, tokenizer=base.tokenizer, dtype="bfloat16"),
        lambda: load_adapter({}, tmp_path, "m", base),
        lambda: load_adapter({}, tmp_path, "m", base.model),
    ):
        with pytest.raises(ModelError, match="A population is being trained on this LlamaForCausalLM object"):
            again()
    with first.serving(), torch.no_grad():
        assert torch.equal(base.model(ids).logits, logits)
    first.close()
    PolicyPopulation(base, 1, lora=lora()).close()


def test_a_population_that_could_not_be_made_leaves_no_mark():
    base = tiny_base()
    for wrong in ({"targets": ["lm_head"]}, {"targets": ["nowhere"]}):
        with pytest.raises((ConfigError, ModelError)):
            PolicyPopulation(base, 1, lora=lora(**wrong))
    before = {name: id(module) for name, module in base.model.named_modules()}
    with pytest.raises(RuntimeError):
        PolicyPopulation(base, 10**12, lora=lora())  # more than there is memory for, after layers were replaced
    assert {name: id(module) for name, module in base.model.named_modules()} == before
    PolicyPopulation(base, 1, lora=lora()).close()


def test_of_populations_that_threads_make_at_once_one_is_made():
    base, made, refused, ready = tiny_base(), [], [], threading.Barrier(6)

    def make():
        ready.wait()
        try:
            made.append(PolicyPopulation(base, 1, lora=lora()))
        except ModelError as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 5)
    made[0].close()


@pytest.mark.parametrize("kind", ["adapters", "prompts", "injected", "ours"])
def test_a_model_that_carries_adapters_is_no_base(kind, tmp_path):
    tokenizer, config = tiny_base().tokenizer, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    if kind == "ours":
        population = random_population(tiny_base(), 1)
        population.save_adapter(population.parameters[0], tmp_path)
        model = load_adapter({}, tmp_path, "m", tiny_model())
    elif kind == "prompts":
        model = get_peft_model(tiny_model(), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    else:
        model = get_peft_model(tiny_model(), config)
    given = model.get_base_model() if kind == "injected" else model
    with pytest.raises(ModelError, match=r"already carries adapters.*merge_and_unload"):
        load_base(given, tokenizer=tokenizer)
    if kind != "prompts":
        merged = model.merge_and_unload()
        assert load_base(merged, tokenizer=tokenizer).model is merged
