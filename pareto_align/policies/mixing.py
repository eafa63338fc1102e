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
from collections.abc import Sequence

import torch
from torch import Tensor

from pareto_align.errors import ConfigError
from pareto_align.policies.population import PolicyPopulation

__all__ = ["mix"]


@torch.no_grad()
def mix(
    population: PolicyPopulation, adapters: Tensor, coefficients: Sequence[float], *, noise: float = 0.0, seed: int = 0
) -> tuple[Tensor, float]:
    """The policy whose weight updates are the weighted sum of those of `adapters`, at the population's rank.

    The sum may be moved by a random step, for searches without gradients: Gaussian in A and in B, scaled to the root
    mean square of each. An adapter that was never trained has B = 0 and no length: no step moves it.

    Args:
        population: Knows how a policy's parameters are laid out.
        adapters: `[n, M]` policies.
        coefficients: n weights; on the simplex for an interpolation, free otherwise.
        noise: Length of the random step, as a share of each factor's own; negative: the same step the other way.
        seed: Of the random step.

    Returns:
        The policy `[M]`, float32 on the CPU, and what the cut in rank lost: the Frobenius norm of the missing part over
        that of the whole sum, all layers together. 0 is exact.

    Raises:
        ConfigError: There is not one finite coefficient an adapter, or the noise is not finite.
    """
    weights = torch.tensor([float(c) for c in coefficients], dtype=torch.float64)
    if len(weights) != len(adapters) or not len(weights) or not torch.isfinite(weights).all():
        raise ConfigError(f"A mixture of {len(adapters)} adapters needs as many finite coefficients. Found {weights}.")
    if not math.isfinite(noise):
        raise ConfigError(f"The noise of a mixture must be finite. Found {noise}.")
    used = weights != 0
    rows = adapters.detach().to("cpu", torch.float32)[used]
    weights = weights[used]
    if len(weights) == 1 and weights[0] == 1:
        return _moved(population, rows[0].clone(), noise, seed), 0.0
    mixed = torch.zeros(1, rows.shape[1] if len(rows) else population.parameter_count)
    lost = whole = 0.0
    for block in population.blocks if len(rows) else ():
        a, b = (part.double() for part in block.split(rows))  # [n, r, in], [n, out, r]
        down = a.flatten(0, 1)  # [n r, in]
        up = (b * weights[:, None, None]).transpose(0, 1).flatten(1)  # [out, n r]
        left, left_r = torch.linalg.qr(up)
        right, right_r = torch.linalg.qr(down.T)
        u, s, v = torch.linalg.svd(left_r @ right_r.T)
        rank = min(block.r, len(s))
        root = s[:rank].sqrt()
        into_a, into_b = block.split(mixed)
        into_a[0, :rank] = ((v[:rank] * root[:, None]) @ right.T).float()
        into_b[0, :, :rank] = (left @ (u[:, :rank] * root)).float()
        lost += float((s[rank:] ** 2).sum())
        whole += float((s**2).sum())
    return _moved(population, mixed[0], noise, seed), (lost / whole) ** 0.5 if whole > 0 else 0.0


def _moved(population: PolicyPopulation, row: Tensor, noise: float, seed: int) -> Tensor:
    """A policy `[M]` and a random step from it, in place."""
    if noise:
        generator = torch.Generator().manual_seed(seed)
        for block in population.blocks:
            for part in block.split(row[None]):
                step = torch.randn(part.shape, generator=generator)
                part += noise * part.square().mean().sqrt() * step
    return row
