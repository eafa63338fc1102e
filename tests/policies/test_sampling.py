"""Decoding the whole population: right frequencies, right log-probabilities, nobody disturbs anybody."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import EOS, PAD, RAGGED, as_peft, lora, random_population, tiny_base, tiny_model

from pareto_align.policies import PolicyPopulation, SamplingParams, load_base, sample
from pareto_align.policies import sampling as sampling_module
from pareto_align.policies.drawing import draw_tokens
from pareto_align.policies.layers.packing import right_pad
from pareto_align.testing.tiny import symbol_tokenizer, tiny_llama

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "granite", "gpt_neox", "phi"]
SEEDS = [11, 22, 33]
EXACTLY = torch.float64  # batches of other shapes are summed in another order, which in float32 can tip a draw over


def ragged_ids(base):
    return [base.encode(prompt) for prompt in RAGGED]


def recomputed(model, prompt, tokens, temperature=1.0):
    """Log-probabilities of one completion by one plain forward without cache or padding."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_stock_peft(family, tmp_path):
    """Ragged prompts, an end token in every twentieth place or so, rows leaving the batch, sliding windows."""
    population = random_population(tiny_base(family), 3)
    prompts = ragged_ids(population.base)
    done = sample(population, prompts, 5, SamplingParams(12, temperature=0.8), SEEDS)
    lengths = done.lengths
    assert 1 <= lengths.min() < lengths.max() <= 12
    for k in range(3):
        peft = as_peft(population, population.parameters[k], tmp_path / str(k), tiny_model(family)).eval()
        for n, prompt in enumerate(prompts):
            for g in range(5):
                length = int(lengths[k, n, g])
                tokens = done.tokens[k, n, g, :length].tolist()
                expected = recomputed(peft, prompt, tokens, 0.8)
                assert torch.allclose(done.logprobs[k, n, g, :length], expected, atol=2e-5)


def test_what_comes_after_the_end_is_padding():
    population = random_population(tiny_base(), 3)
    done = sample(population, ragged_ids(population.base), 6, SamplingParams(12), SEEDS)
    position = torch.arange(12)
    assert torch.equal(done.mask, position < done.lengths[..., None])
    assert (done.tokens[~done.mask] == PAD).all()
    assert (done.logprobs[~done.mask] == 0).all()
    ends = (done.tokens == EOS) & done.mask
    assert (ends.sum(-1) <= 1).all()
    ended = done.lengths < 12
    assert ends.any(-1)[ended].all()
    last = done.tokens.gather(-1, done.lengths[..., None] - 1)[..., 0]
    assert (last[ended] == EOS).all()
    lists = done.token_lists()
    assert len(lists) == 3 * 3 * 6
    assert all(EOS not in tokens for tokens in lists)
    assert lists[0] == [t for t in done.tokens[0, 0, 0].tolist()[: int(done.lengths[0, 0, 0])] if t != EOS]


@pytest.mark.parametrize("compact_below", [0.0, 0.5, 1.0])
def test_rows_that_leave_the_batch_change_nothing(compact_below, monkeypatch):
    population = random_population(tiny_base(dtype=EXACTLY), 3)
    monkeypatch.setattr(sampling_module, "COMPACT_BELOW", 0.75)
    expected = sample(population, ragged_ids(population.base), 8, SamplingParams(16), SEEDS)
    monkeypatch.setattr(sampling_module, "COMPACT_BELOW", compact_below)  # 0: never, 1: at once
    found = sample(population, ragged_ids(population.base), 8, SamplingParams(16), SEEDS)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.allclose(found.logprobs, expected.logprobs, atol=1e-5)


def test_one_policy_alone_says_what_it_says_among_four():
    population = random_population(tiny_base("qwen3", dtype=EXACTLY), 4)
    prompts, seeds = ragged_ids(population.base), [1, 2, 3, 4]
    together = sample(population, prompts, 6, SamplingParams(12), seeds)
    for k in range(4):
        row = population.parameters[k : k + 1]
        alone = sample(population, prompts, 6, SamplingParams(12), seeds[k : k + 1], policies=row)
        assert torch.equal(alone.tokens[0], together.tokens[k])
        assert torch.equal(alone.mask[0], together.mask[k])
        assert torch.allclose(alone.logprobs[0], together.logprobs[k], atol=1e-5)


