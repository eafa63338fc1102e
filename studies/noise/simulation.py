"""Populations on the noisy arc, measured by a stand-in for the evaluator: everything but the language model is real.

A policy of the problem `noisy` is a distribution over tokens on the quarter circle. Here it is uniform on an arc: its
completions score (cos a, sin a) with a uniform in [angle - width, angle + width], plus N(0, 0.3) on each score, so its
true mean is (sin width / width) (cos angle, sin angle).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pareto_align.evaluation.answers import Measurement
from pareto_align.evaluation.racing import race
from pareto_align.front import Entry, Estimate, ParetoArchive, bootstrap_hypervolume, dominates, hypervolume
from pareto_align.runs.publishing import confirm

NOISE = 0.3  # of each scored reward, as in the problem `noisy`
K, EVALUATIONS = 8, 10
LOWER, UPPER, REFERENCE = np.zeros(2), np.ones(2), np.zeros(2)


@dataclass(frozen=True)
class Layout:
    """What a split consists of.

    Attributes:
        prompts: n.
        samples: G, completions of each prompt.
        prompt_noise: Standard deviation over prompts of what a prompt adds to the rewards of every policy, and of what
            it adds in proportion to a policy's angle; 0 where there is one prompt.
    """

    prompts: int
    samples: int
    prompt_noise: float


LAYOUTS = {
    "one prompt, 64 samples": Layout(1, 64, 0.0),  # the problem `noisy`, as the tests of known fronts measure it
    "64 prompts, 1 sample": Layout(64, 1, 0.1),
    "16 prompts, 4 samples": Layout(16, 4, 0.1),
}


class Split:
    """Prompts and the policies' scores on them; stands in for `Evaluator`, and its tokens are completions.

    Args:
        policies: [P, 2] angle and width of every policy; a row number is its adapter.
        layout: What the split consists of.
        seed: Of its prompts and of all scores.
    """

    repeatable = True

    def __init__(self, policies: np.ndarray, layout: Layout, seed: int) -> None:
        self.policies, self.layout, self.seed, self.tokens = policies, layout, seed, 0
        self.shift = np.random.default_rng([seed, 1]).normal(0, layout.prompt_noise, (2, layout.prompts, 1, 2))

    def measure(self, policies: Tensor, *, repeat: int = 0) -> list[Measurement]:
        """See `Evaluator.measure`; adapters are row numbers [k, 1]."""
        found = []
        for row in policies[:, 0].int().tolist():
            angle, width = self.policies[row]
            shape = (self.layout.prompts, self.layout.samples)
            same = np.random.default_rng([self.seed, 2, repeat])  # sampling is paired over policies ...
            a = angle + width * same.uniform(-1, 1, shape)
            own = np.random.default_rng([self.seed, 3, repeat, row])  # ... and the noise of each scored reward is not
            rewards = np.stack([np.cos(a), np.sin(a)], axis=-1) + own.normal(0, NOISE, (*shape, 2))
            rewards = rewards + self.shift[0] + self.shift[1] * angle
            estimate = Estimate.from_samples(rewards, range(self.layout.prompts))
            found.append(Measurement(estimate, rewards, [], 1.0))
            self.tokens += rewards[..., 0].size
        return found

    def tokens_for(self, length: float | None) -> float:
        """Completions of one policy."""
        return self.layout.prompts * self.layout.samples


def trained(rng: np.random.Generator) -> np.ndarray:
    """[80, 2] policies in the order in which a run measures them: 8 slots that narrow down on their preferences."""
    rows = []
    for evaluation in range(1, EVALUATIONS + 1):
        done = 1 - np.exp(-3 * evaluation / EVALUATIONS)
        width = np.pi / 4 * (1 - done) + 0.03
        angle = np.pi / 4 + done * (np.linspace(0, np.pi / 2, K) - np.pi / 4) + rng.normal(0, 0.03, K)
        rows.append(np.stack([angle.clip(width, np.pi / 2 - width), np.full(K, width)], axis=1))
    return np.concatenate(rows)


def crowd(rng: np.random.Generator) -> np.ndarray:
    """[80, 2] policies anywhere near the arc: most are dominated, and by little. Harder than a run."""
    width = rng.uniform(0.03, 1.0, K * EVALUATIONS)
    return np.stack([rng.uniform(np.minimum(width, np.pi / 4), np.pi / 2 - np.minimum(width, np.pi / 4)), width], 1)


def identical(rng: np.random.Generator) -> np.ndarray:
    """[64, 2] one policy, 64 times."""
    return np.tile([rng.uniform(0.2, np.pi / 2 - 0.2), 0.1], (64, 1))


POPULATIONS = {"trained": trained, "crowd": crowd, "identical": identical}


def true_means(policies: np.ndarray) -> np.ndarray:
    """[P, 2] true means of policies [P, 2]."""
    angle, width = policies.T
    return (np.sin(width) / width)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def simulate(population: str, layout: str, seed: int, *, rounds: int, resolution: float = 2.0) -> dict[str, float]:
    """One run: offer the policies as they come, race after every eight, report the members on fresh prompts.

    Returns:
        For the members chosen on the select split and for what is published: how many there are, the share that
        another one truly dominates, the hypervolume of the true means, the measured one and whether the 95 % interval
        holds the true one; and the completions spent.
    """
    policies = POPULATIONS[population](np.random.default_rng([seed, 0]))
    truth = true_means(policies)
    select = Split(policies, LAYOUTS[layout], 2 * seed + 1000)
    archive = ParetoArchive(range(2), reference=REFERENCE, scale_lower=LOWER, scale_upper=UPPER, resolution=resolution)
    for start in range(0, len(policies), K):
        adapters = torch.arange(start, start + K)[:, None].float()
        before = select.tokens
        for adapter, measurement in zip(adapters, select.measure(adapters), strict=True):
            archive.offer(str(int(adapter)), measurement.estimate, {"length": 1.0}, adapter)
        race(archive, select, budget_tokens=select.tokens - before, rounds=rounds)
    chosen = archive.members()
    rivals = [[e.estimate for e in group] for group in archive.rivals()]
    result = {f"select {name}": value for name, value in _verdict(chosen, rivals, truth).items()}
    report = Split(policies, LAYOUTS[layout], 2 * seed + 1001)
    found = report.measure(torch.stack([e.adapter for e in chosen]))
    kept, fallen = confirm(archive, {e.id: m.estimate for e, m in zip(chosen, found, strict=True)})
    result |= {f"report {name}": value for name, value in _verdict(kept, [], truth).items()}
    result |= {"report fallen": len(fallen), "completions": select.tokens}
    result["attainable hypervolume"] = hypervolume(truth, REFERENCE)
    return result


def _verdict(members: Sequence[Entry], rivals: Sequence[Sequence[Estimate]], truth: np.ndarray) -> dict[str, float]:
    own = truth[[int(e.id) for e in members]]
    true_volume = hypervolume(own, REFERENCE)
    value, low, high = bootstrap_hypervolume(
        [e.estimate for e in members], range(2), REFERENCE, scale_lower=LOWER, scale_upper=UPPER, rivals=rivals
    )
    return {
        "members": len(members),
        "dominated": sum(any(dominates(a, b) for a in own) for b in own) / len(members),
        "true hypervolume": true_volume,
        "hypervolume": value,
        "covered": float(low <= true_volume <= high),
        "interval width": high - low,
    }
