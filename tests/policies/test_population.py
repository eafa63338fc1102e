"""The stacked engine against stock PEFT: the same numbers, policy by policy, and nothing from one to another."""

from __future__ import annotations

from contextlib import closing
from importlib.metadata import version

import pytest
import torch
from tiny_models import (
    COMMON,
    FAMILIES,
    as_peft,
    lora,
    peft_row,
    random_population,
    relative_error,
    tiny_base,
    tiny_model,
)

from pareto_align.errors import ConfigError, ModelError
from pareto_align.policies import PolicyPopulation, load_base
from pareto_align.policies.layers.linear import FrozenLinear
from pareto_align.policies.layers.lora import PopulationLinear
from pareto_align.policies.lora_config import default_lora_config
from pareto_align.policies.parity import compare_with_peft
from pareto_align.policies.targets import find_targets
from pareto_align.testing.tiny import symbol_tokenizer

ENGINE = ["llama", "llama-tied", "qwen2", "qwen3", "gemma2", "gpt_neox", "phi", "mistral"]
TARGETS = {"gpt_neox": ["query_key_value", "dense"], "phi": ["q_proj", "v_proj", "dense"]}
IDS = torch.randint(0, 12, (3, 2, 9), generator=torch.Generator().manual_seed(1))  # [K, rows, L]


def family_population(family):
    return random_population(tiny_base(family), config=lora(targets=TARGETS.get(family, "all-linear")))


@pytest.mark.parametrize("family", ENGINE)
def test_logits_of_every_slot_equal_stock_peft(family, tmp_path):
    population = family_population(family)
    with population.serving(), torch.no_grad():
        ours = population.base.model(IDS.flatten(0, 1)).logits.unflatten(0, (3, 2))
    bare = tiny_model(family)(IDS[0]).logits
    for k in range(3):
        peft = as_peft(population, population.parameters[k], tmp_path / str(k), tiny_model(family)).eval()
        with torch.no_grad():
            theirs = peft(IDS[k]).logits
        assert (ours[k] - theirs).abs().max() < 1e-5 * max(1.0, float(theirs.abs().max()))
        assert (ours[k] - bare).abs().max() > 0.1  # or the comparison above compares the base with itself


@pytest.mark.parametrize("family", ENGINE)
def test_gradients_equal_pefts(family, tmp_path):
    population = family_population(family)
    population.grad.zero_()
    with population.serving(training=True):
        logits = population.base.model(IDS.flatten(0, 1), use_cache=False).logits.unflatten(0, (3, 2))
        logits.log_softmax(-1)[..., 3].sum().backward()
    for k in range(3):
        peft = as_peft(
            population, population.parameters[k], tmp_path / str(k), tiny_model(family), is_trainable=True
        ).eval()
        peft(IDS[k], use_cache=False).logits.log_softmax(-1)[..., 3].sum().backward()
        assert relative_error(population.grad[k], peft_row(population, peft, grad=True)) < 1e-4


def test_gradients_add_up_over_backward_passes():
    population = family_population("llama")
    grads = []
    for rows in (slice(0, 1), slice(1, 2), slice(0, 2)):
        population.grad.zero_()
        with population.serving(training=True):
            population.base.model(IDS[:, rows].flatten(0, 1)).logits.sum().backward()
        grads.append(population.grad.clone())
    assert relative_error(grads[0] + grads[1], grads[2]) < 1e-5


def test_nothing_leaks_between_policies():
    population = family_population("qwen2")
    with population.serving(training=True):
        logits = population.base.model(IDS.flatten(0, 1)).logits.unflatten(0, (3, 2))
        logits[1].square().sum().backward()
    assert population.grad[1].abs().max() > 0
    assert (population.grad[[0, 2]] == 0).all()
    before = logits.detach()
    population.parameters[1] += 1.0
    with population.serving(), torch.no_grad():
        after = population.base.model(IDS.flatten(0, 1)).logits.unflatten(0, (3, 2))
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1])


def test_any_rows_can_be_served_and_contexts_nest():
    population = family_population("llama")
    model, ids = population.base.model, IDS.flatten(0, 1)
    with torch.no_grad():
        bare = model(ids).logits
        assert torch.allclose(bare, tiny_model("llama")(ids).logits, atol=1e-5)
        with population.serving():
            every = model(ids).logits
            with population.serving(population.parameters[1:2]):
                assert torch.allclose(model(IDS[1]).logits, every[2:4], atol=1e-5)
            assert torch.equal(model(ids).logits, every)
            with population.reference():
                assert torch.allclose(model(ids[:5]).logits, bare[:5], atol=1e-5)
            assert torch.equal(model(ids).logits, every)
        assert torch.equal(model(ids).logits, bare)
    with pytest.raises(ValueError, match="7 rows cannot be grouped by 3"), population.serving():
        model(IDS.flatten(0, 1)[:1].repeat(7, 1))
    with pytest.raises(ValueError, match="own slots"), population.serving(population.parameters[:1], training=True):
        pass


