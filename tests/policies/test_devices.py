"""The engine's main promises on every device and in every type at hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aligner_runs import fit
from pretended_device import DEVICE, pretended
from tiny_models import (
    RAGGED,
    SYMBOLS,
    as_peft,
    lora,
    online_learner,
    peft_row,
    random_population,
    relative_error,
    tiny_base,
    tiny_model,
)

from pareto_align.learning import PolicyLoss, PromptRow, Rollouts
from pareto_align.objectives import RewardScale
from pareto_align.policies import SamplingParams, load_base, sample
from pareto_align.policies.decoding import ACCELERATOR_LOOKS
from pareto_align.policies.drawing import draw_tokens
from pareto_align.policies.layers.attention import attend
from pareto_align.policies.layers.caching import SharedPrompt
from pareto_align.policies.logprobs import completion_logprobs
from pareto_align.policies.sampling import Completions, _length_buckets
from pareto_align.testing.tiny import symbol_tokenizer

FAMILIES = ["llama", "gemma2"]
IDS = torch.randint(0, 12, (3, 2, 9), generator=torch.Generator().manual_seed(1))  # [K, rows, L]
K, G, T = 3, 4, 7


def population_at(place, family="llama", size=K, **settings):
    return random_population(place.base(family), size, config=lora(**settings))


def home(x):
    return x.detach().to("cpu", torch.float32, copy=True)


# ------------------------------------------------------------------------------------------------ the adapters


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_stock_pefts(place, family, tmp_path):
    population = population_at(place, family)
    with population.serving(), torch.no_grad():
        ours = home(population.base.model(IDS.flatten(0, 1).to(place.device)).logits).unflatten(0, (K, 2))
    for k in range(K):
        peft = as_peft(population, population.parameters[k], tmp_path / str(k), tiny_model(family)).eval()
        with torch.no_grad():
            assert relative_error(ours[k], peft(IDS[k]).logits) < place.logits


@pytest.mark.filterwarnings("ignore:Gemma2.* does not read packed rows")
@pytest.mark.parametrize(("family", "size"), [("llama", 1.0), ("llama", 1e-9), ("gemma2", 1e-9)])
def test_gradients_are_stock_pefts_however_small(place, family, size, tmp_path):
    """Half precision ends at 6e-8: what a long batch divides its loss by must not push the gradient below that."""
    population = population_at(place, family)
    learner, rollouts = learning(population, place, scale=size)
    learner.step(rollouts, np.ones((K, 2)), 0.0)
    done, grad = rollouts.completions, home(population.grad)
    advantages = learner.credit.combine(learner.coefficients(rollouts), torch.ones(K, 2))
    for k in range(K):
        peft = as_peft(
            population, population.parameters[k], tmp_path / str(k), tiny_model(family), is_trainable=True
        ).eval()
        total = torch.zeros(())
        for n, row in enumerate(rollouts.prompts):
            for g in range(G):
                tokens = done.tokens[k, n, g, : int(done.lengths[k, n, g])].tolist()
                logits = peft(torch.tensor([[*row.ids, *tokens]])).logits[0, len(row.ids) - 1 : -1]
                said = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])
                total = total - said.sum() * advantages[k, n, g] / size / (len(rollouts.prompts) * G * T)
        total.backward()
        assert relative_error(grad[k] / size, peft_row(population, peft, grad=True)) < place.gradients


def test_nothing_leaks_between_policies(place):
    population = population_at(place)
    learner, rollouts = learning(population, place)
    rollouts.rewards[[0, 2]] = 0.0
    learner.step(rollouts, np.ones((K, 2)), 0.0)
    grad = home(population.grad)
    assert grad[1].abs().max() > 0
    assert (grad[[0, 2]] == 0).all()


# ------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_come_with_the_log_probabilities_of_a_plain_forward(place, family):
    population = population_at(place, family)
    prompts = [population.base.encode(prompt) for prompt in RAGGED]
    done = sample(population, prompts, G, SamplingParams(T), range(K))
    with population.serving():
        again = home(completion_logprobs(population, prompts, done.tokens, done.mask, plain=True))
    error = (again - done.logprobs)[done.mask]
    assert error.abs().mean() < (1e-5 if place.exact else 20 * place.logits)
    assert population.drivable or family == "gemma2"  # whose window is shorter than these texts


def test_a_policy_says_alone_what_it_says_among_eight(place):
    population = population_at(place, size=8)
    prompts = [population.base.encode(prompt) for prompt in RAGGED]
    together = sample(population, prompts, G, SamplingParams(T), range(8))
    alone = sample(population, prompts, G, SamplingParams(T), [5], policies=population.parameters[5:6])
    if place.exact:
        assert torch.equal(alone.tokens[0], together.tokens[5])
        assert torch.allclose(alone.logprobs[0], together.logprobs[5], atol=1e-5)
    else:  # rounding may tip a draw over, and what follows it
        assert (alone.tokens[0] == together.tokens[5]).float().mean() > 0.8


def test_top_k_and_top_p_and_the_likeliest_token(place):
    population = population_at(place)
    prompts = [population.base.encode(prompt) for prompt in RAGGED]
    for params in (SamplingParams(T, top_k=3, top_p=0.9, temperature=0.7), SamplingParams(T, temperature=0)):
        done = sample(population, prompts, G, params, range(K))
        assert torch.isfinite(done.logprobs).all()
    assert torch.equal(done.tokens[:, :, 0], done.tokens[:, :, 1])


def test_models_left_to_generate_are_sampled_on_their_device(place):
    population = population_at(place)
    prompts = [population.base.encode(prompt) for prompt in RAGGED]
    ours = sample(population, prompts, G, SamplingParams(T), range(K))
    population.drivable = False
    theirs = sample(population, prompts, G, SamplingParams(T), range(K))
    assert (ours.tokens == theirs.tokens).float().mean() > (0.999 if place.exact else 0.8)


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_products_beyond_half_precision_are_scaled_before_they_are_formed(softcap):
    """Sixty-four times 40 x 40 is over 65504: the keys are equal, so what comes out is the mean of the values."""
    query, key = (torch.full((1, 1, length, 64), 40.0, dtype=torch.float16) for length in (1, 4))
    value = torch.randn(1, 1, 4, 64).half()
    prefix = SharedPrompt([key[:, :, :3]], [value[:, :, :3]], torch.tensor([3]), torch.tensor([0]))
    found = prefix.attend(0, query, key[:, :, 3:], value[:, :, 3:], None, softcap)
    assert torch.allclose(found[0, 0, 0], value[0, 0].mean(0), atol=2e-3)
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert torch.allclose(attend(query, key, value, mask, None, 50.0)[0, 0, 0], value[0, 0].mean(0), atol=2e-3)


# ------------------------------------------------------------------------------------------------ training


def learning(population, place, *, scale=1.0, loss=None, **settings):
    """A learner and what it learns from: random completions of unequal lengths under random rewards."""
    generator = torch.Generator().manual_seed(4)
    rows = [PromptRow(prompt, tuple(population.base.encode(prompt)), {}) for prompt in RAGGED]
    shape = (population.size, len(rows), G, T)
    lengths = torch.randint(1, T + 1, shape[:3], generator=generator)
    mask = torch.arange(T) < lengths[..., None]
    tokens = torch.randint(0, 12, shape, generator=generator).masked_fill(~mask, population.base.tokenizer.pad_token_id)
    prompts = [list(row.ids) for row in rows]
    with population.serving():
        logprobs = home(completion_logprobs(population, prompts, tokens, mask))
    rewards = np.random.default_rng(0).random((*shape[:3], 2)) * scale
    zero, one = np.zeros(2), np.ones(2)
    frame = RewardScale(location=zero, scale=one, lower=zero, upper=one)
    learner = online_learner(population, frame, [0, 1], loss=loss, **{"max_norm": None, **settings})
    return learner, Rollouts(rows, Completions(prompts, tokens, mask, logprobs), [""] * mask[..., 0].numel(), rewards)


@pytest.mark.parametrize("activated", [False, True])
def test_packed_and_dense_rows_are_the_same_step(place, activated):
    settings = {"alora_invocation_tokens": [13]} if activated else {}  # the token that begins every text
    found = {}
    for layout in ("packed", "dense"):
        population = population_at(place, **settings)
        learner, rollouts = learning(population, place, loss=PolicyLoss(kl_coef=0.2), layout=layout)
        report = learner.step(rollouts, np.array([[0.3, 0.7]] * K), 1e-3)
        assert np.isfinite(report.grad_norm).all()
        assert np.isfinite(report.kl).all()
        found[layout] = home(population.grad)
    assert relative_error(found["packed"], found["dense"]) < (1e-5 if place.exact else 2 * place.gradients)


@pytest.mark.parametrize("layout", ["packed", "dense", "auto"])
def test_one_pass_gives_every_objectives_gradient(place, layout):
    population = population_at(place)
    learner, rollouts = learning(population, place, layout=layout, gradient_checkpointing=True, micro_batch_tokens=40)
    found = learner.gradients(rollouts)
    for i in range(2):
        learner.step(rollouts, np.eye(2)[[i] * K], 0.0)
        error = relative_error(home(found.gradients[:, i]), -home(population.grad))
        assert error < (1e-5 if place.exact else 2 * place.gradients)
    gramians = found.gramians
    assert gramians.shape == (K, 2, 2)
    assert gramians[0, 0, 0] == pytest.approx(float(home(found.gradients[0, 0]).square().sum()), rel=1e-5)
    learner.step(rollouts, np.ones((K, 2)), 0.0, gradients=found)
    assert relative_error(home(population.grad), -home(found.gradients.sum(1))) < 1e-5


def test_several_updates_a_rollout(place):
    population = population_at(place)
    before = home(population.parameters)
    learner, rollouts = learning(population, place, updates=3, loss=PolicyLoss(kl_coef=0.1, kl="k3"))
    report = learner.step(rollouts, np.ones((K, 2)), 1e-2)
    assert np.isfinite(report.grad_norm).all()
    assert ((home(population.parameters) - before).abs().amax(1) > 5e-3).all()


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.mark.parametrize("settings", [{}, {"weighting": "mgda", "kl_coef": 0.1}])
def test_a_fit_finds_a_front(place, settings, tmp_path):
    front, aligner = fit(tmp_path / "run", device=place.device, dtype=place.dtype, **settings)
    assert np.isfinite(front.values).all()
    assert np.isfinite(aligner.policies_.numpy()).all()
    assert aligner.policies_.abs().sum() > 0


# ------------------------------------------------------------------------------------------------ waiting


@pytest.mark.parametrize("activated", [False, True])
def test_the_host_waits_once_for_all_that_is_sampled(activated):
    """A GPU idles while the host waits for it: it is looked at in passing, and waited for at the end alone."""
    with pretended() as device:
        base = load_base(tiny_model(), tokenizer=symbol_tokenizer(SYMBOLS, 4), device=DEVICE)
        settings = {"alora_invocation_tokens": [13]} if activated else {}
        population = random_population(base, K, config=lora(**settings))
        prompts = [population.base.encode(prompt) for prompt in RAGGED]
        sample(population, prompts, G, SamplingParams(2), range(K))  # whatever is checked at first use
        before = device.waits
        done = sample(population, prompts, G, SamplingParams(40), range(K))
        assert device.waits - before == 1
    assert done.lengths.max() > 2 * ACCELERATOR_LOOKS, "rows have left the batch on the way"
    at_home = random_population(tiny_base(), K, config=lora(**settings))
    assert torch.equal(done.tokens, sample(at_home, prompts, G, SamplingParams(40), range(K)).tokens)


def test_prompts_are_read_in_one_pass_where_launching_it_costs_more():
    lengths = [100, 10, 90, 0, 12]
    assert _length_buckets(lengths, 1, launches_cost=True) == [[0, 1, 2, 4]]
    assert _length_buckets(lengths, 80, launches_cost=True) == [[0, 2], [1, 4]]
    assert _length_buckets([100, 60, 30], 80) == [[0], [1], [2]]
    assert _length_buckets([100, 60, 30], 80, launches_cost=True) == [[0, 1], [2]]


@pytest.mark.parametrize("size", [40, 256, 70_000])
def test_drawing_needs_no_sum_whose_order_is_left_open(size):
    generator = torch.Generator().manual_seed(size)
    logits, uniform = torch.randn(64, size, generator=generator) * 3, torch.rand(64, generator=generator)
    probabilities = logits.double().softmax(-1)
    plain = torch.searchsorted(probabilities.cumsum(-1), uniform.double()[:, None], right=True)[:, 0]
    torch.use_deterministic_algorithms(True)
    try:
        with pretended():
            token, _ = draw_tokens(logits.to(DEVICE), uniform.to(DEVICE), SamplingParams())
            nucleus, _ = draw_tokens(logits.to(DEVICE), uniform.to(DEVICE), SamplingParams(top_p=0.1))
            token, nucleus = token.cpu(), nucleus.cpu()
    finally:
        torch.use_deterministic_algorithms(False)
    assert (token != plain).float().mean() < 0.02
    assert (nucleus != token).any()


def test_what_has_no_probability_is_never_drawn_there():
    logits = torch.full((3, 700), -torch.inf)
    logits[:, [1, 300, 301]] = 0.0
    with pretended():
        edges = torch.tensor([0.0, 0.5, 1 - 2**-24]).to(DEVICE)
        token, logprob = draw_tokens(logits.to(DEVICE), edges, SamplingParams())
        assert token.tolist() == [1, 300, 301]
        assert torch.allclose(logprob.cpu(), torch.full((3,), -np.log(3.0), dtype=torch.float32))
