"""Stage 6: the same work by TRL's GRPOTrainer and by stock PEFT, on a shape of half a billion parameters."""

from __future__ import annotations

import tempfile
import time
import warnings
from typing import Any

import torch
from harness import Bench, NotAvailable
from models import base_of, decode, learner_of, lora, population_of, prompts_of, train

from pareto_align.learning import PromptRow, Rollouts

NAME, ROWS = "qwen-0.5b", 8


def _sizes(bench: Bench) -> tuple[int, int, int]:
    """K, prompt tokens and new tokens."""
    return bench.pick((8, 128, 64), (2, 4, 3))


def peers_stage(bench: Bench) -> None:
    """Each peer in turn; what it costs a policy over what it costs a policy here."""
    for part in (_peft_mixed, _peft_sequential, _trl):
        bench.try_to(part.__name__.strip("_"), lambda part=part: part(bench))


# ------------------------------------------------------------------------------------------------ decoding


def _peft(bench: Bench, policies: int) -> Any:
    from peft import get_peft_model

    base = base_of(bench, NAME)
    config = lora(init_lora_weights=False)
    model = get_peft_model(base.model, config, adapter_name="p0", autocast_adapter_dtype=False)
    for k in range(1, policies):
        model.add_adapter(f"p{k}", config, autocast_adapter_dtype=False)
    return model.eval()


def _generate(model: Any, ids: torch.Tensor, length: int, **options: Any) -> None:
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=length, use_cache=True,
        eos_token_id=None, pad_token_id=12,
    )  # fmt: skip
    with torch.no_grad():
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, **options)
    if found.shape[1] != ids.shape[1] + length:
        raise RuntimeError(f"{found.shape[1] - ids.shape[1]} of {length} tokens were generated.")


def _against(bench: Bench, figure: str, theirs: Any) -> None:
    policies, prompt, length = _sizes(bench)
    population = population_of(base_of(bench, NAME), policies)
    (ids,) = prompts_of(prompt, 1)
    found = bench.take_turns({"theirs": theirs, "ours": lambda: decode(population, [ids], ROWS, length)})
    bench.median(figure, [a / b for a, b in zip(found["theirs"], found["ours"], strict=True)], "x faster")
    bench.median(f"{figure}_ours", found["ours"], "s a call")


def _peft_mixed(bench: Bench) -> None:
    policies, prompt, length = _sizes(bench)
    model = _peft(bench, policies)
    names = [f"p{k}" for k in range(policies) for _ in range(ROWS)]
    ids = torch.tensor(prompts_of(prompt, 1), device=bench.device).repeat(len(names), 1)
    _against(bench, "peft_mixed", lambda: _generate(model, ids, length, adapter_names=names))


def _peft_sequential(bench: Bench) -> None:
    policies, prompt, length = _sizes(bench)
    model = _peft(bench, policies)
    ids = torch.tensor(prompts_of(prompt, 1), device=bench.device).repeat(ROWS, 1)

    def one_after_the_other() -> None:
        for k in range(policies):
            model.set_adapter(f"p{k}")
            _generate(model, ids, length)

    _against(bench, "peft_sequential", one_after_the_other)


# ------------------------------------------------------------------------------------------------ whole steps


def _trl(bench: Bench) -> None:
    """A step of one policy by TRL, over one policy's share of a step here; one prompt, eight completions."""
    try:
        import trl  # noqa: F401
        from datasets import Dataset  # noqa: F401
    except ImportError as error:
        raise NotAvailable(f"TRL cannot be imported: {error}") from None
    policies, prompt, length = _sizes(bench)
    base = base_of(bench, NAME)
    population = population_of(base, policies)
    learner = learner_of(population)
    ids = prompts_of(prompt, 1)

    def step() -> None:
        done = decode(population, ids, ROWS, length)
        rewards = torch.rand(*done.mask.shape[:3], 2, generator=torch.Generator().manual_seed(0)).double().numpy()
        rows = [PromptRow("", tuple(ids[0]), {})]
        train(learner, Rollouts(rows, done, [""] * done.mask[..., 0].numel(), rewards))

    ours = bench.take_turns({"ours": step})["ours"]
    each = bench.median("ours", [seconds / policies for seconds in ours], "s a policy-step")
    population.close()
    del base
    pages = ROWS * (-(-(prompt + length) // 32) + 1)
    cache = {"page_size": 32, "num_blocks": pages, "max_batch_tokens": ROWS * prompt}
    ways: dict[str, dict[str, Any]] = {
        "trl_generate": {},
        "trl_continuous_batching": {
            "use_transformers_continuous_batching": True, "transformers_continuous_batching_config": cache,
        },
    }  # fmt: skip
    for name, settings in ways.items():
        found = bench.try_to(name, lambda settings=settings: _trl_steps(bench, length, settings))
        if found:
            bench.say(f"{name}_seconds", min(found), "s a policy-step")
            bench.say(name, min(found) / each, "x faster")


def _trl_steps(bench: Bench, length: int, settings: dict[str, Any]) -> list[float]:
    """Seconds of the second step of a stock trainer and those after it: the first pays for what is set up once."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    base = base_of(bench, NAME)
    readings: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            bench.wait()
            readings.append(time.perf_counter() - self.start)
            self.start = time.perf_counter()

    def reward(completions: Any, **_: Any) -> list[float]:
        return [len(text) / length for text in completions]

    steps = bench.pick(3, 2)
    base.model.generation_config.eos_token_id = None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=ROWS, num_generations=ROWS, max_completion_length=length,
            max_steps=steps, gradient_checkpointing=False, bf16=bench.device.type == "cuda", beta=0.0,
            use_cpu=bench.device.type == "cpu", report_to="none", logging_steps=10_000, save_strategy="no",
            disable_tqdm=True, **settings,
        )  # fmt: skip
        text = "<0>" + "abcdefgh" * 32
        trainer = GRPOTrainer(
            model=base.model, reward_funcs=reward, args=config, processing_class=base.tokenizer,
            train_dataset=Dataset.from_list([{"prompt": text[: 2 + _sizes(bench)[1]]}] * steps), peft_config=lora(),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Clock())
        trainer.train()
    return readings[1:]
