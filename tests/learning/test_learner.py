"""One step of the population against plain implementations: PEFT, torch's AdamW, and exact enumeration."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig
from tiny_models import (
    RAGGED,
    as_peft,
    fresh_population,
    online_learner,
    peft_row,
    random_population,
    relative_error,
    tiny_base,
    tiny_model,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from pareto_align.errors import ConfigError, ModelError, ParetoAlignWarning, TrainingError
from pareto_align.learning import PolicyLoss, PromptRow, Rollouts, roll_out
from pareto_align.objectives import Objective, ObjectiveSet, RewardScale
from pareto_align.policies import SamplingParams, load_base
from pareto_align.policies.batches import checkpointing
from pareto_align.policies.engine import Engine
from pareto_align.policies.sampling import Completions
from pareto_align.testing import tables
from pareto_align.testing.tiny import symbol_tokenizer, tiny_llama

T, G, TEMPERATURE = 7, 5, 0.9
EXACT = 1e-7
"""Relative error in float64, where only the logits are rounded to float32, the same on both sides unless a difference
of 1e-16 tips one over. Found: at most 1e-13 for parameters that five of Adam's steps have moved, with oneDNN's and
MKL's kernels and torch's own for SSE4.1, AVX2 and AVX-512."""


def vowels(completions, **_):
    return [sum(c in "aeih" for c in text) / T for text in completions]


def brevity(completions, **_):
    return [3.0 * max(0.0, 1 - len(text) / T) for text in completions]


OBJECTIVES = ObjectiveSet([Objective("vowels", vowels, bounds=(0, 1)), Objective("brevity", brevity, bounds=(0, 3))])
SCALE = RewardScale.measure(np.zeros((2, 2)), OBJECTIVES)
WEIGHTS = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 1.3], [0.0, 1.0]])


def make_learner(population, loss=None, credit="centred", **settings):
    settings = {"temperature": TEMPERATURE, **settings}
    return online_learner(population, SCALE, OBJECTIVES.axes, credit=credit, loss=loss, **settings)


def rows_of(base, prompts=RAGGED):
    return [PromptRow(prompt, tuple(base.encode(prompt)), {}) for prompt in prompts]


def draw(population, seeds, policies=None):
    params = SamplingParams(T, temperature=TEMPERATURE)
    return roll_out(Engine(population), OBJECTIVES, rows_of(population.base), G, params, seeds, policies=policies)


def stepped(
    family="llama", loss=None, credit="centred", rate=1e-2, weights=WEIGHTS[:3], seed=0, dtype=torch.float32, **settings
):
    """A population of random policies after one step; also what it learned from and what it was."""
    population = random_population(tiny_base(family, dtype=dtype), len(weights), seed=seed)
    before = population.parameters.clone()
    rollouts = draw(population, range(len(weights)))
    report = make_learner(population, loss, credit, **settings).step(rollouts, weights, rate)
    return population, rollouts, before, report


# ------------------------------------------------------------------------------ against a plain implementation

HAND_WRITTEN = 1e-3
"""Relative error of a step in float64 where the softmax alone, in float32, is computed in two ways. Found: 2e-5."""
ROUNDING = 1e-5
"""Relative error of a gradient's norm in float32. Found: at most 2e-7 here, 1e-6 with kernels of other processors."""


def plain_logprobs(model, prompt, tokens):
    logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1].float() / TEMPERATURE
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]


