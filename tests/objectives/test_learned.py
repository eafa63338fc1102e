"""Objectives learned from comparisons on features: golds, and recovery of what the comparisons were drawn from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pareto_align.errors import ConfigError
from pareto_align.objectives.learned import (
    Judged,
    bradley_terry,
    calibration_error,
    choose_groups,
    fit_comparisons,
    fit_embeddings,
    fit_ideal_points,
    fit_mixture,
    fit_ratings,
    fit_scores,
    read_scores,
    ridge,
    skew,
    temperature,
)
from pareto_align.objectives.learned.heads import cross_entropy
from pareto_align.objectives.learned.ideal_points import IdealPoints


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


# ------------------------------------------------------------------------------------------------ heads


def test_ridge_is_the_closed_form():
    features = [[1, 0], [0, 1], [1, 1]]
    np.testing.assert_allclose(ridge(features, [1, 2, 3], 1.0), [0.875, 1.375])


def test_the_temperature_is_the_best_one():
    gaps, labels = [2, 1, -0.5, 0.3, -1.2], [1, 1, 1, 0, 0]
    t = temperature(gaps, labels)
    assert t == pytest.approx(1.378, abs=1e-3)
    assert cross_entropy(gaps, labels).mean() == pytest.approx(0.506381, abs=1e-6)
    assert cross_entropy(t * np.array(gaps), labels).mean() == pytest.approx(0.495684, abs=1e-6)
    grid = [cross_entropy(one * np.array(gaps), labels).mean() for one in np.linspace(0.01, 5, 2000)]
    assert cross_entropy(t * np.array(gaps), labels).mean() <= min(grid) + 1e-9
    assert temperature([-1.0, -2.0, -1.5], [1, 1, 0]) == 0  # a head that is wrong is not turned round
    weighted = temperature([1, 1], [1, 0], weights=[3, 1])
    assert sigmoid(weighted) == pytest.approx(0.75)
    assert temperature([], []) == temperature([0.0], [1]) == 0  # nothing is said
    # all foreseen: n right answers and half a one each way have the best share (n + 1/2) / (n + 1) at equal gaps
    for n in (1, 4, 40):
        assert sigmoid(2.0 * temperature([2.0] * n, [1] * n)) == pytest.approx((n + 0.5) / (n + 1), abs=1e-6)


def test_the_newton_step_ends_where_the_gradient_is_zero():
    rng = np.random.default_rng(0)
    x, both = rng.normal(size=(200, 4)), rng.normal(size=(200, 4))
    labels, weights, margins = rng.random(200), rng.integers(1, 4, 200), rng.random(200)
    v = bradley_terry(x, labels, weights=weights, margins=margins, penalty=0.3, sums=both, center=0.05)

    def loss(v):
        ahead, behind = x @ v - margins, -(x @ v) - margins
        fit = weights * (labels * np.logaddexp(0, -ahead) + (1 - labels) * np.logaddexp(0, -behind))
        return fit.sum() + 0.15 * v @ v + 0.05 * ((both @ v) ** 2).sum()

    for along in np.eye(4):
        assert (loss(v + 1e-5 * along) - loss(v - 1e-5 * along)) / 2e-5 == pytest.approx(0, abs=1e-4)


def test_separable_comparisons_are_finite():
    v = bradley_terry([[1.0], [2.0]], [1, 1], penalty=1e-2)
    assert np.isfinite(v).all()
    assert v[0] > 1


def test_the_calibration_error_of_a_calibrated_judge_is_small():
    rng = np.random.default_rng(1)
    p = rng.random(20_000)
    labels = (rng.random(20_000) < p).astype(float)
    assert calibration_error(p, labels) < 0.02
    assert calibration_error(np.full(1000, 0.9), np.full(1000, 0.4)) == pytest.approx(0.5)


def test_heads_recover_what_comparisons_were_drawn_from():
    rng = np.random.default_rng(2)
    truth = np.array([[1.5, -1.0, 0.5], [0.0, 2.0, 1.0]])
    features = rng.normal(size=(6000, 3))
    pairs = rng.permutation(6000).reshape(-1, 2)
    gaps = (features[pairs[:, 0]] - features[pairs[:, 1]]) @ truth.T
    labels = (rng.random(gaps.shape) < sigmoid(gaps)).astype(float)
    labels[rng.random(gaps.shape) < 0.3] = math.nan
    heads = fit_comparisons(features, pairs, labels, ["a", "b"])
    for found, wanted in zip(heads.weights, truth, strict=True):
        assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.995
        assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(wanted), rel=0.2)
    best = np.nanmean(np.where(np.isnan(labels), np.nan, (gaps > 0) == (labels > 0.5)), axis=0)
    for report, bayes in zip(heads.report, best, strict=True):
        assert report.accuracy == pytest.approx(bayes, abs=0.05)
        assert report.temperature == pytest.approx(1, abs=0.15)
        assert report.cross_entropy < math.log(2)
        assert report.error < 0.08
    assert heads.scores(features[:5]).shape == (5, 2)


def test_a_prompt_is_not_on_both_sides_of_the_measurement():
    """Labels that are of the prompt alone cannot be predicted for another prompt."""
    rng = np.random.default_rng(3)
    prompts = np.repeat(np.arange(50), 20)
    secret = rng.normal(size=(50, 40))
    features = np.repeat(secret, 20, axis=0)
    both = np.concatenate([features, -features])
    labels = rng.integers(0, 2, 50)[prompts].astype(float)
    pairs = np.column_stack([np.arange(1000), np.arange(1000, 2000)])
    apart = fit_comparisons(both, pairs, labels[:, None], ["x"], units=prompts)
    mixed = fit_comparisons(both, pairs, labels[:, None], ["x"])
    assert mixed.report[0].accuracy > 0.95
    assert apart.report[0].accuracy < 0.9


def test_ratings_are_regressed_attribute_by_attribute():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(500, 4))
    truth = rng.normal(size=(2, 4))
    ratings = features @ truth.T + 0.1 * rng.normal(size=(500, 2))
    ratings[rng.random(500) < 0.5, 1] = math.nan
    heads = fit_ratings(features, ratings, ["a", "b"])
    np.testing.assert_allclose(heads.weights, truth, atol=0.05)
    assert [report.accuracy > 0.95 for report in heads.report] == [True, True]
    assert heads.report[1].n < heads.report[0].n
    stars = fit_ratings(features + 2, 3 + ratings, ["a", "b"])  # neither ratings nor features are about 0
    np.testing.assert_allclose(stars.weights, truth, atol=0.05)
    np.testing.assert_allclose(stars.bias, 3 - 2 * truth.sum(1), atol=0.1)
    assert [report.accuracy > 0.95 for report in stars.report] == [True, True]


def test_too_few_labels_are_refused():
    labels = np.full((10, 1), math.nan)
    labels[0] = 1
    with pytest.raises(ConfigError, match="'x' has 1 labels: too few"):
        fit_comparisons(np.ones((20, 2)), np.arange(20).reshape(-1, 2), labels, ["x"])
    with pytest.raises(ConfigError, match=r"`labels` must have shape \[10, 2\]"):
        fit_comparisons(np.ones((20, 2)), np.arange(20).reshape(-1, 2), labels, ["x", "y"])
    with pytest.raises(ConfigError, match="needs `sums`"):
        bradley_terry([[1.0]], [1], center=0.1)


# ------------------------------------------------------------------------------------------------ users


@pytest.fixture(scope="module")
def two_groups():
    """Thirty users who want one thing and ten who want another, twenty comparisons each; 200 each to test on."""
    rng = np.random.default_rng(0)
    truth = np.array([[2.0, 0, 1, 0], [-1.0, 2, 0, 0]])
    group = (np.arange(40) >= 30).astype(int)

    def draw(count):
        features = rng.normal(size=(40, count, 2, 4))
        gaps = features[:, :, 0] - features[:, :, 1]
        labels = (rng.random((40, count)) < sigmoid(np.einsum("und,ud->un", gaps, truth[group]))).astype(float)
        return gaps, labels

    (x, s), (test_x, test_s) = draw(20), draw(200)
    return group, truth, x, s, test_x, test_s


def accuracy(scores, labels, group):
    right = (scores > 0) == (labels > 0.5)
    return [float(right[group == g].mean()) for g in (0, 1)]


@pytest.mark.parametrize("soft", [True, False])
def test_a_mixture_finds_who_wants_what(two_groups, soft):
    group, truth, x, s, test_x, test_s = two_groups
    users = np.repeat(np.arange(40), 20).tolist()
    found = fit_mixture(x.reshape(-1, 4), s.ravel(), users, 2, soft=soft)
    same = (found.groups == group).mean()
    assert max(same, 1 - same) >= 0.95
    assert sorted(found.shares) == pytest.approx([0.25, 0.75], abs=0.03)
    scores = np.einsum("und,ud->un", test_x, found.weights[found.groups])
    bayes = accuracy(np.einsum("und,ud->un", test_x, truth[group]), test_s, group)
    one = bradley_terry(x.reshape(-1, 4), s.ravel())
    single = accuracy(test_x @ one, test_s, group)
    majority, minority = accuracy(scores, test_s, group)
    assert majority > bayes[0] - 0.02
    assert minority > bayes[1] - 0.02
    assert single[1] < 0.55  # one reward for all is chance for the minority
    if soft:
        assert found.entropy.max() < 0.7


def test_a_mixture_serves_a_new_user(two_groups):
    _, truth, x, s, _, _ = two_groups
    found = fit_mixture(x.reshape(-1, 4), s.ravel(), np.repeat(np.arange(40), 20).tolist(), 2)
    minority = found.groups[-1]
    rng = np.random.default_rng(5)
    gaps = rng.normal(size=(20, 4))
    labels = (rng.random(20) < sigmoid(gaps @ truth[1])).astype(float)
    assert found.group_of(gaps, labels)[minority] > 0.9
    assert found.scores(gaps).shape == (20, 2)


def test_held_out_comparisons_choose_the_number_of_groups(two_groups):
    _, _, x, s, _, _ = two_groups
    users = np.repeat(np.arange(40), 20).tolist()
    number, values = choose_groups(x.reshape(-1, 4), s.ravel(), users, 3)
    assert number >= 2
    assert values[1] > values[0]


def test_what_a_mixture_cannot_be_of():
    with pytest.raises(ConfigError, match=r"from 1 to the number of users, 1. Found 2"):
        fit_mixture([[1.0]], [1], ["u"], 2)
    with pytest.raises(ConfigError, match="1 differences, 1 labels and 2 users"):
        fit_mixture([[1.0]], [1], ["u", "v"], 1)


def test_ideal_points_serve_new_users_after_few_comparisons():
    rng = np.random.default_rng(6)
    plane = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    ideals = np.array([[2.0, 0.0], [0.0, 2.0]])

    def places(count):
        return rng.dirichlet([0.7, 0.7], count) @ ideals

    def draw(wanted, count):
        first, second = rng.normal(size=(2, len(wanted), count, 4))
        gap = ((second @ plane.T - wanted[:, None]) ** 2).sum(-1) - ((first @ plane.T - wanted[:, None]) ** 2).sum(-1)
        return first, second, (rng.random(gap.shape) < sigmoid(gap)).astype(float), gap

    known = places(40)
    first, second, labels, _ = draw(known, 20)
    users = np.repeat(np.arange(40), 20).tolist()
    found = fit_ideal_points(
        first.reshape(-1, 4), second.reshape(-1, 4), labels.ravel(), users, 2, dimension=2, steps=800
    )
    weight = known[:, 0] / 2
    assert abs(np.corrcoef(found.mixtures[:, 0], weight)[0, 1]) > 0.8

    new = places(30)
    a, b, s, _ = draw(new, 50)
    test_a, test_b, test_s, gap = draw(new, 200)
    bayes = float(((gap > 0) == (test_s > 0.5)).mean())
    accuracies = []
    for shots in (0, 5, 20, 50):
        right = []
        for u in range(len(new)):
            mixture = found.preference_of(a[u, :shots], b[u, :shots], s[u, :shots])
            ahead = found.scores(test_a[u], mixture) - found.scores(test_b[u], mixture)
            right.append(((ahead > 0) == (test_s[u] > 0.5)).mean())
        accuracies.append(float(np.mean(right)))
    print([round(one, 3) for one in accuracies], "Bayes", round(bayes, 3))
    assert accuracies == sorted(accuracies)
    assert accuracies[2] > 0.97 * bayes
    assert accuracies[3] > 0.98 * bayes


def test_prototypes_are_the_corners_of_the_mixtures():
    points = IdealPoints(np.eye(2), np.array([[2.0, 0.0], [0.0, 2.0]]), ("u",), np.array([[0.5, 0.5]]))
    features = np.array([[1.0, 1.0], [3.0, 0.0]])
    np.testing.assert_allclose(points.scores(features), [[-2, -2], [-1, -13]])
    for z in range(2):
        np.testing.assert_allclose(points.scores(features, np.eye(2)[z]), points.scores(features)[:, z])
    np.testing.assert_allclose(points.preference_of(np.empty((0, 2)), np.empty((0, 2)), []), [0.5, 0.5])


# ------------------------------------------------------------------------------------------------ circles


def test_the_skew_score_of_a_circle():
    angles = np.array([0, 2 * np.pi / 3, 4 * np.pi / 3])
    v = np.column_stack([np.cos(angles), np.sin(angles)])
    table = skew(v[:, None], v[None])
    np.testing.assert_allclose(table, 0.866025 * np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]), atol=1e-6)
    np.testing.assert_allclose(table, -table.T)
    assert sigmoid(table[0, 1] / 0.1) == pytest.approx(0.99983, abs=1e-5)
    with pytest.raises(ConfigError, match="even number"):
        skew([1, 2, 3], [1, 2, 3])


def test_embeddings_learn_a_circle_that_no_reward_explains():
    features = np.eye(3)
    first, second = features[[0, 1, 2]], features[[1, 2, 0]]
    labels = [0.7, 0.7, 0.7]
    found = fit_embeddings(first, second, labels, tau=1.0, steps=800)
    table = found.table(features)
    assert (table[[0, 1, 2], [1, 2, 0]] > 0.5).all()
    np.testing.assert_allclose(table[[0, 1, 2], [1, 2, 0]], 0.7, atol=0.01)
    np.testing.assert_allclose(table + table.T, 1)
    np.testing.assert_allclose(found.probability(first, second), 0.7, atol=0.01)
    reward = bradley_terry(first - second, labels, penalty=1e-6)
    assert np.abs(reward).max() < 1e-3  # the best that a reward can do is to know nothing
    with pytest.raises(ConfigError, match="`planes` must be at least 1"):
        fit_embeddings(first, second, labels, planes=0)


# ------------------------------------------------------------------------------------------------ scores


def judged(kind, n=1600, seed=0):
    """Pairs of answers with features of odd units, judged by a known taste; two of three users want the opposite."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(2 * n, 3))
    taste = np.array([2.0, -1.0, 0.0])
    pairs = np.arange(2 * n).reshape(-1, 2)
    users = tuple(f"u{number % 30}" for number in range(n)) if kind in ("mixture", "pal") else None
    sign = np.array([-1.0 if users and number % 3 else 1.0 for number in range(n)])
    odds = sign * ((places[pairs[:, 0]] - places[pairs[:, 1]]) @ taste)
    labels = (rng.random(n) < sigmoid(odds)).astype(float)[:, None]
    features = 5 + places * [1.0, 100.0, 0.01]
    units = np.repeat(np.arange(n), 2)
    return Judged(features, units, pairs, labels, ("taste",), np.ones((n, 1)), users, (places @ taste)[:, None]), odds


