"""Adapters on disk are stock PEFT folders: out and back bit for bit, and of no use for it is our own package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import as_peft, lora, peft_row, random_population, tiny_base, tiny_model

from pareto_align.errors import FrontFileError, ModelError
from pareto_align.policies import PolicyPopulation
from pareto_align.policies.serving import Server, load_adapter, recorded_base

IDS = torch.randint(0, 12, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def population():
    population = random_population(tiny_base(), 2)
    yield population
    population.close()


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi"])
def test_out_and_back_is_bit_equal(family, tmp_path):
    population = random_population(tiny_base(family), 2)
    for k in range(2):
        population.save_adapter(population.parameters[k], tmp_path / str(k))
        assert torch.equal(population.read_adapter(tmp_path / str(k)), population.parameters[k])
    assert {p.name for p in (tmp_path / "0").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


def test_an_adapter_that_peft_saved_is_read(population, tmp_path):
    peft = as_peft(population, population.parameters[1], tmp_path / "ours", tiny_model())
    peft.save_pretrained(tmp_path / "theirs")
    assert torch.equal(population.read_adapter(tmp_path / "theirs"), population.parameters[1])
    ours, theirs = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()


def test_the_folder_names_the_layers_and_settings_as_peft_does(tmp_path):
    settings = lora(r=2, targets=["q_proj", "down_proj"], use_rslora=True)
    population = random_population(tiny_base(), 1, config=settings)
    population.save_adapter(population.parameters[0], tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert sorted(config["target_modules"]) == ["down_proj", "q_proj"]
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (2, 4, True)
    assert config["inference_mode"] is True


def test_layers_that_share_a_last_name_with_others_are_named_in_full(tmp_path):
    settings = lora(targets=["q_proj"], layers_to_transform=[1])
    population = random_population(tiny_base(), 1, config=settings)
    assert [block.name for block in population.blocks] == ["model.layers.1.self_attn.q_proj"]
    with population.serving(), torch.no_grad():
        ours = population.base.model(IDS).logits
    peft = as_peft(population, population.parameters[0], tmp_path, tiny_model()).eval()
    assert torch.allclose(ours, peft(IDS).logits, atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_smaller_rank_is_padded_and_serves_the_same(rslora, tmp_path):
    small = LoraConfig(r=2, lora_alpha=6, target_modules="all-linear", use_rslora=rslora, init_lora_weights=False)
    torch.manual_seed(3)
    theirs = get_peft_model(tiny_model(), small).eval()
    theirs.save_pretrained(tmp_path)
    population = PolicyPopulation(tiny_base(), 1, lora=lora(r=4))
    row = population.read_adapter(tmp_path)
    with population.serving(row[None]), torch.no_grad():
        ours = population.base.model(IDS).logits
    assert torch.allclose(ours, theirs(IDS).logits, atol=1e-5)
    assert (ours - tiny_model()(IDS).logits).abs().max() > 0.1


def test_layers_may_have_ranks_of_their_own(tmp_path):
    patterns = {"rank_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 1}, "alpha_pattern": {"o_proj": 7}}
    mixed = LoraConfig(r=2, lora_alpha=6, target_modules="all-linear", init_lora_weights=False, **patterns)
    torch.manual_seed(3)
    theirs = get_peft_model(tiny_model(), mixed).eval()
    theirs.save_pretrained(tmp_path)
    population = PolicyPopulation(tiny_base(), 1, lora=lora(r=4))
    row = population.read_adapter(tmp_path)
    with population.serving(row[None]), torch.no_grad():
        ours = population.base.model(IDS).logits
    assert torch.allclose(ours, theirs(IDS).logits, atol=1e-5)


def test_policies_of_different_ranks_train_side_by_side(population, tmp_path):
    """A policy of rank 2 in slots of rank 4 gets stock PEFT's gradient of rank 2, and its padding stays zero."""
    small = random_population(tiny_base(), 1, config=lora(r=2), seed=7)
    peft = as_peft(small, small.parameters[0], tmp_path, tiny_model(), is_trainable=True).eval()
    peft(IDS, use_cache=False).logits.square().sum().backward()
    expected = peft_row(small, peft, grad=True)
    population.load(0, population.read_adapter(tmp_path))
    with population.serving(training=True):
        population.base.model(IDS.repeat(2, 1), use_cache=False).logits.square().sum().backward()
    for wide, narrow in zip(population.blocks, small.blocks, strict=True):
        (a, b), (own_a, own_b) = wide.split(population.grad[0]), narrow.split(expected)
        assert torch.allclose(a[:2], own_a, rtol=1e-3, atol=1e-3 * float(own_a.abs().max()))
        assert torch.allclose(b[:, :2], own_b, rtol=1e-3, atol=1e-3 * float(own_b.abs().max()))
        assert (a[2:] == 0).all()
        assert (b[:, 2:] == 0).all()