def plain_steps(peft, rollouts, k, weights, *, updates=1, rate=1e-2, beta=0.0, clip=0.2):
    """REINFORCE (PPO from the second update on) by a loop over completions; aggregation is "constant"."""
    done = rollouts.completions
    rewards = torch.tensor(rollouts.rewards[k] / np.array([1.0, 3.0])).float()  # [N, G, m]
    advantages = ((rewards - rewards.mean(1, keepdim=True)) * torch.tensor(weights).float()).sum(-1)
    lengths = done.lengths[k]
    said = [[done.tokens[k, n, g, : lengths[n, g]].tolist() for g in range(G)] for n in range(len(rollouts.prompts))]
    old = [[plain_logprobs(peft, rollouts.prompts[n].ids, s).detach() for s in row] for n, row in enumerate(said)]
    if beta:
        with peft.disable_adapter(), torch.no_grad():
            ref = [[plain_logprobs(peft, rollouts.prompts[n].ids, s) for s in row] for n, row in enumerate(said)]
        spent = torch.tensor(
            [[float((old[n][g] - ref[n][g]).sum()) for g in range(G)] for n in range(len(rollouts.prompts))]
        )
        advantages = advantages - beta * (spent - spent.mean(1, keepdim=True))
    parameters = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    for _ in range(updates):
        loss = 0.0
        for n, row in enumerate(said):
            for g, tokens in enumerate(row):
                ratio = (plain_logprobs(peft, rollouts.prompts[n].ids, tokens) - old[n][g]).exp()
                a = advantages[n, g]
                loss = loss - torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a).sum()
        optimizer.zero_grad()
        (loss / (len(rollouts.prompts) * G * T)).backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return float(norm)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("phi", {}),
        ("gpt_neox", {"beta": 0.3}),
        ("qwen3", {"updates": 3, "rate": 0.05, "clip": 0.05}),
        ("llama", {"updates": 2, "beta": 0.1}),
    ],
)
def test_a_step_is_a_hand_written_one(family, settings, tmp_path):
    rate, updates, beta, clip = (
        settings.get(key, default) for key, default in (("rate", 1e-2), ("updates", 1), ("beta", 0.0), ("clip", 0.2))
    )
    loss = PolicyLoss(clip=clip, kl_coef=beta)
    population, rollouts, before, report = stepped(family, loss, rate=rate, updates=updates, dtype=torch.float64)
    for k in range(3):
        model = tiny_model(family).double()
        peft = as_peft(population, before[k], tmp_path / str(k), model, is_trainable=True).eval()
        norm = plain_steps(peft, rollouts, k, WEIGHTS[k], rate=rate, updates=updates, beta=beta, clip=clip)
        moved, expected = population.parameters[k] - before[k], peft_row(population, peft) - before[k]
        assert report.grad_norm[k] == pytest.approx(norm, rel=1e-5)
        assert relative_error(moved, expected) < HAND_WRITTEN


@pytest.mark.parametrize(("credit", "lam"), [("drpo", 0.3), ("disco", np.inf)])  # disco: all right answers alike
@pytest.mark.parametrize("tau", [10.0, 0.5])
def test_a_step_is_along_the_gradient_of_the_discriminative_objective(credit, lam, tau, tmp_path):
    """The published objective on the model itself, by autograd through stock PEFT, in float64 but for the softmax."""
    weights, settings = WEIGHTS[:2], {"tau": tau, **({"lam": lam} if credit == "drpo" else {})}
    population = random_population(tiny_base("llama", dtype=torch.float64), 2)
    before = population.parameters.clone()
    rollouts = draw(population, range(2))
    rng = np.random.default_rng(0)
    rewards = np.stack([rng.random((2, len(RAGGED), G)) > 0.5, 3 * rng.random((2, len(RAGGED), G))], -1).astype(float)
    rewards[0, 0, :, 0] = 1.0  # all right: no part of the objective, but of its mean
    rollouts = replace(rollouts, rewards=rewards)
    learner = make_learner(population, PolicyLoss(aggregation="sequence"), {"name": credit, **settings})
    learner.step(rollouts, weights, 1e-2)
    done = rollouts.completions
    for k in range(2):
        model = tiny_model("llama").double()
        peft = as_peft(population, before[k], tmp_path / str(k), model, is_trainable=True).eval()
        objective = 0.0
        for n, prompt in enumerate(rollouts.prompts):
            said = [done.tokens[k, n, g, : done.lengths[k, n, g]].tolist() for g in range(G)]
            scores = torch.stack([plain_logprobs(peft, prompt.ids, tokens).mean() for tokens in said])
            right = torch.tensor(rewards[k, n, :, 0] > 0.5)
            if right.all() or not right.any():
                continue
            share = torch.tensor(rewards[k, n, :, 1] / 3 * weights[k, 1] / weights[k].sum() / lam)[right].softmax(0)
            lowered = tau * (torch.logsumexp(scores[~right] / tau, 0) - np.log(int((~right).sum())))
            objective = objective + (share * scores[right]).sum() - lowered
        (objective / len(RAGGED) * weights[k].sum()).backward()
        expected = peft_row(population, peft, grad=True)
        assert relative_error(-population.grad[k], expected) < 1e-5  # found: 2e-7


