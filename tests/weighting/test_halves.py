"""MoDo and ParetoDA: contract, gold rows, parity with torchjd, and what two independent halves are there for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_align.errors import ConfigError
from pareto_align.testing.weighting import GramianWeightingContract
from pareto_align.weighting import MGDA, MoDo, ParetoDA, Signal, Weighting
from pareto_align.weighting.halves import aligned_with


class TestMoDo(GramianWeightingContract):
    def make(self) -> Weighting:
        return MoDo()


class TestMoDoRaw(GramianWeightingContract):
    scale_free = False

    def make(self) -> Weighting:
        return MoDo(raw=True, gamma=0.01, rho=0.0)


class TestParetoDA(GramianWeightingContract):
    def make(self) -> Weighting:
        return ParetoDA()


class TestParetoDARaw(GramianWeightingContract):
    def make(self) -> Weighting:
        return ParetoDA(raw=True)


def feed(weighting: Weighting, *cross: object, gramian: object = None, preference: object = None) -> np.ndarray:
    """The row [m] of one policy after the last of the products between halves ([m, m] each)."""
    arrays = [np.asarray(c, dtype=float) for c in cross]
    m = len(arrays[0])
    wanted = np.full(m, 1 / m) if preference is None else np.asarray(preference, dtype=float)
    weighting.setup(1, m)
    for step, array in enumerate(arrays):
        whole = array if gramian is None else np.asarray(gramian, dtype=float)
        signal = Signal(
            step, 10, np.zeros((1, m)), wanted[None], gramians=np.array(whole)[None], cross_gramians=array[None]
        )
        row = weighting(signal)[0]
    return row


# MoDo.


def test_modo_gold_rows() -> None:
    products = [[1.0, 0.0], [0.0, 3.0]]
    raw = {"raw": True, "gamma": 0.1, "rho": 0.0}
    # The first batch is weighed by the preference.
    np.testing.assert_allclose(feed(MoDo(**raw), products, preference=[0.3, 0.7]), [0.3, 0.7])
    # C w = (.5, 1.5); (.45, .35) lacks .2 of sum 1: (.55, .45).
    np.testing.assert_allclose(feed(MoDo(**raw), products, products), [0.55, 0.45])
    # With rho = .1: C w + .1 (w - p) = (.555, 1.345); (.4945, .3155) lacks .19: (.5895, .4105).
    pulled = {**raw, "rho": 0.1}
    np.testing.assert_allclose(feed(MoDo(**pulled), products, products, products), [0.5895, 0.4105])
    # At unit length the two are alike and nothing moves; half a cosine between the halves is half the slope.
    np.testing.assert_allclose(feed(MoDo(gamma=0.1), products, products), [0.5, 0.5])
    agreed = feed(MoDo(gamma=0.1, rho=0.0), [[0.5, 0], [0, 0]], [[0.5, 0], [0, 0]], gramian=np.eye(2))
    np.testing.assert_allclose(agreed, [0.5 - 0.0125, 0.5 + 0.0125])  # slope (.25, 0), times .1, less its mean


def test_an_objective_without_gradient_keeps_its_weight_under_modo() -> None:
    products = np.diag([1.0, 1.0, 0.0])
    row = feed(MoDo(gamma=0.5, rho=0.0), products, products, preference=[0.6, 0.2, 0.2])
    # Of the .8 that the others share, (.75, .25) moves to (.75, .25) - .5 (.75, .25), made up to 1: (.625, .375).
    np.testing.assert_allclose(row, [0.8 * 0.625, 0.8 * 0.375, 0.2])


@pytest.mark.parametrize(("gamma", "rho"), [(0.05, 0.1), (0.3, 0.0)])
def test_modo_is_torchjds(gamma: float, rho: float) -> None:
    torch, aggregation = pytest.importorskip("torch"), pytest.importorskip("torchjd.aggregation")
    theirs, ours = aggregation.MoDoWeighting(gamma=gamma, rho=rho), MoDo(gamma=gamma, rho=rho, raw=True)
    rng = np.random.default_rng(0)
    ours.setup(1, 3)
    expected = np.full(3, 1 / 3)
    for step in range(12):
        first, second = rng.standard_normal((2, 3, 5))
        products = (first @ second.T)[None]
        signal = Signal(step, 12, np.zeros((1, 3)), np.full((1, 3), 1 / 3), gramians=products, cross_gramians=products)
        np.testing.assert_allclose(ours(signal)[0], expected, atol=1e-12)
        expected = theirs(torch.from_numpy(products[0])).numpy()  # theirs are for the batch they were made of


def test_noise_does_not_move_modo_from_the_weights_of_the_expected_gradients() -> None:
    # g = (2, 0) and (0, 1): the shortest mixture is (.2, .8). Noise of variance 1 in 20 dimensions adds 20 to both
    # diagonal entries of a batch's Gramian, whose shortest mixture is then (21, 24) / 45.
    rng = np.random.default_rng(0)
    expected = np.zeros((2, 20))
    expected[0, 0], expected[1, 1] = 2, 1
    modo, mgda = MoDo(raw=True, gamma=0.001, rho=0.0), MGDA(raw=True)
    modo.setup(1, 2)
    mgda.setup(1, 2)
    seen, batches = [], []
    for step in range(4000):
        halves = expected + np.sqrt(2) * rng.standard_normal((2, 2, 20))
        whole = halves.mean(axis=0)
        signal = Signal(
            step,
            4000,
            np.zeros((1, 2)),
            np.full((1, 2), 0.5),
            gramians=(whole @ whole.T)[None],
            cross_gramians=(halves[0] @ halves[1].T)[None],
        )
        seen.append(modo(signal)[0])
        batches.append(mgda(signal)[0])
    np.testing.assert_allclose(np.mean(seen[1500:], axis=0), [0.2, 0.8], atol=0.06)
    assert np.mean(batches, axis=0)[0] > 0.4


# ParetoDA.


def test_pareto_da_gold_rows() -> None:
    conflict = [[1.0, -0.5], [-0.5, 1.0]]
    # The second objective may fall as fast as along the surrogate, .2: -.5 b_1 + b_2 >= -.2 holds up to b_1 = .8.
    np.testing.assert_allclose(aligned_with(conflict, [1.0, -0.2]), [0.8, 0.2])
    # Nothing is aligned: nobody may fall, 1/3 <= b_1 <= 2/3, and less of the second is better.
    np.testing.assert_allclose(aligned_with(conflict, [-0.1, -0.3]), [2 / 3, 1 / 3])
    # All are aligned: the best alone.
    np.testing.assert_allclose(aligned_with([[1.0, 0.5], [0.5, 1.0]], [0.6, 0.7]), [0.0, 1.0])


def test_pareto_da_follows_its_surrogate_on_the_other_half() -> None:
    # Lengths (2, 1), cosine -.5. Held out, the first objective is aligned with itself by .8 of 4 and with the second
    # by -.2 of 2: a = (1.6, -.2) at unit length, per length 2 of the surrogate (.8, -.1). -.5 b_1 + b_2 >= -.1 up to
    # b_1 = 11/15; the weights are (11/15 / 2, 4/15), scaled to sum 1.
    gramian, cross = [[4.0, -1.0], [-1.0, 1.0]], [[3.2, 0.1], [-0.5, 1.0]]
    row = feed(ParetoDA(surrogate=[2.0, 0.0]), cross, gramian=gramian, preference=[0.1, 0.9])
    np.testing.assert_allclose(row, np.array([11 / 30, 8 / 30]) / (19 / 30))
    # By default the surrogate is the policy's own mixture.
    same = feed(ParetoDA(), cross, gramian=gramian, preference=[1.0, 0.0])
    np.testing.assert_allclose(same, row)
    assert feed(ParetoDA(), cross, gramian=gramian, preference=[0.0, 1.0])[1] > 0.5


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_no_mixture_that_keeps_the_bounds_goes_further(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = rng.standard_normal((3, 4))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    gramian, along = units @ units.T, units @ rng.standard_normal(4)
    found = aligned_with(gramian, along)
    bounds = np.where(along > 0, -np.inf, along) if (along > 0).any() else np.zeros(3)
    bounds[along.argmax()] = 0.0
    assert (gramian @ found >= bounds - 1e-7).all()
    others = rng.dirichlet(np.ones(3), 4000)
    allowed = others[(others @ gramian >= bounds).all(axis=1)]
    assert (allowed @ along).max(initial=-np.inf) <= found @ along + 1e-7


# What is wrong is named.


@pytest.mark.parametrize("make", [MoDo, ParetoDA])
def test_products_between_halves_are_asked_for(make: type[Weighting]) -> None:
    weighting = make()
    assert weighting.requires == {"gramians", "cross_gramians"}
    weighting.setup(1, 2)
    with pytest.raises(ConfigError, match="cross_gramians"):
        weighting(Signal(0, 1, np.zeros((1, 2)), np.full((1, 2), 0.5), gramians=np.eye(2)[None]))


def test_products_that_are_not_finite_move_nothing() -> None:
    broken = np.full((2, 2), np.nan)
    np.testing.assert_allclose(feed(MoDo(), broken, broken, gramian=np.eye(2), preference=[0.3, 0.7]), [0.3, 0.7])
    np.testing.assert_allclose(feed(ParetoDA(), broken, gramian=np.eye(2), preference=[0.3, 0.7]), [0.3, 0.7])


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (MoDo, {"gamma": 0.0}, "gamma"),
        (MoDo, {"rho": -1.0}, "rho"),
        (ParetoDA, {"surrogate": [0.0, 0.0]}, "surrogate"),
        (ParetoDA, {"surrogate": [1.0, -1.0]}, "surrogate"),
    ],
)
def test_settings_out_of_range(make: type[Weighting], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_a_surrogate_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 numbers"):
        ParetoDA(surrogate=[1.0, 0.0, 0.0]).setup(1, 2)