def addresses(population):
    return [part.data_ptr() for block in population.blocks for part in (block.layer.a, block.layer.b)]


def test_what_is_served_stays_at_its_address():
    """A captured CUDA graph reads the addresses it was captured with."""
    population = random_population(tiny_base(), 3)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    with population.serving(), torch.no_grad():
        first, before = addresses(population), population.base.model(ids).logits
    generation = population.compute.generation
    with population.serving(population.parameters[:1] * 2), torch.no_grad():
        fewer = addresses(population)
        assert relative_error(population.base.model(ids[:1]).logits, before[:1]) > 1e-3
    population.parameters.mul_(3.0)
    with population.serving(), torch.no_grad():
        assert addresses(population) == first == fewer
        assert relative_error(population.base.model(ids).logits, before) > 1e-3, "what is there is what is served"
    assert population.compute.generation == generation
    with population.serving(population.parameters.repeat(2, 1)):
        assert population.compute.generation == generation + 1  # more than there was room for


def test_what_is_looked_up_in_between_does_not_disturb_a_backward_pass():
    """The policies that a pass has read are written over only by others, not by themselves."""
    population = random_population(tiny_base(), 2)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with population.serving(training=True):
        loss = population.base.model(ids).logits.square().sum()
        with population.reference(), torch.no_grad():
            population.base.model(ids)
        loss.backward()
    assert population.grad.abs().sum() > 0


def test_a_fresh_policy_is_the_reference_policy_and_depends_on_its_slot_only():
    base = tiny_base()
    few = PolicyPopulation(base, 2, lora=lora(), seed=5)
    rows = few.parameters.clone()
    with few.serving(), torch.no_grad():
        theirs = tiny_model()(IDS[:2].flatten(0, 1)).logits
        assert torch.allclose(base.model(IDS[:2].flatten(0, 1)).logits, theirs, atol=1e-5)
    few.close()
    many = PolicyPopulation(base, 4, lora=lora(), seed=5)
    assert torch.equal(many.parameters[:2], rows)
    assert not torch.equal(many.parameters[2], many.parameters[3])
    many.close()


def test_snapshot_and_load_are_copies():
    population = family_population("llama")
    kept = population.snapshot(0)
    population.load(2, kept)
    assert torch.equal(population.parameters[2], population.parameters[0])
    population.parameters[0].zero_()
    assert kept.abs().sum() > 0
    assert torch.equal(population.parameters[2], kept)


def test_rslora_has_its_own_scaling(tmp_path):
    population = random_population(tiny_base(), 1, config=lora(r=4, use_rslora=True))
    assert population.scaling == 8 / 2
    with population.serving(), torch.no_grad():
        ours = population.base.model(IDS[0]).logits
    peft = as_peft(population, population.parameters[0], tmp_path, tiny_model()).eval()
    assert torch.allclose(ours, peft(IDS[0]).logits, atol=1e-5)


@pytest.mark.parametrize("family", ENGINE)
def test_close_gives_the_model_back_as_it_was(family):
    model = tiny_model(family)
    next(model.parameters()).requires_grad_(False)
    before = {
        "keys": list(model.state_dict()),
        "modules": {name: id(module) for name, module in model.named_modules()},
        "attention": model.config._attn_implementation,
        "flags": [p.requires_grad for p in model.parameters()],
        "logits": model(IDS[0]).logits.detach(),
    }
    population = PolicyPopulation(load_base(model, tokenizer=symbol_tokenizer(12, 4)), 2, lora=lora())
    assert any(isinstance(module, PopulationLinear) for module in model.modules())
    assert isinstance(model.get_output_embeddings(), FrozenLinear)
    assert not any(p.requires_grad for p in model.parameters())
    population.close()
    assert list(model.state_dict()) == before["keys"]
    assert {name: id(module) for name, module in model.named_modules()} == before["modules"]
    assert model.config._attn_implementation == before["attention"]
    assert [p.requires_grad for p in model.parameters()] == before["flags"]
    assert torch.equal(model(IDS[0]).logits, before["logits"])
    population.close()  # a second time does no harm


def test_a_softcapped_attention_gives_what_it_gave():
    base = tiny_base("gemma2")
    before = base.model(IDS[0]).logits
    population = PolicyPopulation(base, 1, lora=lora())
    assert torch.allclose(base.model(IDS[0]).logits, before, atol=1e-5)
    population.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_dropout": 0.1}, "lora_dropout"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"bias": "all"}, "bias='all'"),
    ],
)
def test_what_slots_cannot_do_is_refused_by_name(settings, named):
    base = tiny_base()
    keys = list(base.model.state_dict())
    with pytest.raises(ConfigError, match=named):
        PolicyPopulation(base, 2, lora=lora(**settings))
    assert list(base.model.state_dict()) == keys


def test_a_population_of_none_is_refused():
    with pytest.raises(ConfigError, match="population=0"):
        PolicyPopulation(tiny_base(), 0)