def test_a_larger_rank_is_refused(population, tmp_path):
    big = random_population(tiny_base(), 1, config=lora(r=8))
    big.save_adapter(big.parameters[0], tmp_path / "big")
    mixed = LoraConfig(r=2, target_modules="all-linear", rank_pattern={"down_proj": 8})
    get_peft_model(tiny_model(), mixed).save_pretrained(tmp_path / "mixed")
    for folder in ("big", "mixed"):
        with pytest.raises(FrontFileError, match=r"rank 8; this population has rank 4.*LoraConfig\(r=8\)"):
            population.read_adapter(tmp_path / folder)


def test_an_adapter_of_another_base_is_refused(population, tmp_path):
    wide = random_population(tiny_base(hidden_size=64), 1)
    wide.save_adapter(wide.parameters[0], tmp_path / "wide")
    with pytest.raises(FrontFileError, match="another base model"):
        population.read_adapter(tmp_path / "wide")
    deep = random_population(tiny_base(num_hidden_layers=3), 1)
    deep.save_adapter(deep.parameters[0], tmp_path / "deep")
    with pytest.raises(FrontFileError, match=r"also adapts .*layers\.2"):
        population.read_adapter(tmp_path / "deep")
    other = random_population(tiny_base("gpt_neox"), 1)
    other.save_adapter(other.parameters[0], tmp_path / "other")
    with pytest.raises(FrontFileError, match="adapts other layers"):
        population.read_adapter(tmp_path / "other")


def test_a_narrower_adapter_is_refused_and_not_padded(population, tmp_path):
    narrow = random_population(tiny_base(hidden_size=16), 1)
    narrow.save_adapter(narrow.parameters[0], tmp_path)
    with pytest.raises(FrontFileError, match="another base model"):
        population.read_adapter(tmp_path)


def test_a_folder_that_is_no_adapter_is_refused(population, tmp_path):
    with pytest.raises(FrontFileError, match="Cannot read the adapter"):
        population.read_adapter(tmp_path / "nothing")
    population.save_adapter(population.parameters[0], tmp_path / "torn")
    weights = tmp_path / "torn" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(FrontFileError, match="Cannot read the adapter"):
        population.read_adapter(tmp_path / "torn")
    population.save_adapter(population.parameters[0], tmp_path / "short")
    tensors = load_file(tmp_path / "short" / "adapter_model.safetensors")
    tensors.popitem()
    save_file(tensors, tmp_path / "short" / "adapter_model.safetensors")
    with pytest.raises(FrontFileError, match="has no tensor"):
        population.read_adapter(tmp_path / "short")


