"""A bandit small enough to try weightings on in a second: softmax over 16 tokens, REINFORCE, Adam, linear decay.

The whole pipeline without a language model: each step every policy draws `samples` tokens, the weighting sees the
mean rewards of that batch, the centred advantages are mixed by its weights. The verdict is exact (expected rewards of
the final softmax), so only the training is noisy. Run as a script it prints the tables of docs/weightings/.
"""

from __future__ import annotations

from collections.abc import Callable
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


def two_groups() -> np.ndarray:
    """[16, 2] rewards of a majority and a minority: each has its own token, (.7, .6) serves both, the rest neither."""
    rewards = 0.3 * np.random.default_rng(0).random((16, 2))
    rewards[:3] = [[1, 0], [0, 1], [0.7, 0.6]]
    return rewards


def objective_against_constraint() -> np.ndarray:
    """[16, 2]: an objective and a constrained one that can only be had from each other, on a line."""
    along = np.linspace(0, 1, 16)
    return np.column_stack([along, 1 - along])


PROXY_POINTS = np.array([0.5, 0.3])
"""Where the two proxies of `hacked_proxies` stop to say what is good: gold = -(r1 - .5)^2 - (r2 - .3)^2."""


def hacked_proxies() -> np.ndarray:
    """[16, 3]: an objective that pulls both proxies up, and two proxies; one token is far past both points."""
    rng = np.random.default_rng(0)
    proxies = rng.random((16, 2))
    proxies[0] = (0.95, 0.9)
    return np.column_stack([0.25 * proxies.sum(axis=1) + 0.25 * rng.random(16), proxies])


