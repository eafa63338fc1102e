"""What policies make of held-out comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pareto_align.learning.explained import explained, explained_rows, ranked, statements
from pareto_align.learning.preferences import PairView, make_preference

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


def accuracy(batch, beta):
    return ranked(statements(batch, beta))


def test_the_untrained_policy_explains_exactly_nothing():
    batch = view([[[-10.0, -10.0]] * 3], [[1.0, 0.0], [0.7, 0.5], [NAN, 1.0]])
    np.testing.assert_array_equal(explained_rows(batch, 0.1), [[[0, 0], [0, 0], [NAN, 0]]])
    np.testing.assert_array_equal(explained(batch, 0.1), [[0, 0]])
    np.testing.assert_array_equal(accuracy(batch, 0.1), [[0.5, 0.5]])


def test_explained_is_what_the_loss_says_of_each_prompt():
    batch = view([[[-9.0, -11.0], [-12.0, -10.5]], [[-10.0, -12.0], [-9.0, -10.0]]], [[1.0, 0.25], [0.0, 0.5]])
    found = explained_rows(batch, 0.1)
    losses, values = make_preference("sigmoid").losses(batch), make_preference("sigmoid").values(batch)
    torch.testing.assert_close(found, 1 - losses.float() / math.log(2))
    torch.testing.assert_close(explained(batch, 0.1), 1 - values / math.log(2))


def test_all_pairs_of_a_prompt_count():
    batch = view([[[-9.0, -10.0, -11.0]]], [[1.0], [1.0], [0.0]])
    assert explained_rows(batch, 1.0).shape == (1, 1, 1)
    assert accuracy(batch, 1.0).item() == 2 / 3


def test_accuracy_of_soft_labels():
    right, wrong = view([[[-9.0, -10.0]]], [[0.8]]), view([[[-10.0, -9.0]]], [[0.8]])
    assert accuracy(right, 0.1).item() == 0.8
    assert accuracy(wrong, 0.1).item() == pytest.approx(0.2)


def test_weights_count_judgements():
    weights = torch.tensor([[3.0], [1.0], [1.0]])
    batch = view([[[-9.0, -10.0, -11.0]]], [[1.0], [1.0], [0.0]], weights=weights)
    assert accuracy(batch, 1.0).item() == 0.8
