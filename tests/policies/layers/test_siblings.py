"""Layers that read the same input are multiplied at once: the same numbers in fewer kernels."""

from __future__ import annotations

import re

import pytest
import torch
from pretended_device import DEVICE, PretendedTensor, pretended
from tiny_models import FAMILIES, RAGGED, SYMBOLS, lora, relative_error, tiny_base, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pareto_align.policies import PolicyPopulation, SamplingParams, load_base, sample
from pareto_align.policies.lora_config import default_lora_config
from pareto_align.policies.static import StaticSampler
from pareto_align.testing.tiny import symbol_tokenizer

IDS = torch.randint(0, 12, (6, 7), generator=torch.Generator().manual_seed(1))
SIBLINGS = {"gpt_neox": [], "phi": [3, 3]}  # q, k, v and nothing else; gpt_neox has them in one matrix as it is


def population_of(base, siblings, config=None, size=3):
    population = PolicyPopulation(base, size, lora=config or lora(), onednn=False, siblings=siblings)
    values = torch.randn(population.parameters.shape, generator=torch.Generator().manual_seed(0)) * 0.2
    population.parameters.copy_(values)
    return population


@pytest.mark.parametrize("targets", ["all-linear", r".*(self_attn|attention)\.(q_proj|v_proj|query_key_value|dense)"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_each_layer_by_itself(family, targets):
    found = []
    for siblings in (False, True):
        population = population_of(tiny_base(family, dtype=torch.float32), siblings, lora(targets=targets))
        with torch.no_grad(), population.serving():
            served = population.base.model(IDS).logits
            with population.reference():
                bare = population.base.model(IDS).logits
        with population.serving(training=True):
            population.base.model(IDS).logits.square().sum().backward()
        found.append((served, bare, population.grad.clone()))
    assert [len(group.layers) for group in population._siblings] == SIBLINGS.get(family, [3, 2, 3, 2])
    for one, other in zip(*found, strict=True):
        assert relative_error(other, one) < 1e-5


def test_some_of_the_policies_served_are_the_same_as_when_served_alone():
    population = population_of(tiny_base(dtype=torch.float32), True)
    with torch.no_grad():
        with population.serving(population.parameters[1:]):
            alone = population.base.model(IDS[:4]).logits
        with population.serving():
            with population.narrowed(slice(1, 3)):
                narrowed = population.base.model(IDS[:4]).logits
            every = population.base.model(IDS).logits
    assert relative_error(narrowed, alone) < 1e-6
    with torch.no_grad(), population.serving():
        assert torch.equal(population.base.model(IDS).logits, every), "all are served again afterwards"


def test_the_model_is_given_back_with_weights_of_its_own():
    base = tiny_base(dtype=torch.float32)
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    population = population_of(base, True)
    attention = base.model.model.layers[0].self_attn
    storages = {x.weight.untyped_storage().data_ptr() for x in (attention.q_proj, attention.k_proj, attention.v_proj)}
    assert len(storages) == 1, "nothing is held twice"
    population.close()
    storages = {x.weight.untyped_storage().data_ptr() for x in (attention.q_proj, attention.k_proj, attention.v_proj)}
    assert len(storages) == 3
    assert all(torch.equal(weight, before[name]) for name, weight in base.model.state_dict().items())


def test_a_cpu_does_without():
    assert PolicyPopulation(tiny_base(), 1)._siblings == []


# ------------------------------------------------------------------------------------------------ kernels

# what only looks at memory in another way, or asks for some, is no kernel
VIEWS = {
    "view", "_unsafe_view", "t", "transpose", "unsqueeze", "squeeze", "expand", "slice", "select", "permute",
    "detach", "alias", "split", "split_with_sizes", "unbind", "as_strided", "unflatten", "_reshape_alias", "empty",
    "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_local_scalar_dense",
}  # fmt: skip


class Kernels(TorchDispatchMode):
    """Operators that an accelerator would have to launch something for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        there = any(isinstance(x, PretendedTensor) for x in tree_leaves((args, kwargs, found)))
        self.count += there and func.__name__.split(".")[0] not in VIEWS
        return found


def launched(siblings, sampler, layers=2):
    """Kernels of a decoding step."""
    with pretended():
        model, tokenizer = tiny_model(num_hidden_layers=layers), symbol_tokenizer(SYMBOLS, 4)
        model.generation_config.eos_token_id = tokenizer.eos_token = None
        base = load_base(model, tokenizer=tokenizer, device=DEVICE, dtype=torch.bfloat16)
        population = PolicyPopulation(base, 2, lora=default_lora_config(), siblings=siblings)
        population.drivable, population.sampler = True, sampler
        ids, counts = [base.encode(prompt) for prompt in RAGGED], []
        sample(population, ids, 2, SamplingParams(2), [1, 2])  # whatever is checked at first use
        for length in (9, 17):  # one look more
            with Kernels() as kernels:
                sample(population, ids, 2, SamplingParams(length), [1, 2])
            counts.append(kernels.count)
    return (counts[1] - counts[0]) / 8


def test_siblings_spare_a_layer_seven_kernels():
    """Two products and two of A and of B for q, k and v, and one product for gate and up."""
    for sampler in ("eager", "graphs"):
        assert launched(False, sampler) - launched(True, sampler) >= 2 * 7


def compiled(layers):
    """Kernels of a compiled step, as inductor writes them for a CPU: loops it fused, and products it calls."""
    from torch._inductor import config
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.utils import run_and_get_code

    torch._dynamo.reset()
    base = tiny_base(num_hidden_layers=layers, dtype=torch.bfloat16)
    population = population_of(base, True, default_lora_config(), size=2)
    population.drivable, population.sampler = True, "graphs"
    population.static = StaticSampler(population, lambda step: torch.compile(step, fullgraph=True))
    ids = [base.encode(prompt) for prompt in RAGGED]
    # what is written is counted: no C++ compiler is asked for, and no process that would call it
    with pytest.MonkeyPatch.context() as patched, config.patch(compile_threads=1):
        patched.setattr(AsyncCompile, "cpp_pybinding", lambda *_, **__: lambda *arguments: None)
        _, code = run_and_get_code(lambda: sample(population, ids, 2, SamplingParams(20), [1, 2]))
    torch._dynamo.reset()
    body = code[0][code[0].index("def call(") :]
    return len(re.findall(r"^\s+(?:\w+ = )?(?:extern_kernels\.\w+|cpp_\w+|torch\.ops\.[\w.]+)\(", body, re.MULTILINE))


def test_a_compiled_step_has_at_most_a_quarter_of_the_kernels():
    """Of a model of one layer; of two it is .251 of them."""
    assert 0 < compiled(1) <= launched(False, "eager", 1) / 4
