"""What a user wants, found out by a few questions: which of two members do you like better?

Nobody knows his weights, but everybody can say which of two things is better. A crowd of possible users (*particles*)
stands for what is not known yet: each has a utility of one kind, linear or Chebyshev, with weights of its own, and true
values of the members within what was measured. An answer makes those particles likelier that would have given it:

    P(the first is said to be better) = (1 - lapse) sigmoid((u_first - u_second) / temperature) + lapse / 2

with utilities scaled to 0 .. 1 over the members. The next question is the one whose answer is worth most. The last
one's worth is the utility that the member that is then best is expected to have (the *knowledge gradient*, one question
ahead). As long as more can be asked that alone is short-sighted: what an answer says of which member is best helps the
questions to come, though it may not change the choice yet. So this information counts, too, and the more so the more
questions are left and the more regret there is. Where no single answer would change the choice and none is to come, it
is the pair with the largest expectation of max(u_first, u_second). The *regret* is what the best of all members would
add to the utility of the one that is best in expectation.

References:
    Frazier, Powell and Dayanik, "A Knowledge-Gradient Policy for Sequential Information Collection", SIAM Journal on
        Control and Optimization 47 (2008).
    Hennig and Schuler, "Entropy Search for Information-Efficient Global Optimization", Journal of Machine Learning
        Research 13 (2012): ask for information about which one is best.
    Astudillo et al., "qEUBO: A Decision-Theoretic Acquisition Function for Preferential Bayesian Optimization", arXiv
        2303.15746: where answers never err, the pair with the largest expectation of the better one is as good. Here
        they do err.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, xlogy

from pareto_align.errors import ConfigError

__all__ = ["UTILITIES", "VERDICTS", "Users", "utilities_of"]

Floats = NDArray[np.float64]

UTILITIES = ("linear", "chebyshev")
VERDICTS = ("first", "second", "same")
AUGMENTED = 0.01
"""Share of the linear shortfall in a Chebyshev utility: it tells two members with the same worst shortfall apart."""
MOST_MEMBERS, LIKELY = 24, 20
"""Members up to which all pairs are looked at, and beyond that the likeliest to be best."""
LEAST_EFFECTIVE = 0.1
"""Effective share of the particles below which they are drawn anew around those that are left."""
INFORMATION = 0.3
"""Share of the regret that a nat about which member is best counts for, with each question that is left."""
MOST_LEFT = 11
"""Questions to come that count: sessions of more than twelve were not studied, and a choice may be wanted before."""
TIE = 1e-6
"""Worths of questions that differ by no more are the same: rounding, in single precision."""
CONCENTRATION = 200.0
"""Of the Dirichlet that a particle's new weights are drawn from, around its old ones."""


def utilities_of(
    kind: str, values: Floats, weights: Floats, *, lower: Floats, upper: Floats, ideal: Floats, span: Floats
) -> Floats:
    """Utilities of members, scaled so that the worst has 0 and the best 1.

    Args:
        kind: One of `UTILITIES`.
        values: [P, n, m] or [1, n, m] what the members are worth to each user, maximised.
        weights: [P, m] on the simplex.
        lower: [m] the value that is 0 to a linear user.
        upper: [m] the value that is 1 to a linear user.
        ideal: [m] what a Chebyshev user counts shortfalls from.
        span: [m] how far below that his shortfall is 1.

    Returns:
        [P, n]; zeros for a user to whom all members are the same.
    """
    if kind == "linear":
        found = ((values - lower) / (upper - lower) @ weights[:, :, None])[..., 0]
    else:
        short = weights[:, None, :] * (ideal - values) / span
        found = -short.max(axis=-1) - AUGMENTED * short.sum(axis=-1)
    worst = found.min(axis=1, keepdims=True)
    reach = found.max(axis=1, keepdims=True) - worst
    return np.asarray(np.divide(found - worst, reach, out=np.zeros_like(found), where=reach > 1e-12), dtype=float)


