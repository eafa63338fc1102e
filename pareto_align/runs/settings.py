"""The settings of a run, each with its meaning; the command line reads the help from here."""

from __future__ import annotations

import sys
from dataclasses import Field, dataclass, field, fields
from numbers import Real
from typing import Any

from pareto_align.errors import ConfigError

__all__ = ["Settings", "settings_help"]

LR_SCHEDULES = ("linear", "cosine", "constant")
LAYOUTS = ("auto", "packed", "dense")
SAMPLERS = ("auto", "eager", "graphs", "vllm")
CORRECTIONS = ("auto", "none", "token_truncate", "sequence_mask")
KL_ESTIMATORS = ("k1", "k3")
OPTIMIZERS = ("adamw", "lion")
AGGREGATIONS = ("constant", "token", "sequence")
OVERLAPS = ("auto", "off", "exact", "bounded")
RATES = {"adamw": 2e-3, "lion": 4e-4}
"""Of LoRA on a model as wide as WIDTH or narrower, by optimizer; `studies/real` has the first."""
COMPARED = 0.2
"""The share of it from comparisons, which are read again and again; `studies/comparisons` has a policy at both."""
WIDTH, SLOPE = 576, 0.8
"""A wider model takes a lower rate: RATE (WIDTH / width)^SLOPE. See `docs/choosing-a-family.md`."""
MOST = 2**63 - 1
"""The largest whole number that every file of a run holds."""


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """How a front is fitted. Every field is a keyword of `ParetoAligner`.

    Raises:
        ConfigError: A value is out of range.
    """

    population: int = _setting(8, "K, policies trained side by side on one base model")
    steps: int = _setting(100, "training steps of the whole population")
    prompts_per_step: int = _setting(8, "N, prompts every policy answers in a step")
    group_size: int = _setting(8, "G, completions of each prompt and policy")
    max_new_tokens: int = _setting(128, "T, tokens of the longest completion")
    temperature: float = _setting(1.0, "sampling temperature, in training and evaluation")
    top_k: int | None = _setting(None, "sample from this many likeliest tokens only")
    top_p: float | None = _setting(None, "sample from the likeliest tokens up to this probability")
    optimizer: str = _setting("adamw", "adamw, or lion: one moment less, at a learning rate 3 to 10 times lower")
    learning_rate: float | None = _setting(
        None,
        "of the optimizer, at the first step; by default 2e-3 (lion 4e-4), a fifth of it from comparisons, and less "
        "for models wider than 576",
    )
    lr_schedule: str = _setting("linear", "linear or cosine decay to zero, or constant")
    weight_decay: float = _setting(0.0, "of the optimizer")
    max_grad_norm: float | None = _setting(1.0, "a policy's gradient is clipped to this L2 norm")
    max_step_kl: float | None = _setting(
        None,
        "nats a completion by which a step from rewards may move a policy, a longer one is shortened; by default any",
    )
    kl_coef: float = _setting(
        0.0,
        "price of one nat of KL to the untrained model per completion: in scaled reward with the learners centred, "
        "dr_grpo and rloo, in standard deviations of it with those that divide by one",
    )
    kl: str = _setting("k1", "KL estimator: k1 (charged to the advantage) or k3 (a loss term, as GRPO)")
    clip: float = _setting(0.2, "PPO clip range; felt from the second update of a rollout on")
    kl_limit: float | None = _setting(
        None, "nats a token by which an update may leave the policy that sampled before it is held back; by default any"
    )
    kl_limit_coef: float = _setting(1000.0, "how steeply a step beyond kl_limit is paid for")
    updates_per_rollout: int = _setting(1, "optimizer steps on each batch of completions")
    aggregation: str = _setting("constant", "how token losses add up: constant, token or sequence")
    eval_every: int = _setting(10, "steps between measurements of the population on the select split")
    eval_prompts: int = _setting(64, "prompts of the select split, and as many of the report split")
    eval_group_size: int = _setting(1, "completions per held-out prompt")
    eval_group: str | None = _setting(
        None, "column of the prompts: held-out ones with the same value there (a topic) are one unit of the intervals"
    )
    remeasure_rounds: int = _setting(
        2, "times that contested policies are measured again after each evaluation; 0 never"
    )
    remeasure_tokens: int | None = _setting(
        None, "most tokens of that after an evaluation; by default as many as the evaluation took"
    )
    max_tokens: int | None = _setting(None, "stop training once this many tokens were sampled, measuring included")
    max_seconds: float | None = _setting(None, "stop training after this many seconds")
    stop_patience: int | None = _setting(
        None,
        "stop once this many measurements in a row left the hypervolume within the interval it had; by default never",
    )
    archive_capacity: int | None = _setting(None, "most members the archive keeps")
    samples_kept: int = _setting(
        8, "answers of each member that its front keeps, to prompts that it was measured on; for `front.elicit`, too"
    )
    resolution: float = _setting(
        2.0, "members closer than this many standard errors of their difference count as one; 0 keeps all"
    )
    stall_patience: int = _setting(5, "steps without any variation in a policy's rewards before it is started again")
    micro_batch_tokens: int | None = _setting(
        None,
        "tokens of one forward and backward pass; by default what `pareto-align bench` recorded, else "
        "4096 on a CPU and what the free memory holds on a GPU, at most 32768",
    )
    layout: str = _setting(
        "auto", "training rows: packed (a prompt once, then its completions), dense, or auto: packed where it fits"
    )
    gradient_checkpointing: bool = _setting(
        False, "compute activations again in the backward pass: less memory, more time in training"
    )
    sampler: str | dict = _setting(  # noqa: RUF009 - it is a field, as the others
        "auto",
        "how completions are decoded: eager, graphs (fixed shapes, captured as CUDA graphs), or auto: graphs on CUDA; "
        "vllm, or {name: vllm, ...}, draws what is trained on by vLLM",
    )
    rollout_correction: str = _setting(
        "auto",
        "importance weights where the sampler's probabilities are not the trainer's: token_truncate, sequence_mask, "
        "none, or auto: token_truncate with vllm, else none",
    )
    rollout_cap: float = _setting(2.0, "the largest such weight; with sequence_mask completions beyond it are left out")
    deterministic: bool = _setting(
        False, "the same bits again on a GPU as well: torch adds in fixed orders while sampling and training; slower"
    )
    activated: bool = _setting(
        False, "adapters act only from the assistant's turn on: the prompt is read once for all policies"
    )
    shard_size: int | None = _setting(
        None,
        "policies that are sampled and trained together; by default all. With fewer, shards can be on several devices",
    )
    overlap: str = _setting(
        "auto",
        "what several shards do while answers are judged by rowwise objectives: off (wait), exact (sample and train; "
        "the same bytes), bounded (nor wait at the weights for each other), or auto: exact where it can be",
    )
    max_age: int | None = _setting(
        None,
        "with overlap='bounded': how many steps old other shards' numbers are in a shard's weights; 1 by default",
    )
    seed: int = _setting(0, "seeds everything")

    def __post_init__(self) -> None:
        for name in (
            "population", "steps", "prompts_per_step", "group_size", "max_new_tokens", "updates_per_rollout",
            "eval_every", "eval_prompts", "eval_group_size", "stall_patience",
        ):  # fmt: skip
            _require_count(name, getattr(self, name))
        for name in (
            "top_k",
            "archive_capacity",
            "micro_batch_tokens",
            "max_tokens",
            "remeasure_tokens",
            "stop_patience",
            "shard_size",
            "max_age",
        ):
            if getattr(self, name) is not None:
                _require_count(name, getattr(self, name))
        for name in (
            "temperature", "weight_decay", "kl_coef", "kl_limit_coef", "clip", "resolution", "rollout_cap",
        ):  # fmt: skip
            _require_number(name, getattr(self, name))
        for name in ("learning_rate", "top_p", "max_grad_norm", "max_step_kl", "max_seconds", "kl_limit"):
            if getattr(self, name) is not None:
                _require_number(name, getattr(self, name))
        for name in ("remeasure_rounds", "samples_kept", "seed"):
            _require_count(name, getattr(self, name), least=0)
        if self.eval_group is not None and not (isinstance(self.eval_group, str) and self.eval_group):
            raise ConfigError(f"`eval_group` must be the name of a column or None. Found {self.eval_group!r}.")
        if not self.temperature > 0:
            raise ConfigError(
                f"`temperature` must be positive: at 0 nothing varies, nothing is learnt. Found {self.temperature!r}."
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"`top_p` must lie in (0, 1]. Found {self.top_p!r}.")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigError(f"`learning_rate` must be positive. Found {self.learning_rate!r}.")
        if not self.kl_limit_coef > 0:
            raise ConfigError(f"`kl_limit_coef` must be positive. Found {self.kl_limit_coef!r}.")
        if self.kl_limit is not None and not self.kl_limit >= 0:
            raise ConfigError(f"`kl_limit` must be 0 or more, or None. Found {self.kl_limit!r}.")
        if self.kl_limit is not None and self.updates_per_rollout == 1:
            raise ConfigError(
                "`kl_limit` does nothing with updates_per_rollout=1: the first update on a rollout is made at the "
                "policy that sampled it, whose divergence from itself is 0. Set updates_per_rollout to 2 or more."
            )
        for name in ("clip", "rollout_cap"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` must be positive. Found {getattr(self, name)!r}.")
        for name, known in (
            ("lr_schedule", LR_SCHEDULES), ("layout", LAYOUTS), ("kl", KL_ESTIMATORS), ("optimizer", OPTIMIZERS),
            ("aggregation", AGGREGATIONS), ("rollout_correction", CORRECTIONS), ("overlap", OVERLAPS),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ConfigError(f"`{name}` must be one of {', '.join(known)}. Found {getattr(self, name)!r}.")
        self._check_sampler()
        for name in ("gradient_checkpointing", "deterministic", "activated"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"`{name}` must be True or False. Found {getattr(self, name)!r}.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"`max_grad_norm` must be positive or None. Found {self.max_grad_norm!r}.")
        if self.max_step_kl is not None and not self.max_step_kl > 0:
            raise ConfigError(f"`max_step_kl` must be positive or None. Found {self.max_step_kl!r}.")
        if self.max_tokens is not None and self.max_tokens < self.rows_a_step:
            raise ConfigError(
                f"`max_tokens` cannot pay for one step: it samples {self.rows_a_step} completions (population x "
                f"prompts_per_step x group_size). Found max_tokens={self.max_tokens}."
            )
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ConfigError(f"`max_seconds` must be positive or None. Found {self.max_seconds!r}.")
        if self.shard_size is not None and self.shard_size > self.population:
            raise ConfigError(
                f"`shard_size` must be at most the population, {self.population}. Found shard_size={self.shard_size}."
            )
        if self.max_age is not None and self.overlap != "bounded":
            raise ConfigError(
                "`max_age` is for overlap='bounded': otherwise the weights of a step are of that step. Found "
                f"max_age={self.max_age} with overlap={self.overlap!r}."
            )
        if self.overlap == "bounded" and self.max_age is None:
            object.__setattr__(self, "max_age", 1)
        for name in ("weight_decay", "kl_coef", "resolution"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"`{name}` must be 0 or more. Found {getattr(self, name)!r}.")

    def _check_sampler(self) -> None:
        name = self.sampler.get("name") if isinstance(self.sampler, dict) else self.sampler
        if not isinstance(name, str) or name not in SAMPLERS:
            raise ConfigError(f"`sampler` must be one of {', '.join(SAMPLERS)}. Found {name!r}.")
        if isinstance(self.sampler, dict) and name != "vllm":
            raise ConfigError(f"The sampler {name!r} takes no settings. Found {self.sampler!r}; write {name!r}.")
        if isinstance(self.sampler, dict):
            from pareto_align.policies.samplers import make_engine  # loads torch, which the others do without

            make_engine(self.sampler)

    @property
    def engine(self) -> dict[str, Any] | None:
        """The engine beside the population that draws what is trained on: its `name` and settings; None without one."""
        named = self.sampler if isinstance(self.sampler, dict) else {"name": self.sampler}
        return named if named["name"] == "vllm" else None

    @property
    def decoding(self) -> str:
        """How the population decodes what it draws itself."""
        return "auto" if isinstance(self.sampler, dict) or self.engine is not None else self.sampler

    def rate(self, width: int = WIDTH, *, compared: bool = False) -> float:
        """The learning rate at the first step: as set, or the usual one.

        Args:
            width: Of the model, its hidden size.
            compared: It learns from comparisons.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return RATES[self.optimizer] * (COMPARED if compared else 1.0) * min(1.0, WIDTH / width) ** SLOPE

    @property
    def rows_a_step(self) -> int:
        """Completions K * N * G that a training step samples, all at once."""
        return self.population * self.prompts_per_step * self.group_size

    @property
    def shards(self) -> tuple[range, ...]:
        """The policies of each shard, by number; the last one may have fewer."""
        size = self.shard_size or self.population
        return tuple(range(first, min(first + size, self.population)) for first in range(0, self.population, size))


def _require_count(name: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"`{name}` must be a whole number of at least {least}. Found {name}={value!r}.")
    if value > MOST:
        raise ConfigError(f"`{name}` must be at most 2**63 - 1. Found {name}={value!r:.40}.")


def _require_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"`{name}` must be a number. Found {name}={value!r}.")
    if not abs(value) <= sys.float_info.max:  # type: ignore[operator]  # NaN, infinite, or a whole number that no float holds
        raise ConfigError(f"`{name}` must be a finite number. Found {name}={value!r:.40}.")


def settings_help() -> dict[str, Field[Any]]:
    """The fields of `Settings` by name; `field.metadata["help"]` says what each is for."""
    return {f.name: f for f in fields(Settings)}
