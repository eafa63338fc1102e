"""How much of a step is its matrix products: the same products alone, in the same shapes and type, over the step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from against_peft import Decoders
from subject import LEARNING_RATE, RANK, TARGETS, Subject, learner_for, made_up_rollouts
from timing import Reading, compare, once
from torch import Tensor, nn

HEAD_ROWS = 512  # positions whose logits are formed at once

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Kernel:
    """One way of multiplying by a frozen weight: `forward` by its transpose, `backward` by itself."""

    forward: Product
    backward: Product | None


def plain(weight: Tensor, training: bool) -> Kernel:
    """torch's own product."""
    return Kernel(lambda x: nn.functional.linear(x, weight), (lambda g: g @ weight) if training else None)


def onednn(weight: Tensor, rows: int, training: bool) -> Kernel:
    """oneDNN's product with the weight laid out for it beforehand; in float32 torch's own takes MKL instead.

    Raises:
        RuntimeError, AttributeError: This build of torch has no such operator.
    """
    operators = torch.ops.mkldnn

    def product(given: Tensor) -> Product:
        laid_out = operators._reorder_linear_weight(given, rows)
        return lambda x: operators._linear_pointwise(x, laid_out, None, "none", [], "")

    return Kernel(product(weight), product(weight.t().contiguous()) if training else None)


class Floor:
    """The matrix products of one pass over a model: every frozen linear layer, the head, and the adapters' own.

    Attention's products are left out, which makes the floor lower and the share of it smaller.

    Args:
        model: Its weights are used where they lie, all of them in turn, as in a step.
        rows: Rows of the frozen layers' input.
        policies: K, for the adapters' products.
        head_rows: Rows of the head's input.
        training: The backward pass too: gradients of the inputs, and of the adapters.
        repeats: A round's floor is the fastest of so many, in each way of multiplying.
    """

    def __init__(self, model: Any, rows: int, policies: int, head_rows: int, training: bool, repeats: int = 1) -> None:
        head = model.get_output_embeddings()
        dtype = head.weight.dtype
        self.training, self.policies, self.repeats = training, policies, repeats
        self.head_passes = [min(HEAD_ROWS, head_rows - done) for done in range(0, head_rows, HEAD_ROWS)]
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
        self.shapes = [(tuple(m.weight.shape), name.rsplit(".", 1)[-1] in TARGETS) for name, m in layers]
        widths = {size for (out, into), _ in self.shapes for size in (out, into)}
        self.inputs = {width: torch.randn(rows, width).to(dtype) for width in widths}
        self.head_input = torch.randn(HEAD_ROWS, head.weight.shape[1]).to(dtype)
        self.head_grad = torch.randn(HEAD_ROWS, head.weight.shape[0]).to(dtype) if training else None
        self.down = {width: torch.randn(policies, RANK, width).to(dtype) for width in widths}
        self.up = {width: torch.randn(policies, width, RANK).to(dtype) for width in widths}
        self.kernels: dict[str, tuple[list[Kernel], Kernel]] = {
            "torch": ([plain(m.weight, training) for _, m in layers], plain(head.weight, training))
        }
        try:
            packed = [onednn(m.weight, rows, training) for _, m in layers]
            last = onednn(head.weight, min(HEAD_ROWS, head_rows), training)
            packed[0].forward(self.inputs[self.shapes[0][0][1]])
        except (RuntimeError, AttributeError, NotImplementedError):
            return
        self.kernels["oneDNN"] = (packed, last)

    @torch.no_grad()
    def run(self, kernels: str) -> None:
        """All products once."""
        layers, head = self.kernels[kernels]
        for layer, ((out, into), adapted) in zip(layers, self.shapes, strict=True):
            layer.forward(self.inputs[into])
            if layer.backward is not None:
                layer.backward(self.inputs[out])
            if adapted:
                self._adapter(into, out)
        for rows in self.head_passes:
            head.forward(self.head_input[:rows])
            if head.backward is not None and self.head_grad is not None:
                head.backward(self.head_grad[:rows])

    def _adapter(self, into: int, out: int) -> None:
        x, g = (self.inputs[width].view(self.policies, -1, width) for width in (into, out))
        a, b = self.down[into], self.up[out]
        down = torch.bmm(x, a.transpose(1, 2))
        torch.bmm(down, b.transpose(1, 2))
        if self.training:
            grad_down = torch.bmm(g, b)
            torch.bmm(x, a.transpose(1, 2))  # the step forms it again rather than keep it
            torch.bmm(grad_down.transpose(1, 2), x)
            torch.bmm(g.transpose(1, 2), down)
            torch.bmm(grad_down, a)

    def measure(self) -> Reading:
        """Seconds of the fastest way."""
        seconds = []
        for name in self.kernels:
            for _ in range(self.repeats):
                start = time.perf_counter()
                self.run(name)
                seconds.append(time.perf_counter() - start)
        return {"seconds": min(seconds)}


