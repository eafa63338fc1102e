"""Learning from marks of single responses: good or bad, without a second one to compare with.

References:
    Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", arXiv 2402.01306.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pareto_align.arguments import Count, NotNegative, Positive
from pareto_align.data.comparison import Labels
from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.errors import ConfigError
from pareto_align.learning.comparisons import collate
from pareto_align.learning.learner import Context, register_learner
from pareto_align.learning.offline import Overflow, PreferenceLearner, Reading, as_completions, reference_logprobs
from pareto_align.learning.preferences import Kto, PairView, mismatched_kl
from pareto_align.seeds import seed_for

__all__ = ["KtoLearner"]


@register_learner("kto")
class KtoLearner(PreferenceLearner):
    """KTO: every response is marked desirable or undesirable, and none is compared with another.

    A response counts as good by how much likelier the policy finds it than it finds responses at large, which is its
    KL divergence from the untrained model. That is estimated at every step on responses behind prompts that are not
    theirs. TRL sets the responses of a batch one prompt further; here each prompt has one partner for the whole run, so
    that the untrained model reads the foreign responses once. Pairs become marks by `Comparisons.unpaired()`.

    Measured on marks, a policy explains what `sigmoid(beta u)` foresees, u being how much likelier it finds a response.

    Args:
        beta: How strongly the untrained model is held on to.
        desirable_weight, undesirable_weight: What a desirable response counts, and another one. Neither kind drowns the
            other where weight times count of the first is 1 to 4/3 of that of the second.
        max_length, overflow: As of `Dpo`.
    """

    def __init__(
        self,
        *,
        beta: Positive = 0.1,
        desirable_weight: NotNegative = 1.0,
        undesirable_weight: NotNegative = 1.0,
        max_length: Count | None = None,
        overflow: Overflow = "error",
    ) -> None:
        self.loss = Kto(beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
        self.max_length, self.overflow = max_length, overflow

    def setup(self, context: Context) -> None:
        """Begin a run.

        Raises:
            ConfigError: There are no marks, or fewer than two prompts, or a step has fewer than two.
        """
        super().setup(context)
        if not any(row.comparison.marks is not None for row in self.data):
            raise ConfigError(
                "The learner 'kto' learns from marks of single responses, and these are pairs. Turn them into marks by "
                "`comparisons.unpaired()`, or use learner='dpo'."
            )
        if min(len(self.data), context.prompts_per_step) < 2:
            raise ConfigError(
                "The learner 'kto' needs at least 2 prompts a step: a single response has no other prompt to stand "
                f"behind. Found {len(self.data)} prompts and prompts_per_step={context.prompts_per_step}."
            )
        self.mismatched = self._mismatched()
        self.mismatched_references: list[Tensor] | None = None

    def _mismatched(self) -> list[ComparisonRow]:
        """Every prompt with the first response of another one, shortened to what the model can read."""
        order = np.random.default_rng(seed_for(self.context.seed, "mismatched")).permutation(len(self.data))
        limit = self.population.base.context_length
        found: list[ComparisonRow | None] = [None] * len(order)
        for place, partner in zip(order, np.roll(order, 1), strict=True):
            own, other = self.data[place], self.data[partner]
            foreign = other.tokens[0][: max(1, limit - len(own.ids))]
            nothing = Labels(np.empty((0, 2), dtype=np.int64), np.empty((0, own.comparison.m)))
            comparison = replace(
                own.comparison, responses=other.comparison.responses[:1], labels=nothing, scores=None, marks=None,
                gold=None, reference=None,
            )  # fmt: skip
            found[place] = ComparisonRow(own.row, (foreign,), comparison)
        return [row for row in found if row is not None]

    def collect(self, step: int) -> Reading:
        """The step's marked responses, and how far the policies are from the untrained model."""
        seen = super().collect(step)
        if self.mismatched_references is None:
            self.mismatched_references = reference_logprobs(self.engine, self.mismatched)
        places = self.order.batch(step, self.context.prompts_per_step).tolist()
        seen.kl = self._kl(places, self.mismatched_references)
        return seen

    def _kl(self, places: Sequence[int], references: Sequence[Tensor]) -> Tensor:
        batch = collate([self.mismatched[place] for place in places], int(self.population.base.tokenizer.pad_token_id))
        read = self.engine.prepare(batch.prompts, as_completions(batch, self.population.size))
        sums = self.engine.logprobs(read).sum(-1)[:, :, 0]
        return mismatched_kl(sums, torch.stack([references[place][0] for place in places])[None])

    def _view(self, seen: Reading, logps: Tensor, **more: Any) -> PairView:
        return super()._view(seen, logps, kl=seen.kl, **more)

    def _changes(self, view: PairView) -> tuple[Tensor, Tensor]:
        assert view.marks is not None
        ratios = view.ratios[..., None]
        found = []
        for side in (view.marks > 0.5, view.marks < 0.5):
            count = side.to(ratios).sum((0, 1)).clamp(min=1)
            found.append(torch.where(side, ratios, torch.zeros_like(ratios)).sum((1, 2)) / count)
        return found[0], found[1]

    def state_dict(self) -> dict[str, Tensor]:
        """As of every learner from comparisons, with the untrained model's reading of the foreign responses."""
        known = self.mismatched_references
        return {**super().state_dict(), **({} if known is None else {"mismatched": torch.cat(known)})}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()`."""
        super().load_state_dict(state)
        if "mismatched" in state:
            self.mismatched_references = list(state["mismatched"].split(1))
