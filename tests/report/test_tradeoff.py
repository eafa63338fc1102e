from __future__ import annotations

import math

import numpy as np
import pytest
from front_records import estimate, objective, paired, record, tone_and_length
from scipy.stats import t

from pareto_align.errors import ConfigError
from pareto_align.front.estimates import Estimate
from pareto_align.report.prices_plot import draw_prices, prices_info
from pareto_align.report.tradeoff_plot import cut_bands, exchange_rate, tradeoff_info


def test_prices_in_the_users_units():
    (found,) = tradeoff_info(tone_and_length())
    assert (found.gain.name, found.cost.name) == ("tone", "length")
    # from c (0.3, 10) to b (0.6, 30) to a (0.8, 60): 20 words for 0.3 tone, then 30 for 0.2
    assert [(e.start, e.end) for e in found.exchanges] == [("c", "b"), ("b", "a")]
    assert [e.rate for e in found.exchanges] == pytest.approx([20 / 0.3, 30 / 0.2])
    assert found.exchanges[0].gained == pytest.approx((0.3, 0.6))
    assert all(e.resolved and e.low < e.rate < e.high for e in found.exchanges)
    assert found.unit == 0.1
    assert found.quoted == "+0.1 tone"


def test_buying_less_of_a_minimised_objective():
    (found,) = tradeoff_info(tone_and_length(), gain="length")
    assert found.cost.name == "tone"
    assert found.quoted == "-10 length"
    # from a (60 words) down to b (30) to c (10)
    assert [e.rate for e in found.exchanges] == pytest.approx([0.2 / 30, 0.3 / 20])
    assert found.exchanges[0].gained == pytest.approx((60, 30))


def test_interval_is_fiellers():
    # gain 0.3 with error sqrt(2) * 0.02, loss 20 with error sqrt(1 + 4); independent
    rate, low, high, resolved = exchange_rate(
        estimate([0.3, -10.0], [0.02, 1.0]), estimate([0.6, -30.0], [0.02, 2.0]), 0, 1
    )
    assert resolved
    assert rate == pytest.approx(20 / 0.3)
    # by its definition: the ends are the rates at which loss - rate * gain is just as many standard errors from zero
    # as Student's t of 64 prompts reaches
    for end in (low, high):
        distance = abs(20 - end * 0.3) / math.sqrt(1 + 4 + end**2 * 2 * 0.02**2)
        assert distance == pytest.approx(t.ppf(0.975, 63))


def test_interval_covers_the_true_rate_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        start, end = (
            Estimate.from_samples(np.array(mean) + rng.normal(size=(40, 2)) * 0.3, range(40))
            for mean in ([0.3, 0.6], [0.5, 0.2])
        )
        _, low, high, _ = exchange_rate(start, end, 0, 1)
        hits += low <= 0.4 / 0.2 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_what_prompts_share_cancels():
    start, end = paired([[0.3, 0.6], [0.5, 0.2]], noise=0.1)
    alone = [Estimate(e.mean, e.covariance, e.n) for e in (start, end)]
    _, low, high, _ = exchange_rate(start, end, 0, 1)
    _, apart_low, apart_high, _ = exchange_rate(*alone, 0, 1)
    assert high - low < 0.7 * (apart_high - apart_low)


def test_a_gain_within_noise_has_no_price():
    rate, low, high, resolved = exchange_rate(estimate([0.3, 0.6]), estimate([0.31, 0.2]), 0, 1)
    assert not resolved
    assert (low, high) == (-math.inf, math.inf)
    assert math.isfinite(rate)


def test_members_that_cannot_be_told_apart_are_passed_over():
    estimates = [estimate([x, y], 0.02) for x, y in [(0.1, 0.9), (0.11, 0.8), (0.5, 0.5), (0.51, 0.4)]]
    (found,) = tradeoff_info(record([objective("x"), objective("y")], estimates, ids=list("abcd")))
    assert [(e.start, e.end, e.resolved) for e in found.exchanges] == [("a", "c", True), ("c", "d", False)]


