"""What all learners share that learn from what the policies say themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pareto_align.data.comparison_rows import ComparisonRow
from pareto_align.data.prompts import PromptRow
from pareto_align.learning.learner import Context, Learner, StepReport
from pareto_align.learning.rollouts import Rollouts, batch_of, roll_out
from pareto_align.policies.batches import Batch
from pareto_align.seeds import seed_for

__all__ = ["OnPolicyLearner"]


class OnPolicyLearner(Learner):
    """The policies answer a step's prompts, and the answers are rewarded; of comparisons only the prompts are used."""

    def setup(self, context: Context) -> None:
        """Begin a run."""
        super().setup(context)
        self.prompts = [row.row if isinstance(row, ComparisonRow) else row for row in context.prompts]

    @property
    def reads_reference(self) -> bool:
        """Whether its steps need the log-probabilities of the answers under the frozen base."""
        return True

    def collect(self, step: int) -> Rollouts:
        """Let every policy answer the step's prompts, each from a seed of its own, and score the answers."""
        context = self.context
        numbers = range(context.first, context.first + self.population.size)
        seeds = [seed_for(context.seed, "rollout", step, k) for k in numbers]
        prompts = batch_of(self.prompts, context.prompts_per_step, step, context.seed)
        return roll_out(
            self.engine,
            context.objectives,
            prompts,
            context.group_size,
            context.params,
            seeds,
            reference=self.reads_reference,
            columns=self._columns(step, prompts),
        )

    def _columns(self, step: int, prompts: Sequence[PromptRow]) -> dict[str, list[Any]]:
        """What rewards are given beside the prompts' columns, an entry a completion."""
        return {}

    def _prepared(self, seen: Rollouts) -> Batch:
        """The completions ready to be read."""
        return self.engine.prepare(seen.prompt_ids, seen.completions) if seen.batch is None else seen.batch

    def _reference(self, seen: Rollouts, batch: Batch) -> Tensor:
        """Log-probabilities `[K, N, G, T]` under the frozen base."""
        return self.engine.reference_logprobs(batch) if seen.reference is None else seen.reference

    def _reported(self, seen: Rollouts, norms: Tensor, spread: np.ndarray, reference: Tensor | None) -> StepReport:
        """What a step did, told by the answers it was made from; without a reference the KL divergence is not known."""
        done = seen.completions
        counts = done.mask.sum((1, 2, 3)).clamp(min=1)
        unmeasured = torch.full(counts.shape, torch.nan)
        kl = unmeasured if reference is None else (done.logprobs - reference).sum(-1).mean((1, 2))
        entropy = (-done.logprobs.sum((1, 2, 3)) / counts).numpy()
        return StepReport(norms.cpu().numpy(), kl.numpy(), entropy, spread, np.isfinite(entropy))
