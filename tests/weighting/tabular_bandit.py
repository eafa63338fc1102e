"""A bandit small enough to try weightings on in a second: softmax over 16 tokens, REINFORCE, Adam, linear decay.

The whole pipeline without a language model: each step every policy draws `samples` tokens, the weighting sees the
mean rewards of that batch, the centred advantages are mixed by its weights. The verdict is exact (expected rewards of
the final softmax), so only the training is noisy. Run as a script it prints the table of docs/weightings/chebyshev.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pareto_align.front.indicators import hypervolume, hypervolume_subset
from pareto_align.weighting import Signal, Weighting, make


def flat_front(tokens: int = 16, scale: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """[tokens, 2] rewards: the ends (1, 0) and (0, 1), the rest on 0.4 of the straight line between them and below.

    Only a policy that mixes the two good tokens lies between the ends, and every mixture is on the front.
    """
    rest = tokens - 2
    along = np.linspace(0, 1, rest)
    depth = 0.4 * np.where(np.arange(rest) % 2 == 0, 1.0, 0.5)
    inner = depth[:, None] * np.stack([along, 1 - along], axis=1)
    return np.concatenate([[[1.0, 0.0], [0.0, 1.0]], inner]) * np.asarray(scale)


def even_preferences(K: int) -> np.ndarray:
    """[K, 2] evenly spaced with both corners."""
    first = np.linspace(1, 0, K)
    return np.stack([first, 1 - first], axis=1)


def train(
    weighting: Weighting,
    rewards: np.ndarray,
    *,
    K: int = 8,
    steps: int = 400,
    samples: int = 32,
    learning_rate: float = 0.1,
    decay: bool = True,
    noise: float = 0.0,
    seed: int = 0,
    preferences: np.ndarray | None = None,
    measure_every: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Train K softmax policies; returns exact values [K, m] at the end and the weights [steps, K, m] on the way."""
    rng = np.random.default_rng(seed)
    tokens, m = rewards.shape
    preferences = even_preferences(K) if preferences is None else preferences
    K = len(preferences)
    logits = np.zeros((K, tokens))
    first, second = np.zeros_like(logits), np.zeros_like(logits)
    weighting.setup(K, m)
    history = np.empty((steps, K, m))
    for step in range(steps):
        policy = np.exp(logits - logits.max(axis=1, keepdims=True))
        policy /= policy.sum(axis=1, keepdims=True)
        drawn = (rng.random((K, samples, 1)) > np.cumsum(policy, axis=1)[:, None, :-1]).sum(axis=2)
        seen = rewards[drawn] + noise * rng.standard_normal((K, samples, m))
        values = seen.mean(axis=1)
        if step % measure_every == 0:
            measured = policy @ rewards
        weights = weighting(Signal(step, steps, values, preferences, measured))
        history[step] = weights
        advantages = ((seen - values[:, None]) * weights[:, None]).sum(axis=2)
        gradient = np.zeros_like(logits)
        np.add.at(gradient, (np.arange(K)[:, None], drawn), advantages / samples)
        gradient -= policy * advantages.mean(axis=1, keepdims=True)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = learning_rate * ((1 - step / steps) if decay else 1.0)
        corrected = first / (1 - 0.9 ** (step + 1))
        logits += rate * corrected / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8)
    policy = np.exp(logits - logits.max(axis=1, keepdims=True))
    policy /= policy.sum(axis=1, keepdims=True)
    return policy @ rewards, history


def share_of_arc(values: np.ndarray, arc: np.ndarray) -> float:
    """Area above the origin that `values` [n, 2] dominate, as a share of what n tokens of the `arc` can (greedy)."""
    subset = arc[hypervolume_subset(arc, ref=(0.0, 0.0), size=len(values))]
    return hypervolume(values, ref=(0.0, 0.0)) / hypervolume(subset, ref=(0.0, 0.0))


def share_of_attainable(values: np.ndarray, scale: tuple[float, float] = (1.0, 1.0)) -> float:
    """Area above the origin that `values` [n, 2] dominate, as a share of the most that n points of the line can.

    n points dominate at most n / (n + 1) of the triangle under the straight front (evenly spaced, ends left out).
    """
    area = hypervolume(values / np.asarray(scale), ref=(0.0, 0.0))
    return area / (0.5 * len(values) / (len(values) + 1))


def report(seeds: int = 10) -> None:
    """Print mean, smallest and largest share of the attainable hypervolume for each line of the documented table."""
    frozen = {"ideal": (1.0, 1.0), "nadir": (0.0, 0.0)}
    lines: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("fixed weights", "fixed", {}, {}),
        ("defaults", "chebyshev", {}, {}),
        ("constant learning rate", "chebyshev", {}, {"decay": False}),
        ("learning rate x 3", "chebyshev", {}, {"learning_rate": 0.3}),
        ("100 steps, learning rate x 3", "chebyshev", {}, {"steps": 100, "learning_rate": 0.3}),
        ("the same, 64 samples", "chebyshev", {}, {"steps": 100, "learning_rate": 0.3, "samples": 64}),
        ("rewards + N(0, 0.3)", "chebyshev", {}, {"noise": 0.3}),
        ("second objective x 0.2", "chebyshev", {}, {"scale": (1.0, 0.2)}),
        ("the same, fixed ideal (1, 1), nadir (0, 0)", "chebyshev", frozen, {"scale": (1.0, 0.2)}),
        ("second objective x 8", "chebyshev", {}, {"scale": (1.0, 8.0)}),
        ("the same, fixed ideal (1, 1), nadir (0, 0)", "chebyshev", frozen, {"scale": (1.0, 8.0)}),
    ]
    for setting, values in (
        ("mu", (0.02, 0.1, 0.2)),
        ("smoothing", (0.0, 0.8)),
        ("frame_smoothing", (0.5,)),
        ("tau", (0.05,)),
        ("rho", (0.0, 0.05)),
        ("min_range", (0.05, 0.3)),
    ):
        for value in values:
            lines.append((f"{setting}={value}", "chebyshev", {setting: value}, {}))
            lines.append(
                (f"{setting}={value}, learning rate x 3", "chebyshev", {setting: value}, {"learning_rate": 0.3})
            )
    for label, name, settings, run in lines:
        run = dict(run)
        scale = run.pop("scale", (1.0, 1.0))
        rewards = flat_front(scale=scale)
        shares = [
            share_of_attainable(train(make(name, **settings), rewards, seed=s, **run)[0], scale) for s in range(seeds)
        ]
        print(f"{label:45s} {np.mean(shares):.2f}  ({min(shares):.2f} to {max(shares):.2f})")


if __name__ == "__main__":
    report()
