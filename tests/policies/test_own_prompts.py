"""Policies that are asked prompts of their own: each says, reads and learns what it would alone."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_population, tiny_base

from pareto_align.policies import SamplingParams
from pareto_align.policies.engine import Engine

K, G, T = 3, 2, 4
ASKED = [["<0>", "<1>abc"], ["<0>ab", "<1>"], ["<0>abcdefg", "<1>c"]]
"""Two prompts a policy, of other lengths."""


def alone(engine, ids, k, seed):
    """What policy k says to its prompts when it is the only one, and what it makes of that."""
    population = engine.population
    with population.holding(population.parameters[k : k + 1], population.grad[k : k + 1]):
        done = engine.sample(ids, G, SamplingParams(T), [seed])
        batch = engine.prepare(ids, done)
        slopes = torch.arange(2.0 * G).view(1, 2, G, 1) + 1
        found, _ = engine.ascend(batch, slopes, batch.done.mask.float())
        return done.tokens, engine.logprobs(batch), engine.reference_logprobs(batch), found[0, :, 0]


# a window of 6 tokens is left to `generate`, policy by policy, and to dense rows
@pytest.mark.parametrize(("architecture", "layout"), [("llama", "packed"), ("llama", "dense"), ("mistral", "auto")])
@pytest.mark.filterwarnings("ignore::pareto_align.ParetoAlignWarning")
def test_every_policy_is_as_it_is_alone(architecture, layout):
    population = random_population(tiny_base(architecture), K)
    engine = Engine(population, layout=layout, micro_batch_tokens=64)
    ids = [[population.base.encode(text) for text in own] for own in ASKED]
    expected = [alone(engine, ids[k], k, seed=k) for k in range(K)]

    together = [row for own in ids for row in own]
    done = engine.sample(together, G, SamplingParams(T), range(K), own=True)
    batch = engine.prepare(together, done)
    slopes = (torch.arange(2.0 * G).view(1, 2, G, 1) + 1).expand(K, -1, -1, -1)
    found, _ = engine.ascend(batch, slopes, batch.done.mask.float())
    tokens, logprobs, reference, gradients = (torch.cat(parts) for parts in zip(*expected, strict=True))
    assert done.prompt_ids == together
    assert torch.equal(done.tokens, tokens)
    torch.testing.assert_close(done.logprobs, logprobs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(engine.logprobs(batch), logprobs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(engine.reference_logprobs(batch), reference, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0, :, 0], gradients, rtol=1e-3, atol=1e-4)
    population.close()
