"""What policies make of held-out comparisons."""

from __future__ import annotations

import math

import numpy as np
import torch

from pareto_align.learning.preferences import PairView, make_preference, measure_pairs

NAN = math.nan


def view(logps, labels, reference=None, **more):
    l = torch.tensor(logps, dtype=torch.float64)
    _, N, G = l.shape
    return PairView(
        logps=l,
        reference=torch.full((1, N, G), -10.0, dtype=torch.float64) if reference is None else reference,
        lengths=torch.full((N, G), 4),
        pairs=torch.tensor([(n, a, b) for n in range(N) for a in range(G) for b in range(a + 1, G)]),
        labels=torch.tensor(labels, dtype=torch.float64),
        **more,
    )


def test_the_untrained_policy_explains_exactly_nothing():
    found = measure_pairs(view([[[-10.0, -10.0]] * 3], [[1.0, 0.0], [0.7, 0.5], [NAN, 1.0]]), 0.1)
    np.testing.assert_array_equal(found.explained, [[[0, 0], [0, 0], [NAN, 0]]])
    np.testing.assert_array_equal(found.accuracy, [[[0.5, 0.5], [0.5, 0.5], [NAN, 0.5]]])


def test_explained_is_what_the_loss_says_of_each_prompt():
    batch = view([[[-9.0, -11.0], [-12.0, -10.5]], [[-10.0, -12.0], [-9.0, -10.0]]], [[1.0, 0.25], [0.0, 0.5]])
    found = measure_pairs(batch, 0.1)
    losses = make_preference("sigmoid").losses(batch)
    torch.testing.assert_close(found.explained, 1 - losses / math.log(2))
    values = make_preference("sigmoid").values(batch)
    torch.testing.assert_close(found.explained.mean(1), 1 - values / math.log(2))


def test_a_prompt_is_one_unit_however_many_pairs_it_has():
    batch = view([[[-9.0, -10.0, -11.0]]], [[1.0], [1.0], [0.0]])
    found = measure_pairs(batch, 1.0)
    assert found.explained.shape == (1, 1, 1)
    assert found.accuracy.item() == 2 / 3


def test_accuracy_of_soft_labels_and_ties():
    found = measure_pairs(view([[[-9.0, -10.0]], [[-10.0, -9.0]]], [[0.8, 0.5]]), 0.1)
    np.testing.assert_allclose(found.accuracy[:, 0], [[0.8, 0.5], [0.2, 0.5]])
    assert torch.isnan(found.margins[:, 0, 1]).all()
    np.testing.assert_allclose(found.margins[:, 0, 0], [0.1, -0.1])


def test_displacement_is_seen():
    batch = view([[[-10.8, -16.0]], [[-9.2, -16.0]]], [[1.0]])
    found = measure_pairs(batch, 0.1)
    np.testing.assert_allclose(found.chosen[:, 0, 0], [-0.2, 0.2])
    np.testing.assert_allclose(found.rejected[:, 0, 0], [-1.5, -1.5])
    np.testing.assert_array_equal(found.displaced[:, 0, 0], [1, 0])
    # both explain the label by more than nothing, which is why it has to be looked for
    assert (found.explained > 0).all()


def test_weights_count_judgements():
    weights = torch.tensor([[3.0], [1.0], [1.0]])
    batch = view([[[-9.0, -10.0, -11.0]]], [[1.0], [1.0], [0.0]], weights=weights)
    assert measure_pairs(batch, 1.0).accuracy.item() == 0.8
