"""Preference losses: gold values, what the labels do, lists of losses, and the contract of each."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pareto_align.errors import ConfigError
from pareto_align.learning.preferences import (
    Combined,
    PairView,
    PreferenceLoss,
    available_preferences,
    make_losses,
    make_preference,
    mismatched_kl,
    register_preference,
    win_rates,
)
from pareto_align.learning.preferences.base import preference_losses
from pareto_align.testing.preferences import PreferenceLossContract, random_view

TRL = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
OURS = ("apo_zero_unpaired", "cdpo", "copg", "cpo", "inpo", "kto", "logit_pool", "modpo", "odpo", "orpo", "pl", "simpo")
OURS += ("sppo", "tpo", "tpo-l")
NAN = math.nan


def view(
    logps: object, reference: object = None, lengths: object = None, labels: object = 1.0, **more: object
) -> PairView:
    """One policy (or several, with another axis), rows of two responses, one pair each."""
    l = torch.tensor(logps, dtype=torch.float64)
    l = l[None] if l.ndim == 2 else l
    _, N, _ = l.shape
    s = torch.tensor(labels, dtype=torch.float64)
    s = s.expand(N, 1) if s.ndim == 0 else s
    return PairView(
        logps=l,
        reference=None if reference is None else torch.tensor(reference, dtype=torch.float64)[None],
        lengths=torch.tensor(lengths if lengths is not None else [[1, 1]] * N),
        pairs=torch.tensor([(row, 0, 1) for row in range(N)]),
        labels=s.clone(),
        **more,
    )


# the test point of the specification: u_w = 1, u_l = -1, so D = 2; with 5 and 4 tokens D per token is .45
Q = view([[-10.0, -12.0]], [[-11.0, -11.0]], [[5, 4]])

GOLDS = [  # what TRL 1.16 itself gives there: value, slopes in both log-probabilities
    ("sigmoid", {}, 0.598139, -0.045017, 0.045017),
    ("sigmoid", {"label_smoothing": 0.1}, 0.618139, -0.035017, 0.035017),
    ("cdpo", {}, 0.618139, -0.035017, 0.035017),
    ("hinge", {}, 0.8, -0.1, 0.1),
    ("ipo", {}, 20.7025, -1.82, 2.275),
    ("robust", {}, 0.573139, -0.057517, 0.057517),
    ("exo_pair", {}, 2.422015, -0.166003, 0.166003),
    ("nca_pair", {}, 1.338793, -0.021253, 0.023751),
    ("bco_pair", {}, 1.288793, -0.047502, 0.047502),
    ("sppo_hard", {}, 32.0, -8.0, 8.0),
    ("aot", {}, 0.598139, -0.045017, 0.045017),
    ("aot", {"label_smoothing": 0.1}, 0.618139, -0.035017, 0.035017),
    ("aot_unpaired", {}, 0.598139, -0.045017, 0.045017),
    ("apo_zero", {}, 0.950042, -0.024938, 0.024938),
    ("apo_down", {}, 0.975145, 0.000186, 0.024752),
    ("discopop", {}, 0.814763, -0.073418, 0.073418),
    ("sft", {}, 2.0, -0.2, 0.0),
    ("sigmoid_norm", {}, 0.670900, -0.009775, 0.012219),
    ("sigmoid", {"f_divergence_type": "forward_kl"}, 0.582517, -0.016242, 0.120015),
    ("sigmoid", {"f_divergence_type": "js_divergence"}, 0.644397, -0.012775, 0.034727),
    ("sigmoid", {"f_divergence_type": "alpha_divergence"}, 0.594349, -0.027177, 0.073876),
]


@pytest.mark.parametrize(("name", "settings", "value", "slope_w", "slope_l"), GOLDS)
def test_golds_at_one_point(name, settings, value, slope_w, slope_l):
    loss = make_preference({"name": name, **settings})
    found, slopes = loss.coefficients(Q)
    assert found.item() == pytest.approx(value, abs=1e-6)
    assert slopes.flatten().tolist() == pytest.approx([slope_w, slope_l], abs=1e-6)
    # the other order of the same pair
    turned = replace(Q, pairs=torch.tensor([[0, 1, 0]]), labels=torch.zeros(1, 1, dtype=torch.float64))
    assert loss.coefficients(turned)[0].item() == pytest.approx(value, abs=1e-6)


def test_every_loss_of_trl_has_a_gold_and_is_there():
    ours = [
        name for name in available_preferences() if preference_losses.get(name).__module__.startswith("pareto_align.")
    ]
    assert ours == sorted((*TRL, *OURS))
    assert set(TRL) <= {name for name, *_ in GOLDS}


def test_a_batch_is_a_mean_of_pairs_but_sft_of_tokens():
    batch = view([[-10.0, -12.0], [-20.0, -19.0]], [[-11.0, -11.0], [-21.0, -20.0]], [[5, 4], [10, 8]])
    golds = {"sigmoid": 0.645643, "ipo": 22.976562, "sft": 2.0, "apo_zero": 0.975021}
    for name, value in golds.items():
        assert make_preference(name).values(batch).item() == pytest.approx(value, abs=1e-6), name
    _, slopes = make_preference("sft").coefficients(batch)
    assert slopes[0, :, 0, 0].tolist() == pytest.approx([-1 / 15] * 2)


def test_losses_without_a_reference():
    free = view([[-2.5, -4.0]], lengths=[[5, 4]])  # means of -.5 and -1
    assert make_preference("simpo").values(free).item() == pytest.approx(0.474077, abs=1e-6)
    assert make_preference({"name": "simpo", "simpo_gamma": 1.0}).values(free).item() == pytest.approx(
        0.693147, abs=1e-6
    )
    ratio = make_preference({"name": "cpo", "cpo_alpha": 0.0})
    assert ratio.rank_one
    assert ratio.values(free).item() == pytest.approx(0.620957, abs=1e-6)
    biased = make_preference({"name": "cpo", "cpo_alpha": 0.0, "negative_bias": 0.5})
    assert not biased.rank_one
    assert biased.values(free).item() == pytest.approx(math.log(1 + math.exp(0.1 * (2.5 - 0.5 * 4))))
    whole = make_preference("cpo")
    assert not whole.rank_one
    assert whole.values(free).item() == pytest.approx(0.620957 + 0.5, abs=1e-6)
    # log odds .432752 and -.541325, likelihood .5 a token
    assert make_preference("orpo").values(free).item() == pytest.approx(0.5 + 0.1 * 0.320300, abs=1e-6)


def test_tpo_imitates_the_gold_response():
    three = PairView(
        logps=torch.tensor([[[-2.5, -4.0, -3.0]]]),
        lengths=torch.tensor([[5, 4, 6]]),
        pairs=torch.tensor([[0, 0, 1]]),
        labels=torch.tensor([[1.0]]),
        golds=torch.tensor([2]),
    )
    values, slopes = make_preference("tpo").coefficients(three)
    assert values.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.015))) + 0.5, abs=1e-6)
    assert slopes[0, 0, 2, 0].item() == pytest.approx(-1 / 6)
    with pytest.raises(ConfigError, match="gold response"):
        make_preference("tpo").values(replace(three, golds=None))
    length = make_preference({"name": "tpo-l", "beta": 2.0, "tpo_alpha": 0.0})
    assert length.values(three).item() == pytest.approx(0.474077, abs=1e-6)


def test_the_worked_example_of_a_vector():
    gaps = [0.5, 0.7, 2.0, 0.15]
    labels = [[1.0, 0.0], [0.0, 0.5], [NAN, 1.0], [1.0, NAN]]
    batch = view([[gap - 5, -5.0] for gap in gaps], [[-5.0, -5.0]] * 4, labels=labels)
    loss = make_preference("sigmoid")
    values, slopes = loss.coefficients(batch)
    np.testing.assert_allclose(values[0], [0.694298, 0.670119], atol=1e-6)
    np.testing.assert_allclose(1 - values[0] / math.log(2), [-0.001661, 0.033222], atol=1e-6)
    expected = [[-0.016250, 0.017083], [0.017250, 0.000583], [0, -0.015006], [-0.016542, 0]]
    np.testing.assert_allclose(slopes[0, :, 0], expected, atol=1e-6)
    np.testing.assert_allclose(slopes[0, :, 1], -np.array(expected), atol=1e-6)
    again, margins, factors = loss.slopes(batch)
    torch.testing.assert_close(again, values)
    torch.testing.assert_close(margins[0], slopes[0, :, 0])
    assert (factors == 1).all()


# ------------------------------------------------------------------------------------------------ responses, rankings


def test_kto_of_marks():
    one = view([[-10.0, -12.0]], [[-11.0, -11.0]], marks=torch.tensor([[[1.0], [NAN]]]), kl=torch.zeros(1))
    assert make_preference("kto").values(one).item() == pytest.approx(0.475021, abs=1e-6)
    moved = replace(one, kl=torch.tensor([0.5]))
    assert make_preference("kto").values(moved).item() == pytest.approx(0.487503, abs=1e-6)
    under = replace(moved, marks=torch.tensor([[[NAN], [0.0]]]))
    assert make_preference("kto").values(under).item() == pytest.approx(0.462570, abs=1e-6)
    both = replace(moved, marks=torch.tensor([[[1.0], [0.0]]]))
    weighted = make_preference({"name": "kto", "desirable_weight": 2.0})
    assert weighted.values(both).item() == pytest.approx((2 * 0.487503 + 0.462570) / 2, abs=1e-6)
    assert make_preference("apo_zero_unpaired").values(both).item() == pytest.approx(0.475021, abs=1e-6)
    with pytest.raises(ConfigError, match="at least two prompts a step"):
        make_preference("kto").values(replace(one, kl=None))


def test_the_kl_of_mismatched_prompts_is_of_each_policy_and_never_negative():
    found = mismatched_kl(torch.tensor([[-1.0, -2.0], [-4.0, -5.0]]), torch.tensor([[-2.0, -3.0]]))
    assert found.tolist() == [1.0, 0.0]
    with pytest.raises(ConfigError, match="at least 2 prompts"):
        mismatched_kl(torch.tensor([[-1.0]]), torch.tensor([[-2.0]]))


def test_sppo_aims_at_win_rates_without_oneself():
    wins = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.6], [0.8, 0.4, 0.5]])
    pairs = [(0, 0, 1), (0, 0, 2), (0, 1, 2)]
    batch = PairView(
        logps=torch.full((1, 1, 3), -4.5, dtype=torch.float64),
        reference=torch.full((1, 1, 3), -5.0, dtype=torch.float64),
        lengths=torch.ones(1, 3, dtype=torch.long),
        pairs=torch.tensor(pairs),
        labels=torch.tensor([[wins[a, b]] for _, a, b in pairs], dtype=torch.float64),
    )
    np.testing.assert_allclose(win_rates(batch)[0, :, 0], (wins.sum(1) - 0.5) / 2)
    seven = replace(batch, labels=torch.tensor([[0.7], [NAN], [NAN]], dtype=torch.float64))
    losses = make_preference("sppo").losses(seven)
    assert losses[0, 0, 0, 0].item() == pytest.approx(0.5 * 39800.25)
    assert make_preference("sppo").values(seven).item() == pytest.approx(0.5 * (39800.25 + 200.5**2) / 2)


def test_plackett_luce_is_dpo_for_two_and_counts_ties():
    ratios = torch.tensor([[[1.0, 0.0, -1.0]]], dtype=torch.float64)
    group = PairView(
        logps=ratios - 5,
        reference=torch.full((1, 1, 3), -5.0, dtype=torch.float64),
        lengths=torch.ones(1, 3, dtype=torch.long),
        pairs=torch.tensor([[0, 0, 1]]),
        labels=torch.tensor([[1.0]], dtype=torch.float64),
        scores=torch.tensor([[[3.0], [2.0], [1.0]]], dtype=torch.float64),
    )
    loss = make_preference({"name": "pl", "beta": 1.0})
    expected = math.log(math.e + 1 + 1 / math.e) - 1 + math.log(1 + 1 / math.e)
    assert loss.values(group).item() == pytest.approx(expected)
    _, slopes = loss.coefficients(group)
    assert slopes.sum().item() == pytest.approx(0, abs=1e-12)
    two = replace(group, scores=torch.tensor([[[3.0], [2.0], [NAN]]], dtype=torch.float64))
    dpo = make_preference({"name": "sigmoid", "beta": 1.0})
    for found, wanted in zip(loss.coefficients(two), dpo.coefficients(two), strict=True):
        torch.testing.assert_close(found, wanted)
    # a tie at the top: each of both is chosen from all three
    tied = replace(group, scores=torch.tensor([[[3.0], [3.0], [1.0]]], dtype=torch.float64))
    assert loss.values(tied).item() == pytest.approx(2 * math.log(math.e + 1 + 1 / math.e) - 1)
    assert torch.isnan(loss.values(replace(group, scores=torch.ones(1, 3, 1)))).all()
    with pytest.raises(ConfigError, match="rankings"):
        loss.values(replace(group, scores=None))


# ------------------------------------------------------------------------------------------------ margins, weights


def test_an_offset_is_exceeded_before_the_loss_is_small():
    gap = replace(Q, margins=torch.tensor([[math.e]], dtype=torch.float64))
    assert make_preference("odpo").values(gap).item() == pytest.approx(math.log(1 + math.exp(1 - 0.2)))
    unknown = replace(Q, margins=torch.tensor([[NAN]], dtype=torch.float64))
    assert make_preference("odpo").values(unknown).item() == pytest.approx(0.598139, abs=1e-6)
    with pytest.raises(ConfigError, match="needs margins"):
        make_preference("odpo").values(Q)


def test_a_conditional_reference_does_not_have_to_be_overcome():
    loss = make_preference({"name": "sigmoid", "beta": 1.0, "reference": "conditional"})
    agrees = view([[-10.0, -12.0]], [[-10.0, -11.0]])  # the reference's margin of 1 is taken: 2 - 1
    assert loss.values(agrees).item() == pytest.approx(math.log(1 + math.exp(-1)))
    against = view([[-10.0, -12.0]], [[-14.0, -11.0]])  # that of -3 is not: 2 - 0
    assert loss.values(against).item() == pytest.approx(math.log(1 + math.exp(-2)))
    with pytest.raises(ConfigError, match="reverse_kl only"):
        make_preference({"name": "sigmoid", "reference": "conditional", "f_divergence_type": "forward_kl"})


def test_copg_and_inpo_aim_at_their_targets():
    rewarded = replace(Q, scores=torch.tensor([[[0.9], [0.5]]], dtype=torch.float64))
    assert make_preference("copg").values(rewarded).item() == pytest.approx((0.4 - 0.2) ** 2)
    previous = torch.tensor([[[-10.5, -11.5]]], dtype=torch.float64)
    stepped = replace(Q, previous=previous)
    # D log pi is 2, D log ref is 0, D log pi_t is 1; tau / eta is a third
    expected = (2 - 2 / 3 - 1 / (2 * 0.0075)) ** 2
    assert make_preference("inpo").values(stepped).item() == pytest.approx(expected)


def test_modpo_of_a_population():
    batch = view(
        [[[-10.0, -12.0]], [[-10.0, -11.0]], [[-12.0, -9.0]]],
        [[-11.0, -11.0]],
        labels=[[1.0, 0.0]],
        trade=torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64),
        corners=torch.tensor([0, 2]),
    )
    loss = make_preference("modpo")
    values, slopes = loss.coefficients(batch)
    assert values[1].sum().item() == pytest.approx(0.583612, abs=1e-6)
    assert slopes[1, 0, 0].sum().item() == pytest.approx(0.012246, abs=1e-6)
    assert slopes[1, 0, 1].sum().item() == pytest.approx(-0.012246, abs=1e-6)
    # the corners are plain DPO on their own labels
    plain, _ = make_preference("sigmoid").coefficients(batch)
    assert values[0].tolist() == pytest.approx([plain[0, 0].item(), 0])
    assert values[2].tolist() == pytest.approx([0, plain[2, 1].item()])


@pytest.mark.parametrize(
    ("weight", "h", "value", "slope"), [(0.5, 0.1, 0.644397, -0.095004), (0.2, -0.2, 0.798139, -0.274917)]
)
def test_modpo_of_one_label_set_is_the_published_one(weight, h, value, slope):
    batch = view(
        [[-10.0, -12.0]],
        [[-11.0, -11.0]],
        labels=[[1.0, NAN]],
        trade=torch.tensor([[weight, 1 - weight]], dtype=torch.float64),
        rewards=torch.tensor([[0.0, 0.3]], dtype=torch.float64),
    )
    found, slopes = make_preference("modpo").coefficients(batch)
    # the published loss is that of the label set, without the weight before it
    assert found[0, 0].item() / weight == pytest.approx(value, abs=1e-6)
    assert math.log(1 + math.exp(-h)) == pytest.approx(value, abs=1e-6)
    assert slopes[0, 0, 0, 0].item() / weight == pytest.approx(slope, abs=1e-6)


def test_modpo_is_bounded_at_small_weights():
    generator = torch.Generator().manual_seed(0)
    for weight in (0.02, 0.002, 1e-6):
        batch = random_view(1, m=2, soft=False, missing=0.0)
        trade = torch.tensor([[weight, 1 - weight]] * 3, dtype=torch.float64)
        batch = replace(batch, trade=trade, rewards=50 * torch.randn(len(batch.pairs), 2, generator=generator).double())
        values, slopes = make_preference("modpo").coefficients(batch)
        assert torch.isfinite(values).all()
        assert slopes.sum(-1).abs().max() <= 0.1 * 2


def test_logit_pooling_refuses_certain_labels():
    trade = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    batch = view([[-10.0, -12.0]], [[-11.0, -11.0]], labels=[[0.8, 0.4]], trade=trade)
    odds = math.sqrt(4 * 2 / 3)
    target = odds / (1 + odds)
    x = 0.2
    expected = target * math.log(1 + math.exp(-x)) + (1 - target) * math.log(1 + math.exp(x))
    assert make_preference("logit_pool").values(batch).sum().item() == pytest.approx(expected)
    with pytest.raises(ConfigError, match="no finite optimum"):
        make_preference("logit_pool").values(replace(batch, labels=torch.tensor([[1.0, 0.4]])))
    assert torch.isnan(make_preference("logit_pool").values(replace(batch, labels=torch.tensor([[NAN, 0.4]])))).all()


# ------------------------------------------------------------------------------------------------ lists, labels, errors


def test_a_list_of_losses_with_weights():
    rpo = make_losses(["sigmoid", "sft"], [1.0, 0.2])
    values, slopes = rpo.coefficients(Q)
    assert values.item() == pytest.approx(0.998139, abs=1e-6)
    assert slopes.flatten().tolist() == pytest.approx([-0.085017, 0.045017], abs=1e-6)
    assert not rpo.rank_one
    assert rpo.couples_batch
    mpo = make_losses(["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0], beta=0.2)
    parts = [
        make_losses(name, beta=0.2) if name != "sft" else make_losses(name) for name in ("sigmoid", "bco_pair", "sft")
    ]
    expected = sum(w * part.values(Q).item() for part, w in zip(parts, (0.8, 0.2, 1.0), strict=True))
    assert mpo.values(Q).item() == pytest.approx(expected)


def test_sums_of_losses_of_one_factor_stay_of_rank_one():
    assert make_losses(["sigmoid", "hinge"]).rank_one
    assert make_losses(["sigmoid", "aot"]).rank_one
    assert not make_losses(["sigmoid", "sigmoid_norm"]).rank_one


def test_a_tie_counts_in_the_part_that_learns_from_it():
    tied = replace(Q, labels=torch.tensor([[0.5]], dtype=torch.float64))
    found = make_losses(["sigmoid", "sft"], [1.0, 0.2]).values(tied).item()
    assert found == pytest.approx(make_preference("sigmoid").values(tied).item())
    assert torch.isnan(make_preference("hinge").values(tied)).all()
    assert torch.isnan(make_preference("sigmoid").values(replace(tied, drop_ties=True))).all()


def test_each_objective_is_a_mean_over_its_own_labels():
    """Labels that are missing at random leave an objective's loss where it is, and not smaller."""
    labels = [[1.0, 1.0]] + [[1.0, NAN]] * 9
    batch = view([[-10.0, -12.0]] * 10, [[-11.0, -11.0]] * 10, labels=labels)
    values, slopes = make_preference("sigmoid").coefficients(batch)
    assert values[0, 0].item() == pytest.approx(values[0, 1].item())
    assert slopes[0, :, 0].sum(0).tolist() == pytest.approx([-0.045017] * 2, abs=1e-6)


