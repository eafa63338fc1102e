"""A saved mixture of adapters on plain transformers and PEFT, for where this package's own decoding cannot run.

    model, processor = load_mixture("served", base_model)
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    out = model.generate(**processor.arguments(**inputs), max_new_tokens=64)
    texts = tokenizer.batch_decode(out[: len(prompts), inputs["input_ids"].shape[1] :], skip_special_tokens=True)

A batch holds every prompt once for each adapter; the processor mixes what the adapters say, draws the token itself, and
leaves that token alone to choose from, so that the rows of a prompt stay in step. There is no beam search with it, and
`num_return_sequences` is had by repeating prompts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.front.reading import inside
from pareto_align.policies.adapters import put_on
from pareto_align.policies.blending import mixed_logits

__all__ = ["MixtureProcessor", "load_mixture"]


class MixtureProcessor(LogitsProcessor):  # type: ignore[misc]
    """Mixes the next-token distributions of k adapters, and draws.

    Args:
        coefficients: k weights.
        adapters: Names of the adapters on the model, for `arguments`.
        temperature: At which each adapter's distribution is taken: that of training. 0 takes the likeliest token.
        top_k: How many of the likeliest tokens of the mixture may be drawn; None: all.
        top_p: The probability that the tokens which may be drawn have together, the likeliest first; None: all.
        seed: Of what is drawn.

    Attributes:
        disagreement: `[B]` S of each answer so far in nats, see `pareto_align.policies.blending`; tokens after an
            answer's end are in it.
    """

    def __init__(
        self,
        coefficients: Sequence[float],
        adapters: Sequence[str] = (),
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> None:
        if not coefficients or (adapters and len(adapters) != len(coefficients)):
            raise ConfigError(f"Found {len(coefficients)} coefficients for {len(adapters)} adapters.")
        self.coefficients = [float(c) for c in coefficients]
        self.adapters, self.temperature = list(adapters), float(temperature)
        self.warpers: list[Any] = [] if top_k is None else [TopKLogitsWarper(top_k)]
        self.warpers += [] if top_p is None else [TopPLogitsWarper(top_p)]
        self.generator = torch.Generator().manual_seed(seed)
        self.disagreement: Tensor | None = None

    def arguments(self, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any) -> dict[str, Any]:
        """What `generate` of a `PeftModel` takes: each prompt `[B, L]` once for every adapter, and this processor."""
        k = len(self.coefficients)
        self.disagreement = None
        told: dict[str, Any] = {"input_ids": input_ids.repeat(k, 1), **more}
        if attention_mask is not None:
            told["attention_mask"] = attention_mask.repeat(k, 1)
        names = [name for name in self.adapters for _ in range(len(input_ids))]
        return {**told, "adapter_names": names, "do_sample": False, "logits_processor": LogitsProcessorList([self])}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[k * B, V]` in which one token a prompt is left."""
        k = len(self.coefficients)
        mixed, log_z = mixed_logits(scores, self.coefficients, self.temperature or 1.0)
        self.disagreement = -log_z.cpu() if self.disagreement is None else self.disagreement - log_z.cpu()
        for warper in self.warpers:
            mixed = warper(input_ids, mixed)
        if self.temperature:
            token = torch.multinomial(mixed.softmax(-1).cpu(), 1, generator=self.generator).to(mixed.device)
        else:
            token = mixed.argmax(-1, keepdim=True)
        return torch.full_like(mixed, -torch.inf).scatter_(1, token, 0.0).repeat(k, 1).to(scores.dtype)


def load_mixture(folder: str | Path, model: Any, *, seed: int = 0) -> tuple[Any, MixtureProcessor]:
    """The adapters of a mixture that `Blend.save` wrote on a base model, and the processor that mixes them.

    Args:
        folder: Holds mixture.json and the experts' folders.
        model: The base model, of transformers.
        seed: Of what is drawn.

    Raises:
        FrontFileError: The folder holds no mixture, or an adapter that stock PEFT must not be handed.
        ModelError: An adapter does not fit the model.
    """
    path = Path(folder)
    try:
        told = json.loads((path / "mixture.json").read_text(encoding="utf-8"))
        names, weights = [str(name) for name in told["experts"]], [float(c) for c in told["coefficients"]]
        if not names or len(names) != len(weights):
            raise ValueError(f"{len(names)} experts, {len(weights)} coefficients")
        drawing = {name: told[name] for name in ("temperature", "top_k", "top_p") if told.get(name) is not None}
        processor = MixtureProcessor(weights, names, seed=seed, **drawing)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FrontFileError(f"{path} holds no mixture: {error}") from error
    for name in names:
        model = put_on(model, inside(path, name), name)
    return model, processor
