"""Learning what rewards in a prompt mean: answers are imitated behind the rewards that they had.

No weights and no preferences take part. A model that has learned what sort of answer follows which rewards is asked for
the rewards that a preference wants; the family "rewards" does that.

References:
    Yang et al., "Rewards-in-Context: Multi-objective Alignment of Foundation Models with Dynamic Preference
        Adjustment", arXiv 2402.10207. There a reward is said in standard deviations from its mean over the data
        (`unit="score"` here).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pareto_align.arguments import Count
from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.data.ordering import ComparisonOrder
from pareto_align.errors import ComparisonError, ConfigError, ParetoAlignWarning
from pareto_align.learning.learner import Context, Learner, StepReport, register_learner
from pareto_align.learning.offline import Overflow
from pareto_align.learning.rollouts import asked
from pareto_align.policies.base import Base
from pareto_align.policies.families.prompted import Rewards
from pareto_align.policies.gradients import ObjectiveGradients
from pareto_align.policies.logprobs import TokenLoss
from pareto_align.policies.optimizer import FamilyOptimizer
from pareto_align.policies.sampling import Completions

__all__ = ["RewardsInContext", "said_rewards"]

FloatArray = NDArray[np.float64]


@dataclass(eq=False)
class Imitated:
    """Some answers, each behind the rewards that it had.

    Attributes:
        completions: `[K, N, 1, T]`, behind K*N prompts: every policy reads other answers.
        M: How many objectives there are.
    """

    completions: Completions
    M: int
    rewards: None = field(default=None, init=False)

    @property
    def token_count(self) -> int:
        """Tokens that were read, prompts included."""
        return int(self.completions.mask.sum()) + sum(map(len, self.completions.prompt_ids))

    @property
    def count(self) -> int:
        """Answers that were read."""
        return len(self.completions.prompt_ids)

    def values(self) -> np.ndarray:
        """`[K, M]` NaN: what a policy reaches is seen when it is asked."""
        return np.full((len(self.completions.tokens), self.M), np.nan)

    def lengths(self) -> np.ndarray:
        """Mean length of the answers, `[K]` in tokens."""
        found: np.ndarray = self.completions.lengths.float().mean((1, 2)).numpy()
        return found


def said_rewards(ratings: FloatArray, unit: str) -> FloatArray:
    """Ratings `[n, m]` in the unit in which they are said, so that 0 is usual and 1.6 is rarely exceeded.

    Args:
        ratings: NaN where one is missing, and stays so.
        unit: "quantile": the normal deviate with as many of the data's ratings below it, half of those that are equal;
            "score": the distance from the mean in standard deviations.
    """
    from scipy.stats import norm, rankdata  # takes a quarter of a second, and every worker loads this module

    found = np.full(ratings.shape, np.nan)
    for column, into in zip(ratings.T, found.T, strict=True):
        known = np.isfinite(column)
        own = column[known]
        if unit == "quantile":
            into[known] = norm.ppf((rankdata(own) - 0.5) / max(len(own), 1))
        else:
            into[known] = (own - own.mean()) / (own.std() or 1.0) if len(own) else own
    return found


def _warn_of_untaught(family: Rewards, said: NDArray[np.float64]) -> None:
    """Say so where the family asks for rewards beyond those that answers are said to have.

    Warns:
        ParetoAlignWarning: So it is.
    """
    for j, name in enumerate(family.names):
        if not (told := said[np.isfinite(said[:, j]), j]).size:
            continue
        least, most = told.min(), told.max()
        low, high = (float(np.broadcast_to(side, len(family.names))[j]) for side in (family.low, family.high))
        if high > most + 0.1 or low < least - 0.1:  # what is said has one digit after the point
            warnings.warn(
                f"The answers are said to have {name!r} from {least:.1f} to {most:.1f}, since few are rated or many "
                f"are rated alike, and preferences ask for {low:g} to {high:g}, which the adapter will not have learnt "
                'to read. Give the family low and high within that range: family={"name": "rewards", "low": ..., '
                '"high": ...}.',
                ParetoAlignWarning,
                stacklevel=2,
            )


@register_learner("ric")
class RewardsInContext(Learner):
    """RiC: one adapter imitates rated answers, each behind a text that says its ratings.

    It goes with the family "rewards", which asks for rewards at the front's preferences in the same words, its `low`
    and `high` being in the same unit. Each of the K policies reads other answers, so that a step reads K times
    `prompts_per_step` of them for the one adapter.

    Args:
        unit: In what ratings are said: "quantile" is the same for any distribution of ratings that are all different,
            and the family's usual -1.6 and 1.6 are then the lowest and the highest twentieth of the data; "score" is
            the paper's.
        max_length, overflow: As of `Dpo`.
    """

    needs = "comparisons"
    provides: ClassVar[frozenset[str]] = frozenset({"measured"})
    tells_rewards = True

    def __init__(
        self,
        *,
        unit: Literal["quantile", "score"] = "quantile",
        max_length: Count | None = None,
        overflow: Overflow = "error",
    ) -> None:
        self.unit = unit
        self.max_length, self.overflow = max_length, overflow

    def setup(self, context: Context) -> None:
        """Begin a run: say the ratings of all answers.

        Raises:
            ConfigError: The family says no rewards.
            ComparisonError: A prompt with what is said before it and its answer exceeds the model's context.
        """
        super().setup(context)
        family = self.optimizer.family if isinstance(self.optimizer, FamilyOptimizer) else None
        if not isinstance(family, Rewards):
            raise ConfigError(f"The learner {self.name!r} needs a family that says rewards: family='rewards'.")
        rows = [row for row in context.prompts if isinstance(row, ComparisonRow)]
        answers = [(row, g) for row in rows for g in range(len(row.tokens))]
        ratings = np.array([_ratings(row, g, self.axes) for row, g in answers]).reshape(len(answers), len(self.axes))
        known = np.isfinite(ratings).any(1)
        said = said_rewards(ratings[known], self.unit)
        _warn_of_untaught(family, said)
        self.answers = [
            _behind(self.population.base, family, *answers[place], rewards)
            for place, rewards in zip(np.flatnonzero(known), said, strict=True)
        ]
        slots = range(context.first, context.first + self.population.size)
        # every answer counts once a pass, whatever is known of it
        alike = np.ones((len(self.answers), 1), dtype=bool)
        self.orders = [ComparisonOrder(alike, context.seed, f"rewards in context {slot}") for slot in slots]

    def collect(self, step: int) -> Imitated:
        """The step's answers: every policy goes through all of them in an order of its own."""
        size = self.context.prompts_per_step
        chosen = [self.answers[place] for order in self.orders for place in order.batch(step, size)]
        pad = int(self.population.base.tokenizer.pad_token_id)
        rows = [torch.tensor(tokens) for _, tokens in chosen]
        shape = len(self.orders), size, 1, -1
        tokens = pad_sequence(rows, batch_first=True, padding_value=pad).view(shape)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True).view(shape)
        done = Completions([list(ids) for ids, _ in chosen], tokens, mask, torch.zeros(tokens.shape))
        return Imitated(done, len(self.context.scale.scale))

    def coefficients(self, seen: Imitated) -> Tensor:
        """`[K, N, 1, m]`: the mean log-probability of a token is what rises, for every objective alike."""
        return self._share(seen)[:, None, None, None].expand(*seen.completions.tokens.shape[:3], len(self.axes))

    def gradients(self, seen: Imitated, *, halves: bool = False) -> ObjectiveGradients:
        """The gradient of the likelihood, which is that of every objective.

        Args:
            seen: What was collected.
            halves: Not offered.

        Raises:
            ConfigError: `halves` was asked for.
        """
        if halves:
            raise ConfigError(f"The learner {self.name!r} does not halve its answers.")
        done = seen.completions
        batch = self.engine.prepare(done.prompt_ids, done)
        found, logprobs = self.engine.ascend(batch, self.coefficients(seen)[..., :1], done.mask.float())
        return ObjectiveGradients(found[0].expand(-1, len(self.axes), -1), None, None, logprobs, batch, False)

    def step(
        self,
        seen: Imitated,
        weights: np.ndarray,
        learning_rate: float,
        *,
        applies_to: str = "advantage",
        gradients: ObjectiveGradients | None = None,
    ) -> StepReport:
        """Make the answers likelier; weights have no part in it. See `Learner.step`."""
        done = seen.completions
        if gradients is None:
            share = (self._share(seen)[:, None, None, None] * done.mask).float()

            def loss(share: Tensor) -> TokenLoss:
                return lambda logprob, chunk: -logprob * share[chunk]

            batch = self.engine.prepare(done.prompt_ids, done)
            logprobs = self.engine.descend(batch, loss, {"share": share}, logprobs=True)
            assert logprobs is not None
        else:
            self.population.grad.copy_(-gradients.gradients[:, 0])
            logprobs = gradients.logprobs
        norms = self.optimizer.step(self.population.grad, learning_rate).cpu().numpy()
        surprise = -(logprobs.sum((1, 2, 3)) * self._share(seen)).double().numpy()
        unknown = np.full(len(norms), np.nan)
        return StepReport(norms, unknown, unknown, surprise, np.isfinite(surprise), {"surprise": surprise})

    def _share(self, seen: Imitated) -> Tensor:
        """`[K]` of each token in its policy's mean."""
        return 1 / seen.completions.mask.sum((1, 2, 3)).clamp(min=1)


def _ratings(row: ComparisonRow, answer: int, axes: Sequence[int]) -> FloatArray:
    scores = row.comparison.scores
    return np.full(len(axes), np.nan) if scores is None else scores[answer][list(axes)]


def _behind(
    base: Base, family: Rewards, row: ComparisonRow, answer: int, rewards: FloatArray
) -> tuple[list[int], tuple[int, ...]]:
    """A prompt with what is said of the rewards of one of its answers, and the answer, as tokens."""
    (ids,) = asked(base, [row.row], [family.said(rewards)])
    tokens = row.tokens[answer]
    if len(ids) + len(tokens) > base.context_length:
        raise ComparisonError(
            f"A prompt with what the family {family.name!r} says before it and an answer have "
            f"{len(ids) + len(tokens)} tokens, and the model's context is {base.context_length}: {row.prompt!r:.80}. "
            "Set max_length of the learner below it, with overflow='drop'."
        )
    return ids, tokens
