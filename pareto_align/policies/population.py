"""K LoRA policies on one frozen base model: their slots, and the way in and out as stock PEFT folders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pareto_align.errors import ConfigError, FrontFileError, ModelError, PromptError
from pareto_align.messages import Instruction
from pareto_align.policies.base import Base
from pareto_align.policies.layers.attention import PopulationAttention
from pareto_align.policies.layers.blocks import Block, ComputeBlocks
from pareto_align.policies.layers.head import Head
from pareto_align.policies.layers.linear import FrozenLinear, onednn_works, room_for_packed
from pareto_align.policies.layers.lora import PopulationLinear, ServedAdapters
from pareto_align.policies.layers.norms import FrozenNorm
from pareto_align.policies.layers.siblings import Siblings, find_siblings
from pareto_align.policies.lora_config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_lora,
    default_lora_config,
    member_config,
    read_lora_config,
)
from pareto_align.policies.targets import find_targets, target_names
from pareto_align.policies.tenancy import let_go, take
from pareto_align.policies.tensors import read_tensors, write_tensors

__all__ = ["PolicyPopulation"]


class PolicyPopulation:
    """K slots, each one LoRA policy, in one frozen model.

    A policy is one row of `parameters` `[K, P]` in float32: clone, archive and replace are row copies. To run, rows are
    copied into dense per-layer blocks in the model's dtype (`serving`); which rows is free, so that training the whole
    population, evaluating a few archived members and running the bare reference model use the same layers.

    The model's target layers are replaced while the population lives; `close` puts the originals back. A model object
    holds one population at a time.

    Args:
        base: The frozen model.
        size: K, the number of slots.
        notes: Numbers at the end of a policy's row that no layer reads: the preference that it is told in its prompts,
            or the head of what it reads.
        lora: A `peft.LoraConfig`; rank, alpha, rsLoRA, targets, exclusions and layer numbers are honoured, and what
            else it holds has to be at its default. Default: `default_lora_config()`. With `alora_invocation_tokens` the
            adapters are activated ones: they act from the last place in the prompt where these tokens stand, and what
            stands before is read by the frozen base, once for all policies.
        seed: Seeds the initial A of every slot by slot number, so that a slot starts the same in any population.
        onednn: Keep second copies of the linear weights in oneDNN's layout, which a CPU multiplies faster; by default
            where that works and takes no more than a quarter of the memory. `PARETO_ALIGN_ONEDNN=0` turns it off.
        siblings: Multiply layers that read the same input at once; by default on an accelerator, where it is the number
            of kernels that takes the time.

    Attributes:
        base: The frozen model.
        targets: How a member's config names the adapted layers.
        parameters: `[K, P]` the policies, float32.
        grad: `[K, P]` gradients of the loss, added to by backward passes within `serving(training=True)`.
        attention: What the model's rows attend to.
        compute: The copies of the policies being served that the layers compute with.
        drivable: Whether the population's own sampler gives the model's logits; None until the first sampling.
        sampler: How completions are decoded: "eager", "graphs" (in fixed shapes, captured as CUDA graphs where there
            are any), or "auto": graphs on CUDA.
        deterministic: Whether what is sampled is the same bits again on CUDA too; slower.
        static: What decodes in fixed shapes; None before the first time.
        outside: What draws the completions that are trained on in the population's place (`samplers.Sampler`), until it
            is closed; None where the population does.
        tell: From the notes of a policy to what stands before every prompt of it; None where nothing does.
        read: The contexts of activated adapters that were read last, and their keys and values.

    Raises:
        ConfigError: `size` is below 1, or the LoRA config asks for something a population does not do.
        ModelError: No `nn.Linear` of the model matches the targets, or another population lives on the model.
    """

    def __init__(
        self,
        base: Base,
        size: int,
        *,
        lora: Any = None,
        notes: int = 0,
        seed: int = 0,
        onednn: bool | None = None,
        siblings: bool | None = None,
    ) -> None:
        if size < 1:
            raise ConfigError(f"`population` must be at least 1. Found population={size}.")
        self.base = base
        self.lora = default_lora_config() if lora is None else lora
        check_lora(self.lora)
        self.size = size
        self.notes = notes
        self.tell: Callable[[Tensor], Instruction | None] | None = None
        self.served = ServedAdapters()
        self._replaced: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        self._requires_grad: list[tuple[nn.Parameter, bool]] = []
        self.drivable: bool | None = None
        self.read: tuple[Any, Any] | None = None
        self.sampler = "auto"
        self.static: Any = None
        self.outside: Any = None
        self.deterministic = False
        self.blocks: list[Block] = []
        self._siblings: list[Siblings] = []
        self._rows: Tensor | None = None
        take(base.model, self)
        try:
            self._move_in(seed, onednn, siblings)
        except BaseException:
            self.close()
            raise

    def _move_in(self, seed: int, onednn: bool | None, siblings: bool | None) -> None:
        """Put the slots into the model."""
        base, size = self.base, self.size
        shapes_only = base.shapes_only
        self._requires_grad = [(p, p.requires_grad) for p in base.model.parameters()]
        targets = find_targets(base.model, self.lora)
        self.targets = target_names([name for name, _ in targets], base.model)
        base.model.requires_grad_(False)
        self.attention = PopulationAttention(base.model)
        if onednn is None:
            onednn = base.device.type == "cpu" and onednn_works(base.dtype) and room_for_packed(base.model)
        # a layer whose weight is gathered for each pass lends it to nobody
        gathers = base.sharding is not None and base.sharding.gathers
        onednn = onednn and not shapes_only and not gathers
        offset, r = 0, int(self.lora.r)
        scaling = self.lora.lora_alpha / (math.sqrt(r) if self.lora.use_rslora else r)
        for name, linear in targets:
            layer = PopulationLinear(linear, self.served, scaling, packed=onednn)
            self._replace(name, layer)
            self.blocks.append(Block(name, layer, offset, r))
            offset = self.blocks[-1].stop
        wrapped = {id(block.layer.linear) for block in self.blocks}
        for name, module in list(base.model.named_modules()):
            if type(module) is nn.Linear and id(module) not in wrapped:
                self._replace(name, FrozenLinear(module, packed=onednn))
            elif not shapes_only and (norm := FrozenNorm.of(module)) is not None:
                self._replace(name, norm)
        self.parameters = torch.zeros(size, offset + self.notes, device=base.device)
        self.grad = torch.zeros_like(self.parameters)
        for slot in range(size):
            self.parameters[slot] = self.fresh(seed + slot)
        self._gradients = self.grad
        if not gathers and (base.device.type != "cpu" if siblings is None else siblings):
            self._group(scaling)
        self.compute = ComputeBlocks(self.blocks, base.dtype)
        self._head: Head | ModelError
        try:
            if shapes_only:
                raise ModelError("The model has shapes and no weights here: it is run elsewhere.")
            self._head = Head(base, self.served)
        except ModelError as error:
            self._head = error  # sampling can do without

    def _group(self, scaling: float) -> None:
        """Let layers that read the same input be multiplied at once."""
        ours = [layer for *_, layer in self._replaced if isinstance(layer, FrozenLinear | PopulationLinear)]
        plain = [layer for layer in ours if layer.product is not None and layer.product.packed is None]
        for layers in find_siblings(self.base.model.get_decoder(), plain, self.base.device):
            self._siblings.append(Siblings(layers, self.served, scaling))

    @property
    def head(self) -> Head:
        """The model's head.

        Raises:
            ModelError: The model computes its logits in a way that `Head` does not reproduce.
        """
        if isinstance(self._head, ModelError):
            raise self._head
        return self._head

    @property
    def activated(self) -> bool:
        """Whether the adapters act only from their invocation tokens on."""
        return bool(self.lora.alora_invocation_tokens)

    def split(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """A prompt as the part that the frozen base reads and the part that the adapters read.

        Activated adapters act from the last place where their invocation tokens stand, others from the beginning.

        Raises:
            PromptError: The adapters are activated ones and the invocation tokens do not stand in the prompt.
        """
        if not self.activated:
            return [], list(ids)
        wanted = list(self.lora.alora_invocation_tokens)
        for start in range(len(ids) - len(wanted), -1, -1):
            if list(ids[start : start + len(wanted)]) == wanted:
                return list(ids[:start]), list(ids[start:])
        text = self.base.tokenizer.decode(wanted)
        raise PromptError(
            f"Activated adapters act from {text!r} on, which does not stand in a prompt of {len(ids)} tokens that ends "
            f"in {self.base.tokenizer.decode(list(ids)[-12:])!r}."
        )

    @property
    def parameter_count(self) -> int:
        """P, numbers a policy: its trainable parameters, and its notes."""
        return self.parameters.shape[1]

    def fresh(self, seed: int) -> Tensor:
        """A new policy `[P]`: A as in PEFT (Kaiming uniform), B zero, hence exactly the reference policy."""
        generator = torch.Generator().manual_seed(seed)
        row = torch.zeros(1, self.parameters.shape[1])
        for block in self.blocks:
            a, _ = block.split(row)
            bound = 1 / math.sqrt(a.shape[-1])  # kaiming_uniform_ with a = sqrt(5)
            a.copy_((torch.rand(a.shape, generator=generator) * 2 - 1) * bound)
        return row[0].to(self.parameters.device)

    def grown(self, policy: Tensor, seed: int) -> Tensor:
        """A policy `[P]` whose idle ranks, A and B both zero, can learn: they get the A of a fresh one.

        It is the same policy still: their B is zero.
        """
        policy, fresh = policy.clone(), self.fresh(seed).to(policy)
        for block in self.blocks:
            a, b = block.split(policy)
            idle = (a == 0).all(-1) & (b == 0).all(-2)
            a[idle] = block.split(fresh)[0][idle]
        return policy

    def instructions(self, rows: Tensor) -> list[Instruction]:
        """What stands before every prompt of policies `[k, P]`, each; none where nothing does."""
        if self.tell is None:
            return []
        told = [self.tell(notes) for notes in rows[:, rows.shape[1] - self.notes :].cpu()]
        return [instruction for instruction in told if instruction is not None]

    def snapshot(self, slot: int) -> Tensor:
        """A copy `[P]` of one policy on the CPU, float32."""
        return self.parameters[slot].detach().to("cpu", copy=True)

    @torch.no_grad()
    def load(self, slot: int, row: Tensor) -> None:
        """Put a policy `[P]` into a slot."""
        self.parameters[slot].copy_(row)

    @contextmanager
    def holding(self, parameters: Tensor, grad: Tensor) -> Iterator[None]:
        """Within this context other policies are in the slots, and as many as there are of them.

        Args:
            parameters: `[k, P]` the policies.
            grad: `[k, P]` where their gradients are added up.
        """
        before = self.size, self.parameters, self.grad, self._gradients
        self.size, self.parameters, self.grad, self._gradients = len(parameters), parameters, grad, grad
        try:
            yield
        finally:
            self.size, self.parameters, self.grad, self._gradients = before

    @contextmanager
    def serving(
        self, rows: Tensor | None = None, *, training: bool = False, gradients: Tensor | None = None
    ) -> Iterator[None]:
        """Within this context the model runs the policies `rows` `[k, P]`, batch rows grouped by policy.

        Args:
            rows: Any policies; by default all slots of the population.
            training: Let backward passes add to the gradients; only for the whole population. Where ranks share the
                model, the gradients are summed over them in the end, so they begin with zeros.
            gradients: Where they are added: `[K, P]`, by default `grad`, or `[K, S, P]` for S weighted sums of tokens
                (`ServedAdapters.streams`).
        """
        rows = self.parameters if rows is None else rows
        if training and rows is not self.parameters:
            raise ValueError("Only the population's own slots can be trained.")
        before = self._served_now()
        gradients = self.grad if gradients is None else gradients
        self._serve(rows, training, gradients)
        try:
            yield
            if training and self.base.sharding is not None:
                self.base.sharding.total(gradients)
        finally:
            self._serve(*before)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within this context the model is the frozen base alone, for any number of rows."""
        before = self._served_now()
        self._serve(None, False, self._gradients)
        try:
            yield
        finally:
            self._serve(*before)

    @contextmanager
    def narrowed(self, policies: slice) -> Iterator[None]:
        """Within this context only some of the policies being served are run; nothing is copied."""
        every = [
            (block.layer, block.layer.a, block.layer.b, block.layer.grad_a, block.layer.grad_b) for block in self.blocks
        ]
        together = [(siblings, siblings.a, siblings.b) for siblings in self._siblings]
        count = self.served.count
        if policies.indices(count) == (0, count, 1):
            yield
            return
        try:
            for layer, a, b, grad_a, grad_b in every:
                assert a is not None
                assert b is not None
                layer.a, layer.b = (x.detach()[policies].requires_grad_() for x in (a, b))
                layer.grad_a, layer.grad_b = (None if x is None else x[policies] for x in (grad_a, grad_b))
            for siblings, a, b in together:
                siblings.a, siblings.b = (None if x is None else x[policies] for x in (a, b))
            self.served.count = len(range(count)[policies])
            yield
        finally:
            for layer, *tensors in every:
                layer.a, layer.b, layer.grad_a, layer.grad_b = tensors
            for siblings, a, b in together:
                siblings.a, siblings.b = a, b
            self.served.count = count

    def _served_now(self) -> tuple[Tensor | None, bool, Tensor, int]:
        return self._rows, self.served.training, self._gradients, self.compute.fills

    def _serve(self, rows: Tensor | None, training: bool, gradients: Tensor, filled: int | None = None) -> None:
        """Serve rows `[k, P]`; `filled` is the fill that put them into the layers, which may still be the last one."""
        if rows is not None:
            if filled != self.compute.fills:  # written over only where it must be: a backward pass may need them yet
                self.compute.fill(rows)
            for block in self.blocks:
                grads = block.own(gradients) if rows is self.parameters else (None, None)
                block.layer.grad_a, block.layer.grad_b = grads
        self._rows, self._gradients = rows, gradients
        self.served.count, self.served.training = 0 if rows is None else rows.shape[0], training
        self.served.gradient_scale = 1.0

    def adapter_tensors(self, row: Tensor, *, own: bool = False) -> dict[str, Tensor]:
        """One policy `[P]` under PEFT's key names, float32 and contiguous.

        Args:
            row: The policy.
            own: Of layers that ranks share, only what belongs to the parts that are here.
        """
        tensors: dict[str, Tensor] = {}
        for block in self.blocks:
            a, b = (block.own if own else block.split)(row.detach().to("cpu", torch.float32).unsqueeze(0))
            tensors[f"base_model.model.{block.name}.lora_A.weight"] = a[0].contiguous().clone()
            tensors[f"base_model.model.{block.name}.lora_B.weight"] = b[0].contiguous().clone()
        return tensors

    def save_adapter(self, row: Tensor, folder: Path, *, dtype: torch.dtype = torch.float32, own: bool = False) -> None:
        """Write one policy `[P]`, in a dtype, as a stock PEFT LoRA folder that loads without this package.

        Args:
            row: The policy.
            folder: Where to.
            dtype: Of its tensors.
            own: See `adapter_tensors`.
        """
        base = getattr(self.base.model.config, "_name_or_path", None) or self.base.name
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(
            {name: x.to(dtype) for name, x in self.adapter_tensors(row, own=own).items()}, folder / WEIGHTS_FILE
        )
        (folder / CONFIG_FILE).write_text(member_config(self.lora, self.targets, base), encoding="utf-8")

    def read_adapter(self, folder: Path) -> Tensor:
        """Read a stock PEFT LoRA folder of this base as one policy `[P]`.

        A smaller rank, of the whole adapter or of single layers, is padded with zeros, which trains and serves as the
        original does: where A and B are both zero, so are their gradients.

        Raises:
            FrontFileError: The folder is no LoRA adapter of this model's layers, or its rank is larger than ours.
        """
        from peft.utils.other import get_pattern_key

        try:
            config = read_lora_config(folder)
            tensors = read_tensors(folder / WEIGHTS_FILE)
        except (OSError, ValueError) as error:
            raise FrontFileError(f"Cannot read the adapter in {folder}: {error}") from error
        if (config.alora_invocation_tokens or None) != (self.lora.alora_invocation_tokens or None):
            raise FrontFileError(
                f"The adapter in {folder} acts from the tokens {config.alora_invocation_tokens or 'of the beginning'} "
                f"on; this population's from {self.lora.alora_invocation_tokens or 'the beginning'}."
            )
        row = torch.zeros(1, self.parameters.shape[1])
        for block in self.blocks:
            r, alpha = (
                pattern.get(get_pattern_key(list(pattern), block.name), everywhere)
                for pattern, everywhere in (
                    (config.rank_pattern or {}, config.r),
                    (config.alpha_pattern or {}, config.lora_alpha),
                )
            )
            if r > self.lora.r:
                raise FrontFileError(
                    f"The adapter in {folder} has rank {r}; this population has rank {self.lora.r}, and a rank can "
                    f"only be raised. Take LoraConfig(r={r}) or more."
                )
            scale = (alpha / (math.sqrt(r) if config.use_rslora else r)) / self.scaling
            a, b = block.split(row)
            for part, letter, factor in ((a, "A", 1.0), (b, "B", scale)):
                key = f"base_model.model.{block.name}.lora_{letter}.weight"
                if key not in tensors:
                    raise FrontFileError(f"The adapter in {folder} has no tensor {key}: it adapts other layers.")
                given = tensors.pop(key).float()
                # only the rank may be smaller: padding a narrower layer would take another model's adapter for ours
                room = part[0, :r] if letter == "A" else part[0, :, :r]
                if room.shape != given.shape:
                    raise FrontFileError(
                        f"The adapter in {folder} has {key} of shape {list(given.shape)} where {list(room.shape)} is "
                        "needed: it belongs to another base model."
                    )
                room.copy_(given if factor == 1.0 else given * factor)
        if tensors:
            raise FrontFileError(f"The adapter in {folder} also adapts {next(iter(tensors))}, which is no target here.")
        return row[0].to(self.parameters.device)

    @property
    def scaling(self) -> float:
        """The LoRA factor of all slots."""
        return self.blocks[0].layer.scaling

    @contextmanager
    def moved_out(self) -> Iterator[None]:
        """Within this context the model is the one that was given, layers, attention and all."""
        for parent, child, original, _ in reversed(self._replaced):
            setattr(parent, child, original)
        ours_attends = self.attention.in_place
        self.attention.restore()
        try:
            yield
        finally:
            if ours_attends:
                self.attention.put_in()
            for parent, child, _, ours in self._replaced:
                setattr(parent, child, ours)

    def close(self) -> None:
        """Put the model's own layers, attention and `requires_grad` flags back; another population may move in."""
        for siblings in self._siblings:
            siblings.part_company()
        self._siblings.clear()
        for parent, child, original, _ in reversed(self._replaced):
            setattr(parent, child, original)
        self._replaced.clear()
        if hasattr(self, "attention"):
            self.attention.restore()
        for parameter, flag in self._requires_grad:
            parameter.requires_grad_(flag)
        self._requires_grad.clear()
        let_go(self.base.model, self)

    def _replace(self, name: str, module: nn.Module) -> None:
        parent_name, _, child = name.rpartition(".")
        parent = self.base.model.get_submodule(parent_name)
        self._replaced.append((parent, child, getattr(parent, child), module))
        setattr(parent, child, module)
