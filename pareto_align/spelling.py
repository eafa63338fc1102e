"""What somebody meant who wrote a name that does not exist: one of ours spelt otherwise, or that of another library."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from pareto_align.errors import ConfigError

__all__ = ["ELSEWHERE", "MEANT", "checks_keywords", "hint"]

P = ParamSpec("P")
R = TypeVar("R")

MOST_LISTED = 24
"""Known names that an error lists at most."""

MEANT: dict[str, str] = {
    "rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "lr": "learning_rate",
    "num_generations": "group_size",
    "max_completion_length": "max_new_tokens",
    "max_steps": "steps",
    "beta": "kl_coef",
    "epsilon": "clip",
    "num_iterations": "updates_per_rollout",
    "lr_scheduler_type": "lr_schedule",
    "eval_steps": "eval_every",
    "num_generations_eval": "eval_group_size",
    "reward_funcs": "objectives",
    "peft_config": "lora",
    "processing_class": "tokenizer",
    "load_in_4bit": "quantization",
    "load_in_8bit": "quantization",
    "bf16": "dtype",
    "fp16": "dtype",
}
"""Our names by what people and other libraries call them, where spelling does not lead there."""

ELSEWHERE: dict[str, str] = {
    "reward_weights": "Weights are not given: every policy has its own, and `front.select` takes a preference "
    "afterwards. The weighting 'fixed' with an explorer {'name': 'grid', 'preferences': [...]} trains for given ones.",
    "scale_rewards": "How rewards become advantages is `learner`: 'grpo' divides by the group's standard deviation, "
    "'dr_grpo' does not.",
    "loss_type": "That is `learner` ('grpo', 'dr_grpo', ...) together with `aggregation` (constant, token, sequence).",
    "log_completions": "Members carry samples: `front[0].samples`.",
    "train_dataset": "Prompts are given to `fit(prompts)`.",
    "eval_dataset": "Held-out prompts are given to `fit(prompts, eval_prompts=...)`.",
    "resume_from_checkpoint": "A run goes on by `resume(output_dir)`.",
    "args": "Settings are keywords of `ParetoAligner` itself.",
    "num_train_epochs": "The length of a run is `steps`.",
    "max_prompt_length": "Prompts are not cut: one that is too long for the model is refused.",
    "per_device_train_batch_size": "The batch of a step is `prompts_per_step` prompts with `group_size` completions of "
    "each policy; what is computed at a time is `micro_batch_tokens`.",
    "generation_batch_size": "The batch of a step is `prompts_per_step` prompts with `group_size` completions of each "
    "policy.",
    "gradient_accumulation_steps": "A step is cut to what fits by `micro_batch_tokens`.",
    "use_vllm": "Sampling runs in the training process; front.export(..., format='vllm') serves the result.",
}
"""Names of other libraries that no one keyword of ours stands for: what does."""


def hint(key: Any, known: Iterable[str]) -> str:
    """A sentence, after a space, on what `key` may have meant; where nothing is like it, on what there is, if short."""
    known = list(known)
    if key in ELSEWHERE:
        return f" {ELSEWHERE[key]}"
    near = [name for name in (MEANT.get(str(key)),) if name in known]
    near = near or difflib.get_close_matches(str(key), known, n=1)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(known)}." if 0 < len(known) <= MOST_LISTED else ""


def checks_keywords(init: Callable[P, R]) -> Callable[P, R]:
    """A constructor that refuses a keyword it does not have with a word on what may have been meant.

    Raises:
        ConfigError: When it is called with one.
    """
    known = [name for name in inspect.signature(init).parameters if name != "self"]

    @functools.wraps(init)
    def checked(*args: P.args, **keywords: P.kwargs) -> R:
        for key in keywords:
            if key not in known:
                raise ConfigError(f"Unknown setting {key!r}.{hint(key, known)}")
        return init(*args, **keywords)

    return checked
