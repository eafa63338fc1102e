"""What a preference loss sees: log-probabilities of responses, and what was said about them. Numbers only, no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_align.errors import ConfigError

__all__ = ["PairView"]


@dataclass(eq=False)
class PairView:
    """A batch of N prompts with up to G responses each, as K policies see it, under m objectives.

    Log-probabilities are sums over a response's tokens, the end token included, at temperature 1.

    Attributes:
        logps: `[K, N, G]` log-probabilities of the responses; anything where a row has fewer than G.
        lengths: `[N, G]` tokens of each response, 0 where there is none.
        pairs: `[pairs, 3]` row, response a, response b.
        labels: `[pairs, m]` how strongly a is preferred to b, 0 to 1; NaN where there is no label.
        reference: `[K, N, G]`, or `[1, N, G]` where all policies have one reference; None without one.
        margins: `[pairs, m]` by how much, never negative; NaN where it is not known.
        weights: `[pairs, m]` what each label counts; None counts each once.
        scores: `[N, G, m]` ratings or rewards of the responses, more being better; NaN where one is missing.
        marks: `[N, G, m]` 1 desirable, 0 undesirable; NaN where nobody said.
        golds: `[N]` the response that is to be imitated, -1 where there is none.
        trade: `[K, m]` weights of the objectives, for losses that have them inside.
        corners: `[m]` the policy that serves as each objective's own margin (MODPO).
        rewards: `[pairs, m]` reward of a less that of b on the scale of logits, in place of such policies.
        kl: `[K]` estimate of the KL divergence from the reference, never negative (KTO).
        confidences: `[K, N, G]` log of the weight of each response (WPO); None weighs all alike.
        previous: `[K, N, G]` or `[1, N, G]` under an earlier iterate (INPO).
        shares: `[K, pairs]` how much of each pair is a policy's own, for mixtures of experts; None is all of it.
        totals: `[m]` weight of the labels in the whole batch, where this is a part of one.
        drop_ties: Leave ties out also where the loss could learn from them.
    """

    logps: Tensor
    lengths: Tensor
    pairs: Tensor
    labels: Tensor
    reference: Tensor | None = None
    margins: Tensor | None = None
    weights: Tensor | None = None
    scores: Tensor | None = None
    marks: Tensor | None = None
    golds: Tensor | None = None
    trade: Tensor | None = None
    corners: Tensor | None = None
    rewards: Tensor | None = None
    kl: Tensor | None = None
    confidences: Tensor | None = None
    previous: Tensor | None = None
    shares: Tensor | None = None
    totals: Tensor | None = None
    drop_ties: bool = False

    def __post_init__(self) -> None:
        K, N, G = self.logps.shape
        if self.pairs.ndim != 2 or self.pairs.shape[1] != 3:
            raise ConfigError(f"PairView.pairs must have shape [pairs, 3]. Found {list(self.pairs.shape)}.")
        if self.labels.ndim != 2 or len(self.labels) != len(self.pairs):
            raise ConfigError(
                f"PairView.labels must have shape [{len(self.pairs)}, m], a row a pair. Found "
                f"{list(self.labels.shape)}."
            )
        for name, found in (("reference", self.reference), ("previous", self.previous)):
            if found is not None and tuple(found.shape) not in ((K, N, G), (1, N, G)):
                raise ConfigError(f"PairView.{name} must have shape {[K, N, G]}. Found {list(found.shape)}.")
        shapes = {"scores": (N, G, self.m), "marks": (N, G, self.m), "lengths": (N, G), "trade": (K, self.m)}
        shapes |= dict.fromkeys(("margins", "weights", "rewards"), tuple(self.labels.shape))
        shapes |= {"kl": (K,), "confidences": (K, N, G), "golds": (N,), "shares": (K, len(self.pairs))}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and tuple(array.shape) != shape:
                raise ConfigError(f"PairView.{name} must have shape {list(shape)}. Found {list(array.shape)}.")

    @property
    def m(self) -> int:
        """The number of objectives."""
        return int(self.labels.shape[1])

    @property
    def ratios(self) -> Tensor:
        """`[K, N, G]` log-probability less that of the reference.

        Raises:
            ConfigError: There is no reference.
        """
        if self.reference is None:
            raise ConfigError("This loss compares with a reference, and the view has none.")
        return self.logps - self.reference

    @property
    def known(self) -> Tensor:
        """`[pairs, m]` labels with 0.5 in place of those that are missing."""
        return torch.nan_to_num(self.labels, nan=0.5).to(self.logps.dtype)

    @property
    def sides(self) -> Tensor:
        """`[pairs, m]` 1 where a is preferred, -1 where b is, 0 for ties and missing labels."""
        return torch.sign(self.known - 0.5)

    def gaps(self, values: Tensor) -> Tensor:
        """Value of a less that of b, `[..., N, G]` -> `[..., pairs]`."""
        first, second = self.of_pairs(values)
        return first - second

    def of_pairs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The values of a and of b, `[..., N, G]` -> two of `[..., pairs]`."""
        row, a, b = self.pairs.unbind(1)
        return values[..., row, a], values[..., row, b]

    def winners(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The values of the preferred response and of the other, `[..., N, G]` -> two of `[..., pairs, m]`.

        Where nothing is preferred a counts as preferred; such pairs have to be left out by whoever asks.
        """
        first, second = (found[..., None] for found in self.of_pairs(values))
        turned = self.sides < 0
        return torch.where(turned, second, first), torch.where(turned, first, second)