@pytest.mark.parametrize("kind", ["bt", "regression", "mixture", "pal", "gpm"])
def test_scores_of_every_kind_find_the_taste_behind_the_labels(kind, tmp_path):
    seen, _ = judged(kind)
    steps = {"steps": 300} if kind in ("pal", "gpm") else {}
    scores = fit_scores(seen, kind, groups=2, **steps)
    new, odds = judged(kind, 500, seed=1)
    gaps = scores.of(new.features)[new.pairs[:, 0]] - scores.of(new.features)[new.pairs[:, 1]]
    if kind in ("bt", "regression"):
        assert np.corrcoef(gaps[:, 0], odds)[0, 1] > 0.99
    elif kind == "gpm":
        assert np.corrcoef(gaps[:, 0], odds)[0, 1] > 0.8
    else:  # two groups, or two prototypes, that want the opposite
        assert np.corrcoef(gaps.T)[0, 1] < -0.8
    if kind == "mixture":  # the minority is served as well as the majority
        assert [one.name for one in scores.report] == ["taste", "taste, group 1", "taste, group 2"]
        assert scores.report[1].n + scores.report[2].n == scores.report[0].n
        assert min(one.accuracy for one in scores.report) > 0.8
    scores.save(tmp_path)
    again = read_scores(tmp_path)
    np.testing.assert_array_equal(again.of(new.features), scores.of(new.features))
    assert again.names == scores.names
    assert str(again.report) == str(scores.report)  # NaN in that of a regression


@pytest.mark.parametrize("kind", ["bt", "mixture"])
def test_one_unit_of_a_score_is_one_unit_of_log_odds(kind):
    scores = fit_scores(judged(kind)[0], kind, groups=2)
    new, odds = judged("bt", 500, seed=1)
    found = scores.of(new.features)
    gaps = found[new.pairs[:, 0]] - found[new.pairs[:, 1]]
    slopes = [abs(np.polyfit(odds, column, 1)[0]) for column in gaps.T]
    assert slopes == pytest.approx([1.0] * len(slopes), abs=0.15)
