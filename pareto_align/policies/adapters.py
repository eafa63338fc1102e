"""Adapter folders onto a base model, by stock PEFT.

PEFT reads the weights of a folder and nothing else: its config comes from `read_lora_config`. An adapter that is on the
model already is known by its weights and its settings, never by its name, since members of all fronts are called alike.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pareto_align.errors import FrontFileError, ModelError
from pareto_align.policies.lora_config import WEIGHTS_FILE, read_lora_config
from pareto_align.policies.tensors import read_tensors

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

__all__ = ["put_on"]

OURS = "_pareto_align_member"  # marks the config of an adapter that was loaded here


def put_on(model: Any, folder: Path, name: str) -> PeftModel:
    """A model with the adapter of a folder on it, switched to that adapter, in eval mode.

    Args:
        model: A base model, or a `PeftModel`, which takes the adapter beside those it has. One of the same name that
            was loaded here from another file gives way; one that was not is left alone.
        folder: A PEFT folder.
        name: What the adapter is to be called; `model.active_adapter` says what it is.

    Raises:
        FrontFileError: The folder cannot be read, or its config says something that is not known.
        ModelError: The adapter does not fit the model.
    """
    from peft import PeftModel, get_peft_model

    config, tensors = read_lora_config(folder), _tensors(folder)
    setattr(config, OURS, _settings(config))
    adapter = name.replace(".", "-")  # a module's name may not contain a dot, and adapters are modules
    bare = not isinstance(model, PeftModel)
    if not bare:
        adapter = _free_name(model, adapter, config, tensors)
    if bare or adapter not in model.peft_config:
        try:
            if bare:
                _take_hooks_off(model)
                with warnings.catch_warnings():  # PEFT asks by a name that transformers is about to drop
                    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
                    model = get_peft_model(model, config, adapter_name=adapter)
            else:
                model.add_adapter(adapter, config)
            missing = model.load_adapter(str(folder), adapter_name=adapter).missing_keys
            lacking = any(key.endswith(f".{adapter}.weight") for key in missing)  # others' are missing as well
            if lacking or len(_weights(model, adapter)) != len(tensors):
                raise ValueError("its tensors are not those of the layers that its config selects there")
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            _take_off(model, adapter, everything=bare)
            raise ModelError(f"The adapter in {folder} cannot be put on this base model: {error}") from error
    model.set_adapter(adapter)
    return model.eval()


def _take_hooks_off(model: nn.Module) -> None:
    """Let go of a partly offloaded model as `PeftModel.from_pretrained` does; PEFT places it anew afterwards."""
    if {"cpu", "disk"} & set((getattr(model, "hf_device_map", None) or {}).values()):
        from accelerate.hooks import remove_hook_from_submodules

        remove_hook_from_submodules(model)


def _take_off(model: Any, adapter: str, *, everything: bool) -> None:
    """Leave a model as it was before an adapter that does not fit."""
    if everything:
        from peft import PeftModel

        if isinstance(model, PeftModel):
            model.unload()
    elif adapter in model.peft_config:
        _delete(model, adapter)


def _delete(model: PeftModel, adapter: str) -> None:
    with warnings.catch_warnings():  # which adapter is active meanwhile matters to nobody
        warnings.simplefilter("ignore")
        model.delete_adapter(adapter)


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(folder / WEIGHTS_FILE)
    except OSError as error:
        raise FrontFileError(f"Cannot read the adapter in {folder}: {error}") from error


def _settings(config: LoraConfig) -> tuple[Any, ...]:
    """What an adapter's weights mean."""
    patterns = (sorted((pattern or {}).items()) for pattern in (config.rank_pattern, config.alpha_pattern))
    return config.r, config.lora_alpha, config.use_rslora, config.alora_invocation_tokens, *patterns


def _weights(model: PeftModel, adapter: str) -> dict[str, Tensor]:
    """The A and B of an adapter on a model, under the names that PEFT saves them by."""
    from peft.tuners.lora import LoraLayer

    return {
        f"{name}.{part}.weight": getattr(layer, part)[adapter].weight
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
        for part in ("lora_A", "lora_B")
        if adapter in getattr(layer, part)
    }


def _free_name(model: PeftModel, adapter: str, config: LoraConfig, tensors: dict[str, Tensor]) -> str:
    """The name under which the adapter is on the model already, or one that is free for it."""
    stem, count = adapter, 1
    while adapter in model.peft_config:
        held = model.peft_config[adapter]
        weights = _weights(model, adapter)
        if getattr(held, OURS, None) == _settings(config) and _equal(weights, tensors):
            return adapter
        if hasattr(held, OURS):
            _delete(model, adapter)
            return adapter
        count += 1
        adapter = f"{stem}-{count}"
    return adapter


def _equal(weights: dict[str, Tensor], tensors: dict[str, Tensor]) -> bool:
    return weights.keys() == tensors.keys() and all(
        torch.equal(weights[name].detach().cpu(), tensor.to(weights[name].dtype)) for name, tensor in tensors.items()
    )
