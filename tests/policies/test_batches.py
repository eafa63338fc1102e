"""How a step is divided into passes: by prompts, then by policies, then by completions, and always to the same sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretended_device import DEVICE, pretended
from tiny_models import (
    RAGGED,
    SYMBOLS,
    lora,
    online_learner,
    random_population,
    relative_error,
    symbol_tokenizer,
    tiny_base,
    tiny_model,
)

from pareto_align.errors import ParetoAlignWarning
from pareto_align.learning import PolicyLoss, PromptRow, Rollouts
from pareto_align.objectives import RewardScale
from pareto_align.policies import load_base
from pareto_align.policies.batches import Batch, Part, RowLayout
from pareto_align.policies.engine import Engine
from pareto_align.policies.sampling import Completions

K, G, T = 4, 6, 5
EXACT = 1e-7  # relative error in float64, where only the logits are rounded to float32


def completions(policies=K, prompts=3, group=G, whole=False):
    """Random ones of unequal lengths."""
    generator = torch.Generator().manual_seed(4)
    shape = (policies, prompts, group, T)
    lengths = torch.randint(1, T + 1, shape[:3], generator=generator)
    mask = torch.arange(T) < (torch.full_like(lengths, T) if whole else lengths)[..., None]
    tokens = torch.randint(0, SYMBOLS, shape, generator=generator)
    return tokens, mask, torch.randn(shape, generator=generator) * mask


def learning(population, **settings):
    rows = [PromptRow(prompt, tuple(population.base.encode(prompt)), {}) for prompt in RAGGED]
    tokens, mask, logprobs = completions(population.size)
    rewards = np.random.default_rng(0).random((*mask.shape[:3], 2))
    done = Completions([list(row.ids) for row in rows], tokens, mask, logprobs)
    scale = RewardScale(location=np.zeros(2), scale=np.ones(2), lower=np.zeros(2), upper=np.ones(2))
    learner = online_learner(population, scale, [0, 1], **{"loss": PolicyLoss(kl_coef=0.2), **settings})
    return learner, Rollouts(rows, done, [""] * mask[..., 0].numel(), rewards)


def parts_of(learner, rollouts):
    engine = learner.engine
    return engine.rows.micro_batches(engine.prepare(rollouts.prompt_ids, rollouts.completions))


def layout_of(tokens, *, divides=True, policies=K, lengths=(7,), packed=True):
    population = random_population(tiny_base(), policies)
    layout = RowLayout(population, "packed", tokens, 1.0)
    layout.divides_prompts = divides
    done = completions(policies, len(lengths), whole=True)
    prompts = [[1] * length for length in lengths]
    return layout, Batch(Completions(prompts, *done), prompts, None, packed, False)


def shape(part):
    return len(range(K)[part.policies]), part.prompts, len(range(G)[part.completions])


ROW = 7 + G * T  # tokens of one policy's packed row


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (2 * K * ROW, [(K, [0, 1], G)]),
        (K * ROW, [(K, [0], G), (K, [1], G)]),
        (K * ROW - 1, [(2, [0], G)] * 2 + [(2, [1], G)] * 2),
        (ROW, [(1, [0], G)] * K + [(1, [1], G)] * K),
        (ROW - 1, [(1, [0], G // 2)] * 2 * K + [(1, [1], G // 2)] * 2 * K),
        (7 + 2 * T, [(1, [0], 2)] * 3 * K + [(1, [1], 2)] * 3 * K),
        (1, [(1, [0], 1)] * G * K + [(1, [1], 1)] * G * K),
    ],
)
def test_prompts_are_parted_first_then_policies_then_completions(tokens, expected):
    layout, batch = layout_of(tokens, lengths=(7, 7))
    parts = layout.micro_batches(batch)
    assert [shape(part) for part in parts] == expected
    seen = torch.zeros(batch.done.mask.shape[:3])
    for part in parts:
        seen[part.index] += 1
    assert (seen == 1).all(), "every completion is in one part"


def test_separate_rows_are_counted_with_their_own_prompts():
    layout, batch = layout_of(3 * (7 + T), packed=False)
    assert [shape(part) for part in layout.micro_batches(batch)] == [(1, [0], 3)] * 2 * K


def test_a_cpu_keeps_a_prompts_policies_together():
    layout, batch = layout_of(1, divides=False)
    assert layout.micro_batches(batch) == [Part(slice(0, K), [0], slice(0, G))]
    assert not RowLayout(layout.population, "packed", 1, 1.0).divides_prompts
    layout.population.close()
    with pretended():
        base = load_base(tiny_model(), tokenizer=symbol_tokenizer(SYMBOLS, 4), device=DEVICE)
        assert RowLayout(random_population(base, 2), "packed", 1, 1.0).divides_prompts


@pytest.mark.parametrize("layout", ["packed", "dense"])
@pytest.mark.parametrize("tokens", [1, 40, 90])
def test_a_divided_prompt_gives_the_same_gradients(layout, tokens):
    found = {}
    for divides in (False, True):
        population = random_population(tiny_base(dtype=torch.float64), K)
        learner, rollouts = learning(
            population, layout=layout, micro_batch_tokens=tokens if divides else 10**6, updates=2
        )
        learner.engine.rows.divides_prompts = divides
        gradients = learner.gradients(rollouts, halves=True)
        report = learner.step(rollouts, np.ones((K, 2)), 1e-3)
        found[divides] = (
            gradients.gradients,
            torch.from_numpy(gradients.cross_gramians),
            population.grad,
            torch.from_numpy(report.kl),
        )
    for whole, divided in zip(found[False], found[True], strict=True):
        for k in range(K):
            assert relative_error(divided[k], whole[k]) < EXACT * 10


def limit_tokens(monkeypatch, most):
    """Let every pass over rows of more than `most` tokens run out of memory; returns the shapes of those that fit."""
    fitting, backward = [], Engine._backward

    def limited(self, batch, part, *args, **kwargs):
        seen = backward(self, batch, part, *args, **kwargs)  # its gradient has been added by then
        prompts, _, mask, _ = batch.part(part)
        if mask.shape[0] * sum(map(len, prompts)) + int(mask.sum()) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        fitting.append(part)
        return seen

    monkeypatch.setattr(Engine, "_backward", limited)
    return fitting


def largest(population, rollouts):
    """Tokens of the rows of the largest prompt, of all policies."""
    mask = rollouts.completions.mask.sum((0, 2, 3))
    return max(population.size * len(row.ids) + int(n) for row, n in zip(rollouts.prompts, mask, strict=True))


@pytest.mark.parametrize("share", [0.6, 0.2, 0.1])
def test_one_prompt_of_eight_policies_is_divided_instead_of_giving_up(monkeypatch, share):
    population = random_population(tiny_base(dtype=torch.float64), 8)
    learner, rollouts = learning(population)
    learner.step(rollouts, np.ones((8, 2)), 0.0)
    whole = population.grad.clone()
    fitting = limit_tokens(monkeypatch, int(largest(population, rollouts) * share))
    with pytest.warns(ParetoAlignWarning, match="Memory ran out"):
        learner.step(rollouts, np.ones((8, 2)), 0.0)
    assert relative_error(population.grad, whole) < EXACT
    assert any(len(range(8)[part.policies]) < 8 for part in fitting)
    assert (share < 1 / 8) == any(len(range(G)[part.completions]) < G for part in fitting[-3:])


def test_a_run_that_goes_on_with_the_kept_budget_divides_as_before(monkeypatch):
    population = random_population(tiny_base(), 8)
    learner, rollouts = learning(population)
    limit_tokens(monkeypatch, int(largest(population, rollouts) * 0.2))
    with pytest.warns(ParetoAlignWarning, match="Memory ran out"):
        learner.step(rollouts, np.ones((8, 2)), 0.0)
    again, _ = learning(population, micro_batch_tokens=learner.engine.rows.micro_batch_tokens)
    with pytest.warns(ParetoAlignWarning, match="Memory ran out"):
        again.step(rollouts, np.ones((8, 2)), 0.0)
    assert again.engine.rows.micro_batch_tokens == learner.engine.rows.micro_batch_tokens
    parts = [parts_of(one, rollouts) for one in (learner, again)]
    assert parts[0] == parts[1]


@pytest.mark.parametrize(("layout", "activated"), [("packed", False), ("packed", True), ("dense", False)])
def test_the_host_waits_for_the_device_at_most_once_a_pass(layout, activated):
    """A wait between two passes leaves a GPU idle while the next is prepared."""
    waits, passes = [], []
    with pretended() as device:
        base = load_base(tiny_model(), tokenizer=symbol_tokenizer(SYMBOLS, 4), device=DEVICE)
        population = random_population(base, 2, config=lora(alora_invocation_tokens=[13] if activated else None))
        for tokens in (10**6, 40):
            learner, rollouts = learning(population, layout=layout, micro_batch_tokens=tokens, loss=PolicyLoss())
            passes.append(len(parts_of(learner, rollouts)))
            before = device.waits
            learner.step(rollouts, np.ones((2, 2)), 1e-3)
            waits.append(device.waits - before)
    assert passes[1] > passes[0] + 3
    # none of ours; of rows without a mask transformers asks whether they hold several sequences
    each = 1 if layout == "dense" else 0
    assert waits[1] - waits[0] <= each * (passes[1] - passes[0])
    assert waits[0] <= 5
