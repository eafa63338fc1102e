"""Seconds per policy-step against TRL's GRPOTrainer with one policy, the same prompts, reward and adapters."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from subject import LEARNING_RATE, PopulationTrainer, Subject, length_reward
from timing import Reading, clocked, compare

from pareto_align.errors import ParetoAlignWarning
from pareto_align.policies import Base
from pareto_align.policies.base import Prompt

PAGE_TOKENS = 32  # of continuous batching's cache


def trl_settings(completions: int, prompt_length: int, length: int) -> dict[str, dict[str, Any]]:
    """The ways to run TRL that could be its fastest on one processor."""
    # by default continuous batching takes half of the memory for its cache, at every step anew: 20 s here
    pages = completions * (-(-(prompt_length + length) // PAGE_TOKENS) + 1)
    cache = {"page_size": PAGE_TOKENS, "num_blocks": pages, "max_batch_tokens": completions * prompt_length}
    return {
        "all completions in one batch": {},
        "gradient accumulation, 4 parts": {"parts": 4},
        "static cache": {"cache_implementation": "static"},
        "continuous batching, a cache of the size needed": {
            "use_transformers_continuous_batching": True,
            "transformers_continuous_batching_config": cache,
        },
    }


def trl_steps(
    base: Base,
    subject: Subject,
    prompts: Sequence[Prompt],
    steps: int,
    *,
    group: int,
    length: int,
    settings: dict[str, Any],
    between: Callable[[int], object] = lambda _: None,
) -> list[Reading]:
    """Optimizer steps of a stock GRPOTrainer by the clock: generation, reward, loss, backward, AdamW.

    Args:
        base: A fresh copy, used up.
        subject: Makes the adapter.
        prompts: As many for every step, in order.
        steps: How many.
        group: Completions a prompt.
        length: Longest completion.
        settings: What differs from the fastest plain setting; `parts` splits the batch.
        between: Called with the step's number while the clock is stopped.
    """
    import transformers
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    transformers.logging.set_verbosity_error()
    settings = dict(settings)
    batch, parts = len(prompts) // steps * group, settings.pop("parts", 1)
    seen = [0, 0]

    def reward(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> Any:
        seen[0] += sum(len(ids) for ids in completion_ids)
        seen[1] += len(completion_ids)
        return length_reward(completions)

    def counted() -> Reading:
        tokens, completions = seen
        seen[:] = [0, 0]
        return {"tokens": tokens, "mean_length": tokens / completions}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", ParetoAlignWarning)
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=max(batch // parts, 1), gradient_accumulation_steps=parts,
            num_generations=group, max_completion_length=length, max_steps=steps, learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant", gradient_checkpointing=False, bf16=base.dtype == torch.bfloat16, beta=0.0,
            use_cpu=True, shuffle_dataset=False, report_to="none", logging_steps=10_000, save_strategy="no",
            disable_tqdm=True, **settings,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=base.model, reward_funcs=reward, args=config, processing_class=base.tokenizer,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]), peft_config=subject.lora(),
        )  # fmt: skip
        return clocked(trainer, between, counted)


def against_trl(subject: Subject, *, prompts: int, group: int, length: int, policies: int) -> dict[str, Any]:
    """The population's step, for K and for one policy, against the fastest of TRL's settings."""
    dtype, prompt_length = "float32", subject.pick(48, 6)
    base = subject.base(dtype)
    rounds = subject.rounds
    batches = subject.prompts(base, prompt_length, prompts * rounds)
    one_step: dict[str, Any] = {"group": group, "length": length}

    # one small step first, so that no candidate pays for what the process does once
    trl_steps(subject.base(dtype), subject, batches[:prompts], 1, group=group, length=2, settings={})
    tried = trl_settings(prompts * group, prompt_length, length)
    candidates: dict[str, Any] = {}
    for name, settings in tried.items():
        try:
            (reading,) = trl_steps(subject.base(dtype), subject, batches[:prompts], 1, settings=settings, **one_step)
        except Exception as error:  # a setting that does not run here is no baseline; the page says so
            candidates[name] = f"{type(error).__name__}: {error}"[:200]
        else:
            candidates[name] = round(reading["seconds"], 3)
    ran = {name: seconds for name, seconds in candidates.items() if isinstance(seconds, float)}
    if not ran:
        raise RuntimeError(f"No setting of TRL ran: {candidates}")
    best = min(ran, key=lambda name: ran[name])

    many = PopulationTrainer(subject.population(base, policies, trained=False), group, length)
    alone = PopulationTrainer(subject.population(subject.base(dtype), 1, trained=False), group, length)
    for trainer in (many, alone):  # also settles which layout the learner may use
        trainer.step(batches[:1], 2)
    ours: dict[str, list[Reading]] = {"many": [], "alone": []}

    def take_turns(step: int) -> None:
        batch = batches[step * prompts : (step + 1) * prompts]
        ours["many"].append(many.step(batch))
        ours["alone"].append(alone.step(batch))

    theirs = trl_steps(
        subject.base(dtype), subject, batches, rounds, settings=tried[best], between=take_turns, **one_step
    )
    for reading in (*theirs, *ours["many"], *ours["alone"]):
        reading["per_token"] = 1000 * reading["seconds"] / reading["tokens"]
    trl, population, single = ("TRL", theirs), (f"population, K = {policies}", ours["many"]), ("K = 1", ours["alone"])
    unit, share = "s per policy-step", (1.0, float(policies))
    return {
        "setting": {
            "dtype": dtype, "prompts": prompts, "samples": group, "prompt_tokens": prompt_length,
            "new_tokens": length, "K": policies,
        },
        "figures": {
            "step": compare(trl, population, unit, per=share),
            "per_token": compare(trl, population, "ms per generated token", key="per_token"),
            "alone": compare(trl, single, unit),
            "batching": compare(single, population, unit, per=share),
        },
        "baseline": best,
        "candidates": candidates,
        "mean_length": {
            label: round(sum(r["mean_length"] for r in found) / rounds, 1)
            for label, found in (trl, population, single)
        },
        "halves": {
            label: {part: round(sum(r[part] for r in found) / rounds / size, 3) for part in ("sampling", "training")}
            for (label, found), size in ((population, policies), (single, 1))
        },
    }  # fmt: skip


def trl_four_prompts(subject: Subject) -> dict[str, Any]:
    return against_trl(
        subject, prompts=subject.pick(4, 2), group=subject.pick(8, 4), length=subject.pick(64, 3), policies=4
    )


def trl_one_prompt(subject: Subject) -> dict[str, Any]:
    return against_trl(subject, prompts=1, group=subject.pick(8, 4), length=subject.pick(64, 3), policies=8)
