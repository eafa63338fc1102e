"""The tiny model says only symbols, starts nearly uniform, and an adapter can make it say anything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from pareto_align.errors import ConfigError, ModelError
from pareto_align.testing import exact
from pareto_align.testing.problems import PROBLEMS, get_problem
from pareto_align.testing.tiny import LORA_TARGETS, symbol_strings, symbol_text, symbol_tokenizer, tiny_llama


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are tiny: threads only cost
    yield
    torch.set_num_threads(before)


def with_lora(model, seed=0):
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=list(LORA_TARGETS)))


# ------------------------------------------------------------------------------------------------ tokenizer


@pytest.mark.parametrize("symbols", [2, 6, 32, 60])
def test_text_and_ids_map_one_to_one(symbols):
    tokenizer = symbol_tokenizer(symbols, n_prompts=3)
    ids = list(range(symbols))
    text = "".join(symbol_text(v) for v in ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(text, add_special_tokens=False).input_ids == ids
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, *ids}) == symbols + 3
    assert len(tokenizer) == symbols + 6


def test_prompts_are_what_the_problem_says_they_are():
    problem = get_problem("contexts")
    tokenizer = problem.tokenizer()
    assert tokenizer(list(problem.prompts)).input_ids == problem.prompts_ids()
    assert tokenizer.chat_template is None
    padded = tokenizer(["<0>", "<1>ab"], padding=True)
    assert padded.input_ids[0][:2] == [tokenizer.pad_token_id] * 2
    assert padded.attention_mask[0] == [0, 0, 1, 1]


def test_a_foreign_character_is_an_error():
    with pytest.raises(Exception, match="UNK"):
        symbol_tokenizer(3)("abz")


# ---------------------------------------------------------------------------------------------------- model


def test_completions_have_exactly_t_symbols_with_the_frequencies_of_the_table():
    problem = get_problem("strings", V=3, T=3)
    model, tokenizer = problem.model(seed=1), problem.tokenizer()
    torch.manual_seed(0)
    count = 4000
    start = tokenizer([problem.prompts[1]] * count, return_tensors="pt")
    said = model.generate(**start, max_new_tokens=3, do_sample=True, top_k=0, pad_token_id=tokenizer.pad_token_id)
    texts = tokenizer.batch_decode(said[:, 2:])
    assert set(texts) <= set(problem.strings())
    p = exact.policy_table(problem, model)[1]
    seen = np.array([texts.count(s) for s in problem.strings()])
    assert ((seen - count * p) ** 2 / (count * p)).sum() < 57.0  # chi-squared, 26 degrees: 1 in 2000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_adapter_can_make_it_say_anything_but_symbols(dtype):
    model = with_lora(tiny_llama(12, 2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 3.0)
    model.to(dtype)
    with torch.no_grad():
        p = model(torch.randint(0, 17, (50, 6))).logits.float().softmax(dim=-1)
    assert torch.isfinite(p).all()
    assert (p[..., 12:] == 0).all()


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_reference_policy_is_nearly_uniform_but_not_quite(name):
    problem = get_problem(name)
    for seed in range(2):
        table = exact.policy_table(problem, problem.model(seed))
        entropy = -(table * np.log(table)).sum(axis=1) / np.log(table.shape[1])
        assert (entropy > 0.93).all()
        assert (entropy < 0.9999).all()
        assert table.min() * table.shape[1] > 0.02


def test_the_model_is_frozen_reproducible_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = tiny_llama(8, 2, seed=3)
    assert torch.equal(torch.rand(3), expected)
    second, other = tiny_llama(8, 2, seed=3), tiny_llama(8, 2, seed=4)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert not any(p.requires_grad for p in first.parameters())
    assert not first.training
    with pytest.raises(ConfigError, match="hidden_size"):
        tiny_llama(8, hidden_size=30)
    with pytest.raises(ConfigError, match="symbols"):
        tiny_llama(1)


# --------------------------------------------------------------------------------------------------- tables


def test_tables_agree_with_walking_through_each_string():
    problem = get_problem("strings", V=3, T=3)
    model = problem.model()
    ids = [*problem.prompts_ids(), [4, 6, 0, 7]]  # a prompt of another length
    table = exact.string_probabilities(model, ids, 3, 3)
    assert table.sum(axis=1) == pytest.approx(np.ones(3))
    for prompt, row in zip(ids, table, strict=True):
        for index, string in enumerate(itertools.product(range(3), repeat=3)):
            p, said = 1.0, list(prompt)
            for symbol in string:
                with torch.no_grad():
                    p *= model(torch.tensor([said])).logits[0, -1].softmax(dim=-1)[symbol].item()
                said.append(symbol)
            assert row[index] == pytest.approx(p, rel=1e-4)
    assert table == pytest.approx(exact.string_probabilities(model, ids, 3, 3, rows=4), rel=1e-5)
    assert symbol_strings(3, 3).tolist() == [list(s) for s in itertools.product(range(3), repeat=3)]


def test_tables_of_a_plain_function():
    logits = torch.tensor([0.0, np.log(3.0)])
    table = exact.string_probabilities(lambda ids: logits.expand(*ids.shape, 2), [[0]], 2, 2)
    assert table == pytest.approx(np.array([[1, 3, 3, 9]]) / 16)


def test_probability_outside_the_symbols_is_refused():
    with pytest.raises(ModelError, match=r"0\.5 of its probability"):
        exact.string_probabilities(lambda ids: torch.zeros(*ids.shape, 4), [[0]], 2, 1)


def test_policy_table_switches_dropout_off_and_back_on():
    problem = get_problem("arc")
    config = LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False)
    model = get_peft_model(problem.model(), config).train()
    assert np.array_equal(exact.policy_table(problem, model), exact.policy_table(problem, model))
    assert model.training


# ------------------------------------------------------------------------------------------------- capacity


def missed_after_training(name, weights, beta, steps, *, lr=0.01):
    """Missed share of a rank 8 adapter after exact gradient ascent on the enumerated objective."""
    problem = get_problem(name)
    base = problem.model()
    reference = exact.policy_table(problem, base)
    model = with_lora(base)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    utility, log_reference = torch.tensor(problem.rewards @ np.array(weights)), torch.tensor(np.log(reference))
    for _ in range(steps):
        log_p = exact.string_log_probabilities(model, problem.prompts_ids(), problem.V, problem.T)
        loss = -(log_p.exp() * (utility - beta * (log_p - log_reference))).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return exact.missed_share(exact.policy_table(problem, model), reference, problem.rewards, weights, beta)


@pytest.mark.parametrize(
    ("name", "weights", "beta", "steps", "limit"),
    [
        ("arc", (0.5, 0.5), 0.05, 150, 0.002),
        ("arc", (0.95, 0.05), 0.01, 150, 0.02),  # sharp: one symbol among close neighbours
        ("contexts", (0.5, 0.5), 0.05, 100, 0.01),  # another answer for each prompt and place
        ("strings", (0.2, 0.6, 0.2), 0.05, 60, 0.03),  # the string so far must be remembered
        ("many", (0.2, 0.2, 0.2, 0.2, 0.2), 0.02, 100, 0.01),
    ],
)
def test_a_rank_8_adapter_can_become_the_optimal_policy(name, weights, beta, steps, limit):
    assert missed_after_training(name, weights, beta, steps) < limit
