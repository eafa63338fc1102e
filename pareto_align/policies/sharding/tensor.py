"""Tensor parallelism: every rank has some of the heads of each attention, and some of the columns of each MLP.

Within an attention or an MLP the first layers are cut by outputs and the last one by inputs, so that each rank computes
its share from the same input, and the sum of all shares is the output. On the way forward that sum is all that is sent;
on the way back it is the sum of the inputs' gradients. Which layers are cut how is transformers' own plan.

LoRA needs nothing more. A layer that is cut by outputs has A whole and its own rows of B; one that is cut by inputs has
its own columns of A, and B is applied to its share of `A x`, whose sum is taken with the base's. Every rank finds the
gradients of its own parts, and a share of the gradients of the others: their sum over the ranks is the gradient.

Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism", arXiv
1909.08053.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pareto_align.errors import ModelError
from pareto_align.policies.layers.cuts import Cut, mark
from pareto_align.policies.sharding.protocol import Sharding

__all__ = ["TensorParallel"]

BY_OUTPUTS, BY_INPUTS = "colwise", "rowwise"
"""What transformers' plans call the two cuts."""
PROBE = 4  # tokens that the whole model and the ranks are compared on


class TensorParallel(Sharding):
    """Cuts the layers of attentions and MLPs; all ranks do the same with the same policies, in step."""

    name = "tensor"

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.summands = self.size

    @classmethod
    def check(cls, model: Any, ranks: int) -> None:
        """See `Sharding.check`."""
        config, told = model.config.get_text_config(), type(model).__name__
        heads = [config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads]
        if any(number % ranks for number in heads):
            raise ModelError(
                f"{ranks} ranks cannot share the attention of this {told}: it has {heads[0]} heads and {heads[1]} of "
                "keys and values, of which each rank takes as many. Choose a number of ranks that divides both."
            )
        for name, linear, way in _cut_layers(model):
            size = linear.out_features if way == BY_OUTPUTS else linear.in_features
            if size % ranks:
                raise ModelError(
                    f"{ranks} ranks cannot share {name!r} of this {told}, which is {size} wide. Choose a number of "
                    "ranks that divides it."
                )

    def take(self, model: Any) -> None:
        """See `Sharding.take`."""
        self._whole = _probed(model) if self.rank == 0 else None
        for _, linear, way in _cut_layers(model):
            cut = self._cut(linear, way)
            own = linear.weight.detach()[cut.own_outputs, cut.own_inputs]
            # a copy: a view would hold on to the whole
            own = own.clone(memory_format=torch.contiguous_format)
            linear.weight = nn.Parameter(own.to(self.device), requires_grad=False)
            linear.out_features, linear.in_features = own.shape
            if linear.bias is not None:
                added = way == BY_OUTPUTS or self.rank == 0  # once to the sum
                bias = linear.bias.detach()[cut.own_outputs].clone().to(self.device)
                linear.register_parameter("bias", nn.Parameter(bias, requires_grad=False) if added else None)
            mark(linear, cut)
        model.to(self.device)

    def join(self, model: Any) -> None:
        """See `Sharding.join`."""
        for name in sorted({name.rpartition(".")[0] for name, *_ in _cut_layers(model)}):
            block = model.get_decoder().get_submodule(name)
            block.register_forward_pre_hook(_enter, with_kwargs=True)
            block.register_forward_hook(_leave)
        told = f"Cut as transformers plans it, this {type(model).__name__}"
        way_out = "Use base_sharding='fsdp', which cuts no layer."
        try:
            found = _probed(model)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise ModelError(f"{told} does not run: {type(error).__name__}: {error}. {way_out}") from error
        gap = torch.zeros(1)
        if self._whole is not None:
            gap += float((found.cpu() - self._whole).norm() / self._whole.norm())
            self._whole = None
        dist.broadcast(gap, 0)
        if not float(gap) <= (1e-3 if found.dtype in (torch.float32, torch.float64) else 0.2):
            raise ModelError(f"{told} computes something else: its states differ by {float(gap):.2g}. {way_out}")

    def total(self, gradients: Tensor) -> None:
        """See `Sharding.total`."""
        dist.all_reduce(gradients)

    def agree(self, tokens: Tensor) -> None:
        """See `Sharding.agree`."""
        dist.broadcast(tokens, 0)

    def attend(self) -> None:
        """See `Sharding.attend`. All ranks have the same to do."""

    def _cut(self, linear: nn.Linear, way: str) -> Cut:
        outputs, inputs = linear.weight.shape
        size = (outputs if way == BY_OUTPUTS else inputs) // self.size
        own = slice(self.rank * size, (self.rank + 1) * size)
        every = slice(None)
        return Cut(inputs, outputs, *((every, own) if way == BY_OUTPUTS else (own, every)))


def _cut_layers(model: Any) -> Iterator[tuple[str, nn.Linear, str]]:
    """The linear layers of a model's decoder, by name, and how each is cut.

    Raises:
        ModelError: transformers has no plan for one of them, or another than the two cuts.
    """
    plan = getattr(model.config.get_text_config(), "base_model_tp_plan", None) or {}
    for name, module in list(model.get_decoder().named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        way = plan.get(re.sub(r"\.\d+(?=\.)", ".*", name))
        if way not in (BY_OUTPUTS, BY_INPUTS):
            planned = "no plan" if way is None else f"the plan {way!r}"
            raise ModelError(
                f"This {type(model).__name__} cannot be run tensor-parallel here: transformers has {planned} for its "
                f"layer {name!r}. Use base_sharding='fsdp', which cuts no layer, or quantization='4bit' on one device."
            )
        yield name, module, way


@torch.no_grad()
def _probed(model: Any) -> Tensor:
    """Last hidden states of a few tokens."""
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(1, 1 + PROBE, device=device)[None]
    found: Tensor = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    return found


class _Shared(torch.autograd.Function):
    """What all ranks read alike: the gradient is the sum of what each finds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


class _Summed(torch.autograd.Function):
    """The sum of what each rank has found; the gradient is that of each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


def _enter(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before an attention or an MLP."""
    states = args[0] if args else kwargs["hidden_states"]
    if not (states.requires_grad and torch.is_grad_enabled()):
        return args, kwargs
    shared = _Shared.apply(states)  # type: ignore[no-untyped-call]
    return ((shared, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": shared})


def _leave(block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """After it."""
    if isinstance(output, tuple):
        return (_summed(output[0]), *output[1:])
    return _summed(output)


def _summed(x: Tensor) -> Tensor:
    if x.requires_grad and torch.is_grad_enabled():
        y: Tensor = _Summed.apply(x)  # type: ignore[no-untyped-call]
        return y
    x = x.contiguous()
    dist.all_reduce(x)
    return x
