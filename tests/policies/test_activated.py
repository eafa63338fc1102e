"""Activated adapters: against stock PEFT's own, token for token, and what they let all policies share."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_models import (
    RAGGED,
    as_peft,
    lora,
    online_learner,
    peft_row,
    random_population,
    relative_error,
    tiny_base,
    tiny_model,
)

from pareto_align.errors import ConfigError, FrontFileError, ModelError, PromptError
from pareto_align.learning import PolicyLoss, PromptRow, roll_out
from pareto_align.objectives import Objective, ObjectiveSet, RewardScale
from pareto_align.policies import SamplingParams, activated_lora_config, sample
from pareto_align.policies.engine import Engine
from pareto_align.testing.tiny import symbol_tokenizer

T, G = 6, 4
TURN = [3, 7]  # "dh" begins the assistant's turn
FAMILIES = ["llama", "qwen2", "qwen3", "gpt_neox", "phi"]
RAGGED_TURNS = [f"{prompt}dh{rest}" for prompt, rest in zip(RAGGED, ("", "a", "bc"), strict=True)]
EQUAL_TURNS = ["<0>abdh", "<1>cadh"]


def activated(family="llama", size=3, **settings):
    return random_population(tiny_base(family), size, config=lora(alora_invocation_tokens=TURN, **settings))


def stock(population, k, folder, family="llama", **options):
    return as_peft(population, population.parameters[k], folder, tiny_model(family), **options)


def stock_logprobs(peft, population, prompt, tokens, temperature=1.0):
    """PEFT's own reading, told where the turn begins, since a completion may hold the same tokens again."""
    own = len(population.split(prompt)[1]) + len(tokens)
    logits = peft(torch.tensor([list(prompt) + tokens]), alora_offsets=[own]).logits[0, len(prompt) - 1 : -1]
    return (logits.float() / temperature).log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompts", [EQUAL_TURNS, RAGGED_TURNS, ["dh", "<1>abdh"], ["dha", "dh"]])
def test_samples_come_with_stock_pefts_log_probabilities(family, prompts, tmp_path):
    population = activated(family)
    ids = [population.base.encode(prompt)[1:] for prompt in prompts]  # without the token that begins a text
    done = sample(population, ids, G, SamplingParams(T, temperature=0.8), range(3))
    population.close()
    for k in range(3):
        peft = stock(population, k, tmp_path / str(k), family)
        for n, prompt in enumerate(ids):
            for g in range(G):
                length = int(done.lengths[k, n, g])
                with torch.no_grad():
                    expected = stock_logprobs(peft, population, prompt, done.tokens[k, n, g, :length].tolist(), 0.8)
                assert torch.allclose(done.logprobs[k, n, g, :length], expected, atol=2e-5)


def objectives():
    def share_of(letters):
        return lambda completions, **_: [sum(c in letters for c in text) / T for text in completions]

    return ObjectiveSet([Objective(w, share_of(w), bounds=(0, 1)) for w in ("abcdef", "efghij", "hijkla")])


def learning(population, prompts=RAGGED_TURNS, **settings):
    found = objectives()
    scale = RewardScale.measure(np.zeros((2, 3)), found)
    learner = online_learner(population, scale, found.axes, **settings)
    rows = [PromptRow(prompt, tuple(population.base.encode(prompt)), {}) for prompt in prompts]
    return learner, roll_out(Engine(population), found, rows, G, SamplingParams(T), range(population.size))


WEIGHTS = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [1.0, 0.0, 0.4]])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["packed", "dense"])
def test_the_gradient_is_stock_pefts(family, layout, tmp_path):
    population = activated(family)
    learner, rollouts = learning(population, layout=layout)
    learner.step(rollouts, WEIGHTS, 0.0)
    advantages = learner.credit.combine(learner.coefficients(rollouts), torch.from_numpy(WEIGHTS).float())
    done, grad = rollouts.completions, population.grad.clone()
    population.close()
    for k in range(3):
        peft = stock(population, k, tmp_path / str(k), family, is_trainable=True).eval()
        total = torch.zeros(())
        for n, row in enumerate(rollouts.prompts):
            for g in range(G):
                tokens = done.tokens[k, n, g, : int(done.lengths[k, n, g])].tolist()
                logprobs = stock_logprobs(peft, population, row.ids, tokens)
                total = total - logprobs.sum() * advantages[k, n, g] / (len(rollouts.prompts) * G * T)
        total.backward()
        assert relative_error(grad[k], peft_row(population, peft, grad=True)) < 1e-4


