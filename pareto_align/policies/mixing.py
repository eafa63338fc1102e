"""Weighted sums of adapters: exact in the weight updates, cut to the population's rank, with the error stated.

Averaging A and B separately is not the average of the updates B A: its cross terms pair one policy's A with another's
B. Here the updates themselves are summed. n adapters of rank r sum to rank n r; the best approximation of rank r in
the Frobenius norm is the truncated singular value decomposition (Eckart and Young, 1936), taken through QR of the
stacked factors, so that no matrix of the layer's size is made.

References:
    Ramé et al., "Rewarded soups: towards Pareto-optimal alignment by interpolating weights fine-tuned on diverse
        rewards", arXiv 2306.04488.
    Malladi et al., "Fine-Tuning Language Models with Just Forward Passes", arXiv 2305.17333 (steps that a seed stands
        for).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pareto_align.errors import ConfigError
from pareto_align.policies.population import PolicyPopulation

__all__ = ["AdapterMixture", "mix", "mix_all"]


@dataclass(frozen=True, eq=False)
class AdapterMixture:
    """A weighted sum of adapters, and a random step from it.

    The step is for searches without gradients: Gaussian in A and in B, scaled to the root mean square of each. An
    adapter that was never trained has B = 0 and no length: no step moves it.

    Attributes:
        adapters: `[n, P]` policies.
        coefficients: n weights; on the simplex for an interpolation, free otherwise.
        noise: Length of the random step, as a share of each factor's own; negative: the same step the other way.
        seed: Of the random step.

    Raises:
        ConfigError: There is not one finite coefficient an adapter, or the noise is not finite.
    """

    adapters: Tensor
    coefficients: Sequence[float]
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        weights = torch.tensor([float(c) for c in self.coefficients], dtype=torch.float64)
        if len(weights) != len(self.adapters) or not len(weights) or not torch.isfinite(weights).all():
            raise ConfigError(
                f"A mixture of {len(self.adapters)} adapters needs as many finite coefficients. Found {weights}."
            )
        if not math.isfinite(self.noise):
            raise ConfigError(f"The noise of a mixture must be finite. Found {self.noise}.")

    def used(self) -> tuple[Tensor, list[float]]:
        """The adapters `[n, P]` in float32 that have a weight, and their weights."""
        weights = [float(c) for c in self.coefficients]
        there = [i for i, weight in enumerate(weights) if weight]
        return self.adapters.detach()[there].float(), [weights[i] for i in there]


def mix(
    population: PolicyPopulation, adapters: Tensor, coefficients: Sequence[float], *, noise: float = 0.0, seed: int = 0
) -> tuple[Tensor, float]:
    """One mixture; see `mix_all`."""
    (found,) = mix_all(population, [AdapterMixture(adapters, coefficients, noise, seed)])
    return found


@torch.no_grad()
def mix_all(population: PolicyPopulation, mixtures: Sequence[AdapterMixture]) -> list[tuple[Tensor, float]]:
    """The policies whose weight updates are weighted sums of those of adapters, at the population's rank.

    Layers of one shape are solved together, of all mixtures of as many adapters, on the model's device.

    Args:
        population: Knows how a policy's parameters are laid out.
        mixtures: Q of them.

    Returns:
        Of each the policy `[P]`, float32 on the CPU, and what the cut in rank lost: the Frobenius norm of the missing
        part over that of the whole sum, all layers together. 0 is exact.
    """
    found: dict[int, tuple[Tensor, float]] = {}
    alike: dict[int, list[int]] = defaultdict(list)
    used = [mixture.used() for mixture in mixtures]
    for number, (rows, weights) in enumerate(used):
        if weights == [1.0]:
            found[number] = rows[0].to("cpu", copy=True), 0.0
        elif not weights:
            found[number] = torch.zeros(population.parameter_count), 0.0
        else:
            alike[len(weights)].append(number)
    device = population.base.device
    if device.type == "mps":  # has no float64
        device = torch.device("cpu")
    for numbers in alike.values():
        stacked = torch.stack([used[number][0].to(device) for number in numbers])
        coefficients = torch.tensor([used[number][1] for number in numbers], dtype=torch.float64, device=device)
        mixed, errors = _summed(population, stacked, coefficients)
        found |= dict(zip(numbers, zip(mixed, errors, strict=True), strict=True))
    return [
        (_moved(population, found[number][0], mixture.noise, mixture.seed), found[number][1])
        for number, mixture in enumerate(mixtures)
    ]


def _summed(population: PolicyPopulation, rows: Tensor, weights: Tensor) -> tuple[list[Tensor], list[float]]:
    """Q policies `[P]` on the CPU, and what each lost, of rows `[Q, n, P]` and weights `[Q, n]`."""
    mixed = torch.zeros(len(rows), rows.shape[2], device=rows.device)
    lost, whole = torch.zeros(2, len(rows), dtype=torch.float64, device=rows.device)
    groups: dict[tuple[int, ...], list[Any]] = defaultdict(list)
    for block in population.blocks:
        groups[block.r, block.layer.linear.in_features, block.layer.linear.out_features].append(block)
    for (most, _, _), blocks in groups.items():
        parts = [block.split(rows) for block in blocks]
        a, b = (torch.stack(several).double() for several in zip(*parts, strict=True))  # [L, Q, n, r, in or out, r]
        down = a.flatten(2, 3)  # [L, Q, n r, in]
        up = (b * weights[..., None, None]).transpose(2, 3).flatten(3)  # [L, Q, out, n r]
        left, left_r = torch.linalg.qr(up)
        right, right_r = torch.linalg.qr(down.mT)
        u, s, v = torch.linalg.svd(left_r @ right_r.mT)
        rank = min(most, s.shape[-1])
        root = s[..., :rank].sqrt()
        into = [block.split(mixed) for block in blocks]
        new_a = (v[..., :rank, :] * root[..., None]) @ right.mT
        new_b = left @ (u[..., :rank] * root[..., None, :])
        for (into_a, into_b), found_a, found_b in zip(into, new_a, new_b, strict=True):
            into_a[:, :rank] = found_a.float()
            into_b[..., :rank] = found_b.float()
        lost += (s[..., rank:] ** 2).sum((0, 2))
        whole += (s**2).sum((0, 2))
    errors = torch.where(whole > 0, (lost / whole.clamp(min=torch.finfo(whole.dtype).tiny)).sqrt(), 0.0)
    return list(mixed.cpu()), errors.tolist()


def _moved(population: PolicyPopulation, row: Tensor, noise: float, seed: int) -> Tensor:
    """A policy `[P]` and a random step from it, in place."""
    if noise:
        generator = torch.Generator().manual_seed(seed)
        for block in population.blocks:
            for part in block.split(row[None]):
                step = torch.randn(part.shape, generator=generator)
                part += noise * part.square().mean().sqrt() * step
    return row
