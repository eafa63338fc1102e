"""Fully sharded: every rank has a piece of each layer, and all of a layer while one of them runs it.

Each rank works on policies of its own, with the arithmetic of a model that is whole, so its bytes are those of one
process. What is sent is weights: before a layer runs, on the way forward and on the way back, all ranks put its pieces
together. So they pass through the layers side by side, though one may sample while another trains, or has nothing to
do: before each way through the layers they agree on which it is, back before forth, and who does not go along
hands over its pieces all the same.

Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", arXiv 2304.11277.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pareto_align.errors import ModelError
from pareto_align.policies.sharding.protocol import Sharding

__all__ = ["FullySharded"]

NOWHERE, FORTH, BACK = range(3)
"""Ways through the layers. Where ranks want several, the last of them comes first."""


class FullySharded(Sharding):
    """Spreads each layer of the decoder over the ranks by torch's `fully_shard`; vectors stay whole."""

    name = "fsdp"
    gathers: ClassVar[bool] = True

    def __init__(self, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        super().__init__(device)
        self._mesh = init_device_mesh(device.type, (self.size,))
        self._layers: list[Any] = []

    @classmethod
    def check(cls, model: Any, ranks: int) -> None:
        """See `Sharding.check`."""
        if not _layers(model):
            raise ModelError(
                f"This {type(model).__name__} has no layers that can be spread over ranks: it does not say which of "
                "its modules they are, as models of transformers do that can be checkpointed."
            )

    def take(self, model: Any) -> None:
        """See `Sharding.take`."""
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor

        model.requires_grad_(False)
        for layer in _layers(model):  # one after another, so that one whole layer at a time is on the device
            vectors = {parameter for parameter in layer.parameters() if parameter.dim() < 2}
            fully_shard(layer, mesh=self._mesh, reshard_after_forward=True, ignored_params=vectors)
        for tensor in [*model.parameters(), *model.buffers()]:
            if not isinstance(tensor, DTensor):
                tensor.data = tensor.data.to(self.device)

    def join(self, model: Any) -> None:
        """See `Sharding.join`."""
        called: list[Any] = []
        layers = _layers(model)
        hooks = [layer.register_forward_pre_hook(lambda layer, given: called.append(layer)) for layer in layers]
        decoder, embedding = model.get_decoder(), model.get_input_embeddings()
        try:
            with torch.no_grad():
                decoder(input_ids=torch.ones(1, 2, dtype=torch.long, device=self.device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        if sorted(map(id, called)) != sorted(map(id, layers)):
            raise ModelError(
                f"This {type(model).__name__} does not run each of its layers once, so ranks cannot go through them "
                "side by side. Use base_sharding='tensor'."
            )
        self._layers = called
        decoder.register_forward_pre_hook(lambda decoder, given: self._go(FORTH))
        decoder.register_forward_hook(self._arrived)
        embedding.register_forward_hook(_followed_down)

    @contextmanager
    def unnoticed(self, model: Any) -> Iterator[None]:
        """See `Sharding.unnoticed`. PEFT before 0.21 makes adapters for the piece of a layer that is here, so layers of
        the whole shape that have no memory stand there meanwhile."""
        stand_ins = {linear: _without_memory(linear, self.device) for linear in model.modules() if _in_pieces(linear)}
        _exchange(model, stand_ins)
        try:
            with super().unnoticed(model):
                yield
        finally:
            _exchange(model, {stand_in: linear for linear, stand_in in stand_ins.items()})

    def total(self, gradients: Tensor) -> None:
        """See `Sharding.total`. Each rank has policies of its own, and finds all of their gradients."""

    def agree(self, tokens: Tensor) -> None:
        """See `Sharding.agree`. Each rank draws for policies of its own."""

    def attend(self) -> None:
        """See `Sharding.attend`."""
        while (way := self._agreed(NOWHERE)) != NOWHERE:
            self._accompany(way)

    def _arrived(self, decoder: nn.Module, given: Any, output: Any) -> None:
        states = output.last_hidden_state
        if states.requires_grad:
            states.register_hook(lambda grad: self._go(BACK))

    def _go(self, way: int) -> None:
        """Wait until all ranks go a way through the layers that this one is about to go."""
        while (agreed := self._agreed(way)) != way:
            self._accompany(agreed)

    def _agreed(self, wanted: int) -> int:
        way = torch.tensor(wanted)
        dist.all_reduce(way, dist.ReduceOp.MAX)
        return int(way)

    def _accompany(self, way: int) -> None:
        for layer in self._layers if way == FORTH else reversed(self._layers):
            layer.unshard()
            layer.reshard()


def _layers(model: Any) -> list[Any]:
    """The layers of a model's decoder."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.get_decoder().modules() if isinstance(module, GradientCheckpointingLayer)]


def _in_pieces(module: nn.Module) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(module, nn.Linear) and isinstance(module.weight, DTensor)


def _without_memory(linear: nn.Linear, device: torch.device) -> nn.Linear:
    weight = torch.zeros((), dtype=linear.weight.dtype, device=device).expand(linear.weight.shape)
    found = nn.Linear(1, 1, bias=False, device="meta")
    found.in_features, found.out_features = linear.in_features, linear.out_features
    found.weight = nn.Parameter(weight, requires_grad=False)
    return found


def _exchange(model: nn.Module, others: Mapping[nn.Module, nn.Module]) -> None:
    """Put other modules in the places of some, wherever those are by now."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child in others:
                setattr(module, name, others[child])


def _followed_down(embedding: nn.Module, given: Any, states: Tensor) -> Tensor:
    """Let the way back pass through all layers, also those below the first adapter: it is the same for all ranks."""
    return states.requires_grad_() if torch.is_grad_enabled() and not states.requires_grad else states
