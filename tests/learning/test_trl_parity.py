"""Every loss that TRL has, against TRL's own code on the same log-probabilities: values and gradients.

TRL's `_compute_loss` is called on a stub of the trainer, with a model that answers what it is told, so nothing is
trained and each case takes milliseconds.
"""

from __future__ import annotations

import collections
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from pareto_align.errors import ParetoAlignWarning
from pareto_align.learning import make_learner
from pareto_align.learning.preferences import PairView, make_losses, make_preference, mismatched_kl

B, LONGEST = 8, 40
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
DIVERGENT = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
PLAIN = ("nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down")
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")
CASES = [(name, f) for name in DIVERGENT for f in DIVERGENCES] + [(name, "reverse_kl") for name in PLAIN]
BAR = 2e-5


def batch(seed: int) -> SimpleNamespace:
    """Token log-probabilities of B pairs, the chosen ones first, and references of the sums."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, LONGEST + 1, (2 * B,), generator=g)
    mask = torch.arange(LONGEST) < lengths[:, None]
    tokens = (-1.5 + 0.4 * torch.randn(2 * B, LONGEST, generator=g)).clamp(max=-0.01) * mask
    reference = tokens.sum(1) + 2 * torch.randn(2 * B, generator=g)
    weights = (0.3 * torch.randn(2 * B, LONGEST, generator=g) - 0.8) * mask
    return SimpleNamespace(lengths=lengths, mask=mask, tokens=tokens, reference=reference, weights=weights)


def accelerator() -> SimpleNamespace:
    same = lambda x: x  # noqa: E731
    return SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same)


def of_trl(found: SimpleNamespace, names: list[str], **settings: Any) -> tuple[float, torch.Tensor]:
    """TRL's loss and its gradient in each response's log-probability (the mean over its tokens' gradients)."""
    from trl.trainer.dpo_trainer import DPOTrainer

    tokens = found.tokens.clone().requires_grad_()
    config = {
        "ld_alpha": None, "f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 0.5, "beta": 0.1,
        "label_smoothing": 0.0, "loss_weights": [1.0] * len(names), "use_weighting": False, **settings,
    }  # fmt: skip
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator(), precompute_ref_logps=True, loss_types=names,
        aux_loss_enabled=False, args=SimpleNamespace(discopop_tau=0.05), _total_train_tokens=0, _tp_size=1,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)), **config,
    )  # fmt: skip
    zeros = torch.zeros_like(found.tokens)
    # TRL weighs by log p - log sum p^2; the sum is made such that the difference is what the batch says
    outputs = SimpleNamespace(
        log_probs=tokens, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(),
        log_sum_sq_probs=found.tokens - found.weights,
    )  # fmt: skip
    mask = torch.nn.functional.pad(found.mask.long(), (1, 0))
    inputs = {
        "input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
        "ref_chosen_logps": found.reference[:B], "ref_rejected_logps": found.reference[B:],
    }  # fmt: skip
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    (slopes,) = torch.autograd.grad(loss, tokens)
    # TRL sums over padding, where its fused head gives constants
    return loss.item(), slopes * found.mask


def ours(found: SimpleNamespace, **more: Any) -> PairView:
    side = lambda x: torch.stack([x[:B], x[B:]], 1)  # noqa: E731
    return PairView(
        logps=side(found.tokens.sum(1))[None],
        reference=side(found.reference)[None],
        lengths=side(found.lengths),
        pairs=torch.tensor([(row, 0, 1) for row in range(B)]),
        labels=torch.ones(B, 1),
        **more,
    )


def agree(loss: Any, view: PairView, value: float, slopes: torch.Tensor, mask: torch.Tensor) -> float:
    """The largest relative difference of value and slopes; TRL's slopes are of tokens, each as its response's."""
    values, found = loss.coefficients(view)
    each = torch.cat([found[0, :, 0, 0], found[0, :, 1, 0]])
    expected = slopes[:, 0]
    # a response's tokens all have its slope
    assert float((slopes - expected[:, None] * mask).abs().max()) <= 1e-6 * float(slopes.abs().max())
    error = abs(values.item() - value) / max(abs(value), 1e-3)
    return max(error, float((each - expected).abs().max() / expected.abs().max().clamp(min=1e-6)))


@pytest.mark.parametrize(("name", "divergence"), CASES)
def test_pair_losses(name, divergence, record_property):
    settings: dict[str, Any] = {"label_smoothing": 0.1} if name in SMOOTHED else {}
    own = {**settings, **({"f_divergence_type": divergence} if name in DIVERGENT and name != "sft" else {})}
    worst = 0.0
    for seed in range(5):
        found = batch(seed)
        value, slopes = of_trl(found, [name], f_divergence_type=divergence, **settings)
        worst = max(worst, agree(make_losses(name, **own), ours(found), value, slopes, found.mask))
    record_property("worst", worst)
    print(f"{name:14s} {divergence:18s} {worst:.1e}")
    assert worst <= BAR