def arc_front(tokens: int = 32) -> np.ndarray:
    """[tokens, 2] rewards evenly on the quarter circle."""
    angles = np.linspace(0, np.pi / 2, tokens)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


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
    thresholds: np.ndarray | None = None,
    gold: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Train K softmax policies; returns exact values [K, m] at the end and the weights [steps, K, m] on the way.

    With `thresholds` [c] the last c columns of `rewards` [tokens, m + c] are constrained; values, weights have m + c.
    `gold` makes the audited objective [K] of the mean rewards [K, m + c] of a batch.
    """
    rng = np.random.default_rng(seed)
    tokens, c = len(rewards), 0 if thresholds is None else len(thresholds)
    m = rewards.shape[1] - c
    preferences = even_preferences(K) if preferences is None else preferences
    K = len(preferences)
    logits = np.zeros((K, tokens))
    first, second = np.zeros_like(logits), np.zeros_like(logits)
    weighting.setup(K, m)
    history = np.empty((steps, K, m + c))
    for step in range(steps):
        policy = np.exp(logits - logits.max(axis=1, keepdims=True))
        policy /= policy.sum(axis=1, keepdims=True)
        drawn = (rng.random((K, samples, 1)) > np.cumsum(policy, axis=1)[:, None, :-1]).sum(axis=2)
        seen = rewards[drawn] + noise * rng.standard_normal((K, samples, m + c))
        values = seen.mean(axis=1)
        if step % measure_every == 0:
            measured = (policy @ rewards)[:, :m]
        slack = None if thresholds is None else values[:, m:] - thresholds
        spread = seen[:, :, :m].std(axis=1)
        centred = (seen - values[:, None])[:, :, :m]
        signal = Signal(
            step,
            steps,
            values[:, :m],
            preferences,
            measured,
            slack=slack,
            spread=spread,
            covariances=centred.transpose(0, 2, 1) @ centred / samples,
            audits=None if gold is None else gold(values)[:, None],
        )
        weights = weighting(signal)
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


def report_families(seeds: int = 10) -> None:
    """Print the tables of the pages of the other families."""
    frame = {"ideal": (1.0, 1.0), "nadir": (0.0, 0.0)}
    near = np.column_stack([np.linspace(0.45, 0.55, 8), np.linspace(0.55, 0.45, 8)])
    arc = arc_front()

    def show(label: str, found: list[float]) -> None:
        print(f"{label:75s} {np.mean(found):.3f}  ({min(found):.3f} to {max(found):.3f})")

    covering: list[tuple[str, dict[str, Any]]] = [
        *((name, {}) for name in ("fixed", "chebyshev", "tchebycheff", "augmented-tchebycheff", "stch")),
        ("hypervolume-scalarization", frame),
        ("hypervolume-scalarization", {**frame, "redraw": 1}),
        ("saw", {}),
    ]
    for name, settings in covering:
        for front, rewards in (("straight", flat_front()), ("arc", arc)):
            finals = [train(make(name, **settings), rewards, seed=s)[0] for s in range(seeds)]
            shares = [share_of_attainable(v) if front == "straight" else share_of_arc(v, arc) for v in finals]
            show(f"share of the {front} front: {name} {settings}", shares)
    for name in ("fixed", "psa"):
        show(
            f"share of the arc from preferences .45 to .55: {name}",
            [share_of_arc(train(make(name), arc, preferences=near, seed=s)[0], arc) for s in range(seeds)],
        )
    ten_to_one = np.array([[10 / 11, 1 / 11]])
    for name, settings in (
        ("fixed", {}),
        ("maxmin", {"rule": "hard"}),
        ("maxmin", {}),
        ("maxmin", {"gain": 0.0}),
        ("softmin", {}),
        ("softmin", {"k": 50.0}),
        ("ctwa", {}),
        ("ctwa", {"lr": 0.05}),
        ("ctwa", {"lr": 0.05, "measure": "covariance"}),
    ):
        for run in ({}, {"steps": 100, "learning_rate": 0.3}):
            show(
                f"worst of two groups: {name} {settings} {run}",
                [
                    float(train(make(name, **settings), two_groups(), preferences=ten_to_one, seed=s, **run)[0].min())
                    for s in range(seeds)
                ],
            )
    for name, settings in (
        ("lagrangian", {}),
        ("lagrangian", {"gain": 0.0}),
        ("lagrangian", {"gain": 0.0, "lr": 0.1}),
        ("lagrangian-sigmoid", {}),
        ("lagrangian-sigmoid", {"gain": 0.0}),
        ("safe-rlhf", {}),
    ):
        for run in ({}, {"steps": 100, "learning_rate": 0.3}):
            show(
                f"distance from the threshold: {name} {settings} {run}",
                [
                    abs(_constrained(name, settings, objective_against_constraint(), np.array([0.6]), s, run)[1] - 0.6)
                    for s in range(seeds)
                ],
            )
    for name, settings in (
        ("lagrangian-equality", {}),
        ("lagrangian-equality", {"gain": 0.0}),
        ("lagrangian-equality", {"budget": "signed"}),
        ("lagrangian-equality", {"budget": "signed", "gain": 0.0}),
        ("lagrangian-all", {}),
        ("lagrangian-sigmoid", {}),
    ):
        for run in ({}, {"steps": 100, "learning_rate": 0.3}):
            misses = [
                _constrained(name, settings, hacked_proxies(), PROXY_POINTS, s, run)[1:] - PROXY_POINTS
                for s in range(seeds)
            ]
            show(f"distance from the proxy points: {name} {settings} {run}", [float(np.abs(x).max()) for x in misses])
    for name, settings in (
        ("lagrangian-equality", {}),
        ("proxy-points", {}),
        ("proxy-points", {"interactions": True}),
        ("nelder-mead-thresholds", {}),
    ):
        for wrong in ((0.65, 0.45), (0.4, 0.5)):
            for K in (1, 4):
                misses = [
                    train(
                        make(name, **settings),
                        hacked_proxies(),
                        preferences=np.ones((K, 1)),
                        thresholds=np.array(wrong),
                        gold=_noisy_gold(s),
                        seed=s,
                    )[0][:, 1:]
                    - PROXY_POINTS
                    for s in range(seeds)
                ]
                show(
                    f"distance from the proxy points, thresholds {wrong}, K={K}: {name} {settings}",
                    [float(np.abs(x).max(axis=1).mean()) for x in misses],
                )
    summed = [
        train(make("fixed"), hacked_proxies(), preferences=np.full((1, 3), 1 / 3), seed=s)[0] for s in range(seeds)
    ]
    show("distance from the proxy points: sum", [float(np.abs(v[0, 1:] - PROXY_POINTS).max()) for v in summed])


def _noisy_gold(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """The gold score of `hacked_proxies` from mean rewards [K, 3], with noise of deviation .01."""
    rng = np.random.default_rng([seed, 3])
    return lambda values: -((values[:, 1:] - PROXY_POINTS) ** 2).sum(axis=1) + 0.01 * rng.standard_normal(len(values))


def _constrained(
    name: str, settings: dict[str, Any], rewards: np.ndarray, thresholds: np.ndarray, seed: int, run: dict[str, Any]
) -> np.ndarray:
    weighting = make(name, **settings)
    return train(weighting, rewards, preferences=np.ones((1, 1)), thresholds=thresholds, seed=seed, **run)[0][0]


if __name__ == "__main__":
    report()
    report_families()