def test_parts_of_a_batch_add_up_to_it():
    batch = random_view(2, N=6, missing=0.0)
    loss = make_preference("sigmoid")
    totals = loss.counted(batch).sum(0)
    whole, slopes = loss.coefficients(batch)
    values, found = torch.zeros_like(whole), torch.zeros_like(slopes)
    for part in (slice(0, 2), slice(2, 6)):
        one = replace(
            batch,
            pairs=batch.pairs[part],
            labels=batch.labels[part],
            weights=batch.weights[part],
            margins=None,
            rewards=None,
            totals=totals,
        )
        value, slope = loss.coefficients(one)
        values, found = values + value, found + slope
    torch.testing.assert_close(values, whole)
    torch.testing.assert_close(found, slopes)


def test_weighting_by_confidence_is_without_gradient():
    confident = replace(Q, confidences=torch.tensor([[[-0.5, -1.0]]], dtype=torch.float64))
    plain, weighed = (make_preference("sigmoid").coefficients(found) for found in (Q, confident))
    for found, expected in zip(weighed, plain, strict=True):
        torch.testing.assert_close(found, expected * math.exp(-1.5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sigmiod", "Did you mean 'sigmoid'"),
        ({"name": "sigmoid", "bta": 1}, "has no setting 'bta'"),
        ({"name": "sigmoid", "beta": 0}, "`beta` must be a positive number"),
        ({"name": "robust", "label_smoothing": 0.5}, "`label_smoothing` must be a number of at least 0 and below 0.5"),
        ({"name": "exo_pair", "label_smoothing": 0.0}, "`label_smoothing` must be a number above 0 and below 0.5"),
        ({"name": "sigmoid", "f_divergence_type": "kl"}, "one of reverse_kl, forward_kl"),
        ({"name": "inpo", "tau": 1.0}, "tau of at most eta"),
        ({"name": "nca_pair", "f_divergence_type": "forward_kl"}, "has no setting 'f_divergence_type'"),
    ],
)
def test_what_is_wrong_is_said(given, message):
    with pytest.raises(ConfigError, match=message):
        make_preference(given)


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="2 numbers, one a loss"):
        make_losses(["sigmoid", "sft"], [1.0])
    with pytest.raises(ConfigError, match="all are of pairs, or all of responses"):
        make_losses(["sigmoid", "kto"])
    with pytest.raises(ConfigError, match="None of the losses sigmoid has a setting 'simpo_gamma'"):
        make_losses("sigmoid", simpo_gamma=1.0)
    with pytest.raises(ConfigError, match="built already"):
        make_losses(make_preference("sigmoid"), beta=1.0)
    with pytest.raises(ConfigError, match="at least one loss"):
        Combined([])


