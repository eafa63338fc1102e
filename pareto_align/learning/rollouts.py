"""Rollouts: what K policies said to N prompts, G times each, and what every objective thinks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pareto_align.data.prompts import PromptRow
from pareto_align.messages import Instruction
from pareto_align.objectives import ObjectiveSet
from pareto_align.objectives.calling import RewardCall
from pareto_align.policies.base import Base
from pareto_align.policies.batches import Batch
from pareto_align.policies.engine import Engine
from pareto_align.policies.sampling import Completions, SamplingParams
from pareto_align.seeds import seed_for
from pareto_align.weighting.evidence import mean_rewards

__all__ = ["Answers", "Rollouts", "asked", "batch_of", "roll_out", "score"]

Item = TypeVar("Item")


@dataclass(eq=False)
class Answers:
    """What K policies said to N prompts, as whoever judges it sees it.

    Attributes:
        prompts: The N prompts.
        texts: The K*N*G completions as text, policy-major.
        token_lists: The same as token ids, without the end token.
        counts: `[K, N, G]` tokens of each, the end token included.
        rewards: `[K, N, G, M]` scores of all M objectives, maximised; NaN where an objective does not apply. None
            before anybody judged.
        columns: What rewards are given beside the prompts' columns, an entry a completion.
    """

    prompts: list[PromptRow]
    texts: list[str]
    token_lists: list[list[int]]
    counts: np.ndarray
    rewards: np.ndarray | None = None
    columns: Mapping[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def together(cls, parts: Sequence[Answers]) -> Answers:
        """What all policies said, from what some of them said each; to the same prompts."""
        texts = [text for part in parts for text in part.texts]
        lists = [tokens for part in parts for tokens in part.token_lists]
        judged = [part.rewards for part in parts if part.rewards is not None]
        rewards = np.concatenate(judged) if len(judged) == len(parts) else None
        counts = np.concatenate([part.counts for part in parts])
        columns = {name: [value for part in parts for value in part.columns[name]] for name in parts[0].columns}
        return cls(parts[0].prompts, texts, lists, counts, rewards, columns)

    def judge(self, objectives: ObjectiveSet) -> None:
        """Find the rewards, one call an objective for all policies.

        Raises:
            ObjectiveError: A reward function misbehaved.
        """
        policies, _, group = self.counts.shape
        self.rewards = score(
            objectives, self.prompts, group, policies, self.texts, self.token_lists, columns=self.columns
        )

    def call(self) -> RewardCall:
        """The same as reward functions see it."""
        policies, _, group = self.counts.shape
        return _call(self.prompts, group, policies, self.texts, self.token_lists, self.columns)

    def shaped(self, rewards: np.ndarray) -> np.ndarray:
        """Rewards `[K*N*G, M]` as `[K, N, G, M]`."""
        return rewards.reshape(*self.counts.shape, -1)

    @property
    def token_count(self) -> int:
        """Generated tokens."""
        return int(self.counts.sum())

    @property
    def count(self) -> int:
        """Generated completions, K*N*G."""
        return len(self.texts)

    def values(self) -> np.ndarray:
        """Mean score `[K, M]` of each policy over its completions, NaN where an objective never applied."""
        assert self.rewards is not None, "nobody has judged"
        return mean_rewards(self.rewards)

    def lengths(self) -> np.ndarray:
        """Mean length of each policy's completions, `[K]` in tokens."""
        return _mean_lengths(torch.from_numpy(self.counts))

    def text(self, policy: int, prompt: int, sample: int = 0) -> str:
        """One completion."""
        return _text(self.texts, self.counts.shape, policy, prompt, sample)


@dataclass(eq=False)
class Rollouts:
    """Completions of a batch and their rewards.

    Attributes:
        prompts: The N prompts.
        completions: Tokens, mask and log-probabilities `[K, N, G, T]`.
        texts: The K*N*G completions as text, policy-major.
        rewards: `[K, N, G, M]` scores of all M objectives, maximised; NaN where an objective does not apply. Of no
            objective (`[K, N, G, 0]`) before anybody judged.
        batch: The completions ready to be read again, where the frozen base read them while texts were made.
        reference: What it read: log-probabilities `[K, N, G, T]`.
        token_lists: The completions as token ids, without the end token; None where they were not asked for.
        columns: What rewards are given beside the prompts' columns, an entry a completion.
        sampled: The sampler's log-probabilities `[K, N, G, T]`, where the completions have the trainer's instead.
        trained: The trainer's log-probabilities `[K, N, G, T]` before the step, where a step found them.
    """

    prompts: list[PromptRow]
    completions: Completions
    texts: list[str]
    rewards: np.ndarray
    batch: Batch | None = None
    reference: Tensor | None = None
    token_lists: list[list[int]] | None = None
    columns: Mapping[str, list[Any]] = field(default_factory=dict)
    sampled: Tensor | None = None
    trained: Tensor | None = None

    @property
    def prompt_ids(self) -> list[list[int]]:
        """The prompts as they were asked: N of them as token ids, or K*N where each policy has its own."""
        return self.completions.prompt_ids

    @property
    def token_count(self) -> int:
        """Generated tokens."""
        return int(self.completions.mask.sum())

    @property
    def count(self) -> int:
        """Generated completions, K*N*G."""
        return len(self.texts)

    def values(self) -> np.ndarray:
        """Mean score `[K, M]` of each policy over its completions, NaN where an objective never applied."""
        return mean_rewards(self.rewards)

    def lengths(self) -> np.ndarray:
        """Mean length of each policy's completions, `[K]` in tokens."""
        return _mean_lengths(self.completions.lengths)

    def text(self, policy: int, prompt: int, sample: int = 0) -> str:
        """One completion."""
        return _text(self.texts, self.completions.tokens.shape, policy, prompt, sample)

    def answers(self) -> Answers:
        """What is left of them for whoever judges: no tensor of the model's."""
        lists = self.completions.token_lists() if self.token_lists is None else self.token_lists
        judged = self.rewards if self.rewards.shape[-1] else None
        return Answers(self.prompts, self.texts, lists, self.completions.lengths.numpy(), judged, self.columns)


