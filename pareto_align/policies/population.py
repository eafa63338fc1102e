"""K LoRA policies on one frozen base model: their slots, and the way in and out as stock PEFT folders."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pareto_align.errors import ConfigError, FrontFileError, ModelError, PromptError
from pareto_align.policies.attention import PopulationAttention
from pareto_align.policies.base import Base
from pareto_align.policies.head import Head
from pareto_align.policies.linear import FrozenLinear, onednn_works, room_for_packed
from pareto_align.policies.lora import PopulationLinear, ServedAdapters
from pareto_align.policies.norms import FrozenNorm

__all__ = ["PolicyPopulation", "activated_lora_config", "default_lora_config"]

ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query_key_value", "dense", "out_proj")
WEIGHTS_FILE = "adapter_model.safetensors"


def default_lora_config(r: int = 8, alpha: int = 16) -> Any:
    """LoRA of rank 8 on the attention projections, the setting our measurements used."""
    from peft import LoraConfig

    return LoraConfig(
        r=r, lora_alpha=alpha, target_modules=list(ATTENTION_PROJECTIONS), lora_dropout=0.0, task_type="CAUSAL_LM"
    )


def activated_lora_config(base: Base, lora: Any = None) -> Any:
    """A LoRA config whose adapters act only from the assistant's turn on.

    What stands before is then read by the frozen base, once for all policies, and takes no part in the backward pass.
    Greenewald et al., "Activated LoRA: Fine-tuned LLMs for Intrinsics", arXiv 2504.12397.

    Args:
        base: The model, whose chat template says how an assistant's turn begins.
        lora: What else the config says; `default_lora_config()` by default. Invocation tokens of its own are kept.

    Raises:
        ConfigError: There is no chat template, or it marks no beginning of the assistant's turn.
    """
    import copy

    config = default_lora_config() if lora is None else copy.copy(lora)
    if config.alora_invocation_tokens:
        return config
    hint = "Give the tokens yourself: LoraConfig(alora_invocation_tokens=[...])."
    if base.tokenizer.chat_template is None:
        raise ConfigError(f"Activated adapters begin with the assistant's turn, and there is no chat template. {hint}")
    turn, opened = (
        base.tokenizer.apply_chat_template(
            [{"role": "user", "content": "a"}], add_generation_prompt=opens, tokenize=True, return_dict=False
        )
        for opens in (False, True)
    )
    if len(opened) <= len(turn) or list(opened[: len(turn)]) != list(turn):
        raise ConfigError(f"The chat template marks no beginning of the assistant's turn. {hint}")
    config.alora_invocation_tokens = list(opened[len(turn) :])
    return config


@dataclass(frozen=True)
class _Block:
    """Where one layer's A and B lie in a policy's row of M parameters."""

    name: str
    layer: PopulationLinear
    start: int
    r: int

    @property
    def middle(self) -> int:
        return self.start + self.r * self.layer.linear.in_features

    @property
    def stop(self) -> int:
        return self.middle + self.r * self.layer.linear.out_features

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Views `[..., r, in]` and `[..., out, r]` of rows `[..., M]`."""
        linear = self.layer.linear
        return (
            rows[..., self.start : self.middle].unflatten(-1, (self.r, linear.in_features)),
            rows[..., self.middle : self.stop].unflatten(-1, (linear.out_features, self.r)),
        )