def test_stock_peft_loads_a_member_where_this_package_cannot_be_imported(population, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    population.save_adapter(population.parameters[1], tmp_path / "member")
    with population.serving(population.parameters[1:]), torch.no_grad():
        ours = population.base.model(IDS).logits
    save_file({"ids": IDS}, tmp_path / "ids.safetensors")
    script = """
        import sys
        sys.modules["pareto_align"] = None  # any import of it now fails
        from peft import PeftModel
        from safetensors.torch import load_file, save_file
        from transformers import AutoModelForCausalLM
        try:
            import pareto_align
        except ImportError:
            pass
        else:
            sys.exit("pareto_align can be imported: this proves nothing")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "member").eval()
        logits = model(load_file("ids.safetensors")["ids"]).logits
        save_file({"logits": logits.detach().contiguous()}, "logits.safetensors")
        assert not [name for name in sys.modules if name.startswith("pareto_align.")]
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    theirs = load_file(tmp_path / "logits.safetensors")["logits"]
    assert (ours - theirs).abs().max() < 1e-5


# --------------------------------------------------------------------------------------------------- serving


def test_putting_on_adapters_warns_of_nothing(population, tmp_path):
    """PEFT asks transformers by a name that it is about to drop, and nobody who loads a member can help it."""
    for k in range(2):
        population.save_adapter(population.parameters[k], tmp_path / str(k))
    population.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_adapter({}, tmp_path / "0", "first", tiny_model())
        load_adapter({}, tmp_path / "1", "second", model)
    assert [str(warning.message) for warning in caught] == []


def test_load_adapter_adds_members_to_one_peft_model(population, tmp_path):
    rows = population.parameters.clone()
    for k in range(2):
        population.save_adapter(rows[k], tmp_path / f"m.{k}")
    population.close()
    first = load_adapter({}, tmp_path / "m.0", "m.0", tiny_model())
    assert isinstance(first, PeftModel)
    assert not first.training
    expected = first(IDS).logits
    second = load_adapter({}, tmp_path / "m.1", "m.1", first)
    assert second is first
    assert second.active_adapter == "m-1"
    assert not torch.allclose(second(IDS).logits, expected)
    assert torch.equal(load_adapter({}, tmp_path / "m.0", "m.0", first)(IDS).logits, expected)
    with pytest.raises(ModelError, match="already carries adapters"):
        load_adapter({}, tmp_path / "m.0", "m.0", first.get_base_model())


def test_a_base_that_was_in_memory_has_to_be_given(tmp_path):
    with pytest.raises(ModelError, match="in memory"):
        recorded_base({"name": None})


def test_an_adapter_that_does_not_fit_is_a_model_error(population, tmp_path):
    population.save_adapter(population.parameters[0], tmp_path)
    with pytest.raises(ModelError, match="cannot be put on this base model"):
        load_adapter({}, tmp_path, "m", tiny_model(hidden_size=64))


def test_the_server_says_what_the_population_says(population, tmp_path):
    """Greedy answers of stock generate, with prompts of different lengths in one batch, are ours."""
    from pareto_align.policies import SamplingParams, sample

    base, prompts = population.base, ["<0>", "<1>abc", "<2>abcdefg"]
    ids = [base.encode(prompt) for prompt in prompts]
    drawn = sample(population, ids, 1, SamplingParams(8, temperature=0), [0, 0])
    said = [base.decode(tokens) for tokens in drawn.token_lists()]
    for k in range(2):
        population.save_adapter(population.parameters[k], tmp_path / f"m{k}")
    population.close()
    server = Server({}, max_new_tokens=8, base=base)
    for batch_size in (1, 3):
        answers = [server.generate(tmp_path / f"m{k}", prompts, batch_size=batch_size, do_sample=False) for k in (0, 1)]
        assert answers[0] + answers[1] == said
    assert server.generate(tmp_path / "m0", prompts[1], do_sample=False) == said[1:2]
    server.close()
    assert torch.equal(base.model(IDS).logits, tiny_model()(IDS).logits)


def test_rows_of_a_peft_model_line_up_with_ours(population, tmp_path):
    """The map that the gradient comparisons of this suite rest on."""
    peft = as_peft(population, population.parameters[0], tmp_path, tiny_model())
    assert torch.equal(peft_row(population, peft), population.parameters[0])


# ------------------------------------------------------------------------------- what is on a model already


def members_of(folder, seeds, name="m"):
    """Adapters that are called alike, and the logits of each."""
    population, logits = random_population(tiny_base(), 1), []
    for k in seeds:
        row = torch.randn(population.parameter_count, generator=torch.Generator().manual_seed(k)) * 0.2
        population.save_adapter(row, folder / str(k) / name)
        with population.serving(row[None]), torch.no_grad():
            logits.append(population.base.model(IDS).logits)
    population.close()
    return logits


def test_a_member_of_another_front_is_not_taken_for_its_namesake(tmp_path):
    logits = members_of(tmp_path, range(2))
    model = load_adapter({}, tmp_path / "0" / "m", "m", tiny_model())
    for k in (1, 0, 0, 1):
        assert torch.allclose(load_adapter({}, tmp_path / str(k) / "m", "m", model)(IDS).logits, logits[k], atol=1e-5)
    assert list(model.peft_config) == ["m"]
    (tmp_path / "0" / "m").rename(tmp_path / "away")  # another file in the same place
    (tmp_path / "1" / "m").rename(tmp_path / "0" / "m")
    load_adapter({}, tmp_path / "away", "m", model)
    assert torch.allclose(load_adapter({}, tmp_path / "0" / "m", "m", model)(IDS).logits, logits[1], atol=1e-5)


def test_names_that_differ_by_a_dot_are_not_confused(tmp_path):
    logits = [members_of(tmp_path / name, [k], name)[0] for k, name in enumerate(("a.b", "a-b"))]
    model = tiny_model()
    for k, name in ((0, "a.b"), (1, "a-b"), (0, "a.b")):
        model = load_adapter({}, tmp_path / name / str(k) / name, name, model)
        assert torch.allclose(model(IDS).logits, logits[k], atol=1e-5)
    model.unload()
    server = Server({}, max_new_tokens=12, base=tiny_base())
    said = [
        server.generate(tmp_path / n / str(k) / n, "<1>abc", seed=3) for k, n in ((0, "a.b"), (1, "a-b"), (0, "a.b"))
    ]
    server.close()
    assert said[0] == said[2]
    assert said[0] != said[1]


def test_the_same_weights_under_another_alpha_are_another_adapter(tmp_path):
    (logits,) = members_of(tmp_path, [0])
    model = load_adapter({}, tmp_path / "0" / "m", "m", tiny_model())
    path = tmp_path / "0" / "m" / "adapter_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "lora_alpha": 2 * said["lora_alpha"]}))
    assert (load_adapter({}, tmp_path / "0" / "m", "m", model)(IDS).logits - logits).abs().max() > 0.1


def test_an_adapter_of_the_users_own_is_left_alone(tmp_path):
    (logits,) = members_of(tmp_path, [0])
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model(), config, adapter_name="m").eval()
    own = model(IDS).logits.detach()
    load_adapter({}, tmp_path / "0" / "m", "m", model)
    assert torch.allclose(model(IDS).logits, logits, atol=1e-5)
    assert list(model.peft_config) == ["m", model.active_adapter]
    model.set_adapter("m")
    assert torch.equal(model(IDS).logits, own)


# ------------------------------------------------------------------------------------------------ answering

CONFIGURED = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[0], [1], [2], [3]],
    "sequence_bias": [[[5], 100.0]],
    "suppress_tokens": [0, 1, 2, 3],
    "top_k": 1,
    "top_p": 0.1,
    "temperature": 0.01,
    "do_sample": False,
    "num_beams": 3,
    "min_new_tokens": 8,
    "guidance_scale": 3.0,
    "stop_strings": ["a"],
    "max_time": 1e-9,
    "num_return_sequences": 2,
    "forced_eos_token_id": 14,
}


@pytest.mark.parametrize("sampling", [{}, {"do_sample": False}], ids=["sampled", "greedy"])
def test_the_models_generation_config_has_no_say(sampling, tmp_path):
    members_of(tmp_path, [0])
    base, prompts = tiny_base(), ["<0>", "<1>abc", "<2>abcdefg"]
    server = Server({}, max_new_tokens=8, base=base)
    plain = server.generate(tmp_path / "0" / "m", prompts, **sampling)
    for name, value in CONFIGURED.items():
        before = getattr(base.model.generation_config, name)
        setattr(base.model.generation_config, name, value)
        assert server.generate(tmp_path / "0" / "m", prompts, **sampling) == plain, name
        assert getattr(base.model.generation_config, name) == value
        setattr(base.model.generation_config, name, before)
    server.close()


def test_it_samples_as_the_run_did_and_what_the_caller_says_wins(tmp_path):
    from transformers import GenerationConfig

    members_of(tmp_path, [0])
    folder, prompts, base = tmp_path / "0" / "m", ["<0>"] * 60, tiny_base()
    run = Server({}, max_new_tokens=4, temperature=1.0, base=base)
    likeliest = run.generate(folder, "<0>", do_sample=False)[0]
    drawn = run.generate(folder, prompts)
    assert len(set(drawn)) > 20
    state = torch.random.get_rng_state()
    assert run.generate(folder, prompts) == drawn
    assert torch.equal(torch.random.get_rng_state(), state)
    assert run.generate(folder, prompts, seed=1) != drawn
    assert run.generate(folder, prompts, seed=None) != run.generate(folder, prompts, seed=None)
    for asked in (
        {"temperature": 0},
        {"top_k": 1},
        {"temperature": 1e-4},
        {"generation_config": GenerationConfig()},
        {"generation_config": GenerationConfig(do_sample=True, top_k=1)},
    ):
        assert set(run.generate(folder, prompts, **asked)) == {likeliest}, asked
    short = GenerationConfig(max_new_tokens=1)
    for asked in ({"max_new_tokens": 1}, {"generation_config": short}):
        assert len(base.encode(run.generate(folder, "<0>", **asked)[0] or "a")) <= 2  # with the token that begins it
    assert short.eos_token_id is None, "the caller's config is not written to"
    run.close()
    for settings in ({"temperature": 0}, {"top_k": 1}, {"top_p": 1e-6}):
        server = Server({}, max_new_tokens=4, base=base, **settings)
        assert set(server.generate(folder, prompts)) == {likeliest}, settings
        server.close()
