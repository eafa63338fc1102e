"""Bases of few bits: whatever layer holds the frozen weights, the adapters on it are stock PEFT's."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from peft import PeftModel
from tiny_models import RAGGED, as_peft, peft_row, random_population, relative_error, tiny_base, tiny_model
from torch import nn

from pareto_align.errors import ModelError
from pareto_align.policies import SamplingParams, load_base, sample
from pareto_align.policies.parity import compare_with_peft
from pareto_align.policies.serving import recorded_base
from pareto_align.testing.tiny import symbol_tokenizer

IDS = torch.randint(0, 12, (3, 2, 9), generator=torch.Generator().manual_seed(1))  # [K, rows, L]
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


class EightBits(nn.Linear):
    """A linear layer whose `weight` nobody else can multiply with: whole numbers, scaled row by row."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def eight_bit_model(family="llama"):
    model = tiny_model(family)
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module is not model.get_output_embeddings():
            model.set_submodule(name, EightBits(module))
    model.is_quantized = True
    return model


def step_loss(model, ids):
    return model(ids, use_cache=False).logits.log_softmax(-1)[..., 3].sum()


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_logits_and_gradients_on_layers_of_few_bits_are_stock_pefts(family, tmp_path):
    base = load_base(eight_bit_model(family), tokenizer=symbol_tokenizer(12, 4))
    assert (base.dtype, base.device.type) == (torch.float32, "cpu")
    population = random_population(base, 3)
    assert {type(block.layer.linear) for block in population.blocks} == {EightBits}
    assert population.blocks[0].layer.product is None
    with population.serving(training=True):
        logits = base.model(IDS.flatten(0, 1), use_cache=False).logits
        logits.log_softmax(-1)[..., 3].sum().backward()
    for k in range(3):
        peft = as_peft(
            population, population.parameters[k], tmp_path / str(k), eight_bit_model(family), is_trainable=True
        ).eval()
        assert torch.allclose(logits.unflatten(0, (3, 2))[k], peft(IDS[k]).logits, atol=1e-5)
        step_loss(peft, IDS[k]).backward()
        assert relative_error(population.grad[k], peft_row(population, peft, grad=True)) < 1e-4


def test_a_member_on_layers_of_few_bits_is_compared_with_stock_peft_before_it_is_published(tmp_path):
    base = load_base(eight_bit_model(), tokenizer=symbol_tokenizer(12, 4))
    population = random_population(base, 2)
    population.save_adapter(population.parameters[1], tmp_path)
    layers = {name: id(module) for name, module in base.model.named_modules()}
    found = compare_with_peft(population, population.parameters[1], tmp_path, IDS[0, 0].tolist())
    assert found["largest_difference"] < 1e-5 < found["allowed"]
    assert {name: id(module) for name, module in base.model.named_modules()} == layers


def test_a_head_of_few_bits_cannot_be_trained_through():
    model = tiny_model()
    model.lm_head = EightBits(model.lm_head)
    model.is_quantized = True
    population = random_population(load_base(model, tokenizer=symbol_tokenizer(12, 4)), 1)
    with pytest.raises(ModelError, match=r"head is quantised.*llm_int8_skip_modules"):
        population.head


def test_bitsandbytes_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs bitsandbytes.*pip install 'pareto-align\[quantized\]'"):
        load_base("no/such", quantization="4bit")


def test_words_and_models_that_cannot_be_quantised_are_refused():
    with pytest.raises(ModelError, match=r"Unknown quantization '3bit'. Use '4bit' or '8bit'"):
        load_base("no/such", quantization="3bit")
    with pytest.raises(ModelError, match="in memory is used as it is"):
        load_base(tiny_model(), tokenizer=symbol_tokenizer(12, 4), quantization="4bit")


# --------------------------------------------------------------------------------------------------- bitsandbytes


@pytest.fixture
def folder(tmp_path):
    """A model wide enough that bitsandbytes has blocks to scale."""
    tiny_model(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "base")
    symbol_tokenizer(12, 4).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_bases_of_bitsandbytes_train_as_in_stock_peft(bits, folder, tmp_path):
    base = load_base(folder, device="cpu", dtype="float32", quantization=bits)
    assert base.quantization == bits
    population = random_population(base, 3)
    kinds = {type(block.layer.linear).__name__ for block in population.blocks}
    assert kinds == {"Linear4bit" if bits == "4bit" else "Linear8bitLt"}
    rows = population.parameters.clone()
    ids = [base.encode(prompt) for prompt in RAGGED]
    done = sample(population, ids, 4, SamplingParams(6), range(3))  # without gradients first, as in a run
    assert population.drivable
    assert torch.isfinite(done.logprobs).all()
    with population.serving(training=True):
        logits = base.model(IDS.flatten(0, 1), use_cache=False).logits
        logits.log_softmax(-1)[..., 3].sum().backward()
    grad, logits = population.grad.clone(), logits.detach().unflatten(0, (3, 2))
    for k in range(3):
        population.save_adapter(rows[k], tmp_path / str(k))
    population.close()
    for k in range(3):
        fresh = load_base(folder, device="cpu", dtype="float32", quantization=bits).model
        peft = PeftModel.from_pretrained(fresh, str(tmp_path / str(k)), is_trainable=True).eval()
        # 8-bit layers round their inputs to 8 bits too, and with them every difference of order
        tolerance = 1e-4 if bits == "4bit" else 5e-2
        assert relative_error(logits[k], peft(IDS[k]).logits) < tolerance
        step_loss(peft, IDS[k]).backward()
        assert relative_error(grad[k], peft_row(population, peft, grad=True)) < 3 * tolerance


@needs_bitsandbytes
def test_a_model_that_was_laid_out_for_inference_is_refused(folder):
    from bitsandbytes.nn import Linear4bit

    model = load_base(folder, device="cpu", dtype="float32", quantization="4bit").model
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    layers[0].weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ModelError, match=r"has been run before.*Load it anew"):
        load_base(model, tokenizer=symbol_tokenizer(12, 4))


@needs_bitsandbytes
def test_a_front_remembers_the_bits_of_its_base(folder):
    base = recorded_base({"name": str(folder), "dtype": "float32", "quantization": "4bit"}, device="cpu")
    assert base.quantization == "4bit"
    assert json.dumps(base.model.config.quantization_config.to_dict()["bnb_4bit_quant_type"]) == '"nf4"'
    assert tiny_base().quantization is None