class Users:
    """Possible users, as likely as the answers so far make them.

    The same arguments and answers give the same questions.

    Args:
        values: [n, m] measured means of the members, maximised.
        lower: [m] value that becomes 0, as in `pareto_align.front.selection.select`.
        upper: [m] value that becomes 1.
        ideal: [m] what Chebyshev users count shortfalls from; by default the best of the members.
        span: [m] how far below the ideal a shortfall is 1; by default what the members span.
        errors: [P, n, m] how far the true values lie from the measured ones, a draw a particle; by default not at all.
        utilities: Which kinds of users there are, each as likely before the first answer.
        particles: P, how many users stand for all.
        temperature: Difference of utilities, on the scale of 0 to 1, at which 27 % of answers are the other way.
        lapse: Share of answers that say nothing, given as by a coin.
        seed: Of all that is drawn.

    Attributes:
        weights: [P, m] each particle's weights.
        utility: [P, n] its utility of each member, 0 to 1.
        answers: How many there were.

    Raises:
        ConfigError: An argument is out of range, or the shapes do not fit.
    """

    def __init__(
        self,
        values: ArrayLike,
        *,
        lower: ArrayLike,
        upper: ArrayLike,
        ideal: ArrayLike | None = None,
        span: ArrayLike | None = None,
        errors: Floats | None = None,
        utilities: Sequence[str] = UTILITIES,
        particles: int = 4000,
        temperature: float = 0.1,
        lapse: float = 0.1,
        seed: int = 0,
    ) -> None:
        self._values = np.asarray(values, dtype=float)
        if self._values.ndim != 2 or not self._values.size or not np.isfinite(self._values).all():
            raise ConfigError(f"`values` must be finite numbers [n, m]. Found shape {self._values.shape}.")
        n, m = self._values.shape
        kinds = tuple(utilities) if not isinstance(utilities, str) else (utilities,)
        if not kinds or set(kinds) - set(UTILITIES) or len(set(kinds)) < len(kinds):
            raise ConfigError(f"`utilities` must be some of {', '.join(UTILITIES)}, each once. Found {utilities!r}.")
        if particles < len(kinds) or not temperature > 0 or not 0 <= lapse < 1:
            raise ConfigError(
                f"There must be {len(kinds)} `particles` or more, a `temperature` above 0 and a `lapse` from 0 to "
                f"below 1. Found {particles}, {temperature} and {lapse}."
            )
        best, reach = self._values.max(axis=0), np.ptp(self._values, axis=0)
        self._frame = {
            "lower": np.asarray(lower, dtype=float),
            "upper": np.asarray(upper, dtype=float),
            "ideal": best if ideal is None else np.asarray(ideal, dtype=float),
            "span": np.where(reach > 0, reach, 1.0) if span is None else np.asarray(span, dtype=float),
        }
        if errors is not None and errors.shape != (particles, n, m):
            raise ConfigError(f"`errors` must have shape {(particles, n, m)}. Found {errors.shape}.")
        self.kinds, self.temperature, self.lapse, self.seed = kinds, float(temperature), float(lapse), int(seed)
        rng = np.random.default_rng([self.seed, 0])
        self.weights = rng.dirichlet(np.ones(m), size=particles)
        self._kind = np.arange(particles) * len(kinds) // particles  # equally many of each
        self._errors = np.zeros((1, n, m)) if errors is None else errors
        self._log = np.zeros(particles)
        self.answers = 0
        self.utility = self._utilities()

    def _utilities(self) -> Floats:
        found = np.empty((len(self.weights), len(self._values)))
        for number, kind in enumerate(self.kinds):
            of = self._kind == number
            errors = self._errors if len(self._errors) == 1 else self._errors[of]
            found[of] = utilities_of(kind, self._values + errors, self.weights[of], **self._frame)
        return found

    @property
    def probabilities(self) -> Floats:
        """[P] how likely each particle is; the sum is 1."""
        found = np.exp(self._log - self._log.max())
        return np.asarray(found / found.sum(), dtype=float)

    @property
    def expected(self) -> Floats:
        """[n] the members' expected utilities."""
        return np.asarray(self.probabilities @ self.utility, dtype=float)

    @property
    def best(self) -> int:
        """The member with the largest expected utility."""
        return int(self.expected.argmax())

    def regret(self, member: int | None = None) -> float:
        """What the user is expected to lose with a member, by default the best: a share of his range of utilities."""
        row = self.best if member is None else member
        return float(self.probabilities @ (self.utility.max(axis=1) - self.utility[:, row]))

    @property
    def probability_best(self) -> Floats:
        """[n] how likely each member is the user's best; where several are one user's best, to the first of them."""
        firsts = self.utility.argmax(axis=1)
        found = np.bincount(firsts, weights=self.probabilities, minlength=len(self._values))
        return np.asarray(found, dtype=float)

    @property
    def preference(self) -> tuple[Floats, Floats]:
        """[m] mean of the weights, and [m] their standard deviation."""
        mean = self.probabilities @ self.weights
        return mean, np.sqrt(np.maximum(self.probabilities @ (self.weights - mean) ** 2, 0.0))

    def likelihood_of(self, kind: str) -> float:
        """How likely the user is one of this kind, of those there may be."""
        return float(self.probabilities[self._kind == self.kinds.index(kind)].sum())

    def ask(self, askable: NDArray[np.bool_], left: int = 0) -> tuple[int, int] | None:
        """The pair of members, first the lower row, whose comparison is worth most; None where there is none to ask.

        Args:
            askable: [n, n] which pairs may be asked about; the part above the diagonal is read.
            left: How many more may be asked after this one; more than `MOST_LEFT` count as that many.
        """
        n = len(self._values)
        rows = (
            np.arange(n) if n <= MOST_MEMBERS else np.sort(np.argsort(-self.probability_best, kind="stable")[:LIKELY])
        )
        first, second = (rows[of] for of in np.triu_indices(len(rows), 1))
        allowed = askable[first, second]
        first, second = first[allowed], second[allowed]
        if not len(first):
            return None
        worth = self.worth(first, second, left)
        equals = np.flatnonzero(worth > worth.max() - TIE)  # all of them where no one answer changes the choice
        better = self.probabilities @ np.maximum(self.utility[:, first[equals]], self.utility[:, second[equals]])
        pair = equals[np.argmax(better > better.max() - 1e-12)]
        return int(first[pair]), int(second[pair])

    def worth(self, first: NDArray[np.intp], second: NDArray[np.intp], left: int = 0) -> Floats:
        """[pairs] what it is worth to ask which of two members is better: the utility of the choice after the answer.

        With questions left, what the answer tells of the best member comes on top.

        Args:
            first: [pairs] one member of each pair.
            second: [pairs] the other.
            left: How many more may be asked after this one.
        """
        n = len(self._values)
        # single precision and a pair a row: twice as fast, and there are many pairs
        utility = np.ascontiguousarray(self.utility.T, dtype=np.float32)
        best = self.utility.argmax(axis=1) == np.arange(n)[:, None]  # [n, P] whose best a member is
        ahead = utility[first]
        ahead -= utility[second]
        ahead /= np.float32(max(self.temperature, 1e-37))  # the least that single precision holds
        # [pairs, P] how likely it is this user, and he says "first"
        said = expit(ahead, out=ahead)
        said *= np.float32(1 - self.lapse)
        said += np.float32(self.lapse / 2)
        said *= self.probabilities.astype(np.float32)
        # [pairs, n] what the members are worth if he does, and that he does and a member is his best
        both = np.vstack([utility, best], dtype=np.float32)
        then, joint = np.split(np.asarray(said @ both.T, dtype=float), [n], axis=1)
        worth = np.asarray(then.max(axis=1) + (self.expected - then).max(axis=1), dtype=float)
        if not left:
            return worth
        each = self.probability_best
        joint = np.clip(joint, 0.0, each)  # rounding may pass the bounds
        answers = np.stack([joint, each - joint])  # [2, pairs, n]
        said_so = answers.sum(axis=2)
        told = xlogy(answers, answers).sum(axis=(0, 2)) - xlogy(said_so, said_so).sum(axis=0) - xlogy(each, each).sum()
        return np.asarray(worth + INFORMATION * min(left, MOST_LEFT) * self.regret() * told, dtype=float)

    def answer(self, first: int, second: int, verdict: str) -> None:
        """Take in what the user said of two members.

        Args:
            first: One member.
            second: The other.
            verdict: "first" or "second", whichever is better; "same" counts as half an answer either way.

        Raises:
            ConfigError: The verdict is none of these.
        """
        if verdict not in VERDICTS:
            raise ConfigError(f"An answer is one of {', '.join(VERDICTS)}. Found {verdict!r}.")
        ahead = (self.utility[:, first] - self.utility[:, second]) / self.temperature
        if verdict == "same":
            self._log += (self._likelihood(ahead) + self._likelihood(-ahead)) / 2
        else:
            self._log += self._likelihood(ahead if verdict == "first" else -ahead)
        self.answers += 1
        likely = self.probabilities
        if 1 / (likely @ likely) < LEAST_EFFECTIVE * len(likely):
            self._renew(likely)

    def _likelihood(self, ahead: Floats) -> Floats:
        """[P] log-probability of an answer for what is `ahead` [P] temperatures better."""
        said = -np.logaddexp(0.0, -ahead)
        return np.logaddexp(said + np.log1p(-self.lapse), np.log(self.lapse / 2)) if self.lapse else said

    def _renew(self, likely: Floats) -> None:
        """Draw the particles anew, each near one that is there, as often as that one is likely."""
        rng = np.random.default_rng([self.seed, self.answers])
        places = (rng.random() + np.arange(len(likely))) / len(likely)  # systematic: as even as can be
        chosen = np.minimum(np.searchsorted(likely.cumsum(), places), len(likely) - 1)
        gamma = rng.standard_gamma(CONCENTRATION * self.weights[chosen] + 1e-3)
        self.weights = gamma / np.maximum(gamma.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        self._kind = self._kind[chosen]
        if len(self._errors) > 1:
            self._errors = self._errors[chosen]
        self._log = np.zeros(len(likely))
        self.utility = self._utilities()