def test_the_seed_decides():
    population = random_population(tiny_base(), 2)
    prompts = ragged_ids(population.base)
    first, again, other = (sample(population, prompts, 4, SamplingParams(8), s) for s in ([1, 2], [1, 2], [3, 2]))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens[0], other.tokens[0])
    assert torch.equal(first.tokens[1], other.tokens[1])
    with pytest.raises(ValueError, match="3 seeds for 2 policies"):
        sample(population, prompts, 4, SamplingParams(8), SEEDS)


def test_no_rows_run_the_reference_policy():
    population = random_population(tiny_base(), 2)
    prompts = ragged_ids(population.base)
    done = sample(population, prompts, 4, SamplingParams(8), [5], policies=population.parameters[:0])
    assert done.tokens.shape == (1, 3, 4, 8)
    tokens = done.tokens[0, 1, 2, : int(done.lengths[0, 1, 2])].tolist()
    expected = recomputed(tiny_model(), prompts[1], tokens)
    assert torch.allclose(done.logprobs[0, 1, 2, : len(tokens)], expected, atol=2e-5)


def test_temperature_zero_takes_the_likeliest_token():
    population = random_population(tiny_base(), 2)
    prompt = population.base.encode("<1>ab")
    done = sample(population, [prompt], 2, SamplingParams(6, temperature=0), [1, 2])
    assert torch.equal(done.tokens[:, :, 0], done.tokens[:, :, 1])
    said = list(prompt)
    for token in done.tokens[1, 0, 0, : int(done.lengths[1, 0, 0])].tolist():
        with population.serving(population.parameters[1:]), torch.no_grad():
            assert token == population.base.model(torch.tensor([said])).logits[0, -1].argmax()
        said.append(token)


# ------------------------------------------------------------------------------------------------ frequencies


def first_token(population, count, **params):
    """Sampled first tokens and their log-probabilities, and the exact logits [V]."""
    prompt = population.base.encode("<0>ab")
    done = sample(population, [prompt], count, SamplingParams(1, **params), [9])
    with population.serving(), torch.no_grad():
        logits = population.base.model(torch.tensor([prompt])).logits[0, -1]
    return done.tokens.flatten(), done.logprobs.flatten(), logits


def chi_squared(tokens, probabilities):
    seen = np.bincount(tokens.numpy(), minlength=len(probabilities)).astype(float)
    expected = probabilities.double().numpy() * len(tokens)
    assert (seen[expected == 0] == 0).all()
    where = expected > 0
    return float(((seen - expected)[where] ** 2 / expected[where]).sum()), int(where.sum()) - 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_with_the_probabilities_of_the_softmax(temperature):
    from scipy.stats import chi2

    population = random_population(tiny_base(), 1)
    tokens, logprobs, logits = first_token(population, 4000, temperature=temperature)
    probabilities = (logits / temperature).softmax(-1)
    statistic, freedom = chi_squared(tokens, probabilities)
    assert statistic < chi2.ppf(0.999, freedom)
    assert torch.allclose(logprobs, probabilities.log()[tokens], atol=1e-5)


def test_top_k_keeps_the_likeliest_and_renormalises():
    from scipy.stats import chi2

    population = random_population(tiny_base(), 1)
    tokens, logprobs, logits = first_token(population, 4000, top_k=4)
    kept = logits.topk(4).indices
    assert set(tokens.tolist()) == set(kept.tolist())
    probabilities = torch.zeros_like(logits).index_copy(0, kept, logits[kept].softmax(-1))
    statistic, freedom = chi_squared(tokens, probabilities)
    assert statistic < chi2.ppf(0.999, freedom)
    assert torch.allclose(logprobs, probabilities.log()[tokens], atol=1e-5)