def test_marks_are_not_pairs():
    marked = replace(Q, pairs=torch.empty(0, 3, dtype=torch.long), labels=torch.empty(0, 1), marks=torch.ones(1, 2, 1))
    with pytest.raises(ConfigError, match=r"'sigmoid' learns from pairs.*Use one of apo_zero_unpaired, kto"):
        make_preference("sigmoid").values(marked)
    with pytest.raises(ConfigError, match=r"'kto' learns from marks.*Use one of .*sigmoid.*unpaired\(\)"):
        make_preference("kto").values(replace(Q, kl=torch.zeros(1)))
    with pytest.raises(ConfigError, match="compares with a reference"):
        make_preference("sigmoid").values(replace(Q, reference=None))


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ConfigError, match=r"labels must have shape \[1, m\]"):
        replace(Q, labels=torch.ones(2, 1))
    with pytest.raises(ConfigError, match=r"reference must have shape \[1, 1, 2\]"):
        replace(Q, reference=torch.ones(2, 1, 2))
    with pytest.raises(ConfigError, match="trade must have shape"):
        replace(Q, trade=torch.ones(2, 1))


def test_a_config_of_trl_is_read():
    from types import SimpleNamespace

    from pareto_align.learning.preferences import losses_of_trl

    config = SimpleNamespace(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.2], beta=0.1, label_smoothing=0.1)
    loss, ignored = losses_of_trl(config)
    assert loss.values(Q).item() == pytest.approx(0.998139, abs=1e-6)  # as in TRL, smoothing is not for "sigmoid"
    assert ignored == []
    config.loss_type, config.loss_weights = ["robust"], None
    assert losses_of_trl(config)[0].values(Q).item() == pytest.approx(0.573139, abs=1e-6)