@pytest.mark.parametrize(
    ("names", "weights"), [(["sigmoid", "sft"], [1.0, 0.2]), (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0])]
)
def test_lists_of_losses(names, weights):
    found = batch(11)
    value, slopes = of_trl(found, names, loss_weights=weights)
    assert agree(make_losses(names, weights), ours(found), value, slopes, found.mask) <= BAR


def test_weighting_by_the_policys_own_confidence():
    found = batch(12)
    value, slopes = of_trl(found, ["sigmoid"], use_weighting=True)
    means = found.weights.sum(1) / found.lengths
    view = ours(found, confidences=torch.stack([means[:B], means[B:]], 1)[None])
    assert agree(make_losses("sigmoid"), view, value, slopes, found.mask) <= BAR


@pytest.mark.parametrize("ld_alpha", [0.0, 0.3])
def test_the_length_that_both_responses_have(ld_alpha):
    from pareto_align.learning.comparisons import token_weights

    found = batch(13)
    # TRL weighs the reference's tokens alike; here they are given as sums
    value, slopes = of_trl(found, ["sigmoid"], ld_alpha=ld_alpha)
    pairs = torch.stack([found.mask[:B], found.mask[B:]], 1)
    weights = token_weights(pairs, ld_alpha)
    weighted = torch.stack([found.tokens[:B], found.tokens[B:]], 1) * weights
    view = ours(found)
    view.logps = weighted.sum(-1)[None]
    values, slope = make_losses("sigmoid").coefficients(view)
    assert values.item() == pytest.approx(value, rel=BAR)
    each = slope[0, :, :, 0, None] * weights
    torch.testing.assert_close(torch.cat([each[:, 0], each[:, 1]]), slopes, rtol=BAR, atol=1e-8)


@pytest.mark.parametrize(
    ("loss_type", "name", "settings"),
    [
        ("simpo", "simpo", {}),
        ("simpo", "simpo", {"label_smoothing": 0.1}),
        ("simpo", "simpo", {"alpha": 0.5}),
        ("sigmoid", "cpo", {"cpo_alpha": 0.0}),
        ("sigmoid", "cpo", {"cpo_alpha": 0.0, "label_smoothing": 0.1}),
    ],
)
def test_cpo_and_simpo(loss_type, name, settings):
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    found = batch(14)
    means = name == "simpo"
    l = (found.tokens.sum(1) / (found.lengths if means else 1)).requires_grad_()
    trainer = SimpleNamespace(
        loss_type=loss_type, beta=2.0 if means else 0.1, simpo_gamma=0.5, alpha=settings.get("alpha", 0.0),
        label_smoothing=settings.get("label_smoothing", 0.0), accelerator=accelerator(),
    )  # fmt: skip
    losses, _, _ = CPOTrainer.cpo_loss(trainer, l[:B], l[B:])
    (slopes,) = torch.autograd.grad(losses.mean(), l)
    values, each = make_losses(name, **settings).coefficients(ours(found))
    assert values.item() == pytest.approx(losses.mean().item(), rel=BAR)
    scale = found.lengths if means else 1
    torch.testing.assert_close(torch.cat([each[0, :, 0, 0], each[0, :, 1, 0]]) * scale, slopes, rtol=BAR, atol=1e-7)


def test_orpos_odds_ratio():
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    found = batch(15)
    l = (found.tokens.sum(1) / found.lengths).requires_grad_()
    ratios = ORPOTrainer.odds_ratio_loss(SimpleNamespace(beta=0.1, accelerator=accelerator()), l[:B], l[B:])[0]
    (slopes,) = torch.autograd.grad(-ratios.mean(), l)
    values, each = make_losses("orpo").coefficients(ours(found))
    # TRL's likelihood is of the prompt as well, so it is ours that is added to its odds ratio
    likelihood, imitation = make_losses("sft").coefficients(ours(found))
    assert values.item() == pytest.approx(likelihood.item() - ratios.mean().item(), rel=BAR)
    odds = torch.stack([slopes[:B], slopes[B:]], 1) / torch.stack([found.lengths[:B], found.lengths[B:]], 1)
    torch.testing.assert_close(each[0, :, :, 0], imitation[0, :, :, 0] + odds, rtol=BAR, atol=1e-8)


