"""Sampling by transformers' `generate`, where the population's own sampler cannot drive a model."""

from __future__ import annotations

import pytest
import torch
from tiny_models import RAGGED, random_population, tiny_base

from pareto_align.errors import ParetoAlignWarning
from pareto_align.policies import SamplingParams, sample


def both(population, ids, params, seeds, **options):
    ours = sample(population, ids, 3, params, seeds, **options)
    assert population.drivable
    population.drivable = False
    return ours, sample(population, ids, 3, params, seeds, **options)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "phi"])
@pytest.mark.parametrize("params", [SamplingParams(8), SamplingParams(5, temperature=0), SamplingParams(8, top_k=3)])
def test_both_ways_to_sample_give_the_same_completions(family, params):
    population = random_population(tiny_base(family), 3)
    ids = [population.base.encode(prompt) for prompt in RAGGED]
    ours, theirs = both(population, ids, params, [4, 5, 6])
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.mask, theirs.mask)
    assert torch.allclose(ours.logprobs, theirs.logprobs, atol=2e-5)


def test_the_reference_policy_too():
    population = random_population(tiny_base(), 2)
    ids = [population.base.encode(prompt) for prompt in RAGGED]
    ours, theirs = both(population, ids, SamplingParams(6), [9], policies=population.parameters[:0])
    assert torch.equal(ours.tokens, theirs.tokens)


def test_a_recurrent_model_is_sampled_by_generate_and_trained_in_plain_rows():
    """Mamba has no attention, no keys and no tree: everything that a population does by itself has to step aside."""
    from tiny_models import lora
    from transformers import MambaConfig, MambaForCausalLM

    from pareto_align.policies import PolicyPopulation, load_base
    from pareto_align.testing.tiny import symbol_tokenizer

    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=19, hidden_size=16, state_size=4, num_hidden_layers=2, pad_token_id=12, eos_token_id=14
    )
    base = load_base(MambaForCausalLM(config).eval(), tokenizer=symbol_tokenizer(12, 4))
    population = PolicyPopulation(base, 2, lora=lora(targets=["x_proj"]))
    population.parameters.normal_(0, 0.2)
    prompt = base.encode("<0>abc")
    with pytest.warns(ParetoAlignWarning, match=r"MambaForCausalLM cannot be decoded.*generate is used"):
        done = sample(population, [prompt], 2, SamplingParams(4), [1, 2])
    for k in range(2):
        length = int(done.lengths[k, 0, 1])
        said = done.tokens[k, 0, 1, :length]
        with population.serving(population.parameters[k : k + 1]), torch.no_grad():
            logits = base.model(torch.tensor([list(prompt) + said.tolist()]), use_cache=False).logits[0]
        expected = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(1, said[:, None])[:, 0]
        assert torch.allclose(done.logprobs[k, 0, 1, :length], expected, atol=1e-4)


def test_a_sequence_longer_than_the_window_goes_to_generate():
    population = random_population(tiny_base("mistral", sliding_window=6), 2)
    prompt = population.base.encode("<1>abc")
    done = sample(population, [prompt], 2, SamplingParams(5), [1, 2])
    assert population.drivable is None  # not asked: the window is the reason, not the model
    said = done.tokens[1, 0, 0, : int(done.lengths[1, 0, 0])]
    with population.serving(population.parameters[1:]), torch.no_grad():
        logits = population.base.model(torch.tensor([list(prompt) + said.tolist()]), use_cache=False).logits[0]
    expected = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(1, said[:, None])[:, 0]
    assert torch.allclose(done.logprobs[1, 0, 0, : len(said)], expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 5},
        {"bad_words_ids": [[5], [6]]},
        {"suppress_tokens": [0, 1, 2]},
        {"sequence_bias": [[[5], 100.0]]},
        {"guidance_scale": 2.0},
        {"repetition_penalty": 3.0, "temperature": 0.1, "top_k": 1, "do_sample": True},
        {"num_beams": 2},
        {"num_return_sequences": 2},
        {"stop_strings": ["a"]},
        {"max_time": 1e-9},
        {"forced_eos_token_id": 0},
        {"exponential_decay_length_penalty": (0, 9.0)},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=str,
)
def test_the_models_generation_config_has_no_say(settings):
    """Neither in what is drawn nor in the log-probabilities, which the learner takes for the policy's own."""
    population = random_population(tiny_base("mistral"), 2)
    prompts, params = [population.base.encode("<2>abcdefg")], SamplingParams(6)  # longer than the window
    plain = sample(population, prompts, 3, params, [1, 2])
    config = population.base.model.generation_config
    for name, value in settings.items():
        setattr(config, name, value)
    found = sample(population, prompts, 3, params, [1, 2])
    assert torch.equal(found.tokens, plain.tokens)
    assert torch.equal(found.logprobs, plain.logprobs)
    assert population.base.model.generation_config is config
