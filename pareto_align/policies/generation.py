"""Sampling by transformers' own `generate`, for models that the population's sampler cannot drive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pareto_align.errors import ModelError
from pareto_align.policies.drawing import Drawn
from pareto_align.policies.population import PolicyPopulation

__all__ = ["generate", "own_sampling"]


@contextmanager
def own_sampling(model: Any) -> Iterator[None]:
    """Within this context `generate` does what it is told, and asks no generation config of the model's own.

    transformers fills in what a call leaves open from `model.generation_config`: penalties, beams, biases, words that
    end or that are forbidden. Neither training nor measuring knows them.

    Args:
        model: A causal language model of transformers, not a `PeftModel` around it.
    """
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def generate(
    population: PolicyPopulation,
    prompt_ids: Sequence[Sequence[int]],
    group: int,
    policies: int,
    drawn: Drawn,
) -> None:
    """Sample by transformers' `generate`, for models that our own decoding cannot drive.

    Our drawing sits inside as a logits processor that leaves a single token to choose, so that the same seeds give
    the same completions. Prompts of equal length run together: nothing is padded, whatever the model does with padding.
    """
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

    base = population.base
    if population.activated:
        raise ModelError(
            f"Activated adapters need a model that the population's own sampler can drive; {type(base.model).__name__} "
            "is none. Leave `alora_invocation_tokens` out."
        )
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=drawn.params.max_new_tokens,
        eos_token_id=list(base.stop_ids) or None,
        pad_token_id=drawn.pad,
        use_cache=True,
    )

    class Drawing(LogitsProcessor):
        def __init__(self, slots: Tensor, start: int) -> None:
            self.slots, self.start = slots, start

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            token = drawn.draw(scores, self.slots, input_ids.shape[1] - self.start)
            return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)

    numbers = torch.arange(len(prompt_ids)).view(policies, -1)
    widths = torch.tensor([len(ids) for ids in prompt_ids])[numbers]
    # the policies together, where they have prompts of like lengths; otherwise one after the other
    alike = bool((widths == widths[0]).all())
    with own_sampling(base.model):
        for some in [slice(0, policies)] if alike else [slice(k, k + 1) for k in range(policies)]:
            for width in widths[some].unique().tolist():
                part = numbers[some][widths[some] == width]
                ids = torch.tensor([list(prompt_ids[n]) for n in part.tolist()]).repeat_interleave(group, 0)
                slots = (part[:, None] * group + torch.arange(group)).flatten().to(base.device)
                ids = ids.to(base.device)
                with population.narrowed(some):
                    base.model.generate(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        generation_config=config,
                        logits_processor=LogitsProcessorList([Drawing(slots, width)]),
                    )