def test_single_measurements_have_no_interval():
    _, low, high, resolved = exchange_rate(estimate([0.3, 0.6], 0.0, n=1), estimate([0.5, 0.2], 0.0, n=1), 0, 1)
    assert resolved
    assert math.isnan(low)
    assert math.isnan(high)


def test_members_dominated_on_the_pair_are_left_out():
    estimates = [estimate(v) for v in ([0.9, 0.1, 0.2], [0.1, 0.9, 0.2], [0.05, 0.05, 0.9])]
    names = ["x", "y", "z"]
    found = tradeoff_info(record([objective(n) for n in names], estimates))
    assert [(t.gain.name, t.cost.name) for t in found] == [("x", "y"), ("x", "z"), ("y", "z")]
    assert [(e.start, e.end) for e in found[0].exchanges] == [("p1-s40", "p0-s40")]


@pytest.mark.parametrize(
    ("values", "undominated", "missing"),
    [
        ([], (), "no members: nothing to exchange"),
        ([[0.1, 0.2]], ("p0-s40",), "one member: nothing to exchange"),
        (
            [[0.1, 0.2], [0.3, 0.4]],
            ("p1-s40",),
            "of 2 members only p1-s40 is undominated\non these two objectives and these prompts",
        ),
        ([[0.3, 0.2], [0.1, 0.4]], ("p1-s40", "p0-s40"), ""),
    ],
)
def test_why_there_is_nothing_to_exchange(values, undominated, missing):
    (found,) = tradeoff_info(record([objective("a"), objective("b")], [estimate(v) for v in values]))
    assert found.undominated == undominated
    assert found.members == len(values)
    assert found.missing == missing


def test_bands_that_end_beyond_the_panel_are_known():
    estimates = [estimate(v, 0.005) for v in ([0.1, 0.9], [0.12, 0.6], [0.5, 0.5])]
    (found,) = tradeoff_info(record([objective("x"), objective("y")], estimates))
    first, second = found.exchanges
    assert first.resolved
    assert second.resolved
    assert first.high > 2.5 * first.rate
    assert cut_bands(found) == ((0, first.high * found.unit),)
    (narrow,) = tradeoff_info(tone_and_length())
    assert cut_bands(narrow) == ()


def test_with_many_objectives_one_is_bought():
    names = list("abcd")
    found = tradeoff_info(record([objective(n) for n in names], [estimate([0.1] * 4)]))
    assert [(t.gain.name, t.cost.name) for t in found] == [("a", "b"), ("a", "c"), ("a", "d")]
    assert found[0].exchanges == ()
    (one,) = tradeoff_info(record([objective(n) for n in names], [estimate([0.1] * 4)]), "d", "b")
    assert (one.gain.name, one.cost.name) == ("d", "b")


def test_wrong_names():
    with pytest.raises(ConfigError, match=r"'toxicity' is not an optimized objective of this front\. It has 'tone'"):
        tradeoff_info(tone_and_length(), gain="toxicity")
    with pytest.raises(ConfigError, match="must be two objectives"):
        tradeoff_info(tone_and_length(), "tone", "tone")
    with pytest.raises(ConfigError, match="one objective has no trade-off"):
        tradeoff_info(record([objective("a")], []))


def test_prices_are_drawn_though_a_member_has_no_mean():
    means = [[0.9, 0.1, 0.5], [0.5, 0.5, 0.6], [0.1, 0.9, 0.4], [np.nan, 0.2, 0.3]]
    made = record([objective(name) for name in "abc"], [estimate(mean) for mean in means])
    found = prices_info(made)
    assert found.quoted[0] == "+0.1 a"
    draw_prices(found)
    alone = record([objective(name) for name in "abc"], [estimate(means[3])])
    draw_prices(prices_info(alone))
