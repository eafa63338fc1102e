"""The models that speed is measured on: shapes of known ones with random weights, made on the device, and no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from harness import Bench, NotAvailable

from pareto_align.learning import Context, Learner, PromptRow, Rollouts, make_learner
from pareto_align.objectives import RewardScale
from pareto_align.policies import Base, Completions, PolicyPopulation, SamplingParams, load_base, sample
from pareto_align.policies.engine import Engine
from pareto_align.policies.optimizer import PopulationAdamW
from pareto_align.testing.tiny import symbol_tokenizer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
RANK = 8


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, and the TFLOP/s that products of its width reach on an H200 at best."""

    kind: str
    layers: int
    hidden: int
    wide: int
    heads: int
    key_heads: int
    width: int
    vocabulary: int
    tflops: float

    @property
    def body(self) -> int:
        """Weights of the layers' matrices."""
        attention = 2 * self.hidden * (self.heads + self.key_heads) * self.width
        return self.layers * (attention + 3 * self.hidden * self.wide)

    @property
    def head(self) -> int:
        """Weights of the head."""
        return self.hidden * self.vocabulary


SHAPES = {
    "smollm2": Shape("llama", 30, 576, 1536, 9, 3, 64, 49_152, 380),
    "qwen-0.5b": Shape("qwen2", 24, 896, 4864, 14, 2, 64, 151_936, 450),
    "qwen-1.5b": Shape("qwen2", 28, 1536, 8960, 12, 2, 128, 151_936, 550),
    "qwen-7b": Shape("qwen2", 28, 3584, 18_944, 28, 4, 128, 152_064, 620),
}
TINY = Shape("llama", 2, 32, 48, 4, 2, 8, 64, 1)


class Endless(Base):
    """A base whose completions run to full length: no token has the id that would end one."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (-1,)


def shape_of(bench: Bench, name: str) -> Shape:
    return TINY if bench.smoke else SHAPES[name]


def base_of(bench: Bench, name: str, dtype: torch.dtype | None = None, *, endless: bool = True) -> Base:
    """A random model of a shape, the same for the same arguments, never ending a completion."""
    import transformers

    shape = shape_of(bench, name)
    dtype = dtype or bench.pick(torch.bfloat16, torch.float32)
    config_of, model_of = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }[shape.kind]
    tokenizer = symbol_tokenizer(12, 4)
    config = config_of(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.wide,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
        head_dim=shape.width, max_position_embeddings=32_768, tie_word_embeddings=name != "qwen-7b",
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(bench.device):
            model = model_of(config).eval()
    finally:
        torch.set_default_dtype(before)
    made = load_base(model, tokenizer=tokenizer, device=bench.device, dtype=dtype)
    return Endless(**{f.name: getattr(made, f.name) for f in fields(Base)}) if endless else made


def lora(**settings: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM", **settings)


def population_of(base: Base, size: int) -> PolicyPopulation:
    """Policies with random B as well: with B = 0 there would be nothing to tell apart."""
    population = PolicyPopulation(base, size, lora=lora())
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(population.parameters.shape, generator=generator) * 0.01
    population.parameters.add_(noise.to(population.parameters.device))
    return population


def use(population: PolicyPopulation, **settings: Any) -> None:
    """Set what only newer versions of the package can: the sampler, or whether bits repeat.

    Raises:
        NotAvailable: This one cannot.
    """
    for name, value in settings.items():
        if not hasattr(population, name):
            raise NotAvailable(f"this version has no setting `{name}`")
        setattr(population, name, value)


def prompts_of(length: int, count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 12, (count, length), generator=generator).tolist()


def decode(population: PolicyPopulation, prompts: Sequence[Sequence[int]], group: int, length: int) -> Completions:
    return sample(
        population, [list(ids) for ids in prompts], group, SamplingParams(length), list(range(population.size))
    )


def rollouts_of(size: int, prompts: Sequence[Sequence[int]], group: int, length: int) -> Rollouts:
    """Random completions `[K, N, G, T]` of full length under two random rewards."""
    shape = (size, len(prompts), group, length)
    tokens = torch.randint(0, 12, shape, generator=torch.Generator().manual_seed(3))
    done = Completions([list(ids) for ids in prompts], tokens, torch.ones(shape, dtype=torch.bool), torch.zeros(shape))
    rewards = np.random.default_rng(0).random((*shape[:3], 2))
    rows = [PromptRow("", tuple(ids), {}) for ids in prompts]
    return Rollouts(rows, done, [""] * int(np.prod(shape[:3])), rewards)


def learner_of(population: PolicyPopulation, **settings: Any) -> Learner:
    scale = RewardScale(location=np.zeros(2), scale=np.ones(2), lower=np.zeros(2), upper=np.ones(2))
    adam = {"max_norm": settings.pop("max_norm")} if "max_norm" in settings else {}
    engine = Engine(population, **{"layout": "packed", "micro_batch_tokens": 16_384, **settings})
    learner = make_learner("centred")
    learner.setup(Context(engine, scale, [0, 1], PopulationAdamW(population.parameters, **adam)))
    return learner


def train(learner: Learner, rollouts: Rollouts, rate: float = 1e-5) -> None:
    learner.step(rollouts, np.ones((learner.population.size, 2)), rate)
