"""What a measurement of speed (`bench.throughput`) is asked, what it found, and what that recommends."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from pareto_align.errors import ConfigError

__all__ = ["BudgetSpeed", "PopulationSpeed", "Throughput", "Workload"]

PRICE_TOLERANCE = 0.10  # a policy's price within this of the lowest counts as the lowest: timings scatter by as much
BUDGET_TOLERANCE = 0.05


@dataclass(frozen=True)
class Workload:
    """What is measured: the shape of a training step, and the variants that are compared.

    Attributes:
        populations: The sizes K to compare.
        prompts: N, prompts of a step; budgets are compared on more where the largest holds more.
        group_size: G, completions of each prompt and policy.
        prompt_tokens: Length of every prompt.
        max_new_tokens: T, length of every completion; none ends early.
        r: LoRA rank; alpha is 2 r.
        targets: Names of the layers to adapt, or `("all-linear",)`; None takes those of a run.
        budgets: Micro-batch budgets to compare, in tokens. On a CPU a budget below one prompt's rows takes that prompt.
        repeats: Timed rounds, after one that is not timed.

    Raises:
        ConfigError: A number is below 1, or there is nothing to compare.
    """

    populations: tuple[int, ...] = (1, 2, 4, 8)
    prompts: int = 2
    group_size: int = 8
    prompt_tokens: int = 128
    max_new_tokens: int = 64
    r: int = 8
    targets: tuple[str, ...] | None = None
    budgets: tuple[int, ...] = (1024, 2048, 4096, 8192)
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("prompts", "group_size", "prompt_tokens", "max_new_tokens", "r", "repeats"):
            _require_count(name, getattr(self, name))
        for name in ("populations", "budgets"):
            if not getattr(self, name):
                raise ConfigError(f"`{name}` is empty. Give at least one number.")
            for value in getattr(self, name):
                _require_count(name, value)
        if self.targets is not None and not self.targets:
            raise ConfigError("`targets` is empty. Name the layers to adapt, or leave it out.")


def _require_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"`{name}` must be whole and at least 1. Found {value!r}.")


@dataclass(frozen=True)
class PopulationSpeed:
    """A population of one size at work on one step.

    Attributes:
        population: K.
        tokens: Completion tokens of the step, of all policies together.
        sampling_seconds: One a round.
        training_seconds: One a round; credit, forward and backward passes, and the optimizer.
        memory: Bytes, in the meaning of `Throughput.memory_meaning`; None where it cannot be measured.
    """

    population: int
    tokens: int
    sampling_seconds: tuple[float, ...]
    training_seconds: tuple[float, ...]
    memory: int | None

    @property
    def sampling_rate(self) -> float:
        """Completion tokens sampled a second, by the median round."""
        return self.tokens / statistics.median(self.sampling_seconds)

    @property
    def training_rate(self) -> float:
        """Completion tokens trained on a second, by the median round."""
        return self.tokens / statistics.median(self.training_seconds)

    @property
    def price(self) -> float:
        """Seconds that one policy's share of a step takes: sampling and training of the whole step over K."""
        seconds = statistics.median(self.sampling_seconds) + statistics.median(self.training_seconds)
        return seconds / self.population


@dataclass(frozen=True)
class BudgetSpeed:
    """Training under one micro-batch budget.

    Attributes:
        micro_batch_tokens: The budget.
        passes: Forward and backward passes that the step was cut into.
        pass_tokens: Tokens of the largest pass, prompts and padding included; above the budget where that is below
            what the smallest possible pass takes.
        tokens: Completion tokens of the step.
        seconds: One a round. Budgets that cut the step in the same way are the same work and share one measurement.
    """

    micro_batch_tokens: int
    passes: int
    pass_tokens: int
    tokens: int
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Completion tokens trained on a second, by the median round."""
        return self.tokens / statistics.median(self.seconds)


@dataclass(frozen=True)
class Throughput:
    """What was measured, and what it recommends.

    Attributes:
        model: The base model's name; None for a model given in memory.
        device: Such as `cpu` or `cuda:0`.
        processor: The device's own name.
        dtype: Floating type of the base model.
        threads: Threads that torch uses on the CPU.
        parameters: M, trainable parameters a policy.
        layout: How training laid its rows out: `packed` or `dense`.
        workload: What was asked for.
        populations: One entry a size, ascending.
        budgets: One entry a micro-batch budget, ascending, at the largest population.
        memory_meaning: What the memory figures are.
        did_not_fit: The variants that ran out of the device's memory, in words.
    """

    model: str | None
    device: str
    processor: str
    dtype: str
    threads: int
    parameters: int
    layout: str
    workload: Workload
    populations: tuple[PopulationSpeed, ...]
    budgets: tuple[BudgetSpeed, ...]
    memory_meaning: str
    did_not_fit: tuple[str, ...] = ()

    @property
    def recommended(self) -> PopulationSpeed:
        """The smallest population whose price of a policy is within a tenth of the lowest measured.

        Beyond it another policy costs nearly what a policy costs anyhow, so larger populations save no more time.
        """
        least = min(speed.price for speed in self.populations)
        return next(speed for speed in self.populations if speed.price <= (1 + PRICE_TOLERANCE) * least)

    @property
    def another_costs(self) -> float | None:
        """What a policy beyond the recommended population costs, as a share of what one costs in it.

        From the next larger population measured; None where the recommended one is the largest.
        """
        here = self.recommended
        larger = self.populations[self.populations.index(here) + 1 :]
        if not larger:
            return None
        added = larger[0].population - here.population
        seconds = larger[0].price * larger[0].population - here.price * here.population
        return seconds / added / here.price

    @property
    def recommended_budget(self) -> BudgetSpeed:
        """The smallest micro-batch budget whose throughput is within 5 % of the best."""
        best = max(speed.rate for speed in self.budgets)
        return next(speed for speed in self.budgets if speed.rate >= (1 - BUDGET_TOLERANCE) * best)

    @property
    def recommended_micro_batch(self) -> int:
        """Tokens of one pass to ask for: the recommended budget, or what its passes took where that is more.

        A budget below the smallest possible pass has not been measured, only that pass has.
        """
        return max(self.recommended_budget.micro_batch_tokens, self.recommended_budget.pass_tokens)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, with rates in tokens a second and prices in seconds."""
        found = asdict(self)
        for row, speed in zip(found["populations"], self.populations, strict=True):
            row |= {"sampling_rate": speed.sampling_rate, "training_rate": speed.training_rate, "price": speed.price}
        for row, budget in zip(found["budgets"], self.budgets, strict=True):
            row["rate"] = budget.rate
        found["recommended"] = {
            "population": self.recommended.population,
            "another_costs": self.another_costs,
            "micro_batch_tokens": self.recommended_micro_batch,
        }
        return found
