"""Log-probabilities and losses of completions: both layouts, and the fused head, against plain autograd."""

from __future__ import annotations

import pytest
import torch
from tiny_models import RAGGED, random_population, relative_error, tiny_base, tiny_model

from pareto_align.errors import ModelError
from pareto_align.learning import PolicyLoss
from pareto_align.policies import Base, SamplingParams, sample
from pareto_align.policies.layers.head import Head
from pareto_align.policies.logprobs import completion_logprobs, fused_loss, lay_out, predicting_states
from pareto_align.policies.sampling import fits_window

FAMILIES = ["llama", "qwen2", "qwen3", "gpt_neox", "phi", "granite", "cohere"]


def sampled(family, temperature=1.0, size=3, group=4, length=7):
    population = random_population(tiny_base(family), size)
    ids = [population.base.encode(prompt) for prompt in RAGGED]
    params = SamplingParams(length, temperature=temperature)
    return population, sample(population, ids, group, params, range(size))


def logprobs(population, done, packed, temperature=1.0, plain=False):
    with population.serving():
        return completion_logprobs(
            population, done.prompt_ids, done.tokens, done.mask, temperature=temperature, packed=packed, plain=plain
        )


@pytest.mark.parametrize("family", [*FAMILIES, "gemma2", "mistral"])
@pytest.mark.parametrize("plain", [True, False])
def test_dense_log_probabilities_are_the_samplers(family, plain):
    population, done = sampled(family, temperature=0.7)
    if not plain and not fits_window(population.base, 16):
        pytest.skip("longer than the window: only transformers' own masks know it")
    assert torch.allclose(logprobs(population, done, False, 0.7, plain), done.logprobs, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_log_probabilities_are_the_samplers(family):
    population, done = sampled(family)
    assert torch.allclose(logprobs(population, done, True), done.logprobs, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "mistral"])
def test_packed_rows_inside_a_sliding_window(family):
    population = random_population(tiny_base(family, sliding_window=32), 3)
    ids = [population.base.encode(prompt) for prompt in RAGGED]
    done = sample(population, ids, 4, SamplingParams(7), range(3))
    dense = logprobs(population, done, False, plain=True)
    assert torch.allclose(dense, done.logprobs, atol=2e-5)
    assert torch.allclose(logprobs(population, done, True), dense, atol=1e-5)


def test_a_model_with_an_attention_of_its_own_reads_packed_rows_by_a_mask():
    population, done = sampled("llama")
    expected = logprobs(population, done, True)
    population.attention.restore()
    assert not population.attention.in_place
    assert torch.allclose(logprobs(population, done, True), expected, atol=1e-5)


def test_a_model_whose_attention_cannot_be_set_is_read_by_its_own():
    population, done = sampled("falcon")
    assert not population.attention.in_place
    assert torch.allclose(logprobs(population, done, False), done.logprobs, atol=2e-5)


def gradient(population, done, *, packed, plain=False):
    population.grad.zero_()
    rows = lay_out(population, done.prompt_ids, done.tokens, done.mask, packed=packed)
    with (
        population.serving(training=True),
        predicting_states(population, rows, plain=plain) as hidden,
    ):
        total, _ = fused_loss(hidden, population.head, done.tokens[done.mask], lambda logprob, _: logprob)
        total.backward()
    return population.grad.clone()


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_dense_gradients_agree(family):
    population, done = sampled(family)
    plain = gradient(population, done, packed=False, plain=True)
    for found in (gradient(population, done, packed=True), gradient(population, done, packed=False)):
        for k in range(3):
            assert relative_error(found[k], plain[k]) < 1e-5


def test_small_chunks_change_nothing(monkeypatch):
    population, done = sampled("llama")
    expected = logprobs(population, done, True)
    monkeypatch.setattr(Head, "chunk", lambda self: 5)
    assert torch.allclose(logprobs(population, done, True), expected, atol=1e-6)


# ----------------------------------------------------------------------------------------------- fused loss


def plain_loss(hidden, head, targets, token_loss, temperature):
    """The same by autograd on the full logits."""
    logprob = (head.logits(hidden) / temperature).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return token_loss(logprob, slice(None)).sum(), logprob


GENERATOR = torch.Generator().manual_seed(0)
COUNT = 23
HIDDEN = torch.randn(COUNT, 32, generator=GENERATOR)
TARGETS = torch.randint(0, 19, (COUNT,), generator=GENERATOR)
ADVANTAGE = torch.randn(COUNT, generator=GENERATOR)
OLD = -3 * torch.rand(COUNT, generator=GENERATOR)  # log-probabilities of an older policy: the clip is felt
REFERENCE = -3 * torch.rand(COUNT, generator=GENERATOR)

LOSSES = {
    "plain": lambda logprob, part: -ADVANTAGE[part] * logprob,
    "clipped": lambda logprob, part: PolicyLoss(clip=0.2).token_loss(logprob, OLD[part], ADVANTAGE[part], None),
    "k3": lambda logprob, part: PolicyLoss(kl_coef=0.5, kl="k3").token_loss(
        logprob, OLD[part], ADVANTAGE[part], REFERENCE[part]
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("family", ["llama", "phi", "gemma2", "granite", "cohere"])  # bias, softcap, both scales
@pytest.mark.parametrize("chunk", [1, 5, COUNT, 1000])
def test_the_fused_loss_is_plain_autograd(family, temperature, loss, chunk, monkeypatch):
    head = Head(tiny_base(family))
    monkeypatch.setattr(Head, "chunk", lambda self: chunk)
    head.module.requires_grad_(False)
    ours, theirs = (HIDDEN.clone().requires_grad_() for _ in range(2))
    total, logprobs = fused_loss(ours, head, TARGETS, LOSSES[loss], temperature=temperature)
    expected, plain = plain_loss(theirs, head, TARGETS, LOSSES[loss], temperature)
    (2 * total).backward()
    (2 * expected).backward()
    assert torch.allclose(total, expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(logprobs, plain, atol=1e-5)
    assert not logprobs.requires_grad
    assert theirs.grad.abs().max() > 0.01
    # where a token has nearly all the probability, 1 - p is a difference of rounded numbers in both
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=3e-6 * max(1.0, float(theirs.grad.abs().max())))


def test_the_head_reproduces_the_models_logits():
    ids = torch.arange(6)[None]
    for family in [*FAMILIES, "gemma2"]:
        base = tiny_base(family)
        hidden = Head(base).decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
        assert torch.allclose(Head(base).logits(hidden), base.model(ids).logits[0].float(), atol=1e-5)


def test_a_model_with_logits_of_its_own_is_refused():
    model = tiny_model()
    plain = type(model).forward

    class OwnLogits(type(model)):
        def forward(self, *args, **kwargs):
            out = plain(self, *args, **kwargs)
            out.logits = out.logits.flip(-1)
            return out

    model.__class__ = OwnLogits
    base = tiny_base()
    with pytest.raises(ModelError, match="OwnLogits computes its logits"):
        Head(Base(model, base.tokenizer, None, base.device, base.dtype, False))
