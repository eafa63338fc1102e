"""How hard comparisons are for a reference: golds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pareto_align.data.difficulty import ches, flip_losses, idealised_accuracy, idealised_margins, ranking_accuracy
from pareto_align.errors import ConfigError

GAPS = [-2, -15, 3, -25]


def test_ranking_accuracies():
    p = [0.8, 0.8, 0.6, 0.99]
    np.testing.assert_allclose(idealised_margins(GAPS, p, 0.1), [11.863, -1.137, 7.055, 20.951], atol=5e-4)
    assert idealised_accuracy(GAPS, p, 0.1) == 0.75
    assert ranking_accuracy(GAPS) == 0.25
    assert ranking_accuracy([0, 1]) == 0.75


def test_the_loss_at_which_a_pair_is_turned():
    np.testing.assert_allclose(
        flip_losses([-2, -5, -25, 0], 0.1), [0.598139, 0.474077, 0.078890, math.log(2)], atol=1e-6
    )


def test_certain_labels_have_no_ideal_margin():
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        idealised_margins([1], [1.0], 0.1)
    with pytest.raises(ConfigError, match="`beta` must be positive"):
        idealised_margins([1], [0.5], 0.0)


def test_ches():
    preferred, other = [[1, 0], [0, 1]], [[1, 0], [1, 0], [0, 1]]
    assert ches(preferred, other) == 1
    assert ches(preferred, other, per_token=True) == 0
