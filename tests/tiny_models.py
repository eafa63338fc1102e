"""Tiny random models of several architectures, with a tokenizer of a few symbols, and the way over to stock PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel

from pareto_align.learning import Context, OnlineLearner, PolicyLoss, make_credit
from pareto_align.objectives import RewardScale
from pareto_align.policies import Base, PolicyPopulation, load_base
from pareto_align.policies.engine import Engine
from pareto_align.policies.optimizer import PopulationAdamW
from pareto_align.testing.tiny import symbol_tokenizer

SYMBOLS, PROMPTS = 12, 4
VOCABULARY = SYMBOLS + 3 + PROMPTS
PAD, BOS, EOS = SYMBOLS, SYMBOLS + 1, SYMBOLS + 2

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
GROUPED = {**COMMON, "num_key_value_heads": 2, "tie_word_embeddings": False}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "llama-tied": ("Llama", {**GROUPED, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 8}),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 6}),
    "gemma2": (
        "Gemma2",
        {
            **GROUPED,
            "head_dim": 8,
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 4.0,
            "attn_implementation": "eager",  # transformers before 5.20 took sdpa, which leaves out the cap
        },
    ),
    "granite": ("Granite", {**GROUPED, "logits_scaling": 0.5, "attention_multiplier": 0.6}),
    "cohere": ("Cohere", {**GROUPED, "logit_scale": 0.7}),
    "gpt_neox": ("GPTNeoX", COMMON),
    "phi": ("Phi", {**COMMON, "num_key_value_heads": 4}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon": ("Falcon", {**COMMON, "alibi": False, "bias": False}),
}
"""Those whose attention transformers cannot set."""

RAGGED = ["<0>", "<1>abc", "<2>abcdefg"]
"""Prompts of 2, 5 and 9 tokens."""


def tiny_model(family: str = "llama", seed: int = 0, **overrides: Any) -> Any:
    """A random model of one architecture; a call with the same arguments gives the same weights."""
    import transformers

    name, settings = (FAMILIES | OTHERS)[family]
    config = getattr(transformers, f"{name}Config")(**{**settings, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):  # zero at birth: a forgotten bias would go unnoticed
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tiny_base(family: str = "llama", seed: int = 0, *, dtype: Any = "auto", **overrides: Any) -> Base:
    """The model with its tokenizer, as `load_base` gives it."""
    return load_base(tiny_model(family, seed, **overrides), tokenizer=symbol_tokenizer(SYMBOLS, PROMPTS), dtype=dtype)


def lora(r: int = 4, targets: Any = "all-linear", **settings: Any) -> LoraConfig:
    return LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets, task_type="CAUSAL_LM", **settings)


def fresh_population(base: Base, size: int = 3, *, config: Any = None) -> PolicyPopulation:
    """Policies as a run begins with; on a base in float64 they and their gradients are in float64 as well.

    Two right ways to sum differ by rounding, and by which depends on the processor: its libraries choose a kernel by
    the shape of a product and by the instructions there are. In float64 that is nothing, and what is the same in theory
    is the same in a test, on any machine. Only the logits are rounded to float32 on the way.
    """
    population = PolicyPopulation(base, size, lora=config or lora())
    if base.dtype == torch.float64:
        population.parameters, population.grad = population.parameters.double(), population.grad.double()
    return population


def random_population(base: Base, size: int = 3, *, config: Any = None, seed: int = 0) -> PolicyPopulation:
    """Policies that differ from the base and from each other: A and B are random."""
    population = fresh_population(base, size, config=config)
    generator = torch.Generator().manual_seed(seed)
    population.parameters.copy_(torch.randn(population.parameters.shape, generator=generator) * 0.2)
    return population


def online_learner(
    population: PolicyPopulation,
    scale: RewardScale,
    axes: Sequence[int],
    *,
    credit: str = "centred",
    loss: PolicyLoss | None = None,
    updates: int = 1,
    max_norm: float | None = 1.0,
    weight_decay: float = 0.0,
    **engine: Any,
) -> OnlineLearner:
    """A learner that is handed its rollouts."""
    learner = OnlineLearner(make_credit(credit), loss, updates=updates)
    optimizer = PopulationAdamW(population.parameters, max_norm=max_norm, weight_decay=weight_decay)
    learner.setup(Context(Engine(population, **{"layout": "packed", **engine}), scale, axes, optimizer))
    return learner


def as_peft(population: PolicyPopulation, row: torch.Tensor, folder: Path, model: Any, **options: Any) -> PeftModel:
    """One policy through its files onto a fresh copy of the model, by stock PEFT."""
    population.save_adapter(row, folder)
    return PeftModel.from_pretrained(model, str(folder), **options)


def peft_row(population: PolicyPopulation, model: PeftModel, *, grad: bool = False) -> torch.Tensor:
    """A and B of a stock PEFT model, or their gradients, in the order of a population's row `[M]`."""
    row = torch.zeros(1, population.parameter_count, dtype=population.parameters.dtype)
    named = dict(model.named_parameters())
    for block in population.blocks:
        for part, letter in zip(block.split(row), "AB", strict=True):
            tensor = named[f"base_model.model.{block.name}.lora_{letter}.default.weight"]
            part[0] = tensor.grad if grad else tensor.detach()
    return row[0]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
