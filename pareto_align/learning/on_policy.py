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
from pareto_align.policies.correction import Correction, mismatch
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
        seen = roll_out(
            self.engine,
            context.objectives,
            prompts,
            context.group_size,
            context.params,
            seeds,
            reference=self.reads_reference,
            columns=self._columns(step, prompts),
        )
        if not (self.engine.sampler.exact or self.corrects):
            # what compares the probabilities of whole completions takes the trainer's, which costs a pass
            seen.batch, seen.sampled = self._prepared(seen), seen.completions.logprobs
            seen.completions.logprobs = self.engine.logprobs(seen.batch)
        return seen

    def _columns(self, step: int, prompts: Sequence[PromptRow]) -> dict[str, list[Any]]:
        """What rewards are given beside the prompts' columns, an entry a completion."""
        return {}

    def _prepared(self, seen: Rollouts) -> Batch:
        """The completions ready to be read."""
        return self.engine.prepare(seen.prompt_ids, seen.completions) if seen.batch is None else seen.batch

    def _reference(self, seen: Rollouts, batch: Batch) -> Tensor:
        """Log-probabilities `[K, N, G, T]` under the frozen base."""
        return self.engine.reference_logprobs(batch) if seen.reference is None else seen.reference

    def _reported(
        self,
        seen: Rollouts,
        norms: Tensor,
        spread: np.ndarray,
        reference: Tensor | None,
        trained: Tensor | None = None,
    ) -> StepReport:
        """What a step did, told by the answers it was made from; without a reference the KL divergence is not known.

        Args:
            seen: The answers.
            norms, spread: `[K]`.
            reference: `[K, N, G, T]` under the frozen base.
            trained: `[K, N, G, T]` under the policies before the step, as the trainer found them.
        """
        done, correction = seen.completions, self.context.correction
        logprobs, more = done.logprobs, {}
        seen.trained = trained
        if seen.sampled is not None:
            more = mismatch(logprobs, seen.sampled, done.mask, Correction())
        elif trained is not None and (correction.weighs or not self.engine.sampler.exact):
            logprobs, more = trained, mismatch(trained, logprobs, done.mask, correction)
        counts = done.mask.sum((1, 2, 3)).clamp(min=1)
        unmeasured = torch.full(counts.shape, torch.nan)
        kl = unmeasured if reference is None else (logprobs - reference).sum(-1).mean((1, 2))
        entropy = (-logprobs.sum((1, 2, 3)) / counts).numpy()
        return StepReport(norms.cpu().numpy(), kl.numpy(), entropy, spread, np.isfinite(entropy), more)
