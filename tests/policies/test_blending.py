"""One answer from several adapters: against enumerated mixtures, their error, and stock PEFT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aligner_runs import lora

from pareto_align.errors import ConfigError
from pareto_align.policies import PolicyPopulation, SamplingParams, load_base, sample
from pareto_align.policies.blending import mixed_logits, sample_blend
from pareto_align.testing.exact import policy_table
from pareto_align.testing.problems import get_problem

PROBLEM = get_problem("contexts", hidden_size=16)
COEFFICIENTS = [0.6, 0.4]


@pytest.fixture(scope="module")
def population():
    made = PolicyPopulation(load_base(PROBLEM.model(), tokenizer=PROBLEM.tokenizer()), 1, lora=lora(r=4))
    yield made
    made.close()


@pytest.fixture(scope="module")
def adapters(population):
    """Three policies that differ a good deal."""
    return 0.5 * torch.randn(3, population.parameter_count, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tables(population, adapters):
    """Log-probabilities [3, N, V**T] of what each policy says."""
    found = []
    for row in adapters:
        with population.serving(row[None]):
            found.append(policy_table(PROBLEM, population.base.model))
    return np.log(np.maximum(found, 1e-300))


def conditionals(table, problem=PROBLEM):
    """Log-probabilities [V**t, V] of each next symbol, from those [V**T] of strings."""
    left = table.reshape((problem.V,) * problem.T)
    found = []
    for _ in range(problem.T):
        shorter = np.logaddexp.reduce(left, axis=-1)
        found.append((left - shorter[..., None]).reshape(-1, problem.V))
        left = shorter
    return found[::-1]


def enumerated(tables, coefficients, problem=PROBLEM):
    """Token-wise and exact mixtures [N, V**T], logs, and the disagreement S [N, V**T]."""
    token, disagreement = [], []
    for x in range(tables.shape[1]):
        parts = [conditionals(table[x], problem) for table in tables]
        logp, s = np.zeros(1), np.zeros(1)
        for t in range(problem.T):
            raw = sum(c * part[t] for c, part in zip(coefficients, parts, strict=True))
            z = np.logaddexp.reduce(raw, axis=1)
            logp = (logp[:, None] + raw - z[:, None]).ravel()
            s = np.repeat(s - z, problem.V)
        token.append(logp)
        disagreement.append(s)
    exact = np.tensordot(coefficients, tables, 1)
    exact -= np.logaddexp.reduce(exact, axis=1, keepdims=True)
    return np.array(token), exact, np.array(disagreement)


def prompts(population):
    return [population.base.encode(prompt) for prompt in PROBLEM.prompts]


def strings(completions):
    """Numbers [N, G] of the strings drawn."""
    tokens = completions.tokens[0].numpy()
    return tokens @ PROBLEM.V ** np.arange(PROBLEM.T - 1, -1, -1)


def test_gold_values_of_one_token():
    logits = torch.tensor([[0.7, 0.3], [0.2, 0.8]]).log()
    mixed, normaliser = mixed_logits(logits, [0.5, 0.5])
    np.testing.assert_allclose(mixed.exp(), [[0.433030, 0.566970]], atol=1e-6)
    np.testing.assert_allclose(normaliser, [np.log(np.sqrt(0.14) + np.sqrt(0.24))], atol=1e-6)
    hidden, _ = mixed_logits(torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]), [0.5, 0.5])
    assert torch.isfinite(hidden).all()


def test_it_says_what_the_enumerated_mixture_says(population, adapters, tables):
    group = 3000
    found = sample_blend(
        population, adapters[:2], COEFFICIENTS, prompts(population), group, SamplingParams(PROBLEM.T), 3
    )
    token, exact, disagreement = enumerated(tables[:2], COEFFICIENTS)
    drawn = strings(found.completions)
    shares = np.stack([np.bincount(row, minlength=token.shape[1]) / group for row in drawn])
    rng = np.random.default_rng(0)
    truth = np.exp(token) / np.exp(token).sum(1, keepdims=True)
    floor = np.mean([np.abs(rng.multinomial(group, p) / group - p).sum() / 2 for p in truth])
    assert np.abs(shares - truth).sum(1).mean() / 2 <= floor + 0.01
    # the log-probability and the disagreement of each answer are those of the enumeration
    at = np.arange(len(drawn))[:, None], drawn
    np.testing.assert_allclose(found.disagreement, disagreement[at], atol=1e-4)
    np.testing.assert_allclose(found.completions.logprobs[0].sum(-1), token[at], atol=1e-4)
    kl = (truth * (token - exact)).sum(1).mean()
    assert kl > 0.01
    assert found.kl == pytest.approx(kl, rel=0.05)
    kept = np.exp(np.logaddexp.reduce(np.tensordot(COEFFICIENTS, tables[:2], 1), axis=1)).mean()
    assert found.acceptance == pytest.approx(kept, rel=0.05)


def test_a_policy_alone_says_what_it_says(population, adapters):
    params = SamplingParams(PROBLEM.T)
    alone = sample(population, prompts(population), 5, params, [7], policies=adapters[1:2])
    blend = sample_blend(population, adapters, [0, 1, 0], prompts(population), 5, params, 7)
    assert torch.equal(alone.tokens, blend.completions.tokens)
    torch.testing.assert_close(alone.logprobs, blend.completions.logprobs, atol=1e-5, rtol=0)
    assert float(blend.disagreement.max()) < 1e-4


def test_equal_policies_disagree_in_nothing(population, adapters):
    twice = adapters[[1, 1]]
    blend = sample_blend(population, twice, [0.3, 0.7], prompts(population), 4, SamplingParams(PROBLEM.T), 7)
    alone = sample(population, prompts(population), 4, SamplingParams(PROBLEM.T), [7], policies=adapters[1:2])
    assert torch.equal(alone.tokens, blend.completions.tokens)
    assert float(blend.disagreement.max()) < 1e-4
    assert blend.acceptance == pytest.approx(1, abs=1e-4)


def test_greedy_is_the_likeliest_token_of_the_mixture(population, adapters, tables):
    greedy = SamplingParams(PROBLEM.T, temperature=0)
    found = sample_blend(population, adapters[:2], COEFFICIENTS, prompts(population), 1, greedy, 0)
    for x, (first, *_) in enumerate(found.completions.tokens[0, :, 0].tolist()):
        raw = sum(c * conditionals(table[x])[0][0] for c, table in zip(COEFFICIENTS, tables[:2], strict=True))
        assert first == raw.argmax()


def test_completions_that_end_leave_together(population, adapters, monkeypatch):
    """With stop tokens, which the tiny model says often, in our decoding and in that of transformers."""
    monkeypatch.setattr(type(population.base), "stop_ids", property(lambda base: (0, 1)))
    params = SamplingParams(8)
    ours = sample_blend(population, adapters, [0.2, 0.3, 0.5], prompts(population), 6, params, 5)
    monkeypatch.setattr(population, "drivable", False)
    theirs = sample_blend(population, adapters, [0.2, 0.3, 0.5], prompts(population), 6, params, 5)
    assert len(set(ours.completions.lengths.flatten().tolist())) > 2
    assert torch.equal(ours.completions.tokens, theirs.completions.tokens)
    torch.testing.assert_close(ours.disagreement, theirs.disagreement, atol=1e-4, rtol=0)


def test_coefficients_beyond_the_simplex_have_no_exact_mixture(population, adapters):
    found = sample_blend(population, adapters[:2], [1.5, -0.5], prompts(population), 2, SamplingParams(PROBLEM.T), 0)
    assert torch.isnan(found.disagreement).all()
    with pytest.raises(ConfigError, match=r"as many finite coefficients, not all 0\. Found \[0\.0, 0\.0\]"):
        sample_blend(population, adapters[:2], [0, 0], prompts(population), 2, SamplingParams(PROBLEM.T), 0)


@pytest.mark.parametrize("problem", ["contexts", "strings"])
def test_the_exact_mixture_of_the_best_policies_is_the_best_between(problem):
    """On tables, without a model: under one price of KL to one reference the closed form is exact."""
    from pareto_align.testing.exact import best_value, optimal_policy, policy_value

    known = get_problem(problem)
    rng = np.random.default_rng(0)
    reference = rng.dirichlet(np.ones(known.rewards.shape[1]), size=len(known.rewards))
    beta = 0.1
    corners = np.log([optimal_policy(reference, known.rewards, w, beta) for w in np.eye(known.m)])
    for w in rng.dirichlet(np.ones(known.m), size=5):
        raw = np.tensordot(w, corners, 1)
        normaliser = np.logaddexp.reduce(raw, axis=1)
        exact = np.exp(raw - normaliser[:, None])
        np.testing.assert_allclose(exact, optimal_policy(reference, known.rewards, w, beta), atol=1e-9)
        own = [
            policy_value(np.exp(corner), reference, known.rewards, e, beta)
            for corner, e in zip(corners, np.eye(known.m), strict=True)
        ]
        value = w @ own + beta * normaliser.mean()
        assert value == pytest.approx(best_value(reference, known.rewards, w, beta))


def test_on_every_device_one_alone_is_itself_and_two_agree_in_length(place):
    population = PolicyPopulation(place.base(), 2, lora=lora())
    rows = 0.05 * torch.randn(2, population.parameter_count, generator=torch.Generator().manual_seed(0))
    population.parameters.copy_(rows)
    population.sampler = "eager"
    asked = [[10, 3, 4, 5], [10, 6]]
    params = SamplingParams(5)
    alone = sample(population, asked, 3, params, [7], policies=population.parameters[1:])
    blend = sample_blend(population, population.parameters, [0, 1], asked, 3, params, 7)
    if place.exact:
        assert torch.equal(alone.tokens, blend.completions.tokens)
    both = sample_blend(population, population.parameters, [0.5, 0.5], asked, 3, params, 7)
    assert both.completions.tokens.shape == (1, 2, 3, 5)
    assert (both.disagreement >= 0).all()
    assert both.disagreement.max() > 0
    population.close()


@pytest.mark.parametrize("name", ["contexts", "strings"])
def test_the_distance_in_nats_ranks_mixtures_as_the_true_distance_does(tables, name):
    """What the answers' own S says, against the total variation that only an enumeration knows.

    Of policies as they come, and of the best ones where the reward is of the whole string.
    """
    from scipy.stats import spearmanr

    from pareto_align.testing.exact import optimal_policy

    known, experts = PROBLEM, tables
    if name == "strings":
        known = get_problem(name)
        reference = np.full(known.rewards.shape[:2], 1 / known.rewards.shape[1])
        experts = np.log([optimal_policy(reference, known.rewards, w, 0.1) for w in np.eye(known.m)])
    told, truth = [], []
    for w in np.random.default_rng(0).dirichlet(np.ones(len(experts)), size=20):
        token, exact, disagreement = enumerated(experts, w, known)
        said = np.exp(token)
        kept = np.log((said * np.exp(-disagreement)).sum(1))
        told.append(((said * disagreement).sum(1) + kept).mean())
        truth.append(np.abs(said - np.exp(exact)).sum(1).mean() / 2)
    assert min(told) > 0
    assert spearmanr(told, truth).statistic > 0.8
