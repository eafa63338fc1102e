"""How fast a population samples and trains on this model and machine, and what that recommends.

Measured before a run, never within one: a run that timed itself would cut its micro-batches differently each time and
so would not repeat. What is found to be the best micro-batch can be recorded (`micro_batch`), where a later run of the
same model on the same machine finds it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from pareto_align.bench.memory import PeakMemory
from pareto_align.bench.speeds import BudgetSpeed, PopulationSpeed, Throughput, Workload
from pareto_align.data.prompts import PromptRow
from pareto_align.errors import ConfigError, ModelError
from pareto_align.learning import Context, Learner, make_learner
from pareto_align.learning.rollouts import Rollouts
from pareto_align.objectives import RewardScale
from pareto_align.policies.base import Base
from pareto_align.policies.engine import Engine
from pareto_align.policies.lora_config import default_lora_config
from pareto_align.policies.micro_batch import default_micro_batch, processor_of
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.sampling import Completions, SamplingParams, sample

__all__ = ["measure_throughput"]

Result = TypeVar("Result")


def measure_throughput(
    base: Base, workload: Workload | None = None, *, progress: Callable[[str], None] | None = None
) -> Throughput:
    """Time sampling and training of populations of several sizes, then training under several micro-batch budgets.

    Prompts are random tokens, and no completion ends early, so that every variant does the same work a policy. The
    variants alternate: what else the machine does falls on all of them. Training learns from what was just sampled,
    under random rewards; for the budgets from random tokens, of as many prompts as fill the largest budget. Nothing of
    `base` is changed when this returns.

    Args:
        base: The model.
        workload: What to measure; `Workload()` by default.
        progress: Called with a line about each variant before it runs.

    Raises:
        ConfigError: A completion does not fit behind its prompt into the model's context.
        ModelError: The model cannot carry a population, or not even the smallest one fits on the device.
    """
    workload = workload or Workload()
    length = workload.prompt_tokens + workload.max_new_tokens
    if length > base.context_length:
        raise ConfigError(
            f"{workload.prompt_tokens} prompt tokens and {workload.max_new_tokens} new ones exceed the model's context "
            f"of {base.context_length}. Lower one of them."
        )
    bench = _Bench(base, workload, progress or (lambda line: None))
    populations = bench.populations()
    budgets = bench.budgets(populations[-1].population)
    return Throughput(
        model=base.name,
        device=str(base.device),
        processor=processor_of(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        parameters=bench.parameters,
        layout=bench.layout,
        workload=workload,
        populations=populations,
        budgets=budgets,
        memory_meaning=bench.memory.meaning,
        did_not_fit=tuple(bench.did_not_fit),
    )


class _Endless(Base):
    """A base model whose completions run to full length: no token has the id that would end one."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (-1,)


