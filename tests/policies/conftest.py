"""Where the engine is tried: on the CPU, on a pretended accelerator, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from pretended_device import pretended
from tiny_models import SYMBOLS, symbol_tokenizer, tiny_model

from pareto_align.policies import Base, load_base

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@dataclass(frozen=True)
class Place:
    """A device and a type.

    Attributes:
        logits, gradients: Relative error against stock PEFT on the CPU in float32 that is rounding.
    """

    device: str
    dtype: torch.dtype
    logits: float
    gradients: float

    @property
    def exact(self) -> bool:
        return self.dtype == torch.float32

    def base(self, family: str = "llama", **overrides: object) -> Base:
        model = tiny_model(family, **overrides)
        return load_base(model, tokenizer=symbol_tokenizer(SYMBOLS, 4), device=self.device, dtype=self.dtype)


PLACES = {
    "cpu-float32": Place("cpu", torch.float32, 1e-5, 1e-4),
    "cpu-bfloat16": Place("cpu", torch.bfloat16, 8e-2, 2e-1),
    "cpu-float16": Place("cpu", torch.float16, 1e-2, 3e-2),
    "pretended-float32": Place("meta", torch.float32, 1e-5, 1e-4),
    "pretended-float16": Place("meta", torch.float16, 1e-2, 3e-2),
    "cuda-float32": Place("cuda", torch.float32, 1e-5, 1e-4),
    "cuda-bfloat16": Place("cuda", torch.bfloat16, 8e-2, 2e-1),
    "cuda-float16": Place("cuda", torch.float16, 1e-2, 3e-2),
}


@pytest.fixture(params=[pytest.param(name, marks=CUDA if name.startswith("cuda") else ()) for name in PLACES])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    found = PLACES[request.param]
    with pretended() if found.device == "meta" else nullcontext():
        yield found
