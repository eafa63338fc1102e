"""Weights of proxies that a dear objective teaches: what is learned from is cheap, what is wanted is audited.

The upper level maximises U = E[u], u an audited objective, over the weights a of the optimised ones, the proxies. The
lower level is the training itself: pi_a maximises E[a.r] - beta KL(pi || reference), so that pi_a is proportional to
reference * exp(a.r / beta), and how U answers to a weight needs no derivative of second order:

    dU / da_i = Cov_{pi_a}(u, r_i) / beta            among the completions of a prompt, mean over the prompts

It is implicit differentiation with the lower level's Hessian inverted in closed form: a Fisher matrix, whose natural
gradients are the centred rewards themselves.

References:
    Gupta et al., "Behavior Alignment via Reward Function Optimization", arXiv 2310.19007 (BARFI): an auxiliary reward
        whose weights are learned by implicit differentiation. The derivation in closed form is ours.
    Kwon et al., "A Fully First-Order Method for Stochastic Bilevel Optimization", arXiv 2301.10945 (the penalty).
    Lu and Jiang, arXiv 2602.06869 (CTWA): the same covariance, to another end.
    Mirror step and window, normalised momentum and period are those of Bregman (OBBO, SOBBO) and normalised momentum
        methods (BO-REP) of bilevel optimisation; their papers could not be read, and their constants are not used.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pareto_align.arguments import Count, Memory, Positive, Share, Whole
from pareto_align.errors import ConfigError
from pareto_align.weighting.base import FloatArray, Signal, Weighting, interior, register, running_mean, softmax

__all__ = ["Bilevel"]

Estimate = Literal["covariance", "gramian", "paired"]

REQUIRED: dict[str, frozenset[str]] = {
    "covariance": frozenset({"audits", "audit_covariances"}),
    "gramian": frozenset({"audits", "audit_gramians"}),
    "paired": frozenset({"audits"}),
}


@register("bilevel")
class Bilevel(Weighting):
    """An audited objective steers the weights of the proxies: each gains as far as what is wanted rises with it.

        h_i = how U answers to a_i            H = window H + (1 - window) h, every step, mean without bias
        step = H / (|H| + delta L)            L the longest H so far;  every `period` steps, after `after` of the run
        simplex   log a <- log a + eta step, scaled to sum 1, every weight at least `floor`
                  |H| the deviation of H_i under the weights a_i
        box       a <- a + eta step, kept within 0 and 1

    Every policy starts at its preference (of a pair: at the mean of both). On the simplex the weights are a trade; in
    the box their sum is the strength as well: a proxy that only harms is switched off, and with all of them off the
    policy goes back to the reference, as its price of KL asks. The box therefore needs `kl_coef` above 0.

    On the simplex a slope counts as far as it moves anything: what all proxies have in common does not, nor does a
    proxy that has no weight left to give. The length is that of the mirror step in its own metric, sum of da_i^2 / a_i,
    in which two corners are pi apart; otherwise the proxy that misleads, long after it was dropped, would still take
    most of every move from those that are left to be told apart.

    The length of h does not matter, only how it compares with its own past: neither the unit of the audit nor beta
    has to be known. An audit that does not vary moves nothing. What is not scored may be None: covariances are those of
    the completions that were. The audited objective is learned from now, through few numbers: it is no audit of the
    run any more. Keep another.

    Args:
        estimate: "covariance" (default): as above, from the rollout's own numbers. "gramian": inner products of the
            proxies' gradients with the audit's, each on one half of the batch, which makes them unbiased: how U answers
            to one step of training. "paired": every second policy is trained on a.r + u / lam beside its neighbour, and
            h = lam (what it has more of each proxy), the derivative of the penalty that the audit's value is for not
            being best. Twice the training, and half of the policies are trained on the audit.
        primary: Place of the audited objective that counts, among the audited ones.
        simplex: False for the box.
        shared: One row for all policies, from the mean of what they show, instead of one a policy.
        window: Memory of H.
        period: Training steps from one move to the next: the policy has to follow.
        after: Share of the run before the first move.
        eta: Length of a move, in the simplex's metric or of weights; None: .15 on the simplex and .1 in the box.
        delta: Share of the longest H at which a move has half its length.
        floor: Least weight on the simplex; lowered to half an even share where there are too many objectives for it.
        lam: For "paired": how little the audit weighs beside the proxies.

    Raises:
        ConfigError: A setting out of range.
    """

    follows_slots = True
    goes_by_covariance = True
    state_names = ("weights", "total", "count", "longest")

    def __init__(
        self,
        *,
        estimate: Estimate = "covariance",
        primary: Whole = 0,
        simplex: bool = True,
        shared: bool = False,
        window: Memory = 0.9,
        period: Count = 5,
        after: Share = 0.1,
        eta: Positive | None = None,
        delta: Positive = 0.05,
        floor: Positive = 1e-3,
        lam: Positive = 4.0,
    ) -> None:
        self.estimate: Estimate = estimate
        self.requires = REQUIRED[estimate]
        self.steers_audits = estimate != "covariance"
        self.needs_kl = not simplex
        self.compares_slots = estimate == "paired"
        self.primary, self.simplex, self.shared = int(primary), bool(simplex), bool(shared)
        self.window, self.period, self.after = float(window), int(period), float(after)
        self.eta = float((0.15 if simplex else 0.1) if eta is None else eta)
        self.delta, self.floor, self.lam = float(delta), float(floor), float(lam)

    def goes_by(self, audits: int) -> tuple[int, ...]:
        """The one it follows."""
        return (self.primary,)

    def setup(self, K: int, m: int) -> None:
        """Every policy at its preference, which the first signal tells. [K, m] weights (NaN before), sums, counts."""
        super().setup(K, m)
        self.weights = np.full((K, m), np.nan)
        self.total, self.count, self.longest = np.zeros((K, m)), np.zeros((K, m)), np.zeros((K, 1))

    def reset(self, slot: int) -> None:
        """Policy `slot` starts again at its preference, and with it the other one of its pair.

        Where all share one row nothing is forgotten: it is what all the others learned, too.
        """
        super().reset(slot)
        if self.shared:
            return
        rows = self._pair(slot)
        self.weights[rows] = np.nan
        self.total[rows] = self.count[rows] = self.longest[rows] = 0.0

    def __call__(self, signal: Signal) -> FloatArray:
        """Weights [K, m], or [K, m + a] where the audited objectives are steered, before they learn from this signal.

        Raises:
            ConfigError: The signal has not what the estimate is made of.
        """
        self._check(signal)
        slopes, audits = self._slopes(signal)
        fresh = np.isnan(self.weights).any(axis=1)
        if fresh.any():
            self.weights[fresh] = self._inside(self._pooled(np.asarray(signal.preferences)))[fresh]
        rows = self.weights.copy()
        self.total, self.count, means = running_mean(self.total, self.count, self._pooled(slopes), self.window)
        means = np.nan_to_num(means)
        length = self._length(means)
        self.longest = np.maximum(self.longest, length)
        if signal.progress >= self.after and (signal.step + 1) % self.period == 0:
            step = np.where(length > NOTHING, means / np.maximum(length + self.delta * self.longest, NOTHING), 0.0)
            moved = softmax(np.log(self.weights) + self.eta * step) if self.simplex else self.weights + self.eta * step
            self.weights = np.where(length > NOTHING, self._inside(moved), self.weights)
        if not self.steers_audits:
            return rows
        steering = np.zeros((self.K, audits))
        if self.estimate == "paired":
            steering[1::2, self.primary] = 1 / self.lam
        return np.concatenate([rows, steering], axis=1)

    def _slopes(self, signal: Signal) -> tuple[FloatArray, int]:
        """How U answers to each weight [K, m], up to a common factor, NaN where not seen; and how many audits."""
        found = {
            "covariance": signal.audit_covariances,
            "gramian": signal.audit_gramians,
            "paired": signal.audits,
        }[self.estimate]
        audits = 0 if found is None else found.shape[-1]
        if found is None or self.primary >= audits:
            raise ConfigError(
                f"Weighting 'bilevel' follows audited objective number {self.primary} (of 0, 1, ...) by its "
                f"{self.estimate}. Found {audits} audited. Give objectives role='audit', or set `primary`."
            )
        if self.estimate != "paired":
            return np.asarray(found[..., self.primary]), audits
        slopes = np.full((self.K, self.m), np.nan)
        pairs = 2 * (self.K // 2)
        more = self.lam * (signal.values[1:pairs:2] - signal.values[0:pairs:2])
        slopes[0:pairs:2] = slopes[1:pairs:2] = more
        return slopes, audits

    def _length(self, slopes: FloatArray) -> FloatArray:
        """[K, 1] of slopes [K, m]; on the simplex their deviation under the weights."""
        if not self.simplex:
            return np.asarray(np.linalg.norm(slopes, axis=1, keepdims=True))
        mean = (self.weights * slopes).sum(axis=1, keepdims=True)
        return np.asarray(np.sqrt((self.weights * (slopes - mean) ** 2).sum(axis=1, keepdims=True)))

    def _pair(self, slot: int) -> slice:
        """The rows that `slot` shares its weights with."""
        if self.estimate != "paired":
            return slice(slot, slot + 1)
        first = slot - slot % 2
        return slice(first, first + 2)

    def _pooled(self, rows: FloatArray) -> FloatArray:
        """Rows [K, m], each the mean of those that share weights; NaN where none of them has a number."""
        if self.shared:
            size = self.K
        elif self.estimate == "paired":
            size = 2
        else:
            return rows
        found = np.empty_like(rows)
        for start in range(0, self.K, size):
            part = rows[start : start + size]
            seen = np.isfinite(part)
            mean = np.where(seen, part, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
            found[start : start + size] = np.where(seen.any(axis=0), mean, np.nan)
        return found

    def _inside(self, weights: FloatArray) -> FloatArray:
        """Weights [K, m] where they may be."""
        return interior(weights, min(self.floor, 0.5 / self.m)) if self.simplex else np.clip(weights, 0.0, 1.0)


NOTHING = 1e-12
"""A mean of this length, on the frozen scale, is rounding."""