class _Bench:
    """The measurements of one model: what they share, and how each is taken."""

    def __init__(self, base: Base, workload: Workload, progress: Callable[[str], None]) -> None:
        self.base = _Endless(**{field.name: getattr(base, field.name) for field in fields(Base)})
        self.workload = workload
        self.progress = progress
        self.rows = _random_prompts(base, workload.prompts, workload.prompt_tokens)
        self.lora = default_lora_config(workload.r, 2 * workload.r)
        if workload.targets is not None:
            everything = workload.targets == ("all-linear",)
            self.lora.target_modules = "all-linear" if everything else set(workload.targets)
        self.layout = "auto"
        self.micro_batch_tokens = default_micro_batch(base)
        self.parameters = 0
        self.did_not_fit: list[str] = []
        # weights that are mapped from a file come into memory with the first pass: they are no population's
        with torch.no_grad():
            base.model(input_ids=torch.tensor([self.rows[0].ids], device=base.device), use_cache=False)
        self.memory = PeakMemory(base.device)

    def populations(self) -> tuple[PopulationSpeed, ...]:
        """Sampling and training for every size, ascending; sizes that do not fit are left out."""
        tokens: dict[int, int] = {}
        memory: dict[int, int | None] = {}
        for size in sorted(set(self.workload.populations)):
            self.progress(f"K = {size}: warming up")
            self.memory.reset()
            try:
                done, *_ = self._step(size)
            except torch.OutOfMemoryError as error:
                self._ran_out(f"K = {size}")
                if not tokens:
                    raise ModelError(
                        f"A step of K = {size} does not fit on {self.base.device} ({error}). "
                        "Take fewer or shorter completions, or fewer prompts."
                    ) from None
                break
            tokens[size], memory[size] = done, self.memory.read()
        sampling: dict[int, list[float]] = {size: [] for size in tokens}
        training: dict[int, list[float]] = {size: [] for size in tokens}
        for number in range(self.workload.repeats):
            for size in tokens:
                self.progress(f"K = {size}: round {number + 1} of {self.workload.repeats}")
                tokens[size], sampled, trained = self._step(size)
                sampling[size].append(sampled)
                training[size].append(trained)
        return tuple(
            PopulationSpeed(size, tokens[size], tuple(sampling[size]), tuple(training[size]), memory[size])
            for size in tokens
        )

    def budgets(self, size: int) -> tuple[BudgetSpeed, ...]:
        """Training of the population `size` under every budget, ascending; those that do not fit are left out."""
        asked = sorted(set(self.workload.budgets))
        if self.base.device.type == "cuda":  # what a run without a record takes there depends on the free memory
            asked = sorted({*asked, self.micro_batch_tokens})
        load = self.workload
        readings = 1 if self.layout == "packed" else load.group_size
        row = readings * load.prompt_tokens + load.group_size * load.max_new_tokens
        # as many prompts as the largest budget holds: with fewer it would never be filled
        rows = _random_prompts(self.base, max(load.prompts, asked[-1] // (size * row)), load.prompt_tokens)
        with self._population(size) as population:
            shape = (size, len(rows), load.group_size, load.max_new_tokens)
            rollouts = _random_rollouts(rows, shape)
            cuts: dict[int, tuple[int, int]] = {}
            for budget in asked:
                self.progress(f"micro-batches of {budget} tokens: warming up")
                try:
                    with self._passes() as sizes:
                        _train(self._learner(population, budget), rollouts)
                except torch.OutOfMemoryError:
                    self._ran_out(f"micro-batches of {budget} tokens")
                    if not cuts:
                        raise ModelError(
                            f"Micro-batches of {budget} tokens do not fit on {self.base.device}. Take smaller budgets."
                        ) from None
                    break
                cuts[budget] = (len(sizes), max(sizes))
            seconds: dict[tuple[int, int], list[float]] = {cut: [] for cut in cuts.values()}
            for number in range(self.workload.repeats):
                for cut in seconds:
                    budget = next(budget for budget, found in cuts.items() if found == cut)
                    self.progress(f"micro-batches of {budget} tokens: round {number + 1} of {self.workload.repeats}")
                    learner = self._learner(population, budget)
                    seconds[cut].append(_timed(self.base.device, partial(_train, learner, rollouts))[1])
            return tuple(
                BudgetSpeed(budget, *cut, rollouts.token_count, tuple(seconds[cut])) for budget, cut in cuts.items()
            )

    def _step(self, size: int) -> tuple[int, float, float]:
        """Completion tokens of one step of a fresh population, and the seconds of sampling and of training."""
        with self._population(size) as population:
            completions, sampled = _timed(self.base.device, lambda: self._sample(population))
            rollouts = _rollouts(self.rows, completions)
            learner = self._learner(population, self.micro_batch_tokens)
            if self.layout == "auto":  # settled once: the check of packed against dense rows belongs to no timed step
                packed = learner.engine.prepare(rollouts.prompt_ids, rollouts.completions).packed
                self.layout = "packed" if packed else "dense"
            _, trained = _timed(self.base.device, lambda: _train(learner, rollouts))
            return rollouts.token_count, sampled, trained

    @contextmanager
    def _population(self, size: int) -> Iterator[PolicyPopulation]:
        """A population that is ready to be timed, and gone afterwards: two cannot share a model."""
        with closing(PolicyPopulation(self.base, size, lora=self.lora)) as population:
            self.parameters = population.parameter_count
            self._sample(population, length=1)  # whatever is set up at first use belongs to no timing
            yield population

    def _sample(self, population: PolicyPopulation, length: int | None = None) -> Completions:
        params = SamplingParams(length or self.workload.max_new_tokens)
        prompts = [list(row.ids) for row in self.rows]
        return sample(population, prompts, self.workload.group_size, params, range(population.size))

    def _learner(self, population: PolicyPopulation, micro_batch_tokens: int) -> Learner:
        zero, one = np.zeros(1), np.ones(1)
        scale = RewardScale(location=zero, scale=one, lower=zero, upper=one)
        learner = make_learner("centred" if self.workload.group_size > 1 else "reinforce")
        engine = Engine(population, layout=self.layout, micro_batch_tokens=micro_batch_tokens)
        learner.setup(Context(engine, scale, [0]))
        return learner

    @contextmanager
    def _passes(self) -> Iterator[list[int]]:
        """Tokens of every forward pass of the model within the context, prompts and padding included."""
        sizes: list[int] = []

        def note(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            ids = keywords.get("input_ids")
            sizes.append(int(ids.numel() if ids is not None else keywords["inputs_embeds"].shape[:-1].numel()))

        handle = self.base.model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield sizes
        finally:
            handle.remove()

    def _ran_out(self, variant: str) -> None:
        self.did_not_fit.append(variant)
        gc.collect()  # the traceback held what the variant had allocated
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()


def _train(learner: Learner, rollouts: Rollouts) -> None:
    learner.step(rollouts, np.ones((learner.population.size, 1)), 1e-4)


def _rollouts(rows: list[PromptRow], completions: Completions) -> Rollouts:
    """Completions with random rewards."""
    count = completions.tokens.shape[:3]
    return Rollouts(rows, completions, [""] * int(np.prod(count)), np.random.default_rng(0).random((*count, 1)))


def _random_rollouts(rows: list[PromptRow], shape: tuple[int, int, int, int]) -> Rollouts:
    """Completions `[K, N, G, T]` of tokens of the prompts, all of full length, with random rewards."""
    tokens = torch.tensor([row.ids for row in rows])
    draws = torch.randint(tokens.numel(), shape, generator=torch.Generator().manual_seed(0))
    whole = torch.ones(shape, dtype=torch.bool)
    prompts = [list(row.ids) for row in rows]
    return _rollouts(rows, Completions(prompts, tokens.flatten()[draws], whole, torch.zeros(shape)))


def _timed(device: torch.device, call: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and the seconds until the device has done all of it."""
    _synchronize(device)
    start = time.perf_counter()
    result = call()
    _synchronize(device)
    return result, time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _random_prompts(base: Base, count: int, length: int) -> list[PromptRow]:
    """Prompts of random tokens; special ones are left out, as a model may treat them specially."""
    vocabulary = min(int(base.model.get_input_embeddings().weight.shape[0]), len(base.tokenizer))
    special = set(base.tokenizer.all_special_ids)
    plain = torch.tensor([token for token in range(vocabulary) if token not in special])
    draws = torch.randint(len(plain), (count, length), generator=torch.Generator().manual_seed(0))
    return [PromptRow("", tuple(row), {}) for row in plain[draws].tolist()]