class PolicyPopulation:
    """K slots, each one LoRA policy, in one frozen model.

    A policy is one row of `parameters` `[K, M]` in float32: clone, archive and replace are row copies. To run, rows are
    copied into dense per-layer blocks in the model's dtype (`serving`); which rows is free, so that training the whole
    population, evaluating a few archived members and running the bare reference model use the same layers.

    The model's target layers are replaced while the population lives; `close` puts the originals back.

    Args:
        base: The frozen model.
        size: K, the number of slots.
        lora: A `peft.LoraConfig`; rank, alpha, rsLoRA and targets are honoured. Default: `default_lora_config()`. With
            `alora_invocation_tokens` the adapters are activated ones: they act from the last place in the prompt where
            these tokens stand, and what stands before is read by the frozen base, once for all policies.
        seed: Seeds the initial A of every slot by slot number, so that a slot starts the same in any population.
        onednn: Keep second copies of the linear weights in oneDNN's layout, which a CPU multiplies faster; by default
            where that works and takes no more than a quarter of the memory. `PARETO_ALIGN_ONEDNN=0` turns it off.

    Attributes:
        base: The frozen model.
        parameters: `[K, M]` the policies, float32.
        grad: `[K, M]` gradients of the loss, added to by backward passes within `serving(training=True)`.
        attention: What the model's rows attend to.
        drivable: Whether the population's own sampler gives the model's logits; None until the first sampling.
        read: The contexts of activated adapters that were read last, and their keys and values.

    Raises:
        ConfigError: `size` is below 1, or the LoRA config asks for something a population cannot do (DoRA, dropout,
            trainable biases, modules to save, rank patterns).
        ModelError: No `nn.Linear` of the model matches the targets.
    """

    def __init__(self, base: Base, size: int, *, lora: Any = None, seed: int = 0, onednn: bool | None = None) -> None:
        if size < 1:
            raise ConfigError(f"`population` must be at least 1. Found population={size}.")
        self.base = base
        self.lora = default_lora_config() if lora is None else lora
        _check_lora(self.lora)
        self.size = size
        self.served = ServedAdapters()
        self._originals: list[tuple[nn.Module, str, nn.Module]] = []
        self._requires_grad = [(p, p.requires_grad) for p in base.model.parameters()]
        targets = _find_targets(base.model, self.lora)
        base.model.requires_grad_(False)
        self.attention = PopulationAttention(base.model)
        self.drivable: bool | None = None
        self.read: tuple[Any, Any] | None = None
        if onednn is None:
            onednn = base.device.type == "cpu" and onednn_works(base.dtype) and room_for_packed(base.model)
        self.blocks: list[_Block] = []
        offset, r = 0, int(self.lora.r)
        scaling = self.lora.lora_alpha / (math.sqrt(r) if self.lora.use_rslora else r)
        for name, linear in targets:
            layer = PopulationLinear(linear, self.served, scaling, packed=onednn)
            self._replace(name, layer)
            self.blocks.append(_Block(name, layer, offset, r))
            offset = self.blocks[-1].stop
        wrapped = {id(block.layer.linear) for block in self.blocks}
        for name, module in list(base.model.named_modules()):
            if type(module) is nn.Linear and id(module) not in wrapped:
                self._replace(name, FrozenLinear(module, packed=onednn))
            elif (norm := FrozenNorm.of(module)) is not None:
                self._replace(name, norm)
        self.parameters = torch.zeros(size, offset, device=base.device)
        self.grad = torch.zeros_like(self.parameters)
        for slot in range(size):
            self.parameters[slot] = self.fresh(seed + slot)
        self._rows: Tensor | None = None
        self._gradients = self.grad
        self._head: Head | ModelError
        try:
            self._head = Head(base, self.served)
        except ModelError as error:
            self._head = error  # sampling can do without

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
        """M, trainable parameters a policy."""
        return self.parameters.shape[1]

    def fresh(self, seed: int) -> Tensor:
        """A new policy `[M]`: A as in PEFT (Kaiming uniform), B zero, hence exactly the reference policy."""
        generator = torch.Generator().manual_seed(seed)
        row = torch.zeros(1, self.parameters.shape[1])
        for block in self.blocks:
            a, _ = block.split(row)
            bound = 1 / math.sqrt(a.shape[-1])  # kaiming_uniform_ with a = sqrt(5)
            a.copy_((torch.rand(a.shape, generator=generator) * 2 - 1) * bound)
        return row[0].to(self.parameters.device)

    def snapshot(self, slot: int) -> Tensor:
        """A copy `[M]` of one policy on the CPU, float32."""
        return self.parameters[slot].detach().to("cpu", copy=True)

    @torch.no_grad()
    def load(self, slot: int, row: Tensor) -> None:
        """Put a policy `[M]` into a slot."""
        self.parameters[slot].copy_(row)

    @contextmanager
    def serving(
        self, rows: Tensor | None = None, *, training: bool = False, gradients: Tensor | None = None
    ) -> Iterator[None]:
        """Within this context the model runs the policies `rows` `[k, M]`, batch rows grouped by policy.

        Args:
            rows: Any policies; by default all slots of the population.
            training: Let backward passes add to the gradients; only for the whole population.
            gradients: Where they are added: `[K, M]`, by default `grad`, or `[K, S, M]` for S weighted sums of tokens
                (`ServedAdapters.streams`).
        """
        rows = self.parameters if rows is None else rows
        if training and rows is not self.parameters:
            raise ValueError("Only the population's own slots can be trained.")
        before = (self._rows, self.served.training, self._gradients)
        self._serve(rows, training, self.grad if gradients is None else gradients)
        try:
            yield
        finally:
            self._serve(*before)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within this context the model is the frozen base alone, for any number of rows."""
        before = (self._rows, self.served.training, self._gradients)
        self._serve(None, False, self._gradients)
        try:
            yield
        finally:
            self._serve(*before)

    def _serve(self, rows: Tensor | None, training: bool, gradients: Tensor) -> None:
        if rows is not None:
            self._fill(rows, gradients)
        self._rows, self._gradients = rows, gradients
        self.served.count, self.served.training = 0 if rows is None else rows.shape[0], training
        self.served.gradient_scale = 1.0

    @torch.no_grad()
    def _fill(self, rows: Tensor, gradients: Tensor) -> None:
        """Copy rows `[k, M]` into dense per-layer blocks `[k, r, in]`, `[k, out, r]` of the model's dtype."""
        for block in self.blocks:
            layer = block.layer
            dtype, device = layer.linear.weight.dtype, layer.linear.weight.device
            if not dtype.is_floating_point:  # a quantised base computes in the model's own dtype
                dtype = self.base.dtype
            a, b = (part.to(device=device, dtype=dtype, copy=True).contiguous() for part in block.split(rows))
            layer.a, layer.b = a.requires_grad_(), b.requires_grad_()
            layer.grad_a, layer.grad_b = block.split(gradients) if rows is self.parameters else (None, None)

    def adapter_tensors(self, row: Tensor) -> dict[str, Tensor]:
        """One policy `[M]` under PEFT's key names, float32 and contiguous."""
        tensors: dict[str, Tensor] = {}
        for block in self.blocks:
            a, b = block.split(row.detach().to("cpu", torch.float32).unsqueeze(0))
            tensors[f"base_model.model.{block.name}.lora_A.weight"] = a[0].contiguous().clone()
            tensors[f"base_model.model.{block.name}.lora_B.weight"] = b[0].contiguous().clone()
        return tensors

    def save_adapter(self, row: Tensor, folder: Path) -> None:
        """Write one policy `[M]` as a stock PEFT LoRA folder that loads without this package."""
        from peft import LoraConfig
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        config = LoraConfig(**{k: v for k, v in self.lora.to_dict().items() if k in LoraConfig.__dataclass_fields__})
        config.base_model_name_or_path = getattr(self.base.model.config, "_name_or_path", None) or self.base.name
        # the layers actually adapted, by their last name where that is unambiguous: what PEFT itself writes
        config.target_modules = _short_targets([block.name for block in self.blocks], self.base.model)
        config.inference_mode = True
        folder.mkdir(parents=True, exist_ok=True)
        try:
            save_file(self.adapter_tensors(row), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, say
            raise OSError(str(error)) from error
        config.save_pretrained(str(folder))

    def read_adapter(self, folder: Path) -> Tensor:
        """Read a stock PEFT LoRA folder of this base as one policy `[M]`.

        A smaller rank, of the whole adapter or of single layers, is padded with zeros, which trains and serves as the
        original does: where A and B are both zero, so are their gradients.

        Raises:
            FrontFileError: The folder is no LoRA adapter of this model's layers, or its rank is larger than ours.
        """
        from peft import LoraConfig
        from peft.utils.other import get_pattern_key
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            config = LoraConfig.from_pretrained(str(folder))
            tensors = load_file(folder / WEIGHTS_FILE)
        except (OSError, ValueError, SafetensorError) as error:
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
                    (config.rank_pattern, config.r),
                    (config.alpha_pattern, config.lora_alpha),
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

    def close(self) -> None:
        """Put the model's own layers, attention and `requires_grad` flags back."""
        for parent, child, module in reversed(self._originals):
            setattr(parent, child, module)
        self._originals.clear()
        self.attention.restore()
        for parameter, flag in self._requires_grad:
            parameter.requires_grad_(flag)
        self._requires_grad.clear()

    def _replace(self, name: str, module: nn.Module) -> None:
        parent_name, _, child = name.rpartition(".")
        parent = self.base.model.get_submodule(parent_name)
        self._originals.append((parent, child, getattr(parent, child)))
        setattr(parent, child, module)


def _check_lora(lora: Any) -> None:
    """Refuse by name what stacked slots cannot do."""
    from peft import LoraConfig

    if not isinstance(lora, LoraConfig):
        raise ConfigError(f"`lora` must be a peft.LoraConfig. Found a {type(lora).__name__}.")
    if getattr(lora, "r", 0) < 1:
        raise ConfigError(f"The LoRA rank must be at least 1. Found r={getattr(lora, 'r', None)}.")
    refused = {
        "use_dora": lora.use_dora,
        "lora_bias": lora.lora_bias,
        "lora_dropout": lora.lora_dropout,
        "modules_to_save": lora.modules_to_save,
        "rank_pattern": lora.rank_pattern,
        "alpha_pattern": lora.alpha_pattern,
        "trainable_token_indices": lora.trainable_token_indices,
        "target_parameters": lora.target_parameters,
    }
    for name, value in refused.items():
        if value:
            raise ConfigError(
                f"LoraConfig({name}={value!r}) cannot be trained as a population. Leave it at its default."
            )
    if lora.bias != "none":
        raise ConfigError(f"LoraConfig(bias={lora.bias!r}) cannot be trained as a population. Use bias='none'.")


def _find_targets(model: nn.Module, lora: Any) -> list[tuple[str, nn.Linear]]:
    """The `nn.Linear` layers that PEFT's own rules select, in the model's order."""
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as BY_MODEL_TYPE

    config = lora
    head = model.get_output_embeddings()  # type: ignore[operator]
    if config.target_modules is None:
        import copy

        config = copy.copy(lora)
        config.target_modules = BY_MODEL_TYPE.get(model.config.model_type, list(ATTENTION_PROJECTIONS))  # type: ignore[union-attr, arg-type]
    everything = config.target_modules == "all-linear"
    found: list[tuple[str, nn.Linear]] = []
    refused: list[str] = []
    for name, module in model.named_modules():
        if module is head or not name or isinstance(module, nn.ModuleList):
            continue
        hit = isinstance(module, nn.Linear) if everything else check_target_module_exists(config, name)
        if not hit:
            continue
        if isinstance(module, nn.Linear):
            found.append((name, module))
        else:
            refused.append(f"{name} ({type(module).__name__})")
    kinds = sorted({type(m).__name__ for m in model.modules() if type(m).__name__ in ("Conv1D", "Conv1d")})
    if not found:
        hint = f" Its layers are {kinds[0]}, which cannot carry a population." if kinds else ""
        names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
        if names and not refused:
            hint += f" Its linear layers are {', '.join(names)}."
        raise ModelError(
            f"{type(model).__name__} has no nn.Linear that matches target_modules={config.target_modules!r}.{hint}"
            + (f" Matching but not nn.Linear: {refused[0]}." if refused else "")
        )
    if any(".experts." in name for name, _ in found):
        raise ModelError(
            "Targets inside mixture-of-experts layers cannot be trained as a population: tokens are reordered."
        )
    return found


def _short_targets(names: Sequence[str], model: nn.Module) -> list[str]:
    """Last names of the adapted layers if those select exactly these layers, else their full names."""
    last = sorted({name.rpartition(".")[2] for name in names})
    linear = [n for n, m in model.named_modules() if isinstance(m, PopulationLinear | FrozenLinear)]
    return last if {n for n in linear if n.rpartition(".")[2] in last} == set(names) else list(names)