@pytest.mark.parametrize("targets", [None, ["c_attn"], "all-linear"])
def test_a_model_of_conv1d_layers_is_refused_by_name(targets):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=19, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    base = load_base(model, tokenizer=symbol_tokenizer(12, 4))
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel has no nn\.Linear.*Conv1D"):
        PolicyPopulation(base, 2, lora=None if targets is None else lora(targets=targets))
    assert list(model.state_dict()) == list(GPT2LMHeadModel(model.config).state_dict())


def test_targets_that_match_nothing_are_refused():
    with pytest.raises(ModelError, match=r"nowhere.* Its linear layers are down_proj, gate_proj, .*q_proj, up_proj"):
        PolicyPopulation(tiny_base(), 2, lora=lora(targets=["nowhere"]))


def test_the_default_targets_are_the_attention_projections():
    for family in FAMILIES:
        with closing(PolicyPopulation(tiny_base(family), 1)) as population:
            assert {block.name.split(".")[-2] for block in population.blocks} <= {"self_attn", "attention"}


def test_all_linear_layers_of_a_mixture_are_those_beside_its_experts():
    """Its experts and what chooses among them are left out; what all tokens pass is not."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    sizes = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4}
    model = Qwen2MoeForCausalLM(Qwen2MoeConfig(**COMMON, num_key_value_heads=2, num_experts_per_tok=2, **sizes))
    base = load_base(model, tokenizer=symbol_tokenizer(12, 4))
    with closing(PolicyPopulation(base, 1, lora=lora(targets="all-linear"))) as population:
        names = [block.name.partition("layers.")[2] for block in population.blocks]
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    shared = [f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")]
    assert names == [f"{layer}.{name}" for layer in range(2) for name in attention + shared]


def deepseek():
    """A mixture with a dense layer, whose names PEFT reads as those of experts."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    mixture = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1}
    ranks = {"kv_lora_rank": 8, "q_lora_rank": 8}
    heads = {"num_key_value_heads": 4, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    sizes = {"moe_intermediate_size": 16, "first_k_dense_replace": 1, **mixture, **ranks, **heads}
    return DeepseekV3ForCausalLM(DeepseekV3Config(**{**COMMON, **sizes}))


def falcon_h1():
    """Attention and a state space side by side; PEFT refuses the out_proj of the latter."""
    from transformers import FalconH1Config, FalconH1ForCausalLM

    space = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
    sizes = {"num_key_value_heads": 2, "head_dim": 8, "mamba_chunk_size": 4, **space}
    return FalconH1ForCausalLM(FalconH1Config(**{**COMMON, **sizes}))


@pytest.mark.parametrize(
    ("make", "left_out", "targets"),
    [(deepseek, "gate_proj", "all-linear"), (falcon_h1, "out_proj", "all-linear"), (falcon_h1, "out_proj", None)],
)
def test_what_peft_would_not_find_in_a_folder_is_left_out_and_refused_by_name(make, left_out, targets, tmp_path):
    base = load_base(make(), tokenizer=symbol_tokenizer(12, 4))
    with closing(PolicyPopulation(base, 1, lora=None if targets is None else lora(targets=targets))) as population:
        population.parameters.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
        population.save_adapter(population.parameters[0], tmp_path)
        assert left_out not in population.targets
        assert {"o_proj"} < set(population.targets)
        if not version("peft").startswith("0.19."):  # which puts no adapter at all on the first of these models
            found = compare_with_peft(population, population.parameters[0], tmp_path, [1, 2, 3, 7])
            assert found["largest_difference"] < found["allowed"]
    with pytest.raises(ModelError, match=rf"{left_out}'.*PEFT finds no such layer in a model of type"):
        PolicyPopulation(base, 1, lora=lora(targets=["o_proj", left_out]))


def test_what_chooses_among_experts_is_left_out_where_it_is_in_a_module_of_its_own():
    from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM

    sizes = {"num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "moe_topk": 2}
    model = HunYuanMoEV1ForCausalLM(HunYuanMoEV1Config(**COMMON, **sizes))
    assert isinstance(model.model.layers[0].mlp.gate.wg, torch.nn.Linear)
    base = load_base(model, tokenizer=symbol_tokenizer(12, 4))
    with closing(PolicyPopulation(base, 1, lora=lora(targets="all-linear"))) as population:
        assert population.targets == ["k_proj", "o_proj", "q_proj", "v_proj"]


@pytest.mark.parametrize(("config", "each"), [(default_lora_config(), 4), (lora(targets="all-linear"), 7)])
def test_nothing_is_adapted_that_reads_images(config, each):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**FAMILIES["gemma2"][1], "attn_implementation": "sdpa"}
    sight |= {"image_size": 28, "patch_size": 14}
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4))
    names = [name for name, _ in find_targets(model, config)]
    assert len(names) == 2 * each
    assert all("language_model.layers" in name for name in names)
