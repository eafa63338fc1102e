"""Paired measurement on held-out prompts: every policy answers the same prompts with the same random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pareto_align.data.prompts import PromptRow, groups_of
from pareto_align.front import Estimate
from pareto_align.learning.rollouts import score
from pareto_align.objectives import ObjectiveSet
from pareto_align.policies.engine import Engine
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import SamplingParams, sample
from pareto_align.seeds import seed_for

__all__ = ["Evaluator", "Measurement", "Measures"]

PROMPTS_A_SEED = 16  # fixed, so that a policy's random numbers do not depend on how many are measured with it
ROWS_AT_ONCE = 256  # a run takes as many as its training steps do, whose memory is there anyway


@dataclass(frozen=True, eq=False)
class Measurement:
    """What one policy does on a split.

    Attributes:
        estimate: Means of all M objectives with their covariance; one independent unit a prompt or a group of them.
        rewards: `[n, G, M]` the scores behind it, maximised.
        texts: The first completion of each of the n prompts.
        length: Mean completion length in tokens.
        of_answers: Whether the scores are of what the policy answers, and not of labels.
        log_ratios: `[n, G]` nats by which each completion is likelier than under the reference; None where nobody asks.
    """

    estimate: Estimate
    rewards: np.ndarray
    texts: list[str]
    length: float
    of_answers: bool = True
    log_ratios: np.ndarray | None = None


class Measures(Protocol):
    """What measures policies on a split: `Evaluator`, or `labels.LabelEvaluator`."""

    @property
    def prompts(self) -> Sequence[Any]:
        """The n prompts, each with its `prompt` and its `ids`."""

    @property
    def repeatable(self) -> bool:
        """Whether another repeat finds other numbers, so that measuring again averages something out."""

    tokens: int

    def measure_reference(self, *, check: bool = False) -> Measurement:
        """See `Evaluator.measure_reference`."""

    def measure(self, policies: Tensor, *, repeat: int = 0) -> Sequence[Measurement]:
        """See `Evaluator.measure`."""

    def tokens_for(self, length: float | None) -> float:
        """See `Evaluator.tokens_for`."""


class Evaluator:
    """Measures policies on a fixed set of prompts by what they answer.

    Args:
        population: Owns the model that runs the policies.
        objectives: What is measured.
        prompts: n of them.
        group_size: Completions per prompt.
        params: How to sample; the same as in training unless told otherwise.
        seed: The same seed gives every policy the same random numbers.
        rows_at_once: Most rows of one decoding batch; one of fewer policies takes more prompts at once.
        group: Column whose values make prompts one unit of the estimates; None: each is its own.
        engine: Reads what was said once more with the frozen base, for `Measurement.log_ratios`; None: nobody asks.
    """

    repeatable = True

    def __init__(
        self,
        population: PolicyPopulation,
        objectives: ObjectiveSet,
        prompts: Sequence[PromptRow],
        group_size: int,
        params: SamplingParams,
        seed: int,
        *,
        rows_at_once: int = ROWS_AT_ONCE,
        group: str | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.population = population
        self.objectives = objectives
        # neighbours of like length share a batch: less padding
        self.prompts = sorted(prompts, key=lambda prompt: len(prompt.ids))
        self.group_size = group_size
        self.params = params
        self.seed = seed
        self.rows_at_once = rows_at_once
        self.groups = groups_of(self.prompts, group)
        self.engine = engine
        self.tokens = 0

    def measure_reference(self, *, check: bool = False) -> Measurement:
        """Measure the reference policy, the model without any adapter.

        Args:
            check: Also look for objectives that cannot be traded, as before training.
        """
        return self._measure(torch.zeros(0, self.population.parameter_count), check)[0]

    def measure(self, policies: Tensor, *, repeat: int = 0) -> list[Measurement]:
        """Measure any policies `[k, P]`, P parameters each.

        Args:
            policies: Their adapters.
            repeat: Another number means other random numbers on the same prompts, so that pooling the measurements
                averages over the sampling. Policies that are to be compared should share their repeats. What differs
                between prompts does not shrink: pooled estimates still have one unit a prompt.
        """
        count = policies.shape[0]
        policies = policies.to(self.population.base.device)
        width = max(1, self.rows_at_once // (min(PROMPTS_A_SEED, len(self.prompts)) * self.group_size))
        found: list[Measurement] = []
        for start in range(0, count, width):
            found += self._measure(policies[start : start + width], check=False, repeat=repeat)
        return found

    def tokens_for(self, length: float | None) -> float:
        """Tokens that measuring a policy takes whose completions have this mean length; the most where None."""
        return len(self.prompts) * self.group_size * (self.params.max_new_tokens if length is None else length)

    def _measure(self, policies: Tensor, check: bool, repeat: int = 0) -> list[Measurement]:
        count, group = max(policies.shape[0], 1), self.group_size
        texts: list[list[str]] = [[] for _ in range(count)]
        ids: list[list[list[int]]] = [[] for _ in range(count)]
        lengths = np.zeros(count)
        ratios: list[np.ndarray] = []
        again = ("repeat", repeat) if repeat else ()
        # decoding takes as many steps for many prompts as for few, so as many run together as there is room for
        at_once = PROMPTS_A_SEED * max(1, self.rows_at_once // (count * group * PROMPTS_A_SEED))
        for start in range(0, len(self.prompts), at_once):
            part = self.prompts[start : start + at_once]
            first_prompts = range(start, start + len(part), PROMPTS_A_SEED)
            seeds = [seed_for(self.seed, "evaluation", first, *again) for first in first_prompts]
            asked = [list(prompt.ids) for prompt in part]
            drawn = sample(
                self.population,
                asked,
                group,
                self.params,
                [seeds] * count,
                policies=policies,
                prompts_a_seed=PROMPTS_A_SEED,
            )
            lengths += drawn.lengths.sum((1, 2)).numpy()
            if self.engine is not None and policies.shape[0]:
                reference = self.engine.reference_logprobs(self.engine.prepare(asked, drawn))
                ratios.append((drawn.logprobs - reference).sum(-1).double().numpy())
            lists, share = drawn.token_lists(), len(part) * group
            said = self.population.base.decode_all(lists)
            for policy in range(count):
                own = slice(policy * share, (policy + 1) * share)
                ids[policy] += lists[own]
                texts[policy] += said[own]
        self.tokens += int(lengths.sum())
        # one reward call an objective for everything that was said
        everything, all_ids = list(chain.from_iterable(texts)), list(chain.from_iterable(ids))
        scores = score(self.objectives, self.prompts, group, count, everything, all_ids, training=False, check=check)
        number = range(len(self.prompts))
        return [
            Measurement(
                estimate=Estimate.from_samples(scores[k], number, self.groups),
                rewards=scores[k],
                texts=texts[k][::group],
                length=float(lengths[k]) / (len(number) * group),
                log_ratios=np.concatenate([part[k] for part in ratios]) if ratios else None,
            )
            for k in range(count)
        ]