@pytest.mark.parametrize("layout", ["packed", "dense", "auto"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.4])
def test_one_pass_gives_every_objectives_gradient(layout, kl_coef):
    population = activated()
    learner, rollouts = learning(population, layout=layout, loss=PolicyLoss(kl_coef=kl_coef))
    found = learner.gradients(rollouts)
    plain, _ = learning(population, layout=layout)
    for i in range(3):
        one = np.zeros((3, 3))
        one[:, i] = 1
        plain.step(rollouts, one, 0.0)
        for k in range(3):
            assert relative_error(found.gradients[k, i], -population.grad[k]) < 1e-5
    learner.step(rollouts, WEIGHTS, 0.0)
    expected = population.grad.clone()
    learner.step(rollouts, WEIGHTS, 0.0, gradients=found)
    for k in range(3):
        assert relative_error(population.grad[k], expected[k]) < 1e-5


def test_what_stands_before_the_turn_is_read_once_for_all_policies(monkeypatch):
    population = activated(size=3)
    decoder, read = population.head.decoder, []
    forward = type(decoder).forward

    def counted(self, *args, **kwargs):
        read.append(tuple(kwargs["input_ids"].shape))
        return forward(self, *args, **kwargs)

    learner, rollouts = learning(population, EQUAL_TURNS, loss=PolicyLoss(kl_coef=0.1))  # checks itself once
    monkeypatch.setattr(type(decoder), "forward", counted)
    population.read = None
    ids = [list(row.ids) for row in rollouts.prompts]
    sample(population, ids, G, SamplingParams(2), range(3))
    assert read[:2] == [(2, 4), (6, 2)]  # two contexts of four tokens, then the turn of each policy
    del read[:]
    learner.step(rollouts, WEIGHTS, 1e-3)
    assert all(rows * tokens < 6 * (2 + G * T) + 1 for rows, tokens in read)  # the contexts are not read again
    assert (2, 4) not in read


def test_policies_of_an_activated_population_do_not_hear_each_other():
    population = activated()
    learner, rollouts = learning(population)
    rollouts.rewards[1:] = 0.0
    learner.step(rollouts, WEIGHTS, 0.0)
    assert torch.equal(population.grad[1:], torch.zeros_like(population.grad[1:]))
    assert population.grad[0].abs().max() > 0


def test_the_folder_is_a_stock_one_and_reads_back_equal(tmp_path):
    population = activated()
    population.save_adapter(population.parameters[1], tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["alora_invocation_tokens"] == TURN
    assert torch.equal(population.read_adapter(tmp_path), population.parameters[1])
    ordinary = random_population(tiny_base(), 1)
    with pytest.raises(FrontFileError, match=r"acts from the tokens \[3, 7\] on; this population's from the beginning"):
        ordinary.read_adapter(tmp_path)
    ordinary.save_adapter(ordinary.parameters[0], tmp_path)
    with pytest.raises(FrontFileError, match="acts from the tokens of the beginning"):
        population.read_adapter(tmp_path)


def test_the_last_place_counts_and_a_prompt_without_one_is_refused():
    population = activated()
    assert population.split([3, 7, 1, 3, 7, 5]) == ([3, 7, 1], [3, 7, 5])
    assert population.split([3, 7]) == ([], [3, 7])
    with pytest.raises(PromptError, match="Activated adapters act from 'dh' on, which does not stand in a prompt"):
        population.split([7, 3, 1])


def test_a_model_only_generate_can_sample_is_refused():
    population = activated()
    population.attention.restore()
    with pytest.warns(UserWarning, match="attention of its own"), pytest.raises(ModelError, match="alora_invocation"):
        sample(population, [population.base.encode("<0>dh")], 1, SamplingParams(2), [1, 2, 3])


def test_the_turn_is_found_in_the_chat_template():
    base = tiny_base()
    with pytest.raises(ConfigError, match="there is no chat template"):
        activated_lora_config(base)
    base.tokenizer = symbol_tokenizer(12, 4)
    base.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}dh{% endif %}"
    )
    assert activated_lora_config(base, lora(r=2)).alora_invocation_tokens == TURN
    assert activated_lora_config(base, lora(alora_invocation_tokens=[1])).alora_invocation_tokens == [1]
    base.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ConfigError, match="no beginning of the assistant's turn"):
        activated_lora_config(base)