def _compare(floor: Callable[[], Reading], step: Callable[[], Reading], rounds: int, unit: str) -> dict[str, Any]:
    readings: tuple[list[Reading], list[Reading]] = ([], [])
    for _ in range(rounds):
        for found, run in zip(readings, (floor, step), strict=True):
            found.append(run())
    return compare(("its matrix products alone", readings[0]), ("the step", readings[1]), unit)


def floor_decode(subject: Subject) -> dict[str, Any]:
    """Decoding steps at 64 rows: 8 policies of 8 rows."""
    figures: dict[str, Any] = {}
    policies = subject.pick(8, 3)
    for dtype in ("bfloat16", "float32"):
        decoders = Decoders(subject, policies, dtype, {})
        rows, steps = policies * decoders.rows, decoders.length - 1
        floor = Floor(subject.base(dtype).model, rows, policies, rows, training=False, repeats=3)

        def measure(floor: Floor = floor) -> Reading:
            return floor.measure()

        def step(decoders: Decoders = decoders, steps: int = steps) -> Reading:
            return {"seconds": decoders.ours()["decoding"] / steps}

        measure(), step()
        figures[dtype] = _compare(measure, step, max(subject.rounds, subject.pick(5, 1)), "s per decoding step")
        setting = decoders.setting | {"rows": rows}
        decoders.population.close()
    setting.pop("dtype")
    return {"setting": setting, "figures": figures}


def floor_training(subject: Subject) -> dict[str, Any]:
    """A packed training step: 4 policies, 4 prompts, 8 completions of 64 tokens."""
    figures: dict[str, Any] = {}
    policies, prompts, rows = 4, subject.pick(4, 2), subject.pick(8, 3)
    prompt_length, length = subject.pick(48, 6), subject.pick(64, 4)
    for dtype in ("bfloat16", "float32"):
        population = subject.population(subject.base(dtype, endless=True), policies)
        asked = subject.prompts(population.base, prompt_length, prompts)
        rollouts = made_up_rollouts(subject, population, asked, rows, length, 1)
        learner = learner_for(population, layout="packed")
        short = made_up_rollouts(subject, population, asked[:1], rows, 4, 1)
        learner.step(short, np.ones((policies, 1)), LEARNING_RATE)  # warms up: a whole step takes a minute
        # the products of one prompt's micro-batch; those of the other prompts are the same
        floor = Floor(
            subject.base(dtype).model,
            policies * (prompt_length + rows * length),
            policies,
            policies * rows * length,
            training=True,
        )

        def measure(floor: Floor = floor) -> Reading:
            return {"seconds": prompts * floor.measure()["seconds"]}

        def step(learner: Any = learner, rollouts: Any = rollouts) -> Reading:
            return once(lambda: learner.step(rollouts, np.ones((policies, 1)), LEARNING_RATE) and None)

        figures[dtype] = _compare(measure, step, subject.rounds, "s per step")
        population.close()
    return {
        "setting": {
            "K": policies, "prompts": prompts, "samples": rows, "prompt_tokens": prompt_length,
            "completion_tokens": length,
        },
        "figures": figures,
    }  # fmt: skip