# ------------------------------------------------------------------------------------------------ the contract


def contract(name: str, **attributes: object) -> type[PreferenceLossContract]:
    def make(self: PreferenceLossContract) -> PreferenceLoss:
        return make_losses(name) if isinstance(name, list) else make_preference(name)

    return type(f"Test{name}", (PreferenceLossContract,), {"make": make, **attributes})


PULLS = {"tpo", "tpo-l"}  # gold responses are imitated, whatever the labels are
for _name in (*TRL, *OURS):
    globals()[f"Test_{_name}"] = contract(_name, pulls_at_ties=_name in PULLS)
for _more in ("forward_kl", "js_divergence", "alpha_divergence"):
    globals()[f"Test_sigmoid_{_more}"] = contract({"name": "sigmoid", "f_divergence_type": _more})
    globals()[f"Test_ipo_{_more}"] = contract({"name": "ipo", "f_divergence_type": _more})
Test_biased = contract({"name": "cpo", "negative_bias": 0.5})
Test_margin_only = contract({"name": "cpo", "cpo_alpha": 0.0})
Test_rpo = contract(["sigmoid", "sft"])
Test_conditional = contract({"name": "sigmoid", "reference": "conditional"})


def test_the_contract_finds_a_wrong_flag(monkeypatch):
    monkeypatch.setattr(preference_losses, "_classes", dict(preference_losses._classes))

    @register_preference("wrong")
    class Wrong(type(make_preference("sigmoid"))):
        """Says that it is of rank one, and looks at the preferred response's own likelihood."""

        def losses(self, view: PairView) -> torch.Tensor:
            return super().losses(view) - 0.1 * view.winners(view.logps)[0]

    with pytest.raises(AssertionError):
        contract("wrong")().test_rank_one_is_true()
