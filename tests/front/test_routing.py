"""Ridge regressions whose predictions of a prompt come from a fit without it."""

from __future__ import annotations

import numpy as np
import pytest

from pareto_align.errors import ConfigError
from pareto_align.front.routing import PENALTIES, regress


def data(n: int = 24, d: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.geomspace(0.01, 100, d)  # states have axes of very different lengths
    y = np.column_stack([x[:, -1] / 100 + 0.1 * rng.normal(size=n), rng.normal(size=n), np.full(n, 0.3)])
    return x, y


def plain(x: np.ndarray, y: np.ndarray, groups: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same by refitting without each group, penalty by penalty."""
    z = (x - x.mean(0)) / x.std(0)
    eigenvalues = np.linalg.svd(z, compute_uv=False) ** 2
    found = np.zeros((len(PENALTIES), *y.shape))
    for number, penalty in enumerate(PENALTIES):
        for name in set(groups):
            out = np.array(groups) == name
            a, b = z[~out], y[~out]
            if np.isfinite(penalty):
                centered = a - a.mean(0)
                system = centered.T @ centered + penalty * eigenvalues.mean() * np.eye(z.shape[1])
                slope = np.linalg.solve(system, centered.T @ (b - b.mean(0)))
                found[number, out] = (z[out] - a.mean(0)) @ slope + b.mean(0)
            else:
                found[number, out] = b.mean(0)
    return found, ((found - y) ** 2).sum(1).argmin(0)


@pytest.mark.parametrize("copies", [1, 3])
def test_left_out_predictions_are_those_of_refitting(copies: int) -> None:
    x, y = data()
    groups = [row // copies for row in range(len(x))]
    found, best = plain(x, y, groups)
    _, left_out = regress(x, y, groups)
    for column in range(2):
        np.testing.assert_allclose(left_out[:, column], found[best[column], :, column], atol=1e-8)
    np.testing.assert_allclose(left_out[:, 2], 0.3)


def test_what_prompts_say_is_found_and_what_they_do_not_is_the_mean() -> None:
    x, y = data(n=200)
    regression, left_out = regress(x, y, range(200))
    fresh, truth = data(n=200, seed=1)
    assert np.corrcoef(regression(fresh)[:, 0], truth[:, 0])[0, 1] > 0.9
    assert np.corrcoef(left_out[:, 0], y[:, 0])[0, 1] > 0.9
    assert np.ptp(regression(fresh)[:, 1]) < 1.0  # noise of deviation 1 is shrunk away
    np.testing.assert_allclose(regression(fresh)[:, 2], 0.3)


def test_one_prompt_and_missing_numbers_are_refused() -> None:
    x, y = data()
    with pytest.raises(ConfigError, match="Prompts that differ"):
        regress(x, y, ["same"] * len(x))
    with pytest.raises(ConfigError, match="finite"):
        regress(x, np.where(y > 1, np.nan, y), range(len(x)))


def test_copies_of_two_prompts_say_nothing_of_a_third() -> None:
    """Left out, a group of copies cannot be predicted by its own kind: nothing is claimed."""
    x = np.repeat([[1.0, 0.0], [0.0, 1.0]], 8, axis=0)
    y = np.repeat([[1.0], [0.0]], 8, axis=0)
    regression, left_out = regress(x, y, [row // 8 for row in range(16)])
    assert np.isfinite(left_out).all()
    assert np.isfinite(regression(x)).all()