def _mean_lengths(counts: Tensor) -> np.ndarray:
    found: np.ndarray = counts.float().mean((1, 2)).numpy()
    return found


def _text(texts: Sequence[str], shape: Sequence[int], policy: int, prompt: int, sample: int) -> str:
    return texts[(policy * shape[1] + prompt) * shape[2] + sample]


def batch_of(items: Sequence[Item], size: int, step: int, seed: int) -> list[Item]:
    """A step's prompts: whole passes over all of them, each pass in an order of its own.

    Args:
        items: What is trained on.
        size: Prompts a step.
        step: The step's number, from 0.
        seed: Of the run.
    """
    batch = []
    for position in range(step * size, (step + 1) * size):
        epoch, index = divmod(position, len(items))
        order = np.random.default_rng(seed_for(seed, "order", epoch)).permutation(len(items))
        batch.append(items[order[index]])
    return batch


def asked(base: Base, prompts: Sequence[PromptRow], told: Sequence[Instruction]) -> list[list[int]]:
    """N prompts as policies are asked them, as token ids.

    Args:
        base: The model.
        prompts: N of them.
        told: What stands before every prompt of each of K policies (`PolicyPopulation.instructions`), or nothing.

    Returns:
        The N prompts; or K*N, policy-major, where each policy is told something.
    """
    if not told:
        return [list(prompt.ids) for prompt in prompts]
    return [
        base.encode(
            instruction.before(row.prompt, templated=base.use_chat_template), row.columns.get("chat_template_kwargs")
        )
        for instruction in told
        for row in prompts
    ]


def roll_out(
    engine: Engine,
    objectives: ObjectiveSet | None,
    prompts: Sequence[PromptRow],
    group_size: int,
    params: SamplingParams,
    seeds: Sequence[int],
    *,
    policies: Any = None,
    reference: bool = False,
    columns: Mapping[str, list[Any]] | None = None,
) -> Rollouts:
    """Sample and score.

    Args:
        engine: Runs the policies.
        objectives: What is measured; None leaves the scores to somebody else.
        prompts: N prompts.
        group_size: G.
        params: How to sample.
        seeds: One a policy.
        policies: `[K, P]` parameters to run instead of the population's own slots; `[0, P]` runs the reference policy.
        reference: Also read the completions under the frozen base, while a thread makes text of them.
        columns: What rewards are given beside the prompts' columns, an entry a completion.

    Raises:
        ObjectiveError: A reward function misbehaved.
    """
    population = engine.population
    ids = asked(
        population.base, prompts, population.instructions(population.parameters if policies is None else policies)
    )
    own = len(ids) > len(prompts)
    completions = engine.sample(ids, group_size, params, seeds, policies=policies, own=own)
    token_lists = completions.token_lists()
    with ThreadPoolExecutor(1, thread_name_prefix="texts") as thread:
        decoding = thread.submit(engine.population.base.decode_all, token_lists)
        batch = engine.prepare(ids, completions) if reference else None
        before = None if batch is None else engine.reference_logprobs(batch)
        texts = decoding.result()
    policies_run = completions.tokens.shape[0]
    if objectives is None:
        rewards = np.empty((policies_run, len(prompts), group_size, 0))
    else:
        rewards = score(objectives, prompts, group_size, policies_run, texts, token_lists, columns=columns)
    return Rollouts(list(prompts), completions, texts, rewards, batch, before, token_lists, columns or {})


def score(
    objectives: ObjectiveSet,
    prompts: Sequence[PromptRow],
    group_size: int,
    policies: int,
    texts: Sequence[str],
    token_lists: Sequence[Sequence[int]],
    *,
    training: bool = True,
    check: bool = False,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> np.ndarray:
    """Rewards `[K, N, G, M]` of K*N*G completions, one call an objective for the whole population.

    As in TRL, a chat prompt's completion is handed over as chat messages, a plain prompt's as text.

    Args:
        objectives: What is measured.
        prompts: N prompts.
        group_size: G.
        policies: K.
        texts: K*N*G completions, policy-major.
        token_lists: The same as token ids.
        training: Off while measuring: rewards with a memory then do not learn from what they see.
        check: Look for objectives that cannot be traded, as is done once before training.
        columns: Further ones beside the prompts' own, an entry a completion.
    """
    given = _call(prompts, group_size, policies, texts, token_lists, columns)
    batch = given.prompts, given.completions, given.columns, given.completion_ids
    scores = objectives.check(*batch) if check else objectives.score(*batch, training=training)
    return scores.reshape(policies, len(prompts), group_size, -1)


def _call(
    prompts: Sequence[PromptRow],
    group_size: int,
    policies: int,
    texts: Sequence[str],
    token_lists: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]] | None,
) -> RewardCall:
    spread = [prompt for _ in range(policies) for prompt in prompts for _ in range(group_size)]
    completions = [
        text if isinstance(row.prompt, str) else [{"role": "assistant", "content": text}]
        for row, text in zip(spread, texts, strict=True)
    ]
    names = prompts[0].columns.keys()
    given = {name: [row.columns[name] for row in spread] for name in names} | dict(columns or {})
    return RewardCall([row.prompt for row in spread], completions, given, [list(tokens) for tokens in token_lists])
