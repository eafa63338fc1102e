"""What losses of pairs are built on: a margin between two responses, or the preferred beside the other one."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from pareto_align.arguments import Positive, Within
from pareto_align.learning.preferences.base import PreferenceLoss, Slopes, column_slopes
from pareto_align.learning.preferences.view import PairView

__all__ = ["Divergence", "DivergenceLoss", "MarginLoss", "Side", "SidedLoss", "divergence_scores", "token_nll"]

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
"""The divergence from the reference that is penalised; "reverse_kl" is DPO."""

Flips = Annotated[float, Within(least=0, below=0.5)]  # a share of labels that are taken to be flipped

EXPONENT = 20.0  # of e: what is clamped before exp, so that float32 stays finite
SQUARED = 1e4  # log-ratios are clamped to it before they are squared


class MarginLoss(PreferenceLoss):
    """A loss of the margin x = beta (score of a - score of b) alone, so of rank one.

    A subclass says what a response's `score` is and what a margin of the preferred response costs (`of_margin`). With
    soft labels the loss is the expectation over the label, less the `offsets` that the margin has to exceed on either
    side.
    """

    rank_one = True
    beta: float = 1.0

    @abstractmethod
    def score(self, view: PairView) -> Tensor:
        """`[K, N, G]` score of each response, a function of its own log-probability alone."""

    @abstractmethod
    def of_margin(self, x: Tensor) -> Tensor:
        """The loss where the preferred response is ahead by x."""

    def offsets(self, view: PairView) -> tuple[Tensor, Tensor] | None:
        """What the margin must exceed where a is preferred, and where b is: `[K or 1, pairs, m or 1]`, no gradient."""
        return None

    def targets(self, view: PairView) -> Tensor:
        """`[pairs, m]` labels as a loss of soft labels takes them."""
        return view.known

    def losses_of(self, gaps: Tensor, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]` of differences of scores `[K, pairs]`."""
        x = self.beta * gaps[..., None]
        ahead, behind = x, -x
        if (found := self.offsets(view)) is not None:
            ahead, behind = x - found[0], -x - found[1]
        if not self.soft_labels:
            sides = view.sides
            # a tie is left out, and the margin 0 keeps it finite
            return self.of_margin(torch.where(sides > 0, ahead, torch.where(sides < 0, behind, torch.zeros_like(x))))
        s = self.targets(view)
        return s * self.of_margin(ahead) + (1 - s) * self.of_margin(behind)

    def losses(self, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        return self.losses_of(view.gaps(self.score(view)), view)

    def slopes(self, view: PairView) -> Slopes:
        """Means, slopes in the difference of scores, and slopes of the scores."""
        if not self.rank_one:
            return super().slopes(view)
        with torch.enable_grad():
            logps = view.logps.detach().requires_grad_()
            score = self.score(replace(view, logps=logps))
            (factors,) = torch.autograd.grad(score.sum(), logps)
            gaps = view.gaps(score.detach()).requires_grad_()
            values = self._means(self.losses_of(gaps, replace(view, logps=logps.detach())), self.counted(view), view)
            slopes = column_slopes(values, gaps)
        return values.detach(), slopes, factors.detach()

    @property
    def factor(self) -> Hashable:
        """Scores that are log-probabilities plus what does not depend on them have the factor 1."""
        return "one"


def divergence_scores(ratios: Tensor, divergence: str, coefficient: float = 0.5) -> Tensor:
    """The score f'(t) of a log-ratio u = log t, of f-DPO.

    Constants are kept: they cancel between two responses, but not where a score is divided by a length.
    "alpha_divergence" is (t^(alpha-1) - 1) / (alpha - 1).

    Args:
        ratios: `[...]` log-ratios; where an exponential is taken they are clamped to +-20.
        divergence: See `Divergence`.
        coefficient: alpha.

    References:
        Wang et al., "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence
            Constraints", arXiv 2309.16240.
    """
    if divergence == "forward_kl":
        return 1 - torch.exp(-ratios.clamp(-EXPONENT, EXPONENT))
    if divergence == "js_divergence":
        return math.log(2) + functional.logsigmoid(ratios)
    if divergence == "alpha_divergence" and abs(coefficient - 1) > 1e-6:
        return torch.expm1((coefficient - 1) * ratios.clamp(-EXPONENT, EXPONENT)) / (coefficient - 1)
    return ratios


class DivergenceLoss(MarginLoss):
    """A margin loss of f-DPO's scores.

    Args:
        beta: How strongly the reference is held on to.
        f_divergence_type: The divergence that is penalised.
        f_alpha_divergence_coef: alpha of "alpha_divergence".
        per_token: Divide each score by its response's length.
    """

    per_token = False

    def __init__(
        self,
        *,
        beta: Positive = 0.1,
        f_divergence_type: Divergence = "reverse_kl",
        f_alpha_divergence_coef: float = 0.5,
    ) -> None:
        self.beta = float(beta)
        self.f_divergence_type, self.f_alpha_divergence_coef = f_divergence_type, float(f_alpha_divergence_coef)

    def score(self, view: PairView) -> Tensor:
        """f'(pi / ref), per token where the loss is normalised so."""
        scores = divergence_scores(view.ratios, self.f_divergence_type, self.f_alpha_divergence_coef)
        return scores / view.lengths.clamp(min=1).to(scores.dtype) if self.per_token else scores

    @property
    def factor(self) -> Hashable:
        """One a divergence and normalisation."""
        if self.f_divergence_type == "reverse_kl":
            return "length" if self.per_token else "one"
        return self.f_divergence_type, self.f_alpha_divergence_coef, self.per_token


@dataclass(eq=False)
class Side:
    """The preferred, or the other, response of each pair under each objective.

    Attributes:
        logps: `[K, pairs, m]` log-probabilities.
        ratios: `[K, pairs, m]` less those of the reference; as `logps` where there is none.
        lengths: `[pairs, m]` tokens.
    """

    logps: Tensor
    ratios: Tensor
    lengths: Tensor


class SidedLoss(PreferenceLoss):
    """A loss of the preferred and the other response that is not of their difference alone; ties are left out."""

    def losses(self, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""
        lengths = view.winners(view.lengths.clamp(min=1).to(view.logps.dtype))
        ratios = view.winners(view.ratios if self.needs_reference else view.logps)
        sides = zip(view.winners(view.logps), ratios, lengths, strict=True)
        winner, loser = (Side(*parts) for parts in sides)
        return self.of_sides(winner, loser, view)

    @abstractmethod
    def of_sides(self, winner: Side, loser: Side, view: PairView) -> Tensor:
        """Losses `[K, pairs, m]`."""


def token_nll(view: PairView, counted: Tensor) -> Tensor:
    """Negative log-likelihood of the preferred responses, `[K, pairs, m]`, whose mean over pairs is one over tokens.

    As TRL's: the mean runs over all tokens of the batch's preferred responses, so a long response counts more.

    Args:
        view: The batch.
        counted: `[pairs, m]` what each pair counts in the mean that is taken of the result.
    """
    decided = torch.where(view.sides != 0, counted, torch.zeros_like(counted))
    lengths, _ = view.winners(view.lengths.to(view.logps.dtype))
    tokens = (decided * lengths).sum(0).clamp(min=1)
    found = -view.winners(view.logps)[0] * (counted.sum(0) / tokens)
    return torch.where(decided > 0, found, torch.zeros_like(found))
