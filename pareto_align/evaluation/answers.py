"""Paired measurement on held-out prompts: every policy answers the same prompts with the same random numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pareto_align.data.prompts import PromptRow, groups_of
from pareto_align.front import Estimate
from pareto_align.learning.rollouts import asked, score
from pareto_align.objectives import ObjectiveSet
from pareto_align.policies.engine import Engine
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import SamplingParams, sample
from pareto_align.seeds import seed_for

__all__ = ["Evaluator", "Measurement", "Measures", "Question", "Said", "answer"]

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


@dataclass(frozen=True, eq=False)
class Question:
    """Some held-out prompts for some policies: what is answered in one go, and alike wherever the model is.

    Attributes:
        policies: `[k, P]`; with none the reference policy is asked.
        prompts: n of them as token ids, or k*n, policy-major.
        group: Completions of each.
        params: How to sample.
        seeds: One for every `PROMPTS_A_SEED` prompts; each policy has the same.
        ratios: Whether the frozen base reads the answers as well.
        own: Whether each policy has n prompts of its own.
    """

    policies: Tensor
    prompts: list[list[int]]
    group: int
    params: SamplingParams
    seeds: list[int]
    ratios: bool
    own: bool = False


@dataclass(frozen=True, eq=False)
class Said:
    """What k policies answered to n prompts, G times each.

    Attributes:
        lists: Of each policy, its n*G completions as token ids.
        texts: The same as text.
        lengths: `[k]` tokens in all.
        ratios: `[k, n, G]` nats by which each is likelier than under the reference; None where nobody asked.
    """

    lists: list[list[list[int]]]
    texts: list[list[str]]
    lengths: np.ndarray
    ratios: np.ndarray | None


def answer(population: PolicyPopulation, engine: Engine | None, question: Question) -> Said:
    """Let the policies answer.

    Args:
        population: Owns the model that runs the policies.
        engine: Reads with the frozen base; needed where ratios are asked for.
        question: What is asked.
    """
    policies = question.policies.to(population.base.device)
    count = max(policies.shape[0], 1)
    drawn = sample(
        population,
        question.prompts,
        question.group,
        question.params,
        [question.seeds] * count,
        policies=policies,
        prompts_a_seed=PROMPTS_A_SEED,
        own=question.own,
    )
    ratios = None
    if question.ratios:
        assert engine is not None
        reference = engine.reference_logprobs(engine.prepare(question.prompts, drawn))
        ratios = (drawn.logprobs - reference).sum(-1).double().numpy()
    lists, share = drawn.token_lists(), drawn.tokens.shape[1] * question.group
    texts = population.base.decode_all(lists)
    own = [slice(k * share, (k + 1) * share) for k in range(count)]
    lengths = drawn.lengths.sum((1, 2)).numpy()
    return Said([lists[part] for part in own], [texts[part] for part in own], lengths, ratios)


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

    def ceilings(self, axes: Sequence[int]) -> list[np.ndarray]:
        """What cannot be exceeded of each two of some objectives, `[n, 2]` each; nothing where that is not known."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """What a run that goes on need not find again."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()`; other keys are left alone."""


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
        ratios: Whether what was said is read once more with the frozen base, for `Measurement.log_ratios`.
        engine: Reads it, where nobody else is asked.
        policies_at_once: Most policies of one decoding batch; by default as many as the rows allow.
        ask: Has questions answered, and returns the answers in their order; by default on the population's own model.
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
        ratios: bool = False,
        engine: Engine | None = None,
        policies_at_once: int | None = None,
        ask: Callable[[Sequence[Question]], Sequence[Said]] | None = None,
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
        self.ratios = ratios
        self.policies_at_once = policies_at_once
        self.ask = ask or (lambda questions: [answer(population, engine, question) for question in questions])
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
        width = max(1, self.rows_at_once // (min(PROMPTS_A_SEED, len(self.prompts)) * self.group_size))
        found: list[Measurement] = []
        for start in range(0, count, width):
            found += self._measure(policies[start : start + width], check=False, repeat=repeat)
        return found

    def tokens_for(self, length: float | None) -> float:
        """Tokens that measuring a policy takes whose completions have this mean length; the most where None."""
        return len(self.prompts) * self.group_size * (self.params.max_new_tokens if length is None else length)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Nothing: what is measured is seeded by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict()`."""

    def ceilings(self, axes: Sequence[int]) -> list[np.ndarray]:
        """Nothing: how good answers may be is not known."""
        return []

    def _measure(self, policies: Tensor, check: bool, repeat: int = 0) -> list[Measurement]:
        count, group = max(policies.shape[0], 1), self.group_size
        width = min(count, self.policies_at_once or count)
        pieces = [policies[start : start + width] for start in range(0, count, width)]
        questions = [self._questions(piece, repeat) for piece in pieces]
        answers = iter(self.ask(list(chain.from_iterable(questions))))
        texts: list[list[str]] = [[] for _ in range(count)]
        ids: list[list[list[int]]] = [[] for _ in range(count)]
        lengths = np.zeros(count)
        ratios: list[list[np.ndarray]] = [[] for _ in range(count)]
        for start, together in zip(range(0, count, width), questions, strict=True):
            for said in islice(answers, len(together)):
                for k, length in enumerate(said.lengths, start):
                    ids[k] += said.lists[k - start]
                    texts[k] += said.texts[k - start]
                    lengths[k] += length
                    if said.ratios is not None:
                        ratios[k].append(said.ratios[k - start])
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
                log_ratios=np.concatenate(ratios[k]) if ratios[k] else None,
            )
            for k in range(count)
        ]

    def _questions(self, policies: Tensor, repeat: int) -> list[Question]:
        """All prompts for some policies `[k, P]`, as many at a time as there is room for."""
        count, group = max(policies.shape[0], 1), self.group_size
        again = ("repeat", repeat) if repeat else ()
        # decoding takes as many steps for many prompts as for few, so as many run together as there is room for
        at_once = PROMPTS_A_SEED * max(1, self.rows_at_once // (count * group * PROMPTS_A_SEED))
        ratios = self.ratios and policies.shape[0] > 0
        found = []
        for start in range(0, len(self.prompts), at_once):
            part = self.prompts[start : start + at_once]
            first_prompts = range(start, start + len(part), PROMPTS_A_SEED)
            seeds = [seed_for(self.seed, "evaluation", first, *again) for first in first_prompts]
            prompts = asked(self.population.base, part, self.population.instructions(policies))
            own = len(prompts) > len(part)
            found.append(Question(policies, prompts, group, self.params, seeds, ratios, own))
        return found
