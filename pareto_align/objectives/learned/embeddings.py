"""Preference embeddings: judges of two responses that may prefer in a circle, which no reward can.

A response is a vector v of length 1 with an even number of entries, and `s(a, b) = sum_i v_a[2i] v_b[2i+1] - v_a[2i+1]
v_b[2i]`: skew-symmetric, so that s(a, b) = -s(b, a), and `P(a) = sigmoid(s / tau)`.

References:
    Zhang et al., "Beyond Bradley-Terry Models: A General Preference Model for Language Model Alignment", arXiv
    2410.02197.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from pareto_align.errors import ConfigError

__all__ = ["Embeddings", "fit_embeddings", "skew"]

FloatArray = NDArray[np.float64]


def skew(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Skew-symmetric scores of embeddings `[..., 2k]`: `[...]`.

    Raises:
        ConfigError: The number of entries is odd.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape[-1] % 2:
        raise ConfigError(f"An embedding has an even number of entries. Found {a.shape[-1]}.")
    return np.asarray((a[..., ::2] * b[..., 1::2] - a[..., 1::2] * b[..., ::2]).sum(-1))


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A map of features to embeddings.

    Attributes:
        map: `[2k, d]`, linear; embeddings are its values brought to length 1.
        tau: What scores are divided by.
    """

    map: FloatArray
    tau: float

    def embed(self, features: ArrayLike) -> FloatArray:
        """Embeddings `[n, 2k]` of responses with features `[n, d]`."""
        raw = np.asarray(features, dtype=np.float64) @ self.map.T
        return np.asarray(raw / np.maximum(np.linalg.norm(raw, axis=-1, keepdims=True), 1e-12))

    def probability(self, first: ArrayLike, second: ArrayLike) -> FloatArray:
        """`[n]` how probable it is that the first response is preferred, of features `[n, d]`."""
        score = skew(self.embed(first), self.embed(second)) / self.tau
        return np.asarray(expit(score))

    def table(self, features: ArrayLike) -> FloatArray:
        """`[G, G]` how probable it is that response i is preferred to j: G embeddings judge all pairs."""
        v = self.embed(features)
        score = skew(v[:, None], v[None]) / self.tau
        return np.asarray(expit(score))


def fit_embeddings(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    *,
    planes: int = 1,
    tau: float = 0.1,
    steps: int = 500,
    learning_rate: float = 3e-2,
    seed: int = 0,
) -> Embeddings:
    """Embeddings that explain comparisons, by Adam on the cross-entropy.

    Args:
        first: `[n, d]` features of the first responses.
        second: `[n, d]` of the second ones.
        labels: `[n]` how strongly the first is preferred.
        planes: k, half the number of an embedding's entries; each can hold one circle.
        tau: What scores are divided by.
        steps: Of Adam.
        learning_rate: Of Adam.
        seed: Of the start.

    Raises:
        ConfigError: Shapes do not belong together.
    """
    import torch

    a, b = (torch.from_numpy(np.asarray(side, dtype=np.float64)) for side in (first, second))
    target = torch.from_numpy(np.asarray(labels, dtype=np.float64))
    if not a.shape == b.shape == (len(target), a.shape[-1]):
        raise ConfigError("`first`, `second` and `labels` must have one entry a comparison.")
    if planes < 1 or not tau > 0:
        raise ConfigError(f"`planes` must be at least 1 and `tau` positive. Found {planes} and {tau}.")
    generator = torch.Generator().manual_seed(seed)
    mapped = (torch.randn(2 * planes, a.shape[1], generator=generator).double() / a.shape[1] ** 0.5).requires_grad_()
    optimizer = torch.optim.Adam([mapped], lr=learning_rate)
    for _ in range(steps):
        one, other = (torch.nn.functional.normalize(side @ mapped.T, dim=1) for side in (a, b))
        score = (one[:, ::2] * other[:, 1::2] - one[:, 1::2] * other[:, ::2]).sum(1) / tau
        loss = torch.nn.functional.binary_cross_entropy_with_logits(score, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Embeddings(mapped.detach().numpy(), float(tau))