# ------------------------------------------------------------------------------------- alone and among others


def train(population, slots, steps=5, **settings):
    """Some steps in which slot i draws the seeds and weights of policy `slots[i]`."""
    learner = make_learner(population, **settings)
    for step in range(steps):
        rollouts = draw(population, [1000 * step + k for k in slots])
        learner.step(rollouts, WEIGHTS[slots], 1e-2 * (1 - step / steps))
    return rollouts


SETTINGS = [
    {},
    {"layout": "dense"},
    {"loss": PolicyLoss(kl_coef=0.1), "credit": "gdpo", "updates": 2},
    {"loss": PolicyLoss(kl_coef=0.1, kl="k3", aggregation="token"), "credit": "grpo"},
    {"loss": PolicyLoss(aggregation="sequence"), "credit": "reinforce"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_trained_in_a_population_equals_trained_alone(settings):
    """The mathematics: five steps in float64. What float32 makes of them is the processor's, and the next test's."""
    together = fresh_population(tiny_base(dtype=torch.float64), 4)
    start = together.parameters.clone()
    said = train(together, [0, 1, 2, 3], **settings)
    ended = together.parameters.clone()
    together.close()
    for k in range(4):
        alone = fresh_population(tiny_base(dtype=torch.float64), 1)
        alone.load(0, start[k])
        last = train(alone, [k], **settings)
        assert torch.equal(last.completions.tokens[0], said.completions.tokens[k])
        assert relative_error(alone.parameters[0] - start[k], ended[k] - start[k]) < EXACT
        alone.close()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_in_float32_a_gradient_alone_is_the_one_among_others_up_to_rounding(settings):
    """Of the same completions, and not of the parameters: Adam's first step is g / |g|, and where g is all but 0 its
    rounding is a whole step, so that no tight bound on a step in float32 holds on every processor.
    """
    together = random_population(tiny_base(), 4)
    start, rollouts = together.parameters.clone(), draw(together, range(4))
    make_learner(together, **settings).step(rollouts, WEIGHTS, 0.0)
    for k in range(4):
        alone = random_population(tiny_base(), 1)
        alone.load(0, start[k])
        own = slice(k, k + 1)
        done = rollouts.completions
        done = replace(done, tokens=done.tokens[own], mask=done.mask[own], logprobs=done.logprobs[own])
        make_learner(alone, **settings).step(
            replace(rollouts, completions=done, rewards=rollouts.rewards[own]), WEIGHTS[own], 0.0
        )
        assert relative_error(alone.grad[0], together.grad[k]) < ROUNDING
        alone.close()


@pytest.mark.parametrize("tokens", [1, 150, 300])
@pytest.mark.parametrize("kl_coef", [0.0, 0.2])
def test_micro_batches_change_nothing(tokens, kl_coef):
    settings = {"loss": PolicyLoss(kl_coef=kl_coef, aggregation="token"), "updates": 2, "dtype": torch.float64}
    whole, _, before, report = stepped(micro_batch_tokens=10**6, **settings)
    parts, _, _, split = stepped(micro_batch_tokens=tokens, **settings)
    for k in range(3):
        assert relative_error(parts.grad[k], whole.grad[k]) < EXACT
        assert relative_error(parts.parameters[k] - before[k], whole.parameters[k] - before[k]) < EXACT
    assert np.allclose(split.grad_norm, report.grad_norm, rtol=1e-6)
    assert np.allclose(split.kl, report.kl, rtol=1e-5, equal_nan=True)


def short_of_memory(monkeypatch, most, message):
    """Let every pass over more than `most` prompts run out of memory in the middle of its backward pass."""
    backward = Engine._backward

    def limited(self, batch, part, *args, **kwargs):
        seen = backward(self, batch, part, *args, **kwargs)  # its gradient has been added by then
        if len(part.prompts) > most:
            raise message
        return seen

    monkeypatch.setattr(Engine, "_backward", limited)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("message", OUT_OF_MEMORY, ids=["cuda", "cpu"])
def test_out_of_memory_halves_the_micro_batches_and_changes_nothing(message, monkeypatch):
    whole, _, _, _ = stepped(micro_batch_tokens=10**6)
    short_of_memory(monkeypatch, 1, message)
    with pytest.warns(ParetoAlignWarning, match="Memory ran out"):
        parts, _, _, _ = stepped(micro_batch_tokens=10**6)
    for k in range(3):
        assert relative_error(parts.grad[k], whole.grad[k]) < 1e-5


def test_out_of_memory_in_the_gradients_of_all_objectives_changes_nothing(monkeypatch):
    population = random_population(tiny_base("llama"), 3)
    rollouts = draw(population, range(3))
    whole = make_learner(population, micro_batch_tokens=10**6).gradients(rollouts).gradients
    short_of_memory(monkeypatch, 1, OUT_OF_MEMORY[0])
    with pytest.warns(ParetoAlignWarning, match="Memory ran out"):
        parts = make_learner(population, micro_batch_tokens=10**6).gradients(rollouts).gradients
    assert relative_error(parts, whole) < 1e-5


def test_a_completion_that_does_not_fit_alone_is_an_error_that_says_what_helps(monkeypatch):
    short_of_memory(monkeypatch, 0, OUT_OF_MEMORY[0])
    with pytest.warns(ParetoAlignWarning), pytest.raises(TrainingError, match="gradient_checkpointing"):
        stepped()


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory(monkeypatch):
    short_of_memory(monkeypatch, 0, RuntimeError("shapes"))
    with pytest.raises(RuntimeError, match="shapes"):
        stepped()


def test_packed_and_dense_layouts_take_the_same_step():
    packed, _, _, _ = stepped(layout="packed")
    dense, _, _, _ = stepped(layout="dense")
    for k in range(3):
        # the gradients: Adam's first step turns the rounding of a vanishing gradient into a full one
        assert relative_error(packed.grad[k], dense.grad[k]) < 1e-5


@pytest.mark.parametrize("family", ["llama", "phi", "gpt_neox"])
@pytest.mark.parametrize("layout", ["packed", "dense"])
def test_checkpointed_layers_run_again_and_change_nothing(family, layout):
    plain, _, _, _ = stepped(family, layout=layout)
    population = random_population(tiny_base(family), 3)
    rollouts, learner = draw(population, range(3)), make_learner(population, layout=layout, gradient_checkpointing=True)
    layer = next(m for m in population.base.model.modules() if isinstance(m, GradientCheckpointingLayer))
    runs = []
    handle = layer.get_submodule(next(name for name, _ in layer.named_children())).register_forward_pre_hook(
        lambda *_: runs.append(torch.is_grad_enabled())
    )
    learner.step(rollouts, WEIGHTS[:3], 1e-2)
    handle.remove()
    assert len(runs) == 2, "once on the way forward, once on the way back"
    for k in range(3):
        assert relative_error(population.grad[k], plain.grad[k]) < 1e-5
    assert (layer.training, layer.gradient_checkpointing) == (False, False)


def test_a_model_without_layers_to_checkpoint_is_refused():
    with (
        pytest.raises(ModelError, match="Linear has no layers that can be checkpointed"),
        checkpointing(torch.nn.Linear(2, 2), True),
    ):
        pass


LAYOUTS = [("llama", True), ("qwen2", True), ("gemma2", False), ("mistral", False)]


@pytest.mark.parametrize(("family", "packed"), LAYOUTS)
def test_the_layout_is_chosen_by_a_check(family, packed):
    population = random_population(tiny_base(family), 3)
    learner = make_learner(population, layout="auto")
    rollouts = draw(population, [0, 1, 2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learner.step(rollouts, WEIGHTS[:3], 1e-3)
        learner.step(rollouts, WEIGHTS[:3], 1e-3)
    assert learner.engine.prepare(rollouts.prompt_ids, rollouts.completions).packed is packed
    told = [str(w.message) for w in caught if issubclass(w.category, ParetoAlignWarning)]
    assert len(told) == (0 if packed else 1)
    assert packed or "does not read packed rows like separate ones" in told[0]


# ----------------------------------------------------------------------------------------- the KL to the base


def enumerated(probabilities, group):
    """Completions `[1, 1, G, 2]` that hold every string as often as its probability says."""
    strings = torch.from_numpy(tables.symbol_strings(3, 2))
    counts = np.round(probabilities * group).astype(int)
    return strings.repeat_interleave(torch.from_numpy(counts), dim=0)[None, None]


def test_the_k1_gradient_is_that_of_the_exact_reverse_kl(tmp_path):
    """Three symbols, two places: nine completions, in the proportions of the policy, and rewards that say nothing."""
    beta, group, targets = 0.7, 20_000, ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    base = load_base(tiny_llama(3, 1, hidden_size=32), tokenizer=symbol_tokenizer(3, 1))
    population = random_population(base, 1, config=config)
    prompt = base.encode("<0>")
    peft = as_peft(population, population.parameters[0], tmp_path, tiny_llama(3, 1, hidden_size=32), is_trainable=True)
    reference = torch.from_numpy(
        tables.string_log_probabilities(tiny_llama(3, 1, hidden_size=32), [prompt], 3, 2).detach().numpy()
    )
    log_p = tables.string_log_probabilities(peft.eval(), [prompt], 3, 2)
    (beta * (log_p.exp() * (log_p - reference)).sum()).backward()
    expected = peft_row(population, peft, grad=True)
    probabilities = log_p.detach().exp()[0].numpy()
    assert 0.1 < float((probabilities * (log_p - reference).detach().numpy()[0]).sum()) < 3  # there is a KL to speak of

    tokens = enumerated(probabilities, group)
    index = (tokens * torch.tensor([3, 1])).sum(-1)
    logprobs = torch.stack([log_p.detach()[0][index], torch.zeros(index.shape)], -1).float()  # only the sum counts
    done = Completions([prompt], tokens, torch.ones_like(tokens, dtype=torch.bool), logprobs, base.stop_ids)
    rollouts = Rollouts([PromptRow("<0>", tuple(prompt), {})], done, [], np.zeros((1, 1, tokens.shape[2], 2)))
    learner = make_learner(population, PolicyLoss(kl_coef=beta), temperature=1.0, layout="dense")
    report = learner.step(rollouts, np.array([[0.5, 0.5]]), 1e-4)
    # "constant" divides by T = 2; the counts are rounded, hence the tolerance
    assert relative_error(2 * population.grad[0], expected) < 5e-3
    exact = float((probabilities * (log_p - reference).detach().numpy()[0]).sum())
    assert report.kl[0] == pytest.approx(exact, rel=1e-3)


def test_k1_and_k3_are_different_roads():
    one, _, _, first = stepped(loss=PolicyLoss(kl_coef=0.5))
    three, _, _, second = stepped(loss=PolicyLoss(kl_coef=0.5, kl="k3"))
    assert np.allclose(first.kl, second.kl)
    assert relative_error(one.parameters, three.parameters) > 1e-3


def test_the_k3_step_is_that_of_a_hand_written_loss(tmp_path):
    population, rollouts, before, _ = stepped(loss=PolicyLoss(kl_coef=0.5, kl="k3"))
    done, k = rollouts.completions, 1
    peft = as_peft(population, before[k], tmp_path, tiny_model(), is_trainable=True).eval()
    rewards = torch.tensor(rollouts.rewards[k] / np.array([1.0, 3.0])).float()
    advantages = ((rewards - rewards.mean(1, keepdim=True)) * torch.tensor(WEIGHTS[k]).float()).sum(-1)
    loss = 0.0
    for n, row in enumerate(rollouts.prompts):
        for g in range(G):
            tokens = done.tokens[k, n, g, : done.lengths[k, n, g]].tolist()
            logprob = plain_logprobs(peft, row.ids, tokens)
            with peft.disable_adapter(), torch.no_grad():
                gap = plain_logprobs(peft, row.ids, tokens)
            gap = gap - logprob
            loss = loss + (-advantages[n, g] * logprob + 0.5 * (gap.exp() - gap - 1)).sum()
    (loss / (len(rollouts.prompts) * G * T)).backward()
    assert relative_error(population.grad[k], peft_row(population, peft, grad=True)) < 1e-4


# -------------------------------------------------------------------------------------------------- the report


def test_the_report_says_what_happened():
    _, rollouts, _, report = stepped(loss=PolicyLoss(kl_coef=0.1))
    done = rollouts.completions
    assert report.grad_norm.shape == report.kl.shape == report.entropy.shape == report.spread.shape == (3,)
    tokens = done.mask.sum((1, 2, 3))
    assert np.allclose(report.entropy, (-done.logprobs.sum((1, 2, 3)) / tokens).numpy())
    assert (report.kl > 0).all()  # random policies are far from the base
    assert (report.spread > 0).all()
    assert np.isnan(stepped()[3].kl).all()


@pytest.mark.parametrize("credit", ["centred", "grpo", "gdpo", "reinforce"])
def test_equal_rewards_have_no_spread_and_move_nothing(credit):
    population = random_population(tiny_base(), 3)
    before = population.parameters.clone()
    rollouts = draw(population, [0, 1, 2])
    rollouts.rewards[1] = 0.5
    report = make_learner(population, credit=credit).step(rollouts, WEIGHTS[:3], 1e-2)
    assert (report.spread == 0).tolist() == [False, True, False]
    assert torch.equal(population.parameters[1], before[1])
    assert not torch.equal(population.parameters[0], before[0])


def test_one_completion_a_prompt_has_its_spread_over_the_batch():
    """Within a group of one nothing varies, which must not be taken for a policy that stopped learning."""
    population = random_population(tiny_base(), 2)
    params = SamplingParams(T, temperature=TEMPERATURE)
    rollouts = roll_out(Engine(population), OBJECTIVES, rows_of(population.base), 1, params, [0, 1])
    before = population.parameters.clone()
    report = make_learner(population, PolicyLoss(kl_coef=0.1), "reinforce").step(rollouts, WEIGHTS[:2], 1e-2)
    assert (report.spread > 0.1).all()
    assert (population.parameters != before).any(1).all()


def test_a_zero_row_of_weights_stands_still_and_a_row_sum_is_the_strength():
    population, _, before, _ = stepped(weights=np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), max_norm=None)
    assert torch.equal(population.parameters[0], before[0])
    single = random_population(tiny_base(), 3)
    rollouts = draw(single, [0, 1, 2])
    learner = make_learner(single, max_norm=None)
    grads = []
    for strength in (1.0, 3.0):
        single.load(0, before[0])
        learner.step(rollouts, strength * WEIGHTS[:3], 0.0)
        grads.append(single.grad.clone())
    assert relative_error(3 * grads[0], grads[1]) < 1e-5


def test_missing_rewards_are_left_out():
    population = random_population(tiny_base(), 3)
    rollouts = draw(population, [0, 1, 2])
    rollouts.rewards[:, 0, :, 0] = np.nan
    rollouts.rewards[:, 1, 2, 1] = np.nan
    make_learner(population).step(rollouts, WEIGHTS[:3], 1e-2)
    assert torch.isfinite(population.parameters).all()


def test_settings_that_make_no_sense():
    population = random_population(tiny_base(), 1)
    with pytest.raises(ConfigError, match="layout='sparse'"):
        make_learner(population, layout="sparse")
    with pytest.raises(ConfigError, match=r"`updates` must be a whole number of at least 1\. Found 0"):
        make_learner(population, updates=0)