@pytest.mark.parametrize("top_p", [0.2, 0.7, 0.95, 1.0])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p):
    from scipy.stats import chi2

    population = random_population(tiny_base(), 1)
    tokens, logprobs, logits = first_token(population, 4000, top_p=top_p)
    ordered, order = logits.softmax(-1).sort(descending=True)
    size = int((ordered.cumsum(0) < top_p - 1e-6).sum()) + 1
    assert ordered[:size].sum() >= top_p - 1e-6
    assert size == 1 or ordered[: size - 1].sum() < top_p
    probabilities = torch.zeros_like(logits).index_copy(0, order[:size], ordered[:size] / ordered[:size].sum())
    statistic, freedom = chi_squared(tokens, probabilities)
    assert statistic < chi2.ppf(0.999, max(freedom, 1))
    assert torch.allclose(logprobs, probabilities.log()[tokens], atol=1e-5)


def test_tokens_of_no_probability_never_come():
    """The tiny Llama puts exactly nothing on tokens that are no symbols; also at the edge of the unit interval."""
    base = load_base(tiny_llama(5, 1), tokenizer=symbol_tokenizer(5, 1))
    population = PolicyPopulation(base, 1, lora=lora())
    done = sample(population, [base.encode("<0>")], 2000, SamplingParams(4), [3])
    assert done.tokens.max() < 5
    assert torch.isfinite(done.logprobs).all()
    logits = torch.full((2, 6), -1e4)
    logits[:, 1:3] = 0.0
    edges = torch.tensor([0.0, 1 - 2**-24])
    token, logprob = draw_tokens(logits, edges, SamplingParams())
    assert token.tolist() == [1, 2]
    assert torch.allclose(logprob, torch.full((2,), -np.log(2.0), dtype=torch.float32))


def test_a_model_without_an_end_token_runs_to_the_full_length():
    model = tiny_model()
    model.generation_config.eos_token_id = None
    tokenizer = symbol_tokenizer(12, 4)
    tokenizer.eos_token = None
    base = load_base(model, tokenizer=tokenizer)
    assert base.stop_ids == ()
    done = sample(random_population(base, 2), [base.encode("<0>")], 4, SamplingParams(10), [1, 2])
    assert (done.lengths == 10).all()


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_prompts_that_are_read_apart_are_read_the_same(family, monkeypatch):
    """Buckets of similar length are a matter of speed: one prompt at a time gives the same completions."""
    population = random_population(tiny_base(family, dtype=EXACTLY), 3)
    ids = [population.base.encode(prompt) for prompt in (*RAGGED, "<3>a")]
    together = sample(population, ids, 3, SamplingParams(5), [1, 2, 3])
    assert len(sampling_module._length_buckets([len(i) for i in ids], 3)) == 1
    monkeypatch.setattr(sampling_module, "PREFILL_TOKENS", 1)
    assert len(sampling_module._length_buckets([len(i) for i in ids], 3)) == 4
    apart = sample(population, ids, 3, SamplingParams(5), [1, 2, 3])
    assert torch.equal(apart.tokens, together.tokens)
    assert torch.allclose(apart.logprobs, together.logprobs, atol=1e-5)


def test_a_long_prompt_does_not_make_short_ones_wait():
    assert sampling_module._length_buckets([100, 10, 90, 0, 12], 1) == [
        [0, 2],
        [1, 4],
    ]  # nothing is read of the empty one


def test_right_pad():
    ids, mask = right_pad([[1, 2, 3], [4]], 9, torch.device("cpu"))
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("size", [40, 256, 257, 1000])
def test_drawing_by_blocks_is_drawing_from_one_cumulative_sum(size):
    """The reference is the plain inversion in float64; a difference in rounding may only move a token by one place."""
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(3000, size, generator=generator) * 3
    uniform = torch.rand(3000, generator=generator)
    token, logprob = draw_tokens(logits, uniform, SamplingParams())
    probabilities = logits.double().softmax(-1)
    plain = torch.searchsorted(probabilities.cumsum(-1), uniform.double()[:, None], right=True)[:, 0]
    assert (token != plain).float().mean() < 2e-3
    assert torch.allclose(logprob.double(), probabilities.gather(1, token[:, None])[:, 0].log(), atol=1e-5)
