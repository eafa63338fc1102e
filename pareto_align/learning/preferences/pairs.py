"""Losses of one margin between two responses, compared with a reference: DPO and what is built like it.

D is the difference of the two responses' log-ratios `log pi - log ref`, or of f-DPO's scores of them; s the label.
Sums over tokens, unless it says otherwise: beta means something else per token.

References:
    Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290 (sigmoid).
    Mitchell, "A note on DPO with noisy preferences & relationship to IPO", 2023 (cdpo).
    Zhao et al., "SLiC-HF", arXiv 2305.10425, and Liu et al., "Statistical Rejection Sampling Improves Preference
        Optimization", arXiv 2309.06657 (hinge).
    Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", arXiv 2310.12036 (ipo).
    Chowdhury et al., "Provably Robust DPO", arXiv 2403.00409 (robust).
    Ji et al., "Towards Efficient Exact Optimization of Language Model Alignment", arXiv 2402.00856 (exo_pair).
    Lu et al., "Discovering Preference Optimization Algorithms with and for Large Language Models", arXiv 2406.08414
        (discopop).
    Lambert et al., "Tulu 3", arXiv 2411.15124 (sigmoid_norm).
    Amini et al., "Direct Preference Optimization with an Offset", arXiv 2402.10571 (odpo).
    Flet-Berliac et al., "Contrastive Policy Gradient", arXiv 2406.19185 (copg).
    Zhang et al., "Iterative Nash Policy Optimization", arXiv 2407.00617 (inpo).
    Wang et al., "Hybrid-DPO", arXiv 2602.11902 (sigmoid with reference="conditional").
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from pareto_align.arguments import NotNegative, Positive, Within
from pareto_align.errors import ConfigError
from pareto_align.learning.preferences.base import register_preference
from pareto_align.learning.preferences.margins import EXPONENT, SQUARED, DivergenceLoss, Flips, MarginLoss
from pareto_align.learning.preferences.view import PairView

__all__ = [
    "ConservativeSigmoid",
    "ContrastivePolicyGradient",
    "DiscoPop",
    "Exo",
    "Hinge",
    "Ipo",
    "IterativeNash",
    "OffsetSigmoid",
    "Robust",
    "Sigmoid",
    "SigmoidNorm",
]

SomeFlips = Annotated[float, Within(above=0, below=0.5)]
Reference = Literal["plain", "conditional"]


@register_preference("sigmoid")
class Sigmoid(DivergenceLoss):
    """DPO: `-log sigmoid(beta D)`, or the cross-entropy with a soft label.

    TRL 1.16 ignores `label_smoothing` here; with it this is "cdpo".

    Args:
        beta: How strongly the reference is held on to.
        label_smoothing: Share of labels that are taken to be flipped.
        f_divergence_type: The divergence that is penalised.
        f_alpha_divergence_coef: alpha of "alpha_divergence".
        reference: "conditional" takes the reference's margin only where it agrees with the label (Hybrid-DPO): a
            reference that prefers the other response does not have to be overcome.
    """

    soft_labels = True

    def __init__(
        self,
        *,
        beta: Positive = 0.1,
        label_smoothing: Flips = 0.0,
        reference: Reference = "plain",
        **divergence: Any,
    ) -> None:
        super().__init__(beta=beta, **divergence)
        self.label_smoothing, self.reference = float(label_smoothing), reference
        if reference == "conditional" and (found := self.f_divergence_type) != "reverse_kl":
            raise ConfigError(f"reference='conditional' is defined for reverse_kl only. Found {found!r}.")

    def of_margin(self, x: Tensor) -> Tensor:
        """`-log sigmoid(x)`."""
        return -functional.logsigmoid(x)

    def targets(self, view: PairView) -> Tensor:
        """Labels, of which a share is taken to be flipped."""
        e, s = self.label_smoothing, view.known
        return (1 - e) * s + e * (1 - s)

    def offsets(self, view: PairView) -> tuple[Tensor, Tensor] | None:
        """What a conditional reference adds: its margin for the other response, which is not to be overcome.

        log pi's margin less max(0, the reference's) is D less what the reference's margin is below 0.
        """
        if self.reference == "plain" or view.reference is None:
            return None
        gap = self.beta * view.gaps(view.reference)[..., None]
        return functional.relu(-gap), functional.relu(gap)


@register_preference("cdpo")
class ConservativeSigmoid(Sigmoid):
    """cDPO: DPO where a share of the labels is taken to be flipped, the cross-entropy with 1 - e and e."""

    def __init__(self, *, beta: Positive = 0.1, label_smoothing: Flips = 0.1) -> None:
        super().__init__(beta=beta, label_smoothing=label_smoothing)


@register_preference("hinge")
class Hinge(DivergenceLoss):
    """SLiC's hinge on the log-ratio: `max(0, 1 - beta D)`."""

    def of_margin(self, x: Tensor) -> Tensor:
        """`relu(1 - x)`."""
        return functional.relu(1 - x)