@pytest.mark.parametrize("loss_type", ["sigmoid", "tpo-l"])
def test_tpo(loss_type):
    from trl.experimental.tpo.tpo_trainer import TPOTrainer

    g = torch.Generator().manual_seed(16)
    vocabulary, longest = 11, 9
    lengths = torch.randint(2, longest + 1, (3 * B,), generator=g)
    mask = torch.nn.functional.pad((torch.arange(longest) < lengths[:, None]).long(), (1, 0))
    ids = torch.randint(0, vocabulary, mask.shape, generator=g)
    logits = torch.randn(*mask.shape, vocabulary, generator=g).requires_grad_()
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator(), tpo_alpha=0.7, loss_type=loss_type, beta=0.5,
        label_smoothing=0.0, tpo_l_gamma=0.5, _total_train_tokens=0, _tp_size=1,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
    )  # fmt: skip
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    loss = TPOTrainer._compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs, False)
    tokens = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0] * mask[:, 1:]
    sums = torch.stack(tokens.sum(1).chunk(3), 1)
    view = PairView(
        logps=sums.detach()[None],
        lengths=torch.stack(lengths.chunk(3), 1),
        pairs=torch.tensor([(row, 0, 1) for row in range(B)]),
        labels=torch.ones(B, 1),
        golds=torch.full((B,), 2),
    )
    name = "tpo" if loss_type == "sigmoid" else "tpo-l"
    values, slopes = make_preference({"name": name, "beta": 0.5, "tpo_alpha": 0.7}).coefficients(view)
    assert values.item() == pytest.approx(loss.item(), rel=BAR)
    (expected,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (found,) = torch.autograd.grad((sums * slopes[0, ..., 0]).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=BAR, atol=1e-7)


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_kto(loss_type):
    from trl.trainer.kto_trainer import KTOTrainer

    found = batch(17)
    g = torch.Generator().manual_seed(18)
    count = 2 * B
    marks = torch.rand(count, generator=g) > 0.4
    mismatched, references = -20 + torch.randn(count, generator=g), -21 + torch.randn(count, generator=g)
    tokens = found.tokens.clone().requires_grad_()
    zeros = torch.zeros_like(found.tokens)
    mask = torch.nn.functional.pad(found.mask.long(), (1, 0))
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator(), precompute_ref_logps=True, beta=0.1,
        calculate_KL=loss_type == "kto", loss_type=loss_type, aux_loss_enabled=False, desirable_weight=1.0,
        undesirable_weight=1.3, _total_train_tokens=0, _tp_size=1, _compute_kl_logps=lambda *_: mismatched,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
        "label": marks, "ref_logps": found.reference, "ref_KL_logps": references,
    }  # fmt: skip
    outputs = SimpleNamespace(log_probs=tokens, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    loss = KTOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    (expected,) = torch.autograd.grad(loss, tokens)
    view = PairView(
        logps=found.tokens.sum(1)[None, :, None],
        reference=found.reference[None, :, None],
        lengths=found.lengths[:, None],
        pairs=torch.empty(0, 3, dtype=torch.long),
        labels=torch.empty(0, 1),
        marks=marks.float()[:, None, None],
        kl=mismatched_kl(mismatched[None], references[None]),
    )
    values, slopes = make_preference({"name": loss_type, "undesirable_weight": 1.3}).coefficients(view)
    assert values.item() == pytest.approx(loss.item(), rel=BAR)
    torch.testing.assert_close(slopes[0, :, 0, 0], expected[:, 0], rtol=BAR, atol=1e-8)


def test_a_real_config_is_read():
    from trl import DPOConfig

    from pareto_align.learning.preferences import learner_of_trl, losses_of_trl

    config = DPOConfig(
        output_dir="x", loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.2], beta=0.2, use_cpu=True, bf16=False
    )
    loss, ignored = losses_of_trl(config)
    found = batch(19)
    value, slopes = of_trl(found, ["sigmoid", "sft"], loss_weights=[1.0, 0.2], beta=0.2)
    assert agree(loss, ours(found), value, slopes, found.mask) <= BAR
    assert "beta" not in ignored
    assert "output_dir" in ignored
    learner, unread = learner_of_trl(config)
    assert learner == {
        "name": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2], "beta": 0.2, "max_length": 1024,
    }  # fmt: skip
    assert unread == []


def test_a_config_of_trl_is_a_learner():
    """Its loss and length are heard; what else it would have changed in the training is named."""
    from trl import DPOConfig

    plain = {"output_dir": "x", "use_cpu": True, "bf16": False}
    config = DPOConfig(loss_type="robust", label_smoothing=0.2, max_length=512, learning_rate=3e-6, **plain)
    with pytest.warns(ParetoAlignWarning, match="Not read: learning_rate. "):
        learner = make_learner(config)
    assert (
        learner.facts()
        == make_learner(
            {"name": "dpo", "loss_type": "robust", "beta": 0.1, "label_smoothing": 0.2, "max_length": 512}
        ).facts()
    )
    made = make_learner(DPOConfig(f_divergence_type="js_divergence", **plain))
    assert made.facts()["f_divergence_type"] == "js_divergence"