@register_preference("ipo")
class Ipo(DivergenceLoss):
    """IPO: `(D - (s - 1/2) / beta)^2`, beta being the paper's tau; for a hard label the target is 1 / (2 beta).

    Args:
        beta: tau.
        normalize: "tokens" takes means over tokens, as TRL's DPOTrainer does on the authors' word; "none" sums, as the
            paper and TRL's OnlineDPOTrainer do. With sums and labels of the policy's own samples this is Online IPO.
        f_divergence_type: The divergence that is penalised.
        f_alpha_divergence_coef: alpha of "alpha_divergence".
    """

    soft_labels = True

    def __init__(
        self,
        *,
        beta: Positive = 0.1,
        normalize: Literal["tokens", "none"] = "tokens",
        **divergence: Any,
    ) -> None:
        super().__init__(beta=beta, **divergence)
        self.per_token = normalize == "tokens"

    def of_margin(self, x: Tensor) -> Tensor:
        """`(x / beta - 1 / (2 beta))^2`."""
        return (x - 0.5).square() / self.beta**2

    def losses_of(self, gaps: Tensor, view: PairView) -> Tensor:
        """The squared distance from what the label asks for."""
        target = (view.known - 0.5) / self.beta
        return (gaps.clamp(-SQUARED, SQUARED)[..., None] - target).square()


@register_preference("robust")
class Robust(DivergenceLoss):
    """rDPO: the unbiased estimate of DPO's loss where a share e of labels is flipped at random; it may be negative.

    `[-(1 - e) log sigmoid(beta D) + e log sigmoid(-beta D)] / (1 - 2 e)`

    Args:
        beta: How strongly the reference is held on to.
        label_smoothing: e.
        f_divergence_type: The divergence that is penalised.
        f_alpha_divergence_coef: alpha of "alpha_divergence".
    """

    def __init__(
        self,
        *,
        beta: Positive = 0.1,
        label_smoothing: Flips = 0.1,
        **divergence: Any,
    ) -> None:
        super().__init__(beta=beta, **divergence)
        self.label_smoothing = float(label_smoothing)

    def of_margin(self, x: Tensor) -> Tensor:
        """The corrected loss."""
        e = self.label_smoothing
        return (e * functional.logsigmoid(-x) - (1 - e) * functional.logsigmoid(x)) / (1 - 2 * e)


@register_preference("exo_pair")
class Exo(DivergenceLoss):
    """EXO: the reverse KL divergence of sigmoid(beta D) from the label, smoothed by e.

    Args:
        beta: How strongly the reference is held on to.
        label_smoothing: e, above 0: the divergence from a certain label is infinite.
        f_divergence_type: The divergence that is penalised.
        f_alpha_divergence_coef: alpha of "alpha_divergence".
    """

    soft_labels = True

    def __init__(
        self,
        *,
        beta: Positive = 0.1,
        label_smoothing: SomeFlips = 1e-3,
        **divergence: Any,
    ) -> None:
        super().__init__(beta=beta, **divergence)
        self.label_smoothing = float(label_smoothing)

    def of_margin(self, x: Tensor) -> Tensor:
        """The divergence from a certain label."""
        return self._divergence(x, torch.ones_like(x))

    def losses_of(self, gaps: Tensor, view: PairView) -> Tensor:
        """The divergence from each label."""
        return self._divergence(self.beta * gaps[..., None], view.known)

    def _divergence(self, x: Tensor, labels: Tensor) -> Tensor:
        e = self.label_smoothing
        p = (1 - e) * labels + e * (1 - labels)
        ahead, behind = functional.logsigmoid(x), functional.logsigmoid(-x)
        return ahead.exp() * (ahead - p.log()) + behind.exp() * (behind - torch.log1p(-p))


@register_preference("discopop")
class DiscoPop(DivergenceLoss):
    """DiscoPOP: the logistic and the exponential loss, mixed by g = sigmoid(x / tau): `(1 - g) softplus(-x) + g
    exp(-x)`.

    Args:
        beta: How strongly the reference is held on to.
        discopop_tau: tau.
        f_divergence_type: The divergence that is penalised.
        f_alpha_divergence_coef: alpha of "alpha_divergence".
    """

    def __init__(
        self,
        *,
        beta: Positive = 0.1,
        discopop_tau: Positive = 0.05,
        **divergence: Any,
    ) -> None:
        super().__init__(beta=beta, **divergence)
        self.discopop_tau = float(discopop_tau)

    def of_margin(self, x: Tensor) -> Tensor:
        """The mixture; margins below -20 count as -20, where the logistic part has all the weight."""
        g = torch.sigmoid(x / self.discopop_tau)
        return -functional.logsigmoid(x) * (1 - g) + torch.exp(-x.clamp(min=-EXPONENT)) * g


@register_preference("sigmoid_norm")
class SigmoidNorm(DivergenceLoss):
    """DPO on means over tokens (Tulu 3, OLMo): `-log sigmoid(beta D)` with D per token. beta is then about 5 there."""

    soft_labels = True
    per_token = True

    def of_margin(self, x: Tensor) -> Tensor:
        """`-log sigmoid(x)`."""
        return -functional.logsigmoid(x)


@register_preference("odpo")
class OffsetSigmoid(DivergenceLoss):
    """DPO with an offset: `-log sigmoid(beta D - alpha log(margin))`. A pair without a margin has no offset.

    Args:
        beta: How strongly the reference is held on to.
        odpo_alpha: alpha, how much of the margin's logarithm must be exceeded.
    """

    def __init__(self, *, beta: Positive = 0.1, odpo_alpha: NotNegative = 1.0) -> None:
        super().__init__(beta=beta)
        self.odpo_alpha = float(odpo_alpha)

    def of_margin(self, x: Tensor) -> Tensor:
        """`-log sigmoid(x)`."""
        return -functional.logsigmoid(x)

    def offsets(self, view: PairView) -> tuple[Tensor, Tensor] | None:
        """`alpha log(margin)` on both sides.

        Raises:
            ConfigError: The comparisons have no margins.
        """
        if view.margins is None:
            raise ConfigError("'odpo' needs margins: ratings, a column `margin`, or a signed strength.")
        margins = torch.where(view.margins > 0, view.margins, torch.ones_like(view.margins))  # NaN, too, becomes 1
        offset = self.odpo_alpha * margins.to(view.logps.dtype).log()
        return offset, offset


@register_preference("copg")
class ContrastivePolicyGradient(MarginLoss):
    """CoPG for pairs: `(R_a - R_b - beta D)^2` with rewards of both responses, which are the view's scores.

    Args:
        beta: The price of one nat of divergence from the reference, in units of the reward.
    """

    soft_labels = True

    def __init__(self, *, beta: Positive = 0.1) -> None:
        self.beta = float(beta)

    def score(self, view: PairView) -> Tensor:
        """The log-ratio."""
        return view.ratios

    def of_margin(self, x: Tensor) -> Tensor:
        """With a difference of rewards of 0."""
        return x.square()

    def losses_of(self, gaps: Tensor, view: PairView) -> Tensor:
        """The squared distance from the difference of rewards."""
        wanted = torch.nan_to_num(self._wanted(view)).to(gaps.dtype)
        return (wanted - self.beta * gaps.clamp(-SQUARED, SQUARED)[..., None]).square()

    def counted(self, view: PairView) -> Tensor:
        """Pairs whose responses both have a reward."""
        known = torch.isfinite(self._wanted(view)).to(view.logps.dtype)
        return known if view.weights is None else known * view.weights

    @staticmethod
    def _wanted(view: PairView) -> Tensor:
        if view.scores is None:
            raise ConfigError("'copg' needs a reward of each response: ratings, or rewards of samples.")
        row, a, b = view.pairs.unbind(1)
        return view.scores[row, a] - view.scores[row, b]


@register_preference("inpo")
class IterativeNash(MarginLoss):
    """INPO: `(h - (s - 1/2) / eta)^2` with h = D(log pi) - tau/eta D(log ref) - (eta - tau)/eta D(log pi_t).

    Args:
        eta: Size of the step from pi_t, inverted.
        tau: How strongly the reference is held on to; below eta.

    Raises:
        ConfigError: tau is above eta.
    """

    soft_labels = True

    def __init__(self, *, eta: Positive = 0.0075, tau: NotNegative = 0.0025) -> None:
        if tau > eta:
            raise ConfigError(f"'inpo' needs tau of at most eta. Found tau={tau}, eta={eta}.")
        self.eta, self.tau = float(eta), float(tau)

    def score(self, view: PairView) -> Tensor:
        """The log-probability less the mixture of the reference and the iterate that the step starts from."""
        if view.reference is None or view.previous is None:
            raise ConfigError("'inpo' needs log-probabilities of the reference and of the previous iterate.")
        share = self.tau / self.eta
        return view.logps - share * view.reference - (1 - share) * view.previous

    def of_margin(self, x: Tensor) -> Tensor:
        """With a hard label."""
        return (x - 1 / (2 * self.eta)).square()

    def losses_of(self, gaps: Tensor, view: PairView) -> Tensor:
        """The squared distance from what the label asks for."""
        return (gaps.clamp(-SQUARED, SQUARED)[..., None] - (view.known - 0.5) / self.eta).square()
